package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"weir/gateway/lease"
	"weir/gateway/provider"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	// maxTags, maxTagName and maxTagValue bound what clients add to analytics.
	maxTags     = 8
	maxTagName  = 32
	maxTagValue = 64

	tagPrefix = "X-Weir-Tag-"
)

// leakagePauseS and budgetPauseS are when trying again may help: an hour slides
// by the minute, and a day's budget comes back when others are answered.
const (
	leakagePauseS = 60
	budgetPauseS  = 60
)

// reserve reads the request, bounds its price and sets the bound aside. After
// it has returned nil the intent is written.
func (g *Gateway) reserve(ctx *fasthttp.RequestCtx, c *call) *refusal {
	if c.who.customer.Status == ledger.Frozen {
		return frozen()
	}
	if g.Spool.Level() == stream.LevelFull {
		return spoolFull(nil)
	}
	if g.leakage.exceeded(c.who.customer.ID, c.start) {
		return &refusal{status: http.StatusTooManyRequests, code: "leakage_limit", retryAfter: leakagePauseS,
			message: "Too many of your recent requests ended without an answer from the provider. Slow down and try again in a minute."}
	}
	body, no := g.receive(ctx, c)
	if no != nil {
		return no
	}
	defer keep(body)
	if no := g.read(ctx, c, body.Bytes()); no != nil {
		return no
	}
	if no := g.price(c); no != nil {
		return no
	}
	bound, no := g.bound(c)
	if no != nil {
		return no
	}
	if no := g.limits.admit(c, bound.Price); no != nil {
		g.budgets.giveAll(c.budget)
		return no
	}
	var err error
	if c.reservation, err = g.Book.Reserve(context.Background(), c.who.customer.ID, bound.Price); err != nil {
		g.limits.giveBack(c)
		g.budgets.giveAll(c.budget)
		return notReserved(err, bound.Price)
	}
	c.reserved = true
	c.body = c.scan.Rewrite(nil, body.Bytes(), limitField(c.model), c.limit, c.route.upstream.StreamUsage)
	c.describe()
	c.rec.Reserved = bound.Price
	if err := g.Book.Intend(c.reservation, &c.rec); err != nil {
		c.abandon()
		return spoolFull(err)
	}
	c.intended = true
	g.inFlight.Add(1)
	setAmount(ctx, headerReserved, bound.Price)
	return nil
}

// read scans the body and the headers that bear cost or become dimensions.
func (g *Gateway) read(ctx *fasthttp.RequestCtx, c *call, body []byte) *refusal {
	header := &ctx.Request.Header
	if len(header.Peek("Content-Encoding")) > 0 {
		return &refusal{status: http.StatusUnsupportedMediaType, code: "encoded_body",
			message: "Send the body without Content-Encoding: what cannot be read cannot be priced."}
	}
	for name, value := range header.All() {
		if len(name) >= len(tagPrefix) && string(name[:len(tagPrefix)]) == tagPrefix {
			if wrong := c.tag(strings.ToLower(string(name[len(tagPrefix):])), string(value)); wrong != "" {
				return &refusal{status: http.StatusBadRequest, code: "invalid_tag", message: wrong}
			}
		}
	}
	api := c.route.api
	if api.Features != "" {
		for _, value := range header.PeekAll(api.Features) {
			if err := api.RefuseHeader(api.Features, string(value)); err != nil {
				return refusedBy(err)
			}
		}
	}
	if err := api.Scan(body, &c.scan); err != nil {
		return refusedBy(err)
	}
	c.scan.Model = strings.Clone(c.scan.Model) // it lies in the body
	return nil
}

// refusedBy answers with what the provider's tables say.
func refusedBy(err error) *refusal {
	var r *provider.Refusal
	if errors.As(err, &r) {
		return &refusal{status: r.Status, code: r.Code, message: r.Message}
	}
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", message: "The request cannot be read.", cause: err}
}

// tag adds one dimension, or says what is wrong with it.
func (c *call) tag(name, value string) string {
	if len(c.rec.Tags) == maxTags {
		return fmt.Sprintf("At most %d %s headers are taken.", maxTags, tagPrefix+"*")
	}
	if slices.ContainsFunc(c.rec.Tags, func(t usage.Tag) bool { return t.Key == name }) {
		return fmt.Sprintf("The tag %.40q is there twice.", name)
	}
	ok := name != "" && len(name) <= maxTagName && len(value) <= maxTagValue && utf8.ValidString(value)
	for _, b := range []byte(name) {
		ok = ok && (b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '_')
	}
	for _, b := range []byte(value) {
		ok = ok && b >= ' ' && b != 0x7f
	}
	if !ok {
		return fmt.Sprintf("The tag %.40q is not valid: its name is a-z, 0-9 and _ (1 to %d of them), its value at most %d bytes of text.", name, maxTagName, maxTagValue)
	}
	c.rec.Tags = append(c.rec.Tags, usage.Tag{Key: name, Value: value})
	return ""
}

// describe fills the record with everything known at admission.
func (c *call) describe() {
	r := &c.rec
	r.Customer, r.Gateway, r.TimeMs = c.who.customer.ID, c.g.ID, c.start.UnixMilli()
	r.RequestID, r.KeyID = c.id, c.who.key.ID
	r.Provider, r.API, r.Model = c.route.upstream.Name, c.route.api.Name, c.scan.Model
	r.ModelBilled = r.Model
	r.Plan, r.Rule = c.who.customer.Plan, c.rule.Name()
	r.CostCard, r.PriceCard, r.Currency = c.card.CostHash(), c.card.PriceHash(), Currency
	r.Stream = c.scan.Stream
}

func frozen() *refusal {
	return &refusal{status: http.StatusForbidden, code: "wallet_frozen", message: "The wallet is frozen. Ask the platform to release it."}
}

func spoolFull(err error) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, code: "spool_full", retryAfter: 2, cause: err,
		message: "Usage cannot be recorded right now, so nothing is served. Try again shortly."}
}

// notReserved turns a failed reservation into its answer. Money that is only
// held comes back by itself, so that is 429; money that is not there is 402;
// a ledger that does not answer is neither.
func notReserved(err error, required money.Nano) *refusal {
	var short *ledger.InsufficientError
	switch {
	case errors.As(err, &short):
		w := short.Wallet
		r := &refusal{funds: &provider.Funds{Required: required, Available: w.Available(), Held: w.Held}}
		if required > w.Spendable() {
			r.status, r.code, r.reason = http.StatusPaymentRequired, "insufficient_funds", "request_exceeds_balance"
			if w.Available() <= 0 && w.Held == 0 {
				r.reason = "balance_exhausted"
			}
			r.message = fmt.Sprintf("Insufficient balance: this request needs up to $%s, $%s is there. Add credit or lower the output limit.", required, w.Spendable())
			return r
		}
		r.status, r.code, r.reason, r.retryAfter = http.StatusTooManyRequests, "funds_held", "held_by_in_flight", 1
		r.message = fmt.Sprintf("This request needs up to $%s; $%s is available now and $%s is held by requests in flight. Try again shortly.", required, w.Available(), w.Held)
		return r
	case errors.Is(err, ledger.ErrFrozen):
		return frozen()
	case errors.Is(err, lease.ErrNoNewLeases):
		return spoolFull(err)
	case errors.Is(err, lease.ErrStopping):
		return stopping()
	default:
		return ledgerAway(err)
	}
}

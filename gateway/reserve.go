package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/valyala/fasthttp"

	"weir/gateway/lease"
	"weir/gateway/provider"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	// fitFloor is the least output limit that weir puts into a request on its
	// own: below it answers get useless, and a refusal that says what is
	// missing serves better.
	fitFloor = 1024
	// maxTags, maxTagName and maxTagValue bound what clients add to analytics.
	maxTags     = 8
	maxTagName  = 32
	maxTagValue = 64

	tagPrefix = "X-Weir-Tag-"
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
		return &refusal{status: http.StatusTooManyRequests, code: "leakage_limit", retryAfter: 60,
			message: "Too many of your recent requests ended without an answer from the provider. Slow down and try again in a minute."}
	}
	if no := g.read(ctx, c); no != nil {
		return no
	}
	if no := g.price(ctx, c); no != nil {
		return no
	}
	bound, no := g.bound(ctx, c)
	if no != nil {
		return no
	}
	var err error
	if c.reservation, err = g.Book.Reserve(ctx, c.who.customer.ID, bound.Price); err != nil {
		g.budgets.giveAll(c.budget, c.rule)
		return notReserved(err, bound.Price)
	}
	c.reserved = true
	c.body = c.scan.Rewrite(nil, ctx.Request.Body(), limitField(c.model), c.limit, c.route.upstream.StreamUsage)
	c.describe()
	c.rec.Reserved = bound.Price
	if err := g.Book.Intend(c.reservation, &c.rec); err != nil {
		g.Book.Void(c.reservation)
		c.reserved = false
		return spoolFull(err)
	}
	c.intended = true
	setAmount(ctx, headerReserved, bound.Price)
	return nil
}

// read scans the body and the headers that bear cost or become dimensions.
func (g *Gateway) read(ctx *fasthttp.RequestCtx, c *call) *refusal {
	header := &ctx.Request.Header
	if len(header.Peek("Content-Encoding")) > 0 {
		return &refusal{status: http.StatusUnsupportedMediaType, code: "encoded_body",
			message: "Send the body without Content-Encoding: what cannot be read cannot be priced."}
	}
	for name, value := range header.All() {
		if len(name) > len(tagPrefix) && string(name[:len(tagPrefix)]) == tagPrefix {
			if wrong := c.tag(strings.ToLower(string(name[len(tagPrefix):])), string(value)); wrong != "" {
				return &refusal{status: http.StatusBadRequest, code: "invalid_tag", message: wrong}
			}
		}
	}
	api := c.route.api
	for _, value := range header.PeekAll(api.Features) {
		if err := api.RefuseHeader(api.Features, string(value)); err != nil {
			return refusedBy(err)
		}
	}
	if err := api.Scan(ctx.Request.Body(), &c.scan); err != nil {
		return refusedBy(err)
	}
	c.scan.Model = strings.Clone(c.scan.Model)
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
	ok := len(name) <= maxTagName && len(value) <= maxTagValue
	for _, b := range []byte(name) {
		ok = ok && (b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '_')
	}
	for _, b := range []byte(value) {
		ok = ok && b >= ' ' && b != 0x7f
	}
	if !ok {
		return fmt.Sprintf("The tag %.40q is not valid: its name is a-z, 0-9 and _ (at most %d), its value at most %d bytes.", name, maxTagName, maxTagValue)
	}
	c.rec.Tags = append(c.rec.Tags, usage.Tag{Key: name, Value: value})
	return ""
}

// price finds what prices this call: card and model.
func (g *Gateway) price(ctx *fasthttp.RequestCtx, c *call) *refusal {
	asked, up := c.scan.Model, c.route.upstream
	if !allowed(c.who.key.Models, up.Name, asked) {
		return &refusal{status: http.StatusForbidden, code: "model_not_allowed",
			message: fmt.Sprintf("This key may not use the model %q.", asked)}
	}
	c.card = g.Cards.Current(c.start)
	if c.card == nil {
		return ledgerAway(errors.New("no rate card is in force"))
	}
	if c.model = c.card.Model(up.Name, asked); c.model == nil {
		return &refusal{status: http.StatusUnprocessableEntity, code: "unpriced_model",
			message: fmt.Sprintf("The model %q has no price here, so it is not served. GET /%s/v1/models lists what is.", asked, up.Name)}
	}
	return nil
}

// allowed tells whether a key's list lets it use a model; no list lets all.
// Entries are `provider/model` or a bare model, with `*` at the end allowed.
func allowed(list []string, providerName, model string) bool {
	for _, entry := range list {
		if p, rest, qualified := strings.Cut(entry, "/"); qualified && p == providerName {
			entry = rest
		}
		if prefix, star := strings.CutSuffix(entry, "*"); entry == model || star && strings.HasPrefix(model, prefix) {
			return true
		}
	}
	return len(list) == 0
}

// bound finds the most that the call can cost and charge: it chooses the
// output limit where the client left it out, and the rule whose budget fits.
func (g *Gateway) bound(ctx *fasthttp.RequestCtx, c *call) (ratecard.Rated, *refusal) {
	m := c.model
	input := m.InputTokensMax(uint64(c.scan.TextBytes)) + uint64(c.scan.Messages)*m.MessageOverhead + uint64(c.scan.Tools)*m.ToolOverhead
	if m.Context > 0 {
		input = min(input, m.Context)
	}
	if m.PricedInput > 0 && input > m.PricedInput {
		return ratecard.Rated{}, &refusal{status: http.StatusUnprocessableEntity, code: "unpriced_option",
			message: fmt.Sprintf("This request may have %d input tokens; %q is priced here for at most %d. Send a shorter input.", input, m.Name, m.PricedInput)}
	}
	c.bounds[usage.Input] = input
	limit, no := g.outputLimit(c)
	if no != nil {
		return ratecard.Rated{}, no
	}
	rules := c.card.Rules(c.who.customer.ID, c.who.customer.Plan, c.route.upstream.Name, c.scan.Model)
	for _, rule := range rules {
		c.rule = rule
		bound, no := g.boundBy(ctx, c, limit)
		if no != nil {
			return bound, no
		}
		if taken, ok := g.budgets.take(ctx, rule, bound); ok {
			c.budget = taken
			return bound, nil
		}
	}
	return ratecard.Rated{}, &refusal{status: http.StatusTooManyRequests, code: "rate_limited", retryAfter: 60,
		message: "Today's budget for subsidised use of this model is spent."}
}

// outputLimit is the most tokens that one answer can have.
func (g *Gateway) outputLimit(c *call) (int64, *refusal) {
	if !c.route.generates {
		return 0, nil
	}
	m := c.model
	limit, most := c.scan.Limit, int64(m.MaxOutput)
	if most == 0 {
		most = int64(m.Context) // the card does not say: no answer is longer than the window
	}
	if !c.scan.HasLimit {
		if g.MissingMax == "refuse" || most == 0 {
			return 0, &refusal{status: http.StatusBadRequest, code: "invalid_request",
				message: "Set an output limit (" + limitField(m) + "): a request without one is not taken here."}
		}
		limit = most
	}
	if most > 0 {
		limit = min(limit, most)
	}
	return limit, nil
}

func limitField(m *ratecard.Model) string {
	if m.LimitField == "" {
		return "max_tokens"
	}
	return m.LimitField
}

// boundBy bounds the call under c.rule, fitting the limit into the wallet when
// the client set none.
func (g *Gateway) boundBy(ctx *fasthttp.RequestCtx, c *call, limit int64) (ratecard.Rated, *refusal) {
	at := func(limit int64) (ratecard.Rated, error) {
		c.bounds[usage.Output] = uint64(limit * c.scan.N)
		return ratecard.RateBound(c.card, ratecard.Rating{Provider: c.route.upstream.Name, Model: c.scan.Model, Rule: c.rule.Name(),
			Meters: c.bounds, CacheWrites: c.scan.CacheWrite5m || c.scan.CacheWrite1h})
	}
	c.limit = 0
	bound, err := at(limit)
	if err != nil {
		return bound, &refusal{status: http.StatusUnprocessableEntity, code: "unpriced_option", message: "This request cannot be priced: " + err.Error()}
	}
	if c.scan.HasLimit || !c.route.generates || g.MissingMax != "fit" {
		return bound, nil
	}
	available, err := g.Book.Available(ctx, c.who.customer.ID)
	if err == nil && bound.Price > available/2 {
		// What is known may be older than the last credit: ask before cutting.
		available, err = g.Book.Refresh(ctx, c.who.customer.ID)
	}
	if err != nil {
		return bound, notReserved(err, bound.Price)
	}
	if bound.Price <= available/2 {
		return bound, nil
	}
	low, high := int64(min(fitFloor, limit)), limit
	for low < high { // the largest limit whose bound fits in half
		middle := low + (high-low+1)/2
		if b, err := at(middle); err == nil && b.Price <= available/2 {
			low = middle
		} else {
			high = middle - 1
		}
	}
	c.limit = low
	bound, err = at(low)
	if err != nil {
		return bound, &refusal{status: http.StatusUnprocessableEntity, code: "unpriced_option", message: "This request cannot be priced: " + err.Error()}
	}
	return bound, nil
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
		if required > w.Balance() {
			r.status, r.code, r.reason = http.StatusPaymentRequired, "insufficient_funds", "request_exceeds_balance"
			if w.Available() <= 0 && w.Held == 0 {
				r.reason = "balance_exhausted"
			}
			r.message = fmt.Sprintf("Insufficient balance: this request needs up to $%s, $%s is there. Add credit or lower the output limit.", required, w.Balance())
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
		return &refusal{status: http.StatusServiceUnavailable, code: "stopping", retryAfter: 2, message: "This gateway is shutting down. Try again."}
	default:
		return ledgerAway(err)
	}
}

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/gateway/lease"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	// apiOutside is the api of usage that weir did not meter itself.
	apiOutside = "outside"
	// outsidePast and outsideFuture bound the time that a report may give: older
	// usage belongs to books that are closed, and clocks differ by minutes.
	outsidePast   = 90 * 24 * time.Hour
	outsideFuture = 5 * time.Minute
	// seenMax bounds the identities remembered, so that a report sent again is
	// answered without a record. The ledger bills it once in any case.
	seenMax = 100_000
)

// customerID is the form of a customer's id.
var customerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// outside serves the platform's own reports: usage that it ran elsewhere, and
// reservations for what it is about to run.
type outside struct {
	g *Gateway

	openCount atomic.Int64 // reservations whose result is not written

	mu    sync.Mutex // guards the following, not what lies in a held; taken after a held's
	seen  map[identityOutside]reportedView
	held  map[string]*held  // by reservation id
	byKey map[string]string // idempotency key → reservation id
}

// identityOutside is what a report is known by, at whatever gateway.
type identityOutside struct{ customer, source, id string }

func newOutside(g *Gateway) *outside {
	return &outside{g: g, seen: map[identityOutside]reportedView{}, held: map[string]*held{}, byKey: map[string]string{}}
}

// OutsideRoutes are the control plane's routes that take a lease and the spool
// of this gateway; they run behind the operator's authentication.
func (g *Gateway) OutsideRoutes() map[string]http.Handler {
	o := g.outside
	return map[string]http.Handler{
		"POST /api/v1/events":                   o.answering(o.report),
		"POST /api/v1/reservations":             o.answering(o.hold),
		"GET /api/v1/reservations/{id}":         o.answering(o.show),
		"POST /api/v1/reservations/{id}/settle": o.answering(o.settle),
		"POST /api/v1/reservations/{id}/void":   o.answering(o.void),
	}
}

// answering turns what a route returns into its answer.
func (o *outside) answering(h func(*http.Request) (status int, answer any, no *refusal)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, answer, no := h(r)
		if no != nil {
			o.refuse(w, no)
			return
		}
		writeOutside(w, status, answer)
	})
}

// refuse answers in the control plane's shape, with the funds of the data
// plane's errors.
func (o *outside) refuse(w http.ResponseWriter, no *refusal) {
	id := w.Header().Get(headerRequestID)
	if no.cause != nil {
		o.g.Log.Warn("request refused", "request_id", id, "code", no.code, "err", no.cause)
	}
	o.g.Metrics.Refused.WithLabelValues(no.code).Inc()
	if no.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(no.retryAfter))
	}
	type funds struct {
		Reason    string     `json:"reason"`
		Available money.Nano `json:"available"`
		Held      money.Nano `json:"held"`
		Required  money.Nano `json:"required"`
		Currency  string     `json:"currency"`
	}
	body := struct {
		Code      string `json:"code"`
		Message   string `json:"message"`
		RequestID string `json:"request_id"`
		Metadata  *funds `json:"metadata,omitempty"`
	}{Code: no.code, Message: no.message, RequestID: id}
	if f := no.funds; f != nil {
		body.Metadata = &funds{no.reason, f.Available, f.Held, f.Required, Currency}
	}
	writeOutside(w, no.status, map[string]any{"error": body})
}

func writeOutside(w http.ResponseWriter, status int, answer any) {
	body, err := json.Marshal(answer)
	if err != nil {
		panic("BUG: an answer that is no JSON: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body) // the client may have left, which is nobody's error
}

// reportedView is what a report is answered with.
type reportedView struct {
	ID        string     `json:"id"`
	Source    string     `json:"source"`
	RequestID string     `json:"request_id"`
	Price     money.Nano `json:"price"`
	Duplicate bool       `json:"duplicate"`
}

// report takes usage that was served elsewhere. All events of a request must
// be in order before one of them is taken; sending a request again is harmless.
func (o *outside) report(r *http.Request) (int, any, *refusal) {
	events, no := readReports(r)
	if no != nil {
		return 0, nil, no
	}
	now := time.Now()
	facts := make([]*fact, len(events))
	for i := range events {
		if facts[i], no = o.prepare(&events[i], now); no != nil {
			no.message = fmt.Sprintf("event %d: %s", i, no.message)
			return 0, nil, no
		}
	}
	answer := struct {
		Accepted   int            `json:"accepted"`
		Duplicates int            `json:"duplicates"`
		Events     []reportedView `json:"events"`
	}{Events: make([]reportedView, len(facts))}
	var last stream.Pos
	for i, f := range facts {
		var pos stream.Pos
		if answer.Events[i], pos, no = o.take(r.Context(), f); no != nil {
			return 0, nil, no
		}
		last = max(last, pos)
	}
	if err := o.g.Spool.WaitDurable(last); err != nil {
		return 0, nil, spoolFull(err)
	}
	for i, f := range facts {
		if answer.Events[i].Duplicate {
			answer.Duplicates++
		} else {
			answer.Accepted++
			o.remember(f.identity(), answer.Events[i])
		}
	}
	return http.StatusAccepted, answer, nil
}

// fact is one reported event, priced.
type fact struct {
	rec    usage.Record
	budget allowance
}

func (f *fact) identity() identityOutside {
	return identityOutside{f.rec.Customer, f.rec.Source, f.rec.ExternalID}
}

// prepare checks and prices one event.
func (o *outside) prepare(e *reported, now time.Time) (*fact, *refusal) {
	who, no := o.customer(e.Customer)
	if no != nil {
		return nil, no
	}
	f := &fact{}
	at := now
	if e.Time != nil {
		if at = *e.Time; at.Before(now.Add(-outsidePast)) || at.After(now.Add(outsideFuture)) {
			return nil, unprocessable("invalid_time", "time %s is more than 90 days ago or in the future", at.Format(time.RFC3339))
		}
	}
	p, no := o.price(who, &e.usage, at)
	if no != nil {
		return nil, no
	}
	f.rec = p.rec
	f.rec.Source, f.rec.ExternalID = e.Source, e.ID
	f.rec.RequestID = newRequestID()
	rated, no := p.choose(o.g, now, func(rule string) (ratecard.Rated, error) {
		return ratecard.Rate(p.card, p.rating(rule, f.rec.Meters))
	}, true)
	if no != nil {
		return nil, no
	}
	f.rec.Rule, f.budget = p.rule, p.budget
	f.rec.ModelBilled, f.rec.Cost, f.rec.Price, f.rec.Reserved = rated.ModelBilled, rated.Cost, rated.Price, rated.Price
	return f, nil
}

// take writes one fact. It is never refused for want of money: then it goes
// under a lease of nothing, and what the wallet does not cover is owed.
func (o *outside) take(ctx context.Context, f *fact) (reportedView, stream.Pos, *refusal) {
	view := reportedView{ID: f.rec.ExternalID, Source: f.rec.Source, RequestID: f.rec.RequestID, Price: f.rec.Price}
	if before, known := o.known(f.identity()); known {
		o.g.budgets.giveAll(f.budget)
		before.Duplicate = true
		return before, 0, nil
	}
	book := o.g.Book
	r, err := book.Reserve(ctx, f.rec.Customer, f.rec.Price)
	if err != nil && !errors.Is(err, lease.ErrStopping) && !errors.Is(err, lease.ErrNoNewLeases) {
		r, err = book.Ungranted(f.rec.Customer)
	}
	var pos stream.Pos
	if err == nil {
		f.rec.Kind, f.rec.Row, f.rec.Status = usage.KindUsage, usage.RowUsage, usage.StatusOK
		pos, err = book.Report(r, &f.rec)
	}
	if err != nil {
		o.g.budgets.giveAll(f.budget)
		return view, 0, notReserved(err, f.rec.Price)
	}
	o.g.budgets.give(f.budget, &f.rec)
	o.g.Metrics.observe(&f.rec)
	return view, pos, nil
}

func (o *outside) known(id identityOutside) (reportedView, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.seen[id]
	return v, ok
}

// remember keeps the answer of a report whose record is durable.
func (o *outside) remember(id identityOutside, v reportedView) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.seen) >= seenMax {
		clear(o.seen)
	}
	o.seen[id] = v
}

// customer finds who pays.
func (o *outside) customer(id string) (*ledger.Customer, *refusal) {
	if !customerID.MatchString(id) {
		return nil, unprocessable("unknown_customer", "customer %.70q is no customer's id", id)
	}
	c, err := o.g.directory.customer(id)
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		return nil, &refusal{status: http.StatusNotFound, code: "unknown_customer", message: fmt.Sprintf("There is no customer %q.", id)}
	case err != nil:
		return nil, ledgerAway(err)
	}
	return c, nil
}

// priced is usage on its way to a price: the record as far as it is known, the
// card, and then the rule.
type priced struct {
	rec    usage.Record
	card   *ratecard.Card
	who    *ledger.Customer
	rule   string
	budget allowance
}

// price finds card and model of what was used, and begins its record.
func (o *outside) price(who *ledger.Customer, u *usageBody, at time.Time) (*priced, *refusal) {
	g := o.g
	card := g.Cards.Current(time.Now())
	if card == nil {
		return nil, ledgerAway(errors.New("no rate card is in force"))
	}
	name, model := u.Provider, u.Model
	if p, rest, both := strings.Cut(model, "/"); name == "" && both {
		name, model = p, rest
	}
	if card.Model(name, model) == nil {
		return nil, unprocessable("unpriced_model", "the model %.200q of provider %.64q has no price here", model, name)
	}
	p := &priced{card: card, who: who}
	rec := &p.rec
	rec.Customer, rec.Gateway, rec.TimeMs = who.ID, g.ID, at.UnixMilli()
	rec.Provider, rec.API, rec.Model, rec.ModelBilled, rec.Plan = name, apiOutside, model, model, who.Plan
	rec.CostCard, rec.PriceCard, rec.Currency = card.CostHash(), card.PriceHash(), Currency
	var no *refusal
	if rec.Meters, no = u.meters(); no != nil {
		return nil, no
	}
	c := call{}
	for _, key := range sortedKeys(u.Tags) {
		if wrong := c.tag(key, u.Tags[key]); wrong != "" {
			return nil, &refusal{status: http.StatusBadRequest, code: "invalid_tag", message: wrong}
		}
	}
	rec.Tags = c.rec.Tags
	return p, nil
}

func (p *priced) rating(rule string, meters usage.Quantities) ratecard.Rating {
	return ratecard.Rating{Provider: p.rec.Provider, Model: p.rec.Model, Rule: rule, Meters: meters}
}

// choose takes the most specific rule whose daily budget still has room. A fact
// has happened, so that the last rule takes it even without.
func (p *priced) choose(g *Gateway, now time.Time, rate func(rule string) (ratecard.Rated, error), happened bool) (ratecard.Rated, *refusal) {
	rules := p.card.Rules(p.who.ID, p.who.Plan, p.rec.Provider, p.rec.Model)
	for i, rule := range rules {
		rated, err := rate(rule.Name())
		if err != nil {
			return rated, unpriced(err)
		}
		taken, ok := g.budgets.take(rule, rated, now)
		if ok || happened && i == len(rules)-1 {
			p.rule, p.budget = rule.Name(), taken
			return rated, nil
		}
	}
	return ratecard.Rated{}, &refusal{status: http.StatusTooManyRequests, code: "rate_limited", retryAfter: budgetPauseS,
		message: "Today's budget for subsidised use of this model is spent."}
}

func unprocessable(code, format string, args ...any) *refusal {
	return &refusal{status: http.StatusUnprocessableEntity, code: code, message: fmt.Sprintf(format, args...)}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

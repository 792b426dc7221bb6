package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"weir/schemas/money"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

// fitFloor is the least output limit that weir puts into a request on its
// own: below it answers get useless, and a refusal that says what is
// missing serves better.
const fitFloor = 1024

// price finds what prices this call: card and model.
func (g *Gateway) price(c *call) *refusal {
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
func (g *Gateway) bound(c *call) (ratecard.Rated, *refusal) {
	m := c.model
	input := m.InputTokensMax(uint64(c.scan.TextBytes)) + uint64(c.scan.Messages)*m.MessageOverhead + uint64(c.scan.Tools)*m.ToolOverhead
	if m.Context > 0 && c.route.generates { // an embedding model's is that of one input of many
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
	for _, rule := range c.card.Rules(c.who.customer.ID, c.who.customer.Plan, c.route.upstream.Name, c.scan.Model) {
		c.rule = rule
		bound, no := g.boundBy(c, limit)
		if no != nil {
			return bound, no
		}
		if taken, ok := g.budgets.take(rule, bound, c.start); ok {
			c.budget = taken
			return bound, nil
		}
	}
	return ratecard.Rated{}, &refusal{status: http.StatusTooManyRequests, code: "rate_limited", retryAfter: budgetPauseS,
		message: "Today's budget for subsidised use of this model is spent."}
}

// outputLimit is the most tokens that one answer can have. A limit that the
// client left out is the model's maximum, or what its window leaves beside the
// input; boundBy may lower it.
func (g *Gateway) outputLimit(c *call) (int64, *refusal) {
	if !c.route.generates {
		return 0, nil
	}
	m := c.model
	most := int64(m.MaxOutput)
	if most == 0 {
		most = int64(m.Context) // the card does not say: no answer is longer than the window
	}
	switch {
	case c.scan.HasLimit && m.Context > 0:
		return min(c.scan.Limit, int64(m.Context)), nil // MaxOutput is no bound: some features raise it
	case c.scan.HasLimit:
		return c.scan.Limit, nil
	case g.MissingMax == missingRefuse || most == 0:
		return 0, &refusal{status: http.StatusBadRequest, code: "invalid_request",
			message: "Set an output limit (" + limitField(m) + "): a request without one is not taken here."}
	}
	if room := int64(m.Context) - int64(c.bounds[usage.Input]); m.Context > 0 && room < most {
		most = min(most, max(room, fitFloor))
	}
	return most, nil
}

func limitField(m *ratecard.Model) string {
	if m.LimitField == "" {
		return "max_tokens"
	}
	return m.LimitField
}

// boundBy bounds the call under c.rule. Where the client set no limit it
// decides the one that is put in, fitting it into the wallet and the limits if so
// configured.
func (g *Gateway) boundBy(c *call, limit int64) (ratecard.Rated, *refusal) {
	bound, err := c.boundAt(limit)
	if err != nil {
		return bound, unpriced(err)
	}
	if c.scan.HasLimit || !c.route.generates {
		return bound, nil
	}
	c.limit = limit
	if g.MissingMax != missingFit {
		return bound, nil
	}
	room, err := g.room(c, bound.Price)
	if err != nil {
		return bound, notReserved(err, bound.Price)
	}
	if room.holds(c, bound) {
		return bound, nil
	}
	low, high := min(fitFloor, limit), limit
	for low < high { // the largest limit whose bound fits
		middle := low + (high-low+1)/2
		if b, err := c.boundAt(middle); err == nil && room.holds(c, b) {
			low = middle
		} else {
			high = middle - 1
		}
	}
	c.limit = low
	if bound, err = c.boundAt(low); err != nil {
		return bound, unpriced(err)
	}
	return bound, nil
}

// room is what one request without an output limit of its own may take: half of
// what is left, so that another one can run beside it.
type room struct {
	price  money.Nano
	tokens int64
}

// room looks at the wallet and at the limits of key and customer. Before the
// wallet cuts the request short the ledger is asked, since what is known here
// may be older than the last credit.
func (g *Gateway) room(c *call, need money.Nano) (room, error) {
	customer := c.who.customer.ID
	available, err := g.Book.Available(context.Background(), customer)
	if err == nil && need > available/2 {
		available, err = g.Book.Refresh(context.Background(), customer)
	}
	if err != nil {
		return room{}, err
	}
	tokens, spend, err := g.limits.room(c.who)
	return room{price: min(available, spend) / 2, tokens: tokens / 2}, err
}

// holds tells whether a call that was bounded just now fits.
func (r room) holds(c *call, bound ratecard.Rated) bool {
	return bound.Price <= r.price && tokensOf(&c.bounds) <= r.tokens
}

// boundAt bounds the call with an output limit per answer.
func (c *call) boundAt(limit int64) (ratecard.Rated, error) {
	c.bounds[usage.Output] = uint64(limit) * uint64(c.scan.N) // the scanner bounds both, so that this fits
	return ratecard.RateBound(c.card, ratecard.Rating{Provider: c.route.upstream.Name, Model: c.scan.Model, Rule: c.rule.Name(),
		Meters: c.bounds, CacheWrites: c.scan.CacheWrite5m || c.scan.CacheWrite1h})
}

func unpriced(err error) *refusal {
	return &refusal{status: http.StatusUnprocessableEntity, code: "unpriced_option", message: "This request cannot be priced: " + err.Error()}
}

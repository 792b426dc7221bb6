package gateway

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"weir/gateway/lease"
	"weir/gateway/provider"
	"weir/internal/stream"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

// The header names of the contract.
const (
	headerRequestID = "X-Weir-Request-Id"
	headerReserved  = "X-Weir-Reserved"
	headerPrice     = "X-Weir-Price"
	headerCost      = "X-Weir-Cost"
	headerBalance   = "X-Weir-Balance"
	headerMaxTokens = "X-Weir-Max-Tokens"
	headerCustomer  = "X-Weir-Customer"
)

// Currency is the one currency of an installation.
const Currency = "usd"

// call is one request, from admission to its record. Nothing in it points into
// fasthttp's buffers: a drain outlives them.
type call struct {
	g     *Gateway
	route *route
	shape provider.Shape
	start time.Time
	id    string
	who   identity
	scan  provider.Scan
	body  []byte // what goes upstream

	card   *ratecard.Card
	model  *ratecard.Model
	rule   *ratecard.Rule
	bounds usage.Quantities // the most that this call can use
	limit  int64            // output limit that weir put in, or 0
	budget allowance        // taken from the rule's daily budget

	counted counted // against the limits of key and customer

	reservation lease.Reservation
	reserved    bool // the reservation is held
	intended    bool // the intent is written: exactly one result must follow
	rec         usage.Record

	// life is that of the upstream call: it outlives the client, but not the
	// longest request, nor the gateway. end ends it.
	life context.Context
	end  context.CancelFunc

	left      atomic.Bool // the client of a stream has left
	drain     *time.Timer // ends a call whose client has left; set before unwatch returns
	stopWatch func()      // ends the watching of the client, nil where nobody watches
}

// bill rates what was measured, or where usage is missing its estimate, and
// puts the result on the record.
func (c *call) bill(a *provider.Answer) {
	rec := &c.rec
	rec.Answered, rec.Meters, rec.Estimated, rec.UnknownMeter = a.Model, a.Meters, !a.HasUsage, a.UnknownMeter
	if rec.Estimated {
		rec.Meters = c.estimate(a)
	}
	if a.UnknownMeter {
		c.g.Log.Error("usage that no meter covers", "request_id", c.id, "model", rec.Model, "member", a.UnknownField)
	}
	rated, err := c.rate()
	for m := usage.Meter(0); err != nil && m < usage.NumMeters; m++ {
		if _, priced := c.model.Cost(m); priced || rec.Meters[m] == 0 {
			continue
		}
		// No price covers this meter, so it cannot be billed: alarmed instead.
		c.g.Log.Error("usage without a price", "request_id", c.id, "model", rec.Model, "meter", m.String(), "amount", rec.Meters[m])
		rec.Meters[m], rec.UnknownMeter = 0, true
		rated, err = c.rate()
	}
	if err != nil {
		// Quantities past every limit: the bound is the most that can be true.
		c.g.Log.Error("cannot rate a measured answer, billing its bound", "request_id", c.id, "err", err)
		rec.Meters, rec.Estimated, rec.UnknownMeter = c.bounds, true, true
		if rated, err = c.rate(); err != nil {
			c.g.Log.Error("BUG: a bound that was rated at admission cannot be rated", "request_id", c.id, "err", err)
		}
	}
	if rec.UnknownMeter {
		c.g.Metrics.UnknownMeter.Inc()
	}
	rec.ModelBilled, rec.Cost, rec.Price = rated.ModelBilled, rated.Cost, rated.Price
}

func (c *call) rate() (ratecard.Rated, error) {
	r := &c.rec
	return ratecard.Rate(c.card, ratecard.Rating{Provider: r.Provider, Model: r.Model, Answered: r.Answered, Rule: r.Rule, Meters: r.Meters})
}

// estimate is what to bill where the provider did not tell: never nothing, and
// never more than was reserved.
func (c *call) estimate(a *provider.Answer) usage.Quantities {
	q := a.Estimate(c.scan.InlineBytes)
	if !a.InputSeen {
		q[usage.Input] = min(q[usage.Input], c.bounds[usage.Input])
	}
	if !a.OutputSeen {
		q[usage.Output] = min(q[usage.Output], c.bounds[usage.Output])
	}
	return q
}

// record writes the call's one result and returns where it will be durable.
func (c *call) record(status usage.Status, row usage.Row) (stream.Pos, error) {
	c.unwatch()
	if c.drain != nil {
		c.drain.Stop()
		c.g.draining.Add(-1)
	}
	rec := &c.rec
	now := time.Now()
	rec.Kind, rec.Status, rec.Row = usage.KindUsage, status, row
	if row == usage.RowLeakage {
		rec.Kind = usage.KindUnknown
	}
	rec.TimeMs = now.UnixMilli()
	rec.LatencyMs = uint32(min(now.Sub(c.start).Milliseconds(), math.MaxUint32))
	pos, err := c.g.Book.Settle(c.reservation, rec)
	c.intended, c.reserved = false, false
	c.g.inFlight.Add(-1)
	c.g.budgets.give(c.budget, rec)
	c.g.limits.record(c, err == nil)
	c.g.Metrics.observe(rec)
	if err != nil {
		c.g.Log.Error("cannot write a usage record", "request_id", c.id, "err", err)
	}
	return pos, err
}

// recordError: the upstream certainly did not serve. Not waited for: losing it
// loses nothing but a row of kind error, and the intent becomes unknown.
func (c *call) recordError(httpStatus int) {
	c.rec.HTTPStatus = uint32(httpStatus)
	c.rec.Meters, c.rec.Cost, c.rec.Price = usage.Quantities{}, 0, 0
	_, _ = c.record(usage.StatusUpstreamError, usage.RowError) // logged there; the book writes it later
}

// recordUnknown: the upstream may have served and the client got nothing. The
// customer does not pay; the platform sees the bound as leakage, and a
// customer whose requests leak too much is slowed down. Only an answer that
// goes on to the client all the same need wait for the record.
func (c *call) recordUnknown() (stream.Pos, error) {
	if c.g.abort.Err() == nil { // the gateway's own end is nobody's fault
		c.rec.Meters = c.estimate(&provider.Answer{})
		rated, err := c.rate()
		if err == nil && c.g.leakage.add(c.who.customer.ID, rated.Cost, time.Now()) {
			c.g.Metrics.LeakageLimits.Inc()
			c.g.Log.Error("a customer's requests leak: slowed down", "customer", c.who.customer.ID, "request_id", c.id)
		}
	}
	c.rec.Meters, c.rec.Cost, c.rec.Price = usage.Quantities{}, 0, 0
	return c.record(usage.StatusUnknown, usage.RowLeakage)
}

// recordAborted: the client left, the call was cut short, and nothing has
// come. What was sent is billed by estimate: leaving costs no less than staying.
func (c *call) recordAborted() {
	c.bill(&provider.Answer{})
	_, _ = c.record(usage.StatusClientGone, usage.RowUsage) // as in recordError
}

// abandon ends, after a panic, whatever the call has begun and not ended.
func (c *call) abandon() {
	switch {
	case c.intended:
		_, _ = c.recordUnknown() // as in recordError
	case c.reserved:
		c.g.Book.Void(c.reservation)
		c.reserved = false
		c.g.budgets.giveAll(c.budget)
		c.g.limits.giveBack(c)
	}
}

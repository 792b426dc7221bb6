package ratecard

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	// QuantityMax is the most units of one meter an event may have. No request
	// comes near it; it bounds the arithmetic, so that a broken answer of a
	// provider is an error and never a wrapped amount.
	QuantityMax = 1 << 40

	// UnitPriceMax is the dearest unit a card may have, one million dollars. With
	// QuantityMax it keeps the exact sum of an event below 2^105 pico-dollars.
	UnitPriceMax money.Pico = 1_000_000 * 1_000_000_000_000

	picoPerNano = 1_000
)

// The ways in which usage cannot be rated. They are wrapped with the name of
// what is missing.
var (
	ErrUnpricedModel = errors.New("the card does not price this model")
	ErrUnpricedMeter = errors.New("the card does not price this meter")
	ErrUnknownRule   = errors.New("the card has no such rule")
	ErrTooLarge      = errors.New("beyond what can be counted")
)

// Rating is the usage of one request and what decides its price.
type Rating struct {
	Provider string
	Model    string // as asked, without provider
	Answered string // the model the answer names, or ""; RateBound does not read it
	Rule     string // Name of the rule chosen at admission
	Meters   usage.Quantities
	// CacheWrites: RateBound must expect input to be written to a cache.
	CacheWrites bool
}

// Rated is the result of rating.
type Rated struct {
	ModelBilled string     // the entry that priced it, without provider
	Cost        money.Nano // what the provider charges
	Price       money.Nano // what the customer pays
}

// Rate gives the cost and the price of an answered request's usage. The entry
// that prices it is the answered model if that is the asked one plus a date
// and on the card, else the asked one. Each amount is summed exactly and
// rounded once, half away from zero; the rule's fee is added to the price.
//
// Errors: ErrUnpricedModel, ErrUnpricedMeter, ErrUnknownRule, ErrTooLarge.
func Rate(c *Card, in Rating) (Rated, error) {
	asked, rule, err := c.resolve(&in)
	if err != nil {
		return Rated{}, err
	}
	return rateAs(asked.billedAs(in.Answered), rule, &in.Meters, &in.Meters)
}

// RateBound gives amounts that Rate will not exceed, whatever snapshot of the
// asked model answers and whichever meters its tokens are counted in: Meters
// holds in Input all tokens that may be read, in Output all that may be
// generated, in the other meters bounds of their own. Cost and price are each
// the dearest, so they need not belong to the same snapshot; ModelBilled is
// that of the price. The errors are those of Rate.
func RateBound(c *Card, in Rating) (Rated, error) {
	asked, rule, err := c.resolve(&in)
	if err != nil {
		return Rated{}, err
	}
	worst, err := boundAs(asked, rule, &in)
	if err != nil {
		return Rated{}, err
	}
	for _, m := range asked.snapshots {
		r, err := boundAs(m, rule, &in)
		if err != nil {
			return Rated{}, err
		}
		worst.Cost = max(worst.Cost, r.Cost)
		if r.Price > worst.Price {
			worst.ModelBilled, worst.Price = r.ModelBilled, r.Price
		}
	}
	return worst, nil
}

func (c *Card) resolve(in *Rating) (*Model, *Rule, error) {
	m := c.Model(in.Provider, in.Model)
	if m == nil {
		return nil, nil, fmt.Errorf("%w: %s/%s", ErrUnpricedModel, in.Provider, in.Model)
	}
	r := c.Rule(in.Rule)
	if r == nil {
		return nil, nil, fmt.Errorf("%w: %q", ErrUnknownRule, in.Rule)
	}
	return m, r, nil
}

// billedAs finds the entry that prices an answer to a request for m.
func (m *Model) billedAs(answered string) *Model {
	if len(answered) > len(m.Name) {
		for _, s := range m.snapshots {
			if s.Name == answered {
				return s
			}
		}
	}
	return m
}

// rateAs rates meters at the cost of m and at the price of the rule. The meters
// are given twice because a bound splits tokens differently for each table; a
// rule without a table of its own multiplies the cost.
func rateAs(m *Model, r *Rule, costMeters, priceMeters *usage.Quantities) (Rated, error) {
	sum, err := m.cost.total(costMeters)
	if err != nil {
		return Rated{}, fmt.Errorf("cannot sum the cost of %s/%s: %w", m.Provider, m.Name, err)
	}
	cost, ok := sum.roundNano(picoPerNano)
	if !ok {
		return Rated{}, fmt.Errorf("cost of %s/%s: %w", m.Provider, m.Name, ErrTooLarge)
	}
	if r.absolute {
		if sum, err = r.price.total(priceMeters); err != nil {
			return Rated{}, fmt.Errorf("cannot sum the price of rule %q: %w", r.name, err)
		}
	}
	price, ok := sum.times(r.Multiplier).roundNano(picoPerNano * uint64(money.One))
	if ok {
		price, ok = price.Add(r.Fee)
	}
	if !ok {
		return Rated{}, fmt.Errorf("price under rule %q: %w", r.name, ErrTooLarge)
	}
	return Rated{ModelBilled: m.Name, Cost: cost, Price: price}, nil
}

// boundAs rates the dearest way in which an answer of m may count the tokens,
// once for the table of the cost and once for that of the price.
func boundAs(m *Model, r *Rule, in *Rating) (Rated, error) {
	costMeters, priceMeters := dearestSplit(&m.cost, in), dearestSplit(&r.price, in)
	return rateAs(m, r, &costMeters, &priceMeters)
}

// dearestSplit counts all input tokens in the dearest meter they may arrive in,
// and all output tokens likewise.
func dearestSplit(t *priceTable, in *Rating) usage.Quantities {
	q := in.Meters
	last := usage.CachedInput
	if in.CacheWrites || q[usage.CacheWrite5m] > 0 || q[usage.CacheWrite1h] > 0 {
		last = usage.CacheWrite1h
	}
	t.moveToDearest(&q, usage.Input, last)
	t.moveToDearest(&q, usage.Output, usage.Reasoning)
	return q
}

// moveToDearest moves the counts of the meters first to last into the dearest
// of them. A count beyond QuantityMax stays beyond it: the sum saturates.
func (t *priceTable) moveToDearest(q *usage.Quantities, first, last usage.Meter) {
	dearest, sum := first, uint64(0)
	for m := first; m <= last; m++ {
		sum += min(q[m], QuantityMax+1)
		q[m] = 0
		if t.pico[m] > t.pico[dearest] {
			dearest = m
		}
	}
	q[dearest] = sum
}

// total is the exact sum of quantity × price in pico-dollars.
func (t *priceTable) total(q *usage.Quantities) (uint128, error) {
	var sum uint128
	for i, n := range q {
		if n == 0 {
			continue
		}
		m := usage.Meter(i)
		if n > QuantityMax {
			return sum, fmt.Errorf("%d of %s: %w", n, m, ErrTooLarge)
		}
		if !t.covered.has(m) {
			return sum, fmt.Errorf("%w: %s", ErrUnpricedMeter, m)
		}
		hi, lo := bits.Mul64(n, uint64(t.pico[m]))
		var carry uint64
		sum.lo, carry = bits.Add64(sum.lo, lo, 0)
		sum.hi += hi + carry
	}
	return sum, nil
}

// uint128 is a non-negative exact amount. Sums stay below 2^105 and multipliers
// below 2^24; a product that does not fit saturates and is then too large.
type uint128 struct{ hi, lo uint64 }

func (u uint128) times(m money.Multiplier) uint128 {
	over, hi := bits.Mul64(u.hi, uint64(m))
	carry, lo := bits.Mul64(u.lo, uint64(m))
	hi, c := bits.Add64(hi, carry, 0)
	if over|c != 0 {
		return uint128{math.MaxUint64, math.MaxUint64}
	}
	return uint128{hi, lo}
}

// roundNano divides and rounds half away from zero; false if the result leaves
// int64.
func (u uint128) roundNano(divisor uint64) (money.Nano, bool) {
	if u.hi >= divisor {
		return 0, false
	}
	quo, rem := bits.Div64(u.hi, u.lo, divisor)
	if rem >= divisor-rem && quo < math.MaxUint64 {
		quo++
	}
	return money.Nano(quo), quo <= math.MaxInt64
}

// mulDivCeil is ceil(a × b / c), saturating.
func mulDivCeil(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return math.MaxUint64
	}
	quo, rem := bits.Div64(hi, lo, c)
	if rem > 0 && quo < math.MaxUint64 {
		quo++
	}
	return quo
}

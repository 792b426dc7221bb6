package gateway

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// window is the span that requests and tokens are counted in: a minute of the
// clock, so that all gateways turn at the same time. What a process counted in
// the present minute ends with it: in the minute of its start the next one
// admits only the part of a limit that the rest of the minute is of it.
const window = time.Minute

// limits counts what keys and customers with limits use. Each of several
// gateways keeps to its share, so that all together keep the limit.
//
// A request is counted before its reservation, by the most it can use, and
// corrected when it is recorded. Keys without limits cost a comparison.
type limits struct {
	db      *ledger.DB
	gateway string
	now     func() time.Time // tests turn it
	started time.Time

	reading sync.Mutex // held while the ledger is asked; taken before mu

	mu        sync.Mutex // guards the following and all tallies
	gateways  int64      // heard lately, this one included
	rank      int64      // how many of them come before this one
	keys      map[string]*tally
	customers map[string]*tally
	// earlier are leases, with their customers, in which an earlier process of
	// this gateway may have spent what is not settled yet; nil before the first
	// beat.
	earlier map[string]string
}

// tally is what one key or customer has used here.
type tally struct {
	scope    string // as the ledger's spend names it
	customer string // who pays; "" for an operator key
	minute   int64  // the window, Unix time
	requests int64  // in the window
	tokens   int64  // in the window; those of calls under way by their bound
	calls    int64  // under way
	spend    *spending
}

// counted is what one call was counted as.
type counted struct {
	tallies  [2]*tally // of its key and its customer; nil without limits
	reserved [2]bool   // amount is in the tally's spending
	minute   int64
	tokens   int64
	amount   money.Nano
}

func newLimits(db *ledger.DB, gateway string) *limits {
	return &limits{db: db, gateway: gateway, now: time.Now, started: time.Now(), gateways: 1, keys: map[string]*tally{}, customers: map[string]*tally{}}
}

// limited tells whether anything is to be counted.
func (i identity) limited() bool {
	return i.key.Limits != ledger.Limits{} || i.customer.Limits != ledger.Limits{}
}

// admit counts the call by its bounds if it fits all limits of its key and its
// customer. Whoever is admitted ends that with giveBack or record.
func (l *limits) admit(c *call, bound money.Nano) *refusal {
	if !c.who.limited() {
		return nil
	}
	tallies, err := l.lockKnown(c.who)
	if err != nil {
		return ledgerAway(err)
	}
	defer l.mu.Unlock()
	now := l.now()
	take := counted{tallies: tallies, minute: minuteOf(now), tokens: tokensOf(&c.bounds), amount: bound}
	for i, t := range take.tallies {
		if t == nil {
			continue
		}
		t.turn(now)
		if no := l.exceeded(&check{Limits: c.who.limits(i), tally: t, whose: whose[i], now: now}, &take); no != nil {
			return no
		}
	}
	for i, t := range take.tallies {
		if t == nil {
			continue
		}
		t.calls++
		t.requests++
		t.tokens += take.tokens
		if t.spend != nil {
			t.spend.reserved += bound
			take.reserved[i] = true
		}
	}
	c.counted = take
	return nil
}

// whose names the tallies of a call to people.
var whose = [2]string{"key", "customer"}

// limits are those of the i-th tally.
func (i identity) limits(tally int) *ledger.Limits {
	if tally == 0 {
		return &i.key.Limits
	}
	return &i.customer.Limits
}

// tallies finds those of a key and a customer, as far as they have limits. The
// lock is held.
func (l *limits) tallies(who identity) (found [2]*tally) {
	if (who.key.Limits != ledger.Limits{}) {
		found[0] = tallyOf(l.keys, "key:", who.key.ID, who.key.Customer)
	}
	if (who.customer.Limits != ledger.Limits{}) {
		found[1] = tallyOf(l.customers, "customer:", who.customer.ID, who.customer.ID)
	}
	return found
}

func tallyOf(m map[string]*tally, kind, id, customer string) *tally {
	t := m[id]
	if t == nil {
		t = &tally{scope: kind + id, customer: customer}
		m[id] = t
	}
	return t
}

func minuteOf(t time.Time) int64 { return t.Unix() / int64(window/time.Second) }

func tokensOf(q *usage.Quantities) (sum int64) {
	for m := usage.Meter(0); m.Tokens(); m++ {
		sum += int64(q[m]) // the scanner and the rate card bound each far below
	}
	return sum
}

// turn begins a new window, day or month once it has come. A time a moment
// older than the last one, from a call beside this one, turns nothing back.
func (t *tally) turn(now time.Time) {
	if minute := minuteOf(now); minute > t.minute || minute < t.minute-1 {
		t.minute, t.requests, t.tokens = minute, 0, 0
	}
	if t.spend != nil {
		t.spend.turn(periodsOf(now))
	}
}

// share is this gateway's part of a limit; the parts of all sum up to it.
func (l *limits) share(limit int64) int64 {
	part := limit / l.gateways
	if l.rank < limit%l.gateways {
		part++
	}
	return part
}

// perMinute is what a tally may count in its window.
func (l *limits) perMinute(limit int64, t *tally) int64 {
	part := l.share(limit)
	if t.minute != minuteOf(l.started) {
		return part
	}
	const seconds = int64(window / time.Second)
	rest := seconds - l.started.Unix()%seconds
	return (part*rest + seconds - 1) / seconds
}

// check is one tally held against its limits.
type check struct {
	*ledger.Limits
	*tally
	whose string
	now   time.Time
}

// exceeded refuses a call that does not fit. The lock is held.
func (l *limits) exceeded(k *check, take *counted) *refusal {
	if k.RequestsPerMinute > 0 && k.requests+1 > l.perMinute(k.RequestsPerMinute, k.tally) {
		return k.untilWindow("requests_per_minute", fmt.Sprintf("This %s may send %d requests a minute.", k.whose, k.RequestsPerMinute))
	}
	if k.TokensPerMinute > 0 && k.tokens+take.tokens > l.perMinute(k.TokensPerMinute, k.tally) {
		return k.untilWindow("tokens_per_minute", fmt.Sprintf("This %s may use %d tokens a minute, and this request may use %d. A lower output limit makes that less.",
			k.whose, k.TokensPerMinute, take.tokens))
	}
	for p, limit := range [...]money.Nano{day: k.SpendPerDay, month: k.SpendPerMonth} {
		if limit > 0 && take.amount > 0 && take.amount > l.left(limit, k.spend, p) {
			return l.overspent(k, p, limit, take.amount)
		}
	}
	return nil
}

// untilWindow refuses until the window turns.
func (k *check) untilWindow(reason, message string) *refusal {
	end := k.now.Truncate(window).Add(window)
	return rateLimited(reason, message+" Try again when the next minute begins.", end, wholeSeconds(end.Sub(k.now)))
}

func rateLimited(reason, message string, resetsAt time.Time, retryAfterS int) *refusal {
	return &refusal{status: http.StatusTooManyRequests, code: "rate_limited", reason: reason, message: message, resetsAt: resetsAt, retryAfter: retryAfterS}
}

// wholeSeconds rounds up, so that whoever waits as long is not too early.
func wholeSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// giveBack undoes admit for a call that was not made.
func (l *limits) giveBack(c *call) {
	l.end(&c.counted, func(t *tally) {
		if t.minute == c.counted.minute {
			t.requests--
			t.tokens -= c.counted.tokens
		}
	})
}

// record replaces the bounds of a call by what its record says; written tells
// whether the spool has it. An unwritten one will be of unknown outcome, and
// cost nothing.
func (l *limits) record(c *call, written bool) {
	rec := &c.rec
	l.end(&c.counted, func(t *tally) {
		if t.minute == c.counted.minute {
			t.tokens += tokensOf(&rec.Meters) - c.counted.tokens
		}
		if t.spend != nil && written && rec.Price > 0 {
			t.spend.add(unsettled{rec.LeaseID, rec.Seq, periodsOf(time.UnixMilli(rec.TimeMs)), rec.Price})
		}
	})
}

// end closes what was counted with fn, once.
func (l *limits) end(c *counted, fn func(*tally)) {
	if c.tallies == [2]*tally{} {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, t := range c.tallies {
		if t == nil {
			continue
		}
		t.calls--
		if c.reserved[i] {
			t.spend.reserved -= c.amount
		}
		fn(t)
	}
	c.tallies = [2]*tally{}
}

// refresh takes over what the ledger says with a beat: how many gateways share
// the limits, and what keys and customers in use have spent.
func (l *limits) refresh(ctx context.Context, gateways, rank int) error {
	l.reading.Lock()
	defer l.reading.Unlock()
	if l.earlier == nil { // written under both locks, so either lets read it
		leases, err := l.db.LeasesByGateway(ctx, l.gateway)
		if err != nil {
			return err
		}
		earlier := make(map[string]string, len(leases))
		for i := range leases {
			earlier[leases[i].ID] = leases[i].Customer
		}
		l.mu.Lock()
		l.earlier = earlier
		l.mu.Unlock()
	}
	l.mu.Lock()
	l.gateways, l.rank = int64(max(gateways, 1)), int64(rank)
	now := l.now()
	spending := append(sweep(l.keys, now), sweep(l.customers, now)...)
	l.mu.Unlock()
	return l.read(ctx, spending)
}

// sweep forgets the tallies that say no more than new ones would, and lists
// those that spend.
func sweep(m map[string]*tally, now time.Time) (spending []*tally) {
	for id, t := range m {
		idle := t.calls == 0 && t.minute < minuteOf(now)
		if idle && (t.spend == nil || len(t.spend.unsettled) == 0) {
			delete(m, id)
		} else if t.spend != nil {
			spending = append(spending, t)
		}
	}
	return spending
}

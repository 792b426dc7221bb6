package gateway

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// noon is a time of the tests far from any turn; UTC.
var noon = time.Date(2026, 11, 24, 12, 0, 20, 0, time.UTC)

// office is a ledger with gateways' limits before it; what they record is
// settled when a test says so.
type office struct {
	*testing.T
	ledger *ledger.DB
	at     time.Time
	cursor int64 // of the one partition
	epoch  int64
}

func newOffice(t *testing.T) *office {
	db, err := ledger.Open(t.Context(), ledger.Config{Dir: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { db.Close() })
	o := &office{T: t, ledger: db, at: noon}
	must(t, db.Tx(t.Context(), func(tx *ledger.Tx) error {
		if _, err := tx.CreateCustomer(t.Context(), ledger.Customer{ID: "acme"}); err != nil {
			return err
		}
		_, _, err := tx.Credit(t.Context(), ledger.Credit{Customer: "acme", Amount: 1e6 * money.Dollar})
		return err
	}))
	cursor, err := db.AcquirePartition(t.Context(), "t", 0)
	must(t, err)
	o.epoch = cursor.Epoch
	return o
}

// desk is one process of a gateway.
type desk struct {
	*office
	*limits
	session string
	who     identity
	lease   string
	seq     uint64
	price   money.Nano // Σ of the lease's records
	queue   []usage.Record
}

var deskNo int

// process starts one, as a session, and grants it a lease.
func (o *office) process(gateway string, key, customer ledger.Limits) *desk {
	o.Helper()
	deskNo++
	d := &desk{office: o, limits: newLimits(o.ledger, gateway), session: fmt.Sprint("session", deskNo), lease: fmt.Sprint("lease", deskNo)}
	d.limits.now, d.limits.started = func() time.Time { return o.at }, time.Time{}
	d.who = identity{&ledger.Key{ID: "k", Customer: "acme", Limits: key}, &ledger.Customer{ID: "acme", Limits: customer}}
	_, err := o.ledger.StartSession(o.Context(), ledger.Session{ID: d.session, Gateway: gateway, TTL: time.Minute})
	must(o, err)
	d.beat()
	_, _, err = o.ledger.Grant(o.Context(), ledger.GrantRequest{LeaseID: d.lease, Customer: "acme", Session: d.session, Gateway: gateway, GrantNo: 1, Need: 1e6, Want: 1e6})
	must(o, err)
	return d
}

func (d *desk) beat() {
	d.Helper()
	a, err := d.ledger.Beat(d.Context(), ledger.Beat{Session: d.session})
	must(d, err)
	must(d, d.refresh(d.Context(), a.Gateways, a.Rank))
}

// admit asks for one call of tokens that may cost bound.
func (d *desk) admit(tokens uint64, bound money.Nano) (*call, *refusal) {
	c := &call{who: d.who, bounds: usage.Quantities{usage.Input: tokens / 2, usage.Output: tokens - tokens/2}}
	return c, d.limits.admit(c, bound)
}

// record ends a call with what it used and its price.
func (d *desk) record(c *call, tokens uint64, price money.Nano) {
	d.seq++
	d.price += price
	c.rec = usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: d.lease, Seq: d.seq, Customer: "acme", KeyID: "k", Gateway: d.gateway,
		RequestID: "r", TimeMs: d.at.UnixMilli(), Price: price, Cost: price, Currency: Currency, Meters: usage.Quantities{usage.CachedInput: tokens}}
	d.queue = append(d.queue, c.rec)
	d.limits.record(c, true)
}

// close ends the process: its lease closes once everything is settled.
func (d *desk) close() {
	d.queue = append(d.queue, usage.Record{Kind: usage.KindClose, LeaseID: d.lease, Seq: d.seq + 1, Customer: "acme", Gateway: d.gateway,
		TimeMs: d.at.UnixMilli(), Count: d.seq, CostSum: d.price, PriceSum: d.price})
}

// settle settles the n oldest records that are not yet.
func (d *desk) settle(n int) {
	d.Helper()
	if n == 0 {
		return
	}
	batch := ledger.Batch{Topic: "t", Epoch: d.epoch, From: d.cursor, To: d.cursor + int64(n)}
	for i := range n {
		batch.Records = append(batch.Records, ledger.Settling{Offset: d.cursor + int64(i), Rec: &d.queue[i]})
	}
	_, err := d.ledger.Settle(d.Context(), batch)
	must(d, err)
	d.cursor, d.queue = batch.To, d.queue[n:]
}

// limited checks a refusal, and returns how long it tells to wait.
func (o *office) limited(no *refusal, reason string, resetsAt time.Time) int {
	o.Helper()
	if no == nil || no.status != 429 || no.code != "rate_limited" || no.reason != reason || !no.resetsAt.Equal(resetsAt) {
		o.Fatalf("%+v, want %s until %s", no, reason, resetsAt)
	}
	return no.retryAfter
}

func (o *office) admitted(c *call, no *refusal) *call {
	o.Helper()
	if no != nil {
		o.Fatalf("refused: %+v", no)
	}
	return c
}

// TestWindows: requests and tokens count in minutes of the clock, tokens by
// what a call may use until it is known what it used.
func TestWindows(t *testing.T) {
	o := newOffice(t)
	turn := noon.Truncate(time.Minute).Add(time.Minute)
	d := o.process("g", ledger.Limits{RequestsPerMinute: 2}, ledger.Limits{TokensPerMinute: 100})
	first := o.admitted(d.admit(60, 0))
	_, no := d.admit(41, 0)
	if wait := o.limited(no, "tokens_per_minute", turn); wait != 40 {
		t.Errorf("wait %d s", wait)
	}
	d.record(first, 59, 0)
	second := o.admitted(d.admit(41, 0))
	_, no = d.admit(0, 0)
	o.limited(no, "requests_per_minute", turn)
	d.giveBack(second) // the wallet has not enough
	d.giveBack(second)
	third := o.admitted(d.admit(41, 0))
	_, no = d.admit(0, 0)
	o.limited(no, "requests_per_minute", turn)
	o.at = turn.Add(-time.Millisecond)
	_, no = d.admit(0, 0)
	if wait := o.limited(no, "requests_per_minute", turn); wait != 1 {
		t.Errorf("wait %d s", wait)
	}
	o.at = turn
	o.admitted(d.admit(100, 0))
	d.record(third, 1, 0) // of the minute before: changes nothing in this one
	_, no = d.admit(1, 0)
	o.limited(no, "tokens_per_minute", turn.Add(time.Minute))
}

// TestMinuteOfTheStart: what an earlier process admitted in this minute nobody
// knows any more, so of 60 requests a process that starts in the 50th second
// admits the 10 of what is left of it, and all in the next.
func TestMinuteOfTheStart(t *testing.T) {
	o := newOffice(t)
	o.at = noon.Truncate(time.Minute).Add(50 * time.Second)
	d := o.process("g", ledger.Limits{RequestsPerMinute: 60, TokensPerMinute: 600}, ledger.Limits{})
	d.started = o.at
	turn := noon.Truncate(time.Minute).Add(time.Minute)
	_, no := d.admit(101, 0)
	o.limited(no, "tokens_per_minute", turn)
	for range 10 {
		o.admitted(d.admit(1, 0))
	}
	_, no = d.admit(1, 0)
	o.limited(no, "requests_per_minute", turn)
	if key, _, err := d.remaining(d.who); err != nil || *key.RequestsPerMinute != 0 || *key.TokensPerMinute != 90 {
		t.Errorf("%+v %v", key, err)
	}
	o.at = turn
	for range 60 {
		o.admitted(d.admit(10, 0))
	}
}

// TestShares: of several gateways each has its share, and all together have
// the limit; when one leaves the others have more.
func TestShares(t *testing.T) {
	o := newOffice(t)
	limits := ledger.Limits{RequestsPerMinute: 11, SpendPerDay: 1000}
	desks := []*desk{o.process("a", limits, ledger.Limits{}), o.process("b", limits, ledger.Limits{}), o.process("c", limits, ledger.Limits{})}
	counts := func() (got string) {
		for _, d := range desks {
			d.beat()
		}
		for _, d := range desks {
			n := 0
			for {
				if _, no := d.admit(1, 1); no != nil {
					break
				}
				n++
			}
			got += fmt.Sprint(n, " ")
		}
		return got
	}
	if got := counts(); got != "4 4 3 " {
		t.Errorf("of 11 requests the gateways admit %s", got)
	}
	o.at = noon.Add(time.Minute)
	must(t, o.ledger.EndSession(t.Context(), desks[0].session))
	desks = desks[1:]
	if got := counts(); got != "6 5 " {
		t.Errorf("of 11 requests the gateways that are left admit %s", got)
	}

	o.at = noon.Add(2 * time.Minute)
	for _, d := range desks { // half of the 1000, less the 10 and 8 in flight
		o.admitted(d.admit(1, 490))
		_, no := d.admit(1, 3)
		o.limited(no, "spend_per_day", noon.Truncate(24*time.Hour).Add(24*time.Hour))
	}
}

// TestSpendLimit: the limit holds with bounds reserved, and tells what is in
// the way: what is spent, or only what is in flight.
func TestSpendLimit(t *testing.T) {
	o := newOffice(t)
	day, month := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	d := o.process("g", ledger.Limits{SpendPerDay: 100}, ledger.Limits{SpendPerMonth: 150})
	first := o.admitted(d.admit(1, 60))
	_, no := d.admit(1, 41)
	if wait := o.limited(no, "spend_per_day", day); wait != 1 {
		t.Errorf("what is in flight comes back at once: wait %d s", wait)
	}
	d.giveBack(o.admitted(d.admit(1, 0))) // free
	d.record(first, 1, 50)
	second := o.admitted(d.admit(1, 50))
	d.record(second, 1, 50)
	_, no = d.admit(1, 1)
	if wait := o.limited(no, "spend_per_day", day); wait != int(day.Sub(o.at)/time.Second) {
		t.Errorf("until the day ends: wait %d s", wait)
	}
	d.settle(1)
	_, no = d.admit(1, 1)
	o.limited(no, "spend_per_day", day)
	d.beat() // what is settled is counted once
	_, no = d.admit(1, 1)
	o.limited(no, "spend_per_day", day)
	o.at = o.at.Add(2 * time.Minute)
	d.beat() // what is not settled is not forgotten
	_, no = d.admit(1, 1)
	o.limited(no, "spend_per_day", day)

	o.at = day
	late := o.admitted(d.admit(1, 50))
	_, no = d.admit(1, 1)
	if wait := o.limited(no, "spend_per_month", month); wait != 1 {
		t.Errorf("wait %d s", wait)
	}
	d.record(late, 1, 50)
	_, no = d.admit(1, 1)
	if wait := o.limited(no, "spend_per_month", month); wait != 24*60*60 {
		t.Errorf("nobody waits for longer than a day: wait %d s", wait)
	}
	o.at = month
	o.admitted(d.admit(1, 100))
}

// TestSpendRestart: a process that died left records in its spool. Until they
// are settled the new one admits only what fits whatever they are; afterwards
// it is exact.
func TestSpendRestart(t *testing.T) {
	o := newOffice(t)
	limits := ledger.Limits{SpendPerDay: 2e6}
	dead := o.process("g", limits, ledger.Limits{})
	d := dead
	for range 3 {
		d.record(o.admitted(d.admit(1, 1e5)), 1, 1e5)
	}
	d.settle(1)
	dead.close()
	d = o.process("g", limits, ledger.Limits{})
	// 2,000,000 less 100,000 settled, less 900,000 that the old lease still holds.
	d.giveBack(o.admitted(d.admit(1, 1e6)))
	_, no := d.admit(1, 1e6+1)
	if wait := o.limited(no, "spend_per_day", time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)); wait != 2 {
		t.Errorf("settled within seconds: wait %d s", wait)
	}
	last := len(dead.queue) - 1
	dead.queue[0], dead.queue[last] = dead.queue[last], dead.queue[0]
	dead.settle(1) // the lease is closing: records before its end are missing
	for range 2 {
		d.beat()
		if _, no = d.admit(1, 1e6+1); no == nil {
			t.Error("more than the limit, were the rest spent")
		}
	}
	dead.settle(len(dead.queue))
	d.beat()
	d.giveBack(o.admitted(d.admit(1, 17e5)))
	if _, no = d.admit(1, 17e5+1); no == nil {
		t.Error("more than the limit")
	}
}

// TestReadingOfYesterday: a reading that was asked for before midnight and is
// answered after it says nothing of the new day's records, settled as they are.
func TestReadingOfYesterday(t *testing.T) {
	yesterday := periodsOf(noon)
	today := periodsOf(noon.Add(24 * time.Hour))
	var s spending
	s.add(unsettled{"l", 1, yesterday, 5})
	s.add(unsettled{"l", 2, today, 7})
	read := ledger.Spends{Spent: map[ledger.SpendOf]money.Nano{{Scope: "key:k", Period: "day:2026-11-24"}: 5, {Scope: "key:k", Period: "month:2026-11"}: 5},
		Leases: map[string]ledger.LeaseSpend{"l": {Settled: 2}}}
	s.take("key:k", yesterday, &read, 0, 1)
	if s.settled[day]+s.own[day] != 7 || s.settled[month]+s.own[month] != 12 {
		t.Errorf("%+v", s)
	}
}

// TestSpendExact drives one gateway through random calls, settlements, beats,
// days and restarts, and compares what it says is left with a plain sum of
// everything that was ever recorded.
func TestSpendExact(t *testing.T) {
	for seed := range uint64(8) {
		o := newOffice(t)
		rnd := rand.New(rand.NewPCG(seed, 1))
		const perDay, perMonth = 20_000, 50_000
		d := o.process("g", ledger.Limits{SpendPerDay: perDay}, ledger.Limits{SpendPerMonth: perMonth})
		o.at = time.Date(2026, 11, 28, 23, 0, 0, 0, time.UTC)
		spent := map[string]money.Nano{}
		var open []*call
		for step := range 400 {
			switch at := rnd.IntN(100); {
			case at < 45:
				if c, no := d.admit(1, money.Nano(rnd.IntN(900))); no == nil {
					open = append(open, c)
				}
			case at < 75 && len(open) > 0:
				i := rnd.IntN(len(open))
				c := open[i]
				open = append(open[:i], open[i+1:]...)
				price := money.Nano(rnd.Int64N(int64(c.counted.amount) + 1))
				d.record(c, 1, price)
				spent[o.at.Format("2006-01-02")] += price
				spent[o.at.Format("2006-01")] += price
			case at < 85:
				d.settle(rnd.IntN(len(d.queue) + 1))
			case at < 95:
				d.beat()
			case at < 97:
				o.at = o.at.Add(time.Duration(rnd.Int64N(int64(9 * time.Hour))))
			case at < 98: // calls under way end with an unknown outcome, and cost nothing
				old := d
				old.close()
				old.settle(len(old.queue))
				d, open = o.process("g", d.who.key.Limits, d.who.customer.Limits), nil
			}
			var reserved money.Nano
			for _, c := range open {
				reserved += c.counted.amount
			}
			key, customer, err := d.remaining(d.who)
			must(t, err)
			wantDay := max(0, perDay-spent[o.at.Format("2006-01-02")]-reserved)
			wantMonth := max(0, perMonth-spent[o.at.Format("2006-01")]-reserved)
			if *key.SpendPerDay != wantDay || *customer.SpendPerMonth != wantMonth {
				t.Fatalf("seed %d step %d: %s today and %s this month are left, want %s and %s", seed, step, *key.SpendPerDay, *customer.SpendPerMonth, wantDay, wantMonth)
			}
		}
		for period, sum := range spent {
			if len(period) == len("2006-01-02") && sum > perDay || sum > perMonth {
				t.Errorf("seed %d: %s spent in %s", seed, sum, period)
			}
		}
	}
}

// TestSpendOverGateways drives several gateways through random calls, while
// settling and beats come late and in any order: all together never spend more
// than the limit of a day, and in the end nearly all of it.
func TestSpendOverGateways(t *testing.T) {
	for seed := range uint64(8) {
		o, rnd := newOffice(t), rand.New(rand.NewPCG(seed, 2))
		const limit, most = 50_000, 900
		desks := make([]*desk, 2+rnd.IntN(3))
		for i := range desks {
			desks[i] = o.process(fmt.Sprint("g", i), ledger.Limits{SpendPerDay: limit}, ledger.Limits{})
		}
		for _, d := range desks { // all have heard of all
			d.beat()
		}
		spent := map[int64]money.Nano{}
		open := make([][]*call, len(desks))
		for range 1000 {
			i := rnd.IntN(len(desks))
			if rnd.IntN(2) == 0 {
				i = int(seed) % len(desks) // gets most of the traffic
			}
			d := desks[i]
			switch at := rnd.IntN(1000); {
			case at < 500:
				if c, no := d.admit(1, money.Nano(rnd.IntN(most))); no == nil {
					open[i] = append(open[i], c)
				}
			case at < 900 && len(open[i]) > 0:
				c := open[i][0]
				open[i] = open[i][1:]
				d.record(c, 1, c.counted.amount)
				spent[periodsOf(o.at)[day]] += c.rec.Price
			case at < 950:
				d.settle(rnd.IntN(len(d.queue) + 1))
			case at < 999:
				d.beat()
			default:
				o.at = o.at.Add(24 * time.Hour)
			}
		}
		today := periodsOf(o.at)[day]
		for i, d := range desks {
			for _, c := range open[i] {
				d.record(c, 1, c.counted.amount)
				spent[today] += c.rec.Price
			}
			for c, no := d.admit(1, most); no == nil; c, no = d.admit(1, most) {
				d.record(c, 1, most)
				spent[today] += most
			}
		}
		if n := money.Nano(len(desks)); spent[today] < limit-n*(most+1) {
			t.Errorf("seed %d: only %s could be spent of %d", seed, spent[today], limit)
		}
		for at, sum := range spent {
			if sum > limit {
				t.Errorf("seed %d: %s spent on day %d, the limit is %d", seed, sum, at, limit)
			}
		}
	}
}

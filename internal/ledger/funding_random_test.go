package ledger_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestFunding runs random histories of money that comes and goes against the
// oracle: credits that expire, purchases with a bonus, subscriptions, usage,
// overdrafts, and everything a payment provider tells, each five times and in
// any order: payments, fees, growing refunds, disputes that are opened, won and lost. After every step
// wallets, lots, purchases, events and accounts are compared; in the end each
// wallet must be worth what the facts alone make it.
func TestFunding(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		accounts := map[string]int64{} // one database serves all seeds
		for seed := *seed0; seed < *seed0+*seeds; seed++ {
			f := newFunding(t, c, seed, accounts)
			for f.n = range 150 {
				f.next()
				f.compare()
			}
			f.finish()
		}
	})
}

type funding struct {
	*testing.T
	ctx      context.Context
	rng      *rand.Rand
	db       *ledger.DB
	seed     uint64
	n        int
	now      time.Time
	purses   []*purse
	leases   map[string]*fundedLease // one per purse at a time
	news     []news                  // of the payment provider, not yet told
	offset   int64
	epoch    int64
	ids      int
	accounts map[string]int64
}

type fundedLease struct {
	id            string
	granted, used int64
	seq           uint64
	cost, price   money.Nano
}

// news is one thing to tell, about a purchase of a purse; it tells whether it
// could be believed already.
type news struct {
	what string
	p    *purse
	tell func() bool
}

func newFunding(t *testing.T, c ledger.Config, seed uint64, accounts map[string]int64) *funding {
	f := &funding{T: t, ctx: context.Background(), rng: rand.New(rand.NewPCG(seed, 7)), seed: seed, leases: map[string]*fundedLease{},
		accounts: accounts, now: time.Date(2026, 1, 31, 23, 0, 0, 0, time.UTC).AddDate(0, 2*int(seed-*seed0), 0)}
	c.Now = func() time.Time { return f.now }
	f.db = ledgertest.Open(t, c)
	f.must(func() error {
		_, err := f.db.StartSession(f.ctx, ledger.Session{ID: fmt.Sprint("s", seed), Gateway: fmt.Sprint("g", seed), TTL: 1e17})
		return err
	}())
	cursor, err := f.db.AcquirePartition(f.ctx, f.topic(), 0)
	f.must(err)
	f.epoch = cursor.Epoch
	for i := range 3 {
		p := &purse{id: fmt.Sprintf("f%d-%d", seed, i), events: map[string]int{}, month: map[string]int64{}, lossTold: map[string]bool{},
			day: map[string]int64{}, accounts: accounts}
		f.purses = append(f.purses, p)
		f.tx(func(tx *ledger.Tx) error {
			_, err := tx.CreateCustomer(f.ctx, ledger.Customer{ID: p.id})
			return err
		})
	}
	watched := f.purses[0]
	watched.low, watched.below, watched.dayLimit = []int64{40e9, 20e9, 5e9}, 10e9, 30e9
	watched.due = true // below already
	f.tx(func(tx *ledger.Tx) error {
		low := []money.Nano{40e9, 20e9, 5e9}
		_, err := tx.LimitCustomer(f.ctx, watched.id, func(l *ledger.Limits) { l.SpendPerDay = 30e9 })
		return errors.Join(err, tx.SetLowBalance(f.ctx, watched.id, low),
			tx.SetAutoTopup(f.ctx, ledger.AutoTopup{Customer: watched.id, Enabled: true, Threshold: 10e9, Amount: 20e9}))
	})
	return f
}

func (f *funding) topic() string { return fmt.Sprint("funding", f.seed) }

func (f *funding) fatalf(format string, args ...any) {
	f.Helper()
	f.Fatalf("seed %d, step %d: %s", f.seed, f.n, fmt.Sprintf(format, args...))
}

func (f *funding) must(err error) {
	f.Helper()
	if err != nil {
		f.fatalf("%v", err)
	}
}

func (f *funding) tx(fn func(*ledger.Tx) error) {
	f.Helper()
	f.must(f.db.Tx(f.ctx, fn))
}

func (f *funding) id(prefix string) string {
	f.ids++
	return fmt.Sprintf("%s%d_%03d", prefix, f.seed, f.ids)
}

// dollars is a random amount of whole cents.
func (f *funding) dollars(most int64) int64 { return (1 + f.rng.Int64N(most*100)) * 10_000_000 }

func (f *funding) at() int64 { return f.now.UnixMicro() }

func (f *funding) next() {
	f.now = f.now.Add(time.Duration(1+f.rng.IntN(20)) * time.Minute)
	p := f.purses[f.rng.IntN(len(f.purses))]
	switch n := f.rng.IntN(24); {
	case n < 2:
		f.credit(p)
	case n < 4:
		f.purchase(p)
	case n < 5:
		f.invoice(p)
	case n < 6:
		f.debit(p)
	case n < 7:
		f.overdraft(p)
	case n < 8:
		f.expire()
	case n < 10:
		f.grant(p)
	case n < 13:
		f.use(p)
	case n < 14:
		f.closeLease(p)
	case n < 15:
		f.operatorRefund(p)
	default:
		f.hear()
	}
}

func (f *funding) credit(p *purse) {
	l := purseLot{kind: []string{"paid", "promo"}[f.rng.IntN(2)], amount: f.dollars(20) + f.rng.Int64N(1000), priority: f.rng.Int64N(4) / 2 * f.rng.Int64N(5),
		created: f.at()}
	c := ledger.Credit{Customer: p.id, Amount: money.Nano(l.amount), Kind: l.kind, Priority: int(l.priority)}
	if f.rng.IntN(2) == 0 {
		c.ExpiresAt = f.now.Add(time.Duration(1+f.rng.IntN(500)) * time.Minute)
		l.expires = c.ExpiresAt.UnixMicro()
	}
	f.tx(func(tx *ledger.Tx) error {
		entry, _, err := tx.Credit(f.ctx, c)
		l.id = strings.TrimSuffix(strings.TrimPrefix(entry, "credit/"), ":0")
		return err
	})
	p.given += l.amount
	p.credit(l, map[string]string{"paid": "funding:paid", "promo": "promo"}[l.kind])
}

func (f *funding) debit(p *purse) {
	amount := f.dollars(10)
	err := f.db.Tx(f.ctx, func(tx *ledger.Tx) error {
		_, _, err := tx.Debit(f.ctx, ledger.Debit{Customer: p.id, Amount: money.Nano(amount)})
		return err
	})
	if ok := p.debit(amount); ok != (err == nil) || !ok && !errors.Is(err, ledger.ErrInsufficient) {
		f.fatalf("a debit of %d: %v", amount, err)
	}
}

func (f *funding) overdraft(p *purse) {
	limit := f.dollars(15) * f.rng.Int64N(2)
	err := f.db.Tx(f.ctx, func(tx *ledger.Tx) error {
		_, err := tx.SetOverdraft(f.ctx, p.id, money.Nano(limit))
		return err
	})
	if ok := p.lend(limit); ok != (err == nil) || !ok && !errors.Is(err, ledger.ErrInsufficient) {
		f.fatalf("an overdraft of %d: %v", limit, err)
	}
}

func (f *funding) expire() {
	_, err := f.db.ExpireLots(f.ctx)
	f.must(err)
	for _, p := range f.purses {
		p.expire(f.at())
	}
}

// purchase begins a top-up and writes down what the payment provider will
// tell of it.
func (f *funding) purchase(p *purse) {
	t := &purchase{id: f.id("tup_"), pi: f.id("pi_"), amount: f.dollars(30), bonus: f.dollars(9) * f.rng.Int64N(2)}
	if t.bonus > 0 {
		t.bonus += f.rng.Int64N(1000) // any share of it must be rounded
	}
	p.topups = append(p.topups, t)
	f.tx(func(tx *ledger.Tx) error {
		_, err := tx.CreateTopup(f.ctx, ledger.Topup{ID: t.id, Customer: p.id, Kind: ledger.TopupCheckout, Amount: money.Nano(t.amount), Bonus: money.Nano(t.bonus)})
		if err != nil {
			return err
		}
		_, err = tx.MoveTopup(f.ctx, t.id, []string{ledger.TopupCreated}, ledger.TopupSubmitted, func(r *ledger.Topup) { r.PaymentIntent = t.pi })
		return err
	})
	fee := int64(-1)
	if f.rng.IntN(2) == 0 {
		fee = t.amount/50 + 300_000_000
	}
	f.later("pay "+t.id, p, func() bool { return f.pay(p, t, fee) })
	f.aftermath(p, t)
}

func (f *funding) pay(p *purse, t *purchase, fee int64) bool {
	pay := ledger.Payment{PaymentIntent: t.pi, Charge: "ch_" + t.pi, Amount: money.Nano(t.amount)}
	if n := money.Nano(fee); fee >= 0 {
		pay.Fee = &n
	}
	f.tx(func(tx *ledger.Tx) error {
		credited, _, err := tx.FundTopup(f.ctx, t.id, pay)
		if err == nil && credited == t.paid {
			err = fmt.Errorf("payment %s credited: %v, was paid: %v", t.pi, credited, t.paid)
		}
		return err
	})
	if !t.paid {
		p.pay(t, fee, 0, f.at())
	}
	return true
}

// invoice pays a period of a plan. Its payment is known with it.
func (f *funding) invoice(p *purse) {
	t := &purchase{pi: f.id("pi_"), plan: f.id("in_"), amount: f.dollars(30), bonus: f.dollars(20)}
	p.topups = append(p.topups, t)
	expires := f.now.Add(time.Duration(100+f.rng.IntN(1000)) * time.Minute)
	in := ledger.Invoice{ID: t.plan, Customer: p.id, Included: money.Nano(t.bonus), ExpiresAt: expires,
		Payment: ledger.Payment{PaymentIntent: t.pi, Amount: money.Nano(t.amount)}}
	for range 3 {
		f.tx(func(tx *ledger.Tx) error {
			credited, _, err := tx.CreditInvoice(f.ctx, in)
			if err == nil && credited == t.paid {
				err = fmt.Errorf("invoice %s credited: %v, was paid: %v", in.ID, credited, t.paid)
			}
			return err
		})
		if !t.paid {
			made, err := f.db.TopupByPayment(f.ctx, t.pi)
			f.must(err)
			t.id = made.ID
			p.pay(t, -1, expires.UnixMicro(), f.at())
		}
	}
	f.aftermath(p, t)
}

// aftermath is what may be told of a purchase beside its payment.
func (f *funding) aftermath(p *purse, t *purchase) {
	var sum int64
	for range f.rng.IntN(4) {
		if sum = min(t.amount, sum+f.dollars(10)); f.rng.IntN(8) == 0 {
			sum = t.amount
		}
		total := sum
		f.later(fmt.Sprint("refund ", t.id, " to ", total), p, func() bool { return f.refund(p, t, total) })
	}
	if f.rng.IntN(2) == 0 {
		fee := t.amount/40 + 300_000_000
		f.later("fee "+t.id, p, func() bool { return f.fee(p, t, fee) })
	}
	for range f.rng.IntN(3) {
		d := &quarrel{id: f.id("dp_"), amount: min(t.amount, f.dollars(30)), fee: 15e9}
		t.disputes = append(t.disputes, d)
		f.later("dispute "+d.id, p, func() bool { return f.dispute(p, t, d, &d.open) })
		for _, end := range [][]*bool{{}, {&d.won}, {&d.lost}, {&d.won, &d.lost}}[f.rng.IntN(4)] {
			f.later("end of dispute "+d.id, p, func() bool { return f.dispute(p, t, d, end) })
		}
	}
}

func (f *funding) later(what string, p *purse, tell func() bool) {
	const times = 5
	for range times {
		f.news = append(f.news, news{what, p, tell})
	}
}

// hear tells one of the news; what cannot be believed yet is told again.
func (f *funding) hear() {
	if len(f.news) == 0 {
		return
	}
	i := f.rng.IntN(len(f.news))
	n := f.news[i]
	f.news = slices.Delete(f.news, i, i+1)
	if !n.tell() {
		f.news = append(f.news, n)
	}
}

func (f *funding) refund(p *purse, t *purchase, total int64) bool {
	f.tx(func(tx *ledger.Tx) error {
		_, err := tx.RefundTo(f.ctx, t.pi, money.Nano(total))
		return err
	})
	t.seen = max(t.seen, total)
	p.tell(t, f.at())
	return true
}

func (f *funding) fee(p *purse, t *purchase, fee int64) bool {
	err := f.db.Tx(f.ctx, func(tx *ledger.Tx) error { return tx.SetFee(f.ctx, t.pi, money.Nano(fee)) })
	if !t.paid {
		if !errors.Is(err, ledger.ErrConflict) {
			f.fatalf("a fee before the payment: %v", err)
		}
		return false
	}
	f.must(err)
	if !t.feeKnown {
		p.charge(t, fee)
		t.feeKnown = true
	}
	return true
}

func (f *funding) dispute(p *purse, t *purchase, d *quarrel, told *bool) bool {
	in := ledger.Dispute{ID: d.id, PaymentIntent: t.pi, Amount: money.Nano(d.amount), Fee: money.Nano(d.fee)}
	f.tx(func(tx *ledger.Tx) (err error) {
		if told == &d.open {
			_, err = tx.OpenDispute(f.ctx, in)
		} else {
			_, err = tx.CloseDispute(f.ctx, in, told == &d.won)
		}
		return err
	})
	if d.created == 0 {
		d.created = f.at()
		p.post("fees:stripe", -d.fee)
		p.post("stripe_clearing", d.fee)
	}
	if told == &d.open || !d.won && !d.lost { // the first outcome counts
		*told = true
	}
	p.tell(t, f.at())
	return true
}

// operatorRefund refunds part of a purchase; half of the time the payment
// provider refuses, and it is booked back.
func (f *funding) operatorRefund(p *purse) {
	i := slices.IndexFunc(p.topups, func(t *purchase) bool { return t.paid && t.inWallet() })
	if i < 0 {
		return
	}
	t := p.topups[i]
	before := *t
	r := ledger.Refund{ID: f.id("ref_"), Topup: t.id, Amount: money.Nano(f.dollars(8))}
	err := f.db.Tx(f.ctx, func(tx *ledger.Tx) error {
		_, _, err := tx.CreateRefund(f.ctx, r)
		return err
	})
	if !p.mayRefund(t, int64(r.Amount)) {
		if !errors.Is(err, ledger.ErrSpent) && !errors.Is(err, ledger.ErrInsufficient) {
			f.fatalf("a refund of %d: %v", r.Amount, err)
		}
		return
	}
	f.must(err)
	t.seen += int64(r.Amount)
	p.tell(t, f.at())
	if f.rng.IntN(2) == 0 {
		return
	}
	f.compare()
	f.now = f.now.Add(time.Second)
	for range 3 {
		f.tx(func(tx *ledger.Tx) error {
			_, err := tx.FailRefund(f.ctx, r.ID, "refused", money.Nano(before.refunded))
			return err
		})
	}
	bonus := t.back - before.back
	t.seen, t.refunded, t.back = before.seen, before.refunded, before.back
	p.credit(purseLot{id: r.ID, kind: "paid", parent: t.id, amount: int64(r.Amount), created: f.at()}, "stripe_clearing")
	if bonus > 0 {
		p.credit(purseLot{id: r.ID + "/bonus", kind: "promo", parent: t.id, amount: bonus, created: f.at()}, "promo")
	}
}

func (p *purse) mayRefund(t *purchase, amount int64) bool {
	rest := int64(0)
	for _, l := range p.lots {
		if l.kind == "paid" && (l.id == t.id || l.parent == t.id) {
			rest += l.rest()
		}
	}
	bonus := share(t.bonus, t.refunded+t.lost+amount, t.amount) - t.back
	return amount <= min(rest, t.amount-t.refunded-t.lost) && amount+bonus <= p.available()
}

func (f *funding) grant(p *purse) {
	if f.leases[p.id] != nil {
		return
	}
	l := &fundedLease{id: f.id("l_"), granted: f.dollars(12)}
	_, _, err := f.db.Grant(f.ctx, ledger.GrantRequest{LeaseID: l.id, Customer: p.id, Session: fmt.Sprint("s", f.seed), Gateway: fmt.Sprint("g", f.seed),
		GrantNo: 1, Need: money.Nano(l.granted)})
	switch {
	case p.disputes > 0:
		if !errors.Is(err, ledger.ErrFrozen) {
			f.fatalf("a grant with an open dispute: %v", err)
		}
	case l.granted > p.available():
		if !errors.Is(err, ledger.ErrInsufficient) {
			f.fatalf("a grant of %d: %v", l.granted, err)
		}
		if l.granted > p.spendable() && !p.depleted {
			p.depleted = true
			p.events["wallet.depleted"]++
		}
	default:
		f.must(err)
		p.held += l.granted
		f.leases[p.id] = l
	}
}

// use settles an event, now and then one that costs more than its price or
// than its lease holds.
func (f *funding) use(p *purse) {
	l := f.leases[p.id]
	if l == nil {
		return
	}
	price, cost := f.rng.Int64N(9e9), f.rng.Int64N(6e9)
	l.seq++
	l.cost += money.Nano(cost)
	l.price += money.Nano(price)
	f.settle(&usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, Provider: "openai", LeaseID: l.id, Seq: l.seq, Customer: p.id,
		TimeMs: f.now.UnixMilli(), Cost: money.Nano(cost), Price: money.Nano(price)})
	covered := min(price, l.granted-l.used)
	l.used += covered
	p.usage += price
	p.cost += cost
	p.post("revenue:usage", price)
	p.post("cogs:openai", -cost)
	p.post("provider_payable:openai", cost)
	p.step(false, func() {
		p.held -= covered
		p.debited += covered
		p.owed += price - covered
		p.use(covered + p.collect())
	})
	month, day := f.now.Format("2006-01"), f.now.Format("2006-01-02")
	if p.month[month] += price - cost; p.month[month] < 0 && p.month[month]-price+cost >= 0 && !p.lossTold[month] {
		p.lossTold[month] = true
		p.events["margin.negative"]++
	}
	if p.day[day] += price; p.dayLimit > 0 && p.day[day] >= p.dayLimit && p.day[day]-price < p.dayLimit {
		p.events["limit.reached"]++
	}
}

func (f *funding) closeLease(p *purse) {
	l := f.leases[p.id]
	if l == nil {
		return
	}
	delete(f.leases, p.id)
	f.settle(&usage.Record{Kind: usage.KindClose, LeaseID: l.id, Seq: l.seq + 1, Customer: p.id, Count: l.seq, CostSum: l.cost, PriceSum: l.price,
		TimeMs: f.now.UnixMilli()})
	p.step(false, func() {
		p.held -= l.granted - l.used
		p.use(p.collect())
	})
}

func (f *funding) settle(r *usage.Record) {
	_, err := f.db.Settle(f.ctx, ledger.Batch{Topic: f.topic(), Epoch: f.epoch, From: f.offset, To: f.offset + 1,
		Records: []ledger.Settling{{Offset: f.offset, Rec: r}}})
	f.must(err)
	f.offset++
}

// compare holds everything the ledger says against the oracle.
func (f *funding) compare() {
	f.Helper()
	for _, p := range f.purses {
		f.compareWallet(p)
		f.compareLots(p)
		for _, t := range p.topups {
			got, err := f.db.Topup(f.ctx, t.id)
			f.must(err)
			if got.State == ledger.TopupSucceeded != t.paid || int64(got.Refunded) != t.refunded || int64(got.Lost) != t.lost ||
				int64(got.BonusBack) != t.back || int64(got.Fee) != t.fee || got.FeeKnown != t.feeKnown {
				f.fatalf("top-up %+v\nwant %+v", got, *t)
			}
		}
		f.compareEvents(p)
	}
	f.compareAccounts()
}

func (f *funding) compareWallet(p *purse) {
	f.Helper()
	w, err := f.db.Wallet(f.ctx, p.id)
	f.must(err)
	got := [...]int64{int64(w.Credited), int64(w.Debited), int64(w.Held), int64(w.Receivable), int64(w.Overdraft), int64(w.Balance()), int64(w.Available())}
	want := [...]int64{p.credited, p.debited, p.held, p.owed, p.overdraft, p.balance(), p.available()}
	if got != want {
		f.fatalf("wallet %s (credited, debited, held, receivable, overdraft, balance, available) is %v, want %v", p.id, got, want)
	}
	c, err := f.db.Customer(f.ctx, p.id)
	f.must(err)
	if status := map[bool]string{true: ledger.Frozen, false: ledger.Active}[p.disputes > 0]; w.Status != status || c.Status != status {
		f.fatalf("%s is %s and %s with %d disputes", p.id, w.Status, c.Status, p.disputes)
	}
}

func (f *funding) compareLots(p *purse) {
	f.Helper()
	lots, err := f.db.Lots(f.ctx, p.id)
	f.must(err)
	var got, want []purseLot
	for _, l := range lots {
		got = append(got, purseLot{id: l.ID, kind: l.Kind, parent: l.Parent, priority: int64(l.Priority), amount: int64(l.Amount), used: int64(l.Used),
			expired: int64(l.Expired), refunded: int64(l.Refunded)})
		if l.Rest != l.Amount-l.Used-l.Expired-l.Refunded {
			f.fatalf("lot %+v", l)
		}
	}
	for _, l := range p.lots {
		x := *l
		x.expires, x.created = 0, 0
		want = append(want, x)
	}
	byID := func(a, b purseLot) int { return cmp.Compare(a.id, b.id) }
	slices.SortFunc(got, byID)
	slices.SortFunc(want, byID)
	if !slices.Equal(got, want) {
		f.fatalf("lots of %s\n%+v\nwant\n%+v", p.id, got, want)
	}
}

func (f *funding) compareEvents(p *purse) {
	f.Helper()
	f.tx(func(tx *ledger.Tx) error {
		for _, kind := range ledger.EventTypes {
			n, err := tx.Count(f.ctx, "SELECT COUNT(*) FROM outbox_event WHERE customer = $1 AND type = $2", p.id, kind)
			if err == nil && n != int64(p.events[kind]) {
				err = fmt.Errorf("%d events %s of %s, want %d", n, kind, p.id, p.events[kind])
			}
			if err != nil {
				return err
			}
		}
		n, err := tx.Count(f.ctx, "SELECT COUNT(*) FROM topup_due WHERE customer = $1", p.id)
		if err == nil && (n == 1) != p.due {
			err = fmt.Errorf("%s is due: %v, want %v", p.id, n, p.due)
		}
		return err
	})
}

func (f *funding) compareAccounts() {
	f.Helper()
	want := maps.Clone(f.accounts)
	for _, p := range f.purses {
		want["wallet:"+p.id] = p.balance() + p.overdraft
		want["receivable:"+p.id] = -p.owed
		f.accounts["wallet:"+p.id], f.accounts["receivable:"+p.id] = want["wallet:"+p.id], want["receivable:"+p.id]
	}
	f.tx(func(tx *ledger.Tx) error {
		got, err := tx.Accounts(f.ctx)
		for account := range want {
			if err == nil && got[account] != want[account] {
				err = fmt.Errorf("account %s is %s, want %s", account, money.Nano(got[account]), money.Nano(want[account]))
			}
		}
		return err
	})
}

// finish tells all news, closes all leases, lets expire what can, and compares
// each wallet with the bare facts.
func (f *funding) finish() {
	for len(f.news) > 0 {
		f.now = f.now.Add(time.Second)
		f.hear()
	}
	f.compare()
	for _, p := range f.purses {
		f.closeLease(p)
	}
	f.now = f.now.AddDate(0, 0, 2) // all that can expire
	f.expire()
	for _, p := range f.purses {
		if got := p.balance() - p.owed; got != p.worth() {
			f.fatalf("%s is worth %s, the facts say %s", p.id, money.Nano(got), money.Nano(p.worth()))
		}
	}
	f.compare()
	b, err := f.db.Books(f.ctx)
	f.must(err)
	if len(b.Breaks) > 0 || b.Held != 0 {
		f.fatalf("books %+v", b)
	}
	f.compareFees()
	f.must(f.db.EndSession(f.ctx, fmt.Sprint("s", f.seed)))
	f.must(f.db.Close())
}

// compareFees holds what analytics reads of funding against the facts.
func (f *funding) compareFees() {
	fees, err := f.db.FundingFees(f.ctx)
	f.must(err)
	for _, p := range f.purses {
		var want ledger.FundingFees
		want.Funded = money.Nano(p.given)
		for _, t := range p.topups {
			for _, d := range t.disputes {
				if d.created > 0 {
					want.Fees += money.Nano(d.fee)
				}
				if d.opened && !d.closed && t.inWallet() {
					want.Funded -= money.Nano(d.amount)
				}
			}
			if !t.paid {
				continue
			}
			want.Fees += money.Nano(t.fee)
			want.Funded += money.Nano(t.bonus - t.back)
			if t.inWallet() {
				want.Funded += money.Nano(t.amount - t.refunded - t.lost)
			}
		}
		if fees[p.id] != want {
			f.fatalf("fees of %s: %+v, want %+v", p.id, fees[p.id], want)
		}
	}
}

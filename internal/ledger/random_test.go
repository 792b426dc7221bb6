package ledger_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

var (
	seeds = flag.Uint64("seeds", 3, "random histories per backend")
	seed0 = flag.Uint64("seed", 1, "the first of them")
)

// TestRandom runs random histories of gateways and processors against the
// oracle: duplicates, reordering, crashes before COMMIT, fenced owners,
// gateways that die and return, a usage log that is lost and produced again. After
// every step all wallets are compared; when everything has arrived, the books
// must be clean and count what the oracle counts.
func TestRandom(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		for seed := *seed0; seed < *seed0+*seeds; seed++ {
			h := newHistory(t, c, seed)
			for h.step = range 120 {
				h.next()
				h.compare()
			}
			h.finish()
		}
	})
}

const (
	gracePeriod = 45 * time.Minute
	sessionTTL  = 10 * time.Minute
	parts       = 2
)

// history is one random run. Its customers are named after the seed, so that
// one database serves several.
type history struct {
	*testing.T
	ctx    context.Context
	rng    *rand.Rand
	db     *ledger.DB
	seed   uint64
	step   int
	now    time.Time
	oracle oracle
	rough  bool // connections break

	customers []string
	gateways  []*gateway
	topic     string
	logs      [parts][]*usage.Record
	owners    [parts][2]owner
	nextLease int
	base      ledger.Books // before this history
}

type owner struct{ epoch, next int64 }

type gateway struct {
	id, session string
	dead        bool
	leases      []*gwLease
	queue       []*usage.Record // in its spool, not in the log
}

type gwLease struct {
	id, customer string
	no           int64
	seq          uint64
	count        uint64
	cost, price  money.Nano
}

func newHistory(t *testing.T, c ledger.Config, seed uint64) *history {
	h := &history{T: t, ctx: context.Background(), rng: rand.New(rand.NewPCG(seed, 0)), seed: seed, topic: fmt.Sprintf("t%d", seed),
		now:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, int(seed-*seed0), 0),
		oracle: oracle{wallets: map[string]*oracleWallet{}, leases: map[string]*oracleLease{}}}
	c.Now = func() time.Time { return h.now }
	h.db = ledgertest.Open(t, c)
	for i := range 3 {
		id := fmt.Sprintf("c%d-%d", seed, i)
		fund(t, h.db, id, money.Nano(1000))
		h.customers = append(h.customers, id)
		h.oracle.wallets[id] = &oracleWallet{credited: 1000}
	}
	for i := range 2 {
		g := &gateway{id: fmt.Sprintf("g%d-%d", seed, i)}
		h.gateways = append(h.gateways, g)
		h.start(g)
	}
	var err error
	if h.base, err = h.db.Books(h.ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *history) fatalf(format string, args ...any) {
	h.Helper()
	h.Fatalf("seed %d, step %d: %s", h.seed, h.step, fmt.Sprintf(format, args...))
}

func (h *history) must(err error) {
	h.Helper()
	if err != nil {
		h.fatalf("%v", err)
	}
}

func (h *history) start(g *gateway) {
	g.session = fmt.Sprintf("%s-%d", g.id, h.rng.Uint64())
	g.dead = false
	h.insist(func() error {
		_, err := h.db.StartSession(h.ctx, ledger.Session{ID: g.session, Gateway: g.id, TTL: sessionTTL})
		return err
	})
}

// next is one step of somebody.
func (h *history) next() {
	h.now = h.now.Add(time.Millisecond)
	g := h.gateways[h.rng.IntN(len(h.gateways))]
	switch n := h.rng.IntN(20); {
	case n < 1:
		h.credit()
	case n < 2:
		h.debit()
	case n < 5:
		h.grant(g)
	case n < 9:
		h.use(g)
	case n < 12:
		h.produce(g)
	case n < 17:
		h.settle(h.rng.IntN(parts), h.rng.IntN(2))
	case n < 18 && h.rng.IntN(3) == 0:
		g.dead = true
	case n < 19 && h.rng.IntN(4) == 0:
		h.reclaim()
	case n < 20 && h.rng.IntN(6) == 0:
		h.loseLog()
	}
}

func (h *history) credit() {
	id := h.customers[h.rng.IntN(len(h.customers))]
	amount := 1 + h.rng.Int64N(500)
	kind := []string{ledger.Paid, ledger.Promo}[h.rng.IntN(2)]
	h.must(h.once("credit", func(tx *ledger.Tx) error {
		_, _, err := tx.Credit(h.ctx, ledger.Credit{Customer: id, Amount: money.Nano(amount), Kind: kind})
		return err
	}))
	h.oracle.wallets[id].credit(amount)
}

func (h *history) debit() {
	id := h.customers[h.rng.IntN(len(h.customers))]
	amount := 1 + h.rng.Int64N(300)
	err := h.once("debit", func(tx *ledger.Tx) error {
		_, _, err := tx.Debit(h.ctx, ledger.Debit{Customer: id, Amount: money.Nano(amount)})
		return err
	})
	if ok := h.oracle.wallets[id].debit(amount); ok != (err == nil) || !ok && !errors.Is(err, ledger.ErrInsufficient) {
		h.fatalf("a debit of %d: %v", amount, err)
	}
}

// grant opens a lease or grows one, sometimes twice, as after a lost answer.
func (h *history) grant(g *gateway) {
	if g.dead {
		return
	}
	l := &gwLease{id: fmt.Sprintf("l%d-%d", h.seed, h.nextLease), customer: h.customers[h.rng.IntN(len(h.customers))]}
	h.nextLease++
	if len(g.leases) > 0 && h.rng.IntN(3) == 0 {
		l = g.leases[h.rng.IntN(len(g.leases))]
		if o := h.oracle.leases[l.id]; !o.live || o.closingAt != 0 {
			return
		}
	}
	q := ledger.GrantRequest{LeaseID: l.id, Customer: l.customer, Session: g.session, Gateway: g.id, GrantNo: l.no + 1,
		Need: money.Nano(h.rng.Int64N(200)), Want: money.Nano(h.rng.Int64N(500))}
	amount, ok := h.oracle.wallets[l.customer].slice(int64(q.Need), int64(q.Want), int64(h.alive()))
	grant := func() (l ledger.Lease, err error) {
		err = persist(h.rough, func() (err error) {
			l, _, err = h.db.Grant(h.ctx, q)
			return err
		})
		return l, err
	}
	got, err := grant()
	if !ok {
		if !errors.Is(err, ledger.ErrInsufficient) {
			h.fatalf("%+v: %v, want insufficient", q, err)
		}
		return
	}
	h.must(err)
	h.oracle.grant(l.id, l.customer, g.id, amount)
	if int64(got.Granted) != h.oracle.leases[l.id].granted {
		h.fatalf("%+v: granted %d, want %d", q, got.Granted, h.oracle.leases[l.id].granted)
	}
	if l.no++; l.no == 1 {
		g.leases = append(g.leases, l)
	}
	if h.rng.IntN(2) == 0 {
		again, err := grant()
		if h.must(err); again.Granted != got.Granted {
			h.fatalf("%+v repeated: %+v, was %+v", q, again, got)
		}
	}
}

func (h *history) alive() (n int) {
	for _, g := range h.gateways {
		if !g.dead {
			h.beat(g)
		}
	}
	return h.beat(h.anyAlive()).Gateways
}

func (h *history) anyAlive() *gateway {
	for _, g := range h.gateways {
		if !g.dead {
			return g
		}
	}
	h.start(h.gateways[0])
	return h.gateways[0]
}

// use writes records into a gateway's spool; a dead one's may write on, not
// knowing that the ledger gave it up.
func (h *history) use(g *gateway) {
	for range 1 + h.rng.IntN(3) {
		if len(g.leases) == 0 {
			return
		}
		i := h.rng.IntN(len(g.leases))
		l := g.leases[i]
		r := h.record(g, l)
		switch h.rng.IntN(8) {
		case 0:
			r.Kind, r.Returned = usage.KindReturn, money.Nano(h.rng.Int64N(100))
		case 1:
			h.close(l, r)
			g.leases = slices.Delete(g.leases, i, i+1)
		case 2:
			r.Kind, r.Row, r.Reserved = usage.KindUnknown, usage.RowLeakage, 50
			l.count++
		default:
			r.Kind, r.Row, r.Provider = usage.KindUsage, usage.RowUsage, "p"
			r.Cost, r.Price = money.Nano(h.rng.Int64N(50)), money.Nano(h.rng.Int64N(150))
			l.count++
			l.cost += r.Cost
			l.price += r.Price
		}
		g.queue = append(g.queue, r)
	}
}

func (h *history) record(g *gateway, l *gwLease) *usage.Record {
	l.seq++
	return &usage.Record{LeaseID: l.id, Seq: l.seq, Customer: l.customer, Gateway: g.id, TimeMs: h.now.UnixMilli()}
}

func (h *history) close(l *gwLease, r *usage.Record) {
	r.Kind, r.Count, r.CostSum, r.PriceSum = usage.KindClose, l.count, l.cost, l.price
}

// produce moves records from a spool to the log: out of order, and some twice.
func (h *history) produce(g *gateway) {
	for range 1 + h.rng.IntN(6) {
		if len(g.queue) == 0 {
			return
		}
		i := min(len(g.queue)-1, h.rng.IntN(3))
		r := g.queue[i]
		if h.rng.IntN(4) > 0 {
			g.queue = slices.Delete(g.queue, i, i+1)
		}
		h.append(r)
	}
}

func (h *history) append(r *usage.Record) {
	p := slices.Index(h.customers, r.Customer) % parts
	h.logs[p] = append(h.logs[p], r)
}

// settle is one attempt of one of a partition's two owners, who do not know
// of each other.
func (h *history) settle(p, who int) {
	o := &h.owners[p][who]
	end := min(int64(len(h.logs[p])), o.next+1+h.rng.Int64N(8))
	if o.epoch == 0 || end <= o.next || h.rng.IntN(8) == 0 {
		*o = h.acquire(p)
		return
	}
	b := ledger.Batch{Topic: h.topic, Part: int32(p), Epoch: o.epoch, From: o.next, To: end}
	for i := o.next; i < end; i++ {
		b.Records = append(b.Records, ledger.Settling{Offset: i, Rec: h.logs[p][i]})
	}
	newest := o.epoch > h.owners[p][1-who].epoch
	if newest && h.rng.IntN(6) == 0 {
		if err := persist(h.rough, func() error { return h.db.SettleAndCrash(h.ctx, b) }); !errors.Is(err, ledger.ErrCrash) {
			h.fatalf("crash: %v", err)
		}
		return
	}
	if !newest {
		err := persist(h.rough, func() error { _, err := h.db.Settle(h.ctx, b); return err })
		if !errors.Is(err, ledger.ErrFenced) {
			h.fatalf("an old owner settled: %v", err)
		}
		return
	}
	out, answered := h.book(o, b)
	o.next = end
	var fresh []int
	for i, s := range b.Records {
		if h.oracle.settle(s.Rec, h.now.UnixMicro()) {
			fresh = append(fresh, i)
		}
	}
	if answered && !slices.Equal(fresh, out.Fresh) {
		h.fatalf("batch %s: fresh %v, want %v", out.Manifest.ID, out.Fresh, fresh)
	}
}

// reclaim lets the time of the dead run out; the others are heard.
func (h *history) reclaim() {
	h.now = h.now.Add(sessionTTL + gracePeriod + time.Second)
	for _, g := range h.gateways {
		if !g.dead {
			h.beat(g)
		}
	}
	dead := map[string]bool{}
	for _, g := range h.gateways {
		dead[g.id] = g.dead
	}
	want := map[string]bool{}
	before := h.now.Add(-gracePeriod).UnixMicro()
	for id, l := range h.oracle.leases {
		if l.live && (dead[l.gateway] || l.closingAt != 0 && l.closingAt < before) {
			want[id] = true
			l.reclaim()
		}
	}
	var got []ledger.Lease
	h.insist(func() error {
		taken, err := h.db.Reclaim(h.ctx, gracePeriod)
		got = append(got, taken...)
		return err
	})
	for _, l := range got {
		if !want[l.ID] {
			h.fatalf("%s was reclaimed", l.ID)
		}
		delete(want, l.ID)
	}
	for id := range want { // the answer may be lost, the effect not
		var l ledger.Lease
		h.insist(func() (err error) { l, err = h.db.Lease(h.ctx, id); return err })
		if !h.rough || l.State != ledger.LeaseReclaimed {
			h.fatalf("%s was not reclaimed", id)
		}
	}
}

// loseLog deletes the usage log: the spools produce everything again into a
// new topic, with the order between them changed.
func (h *history) loseLog() {
	for p := range h.logs {
		log := h.logs[p]
		for i := range max(0, len(log)-1) {
			if h.rng.IntN(4) == 0 {
				log[i], log[i+1] = log[i+1], log[i]
			}
		}
	}
	h.topic += "'"
	h.owners = [parts][2]owner{}
}

// compare holds every wallet against the oracle's.
func (h *history) compare() {
	h.Helper()
	for id, want := range h.oracle.wallets {
		var w ledger.Wallet
		h.insist(func() (err error) { w, err = h.db.Wallet(h.ctx, id); return err })
		got := oracleWallet{int64(w.Credited), int64(w.Debited), int64(w.Held), int64(w.Receivable), want.charged, want.withdrawn}
		if got != *want {
			h.fatalf("wallet %s is %+v, want %+v", id, got, *want)
		}
		if want.debited+want.owed != want.charged+want.withdrawn {
			h.fatalf("the oracle's %s: %+v", id, *want)
		}
	}
}

// finish lets everything arrive: all leases are closed, all spools produced,
// all logs settled.
func (h *history) finish() {
	for _, g := range h.gateways {
		for _, l := range g.leases {
			r := h.record(g, l)
			h.close(l, r)
			g.queue = append(g.queue, r)
		}
		for _, r := range g.queue {
			h.append(r)
		}
	}
	for p := range h.logs {
		for tries := 0; h.owners[p][0].next < int64(len(h.logs[p])); tries++ {
			if h.settle(p, 0); tries > 10_000 {
				h.fatalf("partition %d does not advance", p)
			}
		}
	}
	h.compare()
	b := h.books()
	want := ledger.Sums{Count: h.base.Events.Count + h.oracle.events, Cost: h.base.Events.Cost + money.Nano(h.oracle.cost),
		Price: h.base.Events.Price + money.Nano(h.oracle.price)}
	if b.Events != want || b.Ledger != want || b.Held != 0 || b.OpenLeases != 0 || len(b.Breaks) > 0 {
		h.fatalf("books %+v\nwant %+v", b, want)
	}
	for i, g := range h.gateways {
		h.insist(func() error { return h.db.EndSession(h.ctx, g.session) })
		h.gateways[i].dead = true
	}
	h.must(h.db.Close())
}

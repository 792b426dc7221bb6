package lease

import (
	"context"
	"errors"
	"testing"
	"time"
	"unsafe"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

const dollar = money.Dollar

// TestWarm holds a warm wallet to memory: its requests are admitted whatever
// the ledger does, and at most once a second it is asked for growth.
func TestWarm(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 1000 * dollar})
	g := w.gate("gw")
	for range 20 { // a lease sized by one request grows to the spend rate
		g.settleOne(g.reserve("acme", dollar/100), "acme", dollar/200)
		w.now = w.now.Add(time.Second)
	}
	calls := g.calls
	g.fault = failBefore
	for range 30 { // half of what a minute at this rate spends
		g.settleOne(g.reserve("acme", dollar/100), "acme", dollar/200)
		w.now = w.now.Add(time.Millisecond)
	}
	if g.calls > calls+1 {
		t.Errorf("%d calls of the ledger for 30 requests of a warm wallet", g.calls-calls)
	}
}

// TestGrowth: a lease that falls below half of what it should hold grows
// before a request has to wait for that.
func TestGrowth(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 1000 * dollar})
	g := w.gate("gw")
	r := g.reserve("acme", dollar)
	before := w.lease(r.l.id).Granted
	g.settleOne(r, "acme", dollar)
	w.now = w.now.Add(2 * growEvery)
	g.settleOne(g.reserve("acme", 0), "acme", 0)
	if after := w.lease(r.l.id).Granted; after < before+dollar {
		t.Errorf("granted %s, then %s", before, after)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar, "ice": dollar})
	err := w.ledger.Tx(t.Context(), func(tx *ledger.Tx) error {
		frozen := ledger.Frozen
		_, err := tx.UpdateCustomer(t.Context(), "ice", &frozen, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	g := w.gate("gw")
	reserve := func(customer string, need money.Nano) error {
		_, err := g.Reserve(t.Context(), customer, need)
		return err
	}
	var short *ledger.InsufficientError
	if err := reserve("acme", 11*dollar); !errors.As(err, &short) || short.Wallet.Balance() != 10*dollar {
		t.Errorf("more than the balance: %v", err)
	}
	if err := reserve("ice", dollar/2); !errors.Is(err, ledger.ErrFrozen) {
		t.Errorf("frozen: %v", err)
	}
	if err := reserve("nobody", dollar/2); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	g.full = true
	if err := reserve("acme", dollar); !errors.Is(err, ErrNoNewLeases) {
		t.Errorf("spool filling up: %v", err)
	}
	g.full, g.fault = false, failBefore
	if err := reserve("acme", dollar); !errors.Is(err, ErrLedger) {
		t.Errorf("ledger away: %v", err)
	}
	g.fault = noFault
	g.reserve("acme", 9*dollar)
	if err := reserve("acme", 5*dollar); !errors.As(err, &short) || short.Wallet.Balance() < 5*dollar {
		t.Errorf("held by a request in flight: %v", err)
	}
	g.Stop(t.Context())
	if err := reserve("acme", dollar/100); !errors.Is(err, ErrStopping) {
		t.Errorf("stopped: %v", err)
	}
}

// TestServesWithoutLedger: a lease admits while the ledger is away, until it is
// spent or its time is over.
func TestServesWithoutLedger(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 100 * dollar})
	g := w.gate("gw")
	g.settleOne(g.reserve("acme", 10*dollar), "acme", 0)
	g.fault = failBefore
	var spent money.Nano
	for ; spent <= 100*dollar; spent += dollar {
		r, err := g.Reserve(t.Context(), "acme", dollar)
		if errors.Is(err, ErrLedger) {
			break
		}
		g.settleOne(r, "acme", dollar)
	}
	if spent < 10*dollar || w.wallet("acme").Held-spent >= dollar {
		t.Errorf("%s were spent of the %s that were leased", spent, w.wallet("acme").Held)
	}
}

// TestTTL: admission ends at nine tenths of the TTL after the heartbeat was
// sent, however late its answer came.
func TestTTL(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 100 * dollar})
	g := w.gate("gw")
	sent := w.now
	g.settleOne(g.reserve("acme", dollar), "acme", 0)
	w.now = sent.Add(3 * time.Second)
	g.Renew(g.session, sent, 1)
	g.full = true // no grant may hide that a dead lease is dead
	w.now = sent.Add(9*time.Minute - time.Millisecond)
	g.Void(g.reserve("acme", dollar))
	w.now = sent.Add(9 * time.Minute)
	if _, err := g.Reserve(t.Context(), "acme", dollar); !errors.Is(err, ErrLedger) {
		t.Errorf("a dead lease: %v", err)
	}
}

// TestNoResurrection: a lease whose time was over does not admit again after a
// late heartbeat, for the ledger may have reclaimed it. Here it has.
func TestNoResurrection(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar})
	g := w.gate("gw")
	g.settleOne(g.reserve("acme", 8*dollar), "acme", 0)
	w.now = w.now.Add(testTTL + testGrace + time.Minute)
	if taken, err := w.ledger.Reclaim(t.Context(), testGrace); err != nil || len(taken) != 1 {
		t.Fatal(taken, err)
	}
	other := w.gate("gw-2")
	other.settleOne(other.reserve("acme", 8*dollar), "acme", 8*dollar)
	g.beat()
	if _, err := g.Reserve(t.Context(), "acme", 8*dollar); !errors.Is(err, ledger.ErrInsufficient) {
		t.Fatalf("the money was spent from two leases: %v", err)
	}
	other.Stop(t.Context())
	other.deliver(100)
	g.deliver(100)
	w.balanced()
}

// TestClockJump: a suspended machine's monotonic clock stands still, so the
// wall clock ends the lease; and one that was set back does not prolong it.
func TestClockJump(t *testing.T) {
	w := newWorld(t, nil)
	g := w.gate("gw")
	sent := time.Now()
	g.Renew(g.session, sent, 1)
	for _, c := range []struct {
		monotonic, wall time.Duration
		live            bool
	}{{time.Minute, time.Minute, true}, {time.Minute, 9 * time.Minute, false}, {9 * time.Minute, time.Minute, false}, {9 * time.Minute, -time.Hour, false}} {
		now := sent.Add(c.wall)
		(*clock)(unsafe.Pointer(&now)).monotonic += int64(c.monotonic - c.wall)
		if now.Sub(sent) != c.monotonic || !now.Round(0).Equal(sent.Round(0).Add(c.wall)) {
			t.Fatal("the layout of time.Time has changed")
		}
		if g.Live(now) != c.live {
			t.Errorf("live %v after %v by the monotonic and %v by the wall clock", !c.live, c.monotonic, c.wall)
		}
	}
}

// clock is the layout of a time.Time with a monotonic reading: no public
// function moves its two clocks apart.
type clock struct {
	wall      uint64
	monotonic int64
	location  *time.Location
}

// TestFreeCalls: calls that reserve nothing keep their lease open all the same.
func TestFreeCalls(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 0})
	g := w.gate("gw")
	first, second := g.reserve("acme", 0), g.reserve("acme", 0)
	g.settleOne(first, "acme", 0)
	w.now = w.now.Add(testIdle + time.Second)
	g.Sweep(w.now)
	g.Recall([]string{"acme"})
	g.settleOne(second, "acme", 0)
	g.Stop(t.Context())
	g.deliver(100)
	w.balanced()
	if n := len(g.recs); n != 3 || g.recs[2].Kind != usage.KindClose {
		t.Errorf("records: %+v", g.recs)
	}
}

func TestIdleClose(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar})
	g := w.gate("gw")
	r := g.reserve("acme", dollar)
	w.now = w.now.Add(5 * time.Minute)
	g.beat()
	g.Sweep(w.now)
	if leases, held := g.InFlight(); leases != 1 || held != dollar {
		t.Fatalf("a lease with a call in flight: %d leases hold %s", leases, held)
	}
	g.settleOne(r, "acme", dollar/2)
	w.now = w.now.Add(testIdle - time.Second)
	if g.Sweep(w.now); len(g.recs) != 1 {
		t.Fatal("closed too early")
	}
	w.now = w.now.Add(time.Second)
	g.Sweep(w.now)
	g.deliver(100)
	w.balanced()
	if got := w.wallet("acme"); got.Balance() != 10*dollar-dollar/2 {
		t.Errorf("balance %s", got.Balance())
	}
}

// TestRecall: a wallet's slices come back from a gateway that does not use
// them, all of an idle one, the free part of a busy one.
func TestRecall(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar})
	one, two := w.gate("gw-1"), w.gate("gw-2")
	idle := one.reserve("acme", 6*dollar)
	one.settleOne(idle, "acme", 0)
	busy := one.reserve("acme", dollar)
	refused := func() bool {
		_, err := two.Reserve(t.Context(), "acme", 6*dollar)
		return errors.Is(err, ledger.ErrInsufficient)
	}
	if !refused() {
		t.Fatal("spent twice")
	}
	free := busy.l.free()
	one.beat()
	if last := one.recs[len(one.recs)-1]; last.Kind != usage.KindReturn || last.Returned != free || free < 5*dollar {
		t.Fatalf("%s were free: %+v", free, last)
	}
	if _, err := one.Reserve(t.Context(), "acme", 6*dollar); err == nil {
		t.Fatal("what was returned was reserved again")
	}
	one.deliver(100)
	r := two.reserve("acme", 6*dollar)
	one.settleOne(busy, "acme", dollar)
	two.settleOne(r, "acme", 6*dollar)
	w.now = w.now.Add(2 * time.Second)
	if _, err := two.Reserve(t.Context(), "acme", 3*dollar); err != nil { // 10 − 1 − 6, and one's lease is spent
		t.Fatal(err)
	}
	if !refused() {
		t.Fatal("overspent")
	}
}

// TestLostGrants: whatever becomes of an unanswered grant, the lease is owned
// or closed in the end, and a late request finds it closed.
func TestLostGrants(t *testing.T) {
	for name, c := range map[string]struct {
		fault fault
		next  func(g *gate) // after the lost answer
	}{
		"lost request, asked again":          {failBefore, func(g *gate) { g.settleOne(g.reserve("acme", dollar), "acme", dollar/2) }},
		"lost answer, asked again":           {failAfter, func(g *gate) { g.settleOne(g.reserve("acme", dollar), "acme", dollar/2) }},
		"late request, asked again":          {failLate, func(g *gate) { g.settleOne(g.reserve("acme", dollar), "acme", dollar/2); g.arrive() }},
		"late request before the second":     {failLate, func(g *gate) { g.arrive(); g.settleOne(g.reserve("acme", dollar), "acme", dollar/2) }},
		"nobody asks again":                  {failAfter, func(*gate) {}},
		"nobody asks again, late request":    {failLate, func(g *gate) { g.w.now = g.w.now.Add(testIdle); g.Sweep(g.w.now); g.arrive() }},
		"late request after the burial":      {failLate, func(g *gate) { g.Stop(context.Background()); g.deliver(9); g.arrive() }},
		"stopped":                            {failAfter, func(g *gate) { g.Stop(context.Background()) }},
		"refused, then carried out":          {failLate, refusedThenCarriedOut},
		"another session":                    {failAfter, func(g *gate) { g.endSession(); g.beat(); g.beat() }},
		"another session, then late request": {failLate, func(g *gate) { g.endSession(); g.beat(); g.beat(); g.arrive() }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar})
			g := w.gate("gw")
			g.fault = c.fault
			if _, err := g.Reserve(t.Context(), "acme", 2*dollar); !errors.Is(err, ErrLedger) {
				t.Fatal(err)
			}
			g.fault = noFault
			c.next(g)
			w.now = w.now.Add(2 * testIdle)
			g.Sweep(w.now)
			g.deliver(100)
			w.balanced()
		})
	}
}

// refusedThenCarriedOut: the repetition is refused, for another gateway holds
// the money just then; after that the lost request succeeds.
func refusedThenCarriedOut(g *gate) {
	other := g.w.gate("gw-2")
	r := other.reserve("acme", 9*dollar)
	if _, err := g.Reserve(context.Background(), "acme", 2*dollar); !errors.Is(err, ledger.ErrInsufficient) {
		g.w.t.Fatal(err)
	}
	other.Void(r)
	other.Stop(context.Background())
	other.deliver(100)
	g.arrive()
}

func (g *gate) endSession() {
	g.w.t.Helper()
	if err := g.w.ledger.EndSession(context.Background(), g.session); err != nil {
		g.w.t.Fatal(err)
	}
	g.w.now = g.w.now.Add(time.Second)
}

// TestLostGrowth: a growth whose answer was lost is asked for under the same
// number, and is then there once.
func TestLostGrowth(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar})
	g := w.gate("gw")
	first := g.reserve("acme", dollar)
	g.growing.Wait() // it may grow by itself, once in this moment
	need := first.l.free() + 2*dollar
	g.fault = failAfter
	if _, err := g.Reserve(t.Context(), "acme", need); !errors.Is(err, ErrLedger) {
		t.Fatal(err)
	}
	g.fault = noFault
	once := w.lease(first.l.id).Granted
	second := g.reserve("acme", need)
	if row := w.lease(first.l.id); row.Granted != once || first.l.granted != once {
		t.Errorf("granted %s, then %s in the ledger and %s in memory", once, row.Granted, first.l.granted)
	}
	g.settleOne(first, "acme", dollar)
	g.settleOne(second, "acme", need)
	g.Stop(t.Context())
	g.deliver(100)
	w.balanced()
}

// slow is a ledger that answers grants when it is told to.
type slow struct {
	*gate
	asked, answer chan struct{}
}

func (s slow) Grant(ctx context.Context, q ledger.GrantRequest) (ledger.Lease, ledger.Wallet, error) {
	s.asked <- struct{}{}
	<-s.answer
	return s.gate.Grant(ctx, q)
}

// TestStopDuringGrant: a lease that is granted while the book stops is not
// used, and does not stay open. The same holds for the end of a session.
func TestStopDuringGrant(t *testing.T) {
	for name, end := range map[string]func(*gate){
		"stop":    func(g *gate) { g.Stop(context.Background()) },
		"session": func(g *gate) { g.Renew("another", g.w.now, 1) },
	} {
		for _, warm := range []bool{false, true} { // a first grant, and a growth
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar})
				g := w.gate("gw")
				if warm {
					g.settleOne(g.reserve("acme", dollar), "acme", dollar/2)
				}
				s := slow{g, make(chan struct{}, 9), make(chan struct{})}
				g.cfg.Ledger = s
				done := make(chan error)
				go func() {
					_, err := g.Reserve(context.Background(), "acme", 3*dollar)
					done <- err
				}()
				<-s.asked
				end(g)
				close(s.answer)
				if err := <-done; err == nil {
					t.Error("a request was admitted")
				}
				if leases, _ := g.InFlight(); leases != 0 {
					t.Errorf("%d leases", leases)
				}
				g.Stop(t.Context())
				g.deliver(100)
				w.balanced()
			})
		}
	}
}

// TestReclaimedLease: growth that finds its lease taken back opens another.
func TestReclaimedLease(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar})
	g := w.gate("gw")
	r := g.reserve("acme", dollar)
	w.settle([]usage.Record{{Kind: usage.KindClose, LeaseID: r.l.id, Seq: 1, Customer: "acme"}}) // by hand
	again := g.reserve("acme", 5*dollar)
	if again.l == r.l {
		t.Fatal("a closed lease grew")
	}
	g.settleOne(again, "acme", dollar)
	g.Void(r)
}

// TestSpoolRefuses: a result that cannot be written is written later, as one
// of unknown outcome, and so is a close record; no seq is left out.
func TestSpoolRefuses(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar})
	g := w.gate("gw")
	first, second := g.reserve("acme", dollar), g.reserve("acme", dollar)
	g.broken = errors.New("no space left on device")
	if _, err := g.Settle(first, usageOf("acme", dollar)); err == nil {
		t.Fatal("settled without a record")
	}
	if err := g.Intend(second, usageOf("acme", 0)); err == nil {
		t.Fatal("intended without a record")
	}
	g.Void(second)
	if _, held := g.InFlight(); held != dollar {
		t.Errorf("%s in flight while the result is not written", held)
	}
	g.Stop(t.Context())
	g.Sweep(w.now)
	g.broken = nil
	g.Sweep(w.now)
	g.deliver(100)
	w.balanced()
	if rec := g.recs[0]; rec.Kind != usage.KindUnknown || rec.Row != usage.RowLeakage || rec.Price != 0 {
		t.Errorf("%+v", rec)
	}
	if w.wallet("acme").Balance() != 10*dollar {
		t.Error("the customer paid for an answer that he did not get")
	}
}

// TestForget: wallets that hold nothing leave the memory.
func TestForget(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar, "busy": 10 * dollar})
	g := w.gate("gw")
	g.settleOne(g.reserve("acme", dollar), "acme", dollar)
	g.reserve("busy", dollar)
	w.now = w.now.Add(forgetAfter + time.Second)
	g.Sweep(w.now)
	g.Sweep(w.now)
	if len(g.wallets) != 1 || g.wallets["busy"] == nil {
		t.Errorf("wallets in memory: %v", g.wallets)
	}
}

// TestRecovery: the next process of a gateway ends what a killed one left:
// calls without a result, used leases, and one whose grant was not answered.
func TestRecovery(t *testing.T) {
	w := newWorld(t, map[string]money.Nano{"acme": 10 * dollar, "beta": 10 * dollar, "done": 10 * dollar})
	g := w.gate("gw")
	g.settleOne(g.reserve("acme", dollar), "acme", dollar)
	g.deliver(1) // the ledger has seq 1, the spool alone has 2
	g.settleOne(g.reserve("acme", dollar), "acme", dollar/2)
	open := g.reserve("acme", dollar)
	intent := usageOf("acme", 0)
	intent.RequestID = "in flight"
	if err := g.Intend(open, intent); err != nil {
		t.Fatal(err)
	}
	g.settleOne(g.reserve("done", dollar), "done", dollar)
	w.now = w.now.Add(testIdle)
	g.Sweep(w.now) // its close record is in the spool already
	g.fault = failAfter
	if _, err := g.Reserve(t.Context(), "beta", dollar); err == nil {
		t.Fatal("no fault")
	}
	g.crash()
	g.deliver(100)
	w.balanced()
	unknown := 0
	for _, r := range g.recs {
		if r.RequestID == "in flight" {
			unknown++
			if r.Kind != usage.KindUnknown || r.Row != usage.RowLeakage || r.Seq != 3 || r.Price != 0 {
				t.Errorf("%+v", r)
			}
		}
	}
	if got := w.wallet("acme").Balance(); unknown != 1 || got != 10*dollar-dollar-dollar/2 {
		t.Errorf("%d results of the call in flight, balance %s", unknown, got)
	}
}

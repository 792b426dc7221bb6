package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	simSeeds = 16
	simSteps = 300
)

// TestSimulation runs two gateways on shared wallets through random requests,
// time, faults of ledger and spool, recalls, crashes and ended sessions. After every
// step an auditor that knows nothing but the ledger's grants, the records in
// the spools and the calls in flight checks that no lease is spent beyond what
// it was granted; at the end everything must be closed and the books balance.
func TestSimulation(t *testing.T) {
	for seed := range uint64(simSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			newSimulation(t, seed).run()
		})
	}
}

type simulation struct {
	*world
	rand      *rand.Rand
	gates     []*gate
	open      []openCall
	customers []string
	requests  int
	outages   bool // this run has silences after which the ledger reclaims
}

type openCall struct {
	g        *gate
	r        Reservation
	customer string
	id       string
	intended bool
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{rand: rand.New(rand.NewPCG(seed, 1)), customers: []string{"rich", "poor", "free"}, outages: seed%4 == 0}
	s.world = newWorld(t, map[string]money.Nano{"rich": 500 * dollar, "poor": 3 * dollar, "free": 0})
	s.gates = []*gate{s.gate("gw-1"), s.gate("gw-2")}
	return s
}

func (s *simulation) run() {
	for step := range simSteps {
		s.step()
		for _, g := range s.gates {
			g.growing.Wait()
		}
		s.audit(step)
	}
	s.end()
}

func (s *simulation) step() {
	g := s.gates[s.rand.IntN(len(s.gates))]
	switch n := s.rand.IntN(100); {
	case n < 40:
		s.request(g)
	case n < 70 && len(s.open) > 0:
		s.finish(s.rand.IntN(len(s.open)))
	case n < 80:
		s.pass(time.Duration(s.rand.Int64N(int64(3 * time.Second))))
	case n < 83:
		s.pass(testIdle)
	case n < 90:
		g.deliver(s.rand.IntN(20))
	case n < 93:
		g.fault = fault(s.rand.IntN(4))
	case n < 95:
		g.arrive()
	case n < 96:
		g.broken = nil
		if s.rand.IntN(2) == 0 {
			g.broken = errors.New("no space left on device")
		}
	case n < 97:
		g.full = !g.full
	case n < 98:
		g.endSession()
		g.beat()
	case n < 99:
		s.crash(g)
	case s.rand.IntN(3) > 0:
		s.credit("poor", dollar)
	case s.outages:
		s.silence()
	}
}

func (s *simulation) request(g *gate) {
	customer := s.customers[s.rand.IntN(len(s.customers))]
	need := money.Nano(s.rand.Int64N(int64(2 * dollar)))
	if customer == "free" {
		need = 0
	}
	r, err := g.Reserve(context.Background(), customer, need)
	if err != nil {
		return
	}
	s.requests++
	c := openCall{g, r, customer, fmt.Sprint("request-", s.requests), true}
	intent := usageOf(customer, 0)
	intent.RequestID = c.id
	if err := g.Intend(r, intent); err != nil {
		c.intended = false
	}
	s.open = append(s.open, c)
}

// finish ends one call, at any price up to what was reserved.
func (s *simulation) finish(i int) {
	c := s.open[i]
	s.open = append(s.open[:i], s.open[i+1:]...)
	if !c.intended {
		c.g.Void(c.r)
		return
	}
	rec := usageOf(c.customer, money.Nano(s.rand.Int64N(int64(c.r.Amount)+1)))
	rec.RequestID = c.id
	if s.rand.IntN(10) == 0 {
		rec.Kind, rec.Row, rec.Status, rec.Cost, rec.Price = usage.KindUnknown, usage.RowLeakage, usage.StatusUnknown, 0, 0
	}
	_, _ = c.g.Settle(c.r, rec) // refused by the spool: the book writes it later
}

// pass lets time go on, with what gateways do by it.
func (s *simulation) pass(d time.Duration) {
	s.now = s.now.Add(d)
	for _, g := range s.gates {
		g.beat()
		g.Sweep(s.now)
	}
}

// crash kills a gateway: its calls in flight have no result any more.
func (s *simulation) crash(g *gate) {
	s.open = slices.DeleteFunc(s.open, func(c openCall) bool { return c.g == g })
	g.crash()
}

// silence is an absence after which the ledger has taken the leases back.
func (s *simulation) silence() {
	s.now = s.now.Add(testTTL + testGrace + time.Minute)
	if _, err := s.ledger.Reclaim(context.Background(), testGrace); err != nil {
		s.t.Fatal(err)
	}
	s.pass(time.Second)
}

// audit holds every lease to its grants.
func (s *simulation) audit(step int) {
	s.t.Helper()
	granted, used := map[string]money.Nano{}, map[string]money.Nano{}
	for _, g := range s.gates {
		for _, row := range g.paid {
			granted[row.ID] = max(granted[row.ID], row.Granted)
		}
		next := map[string]uint64{}
		for i := range g.recs {
			r := &g.recs[i]
			used[r.LeaseID] += r.Price + r.Returned
			if next[r.LeaseID]++; r.Seq != next[r.LeaseID] {
				s.t.Fatalf("step %d: seq %d of lease %s follows %d", step, r.Seq, r.LeaseID, next[r.LeaseID]-1)
			}
		}
		for _, l := range g.unwrittenCalls() {
			used[l.r.l.id] += l.r.Amount
		}
	}
	for _, c := range s.open {
		used[c.r.l.id] += c.r.Amount
	}
	for id, amount := range used {
		if amount > granted[id] {
			s.t.Fatalf("step %d: lease %s was granted %s; %s are spent, reserved or returned", step, id, granted[id], amount)
		}
	}
}

func (g *gate) unwrittenCalls() (list []unwritten) {
	for _, w := range g.all() {
		w.mu.Lock()
		list = append(list, w.unwritten...)
		w.mu.Unlock()
	}
	return list
}

// end lets everything come to rest and checks the whole.
func (s *simulation) end() {
	s.t.Helper()
	for len(s.open) > 0 {
		s.finish(0)
	}
	for _, g := range s.gates {
		g.fault, g.broken, g.full = noFault, nil, false
	}
	s.pass(testIdle)
	s.pass(testIdle)
	var sold money.Nano
	results := 0
	for _, g := range s.gates {
		if leases, held := g.InFlight(); leases != 0 || held != 0 {
			s.t.Fatalf("%s holds %d leases, %s in flight", g.id, leases, held)
		}
		g.deliver(len(g.recs))
		for len(g.late) > 0 {
			g.arrive()
		}
		closes := map[string]int{}
		for _, r := range g.recs {
			sold += r.Price
			if r.Kind.IsEvent() {
				results++
			}
			if r.Kind == usage.KindClose {
				closes[r.LeaseID]++
			} else if closes[r.LeaseID] > 0 {
				s.t.Fatalf("a %s record of lease %s follows its close", r.Kind, r.LeaseID)
			}
		}
		for id, n := range closes {
			if n != 1 {
				s.t.Fatalf("lease %s is closed %d times", id, n)
			}
		}
	}
	if intents := s.gates[0].intents + s.gates[1].intents; results != intents {
		s.t.Fatalf("%d intents have %d results", intents, results)
	}
	s.balanced()
	s.tally(sold)
}

// tally compares the wallets with what was sold: not a nano-dollar more than
// was credited, unless the ledger reclaimed leases with calls in flight.
func (s *simulation) tally(sold money.Nano) {
	s.t.Helper()
	var debited, owed money.Nano
	for _, id := range s.customers {
		w := s.wallet(id)
		debited += w.Debited
		owed += w.Receivable
	}
	if debited+owed != sold || sold == 0 {
		s.t.Errorf("sold %s; debited %s, receivable %s", sold, debited, owed)
	}
	if owed > 0 && !s.outages {
		s.t.Errorf("two gateways overspent by %s", owed)
	}
}

var _ Ledger = (*ledger.DB)(nil)

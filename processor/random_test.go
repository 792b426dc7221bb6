package processor

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

var (
	seeds = flag.Uint64("seeds", 1, "random histories per backend")
	seed0 = flag.Uint64("seed", 1, "the first of them")
)

// steps is how much happens in one history.
const steps = 100

// TestRandom runs the path from spool to warehouse through random histories:
// processors that come, die and are fenced, producers that stop, a warehouse
// that fails, a log that is deleted, events that come twice, late, or cannot be
// rated. In the end every event that was written is in the ledger and in the warehouse
// once, each wallet paid for its own, and the audit finds nothing that was not
// put there.
func TestRandom(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		t.Parallel()
		for seed := *seed0; seed < *seed0+*seeds; seed++ {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				c := c
				if c.URL == "" {
					c.Dir = t.TempDir()
				} else {
					c.URL = ledgertest.Database(t, c.URL)
				}
				h := newHistory(t, c, seed)
				for range steps {
					h.next()
				}
				h.finish()
			})
		}
	})
}

// history is one random run.
type history struct {
	*world
	rng       *rand.Rand
	customers []string
	leases    []*tap
	past      []usage.Record // some of what was written, to be written again
	from      []*tap         // the leases of past

	stopProducing func()
	running       []func() // stop the processors
	did           map[string]int
}

func newHistory(t *testing.T, c ledger.Config, seed uint64) *history {
	h := &history{world: newWorld(t, c), rng: rand.New(rand.NewPCG(seed, 0)), did: map[string]int{}}
	h.shelf.failBefore, h.shelf.failAfter = 100, 100
	h.addSpool()
	for i := range 5 {
		id := fmt.Sprint("customer", i)
		h.customer(id, 10*money.Dollar)
		h.customers = append(h.customers, id)
		h.open()
	}
	h.stopProducing = h.produce()
	return h
}

// next is one thing that happens.
func (h *history) next() {
	verbs := []struct {
		name   string
		weight int
		do     func()
	}{
		{"use", 30, h.useSome}, {"leak", 4, h.leak}, {"spoil", 2, h.spoil}, {"use an unknown lease", 2, h.useUnknown},
		{"write again", 6, h.again}, {"open", 3, h.open}, {"close", 3, h.close},
		{"start a processor", 8, h.start}, {"kill a processor", 6, h.kill}, {"fence", 3, h.fence},
		{"the warehouse comes or goes", 5, func() { h.shelf.down.Store(!h.shelf.down.Load()) }},
		{"the producers start over", 3, func() { h.stopProducing(); h.stopProducing = h.produce() }},
		{"the log is deleted", 1, h.deleteLog},
		{"everything settles", 10, func() {
			if len(h.running) > 0 {
				h.settled()
			}
		}},
		{"a pause", 10, func() { time.Sleep(time.Duration(h.rng.Int64N(int64(3 * testWindow)))) }},
	}
	total := 0
	for _, v := range verbs {
		total += v.weight
	}
	n := h.rng.IntN(total)
	for _, v := range verbs {
		if n -= v.weight; n < 0 {
			h.did[v.name]++
			v.do()
			return
		}
	}
}

func (h *history) lease1() *tap { return h.leases[h.rng.IntN(len(h.leases))] }

func (h *history) open() {
	customer := h.customers[h.rng.IntN(len(h.customers))]
	if len(h.leases) < len(h.customers) {
		customer = h.customers[len(h.leases)]
	}
	wallet, err := h.db.Wallet(h.ctx, customer)
	h.must(err)
	l := h.lease(customer, min(wallet.Available(), money.Nano(h.rng.Int64N(int64(money.Dollar)))))
	l.spool = h.spools[h.rng.IntN(len(h.spools))]
	h.leases = append(h.leases, l)
}

func (h *history) close() {
	if len(h.leases) <= len(h.customers) {
		return
	}
	i := h.rng.IntN(len(h.leases))
	h.closeLease(h.leases[i])
	h.leases = slices.Delete(h.leases, i, i+1)
}

func (h *history) useSome() {
	l := h.lease1()
	for range 1 + h.rng.IntN(40) {
		rec := h.event(l, h.rng.Uint64N(5000), h.rng.Uint64N(5000))
		if h.write(l, rec); h.rng.IntN(4) == 0 {
			h.past, h.from = append(h.past, rec), append(h.from, l)
		}
	}
}

func (h *history) leak() {
	l := h.lease1()
	l.seq++
	h.write(l, usage.Record{Kind: usage.KindUnknown, Row: usage.RowLeakage, Status: usage.StatusUnknown, LeaseID: l.id, Seq: l.seq,
		Customer: l.customer, TimeMs: time.Now().UnixMilli(), Currency: "usd", Reserved: money.Nano(h.rng.Int64N(1000))})
}

// spoil writes an event that cannot be rated, or whose promise is false.
func (h *history) spoil() {
	l := h.lease1()
	rec := h.event(l, 10, 10)
	if h.rng.IntN(2) == 0 {
		rec.Price++
		h.write(l, rec)
		return
	}
	rec.Model = "none"
	h.append(l, rec)
}

// useUnknown writes events of a lease that no ledger granted.
func (h *history) useUnknown() {
	l := h.lease1()
	unknown := &tap{id: fmt.Sprint("unknown", h.rng.Uint64()), customer: l.customer, spool: l.spool}
	h.world.use(unknown, 1+h.rng.IntN(5))
}

func (h *history) again() {
	for range min(len(h.past), 20) {
		i := h.rng.IntN(len(h.past))
		h.append(h.from[i], h.past[i])
	}
}

func (h *history) start() {
	if len(h.running) < 3 {
		_, stop := h.process()
		h.running = append(h.running, stop)
	}
}

func (h *history) kill() {
	if len(h.running) > 0 {
		i := h.rng.IntN(len(h.running))
		h.running[i]()
		h.running = slices.Delete(h.running, i, i+1)
	}
}

func (h *history) fence() {
	_, err := h.db.AcquirePartition(h.ctx, h.log.TopicID(), h.rng.Int32N(partitions))
	h.must(err)
}

func (h *history) deleteLog() {
	for len(h.running) > 0 {
		h.kill()
	}
	h.stopProducing()
	h.log.Close()
	h.must(os.RemoveAll(h.logDir))
	h.openLog()
	h.stopProducing = h.produce()
}

// finish lets everything arrive and compares.
func (h *history) finish() {
	for len(h.leases) > 0 {
		h.closeLease(h.leases[0])
		h.leases = h.leases[1:]
	}
	h.shelf.down.Store(false)
	h.start()
	h.appended()
	for _, b := range h.breaks() {
		if b.Check == "dead_letter" || b.Check == "rate_mismatch" {
			h.accept(b.Batch)
		}
	}
	h.tieOut()
	books, err := h.db.Books(h.ctx)
	h.must(err)
	if books.Held != 0 || books.OpenLeases != 0 {
		h.Errorf("all leases are closed, but %d are open and hold %s", books.OpenLeases, books.Held)
	}
	for len(h.running) > 0 {
		h.kill()
	}
	h.stopProducing()
	h.Logf("%d events in %d batches, %d of them appended again; %v", len(h.expected), h.shelf.count(), h.shelf.repeats, h.did)
}

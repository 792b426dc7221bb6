package processor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestCrashBeforeAppend: what was settled by a processor that died is appended
// by the next one: the rows are read from the log again, without the
// duplicates and dead letters among them, and are the manifest's.
func TestCrashBeforeAppend(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	twin := w.addSpool()
	for i := range 300 {
		rec := w.event(l, uint64(i), 5)
		w.write(l, rec)
		if i%3 == 0 {
			_, err := twin.Append(&rec)
			w.must(err)
		}
		if i%50 == 0 {
			bad := w.event(l, 1, 1)
			bad.Rule = "none"
			w.append(l, bad)
		}
	}
	w.shelf.down.Store(true)
	stopProducing := w.produce()
	_, stop := w.process()
	w.settled()
	if w.pending().Unappended == 0 || w.shelf.count() != 0 {
		t.Fatal("there is nothing to append")
	}
	stop()
	stopProducing()
	w.log.Close()
	w.openLog()
	w.shelf.down.Store(false)
	w.process()
	w.appended()
	for _, b := range w.breaks() {
		w.accept(b.Batch)
	}
	w.tieOut()
}

// TestWarehouseAway: while the warehouse is away or fails the money moves on;
// when it is back it gets everything once.
func TestWarehouseAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	w.shelf.failBefore, w.shelf.failAfter = 200, 200
	w.produce()
	p, _ := w.process()
	w.use(l, 50)
	w.appended()
	w.shelf.down.Store(true)
	for range 4 {
		w.use(l, 50)
		w.settled()
	}
	wallet, err := w.db.Wallet(w.ctx, "acme")
	w.must(err)
	if wallet.Debited != l.price || p.Waiting() == 0 || w.pending().Unappended == 0 {
		t.Errorf("without the warehouse %s of %s were settled, %d batches wait", wallet.Debited, l.price, p.Waiting())
	}
	w.shelf.down.Store(false)
	w.closeLease(l)
	w.appended()
	w.until("nothing waits", func() bool { return p.Waiting() == 0 })
	w.tieOut()
}

// TestPoison: a batch that the warehouse does not take keeps no other one back,
// and not their marks either.
func TestPoison(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	w.shelf.down.Store(true)
	w.produce()
	p, _ := w.process()
	w.use(l, 5)
	w.settled()
	w.shelf.refuse.Store(p.appender.head().manifest.ID)
	w.shelf.down.Store(false)
	for range 2 {
		w.use(l, 5)
		w.settled()
	}
	w.until("the others are appended", func() bool { return w.shelf.count() >= 2 && w.pending().Unappended == 1 && p.Waiting() == 1 })
	w.shelf.refuse.Store("")
	w.closeLease(l)
	w.appended()
	w.tieOut()
}

// TestVerify: rows that are not the manifest's are never sent.
func TestVerify(t *testing.T) {
	recs := []usage.Record{{LeaseID: "a", Seq: 1, Cost: 3, Price: 4}, {LeaseID: "a", Seq: 2, Cost: 5, Price: 6}}
	m := ledger.Manifest{Count: 2, Cost: 8, Price: 10, Hash: xxhash.Sum64String("a:1:3:4") + xxhash.Sum64String("a:2:5:6")}
	if err := verify(m, recs); err != nil {
		t.Error(err)
	}
	for name, rows := range map[string][]usage.Record{
		"one is missing":   recs[:1],
		"one is twice":     {recs[0], recs[0]},
		"amounts swapped":  {{LeaseID: "a", Seq: 1, Cost: 5, Price: 6}, {LeaseID: "a", Seq: 2, Cost: 3, Price: 4}},
		"of another lease": {{LeaseID: "b", Seq: 1, Cost: 3, Price: 4}, recs[1]},
		"cost and price":   {{LeaseID: "a", Seq: 1, Cost: 4, Price: 3}, recs[1]},
	} {
		if verify(m, rows) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestRowsInMemory: beyond the bound only manifests wait; their rows are read
// again.
func TestRowsInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	p := w.processor()
	p.appender.rows = rowsInMemoryMax
	w.shelf.down.Store(true)
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	w.use(l, 20)
	w.closeLease(l)
	w.produce()
	w.run(p)
	w.settled()
	one := p.appender.head()
	if one == nil || one.rows != nil {
		t.Errorf("%+v is kept above the bound", one)
	}
	w.shelf.down.Store(false)
	w.appended()
	w.tieOut()
}

// TestLogDeleted: the log's directory goes while batches are not appended. The
// spool produces everything again, and these batches get their rows from the
// duplicates, also when those were read before, by a processor that died.
func TestLogDeleted(t *testing.T) {
	for _, died := range []bool{false, true} {
		t.Run(fmt.Sprint("another crash ", died), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t))
			var leases []*tap
			for i := range 4 {
				id := fmt.Sprint("customer", i)
				w.customer(id, 100*money.Dollar)
				leases = append(leases, w.lease(id, money.Dollar))
			}
			stopProducing := w.produce()
			_, stop := w.process()
			for range 3 {
				for _, l := range leases {
					w.use(l, 40)
				}
				w.appended()
			}
			w.shelf.down.Store(true)
			for range 3 {
				for _, l := range leases {
					w.use(l, 40)
				}
				w.settled()
			}
			stop()
			stopProducing()
			w.log.Close()
			w.must(os.RemoveAll(w.logDir))
			w.openLog()
			w.produce()
			if died {
				_, stop := w.process()
				w.settled()
				stop()
			}
			w.shelf.down.Store(false)
			p, _ := w.process()
			for _, l := range leases {
				w.use(l, 10)
				w.closeLease(l)
			}
			w.appended()
			w.until("no orphan is left", func() bool { return p.Waiting() == 0 })
			w.tieOut()
		})
	}
}

// TestLogCutOff: the log is an older copy of itself, under the same topic id:
// it ends below the ledger's cursor, or new records stand where settled ones
// were. That is said once, and nothing is lost or counted twice.
func TestLogCutOff(t *testing.T) {
	t.Run("shorter", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, sqlite(t))
		l := w.cutOff(false)
		// A processor that comes before the gateway, and dies, learns of it too.
		p, stop := w.process()
		w.until("what the log has is read again", func() bool { return w.settledAgain() == 1+30 })
		stop()
		w.finishCutOff(l, p)
	})
	t.Run("refilled", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, sqlite(t))
		l := w.cutOff(true)
		other := w.lease("acme", money.Dollar)
		other.spool = w.addSpool()
		w.use(other, 60)
		w.closeLease(other)
		stop := w.produce(other.spool)
		w.until("the log is longer than it was", func() bool { return other.spool.Usage().UnackedRecords == 0 })
		stop()
		w.finishCutOff(l, nil)
	})
}

// cutOff settles 30 events, copies the log, settles 20 more, whose rows are
// appended or not, and puts the copy into the log's place.
func (w *world) cutOff(appended bool) *tap {
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	copied := w.TempDir()
	for round, n := range []int{30, 20} {
		w.use(l, n)
		stopProducing := w.produce()
		_, stop := w.process()
		if w.settled(); round == 0 || appended {
			w.appended()
		}
		stop()
		stopProducing()
		w.log.Close()
		if round == 0 {
			w.must(os.CopyFS(copied, os.DirFS(w.logDir)))
			w.openLog()
			w.shelf.down.Store(!appended)
		}
	}
	w.logDir = copied
	w.openLog()
	w.shelf.down.Store(false)
	return l
}

// settledAgain is how far the cursor of what is settled again has come.
func (w *world) settledAgain() (n int64) {
	for _, c := range w.pending().Cursors {
		if strings.HasPrefix(c.Topic, w.log.TopicID()+"~") {
			n += c.Settled
		}
	}
	return n
}

func (w *world) finishCutOff(l *tap, before *Processor) {
	w.Helper()
	w.produce()
	p, stop := w.process()
	w.use(l, 10)
	w.closeLease(l)
	w.appended()
	stop()
	list := w.breaks()
	if len(list) != 1 || list[0].Check != "dead_letter" || !strings.Contains(list[0].Found, "cut off or replaced") || metric(p.Metrics.LogBreaks) != 1 {
		w.Fatalf("breaks %+v, %d counted", list, metric(p.Metrics.LogBreaks))
	}
	if before != nil && metric(before.Metrics.LogBreaks) != 1 {
		w.Error("the first processor did not see it")
	}
	w.accept(list[0].Batch)
	w.tieOut()

	p, _ = w.process()
	next := w.lease("acme", money.Dollar)
	w.use(next, 1)
	w.closeLease(next)
	w.appended()
	if metric(p.Metrics.LogBreaks) != 0 {
		w.Error("a break that is past was seen again")
	}
	w.tieOut()
}

// TestLogExpired: records that left the log before they were settled stop the
// settling of their partition: going on would tell the spools that still hold
// them to forget them.
func TestLogExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	p := w.processor()
	_, err := p.takeOver(w.ctx, 0, ledger.Cursor{NextOffset: 4}, stream.Found{Start: 5, End: 10})
	if !errors.Is(err, stream.ErrOffsetGone) || metric(p.Metrics.LogBreaks) != 1 {
		t.Errorf("%v, %d counted", err, metric(p.Metrics.LogBreaks))
	}
}

// TestOrphan: events are struck off in any order, each once, and only those of
// the batch.
func TestOrphan(t *testing.T) {
	m := ledger.Manifest{ID: "b", Part: 2, Count: 6, Seqs: []ledger.SeqRange{{Lease: "a", From: 3, To: 6}, {Lease: "b", From: 1, To: 1}, {Lease: "b", From: 9, To: 9}}}
	all := newOrphans()
	all.add(m, stretch{})
	offer := func(lease string, seq uint64, part int32, offset int64) *pending {
		return all.offer(&usage.Record{LeaseID: lease, Seq: seq}, part, offset)
	}
	for i, e := range []struct {
		lease string
		seq   uint64
	}{{"a", 2}, {"a", 7}, {"b", 5}, {"c", 3}, {"a", 4}, {"a", 4}, {"a", 3}, {"b", 9}, {"a", 6}, {"b", 1}, {"b", 1}} {
		if got := offer(e.lease, e.seq, 2, int64(100-i)); got != nil {
			t.Fatalf("%+v completed the batch", e)
		}
	}
	if offer("a", 5, 1, 7) != nil {
		t.Error("an event of another partition completed the batch")
	}
	got := offer("a", 5, 2, 50)
	if waits := offer("a", 5, 2, 51); waits != nil {
		t.Errorf("completed twice: %+v", waits)
	}
	if got == nil || got.from != 50 || got.to != 97 || len(all.byBatch) != 0 || len(all.byLease) != 0 {
		t.Errorf("%+v, left %+v", got, all)
	}
	all.add(m, stretch{0, 7})
	all.release([]int32{1})
	if len(all.byBatch) != 1 || all.searches[2] != (stretch{0, 7}) {
		t.Errorf("another partition left: %+v", all)
	}
	if all.release([]int32{2}); len(all.byBatch)+len(all.byLease)+len(all.searches) != 0 {
		t.Errorf("the partition left: %+v", all)
	}
}

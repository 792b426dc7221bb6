package processor

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestCrashBeforeAppend: what was settled by a processor that died is appended
// by the next one: the rows are read from the log again, without the
// duplicates and dead letters among them, and are the manifest's.
func TestCrashBeforeAppend(t *testing.T) {
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
			w.append(bad)
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

// TestRowsInMemory: beyond the bound only manifests wait; their rows are read
// again.
func TestRowsInMemory(t *testing.T) {
	w := newWorld(t, sqlite(t))
	p := w.processor()
	p.appender.rows = rowsInMemoryMax
	w.shelf.down.Store(true)
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	w.use(l, 20)
	w.closeLease(l)
	w.produce()
	go func() { _ = p.Run(w.ctx) }()
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
// were. That is said, and nothing is lost or counted twice.
func TestLogCutOff(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		for _, refilled := range []bool{false, true} {
			w := newWorld(t, c)
			name := fmt.Sprint("customer-", refilled)
			w.customer(name, 100*money.Dollar)
			l := w.lease(name, money.Dollar)
			old := t.TempDir()
			w.use(l, 30)
			stopProducing := w.produce()
			_, stop := w.process()
			w.appended()
			stop()
			stopProducing()
			w.log.Close()
			w.must(os.CopyFS(old, os.DirFS(w.logDir)))

			w.openLog()
			stopProducing = w.produce()
			_, stop = w.process()
			w.use(l, 20)
			w.settled()
			stop() // perhaps before it appended
			stopProducing()
			w.log.Close()

			w.logDir = old
			w.openLog()
			if refilled { // by another gateway, whose records take the places
				other := w.lease(name, money.Dollar)
				w.spools = []*stream.Spool{w.addSpool()}
				w.use(other, 60)
				w.closeLease(other)
				stopProducing := w.produce()
				w.until("the log is longer than it was", func() bool { return w.spools[0].Usage().UnackedRecords == 0 })
				stopProducing()
				w.must(w.spools[0].Close())
				w.spools = w.spools[:0]
				w.Cleanup(func() {})
			}
			t.Log("refilled", refilled)
			w.finishCutOff(l, refilled)
		}
	})
}

func (w *world) finishCutOff(l *tap, refilled bool) {
	_ = usage.Record{}
	_ = strings.Contains
}

package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestConcurrent lets gateways, racing partition owners, credits and reclaims
// run side by side on two handles. Every snapshot taken meanwhile must be a
// clean set of books, and in the end all events are in them once.
func TestConcurrent(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		r := newRace(t, open)
		r.run()
		r.end()
	})
}

func newRace(t *testing.T, open func() *ledger.DB) *race {
	r := &race{T: t, ctx: context.Background(), dbs: []*ledger.DB{open(), open()}}
	for i := range 4 {
		fund(t, r.dbs[0], customerName(i), 3000) // less than will be used
	}
	return r
}

func (r *race) run() {
	var writers, others sync.WaitGroup
	for g := range 2 {
		writers.Go(func() { r.gateway(g) })
	}
	for i := range 4 {
		others.Go(func() { r.settle(i/2, r.dbs[i%2]) })
	}
	others.Go(r.credit)
	others.Go(r.audit)
	writers.Wait()
	r.written.Store(true)
	others.Wait()
}

// end holds the books against what was written and credited.
func (r *race) end() {
	b, err := r.dbs[0].Books(r.ctx)
	if err != nil || len(b.Breaks) > 0 || b.Held != 0 || b.OpenLeases != 0 || b.Events != b.Ledger || b.Events.Count != r.events {
		r.Errorf("%d events; books %+v, %v", r.events, b, err)
	}
	var credited money.Nano
	for i := range 4 {
		w, err := r.dbs[0].Wallet(r.ctx, customerName(i))
		if err != nil {
			r.Error(err)
		}
		credited += w.Credited
	}
	if credited != 4*3000+r.credited {
		r.Errorf("%s were credited, %s are there", 4*3000+r.credited, credited)
	}
}

// TestWalletLock: a settlement decides on the wallet as the transaction before
// it leaves it, not as it was when both began. Here both would pay the same
// debt.
func TestWalletLock(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		fund(t, db, "acme", 100)
		_, err := db.StartSession(ctx, ledger.Session{ID: "s", Gateway: "g", TTL: time.Hour})
		if err == nil {
			_, _, err = db.Grant(ctx, ledger.GrantRequest{LeaseID: "held", Customer: "acme", Session: "s", Gateway: "g", GrantNo: 1, Need: 100})
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := db.AcquirePartition(ctx, "t", 0)
		if err != nil {
			t.Fatal(err)
		}
		settle := func(offset int64, r usage.Record) error {
			r.Seq, r.Customer = 1, "acme"
			_, err := db.Settle(ctx, ledger.Batch{Topic: "t", Epoch: c.Epoch, From: offset, To: offset + 1, Records: []ledger.Settling{{Offset: offset, Rec: &r}}})
			return err
		}
		if err := settle(0, usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "unknown", Price: 30}); err != nil {
			t.Fatal(err) // owed, since the lease holds everything
		}
		settled := make(chan error, 1)
		err = db.Tx(ctx, func(tx *ledger.Tx) error {
			if _, _, err := tx.Credit(ctx, ledger.Credit{Customer: "acme", Amount: 20}); err != nil {
				return err
			}
			go func() { settled <- settle(1, usage.Record{Kind: usage.KindReturn, LeaseID: "held", Returned: 50}) }()
			for waiting := int64(0); waiting == 0 && db.Engine() == ledger.PostgreSQL; { // until it waits for this transaction
				var err error
				if waiting, err = tx.Count(ctx, "SELECT COUNT(*) FROM pg_locks WHERE NOT granted"); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(err, <-settled); err != nil {
			t.Fatal(err)
		}
		w, err := db.Wallet(ctx, "acme")
		if err != nil || w.Credited != 120 || w.Debited != 30 || w.Held != 50 || w.Receivable != 0 {
			t.Errorf("%+v, %v", w, err)
		}
	})
}

type race struct {
	*testing.T
	ctx      context.Context
	dbs      []*ledger.DB
	written  atomic.Bool
	rough    bool       // connections break
	credited money.Nano // credit's, until it ends

	mu     sync.Mutex // guards the following
	logs   [parts][]*usage.Record
	events int64
}

func customerName(i int) string { return fmt.Sprintf("c%d", i) }

// gateway takes leases, uses and closes them; each record is produced twice.
func (r *race) gateway(g int) {
	db, id := r.dbs[g], fmt.Sprintf("g%d", g)
	err := persist(r.rough, func() error {
		_, err := db.StartSession(r.ctx, ledger.Session{ID: id, Gateway: id, TTL: time.Hour})
		return err
	})
	if err != nil {
		r.Error(err)
		return
	}
	for n := range 30 {
		customer := n % 4
		lease := fmt.Sprintf("%s-%d", id, n)
		q := ledger.GrantRequest{LeaseID: lease, Customer: customerName(customer), Session: id, Gateway: id, GrantNo: 1, Need: 10, Want: 1000}
		err := persist(r.rough, func() error { _, _, err := db.Grant(r.ctx, q); return err })
		if err != nil && !errors.Is(err, ledger.ErrInsufficient) {
			r.Error(err)
			return
		} // without money its events are those of an unknown lease
		err = persist(r.rough, func() error { _, err := db.Beat(r.ctx, ledger.Beat{Session: id, Topic: "t"}); return err })
		if err != nil {
			r.Error(err)
		}
		var records []*usage.Record
		for seq := range uint64(5) {
			records = append(records, &usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: lease, Seq: seq + 1,
				Customer: customerName(customer), Provider: "p", KeyID: "operator", Cost: 7, Price: money.Nano(100 * seq)})
		}
		records = append(records, &usage.Record{Kind: usage.KindClose, LeaseID: lease, Seq: 6, Customer: customerName(customer),
			Count: 5, CostSum: 35, PriceSum: 1000})
		r.mu.Lock()
		r.events += 5
		r.logs[customer%parts] = append(append(r.logs[customer%parts], records...), records...)
		r.mu.Unlock()
	}
}

// settle is one of the owners of a partition: it takes it over whenever the
// other has.
func (r *race) settle(part int, db *ledger.DB) {
	for {
		c, err := db.AcquirePartition(r.ctx, "t", int32(part))
		for err == nil {
			done := r.written.Load()
			r.mu.Lock()
			log := r.logs[part]
			r.mu.Unlock()
			b := ledger.Batch{Topic: "t", Part: int32(part), Epoch: c.Epoch, From: c.NextOffset, To: min(int64(len(log)), c.NextOffset+17)}
			if b.To == b.From && done {
				return
			}
			if b.To == b.From {
				time.Sleep(time.Millisecond) // the log's reader would block here
				continue
			}
			for i, rec := range log[b.From:b.To] {
				b.Records = append(b.Records, ledger.Settling{Offset: b.From + int64(i), Rec: rec})
			}
			_, err = db.Settle(r.ctx, b)
			c.NextOffset = b.To
		}
		if !errors.Is(err, ledger.ErrFenced) && !r.rough {
			r.Error(err)
			return
		}
	}
}

func (r *race) credit() {
	for i := 0; !r.written.Load(); i++ {
		key := ledger.OnceKey{Key: fmt.Sprint(i), Route: "credit"}
		err := persist(r.rough, func() error {
			_, _, err := r.dbs[i%2].Once(r.ctx, key, func(tx *ledger.Tx) (ledger.Answer, error) {
				_, _, err := tx.Credit(r.ctx, ledger.Credit{Customer: customerName(i % 4), Amount: 50})
				return ledger.Answer{Status: 200, Body: []byte("{}")}, err
			})
			return err
		})
		if err != nil {
			r.Error(err)
		}
		r.credited += 50
		if err := persist(r.rough, func() error { _, err := r.dbs[i%2].Reclaim(r.ctx, time.Hour); return err }); err != nil {
			r.Error(err)
		}
	}
}

func (r *race) audit() {
	for !r.written.Load() {
		var b ledger.Books
		err := persist(r.rough, func() (err error) { b, err = r.dbs[1].Books(r.ctx); return err })
		if err != nil || len(b.Breaks) > 0 || b.Events != b.Ledger {
			r.Errorf("while running: %+v, %v", b, err)
			return
		}
	}
}

// TestNoGrantBehindASession: a session that begins lists every lease of its
// gateway. A grant of the session before is in the list or is refused; one that
// slipped in behind it would hold money that nobody closes.
func TestNoGrantBehindASession(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		dbs, ctx := []*ledger.DB{open(), open()}, context.Background()
		fund(t, dbs[0], "acme", 1000)
		session := ledger.Session{ID: "s0", Gateway: "g", TTL: time.Hour}
		if _, err := dbs[0].StartSession(ctx, session); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			old, lease := fmt.Sprintf("s%d", i), fmt.Sprintf("l%d", i)
			var granted error
			var race sync.WaitGroup
			race.Go(func() {
				_, _, granted = dbs[0].Grant(ctx, ledger.GrantRequest{LeaseID: lease, Customer: "acme", Session: old, Gateway: "g", GrantNo: 1, Need: 1})
			})
			session.ID = fmt.Sprintf("s%d", i+1)
			listed, err := dbs[1].StartSession(ctx, session)
			if err != nil {
				t.Fatal(err)
			}
			race.Wait()
			if granted == nil && !slices.ContainsFunc(listed, func(l ledger.Lease) bool { return l.ID == lease }) {
				t.Fatalf("round %d: the grant came behind the session that should list it", i)
			}
			if granted != nil && !errors.Is(granted, ledger.ErrSuperseded) {
				t.Fatal(granted)
			}
		}
	})
}

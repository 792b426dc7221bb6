package ledger_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestFailingCommit: a COMMIT that the database refuses is an error and stores
// nothing, on every backend, and the ledger goes on.
func TestFailingCommit(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		if db.Engine() == ledger.CockroachDB {
			t.Skip("CockroachDB has no deferred constraints, so nothing of this kind fails there at COMMIT")
		}
		exec := func(text string) error {
			return db.Tx(ctx, func(tx *ledger.Tx) error { return tx.Exec(ctx, text) })
		}
		if err := errors.Join(exec("CREATE TABLE parent (id BIGINT PRIMARY KEY)"),
			exec("CREATE TABLE child (id BIGINT PRIMARY KEY, parent BIGINT REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")); err != nil {
			t.Fatal(err)
		}
		if err := exec("INSERT INTO child (id, parent) VALUES (1, 1)"); err == nil {
			t.Error("a violated constraint at COMMIT went unnoticed")
		}
		if err := exec("INSERT INTO parent (id) VALUES (7)"); err != nil {
			t.Errorf("after it: %v", err)
		}
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			n, err := tx.Count(ctx, "SELECT COUNT(*) FROM child")
			if err == nil && n != 0 {
				t.Errorf("%d rows of the failed transaction are there", n)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestTxEnds: whichever way a transaction ends, the next one can begin.
func TestTxEnds(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		insert := func(ctx context.Context, name string, then func() error) error {
			return db.Tx(ctx, func(tx *ledger.Tx) error {
				if err := tx.Exec(ctx, "INSERT INTO setting (name, value) VALUES ($1, '')", name); err != nil {
					return err
				}
				return then()
			})
		}
		boom := errors.New("boom")
		if err := insert(ctx, "failed", func() error { return boom }); !errors.Is(err, boom) {
			t.Errorf("failed: %v", err)
		}
		func() {
			defer func() { recover() }()
			insert(ctx, "panicked", func() error { panic(boom) })
		}()
		cancelled, cancel := context.WithCancel(ctx)
		err := insert(cancelled, "cancelled", func() error { cancel(); return cancelled.Err() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := insert(cancelled, "late", func() error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("begun after cancelling: %v", err)
		}
		if err := insert(ctx, "good", func() error { return nil }); err != nil {
			t.Errorf("good: %v", err)
		}
		for _, name := range []string{"failed", "panicked", "cancelled", "late", "good"} {
			if v, err := db.Setting(ctx, name, "absent"); err != nil || (v == "absent") != (name != "good") {
				t.Errorf("%s is %q, %v", name, v, err)
			}
		}
	})
}

// TestWriteSkew: of two serializable transactions that each read what the
// other writes, one loses, at a statement or at COMMIT, and is run again.
func TestWriteSkew(t *testing.T) {
	meet(t, func(ctx context.Context, tx *ledger.Tx, name string, met func()) error {
		if tx.Engine() == ledger.PostgreSQL { // CockroachDB is serializable unless told otherwise
			if err := tx.Exec(ctx, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"); err != nil {
				return err
			}
		}
		taken, err := tx.Count(ctx, "SELECT CAST(COALESCE(SUM(taken), 0) AS BIGINT) FROM budget")
		if err != nil {
			return err
		}
		met()
		return tx.Exec(ctx, "INSERT INTO budget (rule_name, utc_day, taken) VALUES ($1, 'd', $2)", name, taken+1)
	}, func(ctx context.Context, tx *ledger.Tx) (int64, error) {
		return tx.Count(ctx, "SELECT CAST(SUM(taken) AS BIGINT) FROM budget") // 1 + 2, not 1 + 1
	})
}

// TestDeadlock: of two transactions that lock two rows in opposite orders, one
// loses and is run again.
func TestDeadlock(t *testing.T) {
	meet(t, func(ctx context.Context, tx *ledger.Tx, name string, met func()) error {
		if tx.Engine() == ledger.PostgreSQL {
			if err := tx.Exec(ctx, "SET LOCAL deadlock_timeout = '10ms'"); err != nil {
				return err
			}
		}
		const add = "UPDATE epoch SET value = value * 10 WHERE name = $1"
		other := map[string]string{"change": "recall", "recall": "change"}[name]
		if err := tx.Exec(ctx, add, name); err != nil {
			return err
		}
		met()
		return tx.Exec(ctx, add, other)
	}, func(ctx context.Context, tx *ledger.Tx) (int64, error) {
		return tx.Count(ctx, "SELECT CAST(SUM(value) AS BIGINT) / 100 + 1 FROM epoch WHERE name <> 'session'") // both rows × 100
	})
}

// meet runs a transaction twice side by side, on two handles of one database;
// on a server their first attempts wait for each other in met. The result must
// be 3 in the end.
func meet(t *testing.T, fn func(ctx context.Context, tx *ledger.Tx, name string, met func()) error,
	result func(context.Context, *ledger.Tx) (int64, error)) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		ctx := context.Background()
		dbs := map[string]*ledger.DB{"change": open(), "recall": open()}
		var attempts atomic.Int64
		var here, both sync.WaitGroup
		here.Add(2)
		for name, db := range dbs {
			both.Go(func() {
				once := sync.OnceFunc(func() {
					if here.Done(); db.Engine() != ledger.SQLite { // there the second cannot even begin
						here.Wait()
					}
				})
				err := db.Tx(ctx, func(tx *ledger.Tx) error {
					attempts.Add(1)
					return fn(ctx, tx, name, once)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		db := dbs["change"]
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			n, err := result(ctx, tx)
			if err == nil && n != 3 {
				t.Errorf("the result is %d after %d attempts", n, attempts.Load())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if db.Engine() != ledger.SQLite && attempts.Load() < 3 {
			t.Error("the transactions did not meet")
		}
	})
}

// cutter is a proxy before PostgreSQL that, once armed, breaks the connection
// at COMMIT: before the server sees it, or after it answered.
type cutter struct {
	server string
	armed  atomic.Bool
	after  atomic.Bool
}

func (c *cutter) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.server)
		if err != nil {
			client.Close()
			return
		}
		cut := make(chan bool, 1)
		go func() { // answers
			defer client.Close()
			buf := make([]byte, 1<<16)
			for {
				n, err := server.Read(buf)
				select {
				case <-cut:
					return // the answer to COMMIT is lost
				default:
				}
				if err != nil {
					return
				}
				client.Write(buf[:n])
			}
		}()
		go func() { // requests
			defer server.Close()
			buf := make([]byte, 1<<16)
			for {
				n, err := client.Read(buf)
				if err != nil {
					return
				}
				if strings.Contains(string(buf[:n]), "commit\x00") && c.armed.CompareAndSwap(true, false) {
					if !c.after.Load() {
						client.Close()
						return
					}
					cut <- true
				}
				server.Write(buf[:n])
			}
		}()
	}
}

// TestAmbiguousCommit: a settlement whose COMMIT got no answer takes effect
// once, whether the server had seen it or not.
func TestAmbiguousCommit(t *testing.T) {
	server, err := url.Parse(ledgertest.Database(t, ledgertest.Postgres(t)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &cutter{server: server.Host}
	go c.serve(l)
	server.Host = l.Addr().String()
	db, ctx := ledgertest.Open(t, ledger.Config{URL: server.String()}), context.Background()
	fund(t, db, "acme", 10*money.Dollar)
	cursor, err := db.AcquirePartition(ctx, "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, after := range []bool{false, true} {
		c.after.Store(after)
		c.armed.Store(true)
		out, err := db.Settle(ctx, ledger.Batch{Topic: "t", Epoch: cursor.Epoch, From: int64(i), To: int64(i) + 1,
			Records: []ledger.Settling{{Offset: int64(i), Rec: &usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "l",
				Seq: uint64(i) + 1, Customer: "acme", Provider: "p", Price: money.Dollar}}}})
		if err != nil || len(out.Fresh) != 1 || c.armed.Load() {
			t.Fatalf("after=%v: %v, %v, armed %v", after, out, err, c.armed.Load())
		}
	}
	// Anything else is told that the outcome is unknown, not that it failed for sure.
	c.armed.Store(true)
	err = db.Tx(ctx, func(tx *ledger.Tx) error { return tx.Exec(ctx, "INSERT INTO setting (name, value) VALUES ('x', 'y')") })
	if !errors.Is(err, ledger.ErrAmbiguous) {
		t.Errorf("a COMMIT without answer: %v", err)
	}
	w, err := db.Wallet(ctx, "acme")
	if err != nil || w.Debited != 2*money.Dollar {
		t.Errorf("%+v, %v", w, err)
	}
	if b, err := db.Books(ctx); err != nil || len(b.Breaks) > 0 || b.Ledger.Count != 2 {
		t.Errorf("%+v, %v", b, err)
	}
}

// fund makes a customer with money.
func fund(t testing.TB, db *ledger.DB, customer string, amount money.Nano) {
	t.Helper()
	ctx := context.Background()
	err := db.Tx(ctx, func(tx *ledger.Tx) error {
		if _, err := tx.CreateCustomer(ctx, ledger.Customer{ID: customer}); err != nil {
			return err
		}
		_, _, err := tx.Credit(ctx, ledger.Credit{Customer: customer, Amount: amount})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

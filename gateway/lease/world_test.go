package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	testTTL   = 10 * time.Minute
	testIdle  = 30 * time.Second
	testGrace = 45 * time.Minute // longest request and recovery, as the ledger reclaims
)

// world is a real ledger on SQLite under a clock that the test moves, and the
// way from a gateway's records into it.
type world struct {
	t      testing.TB
	now    time.Time
	ledger *ledger.DB
	cursor ledger.Cursor
	offset int64
	ids    int // leases named so far
}

func newWorld(t testing.TB, customers map[string]money.Nano) *world {
	w := &world{t: t, now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	ctx := t.Context()
	var err error
	if w.ledger, err = ledger.Open(ctx, ledger.Config{Dir: t.TempDir(), Now: func() time.Time { return w.now }}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.ledger.Close() })
	err = w.ledger.Tx(ctx, func(tx *ledger.Tx) error {
		for id, amount := range customers {
			if _, err := tx.CreateCustomer(ctx, ledger.Customer{ID: id}); err != nil {
				return err
			}
			if amount > 0 {
				if _, _, err := tx.Credit(ctx, ledger.Credit{Customer: id, Amount: amount}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.cursor, err = w.ledger.AcquirePartition(ctx, "topic", 0); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) credit(customer string, amount money.Nano) {
	w.t.Helper()
	ctx := context.Background()
	err := w.ledger.Tx(ctx, func(tx *ledger.Tx) error {
		_, _, err := tx.Credit(ctx, ledger.Credit{Customer: customer, Amount: amount})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wallet(customer string) ledger.Wallet {
	w.t.Helper()
	row, err := w.ledger.Wallet(context.Background(), customer)
	if err != nil {
		w.t.Fatal(err)
	}
	return row
}

func (w *world) lease(id string) ledger.Lease {
	w.t.Helper()
	row, err := w.ledger.Lease(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return row
}

// settle brings records into the ledger, as one batch.
func (w *world) settle(recs []usage.Record) {
	w.t.Helper()
	if len(recs) == 0 {
		return
	}
	b := ledger.Batch{Topic: "topic", Epoch: w.cursor.Epoch, From: w.offset, To: w.offset + int64(len(recs))}
	for i := range recs {
		b.Records = append(b.Records, ledger.Settling{Offset: w.offset + int64(i), Rec: &recs[i]})
	}
	if _, err := w.ledger.Settle(context.Background(), b); err != nil {
		w.t.Fatal(err)
	}
	w.offset = b.To
}

// balanced fails the test unless the ledger's own audit finds nothing and no
// lease holds anything.
func (w *world) balanced() {
	w.t.Helper()
	books, err := w.ledger.Books(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	if len(books.Breaks) > 0 || books.Held != 0 || books.OpenLeases != 0 {
		w.t.Fatalf("held %s, %d leases are not closed, breaks: %+v", books.Held, books.OpenLeases, books.Breaks)
	}
}

// gate is one gateway's book on a real spool, with faults between it and both.
type gate struct {
	*Book
	w       *world
	id, dir string
	session string
	recall  int64
	full    bool // no grants

	mu      sync.Mutex // guards the following
	fault   fault
	calls   int            // of the ledger
	late    []func()       // grants whose request is still on its way
	paid    []ledger.Lease // rows as grants left them, in order
	recs    []usage.Record // what the spool took, without intents
	intents int            // intents it took
	broken  error          // what the spool answers, if not nil
	sent    int            // records that were settled
	spool   *stream.Spool
}

// fault is what becomes of the next calls of the ledger.
type fault int

const (
	noFault    fault = iota
	failBefore       // the request is lost
	failAfter        // the answer is lost
	failLate         // the request arrives after the caller has given up
)

var errLost = errors.New("connection lost")

func (w *world) gate(id string) *gate {
	w.t.Helper()
	g := &gate{w: w, id: id, dir: w.t.TempDir()}
	g.open()
	g.start()
	g.beat()
	return g
}

// open opens the spool and makes an empty book, as a process does that starts.
func (g *gate) open() {
	g.w.t.Helper()
	var err error
	g.spool, err = stream.OpenSpool(stream.SpoolConfig{Dir: g.dir, MaxBytes: 256 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		g.w.t.Fatal(err)
	}
	g.w.t.Cleanup(func() { g.spool.Close() })
	g.Book = NewBook(Config{Ledger: g, Spool: g, Gateway: g.id, TTL: testTTL, Idle: testIdle,
		NewID: func() string { g.w.ids++; return fmt.Sprintf("%s-lease-%d", g.id, g.w.ids) },
		Now:   func() time.Time { return g.w.now }, Log: slog.New(slog.DiscardHandler), NoGrants: func() bool { return g.full }})
}

// start begins a session of the gateway and returns the leases of earlier ones.
func (g *gate) start() []ledger.Lease {
	g.w.t.Helper()
	g.w.ids++
	g.session = fmt.Sprintf("%s-session-%d", g.id, g.w.ids)
	leases, err := g.w.ledger.StartSession(context.Background(), ledger.Session{ID: g.session, Gateway: g.id, TTL: testTTL})
	if err != nil {
		g.w.t.Fatal(err)
	}
	return leases
}

// crash ends the process, which keeps nothing but its spool, and starts the next.
func (g *gate) crash() {
	g.w.t.Helper()
	g.broken, g.fault = nil, noFault
	if err := g.spool.Close(); err != nil {
		g.w.t.Fatal(err)
	}
	g.open()
	recovery := Recovery{Spool: g, Found: g.spool.Replay(), Leases: g.start(), Lookup: g.w.ledger.Lease, Now: g.w.now, Log: slog.New(slog.DiscardHandler)}
	if err := recovery.Run(context.Background()); err != nil {
		g.w.t.Fatal(err)
	}
	g.recall = 0
	g.beat()
}

// beat does what a gateway does every two seconds.
func (g *gate) beat() {
	g.w.t.Helper()
	sent := g.w.now
	a, err := g.w.ledger.Beat(context.Background(), ledger.Beat{Session: g.session, SinceRecall: g.recall})
	if errors.Is(err, ledger.ErrSessionEnded) {
		g.start()
		return
	}
	if err != nil {
		g.w.t.Fatal(err)
	}
	g.recall = a.Recall
	g.Renew(g.session, sent, a.Gateways)
	g.Recall(a.RecallWallets)
}

// deliver settles up to n more of the gateway's records.
func (g *gate) deliver(n int) {
	g.w.t.Helper()
	g.mu.Lock()
	recs := slices.Clone(g.recs[g.sent:min(g.sent+n, len(g.recs))])
	g.sent += len(recs)
	g.mu.Unlock()
	g.w.settle(recs)
}

// Grant is the ledger's, with the fault that is due.
func (g *gate) Grant(ctx context.Context, q ledger.GrantRequest) (ledger.Lease, ledger.Wallet, error) {
	g.mu.Lock()
	g.calls++
	f := g.fault
	g.mu.Unlock()
	call := func() (ledger.Lease, ledger.Wallet, error) {
		l, w, err := g.w.ledger.Grant(context.WithoutCancel(ctx), q)
		if err == nil {
			g.mu.Lock()
			g.paid = append(g.paid, l)
			g.mu.Unlock()
		}
		return l, w, err
	}
	switch f {
	case failBefore:
		return ledger.Lease{}, ledger.Wallet{}, errLost
	case failAfter:
		_, _, _ = call() // the answer, whatever it is, is lost
		return ledger.Lease{}, ledger.Wallet{}, errLost
	case failLate:
		g.mu.Lock()
		g.late = append(g.late, func() { _, _, _ = call() })
		g.mu.Unlock()
		return ledger.Lease{}, ledger.Wallet{}, errLost
	}
	return call()
}

// Wallet is the ledger's, with the fault that is due.
func (g *gate) Wallet(ctx context.Context, customer string) (ledger.Wallet, error) {
	g.mu.Lock()
	g.calls++
	f := g.fault
	g.mu.Unlock()
	if f != noFault {
		return ledger.Wallet{}, errLost
	}
	return g.w.ledger.Wallet(ctx, customer)
}

// arrive carries out the oldest grant that was on its way.
func (g *gate) arrive() {
	if len(g.late) > 0 {
		g.late[0]()
		g.late = g.late[1:]
	}
}

// Append is the spool's, and remembers what it took.
func (g *gate) Append(r *usage.Record) (stream.Pos, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return 0, g.broken
	}
	pos, err := g.spool.Append(r)
	switch {
	case err != nil:
	case r.Kind == usage.KindIntent:
		g.intents++
	default:
		g.recs = append(g.recs, *r)
	}
	return pos, err
}

// reserve is Reserve for a request that must be admitted, with the growth that
// it starts.
func (g *gate) reserve(customer string, need money.Nano) Reservation {
	g.w.t.Helper()
	r, err := g.Reserve(context.Background(), customer, need)
	if err != nil {
		g.w.t.Fatalf("reserve %s of %s: %v", need, customer, err)
	}
	g.growing.Wait()
	return r
}

// usageOf is a result as the gateway makes it.
func usageOf(customer string, price money.Nano) *usage.Record {
	return &usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, Status: usage.StatusOK, Customer: customer, Provider: "openai",
		TimeMs: 1_795_000_000_000, Cost: price / 3, Price: price}
}

func (g *gate) settleOne(r Reservation, customer string, price money.Nano) {
	g.w.t.Helper()
	if _, err := g.Settle(r, usageOf(customer, price)); err != nil {
		g.w.t.Fatal(err)
	}
}

package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
)

// persist makes a call, again and again while it fails for no reason of its
// own, as the callers of a ledger do whose connections break.
func persist(rough bool, call func() error) (err error) {
	for range 100 {
		if err = call(); err == nil || !rough || refusal(err) {
			return err
		}
	}
	return err
}

// refusal tells whether the ledger has spoken.
func refusal(err error) bool {
	return slices.ContainsFunc([]error{ledger.ErrNotFound, ledger.ErrExists, ledger.ErrFrozen, ledger.ErrInsufficient, ledger.ErrFenced,
		ledger.ErrSuperseded, ledger.ErrSessionEnded, ledger.ErrSessionExpired, ledger.ErrLeaseClosed, ledger.ErrAlone, ledger.ErrConflict,
		ledger.ErrCrash}, func(target error) bool { return errors.Is(err, target) })
}

// fire is what happens to a ledger under fire: each fault on average some
// times in a history.
var fire = ledgertest.Odds{ledgertest.LostStatement: 60, ledgertest.DeadStatement: 80, ledgertest.LostCommit: 10, ledgertest.DeadCommit: 15,
	ledgertest.CutBefore: 12, ledgertest.CutAfter: 12, ledgertest.CutAnywhere: 500}

// fireplace is one way to a server under fire.
type fireplace struct {
	isolation string
	cockroach bool
}

func (f fireplace) String() string {
	if f.cockroach {
		return "cockroach protocol"
	}
	return f.isolation
}

// fireplaces: both levels that a PostgreSQL server may be set to; and
// CockroachDB's protocol. PostgreSQL under it cannot be serializable, since what
// it finds out at COMMIT comes after the savepoint is gone.
var fireplaces = []fireplace{{"read committed", false}, {"serializable", false}, {"read committed", true}}

func (f fireplace) open(t *testing.T, seed uint64) (*ledgertest.Proxy, ledger.Config) {
	u, err := url.Parse(ledgertest.Database(t, ledgertest.Postgres(t)))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("default_transaction_isolation", f.isolation)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	p, address := ledgertest.NewProxy(t, u.String(), seed, f.cockroach)
	return p, ledger.Config{URL: address}
}

// report prints what happened and asks that each kind of fault did.
func report(t *testing.T, p *ledgertest.Proxy, odds ledgertest.Odds) {
	t.Helper()
	counts := p.Counts()
	var lines []string
	for f := range odds {
		lines = append(lines, fmt.Sprintf("%d × %s", counts[f], f))
		if counts[f] == 0 {
			t.Errorf("never: %s", f)
		}
	}
	slices.Sort(lines)
	t.Log(strings.Join(lines, "; "))
}

// TestRandomUnderFire runs random histories while the server refuses and
// connections break at every place: the wallets stay the oracle's after each
// step, so nothing took effect twice and nothing was lost.
func TestRandomUnderFire(t *testing.T) {
	for _, f := range fireplaces {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			p, c := f.open(t, *seed0)
			for seed := *seed0; seed < *seed0+*seeds; seed++ {
				h := newHistory(t, c, seed)
				h.rough = true
				p.Break(fire)
				for h.step = range 120 {
					h.next()
					h.compare()
				}
				h.finish()
				p.Break(nil)
			}
			report(t, p, fire)
		})
	}
}

// TestConcurrentUnderFire: what TestConcurrent asks, while everything breaks.
func TestConcurrentUnderFire(t *testing.T) {
	for _, f := range fireplaces {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			p, c := f.open(t, *seed0)
			r := newRace(t, func() *ledger.DB { return ledgertest.Open(t, c) })
			r.rough = true
			p.Break(fire)
			r.run()
			p.Break(nil)
			r.end()
			report(t, p, fire)
		})
	}
}

// TestUnanswered: a call whose COMMIT got no answer succeeds, whether the
// server had done it or not, and takes effect once.
func TestUnanswered(t *testing.T) {
	for _, f := range fireplaces {
		for _, fault := range []ledgertest.Fault{ledgertest.CutBefore, ledgertest.CutAfter} {
			t.Run(f.String()+"/"+string(fault), func(t *testing.T) {
				t.Parallel()
				unanswered(t, f, fault)
			})
		}
	}
}

func unanswered(t *testing.T, f fireplace, fault ledgertest.Fault) {
	p, c := f.open(t, 1)
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	c.Now = func() time.Time { return now }
	db, ctx := ledgertest.Open(t, c), context.Background()
	fund(t, db, "acme", 10*money.Dollar)
	broken := 0
	try := func(name string, call func() error) {
		t.Helper()
		p.Once(fault)
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if broken++; p.Counts()[fault] != broken {
			t.Fatalf("%s: nothing broke", name)
		}
	}
	key := ledger.OnceKey{Key: "k", Route: "credit"}
	try("a request with a key", func() error {
		_, _, err := db.Once(ctx, key, func(tx *ledger.Tx) (ledger.Answer, error) {
			_, _, err := tx.Credit(ctx, ledger.Credit{Customer: "acme", Amount: money.Dollar})
			return ledger.Answer{Status: 200, Body: []byte("{}")}, err
		})
		return err
	})
	session := ledger.Session{ID: "s", Gateway: "g", TTL: time.Minute}
	try("the start of a session", func() error { _, err := db.StartSession(ctx, session); return err })
	try("a beat", func() error { _, err := db.Beat(ctx, ledger.Beat{Session: "s"}); return err })
	for no := range int64(2) {
		try("a grant", func() error {
			l, _, err := db.Grant(ctx, ledger.GrantRequest{LeaseID: "l", Customer: "acme", Session: "s", Gateway: "g", GrantNo: no + 1, Need: money.Dollar})
			if err == nil && l.Granted != money.Nano(no+1)*money.Dollar {
				t.Errorf("grant %d: %s", no, l.Granted)
			}
			return err
		})
	}
	try("owning a partition", func() error { _, err := db.AcquirePartition(ctx, "t", 0); return err })
	try("a setting", func() error { _, err := db.Setting(ctx, "name", "value"); return err })
	try("the end of a session", func() error { return db.EndSession(ctx, "s") })
	now = now.Add(time.Hour)
	try("a reclaim", func() error {
		got, err := db.Reclaim(ctx, time.Minute)
		if err == nil && len(got) != 1 {
			t.Errorf("reclaimed %v", got)
		}
		return err
	})
	w, err := db.Wallet(ctx, "acme")
	if err != nil || w.Credited != 11*money.Dollar || w.Held != 0 {
		t.Errorf("%+v, %v", w, err)
	}
	if b, err := db.Books(ctx); err != nil || len(b.Breaks) > 0 {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestSessionAgain: a session that was superseded cannot come back by its start
// being sent again.
func TestSessionAgain(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		start := func(id string) error {
			_, err := db.StartSession(ctx, ledger.Session{ID: id, Gateway: "g", TTL: time.Minute})
			return err
		}
		if err := errors.Join(start("old"), start("old"), start("new")); err != nil {
			t.Fatal(err)
		}
		if err := start("old"); !errors.Is(err, ledger.ErrSuperseded) {
			t.Errorf("the old one: %v", err)
		}
		if err := start("new"); err != nil {
			t.Errorf("the new one: %v", err)
		}
	})
}

// TestGivesUp: a transaction that always loses is tried a bounded number of
// times and then fails with what the server said.
func TestGivesUp(t *testing.T) {
	for _, f := range fireplaces[1:] {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			p, c := f.open(t, 1)
			db, ctx := ledgertest.Open(t, c), context.Background()
			p.Break(ledgertest.Odds{ledgertest.LostCommit: 1})
			runs := 0
			err := db.Tx(ctx, func(tx *ledger.Tx) error {
				runs++
				return tx.Exec(ctx, "INSERT INTO setting (name, value) VALUES ('x', 'y')")
			})
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "40001" || runs != ledger.TxAttempts+1 {
				t.Errorf("%d runs: %v", runs, err)
			}
			p.Break(nil)
			if v, err := db.Setting(ctx, "x", "absent"); err != nil || v != "absent" {
				t.Errorf("%q, %v", v, err)
			}
		})
	}
}

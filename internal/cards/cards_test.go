package cards

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/schemas/ratecard"
)

// clock is the ledger's, so that times of publication are known.
type clock struct{ now time.Time }

func open(t *testing.T) (*ledger.DB, *clock) {
	t.Helper()
	at := &clock{time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
	db, err := ledger.Open(t.Context(), ledger.Config{Dir: t.TempDir(), Now: func() time.Time { return at.now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, at
}

func compose(t *testing.T, text string) *ratecard.Card {
	t.Helper()
	file, err := ratecard.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	card, err := ratecard.Compose(ratecard.Builtin(), file)
	if err != nil {
		t.Fatal(err)
	}
	return card
}

func publish(t *testing.T, db *ledger.DB, card *ratecard.Card) {
	t.Helper()
	err := db.Tx(t.Context(), func(tx *ledger.Tx) error {
		_, err := Publish(context.Background(), tx, card, true)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestInForce(t *testing.T) {
	db, at := open(t)
	c := New(db)
	refresh := func() {
		t.Helper()
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	start := at.now
	day := func(n int) time.Time { return start.AddDate(0, 0, n) }
	check := func(now time.Time, want *ratecard.Card) {
		t.Helper()
		got := c.Current(now)
		if want == nil && got != nil || want != nil && (got == nil || got.ID() != want.ID()) {
			t.Errorf("at %s: %v, want %v", now, got, want)
		}
	}
	refresh()
	check(day(0), nil)

	now, three, future, past := compose(t, "rules: [{multiplier: \"2\"}]"), compose(t, "version: three\nrules: [{multiplier: \"3\"}]"),
		compose(t, "effective_from: 2026-11-11T12:00:00Z\nrules: [{multiplier: \"4\"}]"),
		compose(t, "effective_from: 2026-10-01T00:00:00Z\nrules: [{multiplier: \"5\"}]")
	publish(t, db, now)
	check(day(0), nil) // known only after a refresh
	refresh()
	check(start.Add(-time.Microsecond), nil)
	check(day(0), now)

	at.now = day(1)
	publish(t, db, future)
	refresh()
	check(day(9), now)
	check(day(10), future)

	at.now = day(2)
	publish(t, db, past) // published later, but its time is before the one in force
	refresh()
	check(day(2), now)

	at.now = day(3)
	publish(t, db, three)
	refresh()
	check(day(3), three)
	check(day(10), future)
	if in := c.InForce(day(3)); in.Label != "three" || !in.EffectiveFrom.Equal(day(3)) {
		t.Errorf("%+v", in)
	}

	at.now = day(4)
	publish(t, db, now) // an old card returns
	refresh()
	check(day(4), now)

	fresh := New(db) // another process sees the same
	if err := fresh.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range 12 {
		if a, b := c.Current(day(n)), fresh.Current(day(n)); a.ID() != b.ID() {
			t.Errorf("day %d: %s and %s", n, a.ID(), b.ID())
		}
	}
}

// TestSameInstant: of cards that come into force together the one that was
// published last counts.
func TestSameInstant(t *testing.T) {
	db, at := open(t)
	for _, multiplier := range []string{"2", "3", "4"} {
		card := compose(t, "effective_from: 2026-11-01T00:00:00Z\nrules: [{multiplier: \""+multiplier+"\"}]")
		publish(t, db, card) // the first two in one microsecond
		c := New(db)
		if err := c.Refresh(t.Context()); err != nil || c.Current(at.now).ID() != card.ID() {
			t.Errorf("not in force: multiplier %s, %v", multiplier, err)
		}
		if multiplier == "3" {
			at.now = at.now.Add(time.Second)
		}
	}
}

func TestFind(t *testing.T) {
	db, _ := open(t)
	card := compose(t, "rules: [{multiplier: \"2\"}]")
	c := New(db)
	if _, err := c.Find(t.Context(), card.CostHash(), card.PriceHash()); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("before it is published: %v", err)
	}
	publish(t, db, card)
	got, err := c.Find(t.Context(), card.CostHash(), card.PriceHash()) // no refresh needed
	if err != nil || got.ID() != card.ID() {
		t.Errorf("%v, %v", got, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := c.Find(t.Context(), card.CostHash(), card.PriceHash()); err != nil || again != got {
		t.Errorf("without the ledger: %v, %v", again, err)
	}
	if _, err := c.Find(t.Context(), card.CostHash(), "other"); err == nil || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("a ledger that is down says %v", err)
	}
}

// TestStartPublishesOnlyWhatNeverWas walks through starts and publications.
func TestStartPublishesOnlyWhatNeverWas(t *testing.T) {
	db, at := open(t)
	c := New(db)
	file := filepath.Join(t.TempDir(), "card.yaml")
	write := func(multiplier string) {
		if err := os.WriteFile(file, []byte("rules: [{multiplier: \""+multiplier+"\"}]"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func(want bool, files ...string) {
		t.Helper()
		at.now = at.now.Add(time.Hour)
		got, err := PublishFiles(t.Context(), db, files)
		if err != nil || got != want {
			t.Errorf("a start publishes: %v, %v; want %v", got, err, want)
		}
	}
	inForce := func(multiplier string) {
		t.Helper()
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := c.Current(at.now).Rule("default").Multiplier.String(); got != multiplier {
			t.Errorf("multiplier %s, want %s", got, multiplier)
		}
	}
	start(true) // built-in costs at multiplier 1
	inForce("1")
	start(false)
	write("3")
	start(true, file)
	inForce("3")
	start(false, file)
	at.now = at.now.Add(time.Hour)
	publish(t, db, compose(t, "rules: [{multiplier: \"5\"}]"))
	inForce("5")
	start(false, file) // a restart does not take the publication back
	start(false)
	inForce("5")
	write("4")
	start(true, file) // a changed file is new
	inForce("4")
}

// TestNewBuiltinCosts: a program with other built-in costs, which is to say a
// built-in card that this ledger never saw, leaves an operator's card alone.
func TestNewBuiltinCosts(t *testing.T) {
	db, at := open(t)
	mine := compose(t, "rules: [{multiplier: \"5\"}]")
	publish(t, db, mine)
	at.now = at.now.Add(time.Hour)
	if published, err := PublishFiles(t.Context(), db, nil); err != nil || published {
		t.Errorf("published %v, %v", published, err)
	}
	c := New(db)
	if err := c.Refresh(t.Context()); err != nil || c.Current(at.now).ID() != mine.ID() {
		t.Errorf("the operator's card is gone: %v", err)
	}
}

func TestPublishFilesErrors(t *testing.T) {
	db, _ := open(t)
	if _, err := PublishFiles(t.Context(), db, []string{"/nonexistent/card.yaml"}); err == nil {
		t.Error("a missing file")
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	os.WriteFile(bad, []byte("rules: [{multiplier: \"-1\"}]"), 0o600)
	var card *ratecard.CardError
	if _, err := PublishFiles(t.Context(), db, []string{bad}); !errors.As(err, &card) || card.File != bad {
		t.Errorf("%v", err)
	}
}

// TestCurrentWhileRefreshing is for the race detector.
func TestCurrentWhileRefreshing(t *testing.T) {
	db, at := open(t)
	c := New(db)
	publish(t, db, compose(t, "rules: [{multiplier: \"2\"}]"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			c.Refresh(context.Background())
		}
	}()
	for {
		c.Current(at.now)
		select {
		case <-done:
			if c.Current(at.now) == nil {
				t.Error("no card")
			}
			return
		default:
		}
	}
}

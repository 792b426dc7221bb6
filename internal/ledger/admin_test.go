package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
)

// TestOnce: a request takes effect once per key and route, however often and
// however simultaneously it is sent; failures leave nothing.
func TestOnce(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		fund(t, db, "acme", money.Dollar)
		credit := func(db *ledger.DB, key string, body byte, status int, fail error) (ledger.Answer, bool, error) {
			return db.Once(ctx, ledger.OnceKey{Key: key, Route: "credits", BodyHash: [32]byte{body}}, func(tx *ledger.Tx) (ledger.Answer, error) {
				_, w, err := tx.Credit(ctx, ledger.Credit{Customer: "acme", Amount: money.Dollar})
				if err == nil {
					err = fail
				}
				return ledger.Answer{Status: status, Body: []byte(w.Credited.String())}, err
			})
		}
		expect := func(name string, credited money.Nano, answer string, replay bool, got ledger.Answer, replayed bool, err error) {
			t.Helper()
			w, werr := db.Wallet(ctx, "acme")
			if err != nil || werr != nil || string(got.Body) != answer || replayed != replay || w.Credited != credited {
				t.Errorf("%s: %q, replayed %v, %v; credited %s, %v", name, got.Body, replayed, err, w.Credited, werr)
			}
		}
		a, r, err := credit(db, "k", 1, 201, nil)
		expect("first", 2*money.Dollar, "2.00", false, a, r, err)
		a, r, err = credit(db, "k", 1, 201, nil)
		if expect("again", 2*money.Dollar, "2.00", true, a, r, err); a.Status != 201 {
			t.Errorf("the replay's status is %d", a.Status)
		}
		if _, _, err = credit(db, "k", 2, 201, nil); !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("another body: %v", err)
		}
		a, r, err = credit(db, "", 1, 201, nil)
		expect("no key", 3*money.Dollar, "3.00", false, a, r, err)
		a, r, err = credit(db, "refused", 1, 409, nil)
		expect("a failure rolls back", 3*money.Dollar, "4.00", false, a, r, err)
		boom := errors.New("boom")
		if _, _, err = credit(db, "refused", 1, 201, boom); !errors.Is(err, boom) {
			t.Errorf("an error: %v", err)
		}
		a, r, err = credit(db, "refused", 3, 201, nil)
		expect("failures are not stored", 4*money.Dollar, "4.00", false, a, r, err)

		var wg sync.WaitGroup
		others := []*ledger.DB{db, open()}
		for i := range 8 {
			wg.Go(func() {
				if a, _, err := credit(others[i%2], "same", 1, 201, nil); err != nil || string(a.Body) != "5.00" {
					t.Errorf("at the same time: %q, %v", a.Body, err)
				}
			})
		}
		wg.Wait()
		if w, err := db.Wallet(ctx, "acme"); w.Credited != 5*money.Dollar {
			t.Errorf("credited %s, %v", w.Credited, err)
		}
	})
}

// TestKeys: what gateways learn of keys, customers and cards, by id and by beat.
func TestKeys(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		c.Now = func() time.Time { return now }
		db, ctx := ledgertest.Open(t, c), context.Background()
		fund(t, db, "acme", money.Dollar)
		do := func(fn func(tx *ledger.Tx) error) error { return db.Tx(ctx, fn) }
		beat := func(since int64) ledger.BeatAnswer {
			b, err := db.Beat(ctx, ledger.Beat{Session: "s", SinceEpoch: since})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if _, err := db.StartSession(ctx, ledger.Session{ID: "s", Gateway: "g", TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		start := beat(0)
		if len(start.Keys)+len(start.Customers) > 0 || start.CardsChanged {
			t.Errorf("a first beat lists %+v", start)
		}
		expires := now.Add(time.Hour)
		key := ledger.Key{ID: "k1", Customer: "acme", Name: "n", Prefix: "sk-weir-k1", Hash: []byte{0, 1, 255}, Models: []string{"openai/gpt-4o"},
			ExpiresAt: &expires, CreatedAt: now}
		operator := ledger.Key{ID: "op", Hash: []byte{2}, CreatedAt: now}
		for _, k := range []ledger.Key{key, operator} {
			if err := do(func(tx *ledger.Tx) error { return tx.CreateKey(ctx, k) }); err != nil {
				t.Fatal(err)
			}
			if got, err := db.Key(ctx, k.ID); err != nil || !reflect.DeepEqual(got, k) {
				t.Errorf("%+v, %v, want %+v", got, err, k)
			}
		}
		if err := do(func(tx *ledger.Tx) error { return tx.CreateKey(ctx, key) }); !errors.Is(err, ledger.ErrExists) {
			t.Errorf("again: %v", err)
		}
		if err := do(func(tx *ledger.Tx) error { return tx.CreateKey(ctx, ledger.Key{ID: "k2", Customer: "nobody"}) }); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("for nobody: %v", err)
		}
		if list, _, err := db.Keys(ctx, "", ledger.Page{}); err != nil || len(list) != 1 || list[0].ID != "op" {
			t.Errorf("operator keys: %+v, %v", list, err)
		}
		made := beat(start.Epoch)
		if len(made.Keys) != 2 || made.CardsChanged || len(made.Customers) > 0 {
			t.Errorf("after two keys: %+v", made)
		}
		if err := do(func(tx *ledger.Tx) error { return tx.RevokeKey(ctx, "k1") }); err != nil {
			t.Fatal(err)
		}
		revoked := beat(made.Epoch)
		if len(revoked.Keys) != 1 || revoked.Keys[0].RevokedAt == nil || !revoked.Keys[0].RevokedAt.Equal(now) {
			t.Errorf("after revoking: %+v", revoked)
		}
		if err := do(func(tx *ledger.Tx) error { return tx.RevokeKey(ctx, "k1") }); err != nil || beat(0).Epoch != revoked.Epoch {
			t.Errorf("revoking again: %v", err)
		}
		if err := do(func(tx *ledger.Tx) error { return tx.RevokeKey(ctx, "none") }); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("revoking nothing: %v", err)
		}
		if err := db.SetNoNewLeases(ctx, "the log is full"); err != nil || beat(0).NoNewLeases != "the log is full" {
			t.Errorf("no new leases: %v", err)
		}
		if err := db.SetNoNewLeases(ctx, ""); err != nil || beat(0).NoNewLeases != "" {
			t.Errorf("new leases again: %v", err)
		}
	})
}

// TestCards: cards are published once, and again only on demand.
func TestCards(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		from := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
		publish := func(c ledger.Card) (published bool) {
			err := db.Tx(ctx, func(tx *ledger.Tx) (err error) {
				published, err = tx.PublishCard(ctx, c)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return published
		}
		a := ledger.Card{ID: "aa", Label: "one", ModelsHash: "m1", RulesHash: "r1", Models: []byte(`{"a":1}`), Rules: []byte(`[]`), EffectiveFrom: from, PublishedAt: from.Add(-time.Hour)}
		b := ledger.Card{ID: "bb", Label: "two", ModelsHash: "m1", RulesHash: "r2", Models: []byte(`{"a":1}`), Rules: []byte(`[1]`)}
		if !publish(a) || !publish(b) || publish(a) {
			t.Error("a card is published the first time only")
		}
		a.Again = true
		if !publish(a) {
			t.Error("publishing again")
		}
		list, epoch, err := db.Cards(ctx, 0)
		if err != nil || len(list) != 3 || list[0].ID != "aa" || list[1].ID != "bb" || list[2].ID != "aa" {
			t.Fatalf("%+v, %v", list, err)
		}
		if a.Again = false; !reflect.DeepEqual(list[0], a) {
			t.Errorf("%+v, want %+v", list[0], a)
		}
		if list[1].EffectiveFrom.IsZero() || !list[1].EffectiveFrom.Equal(list[1].PublishedAt) {
			t.Errorf("without a date a card is effective when published: %+v", list[1])
		}
		if list, _, err := db.Cards(ctx, epoch); err != nil || len(list) > 0 {
			t.Errorf("nothing new: %+v, %v", list, err)
		}
		if c, err := db.CardByHash(ctx, "m1", "r2"); err != nil || c.ID != "bb" || string(c.Rules) != "[1]" {
			t.Errorf("%+v, %v", c, err)
		}
		if _, err := db.CardByHash(ctx, "m1", "r3"); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("an unknown card: %v", err)
		}
	})
}

// TestPages walks lists newest first, rows of one instant included, while
// others are added.
func TestPages(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		c.Now = func() time.Time { return now }
		db, ctx := ledgertest.Open(t, c), context.Background()
		var want []string
		for i := range 7 {
			if i%3 == 0 {
				now = now.Add(time.Second)
			}
			id := fmt.Sprintf("c%d", i)
			fund(t, db, id, money.Dollar)
			want = append([]string{id}, want...)
		}
		var got []string
		p := ledger.Page{Limit: 2}
		for {
			list, next, err := db.Customers(ctx, p)
			if err != nil || len(list) > 2 {
				t.Fatal(len(list), err)
			}
			for _, c := range list {
				got = append(got, c.ID)
			}
			if p.Cursor = next; next == "" {
				break
			}
			now = now.Add(time.Second)
			fund(t, db, fmt.Sprintf("new%d", len(got)), money.Dollar)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		for _, cursor := range []string{"x", "!", "MTIz"} {
			if _, _, err := db.Customers(ctx, ledger.Page{Cursor: cursor}); !errors.Is(err, ledger.ErrCursor) {
				t.Errorf("cursor %q: %v", cursor, err)
			}
		}
		if _, err := db.Customer(ctx, "nobody"); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("a customer that is not there: %v", err)
		}
		if _, err := db.Wallet(ctx, "nobody"); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("a wallet that is not there: %v", err)
		}
	})
}

// TestEntryID: what a credit returns is the id of the entry that the customer sees.
func TestEntryID(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		fund(t, db, "acme", money.Dollar)
		var credit, debit string
		err := db.Tx(ctx, func(tx *ledger.Tx) (err error) {
			if credit, _, err = tx.Credit(ctx, ledger.Credit{Customer: "acme", Amount: 5, Reason: "r", Reference: "ref"}); err != nil {
				return err
			}
			debit, _, err = tx.Debit(ctx, ledger.Debit{Customer: "acme", Amount: 3})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		list, _, err := db.Entries(ctx, "acme", ledger.Page{})
		found := map[string]money.Nano{}
		for _, e := range list {
			found[e.ID] = e.Amount
		}
		if err != nil || found[credit] != 5 || found[debit] != -3 || len(found) != 3 {
			t.Errorf("%v, %v; credit %s, debit %s", found, err, credit, debit)
		}
	})
}

// TestSetting: of all who propose a value, at the same time too, the first wins.
func TestSetting(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		dbs, ctx := []*ledger.DB{open(), open()}, context.Background()
		got := make([]string, 8)
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				var err error
				if got[i], err = dbs[i%2].Setting(ctx, "pepper", fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, v := range got {
			if v != got[0] || v == "" {
				t.Fatalf("several values: %q", got)
			}
		}
	})
}

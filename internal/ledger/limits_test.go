package ledger_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestLimits: limits are kept, read back and told to gateways with a beat.
func TestLimits(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		all := ledger.Limits{RequestsPerMinute: 1, TokensPerMinute: 2, SpendPerDay: 3, SpendPerMonth: 4}
		other := ledger.Limits{RequestsPerMinute: 5, TokensPerMinute: 6, SpendPerDay: 7, SpendPerMonth: 8}
		if _, err := db.StartSession(ctx, ledger.Session{ID: "s", Gateway: "g", TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		beat := func(since int64) ledger.BeatAnswer {
			t.Helper()
			a, err := db.Beat(ctx, ledger.Beat{Session: "s", SinceEpoch: since})
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			if _, err := tx.CreateCustomer(ctx, ledger.Customer{ID: "acme", Limits: all}); err != nil {
				return err
			}
			return tx.CreateKey(ctx, ledger.Key{ID: "k", Customer: "acme", Hash: []byte{1}, Limits: other})
		})
		c, cerr := db.Customer(ctx, "acme")
		k, kerr := db.Key(ctx, "k")
		if err = errors.Join(err, cerr, kerr); err != nil || c.Limits != all || k.Limits != other {
			t.Fatalf("%+v, %+v, %v", c.Limits, k.Limits, err)
		}
		before := beat(0).Epoch
		err = db.Tx(ctx, func(tx *ledger.Tx) error {
			if _, err := tx.LimitCustomer(ctx, "acme", func(l *ledger.Limits) { *l = other }); err != nil {
				return err
			}
			_, err := tx.LimitKey(ctx, "k", func(l *ledger.Limits) { l.SpendPerDay = 0 })
			return err
		})
		told := beat(before)
		other.SpendPerDay, all = 0, other
		if err != nil || len(told.Customers) != 1 || told.Customers[0].Limits != all || len(told.Keys) != 1 || told.Keys[0].Limits != other {
			t.Errorf("told %+v, %v", told, err)
		}
		none := func(*ledger.Limits) {}
		err = db.Tx(ctx, func(tx *ledger.Tx) error { _, err := tx.LimitKey(ctx, "none", none); return err })
		if !errors.Is(err, ledger.ErrNotFound) {
			t.Error(err)
		}
		err = db.Tx(ctx, func(tx *ledger.Tx) error { _, err := tx.LimitCustomer(ctx, "none", none); return err })
		if !errors.Is(err, ledger.ErrNotFound) {
			t.Error(err)
		}
	})
}

// TestRank: gateways that live are numbered without gaps, in the order of
// their ids.
func TestRank(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		c.Now = func() time.Time { return now }
		db, ctx := ledgertest.Open(t, c), context.Background()
		for _, id := range []string{"b", "c", "a"} {
			if _, err := db.StartSession(ctx, ledger.Session{ID: "session-" + id, Gateway: id, TTL: time.Minute}); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(ranks map[string]int) {
			t.Helper()
			for id, rank := range ranks {
				a, err := db.Beat(ctx, ledger.Beat{Session: "session-" + id})
				if err != nil || a.Rank != rank || a.Gateways != len(ranks) {
					t.Errorf("%s: rank %d of %d, %v; want %d of %d", id, a.Rank, a.Gateways, err, rank, len(ranks))
				}
			}
		}
		expect(map[string]int{"a": 0, "b": 1, "c": 2})
		if err := db.EndSession(ctx, "session-b"); err != nil {
			t.Fatal(err)
		}
		expect(map[string]int{"a": 0, "c": 1})
	})
}

// TestSpends: what is spent and how far leases are settled are of one instant,
// and a lease with a gap is settled only up to it.
func TestSpends(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		fund(t, db, "acme", money.Dollar)
		if _, err := db.StartSession(ctx, ledger.Session{ID: "s", Gateway: "g", TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		_, _, err := db.Grant(ctx, ledger.GrantRequest{LeaseID: "l", Customer: "acme", Session: "s", Gateway: "g", GrantNo: 1, Need: 1000, Want: 1000})
		if err != nil {
			t.Fatal(err)
		}
		cursor, err := db.AcquirePartition(ctx, "t", 0)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 11, 24, 23, 59, 59, 0, time.UTC)
		offset := int64(0)
		settle := func(seq uint64, price money.Nano) {
			t.Helper()
			rec := usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "l", Seq: seq, Customer: "acme", KeyID: "k", Gateway: "g", RequestID: "r",
				TimeMs: at.UnixMilli(), Price: price, Cost: price, Currency: "usd"}
			_, err := db.Settle(ctx, ledger.Batch{Topic: "t", Epoch: cursor.Epoch, From: offset, To: offset + 1, Records: []ledger.Settling{{Offset: offset, Rec: &rec}}})
			if err != nil {
				t.Fatal(err)
			}
			offset++
		}
		expect := func(price money.Nano, settled uint64, rest money.Nano) {
			t.Helper()
			s, err := db.Spends(ctx, []string{"key:k", "customer:acme", "key:none"}, []string{"day:2026-11-24", "month:2026-11"}, []string{"l", "none"})
			want := ledger.Spends{Spent: map[ledger.SpendOf]money.Nano{}, Leases: map[string]ledger.LeaseSpend{"l": {Settled: settled, Rest: rest, Held: true}}}
			for _, scope := range []string{"key:k", "customer:acme"} {
				for _, period := range []string{"day:2026-11-24", "month:2026-11"} {
					want.Spent[ledger.SpendOf{Scope: scope, Period: period}] = price
				}
			}
			if err != nil || !reflect.DeepEqual(s, want) {
				t.Errorf("%+v, %v, want %+v", s, err, want)
			}
		}
		settle(1, 100)
		expect(100, 1, 900)
		settle(3, 10) // 2 is missing
		expect(110, 1, 890)
		settle(2, 1)
		expect(111, 3, 889)
		at = at.Add(time.Second) // another day, and not asked for; the month goes on
		settle(4, 5)
		s, err := db.Spends(ctx, []string{"key:k"}, []string{"day:2026-11-24", "month:2026-11"}, nil)
		if err != nil || s.Spent[ledger.SpendOf{Scope: "key:k", Period: "day:2026-11-24"}] != 111 || s.Spent[ledger.SpendOf{Scope: "key:k", Period: "month:2026-11"}] != 116 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

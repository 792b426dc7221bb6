package ledger_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/usage"
)

// TestHousekeep: an answer can be asked for again for 30 days; then its key
// names a new request.
func TestHousekeep(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		c.Now = func() time.Time { return now }
		db, ctx := ledgertest.Open(t, c), context.Background()
		ask := func(key string) (replayed bool) {
			t.Helper()
			_, replayed, err := db.Once(ctx, ledger.OnceKey{Key: key, Route: "r"}, func(*ledger.Tx) (ledger.Answer, error) {
				return ledger.Answer{Status: 200, Body: []byte("{}")}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return replayed
		}
		const old = 2001 // two transactions' worth, and one
		err := db.Tx(ctx, func(tx *ledger.Tx) error {
			for i := range old {
				err := tx.Exec(ctx, "INSERT INTO idempotency (idem_key, route, body_hash, status, body, created_at) VALUES ($1, 'r', '', 200, '', $2)",
					fmt.Sprint(i), now.UnixMicro())
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		ask("kept")
		now = now.Add(30 * 24 * time.Hour)
		if n, err := db.Housekeep(ctx); err != nil || n != old {
			t.Errorf("%d were removed, %v", n, err)
		}
		if !ask("kept") || ask("0") {
			t.Error("the wrong ones were removed")
		}
	})
}

// TestHousekeepEvents: what was told and heard is kept for 90 days, and what
// still waits for ever.
func TestHousekeepEvents(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		c.Now = func() time.Time { return now }
		db, ctx := ledgertest.Open(t, c), context.Background()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(db.Tx(ctx, func(tx *ledger.Tx) error {
			if _, err := tx.CreateCustomer(ctx, ledger.Customer{ID: "acme"}); err != nil {
				return err
			}
			e, err := tx.AddEndpoint(ctx, ledger.Endpoint{ID: "ep", URL: "https://x.example", Secret: []byte("s")})
			if err != nil {
				return err
			}
			for _, id := range []string{"done", "waits"} {
				if _, err := tx.EmitTo(ctx, e.ID, ledger.Event{ID: id, Type: ledger.EventCredited, Customer: "acme"}); err != nil {
					return err
				}
				if _, err := tx.AddStripeEvent(ctx, ledger.StripeEvent{ID: id, Type: "t", Object: "o"}); err != nil {
					return err
				}
			}
			return tx.DoneStripeEvent(ctx, "done")
		}))
		must(db.Delivered(ctx, "done", "ep", 200))
		now = now.Add(90 * 24 * time.Hour)
		if n, err := db.Housekeep(ctx); err != nil || n != 0 {
			t.Fatalf("%d were removed on the 90th day, %v", n, err)
		}
		now = now.Add(time.Second)
		if n, err := db.Housekeep(ctx); err != nil || n != 3 { // an event, its delivery, one of Stripe's
			t.Errorf("%d were removed, %v", n, err)
		}
		left, _, err := db.Deliveries(ctx, "ep", ledger.Page{})
		if err != nil || len(left) != 1 || left[0].Event.ID != "waits" {
			t.Errorf("%+v, %v", left, err)
		}
		if waiting, _, err := db.StripeInbox(ctx); err != nil || waiting != 1 {
			t.Errorf("%d of Stripe's wait, %v", waiting, err)
		}
	})
}

// TestDeadTold: Settle tells which records it could not bill, beside those that
// came as dead letters.
func TestDeadTold(t *testing.T) {
	ledgertest.Each(t, func(t *testing.T, open func() *ledger.DB) {
		db, ctx := open(), context.Background()
		c, err := db.AcquirePartition(ctx, "t", 0)
		if err != nil {
			t.Fatal(err)
		}
		out, err := db.Settle(ctx, ledger.Batch{Topic: "t", Epoch: c.Epoch, To: 2, Dead: []ledger.DeadLetter{{Offset: 0, Reason: "noise"}},
			Records: []ledger.Settling{{Offset: 1, Rec: &usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "l", Seq: 1, Customer: "nobody"}}}})
		if err != nil || len(out.Dead) != 1 || out.Dead[0].Offset != 1 || out.Dead[0].Reason == "" {
			t.Errorf("%+v, %v", out, err)
		}
	})
}

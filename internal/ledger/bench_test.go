package ledger_test

import (
	"context"
	"fmt"
	"testing"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// BenchmarkSettle settles batches of one event for each of 1,000 wallets with
// a key each, and of 10,000 events on ten wallets: the two ends of what a
// second of traffic looks like.
func BenchmarkSettle(b *testing.B) {
	for _, c := range []struct {
		name            string
		wallets, events int
	}{{"1000wallets", 1000, 1000}, {"10wallets", 10, 10_000}} {
		b.Run("sqlite/"+c.name, func(b *testing.B) {
			benchSettle(b, ledgertest.Open(b, ledger.Config{Dir: b.TempDir()}), c.wallets, c.events)
		})
		b.Run("postgres/"+c.name, func(b *testing.B) {
			benchSettle(b, ledgertest.Open(b, ledger.Config{URL: ledgertest.Database(b, ledgertest.Postgres(b))}), c.wallets, c.events)
		})
	}
}

func benchSettle(b *testing.B, db *ledger.DB, wallets, events int) {
	ctx := context.Background()
	if _, err := db.StartSession(ctx, ledger.Session{ID: "s", Gateway: "g", TTL: 1e15}); err != nil {
		b.Fatal(err)
	}
	err := db.Tx(ctx, func(tx *ledger.Tx) error {
		for i := range wallets {
			id := fmt.Sprintf("customer-%04d", i)
			if _, err := tx.CreateCustomer(ctx, ledger.Customer{ID: id}); err != nil {
				return err
			}
			if _, _, err := tx.Credit(ctx, ledger.Credit{Customer: id, Amount: 1e6 * money.Dollar}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for i := range wallets {
		if _, _, err := db.Grant(ctx, ledger.GrantRequest{LeaseID: fmt.Sprintf("0190a5b2c3d4e5f6%016x", i*7919%wallets),
			Customer: fmt.Sprintf("customer-%04d", i*7919%wallets), Session: "s", Gateway: "g", GrantNo: 1, Want: 1e5 * money.Dollar}); err != nil {
			b.Fatal(err)
		}
	}
	cursor, err := db.AcquirePartition(ctx, "topic", 0)
	if err != nil {
		b.Fatal(err)
	}
	recs := make([]usage.Record, events)
	batch := ledger.Batch{Topic: "topic", Epoch: cursor.Epoch, Records: make([]ledger.Settling, events)}
	seq := uint64(0)
	for b.Loop() {
		batch.From, batch.To = batch.To, batch.To+int64(events)
		for i := range recs {
			w := i % wallets
			recs[i] = usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: fmt.Sprintf("0190a5b2c3d4e5f6%016x", w),
				Seq: seq + uint64(i/wallets) + 1, Customer: fmt.Sprintf("customer-%04d", w), KeyID: fmt.Sprintf("key-%04d", w),
				Provider: "openai", TimeMs: 1_795_000_000_000, Cost: 1_000_000, Price: 3_000_000}
			batch.Records[i] = ledger.Settling{Offset: batch.From + int64(i), Rec: &recs[i]}
		}
		seq += uint64(events / wallets)
		out, err := db.Settle(ctx, batch)
		if err != nil || len(out.Fresh) != events {
			b.Fatal(len(out.Fresh), err)
		}
	}
	seconds := b.Elapsed().Seconds()
	b.ReportMetric(float64(b.N*wallets)/seconds, "wallets/s")
	b.ReportMetric(float64(b.N*events)/seconds, "events/s")
}

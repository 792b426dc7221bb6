package ledger_test

import (
	"context"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
)

func BenchmarkScale(b *testing.B) {
	for _, c := range []string{"sqlite", "postgres"} {
		b.Run(c, func(b *testing.B) {
			cfg := ledger.Config{Dir: b.TempDir()}
			if c == "postgres" {
				cfg = ledger.Config{URL: ledgertest.Database(b, ledgertest.Postgres(b))}
			}
			db := ledgertest.Open(b, cfg)
			benchSettle(b, db, 1000, 1000)
			b.StopTimer()
			for range 2 {
			t0 := time.Now()
			x, err := db.Books(context.Background())
			b.Logf("books %v of %d events: %v breaks %v", err, x.Events.Count, time.Since(t0), x.Breaks)
			}
		})
	}
}

package topup

import (
	"context"
	"log/slog"
	"time"

	"weir/internal/ledger"
)

// expireEvery is how often credits past their end are taken back.
const expireEvery = time.Minute

// ExpireCredits takes back what is left of credits whose time has come, until
// ctx ends. It needs no payment provider: an operator's credits end too.
func ExpireCredits(ctx context.Context, db *ledger.DB, log *slog.Logger) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		n, err := db.ExpireLots(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Warn("cannot end credits, trying again", "err", err)
		case n > 0:
			log.Info("credits have ended", "lots", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

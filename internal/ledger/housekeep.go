package ledger

import (
	"context"
	"fmt"
	"time"
)

const (
	// answersFor is how long the answer to a request with a key can be asked for
	// again: far longer than any client repeats a request.
	answersFor = 30 * 24 * time.Hour
	// sweepRows bounds one transaction of housekeeping, so that nobody waits
	// long behind it.
	sweepRows = 1000
)

// Housekeep removes answers that are older than 30 days and returns how many.
// The same key then names a new request. Nothing else is removed: leases and
// cursors tell repeated deliveries, spends are what limits are held against, and a
// lease is reclaimed by its session's row.
func (db *DB) Housekeep(ctx context.Context) (removed int64, err error) {
	for {
		var n int64
		err := db.Tx(ctx, func(tx *Tx) error {
			now, err := tx.now(ctx)
			if err != nil {
				return err
			}
			n, err = tx.exec(ctx, `DELETE FROM idempotency WHERE (idem_key, route) IN
				(SELECT idem_key, route FROM idempotency WHERE created_at < $1 ORDER BY created_at LIMIT $2)`,
				now-answersFor.Microseconds(), sweepRows)
			return err
		})
		if err != nil {
			return removed, fmt.Errorf("cannot remove old answers: %w", err)
		}
		if removed += n; n < sweepRows {
			return removed, nil
		}
	}
}

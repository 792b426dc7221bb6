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
	// eventsFor is how long what was told, and what was heard, can be told again:
	// longer than the month for which some events are told once, and than the 30
	// days for which Stripe repeats its own.
	eventsFor = 90 * 24 * time.Hour
	// sweepRows bounds one transaction of housekeeping, so that nobody waits
	// long behind it.
	sweepRows = 1000
)

// sweeps are what gets old: each removes at most $2 rows from before $1.
var sweeps = []struct {
	age  time.Duration
	text string
}{
	{answersFor, `DELETE FROM idempotency WHERE (idem_key, route) IN
		(SELECT idem_key, route FROM idempotency WHERE created_at < $1 ORDER BY created_at LIMIT $2)`},
	{eventsFor, `DELETE FROM outbox_delivery WHERE (event, endpoint) IN
		(SELECT d.event, d.endpoint FROM outbox_delivery d JOIN outbox_event e ON e.id = d.event
			WHERE e.created_at < $1 AND d.state <> 'pending' ORDER BY e.created_at LIMIT $2)`},
	{eventsFor, `DELETE FROM outbox_event WHERE id IN
		(SELECT e.id FROM outbox_event e WHERE e.created_at < $1
			AND NOT EXISTS (SELECT 1 FROM outbox_delivery d WHERE d.event = e.id) ORDER BY e.created_at LIMIT $2)`},
	{eventsFor, `DELETE FROM stripe_event WHERE id IN
		(SELECT id FROM stripe_event WHERE done_at > 0 AND done_at < $1 ORDER BY done_at LIMIT $2)`},
}

// Housekeep removes answers that are older than 30 days, and events told and
// heard that are older than 90, and returns how many rows. An answer's key then
// names a new request. Nothing else is removed: leases and cursors tell repeated
// deliveries, spends are what limits are held against, and a lease is reclaimed
// by its session's row.
func (db *DB) Housekeep(ctx context.Context) (removed int64, err error) {
	for _, s := range sweeps {
		for n := int64(sweepRows); n == sweepRows; removed += n {
			err := db.Tx(ctx, func(tx *Tx) error {
				now, err := tx.now(ctx)
				if err != nil {
					return err
				}
				n, err = tx.exec(ctx, s.text, now-s.age.Microseconds(), sweepRows)
				return err
			})
			if err != nil {
				return removed, fmt.Errorf("cannot remove what is old: %w", err)
			}
		}
	}
	return removed, nil
}

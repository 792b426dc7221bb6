package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Reclaim takes back the leases whose gateway is gone: open and closing ones
// whose session was last heard its TTL and grace ago, and closing ones that
// still miss seqs a grace after their close record. The rest returns to the
// wallet and pays what it owes first; what arrives later settles as late.
// grace is the longest request plus the time a dead gateway has to come back
// and replay its spool. It returns the leases it took.
func (db *DB) Reclaim(ctx context.Context, grace time.Duration) ([]Lease, error) {
	tx := db.view()
	now, err := tx.now(ctx)
	if err != nil {
		return nil, err
	}
	due, err := tx.leases(ctx, `WHERE state IN ('open', 'closing') AND ((state = 'closing' AND closing_at < $1)
		OR session IN (SELECT id FROM session WHERE heard_at + ttl < $1)) ORDER BY id`, now-grace.Microseconds())
	if err != nil {
		return nil, fmt.Errorf("cannot list leases to reclaim: %w", err)
	}
	var taken []Lease
	for _, l := range due {
		got, err := db.reclaimSure(ctx, l.ID, now-grace.Microseconds())
		if errors.Is(err, ErrNotFound) {
			continue // it was closed, or its gateway was heard, in the meantime
		}
		if err != nil {
			return taken, fmt.Errorf("cannot reclaim lease %s: %w", l.ID, err)
		}
		taken = append(taken, got)
	}
	return taken, nil
}

// reclaimSure is reclaimOne that asks the lease itself when COMMIT got no answer.
func (db *DB) reclaimSure(ctx context.Context, id string, before int64) (Lease, error) {
	for attempt := 0; ; attempt++ {
		l, err := db.reclaimOne(ctx, id, before)
		if !errors.Is(err, errAmbiguous) || attempt == unansweredAttempts {
			return l, err
		}
		if l, err = db.Lease(ctx, id); err != nil || l.State == LeaseReclaimed {
			return l, err
		}
		if err := backoff(ctx, attempt); err != nil {
			return Lease{}, err
		}
	}
}

// reclaimOne takes one lease back if it is still due.
func (db *DB) reclaimOne(ctx context.Context, id string, before int64) (l Lease, err error) {
	err = db.Tx(ctx, func(tx *Tx) error {
		row, err := scanLease(tx.row(ctx, leaseColumns+`WHERE id = $1 AND state IN ('open', 'closing') AND ((state = 'closing' AND closing_at < $2)
			OR session IN (SELECT id FROM session WHERE heard_at + ttl < $2))`+tx.db.lock, id, before))
		if err = missing(err, "lease", id); err != nil {
			return err
		}
		l = row.Lease
		w, err := tx.lockWallet(ctx, l.Customer)
		if err != nil {
			return err
		}
		rest := l.Rest()
		l.Returned += rest
		l.State = LeaseReclaimed
		hit, err := tx.exec(ctx, "UPDATE lease SET returned = $1, state = $2 WHERE id = $3", int64(l.Returned), l.State, id)
		if err == nil && hit != 1 {
			err = errors.New("BUG: a locked lease is gone")
		}
		if err != nil {
			return err
		}
		head := txnHead{id: "reclaim/" + id, kind: KindReceivable, reference: id}
		_, err = tx.book(ctx, &w, change{freed: rest}, head)
		return err
	})
	return l, err
}

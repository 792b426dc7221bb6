package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Cursor is where the settling of a partition stands, as its new owner learns
// it: the epoch that fences every owner before, the first offset that is not
// settled, and the event id of the record before it ("" if it had none).
type Cursor struct {
	Epoch, NextOffset int64
	LastEventID       string
}

// AcquirePartition makes the caller the owner of a partition: what an earlier
// owner still tries to settle is refused from now on.
func (db *DB) AcquirePartition(ctx context.Context, topic string, part int32) (c Cursor, err error) {
	err = db.again(ctx, func(tx *Tx) error {
		return tx.row(ctx, `INSERT INTO settle_cursor (topic, part, next_offset, epoch, last_event_id) VALUES ($1, $2, 0, 1, '')
			ON CONFLICT (topic, part) DO UPDATE SET epoch = settle_cursor.epoch + 1
			RETURNING epoch, next_offset, last_event_id`, topic, part).Scan(&c.Epoch, &c.NextOffset, &c.LastEventID)
	})
	if err != nil {
		return Cursor{}, fmt.Errorf("cannot acquire partition %s/%d: %w", topic, part, err)
	}
	return c, nil
}

// settleAttempts bounds how often a batch is tried whose COMMIT got no answer.
const settleAttempts = 5

// Settle books one batch in one transaction: cursor, leases, wallets,
// postings, spend and the manifest move together or not at all. Each event
// takes effect once, however often it is delivered. ErrFenced when the batch
// does not begin where the last one ended, or another owner has the partition.
func (db *DB) Settle(ctx context.Context, b Batch) (Settled, error) {
	if err := b.check(); err != nil {
		return Settled{}, err
	}
	for attempt := 1; ; attempt++ {
		var out outcome
		err := db.Tx(ctx, func(tx *Tx) (err error) {
			out, err = tx.settle(ctx, &b)
			return err
		})
		if errors.Is(err, errAmbiguous) && attempt < settleAttempts {
			var done bool
			if done, err = db.committed(ctx, &b); err == nil && !done {
				if err = backoff(ctx, attempt); err == nil {
					continue
				}
			}
		}
		if err != nil {
			return Settled{}, fmt.Errorf("cannot settle batch %s: %w", b.id(), err)
		}
		return out.settled, nil
	}
}

// committed resolves a COMMIT without an answer: the cursor, read on another
// connection, has moved to the batch's end or has not. Only this owner can
// have moved it under its epoch.
func (db *DB) committed(ctx context.Context, b *Batch) (bool, error) {
	var next, epoch int64
	err := db.view().row(ctx, "SELECT next_offset, epoch FROM settle_cursor WHERE topic = $1 AND part = $2", b.Topic, b.Part).Scan(&next, &epoch)
	switch {
	case err != nil:
		return false, fmt.Errorf("cannot read the cursor after an unanswered commit: %w", err)
	case epoch != b.Epoch || (next != b.From && next != b.To):
		return false, ErrFenced
	}
	return next == b.To, nil
}

// settle is the transaction. Rows are locked in one order everywhere: cursor,
// leases by id, wallets by id.
func (tx *Tx) settle(ctx context.Context, b *Batch) (outcome, error) {
	now, err := tx.now(ctx)
	if err != nil {
		return outcome{}, err
	}
	hit, err := tx.exec(ctx, `UPDATE settle_cursor SET next_offset = $1, last_event_id = $2
		WHERE topic = $3 AND part = $4 AND next_offset = $5 AND epoch = $6`, b.To, b.lastEvent(), b.Topic, b.Part, b.From, b.Epoch)
	if err != nil {
		return outcome{}, err
	}
	if hit != 1 {
		return outcome{}, ErrFenced
	}
	leases, err := tx.lockLeases(ctx, b)
	if err != nil {
		return outcome{}, err
	}
	wallets, err := tx.lockWallets(ctx, b, leases)
	if err != nil {
		return outcome{}, err
	}
	outside, err := tx.claimOutside(ctx, b)
	if err != nil {
		return outcome{}, err
	}
	out, err := decide(b, books{leases, wallets, outside}, now)
	if err != nil {
		return outcome{}, err
	}
	return out, tx.writeOutcome(ctx, b, &out)
}

// writeOutcome stores what was decided of a batch.
func (tx *Tx) writeOutcome(ctx context.Context, b *Batch, out *outcome) error {
	if err := tx.writeRepeats(ctx, b, out); err != nil {
		return err
	}
	if err := tx.writeLeases(ctx, out.leases); err != nil {
		return err
	}
	if err := tx.writeWallets(ctx, out.wallets); err != nil {
		return err
	}
	if len(out.lines) > 0 {
		head := txnHead{id: b.id(), kind: KindUsage, reference: b.id()}
		if err := tx.post(ctx, head, out.lines); err != nil {
			return err
		}
	}
	if err := tx.writeSpends(ctx, out.spends); err != nil {
		return err
	}
	if err := tx.writeDoubts(ctx, b, out); err != nil {
		return err
	}
	if err := tx.addManifest(ctx, &out.settled.Manifest); err != nil {
		return err
	}
	if err := tx.cross(ctx, out.crossings); err != nil {
		return err
	}
	return tx.watch(ctx, out.spends)
}

// lockLeases reads the leases that a batch names, with their gaps.
func (tx *Tx) lockLeases(ctx context.Context, b *Batch) (map[string]*leaseRow, error) {
	names := make(map[string]bool)
	for _, s := range b.Records {
		names[s.Rec.LeaseID] = true
	}
	for _, d := range b.Dead {
		if d.Lease != "" && d.Seq > 0 {
			names[d.Lease] = true
		}
	}
	leases := make(map[string]*leaseRow, len(names))
	err := tx.selectIn(ctx, func(r *sql.Rows) error {
		l, err := scanLease(r)
		leases[l.ID] = &l
		return err
	}, leaseColumns+"WHERE id IN (%s) ORDER BY id"+tx.db.lock, slices.Sorted(maps.Keys(names)))
	if err != nil {
		return nil, fmt.Errorf("cannot read leases: %w", err)
	}
	for _, l := range leases {
		if l.nGaps == 0 {
			continue
		}
		err := tx.each(ctx, func(r *sql.Rows) error {
			var g span
			err := r.Scan(&g.from, &g.to)
			l.gaps = append(l.gaps, g)
			return err
		}, "SELECT from_seq, to_seq FROM lease_gap WHERE lease = $1 ORDER BY from_seq", l.ID)
		if err != nil {
			return nil, fmt.Errorf("cannot read the gaps of lease %s: %w", l.ID, err)
		}
	}
	return leases, nil
}

// lockWallets reads the wallets of a batch's events and leases.
func (tx *Tx) lockWallets(ctx context.Context, b *Batch, leases map[string]*leaseRow) (map[string]walletRow, error) {
	names := make(map[string]bool, len(leases))
	for _, l := range leases {
		names[l.Customer] = true
	}
	for _, s := range b.Records {
		names[s.Rec.Customer] = true
	}
	wallets := make(map[string]walletRow, len(names))
	err := tx.selectIn(ctx, func(r *sql.Rows) error {
		w, err := scanWallet(r)
		wallets[w.Customer] = w
		return err
	}, walletColumns+"WHERE customer IN (%s) ORDER BY customer"+tx.db.lock, slices.Sorted(maps.Keys(names)))
	if err != nil {
		return nil, fmt.Errorf("cannot read wallets: %w", err)
	}
	return wallets, nil
}

var (
	insertLeases = insertInto("lease", "", "id", "customer", "gateway", "session", "granted", "created_at",
		"state", "settled", "returned", "last_seq", "final_seq", "events", "cost", "price",
		"close_events", "close_cost", "close_price", "close_differs", "gaps", "closing_at")
	updateLeases = &bulk{
		head: `WITH v(id, state, settled, returned, last_seq, final_seq, events, cost, price,
			close_events, close_cost, close_price, close_differs, gaps, closing_at) AS (VALUES `,
		tail: `) UPDATE lease SET state = v.state, settled = v.settled, returned = v.returned, last_seq = v.last_seq,
			final_seq = v.final_seq, events = v.events, cost = v.cost, price = v.price, close_events = v.close_events,
			close_cost = v.close_cost, close_price = v.close_price, close_differs = v.close_differs, gaps = v.gaps,
			closing_at = v.closing_at FROM v WHERE lease.id = v.id`,
		types: []string{"TEXT", "TEXT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT",
			"BIGINT", "BIGINT", "BIGINT", "BOOLEAN", "BIGINT", "BIGINT"},
	}
	insertGaps = insertInto("lease_gap", "", "lease", "from_seq", "to_seq")
)

// writeLeases stores the leases as decided. They were locked, so their values
// are written as they are.
func (tx *Tx) writeLeases(ctx context.Context, leases []*leaseRow) error {
	var fresh, known, gaps []any
	updated := int64(0)
	for _, l := range leases {
		values := []any{l.State, int64(l.Settled), int64(l.Returned), l.LastSeq, l.FinalSeq, l.Count, int64(l.Cost), int64(l.Price),
			l.closeCount, int64(l.closeCost), int64(l.closePrice), l.closeDiffers, l.nGaps, l.closingAt}
		if l.isNew {
			fresh = append(append(fresh, l.ID, l.Customer, l.Gateway, l.Session, int64(l.Granted), l.createdAt), values...)
		} else {
			known = append(append(known, l.ID), values...)
			updated++
		}
		if !l.regap {
			continue
		}
		if _, err := tx.exec(ctx, "DELETE FROM lease_gap WHERE lease = $1", l.ID); err != nil {
			return fmt.Errorf("cannot clear the gaps of lease %s: %w", l.ID, err)
		}
		for _, g := range l.gaps {
			gaps = append(gaps, l.ID, int64(g.from), int64(g.to))
		}
	}
	hit, err := tx.bulk(ctx, updateLeases, known)
	if err == nil && hit != updated {
		err = fmt.Errorf("BUG: %d of %d rows were updated", hit, updated)
	}
	if err == nil {
		_, err = tx.bulk(ctx, insertLeases, fresh)
	}
	if err == nil {
		_, err = tx.bulk(ctx, insertGaps, gaps)
	}
	if err != nil {
		return fmt.Errorf("cannot write leases: %w", err)
	}
	return nil
}

var (
	insertSpends = insertInto("spend", " ON CONFLICT (scope, period) DO UPDATE SET spent = spend.spent + excluded.spent",
		"scope", "period", "spent")
	insertMargins = insertInto("spend", " ON CONFLICT (scope, period) DO UPDATE SET spent = spend.spent + excluded.spent, cost = spend.cost + excluded.cost",
		"scope", "period", "spent", "cost")
)

// writeSpends adds to the periods in one order, since two partitions may share
// the scope of an operator key.
func (tx *Tx) writeSpends(ctx context.Context, spends map[spendKey]spendSum) error {
	order := slices.SortedFunc(maps.Keys(spends), compareSpends)
	args := make([]any, 0, len(insertSpends.types)*len(order))
	var margins []any
	for _, k := range order {
		if s := spends[k]; s.cost == 0 {
			args = append(args, k.scope, k.period, int64(s.price))
		} else {
			margins = append(margins, k.scope, k.period, int64(s.price), int64(s.cost))
		}
	}
	if _, err := tx.bulk(ctx, insertMargins, margins); err != nil {
		return fmt.Errorf("cannot add to spend: %w", err)
	}
	if _, err := tx.bulk(ctx, insertSpends, args); err != nil {
		return fmt.Errorf("cannot add to spend: %w", err)
	}
	return nil
}

var (
	insertDead       = insertInto("dead_letter", "", "topic", "part", "off", "batch", "lease", "seq", "customer", "bytes", "reason", "created_at")
	insertMismatches = insertInto("rate_mismatch", "", "batch", "off", "event_id", "detail")
)

// writeDoubts stores what a person must look at: dead letters and events that
// were rated in two ways.
func (tx *Tx) writeDoubts(ctx context.Context, b *Batch, out *outcome) error {
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	var dead, mismatches []any
	for _, d := range out.dead {
		if d.Bytes == nil {
			d.Bytes = []byte{}
		}
		dead = append(dead, b.Topic, b.Part, d.Offset, b.id(), d.Lease, int64(d.Seq), d.Customer, d.Bytes, d.Reason, now)
	}
	for _, s := range out.mismatches {
		mismatches = append(mismatches, b.id(), s.Offset, s.Rec.EventID(), s.Mismatch)
	}
	if _, err := tx.bulk(ctx, insertDead, dead); err != nil {
		return fmt.Errorf("cannot keep dead letters: %w", err)
	}
	if _, err := tx.bulk(ctx, insertMismatches, mismatches); err != nil {
		return fmt.Errorf("cannot keep rating mismatches: %w", err)
	}
	return nil
}

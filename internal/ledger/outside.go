package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// outsideID is the identity of usage that was reported from outside.
type outsideID struct{ customer, source, id string }

// eventID is the identity under which a record settles.
type eventID struct {
	lease string
	seq   uint64
}

func outsideOf(r *usage.Record) (id outsideID, ok bool) {
	return outsideID{r.Customer, r.Source, r.ExternalID}, r.Kind.IsEvent() && r.Source != "" && r.ExternalID != ""
}

var insertOutside = insertInto("outside_event", " ON CONFLICT (customer, source, id) DO NOTHING", "customer", "source", "id", "lease", "seq")

// claimOutside gives every outside identity of a batch to the first record
// that has it, in this batch or before, and tells to which. A batch without such records
// costs nothing.
func (tx *Tx) claimOutside(ctx context.Context, b *Batch) (map[outsideID]eventID, error) {
	var owner map[outsideID]eventID
	var args []any
	var customers []string
	for _, s := range b.Records {
		id, ok := outsideOf(s.Rec)
		if _, twice := owner[id]; !ok || twice {
			continue
		}
		if owner == nil {
			owner = map[outsideID]eventID{}
		}
		owner[id] = eventID{s.Rec.LeaseID, s.Rec.Seq}
		args = append(args, id.customer, id.source, id.id, s.Rec.LeaseID, int64(s.Rec.Seq))
		customers = append(customers, id.customer)
	}
	if owner == nil {
		return nil, nil
	}
	fresh, err := tx.bulk(ctx, insertOutside, args)
	if err == nil && fresh < int64(len(customers)) {
		err = tx.earlierOwners(ctx, owner)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot claim outside events: %w", err)
	}
	return owner, nil
}

// earlierOwners reads whose the identities are. Only a batch with repeats
// needs it.
func (tx *Tx) earlierOwners(ctx context.Context, owner map[outsideID]eventID) error {
	for id := range owner {
		var e eventID
		err := tx.row(ctx, "SELECT lease, seq FROM outside_event WHERE customer = $1 AND source = $2 AND id = $3", id.customer, id.source, id.id).
			Scan(&e.lease, &e.seq)
		if err != nil {
			return err
		}
		owner[id] = e
	}
	return nil
}

var insertRepeats = insertInto("outside_repeat", "", "lease", "seq", "customer", "source", "id", "cost", "price", "created_at")

// writeRepeats keeps the outside events that came again, and excuses the
// leases whose close records count them: what a gateway wrote and what settled
// differ by them alone.
func (tx *Tx) writeRepeats(ctx context.Context, b *Batch, out *outcome) error {
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	var args []any
	for _, i := range out.settled.Repeats {
		r := b.Records[i].Rec
		args = append(args, r.LeaseID, int64(r.Seq), r.Customer, r.Source, r.ExternalID, int64(r.Cost), int64(r.Price), now)
	}
	if _, err := tx.bulk(ctx, insertRepeats, args); err != nil {
		return fmt.Errorf("cannot keep repeated outside events: %w", err)
	}
	for _, l := range out.leases {
		if !l.closeDiffers {
			continue
		}
		var count int64
		var cost, price money.Nano
		err := tx.row(ctx, "SELECT COUNT(*), CAST(COALESCE(SUM(cost), 0) AS BIGINT), CAST(COALESCE(SUM(price), 0) AS BIGINT) FROM outside_repeat WHERE lease = $1", l.ID).
			Scan(&count, &cost, &price)
		if err != nil {
			return fmt.Errorf("cannot sum repeated outside events: %w", err)
		}
		l.closeDiffers = l.differs(count, cost, price)
	}
	return nil
}

// OutsideEvent tells under which lease and seq usage from outside has settled;
// ErrNotFound when it has not yet.
func (db *DB) OutsideEvent(ctx context.Context, customer, source, id string) (lease string, seq uint64, err error) {
	err = db.view().row(ctx, "SELECT lease, seq FROM outside_event WHERE customer = $1 AND source = $2 AND id = $3", customer, source, id).
		Scan(&lease, &seq)
	if errors.Is(err, sql.ErrNoRows) {
		return "", 0, fmt.Errorf("outside event %q of %q: %w", id, source, ErrNotFound)
	}
	if err != nil {
		return "", 0, fmt.Errorf("cannot read outside event %q: %w", id, err)
	}
	return lease, seq, nil
}

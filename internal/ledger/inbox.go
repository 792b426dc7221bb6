package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// StripeEvent is a webhook event as far as it is believed: its type and the id
// of the object to look at.
type StripeEvent struct {
	ID, Type, Object      string
	CreatedAt, ReceivedAt time.Time
	Tries                 int
	Error                 string
}

// AddStripeEvent keeps an event to be worked on; it is not fresh when it was
// kept before.
func (tx *Tx) AddStripeEvent(ctx context.Context, e StripeEvent) (fresh bool, err error) {
	now, err := tx.now(ctx)
	if err != nil {
		return false, err
	}
	hit, err := tx.exec(ctx, `INSERT INTO stripe_event (id, type, object, created_at, received_at, next_try_at) VALUES ($1, $2, $3, $4, $5, $5)
		ON CONFLICT (id) DO NOTHING`, e.ID, e.Type, e.Object, micros(e.CreatedAt), now)
	if err != nil {
		return false, fmt.Errorf("cannot keep event %s: %w", e.ID, err)
	}
	return hit == 1, nil
}

// StripeEvents lists events that are not done and due, the longest due first.
func (db *DB) StripeEvents(ctx context.Context, limit int) (list []StripeEvent, err error) {
	tx := db.view()
	now, err := tx.now(ctx)
	if err != nil {
		return nil, err
	}
	err = tx.each(ctx, func(r *sql.Rows) error {
		var e StripeEvent
		var created, received int64
		err := r.Scan(&e.ID, &e.Type, &e.Object, &created, &received, &e.Tries, &e.Error)
		e.CreatedAt, e.ReceivedAt = moment(created), moment(received)
		list = append(list, e)
		return err
	}, `SELECT id, type, object, created_at, received_at, tries, error FROM stripe_event
		WHERE done_at = 0 AND next_try_at <= $1 ORDER BY next_try_at, id LIMIT $2`, now, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot list webhook events: %w", err)
	}
	return list, nil
}

// DoneStripeEvent ends the work on an event.
func (tx *Tx) DoneStripeEvent(ctx context.Context, id string) error {
	now, err := tx.now(ctx)
	if err == nil {
		_, err = tx.exec(ctx, "UPDATE stripe_event SET done_at = $1, tries = tries + 1, error = '' WHERE id = $2 AND done_at = 0", now, id)
	}
	if err != nil {
		return fmt.Errorf("cannot end event %s: %w", id, err)
	}
	return nil
}

// FailStripeEvent notes why an event could not be worked on, and when to try
// again.
func (tx *Tx) FailStripeEvent(ctx context.Context, id, why string, next time.Time) error {
	_, err := tx.exec(ctx, "UPDATE stripe_event SET tries = tries + 1, error = $1, next_try_at = $2 WHERE id = $3 AND done_at = 0",
		why, micros(next), id)
	if err != nil {
		return fmt.Errorf("cannot put off event %s: %w", id, err)
	}
	return nil
}

// StripeInbox tells how many events wait, and since when the oldest does; the
// zero time when none does.
func (db *DB) StripeInbox(ctx context.Context) (waiting int, oldest time.Time, err error) {
	var at int64
	err = db.view().row(ctx, "SELECT COUNT(*), COALESCE(MIN(received_at), 0) FROM stripe_event WHERE done_at = 0").Scan(&waiting, &at)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("cannot count webhook events: %w", err)
	}
	return waiting, moment(at), nil
}

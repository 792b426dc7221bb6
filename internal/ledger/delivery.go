package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Delivery is one event on its way to one endpoint. It is due at NextTryAt as
// long as it is pending; LastStatus is the HTTP status of the last try, 0 when
// there was no answer.
type Delivery struct {
	Event              Event
	Endpoint, State    string
	Tries, LastStatus  int
	LastError          string
	NextTryAt, LastTry time.Time
}

const deliveryColumns = `SELECT e.id, e.type, e.customer, e.body, e.created_at, d.endpoint, d.state, d.tries, d.last_status, d.last_error,
	d.next_try_at, d.updated_at FROM outbox_delivery d JOIN outbox_event e ON e.id = d.event `

func scanDelivery(row scanner) (d Delivery, err error) {
	var body string
	var created, next, last int64
	err = row.Scan(&d.Event.ID, &d.Event.Type, &d.Event.Customer, &body, &created, &d.Endpoint, &d.State, &d.Tries, &d.LastStatus,
		&d.LastError, &next, &last)
	d.Event.CreatedAt, d.Event.Data = moment(created), json.RawMessage(body)
	d.NextTryAt = moment(next)
	if d.Tries > 0 {
		d.LastTry = moment(last)
	}
	return d, err
}

// DueEndpoints lists the endpoints that have a delivery due, so that a worker
// can serve each apart: one that is dead delays no other.
func (db *DB) DueEndpoints(ctx context.Context) (list []Endpoint, err error) {
	tx := db.view()
	now, err := tx.now(ctx)
	if err != nil {
		return nil, err
	}
	err = tx.each(ctx, func(r *sql.Rows) error {
		e, err := scanEndpoint(r)
		list = append(list, e)
		return err
	}, endpointColumns+`WHERE disabled_at = 0 AND EXISTS (SELECT 1 FROM outbox_delivery d
		WHERE d.endpoint = outbox_endpoint.id AND d.state = 'pending' AND d.next_try_at <= $1) ORDER BY id`, now)
	if err != nil {
		return nil, fmt.Errorf("cannot list endpoints with due deliveries: %w", err)
	}
	return list, nil
}

// ClaimDelivery takes the delivery of an endpoint that has been due longest and
// keeps others from it for hold: a worker that dies leaves it to the next.
// found is false when none is due.
func (db *DB) ClaimDelivery(ctx context.Context, endpoint string, hold time.Duration) (d Delivery, found bool, err error) {
	err = db.Tx(ctx, func(tx *Tx) error {
		found = false
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		d, err = scanDelivery(tx.row(ctx, deliveryColumns+`WHERE d.endpoint = $1 AND d.state = 'pending' AND d.next_try_at <= $2
			ORDER BY d.next_try_at, d.event LIMIT 1`, endpoint, now))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		hit, err := tx.exec(ctx, `UPDATE outbox_delivery SET next_try_at = $1
			WHERE event = $2 AND endpoint = $3 AND state = 'pending' AND next_try_at = $4`,
			now+hold.Microseconds(), d.Event.ID, endpoint, micros(d.NextTryAt))
		found = hit == 1 // else another worker has it
		return err
	})
	if err != nil {
		return Delivery{}, false, fmt.Errorf("cannot claim a delivery to %s: %w", endpoint, err)
	}
	return d, found, nil
}

// Delivered notes that an endpoint took an event.
func (db *DB) Delivered(ctx context.Context, event, endpoint string, status int) error {
	return db.tried(ctx, event, endpoint, status, "", DeliveryDone, time.Time{})
}

// DeliveryFailed notes a try that failed, why, and when to try again; with the
// zero time it is given up.
func (db *DB) DeliveryFailed(ctx context.Context, d Delivery, next time.Time) error {
	state := DeliveryPending
	if next.IsZero() {
		state = DeliveryFailed
	}
	return db.tried(ctx, d.Event.ID, d.Endpoint, d.LastStatus, d.LastError, state, next)
}

func (db *DB) tried(ctx context.Context, event, endpoint string, status int, why, state string, next time.Time) error {
	err := db.Tx(ctx, func(tx *Tx) error {
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		_, err = tx.exec(ctx, `UPDATE outbox_delivery SET state = $1, tries = tries + 1, last_status = $2, last_error = $3, next_try_at = $4,
			updated_at = $5 WHERE event = $6 AND endpoint = $7`, state, status, why, micros(next), now, event, endpoint)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot note a delivery of %s: %w", event, err)
	}
	return nil
}

// Deliveries lists an endpoint's deliveries; next is "" on the last page.
func (db *DB) Deliveries(ctx context.Context, endpoint string, p Page) (list []Delivery, next string, err error) {
	from, err := p.after()
	if err != nil {
		return nil, "", err
	}
	err = db.view().each(ctx, func(r *sql.Rows) error {
		d, err := scanDelivery(r)
		list = append(list, d)
		return err
	}, deliveryColumns+`WHERE d.endpoint = $1 AND (e.created_at, e.id) < ($2, $3) ORDER BY e.created_at DESC, e.id DESC LIMIT $4`,
		endpoint, from.at, from.id, p.limit()+1)
	if err != nil {
		return nil, "", fmt.Errorf("cannot list the deliveries to %s: %w", endpoint, err)
	}
	list, next = cut(list, p.limit(), func(d Delivery) place { return place{at: micros(d.Event.CreatedAt), id: d.Event.ID} })
	return list, next, nil
}

// Replay queues the events of a time span, from ≤ t < to, for an endpoint
// again: those it was told, those that were given up, and those from before it
// existed. Kind, if not "", is the one type to replay; else it is what the
// endpoint wants. It returns how many; ErrNotFound.
func (tx *Tx) Replay(ctx context.Context, endpoint, kind string, from, to time.Time) (n int, err error) {
	p, err := tx.endpoint(ctx, endpoint)
	if err != nil {
		return 0, err
	}
	now, err := tx.now(ctx)
	if err != nil {
		return 0, err
	}
	var rows []any
	err = tx.each(ctx, func(r *sql.Rows) error {
		var id, typ string
		err := r.Scan(&id, &typ)
		if typ == kind || kind == "" && p.Wants(typ) && slices.Contains(EventTypes, typ) { // an endpoint's test is its own
			rows = append(rows, id, endpoint, DeliveryPending, now, now, now)
			n++
		}
		return err
	}, "SELECT id, type FROM outbox_event WHERE created_at >= $1 AND created_at < $2 ORDER BY created_at, id", micros(from), micros(to))
	if err == nil {
		_, err = tx.bulk(ctx, replayDeliveries, rows)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot replay events to %s: %w", endpoint, err)
	}
	return n, nil
}

var replayDeliveries = insertInto("outbox_delivery", ` ON CONFLICT (event, endpoint) DO UPDATE SET state = excluded.state,
	tries = 0, next_try_at = excluded.next_try_at`, "event", "endpoint", "state", "next_try_at", "created_at", "updated_at")

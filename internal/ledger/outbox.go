package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"weir/schemas/money"
)

// The events the platform can subscribe to, with the shape of their data.
const (
	EventCredited       = "wallet.credited"       // WalletNews with amount, kind, reference
	EventLowBalance     = "wallet.low_balance"    // WalletNews with threshold
	EventDepleted       = "wallet.depleted"       // WalletNews: nothing is left, or a request was refused for it
	EventRecovered      = "wallet.recovered"      // WalletNews: money came after depleted
	EventTopupSucceeded = "topup.succeeded"       // TopupNews
	EventTopupFailed    = "topup.failed"          // TopupNews with reason
	EventTopupAction    = "topup.requires_action" // TopupNews with url
	EventLimitReached   = "limit.reached"         // LimitNews
	EventMarginNegative = "margin.negative"       // MarginNews
)

// EventTypes lists all types, in the order of their names' first part.
var EventTypes = []string{EventCredited, EventLowBalance, EventDepleted, EventRecovered,
	EventTopupSucceeded, EventTopupFailed, EventTopupAction, EventLimitReached, EventMarginNegative}

// WalletNews is the data of wallet events: the wallet as it is then.
type WalletNews struct {
	Customer   string      `json:"customer"`
	Balance    money.Nano  `json:"balance"`
	Available  money.Nano  `json:"available"`
	Receivable money.Nano  `json:"receivable"`
	Threshold  *money.Nano `json:"threshold,omitempty"`
	Amount     *money.Nano `json:"amount,omitempty"`
	Kind       string      `json:"kind,omitempty"`
	Reference  string      `json:"reference,omitempty"`
}

// walletNews is the data about w, with what more adds.
func walletNews(w Wallet, more func(*WalletNews)) WalletNews {
	n := WalletNews{Customer: w.Customer, Balance: w.Balance(), Available: w.Available(), Receivable: w.Receivable}
	if more != nil {
		more(&n)
	}
	return n
}

// TopupNews is the data of top-up events.
type TopupNews struct {
	Customer string     `json:"customer"`
	Topup    string     `json:"topup"`
	Kind     string     `json:"kind"`
	Amount   money.Nano `json:"amount"`
	Bonus    money.Nano `json:"bonus"`
	Reason   string     `json:"reason,omitempty"`
	URL      string     `json:"url,omitempty"`
}

// LimitNews is the data of limit.reached. Scope is "customer" or "key", ID its
// id, Period "day:2026-11-24" or "month:2026-11".
type LimitNews struct {
	Scope  string     `json:"scope"`
	ID     string     `json:"id"`
	Period string     `json:"period"`
	Limit  money.Nano `json:"limit"`
	Spent  money.Nano `json:"spent"`
}

// MarginNews is the data of margin.negative: what a customer's usage of a UTC
// month ("2026-11") cost more than he paid for it.
type MarginNews struct {
	Customer string     `json:"customer"`
	Month    string     `json:"month"`
	Price    money.Nano `json:"price"`
	Cost     money.Nano `json:"cost"`
	Margin   money.Nano `json:"margin"`
}

// Event is something the platform may want to know. Data is one of the News
// types; read back, it is their JSON. ID "" is given by Emit; an event with
// the id of an earlier one is dropped.
type Event struct {
	ID, Type, Customer string
	CreatedAt          time.Time
	Data               any
}

// eventOnce is the id of an event that happens once for what it is about.
func eventOnce(about ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(about, "\x00")))
	return "evt_" + hex.EncodeToString(sum[:16])
}

// The states of a delivery.
const (
	DeliveryPending = "pending"
	DeliveryDone    = "delivered"
	DeliveryFailed  = "failed" // given up; a replay begins anew
)

var insertDeliveries = insertInto("outbox_delivery", " ON CONFLICT (event, endpoint) DO NOTHING",
	"event", "endpoint", "state", "next_try_at", "created_at", "updated_at")

// Emit writes events and, for each, a delivery to every endpoint that wants
// it, in the caller's transaction: what is rolled back was never told.
func (tx *Tx) Emit(ctx context.Context, events ...Event) error {
	if len(events) == 0 {
		return nil
	}
	endpoints, err := tx.endpoints(ctx)
	if err != nil {
		return err
	}
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	var deliveries []any
	for _, e := range events {
		fresh, err := tx.addEvent(ctx, &e, now)
		if err != nil {
			return err
		}
		if !fresh {
			continue
		}
		for _, p := range endpoints {
			if p.Wants(e.Type) {
				deliveries = append(deliveries, e.ID, p.ID, DeliveryPending, now, now, now)
			}
		}
	}
	if _, err := tx.bulk(ctx, insertDeliveries, deliveries); err != nil {
		return fmt.Errorf("cannot queue events: %w", err)
	}
	return nil
}

// EmitTo writes an event for one endpoint alone, whatever it subscribed to;
// ErrNotFound.
func (tx *Tx) EmitTo(ctx context.Context, endpoint string, e Event) (Event, error) {
	if _, err := tx.endpoint(ctx, endpoint); err != nil {
		return Event{}, err
	}
	now, err := tx.now(ctx)
	if err != nil {
		return Event{}, err
	}
	if _, err := tx.addEvent(ctx, &e, now); err != nil {
		return Event{}, err
	}
	_, err = tx.bulk(ctx, insertDeliveries, []any{e.ID, endpoint, DeliveryPending, now, now, now})
	if err != nil {
		return Event{}, fmt.Errorf("cannot queue event %s: %w", e.ID, err)
	}
	return e, nil
}

// addEvent writes one event; it is not fresh if its id is there.
func (tx *Tx) addEvent(ctx context.Context, e *Event, now int64) (fresh bool, err error) {
	if e.ID == "" {
		e.ID = "evt_" + newID()
	}
	e.CreatedAt = moment(now)
	body, err := json.Marshal(e.Data)
	if err != nil {
		return false, fmt.Errorf("cannot encode event %s: %w", e.Type, err)
	}
	hit, err := tx.exec(ctx, `INSERT INTO outbox_event (id, type, customer, body, created_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO NOTHING`, e.ID, e.Type, e.Customer, string(body), now)
	if err != nil {
		return false, fmt.Errorf("cannot write event %s: %w", e.Type, err)
	}
	return hit == 1, nil
}

// Endpoint is a URL that wants to be told. Events are the types it wants, none
// is all. Secret is sealed by whoever signs; the ledger cannot read it.
type Endpoint struct {
	ID, URL               string
	Secret                []byte
	Events                []string
	CreatedAt, DisabledAt time.Time
}

// Wants tells whether the endpoint is to be told of a type of event.
func (e *Endpoint) Wants(kind string) bool {
	return e.DisabledAt.IsZero() && (len(e.Events) == 0 || slices.Contains(e.Events, kind))
}

const endpointColumns = "SELECT id, url, secret_sealed, events, created_at, disabled_at FROM outbox_endpoint "

func scanEndpoint(row scanner) (e Endpoint, err error) {
	var events string
	var created, disabled int64
	err = row.Scan(&e.ID, &e.URL, &e.Secret, &events, &created, &disabled)
	if events != "" {
		e.Events = strings.Split(events, ",")
	}
	e.CreatedAt, e.DisabledAt = moment(created), moment(disabled)
	return e, err
}

// AddEndpoint adds an endpoint; ErrExists if the id is taken.
func (tx *Tx) AddEndpoint(ctx context.Context, e Endpoint) (Endpoint, error) {
	now, err := tx.now(ctx)
	if err != nil {
		return Endpoint{}, err
	}
	e.CreatedAt = moment(now)
	fresh, err := tx.exec(ctx, `INSERT INTO outbox_endpoint (id, url, secret_sealed, events, created_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO NOTHING`, e.ID, e.URL, e.Secret, strings.Join(e.Events, ","), now)
	if err == nil && fresh == 0 {
		err = ErrExists
	}
	if err != nil {
		return Endpoint{}, fmt.Errorf("cannot add endpoint %s: %w", e.ID, err)
	}
	return e, nil
}

// RemoveEndpoint removes an endpoint and what was still to be delivered to
// it; ErrNotFound.
func (tx *Tx) RemoveEndpoint(ctx context.Context, id string) error {
	hit, err := tx.exec(ctx, "DELETE FROM outbox_endpoint WHERE id = $1", id)
	if err == nil && hit == 0 {
		return fmt.Errorf("endpoint %q: %w", id, ErrNotFound)
	}
	if err == nil {
		_, err = tx.exec(ctx, "DELETE FROM outbox_delivery WHERE endpoint = $1", id)
	}
	if err != nil {
		return fmt.Errorf("cannot remove endpoint %s: %w", id, err)
	}
	return nil
}

// DisableEndpoint stops deliveries to an endpoint that is gone; what is
// pending stays so.
func (tx *Tx) DisableEndpoint(ctx context.Context, id string) error {
	now, err := tx.now(ctx)
	if err == nil {
		_, err = tx.exec(ctx, "UPDATE outbox_endpoint SET disabled_at = $1 WHERE id = $2 AND disabled_at = 0", now, id)
	}
	if err != nil {
		return fmt.Errorf("cannot disable endpoint %s: %w", id, err)
	}
	return nil
}

// Endpoints lists all endpoints, oldest first.
func (db *DB) Endpoints(ctx context.Context) ([]Endpoint, error) { return db.view().endpoints(ctx) }

// Endpoint finds an endpoint; ErrNotFound.
func (db *DB) Endpoint(ctx context.Context, id string) (Endpoint, error) {
	return db.view().endpoint(ctx, id)
}

func (tx *Tx) endpoint(ctx context.Context, id string) (Endpoint, error) {
	e, err := scanEndpoint(tx.row(ctx, endpointColumns+"WHERE id = $1", id))
	return e, missing(err, "endpoint", id)
}

func (tx *Tx) endpoints(ctx context.Context) (list []Endpoint, err error) {
	err = tx.each(ctx, func(r *sql.Rows) error {
		e, err := scanEndpoint(r)
		list = append(list, e)
		return err
	}, endpointColumns+"ORDER BY created_at, id")
	if err != nil {
		return nil, fmt.Errorf("cannot list endpoints: %w", err)
	}
	return list, nil
}

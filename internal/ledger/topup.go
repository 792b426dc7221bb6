package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"weir/schemas/money"
)

// The kinds of top-ups.
const (
	TopupCheckout     = "checkout"     // the customer pays on a hosted page
	TopupAuto         = "auto"         // the wallet fell below its threshold
	TopupSubscription = "subscription" // a paid period of a plan, with the credit it includes
)

// The states of a top-up. The last three are final, but a payment that
// succeeds all the same makes any of them succeeded.
const (
	TopupCreated    = "created"         // a row, nothing else
	TopupSubmitted  = "submitted"       // the payment provider was asked
	TopupAction     = "requires_action" // the customer must act
	TopupProcessing = "processing"
	TopupSucceeded  = "succeeded" // paid and credited, in one transaction
	TopupFailed     = "failed"
	TopupCanceled   = "canceled"
)

// Topup is one purchase of balance: what the customer pays (Amount) and the
// bonus he gets with it. Of a subscription Bonus is all that is credited.
// Refunded, Lost and BonusBack are what refunds and lost disputes took back;
// Fee is what the payment provider keeps, an estimate until FeeKnown.
type Topup struct {
	ID, Customer, Kind, State, Reason             string
	Session, Invoice, PaymentIntent, Charge, URL  string
	SuccessURL, CancelURL                         string
	SaveCard                                      bool
	Amount, Bonus, Refunded, Lost, BonusBack, Fee money.Nano
	FeeKnown                                      bool
	Attempt                                       int
	CreatedAt, UpdatedAt, NextTryAt               time.Time
	refundSeen                                    money.Nano // cumulative, booked once the payment is
}

const topupColumns = `id, customer, kind, state, reason, session, invoice, payment_intent, charge, url, success_url, cancel_url, save_card,
	amount, bonus, refunded, lost, bonus_back, fee, fee_known, attempt, created_at, updated_at, next_try_at, refund_seen`

func scanTopup(row scanner) (t Topup, err error) {
	var created, updated, next int64
	err = row.Scan(&t.ID, &t.Customer, &t.Kind, &t.State, &t.Reason, &t.Session, &t.Invoice, &t.PaymentIntent, &t.Charge, &t.URL, &t.SuccessURL,
		&t.CancelURL, &t.SaveCard, &t.Amount, &t.Bonus, &t.Refunded, &t.Lost, &t.BonusBack, &t.Fee, &t.FeeKnown, &t.Attempt, &created, &updated,
		&next, &t.refundSeen)
	t.CreatedAt, t.UpdatedAt, t.NextTryAt = moment(created), moment(updated), moment(next)
	return t, err
}

var insertTopup = insertInto("topup", " ON CONFLICT DO NOTHING", "id", "customer", "kind", "state", "reason", "session", "invoice",
	"payment_intent", "charge", "url", "success_url", "cancel_url", "save_card", "amount", "bonus", "attempt", "currency",
	"created_at", "updated_at", "next_try_at")

// CreateTopup writes a top-up in state created, before anybody is asked for
// money. ID "" is given. ErrNotFound without a wallet; ErrConflict if the
// wallet has an automatic top-up under way and this would be the second.
func (tx *Tx) CreateTopup(ctx context.Context, t Topup) (Topup, error) {
	if t.Amount <= 0 && t.Kind != TopupSubscription || t.Amount < 0 || t.Bonus < 0 {
		return Topup{}, errAmount
	}
	w, err := tx.lockWallet(ctx, t.Customer)
	if err != nil {
		return Topup{}, err
	}
	if t.ID == "" {
		t.ID = "tup_" + newID()
	}
	t.State, t.CreatedAt, t.UpdatedAt = TopupCreated, w.AsOf, w.AsOf
	fresh, err := tx.bulk(ctx, insertTopup, []any{t.ID, t.Customer, t.Kind, t.State, t.Reason, t.Session, t.Invoice, t.PaymentIntent, t.Charge,
		t.URL, t.SuccessURL, t.CancelURL, t.SaveCard, int64(t.Amount), int64(t.Bonus), t.Attempt, w.Currency, micros(t.CreatedAt),
		micros(t.UpdatedAt), micros(t.NextTryAt)})
	if err == nil && fresh == 0 {
		err = ErrConflict
	}
	if err != nil {
		return Topup{}, fmt.Errorf("cannot create a top-up of %s: %w", t.Customer, err)
	}
	return t, nil
}

// Topup finds a top-up; ErrNotFound.
func (db *DB) Topup(ctx context.Context, id string) (Topup, error) {
	return db.view().topup(ctx, "id", id)
}

// TopupByPayment finds a top-up by its payment intent; ErrNotFound.
func (db *DB) TopupByPayment(ctx context.Context, paymentIntent string) (Topup, error) {
	return db.view().topup(ctx, "payment_intent", paymentIntent)
}

// TopupBySession finds a top-up by its checkout session; ErrNotFound.
func (db *DB) TopupBySession(ctx context.Context, session string) (Topup, error) {
	return db.view().topup(ctx, "session", session)
}

// topup reads the top-up whose column has a value, which is never "".
func (tx *Tx) topup(ctx context.Context, column, value string) (Topup, error) {
	t, err := scanTopup(tx.row(ctx, "SELECT "+topupColumns+" FROM topup WHERE "+column+" = $1 AND "+column+" <> ''", value))
	return t, missing(err, "top-up with "+column, value)
}

// lockTopup is topup for changing it. A top-up is locked before its wallet.
func (tx *Tx) lockTopup(ctx context.Context, column, value string) (Topup, error) {
	t, err := scanTopup(tx.row(ctx, "SELECT "+topupColumns+" FROM topup WHERE "+column+" = $1 AND "+column+" <> ''"+tx.db.lock, value))
	return t, missing(err, "top-up with "+column, value)
}

// Topups lists a customer's top-ups; next is "" on the last page.
func (db *DB) Topups(ctx context.Context, customer string, p Page) (list []Topup, next string, err error) {
	from, err := p.after()
	if err != nil {
		return nil, "", err
	}
	list, err = db.view().topups(ctx, "WHERE customer = $1 AND (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $4",
		customer, from.at, from.id, p.limit()+1)
	if err != nil {
		return nil, "", fmt.Errorf("cannot list the top-ups of %s: %w", customer, err)
	}
	list, next = cut(list, p.limit(), func(t Topup) place { return place{at: micros(t.CreatedAt), id: t.ID} })
	return list, next, nil
}

// LiveTopups lists top-ups that are under way and due to be looked at, the
// longest due first.
func (db *DB) LiveTopups(ctx context.Context, limit int) ([]Topup, error) {
	tx := db.view()
	now, err := tx.now(ctx)
	if err != nil {
		return nil, err
	}
	list, err := tx.topups(ctx, `WHERE state IN ('created', 'submitted', 'requires_action', 'processing') AND next_try_at <= $1
		ORDER BY next_try_at, id LIMIT $2`, now, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot list live top-ups: %w", err)
	}
	return list, nil
}

// UnknownFees lists top-ups that were paid and whose fee is an estimate still,
// the oldest first.
func (db *DB) UnknownFees(ctx context.Context, limit int) ([]Topup, error) {
	list, err := db.view().topups(ctx, "WHERE state = 'succeeded' AND NOT fee_known ORDER BY updated_at, id LIMIT $1", limit)
	if err != nil {
		return nil, fmt.Errorf("cannot list top-ups of unknown fee: %w", err)
	}
	return list, nil
}

func (tx *Tx) topups(ctx context.Context, where string, args ...any) (list []Topup, err error) {
	err = tx.each(ctx, func(r *sql.Rows) error {
		t, err := scanTopup(r)
		list = append(list, t)
		return err
	}, "SELECT "+topupColumns+" FROM topup "+where, args...)
	return list, err
}

// MoveTopup changes a top-up that is in one of the states from, and brings it
// to the state to; change, if not nil, sets its other fields, but no amount. ErrConflict
// when it is in none of them, ErrNotFound. To failed and requires_action the
// platform is told. Only FundTopup makes a top-up succeeded.
func (tx *Tx) MoveTopup(ctx context.Context, id string, from []string, to string, change func(*Topup)) (Topup, error) {
	t, err := tx.lockTopup(ctx, "id", id)
	if err != nil {
		return Topup{}, err
	}
	if !slices.Contains(from, t.State) || t.State == TopupSucceeded || to == TopupSucceeded {
		return Topup{}, fmt.Errorf("top-up %s is %s, it cannot become %s: %w", id, t.State, to, ErrConflict)
	}
	was := t.State
	if change != nil {
		change(&t)
	}
	t.State = to
	if err := tx.writeTopup(ctx, &t); err != nil {
		return Topup{}, err
	}
	switch {
	case to == was:
	case to == TopupFailed:
		err = tx.tellTopup(ctx, EventTopupFailed, &t)
	case to == TopupAction:
		err = tx.tellTopup(ctx, EventTopupAction, &t)
	}
	return t, err
}

// writeTopup writes all that may change of a locked top-up.
func (tx *Tx) writeTopup(ctx context.Context, t *Topup) error {
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	t.UpdatedAt = moment(now)
	_, err = tx.exec(ctx, `UPDATE topup SET state = $1, reason = $2, session = $3, payment_intent = $4, charge = $5, url = $6, amount = $7,
		bonus = $8, refund_seen = $9, refunded = $10, lost = $11, bonus_back = $12, fee = $13, fee_known = $14, attempt = $15,
		updated_at = $16, next_try_at = $17 WHERE id = $18`, t.State, t.Reason, t.Session, t.PaymentIntent, t.Charge, t.URL, int64(t.Amount),
		int64(t.Bonus), int64(t.refundSeen), int64(t.Refunded), int64(t.Lost), int64(t.BonusBack), int64(t.Fee), t.FeeKnown, t.Attempt,
		now, micros(t.NextTryAt), t.ID)
	if err != nil {
		return fmt.Errorf("cannot write top-up %s: %w", t.ID, err)
	}
	return nil
}

func (tx *Tx) tellTopup(ctx context.Context, event string, t *Topup) error {
	return tx.Emit(ctx, Event{Type: event, Customer: t.Customer, Data: TopupNews{Customer: t.Customer, Topup: t.ID, Kind: t.Kind,
		Amount: t.Amount, Bonus: t.Bonus, Reason: t.Reason, URL: t.URL}})
}

package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"weir/schemas/money"
)

// The states of a refund that the operator asked for.
const (
	RefundCreated   = "created"   // booked, the payment provider was not asked
	RefundSubmitted = "submitted" // it was asked, perhaps
	RefundSucceeded = "succeeded"
	RefundFailed    = "failed" // booked back
)

// Refund is part of a top-up that goes back to the customer because the
// operator asked for it.
type Refund struct {
	ID, Topup, Customer, State, StripeRefund, Reason string
	Amount                                           money.Nano
	Attempt                                          int
	CreatedAt, UpdatedAt, NextTryAt                  time.Time
}

const refundColumns = "SELECT id, topup, customer, state, stripe_refund, reason, amount, attempt, created_at, updated_at, next_try_at FROM refund "

func scanRefund(row scanner) (r Refund, err error) {
	var created, updated, next int64
	err = row.Scan(&r.ID, &r.Topup, &r.Customer, &r.State, &r.StripeRefund, &r.Reason, &r.Amount, &r.Attempt, &created, &updated, &next)
	r.CreatedAt, r.UpdatedAt, r.NextTryAt = moment(created), moment(updated), moment(next)
	return r, err
}

// CreateRefund books a refund before the payment provider is asked for it, so
// that the customer cannot spend the money meanwhile. Amount 0 is all that is
// left. What is spent is not refunded: ErrSpent; what leases hold is not now:
// *InsufficientError. ErrConflict for a top-up that is not paid or is a
// subscription, ErrNotFound.
func (tx *Tx) CreateRefund(ctx context.Context, r Refund) (Refund, Wallet, error) {
	t, err := tx.lockTopup(ctx, "id", r.Topup)
	if err != nil {
		return Refund{}, Wallet{}, err
	}
	if t.State != TopupSucceeded || t.Kind == TopupSubscription {
		return Refund{}, Wallet{}, fmt.Errorf("a refund of top-up %s (%s, %s): %w", t.ID, t.Kind, t.State, ErrConflict)
	}
	w, err := tx.lockWallet(ctx, t.Customer)
	if err != nil {
		return Refund{}, Wallet{}, err
	}
	if r.Amount, err = tx.refundable(ctx, &t, &w, r.Amount); err != nil {
		return Refund{}, Wallet{}, err
	}
	if r.ID == "" {
		r.ID = "ref_" + newID()
	}
	r.Customer, r.State, r.CreatedAt, r.UpdatedAt = t.Customer, RefundCreated, w.AsOf, w.AsOf
	_, err = tx.exec(ctx, `INSERT INTO refund (id, topup, customer, amount, state, reason, created_at, updated_at, next_try_at)
		VALUES ($1, $2, $3, $4, 'created', $5, $6, $6, $7)`, r.ID, t.ID, t.Customer, int64(r.Amount), r.Reason, micros(w.AsOf), micros(r.NextTryAt))
	if err == nil {
		t.refundSeen = max(t.refundSeen, t.Refunded+r.Amount)
		err = tx.bookRefund(ctx, &t, &w)
	}
	if err == nil {
		err = tx.writeTopup(ctx, &t)
	}
	if err != nil {
		return Refund{}, Wallet{}, fmt.Errorf("cannot create a refund of top-up %s: %w", t.ID, err)
	}
	return r, w.Wallet, nil
}

// refundable is the amount that a refund may have: what it asks for, or all.
func (tx *Tx) refundable(ctx context.Context, t *Topup, w *walletRow, amount money.Nano) (money.Nano, error) {
	if err := tx.attribute(ctx, w); err != nil {
		return 0, err
	}
	own, err := tx.lots(ctx, "WHERE customer = $1 AND (id = $2 OR parent = $2) AND kind = 'paid'"+lotsLeft, t.Customer, t.ID)
	if err != nil {
		return 0, err
	}
	var rest money.Nano
	for _, l := range own {
		rest += l.Rest
	}
	rest = min(rest, t.Amount-t.Refunded-t.Lost)
	if amount == 0 {
		amount = rest - rest%nanoPerCent
	}
	after := *t
	after.Refunded += amount
	required := amount + after.bonusGone() - t.BonusBack
	switch {
	case amount <= 0 || amount > rest:
		return 0, fmt.Errorf("a refund of %s, of which %s is left: %w", amount, rest, ErrSpent)
	case amount%nanoPerCent != 0:
		return 0, fmt.Errorf("a refund of %s is not in whole cents", amount)
	case required > w.Available():
		return 0, &InsufficientError{Wallet: w.Wallet, Required: required}
	}
	return amount, nil
}

// MoveRefund is MoveTopup for a refund; only FailRefund makes one failed.
func (tx *Tx) MoveRefund(ctx context.Context, id string, from []string, to string, change func(*Refund)) (Refund, error) {
	r, err := tx.lockRefund(ctx, id)
	if err != nil {
		return Refund{}, err
	}
	if !slices.Contains(from, r.State) || to == RefundFailed {
		return Refund{}, fmt.Errorf("refund %s is %s, it cannot become %s: %w", id, r.State, to, ErrConflict)
	}
	if change != nil {
		change(&r)
	}
	r.State = to
	return r, tx.writeRefund(ctx, &r)
}

// FailRefund ends a refund that the payment provider did not make, and gives
// back what was booked beyond cumulative, its refunds of the payment that stand. Repeats change
// nothing. ErrNotFound.
func (tx *Tx) FailRefund(ctx context.Context, id, reason string, cumulative money.Nano) (Wallet, error) {
	r, err := scanRefund(tx.row(ctx, refundColumns+"WHERE id = $1", id))
	if err = missing(err, "refund", id); err != nil {
		return Wallet{}, err
	}
	t, err := tx.lockTopup(ctx, "id", r.Topup)
	if err != nil {
		return Wallet{}, err
	}
	if r, err = tx.lockRefund(ctx, id); err != nil {
		return Wallet{}, err
	}
	w, err := tx.lockWallet(ctx, t.Customer)
	if err != nil || r.State == RefundFailed {
		return w.Wallet, err
	}
	back := max(0, min(r.Amount, t.Refunded-cumulative))
	bonus := t.BonusBack
	t.Refunded -= back
	t.refundSeen = t.Refunded
	t.BonusBack = t.bonusGone()
	bonus -= t.BonusBack
	r.State, r.Reason = RefundFailed, reason
	head := txnHead{id: "stripe/refund/" + id + "/failed", kind: KindRefund, reference: t.ID}
	err = tx.giveBack(ctx, &w, &t, lot{Lot: Lot{ID: id, Kind: Paid, Amount: back}}, head, accountClearing)
	if err == nil {
		head.id += "/bonus"
		err = tx.giveBack(ctx, &w, &t, lot{Lot: Lot{ID: id + "/bonus", Kind: Promo, Amount: bonus}}, head, accountPromo)
	}
	if err == nil {
		err = tx.writeTopup(ctx, &t)
	}
	if err == nil {
		err = tx.writeRefund(ctx, &r)
	}
	if err != nil {
		return Wallet{}, fmt.Errorf("cannot take back refund %s: %w", id, err)
	}
	return w.Wallet, nil
}

func (tx *Tx) lockRefund(ctx context.Context, id string) (Refund, error) {
	r, err := scanRefund(tx.row(ctx, refundColumns+"WHERE id = $1"+tx.db.lock, id))
	return r, missing(err, "refund", id)
}

func (tx *Tx) writeRefund(ctx context.Context, r *Refund) error {
	now, err := tx.now(ctx)
	if err == nil {
		r.UpdatedAt = moment(now)
		_, err = tx.exec(ctx, `UPDATE refund SET state = $1, stripe_refund = $2, reason = $3, attempt = $4, updated_at = $5, next_try_at = $6
			WHERE id = $7`, r.State, r.StripeRefund, r.Reason, r.Attempt, now, micros(r.NextTryAt), r.ID)
	}
	if err != nil {
		return fmt.Errorf("cannot write refund %s: %w", r.ID, err)
	}
	return nil
}

// Refund finds a refund; ErrNotFound.
func (db *DB) Refund(ctx context.Context, id string) (Refund, error) {
	r, err := scanRefund(db.view().row(ctx, refundColumns+"WHERE id = $1", id))
	return r, missing(err, "refund", id)
}

// LiveRefunds lists refunds that are not ended and due to be looked at, the
// longest due first.
func (db *DB) LiveRefunds(ctx context.Context, limit int) ([]Refund, error) {
	now, err := db.view().now(ctx)
	if err != nil {
		return nil, err
	}
	return db.refunds(ctx, "WHERE state IN ('created', 'submitted') AND next_try_at <= $1 ORDER BY next_try_at, id LIMIT $2", now, limit)
}

// Refunds lists the refunds of a top-up, oldest first.
func (db *DB) Refunds(ctx context.Context, topup string) ([]Refund, error) {
	return db.refunds(ctx, "WHERE topup = $1 ORDER BY created_at, id", topup)
}

func (db *DB) refunds(ctx context.Context, where string, args ...any) (list []Refund, err error) {
	err = db.view().each(ctx, func(rows *sql.Rows) error {
		r, err := scanRefund(rows)
		list = append(list, r)
		return err
	}, refundColumns+where, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot list refunds: %w", err)
	}
	return list, nil
}

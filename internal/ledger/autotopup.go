package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weir/schemas/money"
)

// AutoTopup is how a wallet tops itself up: when its balance falls below
// Threshold, by Amount or, if RechargeTo is set, up to that balance. Caps are
// per UTC day and month, 0 is none. Failures, OffReason and NextTryAt are where
// its worker stands.
type AutoTopup struct {
	Customer                      string
	Enabled                       bool
	Threshold, Amount, RechargeTo money.Nano
	CapPerDay, CapPerMonth        money.Nano
	MinInterval                   time.Duration
	Failures                      int
	OffReason                     string
	NextTryAt, UpdatedAt          time.Time
}

// SetAutoTopup replaces how a wallet tops itself up. One that is below the
// threshold already is due at once. ErrNotFound without a wallet.
func (tx *Tx) SetAutoTopup(ctx context.Context, a AutoTopup) error {
	if a.Threshold < 0 || a.Amount < 0 || a.RechargeTo < 0 || a.CapPerDay < 0 || a.CapPerMonth < 0 {
		return errors.New("an amount is below zero")
	}
	w, err := tx.lockWallet(ctx, a.Customer)
	if err != nil {
		return err
	}
	w.topupBelow = 0
	if a.Enabled {
		w.topupBelow = a.Threshold
	}
	_, err = tx.exec(ctx, `INSERT INTO auto_topup (customer, enabled, threshold, amount, recharge_to, cap_per_day, cap_per_month, min_interval,
			failures, off_reason, next_try_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		ON CONFLICT (customer) DO UPDATE SET enabled = excluded.enabled, threshold = excluded.threshold, amount = excluded.amount,
			recharge_to = excluded.recharge_to, cap_per_day = excluded.cap_per_day, cap_per_month = excluded.cap_per_month,
			min_interval = excluded.min_interval, failures = excluded.failures, off_reason = excluded.off_reason,
			next_try_at = excluded.next_try_at, updated_at = excluded.updated_at`,
		a.Customer, a.Enabled, int64(a.Threshold), int64(a.Amount), int64(a.RechargeTo), int64(a.CapPerDay), int64(a.CapPerMonth),
		a.MinInterval.Microseconds(), a.Failures, a.OffReason, micros(a.NextTryAt), micros(w.AsOf))
	if err == nil {
		_, err = tx.exec(ctx, "UPDATE wallet SET topup_below = $1 WHERE customer = $2", int64(w.topupBelow), a.Customer)
	}
	if err != nil {
		return fmt.Errorf("cannot set the automatic top-up of %s: %w", a.Customer, err)
	}
	if c, due := w.crossed(effect{}); due {
		return tx.cross(ctx, []crossing{c})
	}
	return nil
}

// AutoTopup is how a wallet tops itself up; ErrNotFound when nobody said.
func (db *DB) AutoTopup(ctx context.Context, customer string) (AutoTopup, error) {
	return db.view().AutoTopup(ctx, customer)
}

// AutoTopup is DB.AutoTopup in a transaction.
func (tx *Tx) AutoTopup(ctx context.Context, customer string) (AutoTopup, error) {
	a := AutoTopup{Customer: customer}
	var interval, next, updated int64
	err := tx.row(ctx, `SELECT enabled, threshold, amount, recharge_to, cap_per_day, cap_per_month, min_interval, failures, off_reason,
		next_try_at, updated_at FROM auto_topup WHERE customer = $1`, customer).Scan(&a.Enabled, &a.Threshold, &a.Amount, &a.RechargeTo,
		&a.CapPerDay, &a.CapPerMonth, &interval, &a.Failures, &a.OffReason, &next, &updated)
	a.MinInterval, a.NextTryAt, a.UpdatedAt = time.Duration(interval)*time.Microsecond, moment(next), moment(updated)
	return a, missing(err, "automatic top-up of", customer)
}

// AutoSpent is what a wallet's automatic top-ups of a UTC day and month come to,
// but for those that failed, and when the last of them was begun, whatever
// became of it.
type AutoSpent struct {
	Day, Month money.Nano
	Last       time.Time
}

// AutoTopupSpent sums the automatic top-ups of the day and the month of at. In
// the transaction that creates the next one, with the wallet locked, it is exact.
func (tx *Tx) AutoTopupSpent(ctx context.Context, customer string, at time.Time) (s AutoSpent, err error) {
	y, m, d := at.UTC().Date()
	var last int64
	err = tx.row(ctx, `SELECT CAST(COALESCE(SUM(CASE WHEN created_at >= $1 AND state NOT IN ('failed', 'canceled') THEN amount ELSE 0 END), 0) AS BIGINT),
		CAST(COALESCE(SUM(CASE WHEN created_at >= $2 AND state NOT IN ('failed', 'canceled') THEN amount ELSE 0 END), 0) AS BIGINT),
		COALESCE(MAX(created_at), 0) FROM topup WHERE customer = $3 AND kind = 'auto' AND created_at <= $4`,
		micros(time.Date(y, m, d, 0, 0, 0, 0, time.UTC)), micros(time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)), customer, micros(at)).
		Scan(&s.Day, &s.Month, &last)
	if err != nil {
		return AutoSpent{}, fmt.Errorf("cannot sum the automatic top-ups of %s: %w", customer, err)
	}
	s.Last = moment(last)
	return s, nil
}

// AutoTopupSpent is Tx.AutoTopupSpent outside of a transaction.
func (db *DB) AutoTopupSpent(ctx context.Context, customer string, at time.Time) (AutoSpent, error) {
	return db.view().AutoTopupSpent(ctx, customer, at)
}

// LockWallet reads a wallet and keeps it as it is until the transaction ends;
// ErrNotFound.
func (tx *Tx) LockWallet(ctx context.Context, customer string) (Wallet, error) {
	w, err := tx.lockWallet(ctx, customer)
	return w.Wallet, err
}

// DueTopups lists wallets that were seen below their threshold, whose
// automatic top-up may be tried now and that have none under way.
func (db *DB) DueTopups(ctx context.Context, limit int) (customers []string, err error) {
	tx := db.view()
	now, err := tx.now(ctx)
	if err != nil {
		return nil, err
	}
	err = tx.each(ctx, func(r *sql.Rows) error {
		var id string
		err := r.Scan(&id)
		customers = append(customers, id)
		return err
	}, `SELECT d.customer FROM topup_due d JOIN auto_topup a ON a.customer = d.customer
		WHERE a.enabled AND a.next_try_at <= $1 AND NOT EXISTS (SELECT 1 FROM topup t WHERE t.customer = d.customer AND t.kind = 'auto'
			AND t.state IN ('created', 'submitted', 'requires_action', 'processing'))
		ORDER BY d.since, d.customer LIMIT $2`, now, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot list due top-ups: %w", err)
	}
	return customers, nil
}

// DoneDue strikes a wallet off the due ones, unless its balance is below its
// threshold still.
func (tx *Tx) DoneDue(ctx context.Context, customer string) (done bool, err error) {
	w, err := tx.lockWallet(ctx, customer)
	if err != nil || w.Balance() < w.topupBelow {
		return false, err
	}
	if _, err := tx.exec(ctx, "DELETE FROM topup_due WHERE customer = $1", customer); err != nil {
		return false, fmt.Errorf("cannot strike off the due top-up of %s: %w", customer, err)
	}
	return true, nil
}

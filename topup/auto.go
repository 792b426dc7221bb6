package topup

import (
	"context"
	"errors"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
)

const (
	// IntervalDefault keeps two automatic top-ups of a wallet apart.
	IntervalDefault = time.Minute
	// failuresMax declines in a row turn an automatic top-up off.
	failuresMax = 3
	// frozenPause is how long a frozen wallet that is below its threshold is left
	// alone before it is looked at again.
	frozenPause = 5 * time.Minute
)

// declinePause is how long a wallet is left alone after so many declines.
var declinePause = [failuresMax]time.Duration{0, time.Hour, 24 * time.Hour}

// workDue begins the top-ups of wallets that are below their threshold.
func (t *Topup) workDue(ctx context.Context) error {
	due, err := t.Ledger.DueTopups(ctx, workMax)
	if err != nil {
		return err
	}
	return each(ctx, due, workAtOnce, func(ctx context.Context, customer string) error {
		row, begun, err := t.begin(ctx, customer)
		if err != nil || !begun {
			return err
		}
		return t.charge(ctx, row)
	})
}

// begin writes the row of a wallet's automatic top-up, unless there is no
// reason for one any more, or something forbids it.
func (t *Topup) begin(ctx context.Context, customer string) (row ledger.Topup, begun bool, err error) {
	err = t.tx(ctx, func(tx *ledger.Tx) error {
		begun = false
		if done, err := tx.DoneDue(ctx, customer); err != nil || done {
			return err
		}
		w, err := tx.LockWallet(ctx, customer)
		if err != nil {
			return err
		}
		auto, err := tx.AutoTopup(ctx, customer)
		if err != nil {
			return err
		}
		// Read behind the wallet's lock: a payment that brings the first card turns
		// this on in the transaction that keeps the card.
		payer, err := tx.Payer(ctx, customer)
		if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			return err
		}
		switch {
		case !auto.Enabled:
			return nil // turned off at this moment
		case w.Status != ledger.Active:
			auto.NextTryAt = w.AsOf.Add(frozenPause)
			return tx.SetAutoTopup(ctx, auto)
		case payer.PaymentMethod == "":
			return t.turnOff(ctx, tx, auto, ReasonNoCard)
		}
		spent, err := tx.AutoTopupSpent(ctx, customer, w.AsOf)
		if err != nil {
			return err
		}
		amount := auto.Amount
		if auto.RechargeTo > 0 {
			amount = roundUp(auto.RechargeTo - w.Balance())
		}
		if wait := auto.MinInterval - w.AsOf.Sub(spent.Last); !spent.Last.IsZero() && wait > 0 {
			auto.NextTryAt = w.AsOf.Add(wait)
			return tx.SetAutoTopup(ctx, auto)
		}
		if end := capped(auto, spent, amount, w.AsOf); !end.IsZero() {
			return t.capReached(ctx, tx, auto, amount, end)
		}
		row, err = tx.CreateTopup(ctx, ledger.Topup{Customer: customer, Kind: ledger.TopupAuto, Amount: amount, NextTryAt: w.AsOf.Add(takenOver)})
		begun = err == nil
		return err
	})
	if errors.Is(err, ledger.ErrConflict) {
		return row, false, nil // another worker was faster
	}
	return row, begun, err
}

// roundUp makes whole cents of an amount, within what Stripe charges at once.
func roundUp(n money.Nano) money.Nano {
	return min(max((n+cent-1)/cent*cent, MinAmount), MaxAmount)
}

// capped tells until when a cap forbids amount more; zero if none does.
func capped(a ledger.AutoTopup, spent ledger.AutoSpent, amount money.Nano, now time.Time) time.Time {
	y, m, d := now.UTC().Date()
	switch {
	case a.CapPerMonth > 0 && spent.Month+amount > a.CapPerMonth:
		return time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	case a.CapPerDay > 0 && spent.Day+amount > a.CapPerDay:
		return time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC)
	}
	return time.Time{}
}

// capReached leaves the wallet alone until the cap's period ends, and tells the
// platform.
func (t *Topup) capReached(ctx context.Context, tx *ledger.Tx, a ledger.AutoTopup, amount money.Nano, until time.Time) error {
	a.NextTryAt = until
	if err := tx.SetAutoTopup(ctx, a); err != nil {
		return err
	}
	return tx.Emit(ctx, ledger.Event{Type: ledger.EventTopupFailed, Customer: a.Customer,
		Data: ledger.TopupNews{Customer: a.Customer, Kind: ledger.TopupAuto, Amount: amount, Reason: ReasonCap}})
}

// turnOff ends a wallet's automatic top-ups until somebody turns them on again
// or, where a card was missing, one is saved.
func (t *Topup) turnOff(ctx context.Context, tx *ledger.Tx, a ledger.AutoTopup, reason string) error {
	a.Enabled, a.OffReason = false, reason
	if err := tx.SetAutoTopup(ctx, a); err != nil {
		return err
	}
	return tx.Emit(ctx, ledger.Event{Type: ledger.EventTopupFailed, Customer: a.Customer,
		Data: ledger.TopupNews{Customer: a.Customer, Kind: ledger.TopupAuto, Amount: a.Amount, Reason: reason}})
}

// fail ends a top-up. An automatic one of a declined card is left alone for a
// while, and for good after the third in a row.
func (t *Topup) fail(ctx context.Context, row ledger.Topup, reason string) error {
	err := t.tx(ctx, func(tx *ledger.Tx) error {
		_, err := tx.MoveTopup(ctx, row.ID, liveStates, ledger.TopupFailed, func(r *ledger.Topup) { r.Reason, r.NextTryAt = reason, time.Time{} })
		if err != nil || row.Kind != ledger.TopupAuto {
			return err
		}
		w, err := tx.LockWallet(ctx, row.Customer)
		if err != nil {
			return err
		}
		auto, err := tx.AutoTopup(ctx, row.Customer)
		if err != nil {
			return err
		}
		if auto.Failures++; auto.Failures >= failuresMax {
			auto.Enabled, auto.OffReason = false, reason
		} else {
			auto.NextTryAt = w.AsOf.Add(declinePause[auto.Failures])
		}
		return tx.SetAutoTopup(ctx, auto)
	})
	if err == nil {
		t.metrics.ended.WithLabelValues(row.Kind, reason).Inc()
		t.Log.Info("top-up failed", "topup", row.ID, "customer", row.Customer, "reason", reason)
	}
	return err
}

// succeeded clears what earlier declines left: the next top-up need not wait.
func (t *Topup) succeeded(ctx context.Context, tx *ledger.Tx, row ledger.Topup) error {
	auto, err := tx.AutoTopup(ctx, row.Customer)
	if errors.Is(err, ledger.ErrNotFound) || err == nil && auto.Failures == 0 {
		return nil
	}
	if err == nil {
		auto.Failures, auto.NextTryAt = 0, time.Time{}
		err = tx.SetAutoTopup(ctx, auto)
	}
	return err
}

package ledger

import (
	"context"
	"database/sql"
	"fmt"

	"weir/schemas/money"
)

// The states of a dispute.
const (
	DisputeOpen = "open"
	DisputeWon  = "won"
	DisputeLost = "lost"
)

// What of a dispute is in the books.
const (
	bookedNothing = ""
	bookedOpen    = "open"
	bookedClosed  = "closed"
)

// Dispute is a payment that its customer's bank takes back. Fee is what the
// payment provider asks for it, won or lost.
type Dispute struct {
	ID, PaymentIntent string
	Amount, Fee       money.Nano
}

// disputeRow is a dispute as it is kept.
type disputeRow struct {
	id, state, booked string
	amount, fee       money.Nano
}

// OpenDispute moves the disputed amount out of the wallet, as far as it is
// available; the rest becomes receivable. The wallet is frozen until the last of its
// disputes is closed, and gateways learn of it with their next beat. Repeats,
// and a dispute that was closed before it was opened, change nothing.
// ErrNotFound without a top-up of that payment.
func (tx *Tx) OpenDispute(ctx context.Context, d Dispute) (Wallet, error) {
	return tx.dispute(ctx, d, DisputeOpen)
}

// CloseDispute ends a dispute, also one that was never seen open. Won, its
// amount returns to the wallet; lost, the bonus of the purchase goes too.
// The first outcome counts. ErrNotFound without a top-up of that payment.
func (tx *Tx) CloseDispute(ctx context.Context, d Dispute, won bool) (Wallet, error) {
	if won {
		return tx.dispute(ctx, d, DisputeWon)
	}
	return tx.dispute(ctx, d, DisputeLost)
}

func (tx *Tx) dispute(ctx context.Context, d Dispute, state string) (Wallet, error) {
	if d.Amount <= 0 || d.Fee < 0 {
		return Wallet{}, errAmount
	}
	t, err := tx.lockTopup(ctx, "payment_intent", d.PaymentIntent)
	if err != nil {
		return Wallet{}, err
	}
	now, err := tx.now(ctx)
	if err != nil {
		return Wallet{}, err
	}
	_, err = tx.exec(ctx, `INSERT INTO dispute (id, topup, customer, amount, fee, state, booked, created_at, updated_at)
		VALUES ($1, $2, $3, $4, 0, 'open', '', $5, $5) ON CONFLICT (id) DO NOTHING`, d.ID, t.ID, t.Customer, int64(d.Amount), now)
	if err == nil && state != DisputeOpen {
		_, err = tx.exec(ctx, "UPDATE dispute SET state = $1, updated_at = $2 WHERE id = $3 AND state = 'open'", state, now, d.ID)
	}
	if err != nil {
		return Wallet{}, fmt.Errorf("cannot keep dispute %s: %w", d.ID, err)
	}
	w, err := tx.lockWallet(ctx, t.Customer)
	if err == nil {
		err = tx.disputeFee(ctx, d)
	}
	if err == nil && t.State == TopupSucceeded {
		if err = tx.bookDisputes(ctx, &t, &w); err == nil {
			err = tx.writeTopup(ctx, &t)
		}
	}
	if err != nil {
		return Wallet{}, fmt.Errorf("cannot book dispute %s: %w", d.ID, err)
	}
	return w.Wallet, nil
}

// disputeFee books a dispute's fee once it is known.
func (tx *Tx) disputeFee(ctx context.Context, d Dispute) error {
	if d.Fee == 0 {
		return nil
	}
	first, err := tx.exec(ctx, "UPDATE dispute SET fee = $1 WHERE id = $2 AND fee = 0", int64(d.Fee), d.ID)
	if err != nil || first == 0 {
		return err
	}
	return tx.bookFee(ctx, "stripe/dp/"+d.ID+"/fee", d.ID, d.Fee)
}

// bookDisputes brings the books of a paid top-up to the state of its
// disputes: a step that is not booked is booked, in the order open, closed. So
// what was told in whichever order ends the same.
func (tx *Tx) bookDisputes(ctx context.Context, t *Topup, w *walletRow) error {
	var list []disputeRow
	err := tx.each(ctx, func(r *sql.Rows) error {
		var d disputeRow
		err := r.Scan(&d.id, &d.amount, &d.fee, &d.state, &d.booked)
		list = append(list, d)
		return err
	}, "SELECT id, amount, fee, state, booked FROM dispute WHERE topup = $1 AND booked <> 'closed' ORDER BY created_at, id"+tx.db.lock, t.ID)
	if err != nil {
		return err
	}
	for _, d := range list {
		was := d.booked
		if d.booked == bookedNothing {
			if err := tx.bookOpen(ctx, t, w, &d); err != nil {
				return err
			}
		}
		if d.state != DisputeOpen {
			if err := tx.bookClosed(ctx, t, w, &d); err != nil {
				return err
			}
		}
		if d.booked == was {
			continue
		}
		if _, err := tx.exec(ctx, "UPDATE dispute SET booked = $1 WHERE id = $2", d.booked, d.id); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) bookOpen(ctx context.Context, t *Topup, w *walletRow, d *disputeRow) error {
	d.booked = bookedOpen
	head := txnHead{id: "stripe/dp/" + d.id + "/open", kind: KindDispute, reference: t.ID}
	if err := tx.takePurchase(ctx, t, w, d.amount, head, accountDisputed+t.Customer); err != nil {
		return err
	}
	return tx.countDisputes(ctx, w, 1)
}

func (tx *Tx) bookClosed(ctx context.Context, t *Topup, w *walletRow, d *disputeRow) error {
	d.booked = bookedClosed
	head := txnHead{id: "stripe/dp/" + d.id + "/" + d.state, kind: KindDispute, reference: t.ID}
	held := accountDisputed + t.Customer
	var err error
	switch {
	case d.state == DisputeLost:
		t.Lost += d.amount
		err = tx.loseDispute(ctx, t, w, head, d.amount)
	case t.Kind == TopupSubscription:
		err = tx.post(ctx, head, []posting{head.against(held, -d.amount), head.against(accountPlans, d.amount)})
	default:
		err = tx.giveBack(ctx, w, t, lot{Lot: Lot{ID: d.id, Kind: Paid, Amount: d.amount}}, head, held)
	}
	if err != nil {
		return err
	}
	return tx.countDisputes(ctx, w, -1)
}

// loseDispute lets the disputed money go, and takes the bonus with it.
func (tx *Tx) loseDispute(ctx context.Context, t *Topup, w *walletRow, head txnHead, amount money.Nano) error {
	bonus := t.bonusGone() - t.BonusBack
	t.BonusBack += bonus
	others := []posting{head.against(accountDisputed+t.Customer, -amount), head.against(accountClearing, amount)}
	if bonus != 0 {
		others = append(others, head.against(accountPromo, bonus))
	}
	return tx.takeBack(ctx, w, t, 0, bonus, head, others...)
}

// countDisputes freezes a wallet with its first open dispute and releases it
// with the last.
func (tx *Tx) countDisputes(ctx context.Context, w *walletRow, by int64) error {
	_, err := tx.exec(ctx, "UPDATE wallet SET disputes = disputes + $1 WHERE customer = $2", by, w.Customer)
	if err != nil {
		return err
	}
	epoch, err := tx.raise(ctx, epochChange)
	if err == nil {
		_, err = tx.exec(ctx, "UPDATE customer SET epoch = $1 WHERE id = $2", epoch, w.Customer)
	}
	if err == nil {
		err = tx.row(ctx, "SELECT "+effectiveStatus+" FROM wallet w WHERE customer = $1", w.Customer).Scan(&w.Status)
	}
	return err
}

package topup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
)

// sendRefund asks Stripe for a refund that the ledger has booked already, so
// that the money could not be spent meanwhile. Again it is the same one.
func (t *Topup) sendRefund(ctx context.Context, row ledger.Refund) error {
	topup, err := t.Ledger.Topup(ctx, row.Topup)
	if err != nil {
		return err
	}
	if t.Now().Sub(row.CreatedAt) >= keyLife {
		if found, err := t.findRefund(ctx, topup, row); err != nil || found {
			return err
		}
	}
	made, err := t.stripe.Refunds.New(&stripe.RefundParams{Params: t.acting(ctx, fmt.Sprintf("refund/%s", row.ID)), PaymentIntent: stripe.String(topup.PaymentIntent),
		Amount: stripe.Int64(cents(row.Amount)), Reason: stripe.String(string(stripe.RefundReasonRequestedByCustomer)), Metadata: map[string]string{refundKey: row.ID}})
	if err == nil {
		return t.refundIs(ctx, row, made)
	}
	if o, _ := judge(err); o == unknown {
		return t.refundLater(ctx, row, plain(err))
	}
	return t.refundFailed(ctx, row, ReasonStripe)
}

// findRefund looks for a refund that Stripe may have made long ago.
func (t *Topup) findRefund(ctx context.Context, topup ledger.Topup, row ledger.Refund) (bool, error) {
	list := t.stripe.Refunds.List(&stripe.RefundListParams{ListParams: stripe.ListParams{Context: ctx, Limit: stripe.Int64(workMax)},
		PaymentIntent: stripe.String(topup.PaymentIntent)})
	for list.Next() {
		if r := list.Refund(); r.Metadata[refundKey] == row.ID {
			return true, t.refundIs(ctx, row, r)
		}
	}
	if err := list.Err(); err != nil {
		return false, asked("search refund "+row.ID, err)
	}
	return false, nil
}

// refundIs brings a refund's row to what Stripe says of it.
func (t *Topup) refundIs(ctx context.Context, row ledger.Refund, r *stripe.Refund) error {
	switch r.Status {
	case stripe.RefundStatusFailed, stripe.RefundStatusCanceled:
		return t.refundFailed(ctx, row, string(r.FailureReason))
	case stripe.RefundStatusSucceeded:
		return t.moveRefund(ctx, row, ledger.RefundSucceeded, r.ID, time.Time{})
	}
	return t.moveRefund(ctx, row, ledger.RefundSubmitted, r.ID, t.Now().Add(sessionPoll))
}

func (t *Topup) moveRefund(ctx context.Context, row ledger.Refund, to, stripeID string, next time.Time) error {
	err := t.tx(ctx, func(tx *ledger.Tx) error {
		_, err := tx.MoveRefund(ctx, row.ID, []string{ledger.RefundCreated, ledger.RefundSubmitted}, to, func(r *ledger.Refund) {
			r.StripeRefund, r.NextTryAt = stripeID, next
		})
		return err
	})
	if err == nil && to == ledger.RefundSucceeded {
		t.Log.Info("refunded", "refund", row.ID, "topup", row.Topup, "amount", row.Amount.String())
	}
	return ended(err)
}

func (t *Topup) refundLater(ctx context.Context, row ledger.Refund, why error) error {
	err := t.tx(ctx, func(tx *ledger.Tx) error {
		_, err := tx.MoveRefund(ctx, row.ID, []string{row.State}, ledger.RefundSubmitted, func(r *ledger.Refund) {
			r.Attempt++
			r.NextTryAt = t.Now().Add(min(retryFirst<<min(r.Attempt-1, 16), retryMax))
		})
		return err
	})
	return errors.Join(fmt.Errorf("the outcome of refund %s is not known: %w", row.ID, why), err)
}

// refundFailed books a refund back that Stripe did not make, as far as the
// charge says that it was not refunded.
func (t *Topup) refundFailed(ctx context.Context, row ledger.Refund, reason string) error {
	topup, err := t.Ledger.Topup(ctx, row.Topup)
	if err != nil {
		return err
	}
	c, err := t.stripe.Charges.Get(topup.Charge, &stripe.ChargeParams{Params: asking(ctx)})
	if err != nil {
		return asked("look at charge "+topup.Charge, err)
	}
	t.Log.Warn("a refund failed", "refund", row.ID, "topup", row.Topup, "reason", reason)
	return t.tx(ctx, func(tx *ledger.Tx) error {
		_, err := tx.FailRefund(ctx, row.ID, reason, nano(c.AmountRefunded))
		return err
	})
}

// workRefunds goes on with refunds whose outcome is not known.
func (t *Topup) workRefunds(ctx context.Context) error {
	list, err := t.Ledger.LiveRefunds(ctx, workMax)
	if err != nil {
		return err
	}
	return each(ctx, list, workAtOnce, func(ctx context.Context, row ledger.Refund) error {
		if row.StripeRefund == "" {
			return t.sendRefund(ctx, row)
		}
		return t.lookAtRefund(ctx, row.StripeRefund)
	})
}

// lookAtRefund brings the books to a refund, whoever asked for it.
func (t *Topup) lookAtRefund(ctx context.Context, id string) error {
	r, err := t.stripe.Refunds.Get(id, &stripe.RefundParams{Params: asking(ctx)})
	if err != nil {
		return t.unseen("refund "+id, err)
	}
	if own := r.Metadata[refundKey]; own != "" {
		if row, err := t.Ledger.Refund(ctx, own); err == nil {
			return t.refundIs(ctx, row, r)
		}
	}
	if r.PaymentIntent == nil {
		return errNotOurs
	}
	return t.lookAtPayment(ctx, r.PaymentIntent.ID)
}

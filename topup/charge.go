package topup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
)

const (
	// keyLife is how long Stripe certainly knows a key; it keeps them for a day.
	keyLife = 23 * time.Hour
	// retryFirst and retryMax pace the asking about an unknown outcome.
	retryFirst = 2 * time.Second
	retryMax   = 10 * time.Minute
	// takenOver is when another worker may take up what one has just begun.
	takenOver = 30 * time.Second
)

// charge asks Stripe to charge the saved card for a top-up. The row says so
// before, and the key is made of the row: asked again, Stripe charges once.
func (t *Topup) charge(ctx context.Context, row ledger.Topup) error {
	payer, err := t.Ledger.Payer(ctx, row.Customer)
	if err != nil {
		return err
	}
	if row, err = t.move(ctx, row, ledger.TopupSubmitted, func(r *ledger.Topup) { r.NextTryAt = t.Now().Add(takenOver) }); err != nil {
		return err
	}
	payment, err := t.stripe.PaymentIntents.New(&stripe.PaymentIntentParams{Params: t.acting(ctx, "topup/"+row.ID+"/charge"),
		Amount: stripe.Int64(cents(row.Amount)), Currency: stripe.String(currency), Customer: stripe.String(payer.StripeCustomer),
		PaymentMethod: stripe.String(payer.PaymentMethod), PaymentMethodTypes: []*string{stripe.String("card")},
		OffSession: stripe.Bool(true), Confirm: stripe.Bool(true), Metadata: map[string]string{topupKey: row.ID}})
	if err == nil {
		return t.lookAtPayment(ctx, payment.ID)
	}
	switch o, detail := judge(err); o {
	case declined:
		return t.declined(ctx, row, detail)
	case refused:
		t.Log.Error("stripe refuses a top-up", "topup", row.ID, "err", plain(err))
		return t.fail(ctx, row, ReasonStripe)
	}
	return t.later(ctx, row, plain(err))
}

// recharge goes on with an automatic top-up that was left on its way. If Stripe
// was asked, its payment is searched first. One that nobody wants any more, or
// whose key Stripe may have forgotten, is not asked for again; should a payment
// of it succeed all the same, it is credited.
func (t *Topup) recharge(ctx context.Context, row ledger.Topup) error {
	if row.State == ledger.TopupSubmitted {
		found, err := t.findPayment(ctx, row)
		if err != nil {
			return t.later(ctx, row, err)
		}
		if found != "" {
			return errors.Join(t.lookAtPayment(ctx, found), t.put(ctx, row, takenOver))
		}
	}
	auto, err := t.Ledger.AutoTopup(ctx, row.Customer)
	if err != nil {
		return err
	}
	w, err := t.Ledger.Wallet(ctx, row.Customer)
	if err != nil {
		return err
	}
	switch {
	case !auto.Enabled || w.Status != ledger.Active || w.Balance() >= auto.Threshold:
		return t.canceled(ctx, row, ReasonCanceled)
	case t.Now().Sub(row.CreatedAt) >= keyLife:
		return t.canceled(ctx, row, ReasonExpired)
	}
	return t.charge(ctx, row)
}

// findPayment searches the customer's payments for the one of a top-up, "" if
// there is none. The list knows a payment at once, Stripe's search only after
// a while.
func (t *Topup) findPayment(ctx context.Context, row ledger.Topup) (id string, err error) {
	const clocks = 5 * 60 // seconds by which two clocks may differ
	payer, err := t.Ledger.Payer(ctx, row.Customer)
	if err != nil {
		return "", err
	}
	list := t.stripe.PaymentIntents.List(&stripe.PaymentIntentListParams{ListParams: stripe.ListParams{Context: ctx, Limit: stripe.Int64(workMax)},
		Customer: stripe.String(payer.StripeCustomer), CreatedRange: &stripe.RangeQueryParams{GreaterThanOrEqual: row.CreatedAt.Unix() - clocks}})
	for list.Next() {
		if p := list.PaymentIntent(); p.Metadata[topupKey] == row.ID {
			return p.ID, nil
		}
	}
	if err := list.Err(); err != nil {
		return "", asked("search the payment of "+row.ID, err)
	}
	return "", nil
}

// later puts a top-up of unknown outcome off.
func (t *Topup) later(ctx context.Context, row ledger.Topup, why error) error {
	_, err := t.move(ctx, row, row.State, func(r *ledger.Topup) {
		r.Attempt++
		r.NextTryAt = t.Now().Add(min(retryFirst<<min(r.Attempt-1, 16), retryMax))
	})
	return errors.Join(fmt.Errorf("the outcome of top-up %s is not known: %w", row.ID, why), err)
}

// move changes a top-up that is where row says it is. ErrConflict means that
// somebody else has taken it on, which is no fault.
func (t *Topup) move(ctx context.Context, row ledger.Topup, to string, change func(*ledger.Topup)) (moved ledger.Topup, err error) {
	err = t.tx(ctx, func(tx *ledger.Tx) (err error) {
		moved, err = tx.MoveTopup(ctx, row.ID, []string{row.State}, to, change)
		return err
	})
	return moved, err
}

// declined follows a refusal of the card. The payment is canceled, so that
// nobody completes it later; where the bank wants to see the customer, he gets
// a page of the same top-up.
func (t *Topup) declined(ctx context.Context, row ledger.Topup, detail *stripe.Error) error {
	if p := detail.PaymentIntent; p != nil && p.Status != stripe.PaymentIntentStatusCanceled {
		_, err := t.stripe.PaymentIntents.Cancel(p.ID, &stripe.PaymentIntentCancelParams{Params: t.acting(ctx, "topup/"+row.ID+"/cancel/"+p.ID)})
		if err != nil { // it is looked at again: perhaps it has succeeded
			return t.later(ctx, row, plain(err))
		}
	}
	reason := reasonOf(detail.Code, detail.DeclineCode)
	if reason != ReasonAuthentication {
		return t.fail(ctx, row, reason)
	}
	back, err := t.returnURL(ctx, row.Customer)
	if err != nil {
		return err
	}
	if back == "" {
		t.Log.Warn("a bank wants to see the customer, and no page is known to send him back to: set top_up_url", "topup", row.ID)
		return t.fail(ctx, row, reason)
	}
	row.SuccessURL, row.CancelURL = back, back
	if _, err = t.openPage(ctx, row, ledger.TopupAction); errors.Is(err, ErrNotAccepted) || err != nil && t.Now().Sub(row.CreatedAt) > abandonAfter {
		t.Log.Error("no page for a top-up that needs authentication", "topup", row.ID, "err", err)
		return t.fail(ctx, row, reason)
	}
	return err
}

package topup

import (
	"context"
	"errors"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
	"weir/schemas/money"
)

// errNotOurs says that an object has nothing to do with this installation's
// wallets: the account may sell other things too.
var errNotOurs = errors.New("not a payment of ours")

// lookAtSession brings the books to what a hosted page says.
func (t *Topup) lookAtSession(ctx context.Context, id string) error {
	session, err := t.stripe.CheckoutSessions.Get(id, &stripe.CheckoutSessionParams{Params: asking(ctx)})
	if err != nil {
		return t.unseen("page "+id, err)
	}
	if session.Mode == stripe.CheckoutSessionModeSubscription {
		if session.Subscription == nil {
			return nil // not paid yet
		}
		return t.lookAtSubscription(ctx, session.Subscription.ID)
	}
	row, err := t.rowOfSession(ctx, session)
	if err != nil {
		return err
	}
	switch {
	case session.PaymentIntent != nil && session.Status == stripe.CheckoutSessionStatusComplete:
		return t.lookAtPayment(ctx, session.PaymentIntent.ID)
	case session.Status == stripe.CheckoutSessionStatusExpired:
		if !isLive(row) || row.Session != "" && row.Session != id {
			return nil
		}
		if row.Kind == ledger.TopupAuto {
			return t.fail(ctx, row, ReasonExpired)
		}
		return t.canceled(ctx, row, ReasonExpired)
	}
	return nil
}

// rowOfSession finds the row of a page, also one whose opening was not noted
// because of a crash.
func (t *Topup) rowOfSession(ctx context.Context, s *stripe.CheckoutSession) (ledger.Topup, error) {
	row, err := t.Ledger.TopupBySession(ctx, s.ID)
	if errors.Is(err, ledger.ErrNotFound) && s.ClientReferenceID != "" {
		row, err = t.Ledger.Topup(ctx, s.ClientReferenceID)
	}
	switch {
	case errors.Is(err, ledger.ErrNotFound) || err == nil && s.Customer == nil:
		return row, errNotOurs
	case err != nil:
		return row, err
	}
	return row, t.paidBy(ctx, row, s.Customer.ID, s.Livemode)
}

// paidBy refuses an object of another customer or of the other mode.
func (t *Topup) paidBy(ctx context.Context, row ledger.Topup, stripeCustomer string, live bool) error {
	payer, err := t.Ledger.Payer(ctx, row.Customer)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return err
	}
	if payer.StripeCustomer != stripeCustomer || live != t.live {
		t.Log.Error("an object of Stripe names a top-up of another customer or mode; ignored", "topup", row.ID, "stripe_customer", stripeCustomer)
		return errNotOurs
	}
	return nil
}

// lookAtPayment brings the books to what a payment says: credited, failed,
// refunded.
func (t *Topup) lookAtPayment(ctx context.Context, id string) error {
	p, err := t.stripe.PaymentIntents.Get(id, &stripe.PaymentIntentParams{Params: asking(ctx, "latest_charge.balance_transaction")})
	if err != nil {
		return t.unseen("payment "+id, err)
	}
	row, err := t.rowOfPayment(ctx, p)
	if err != nil {
		return err
	}
	if string(p.Currency) != currency {
		t.Log.Error("a payment in another currency; ignored", "topup", row.ID, "payment", id, "currency", p.Currency)
		return errNotOurs
	}
	if p.Status == stripe.PaymentIntentStatusSucceeded {
		return t.paid(ctx, row, p)
	}
	return t.unpaid(ctx, row, p)
}

// rowOfPayment finds the row that a payment is of: the one that it paid, the
// one that it was made for, or that of the invoice it pays.
func (t *Topup) rowOfPayment(ctx context.Context, p *stripe.PaymentIntent) (ledger.Topup, error) {
	row, err := t.Ledger.TopupByPayment(ctx, p.ID)
	if errors.Is(err, ledger.ErrNotFound) && p.Invoice != nil {
		if _, err = t.creditInvoice(ctx, p.Invoice.ID); err == nil {
			row, err = t.Ledger.TopupByPayment(ctx, p.ID)
		}
	}
	if errors.Is(err, ledger.ErrNotFound) {
		row, err = t.Ledger.Topup(ctx, p.Metadata[topupKey])
	}
	switch {
	case errors.Is(err, ledger.ErrNotFound) || err == nil && p.Customer == nil:
		return row, errNotOurs
	case err != nil:
		return row, err
	}
	return row, t.paidBy(ctx, row, p.Customer.ID, p.Livemode)
}

// paid credits a payment that succeeded, and books what was refunded of it.
func (t *Topup) paid(ctx context.Context, row ledger.Topup, p *stripe.PaymentIntent) error {
	payment := ledger.Payment{PaymentIntent: p.ID, Amount: nano(p.AmountReceived)}
	var refunded money.Nano
	if c := p.LatestCharge; c != nil {
		payment.Charge, refunded = c.ID, nano(c.AmountRefunded)
		payment.Fee = feeOf(c.BalanceTransaction)
	}
	var credited bool
	err := t.tx(ctx, func(tx *ledger.Tx) (err error) {
		if credited, err = t.fund(ctx, tx, row, payment); err != nil {
			return err
		}
		if credited {
			err = errors.Join(t.succeeded(ctx, tx, row), t.keepCard(ctx, tx, row, p))
		} else if payment.Fee != nil {
			err = tx.SetFee(ctx, p.ID, *payment.Fee)
		}
		if err == nil && refunded > 0 {
			_, err = tx.RefundTo(ctx, p.ID, refunded)
		}
		return err
	})
	if err == nil && credited {
		t.metrics.ended.WithLabelValues(row.Kind, ledger.TopupSucceeded).Inc()
		t.Log.Info("top-up succeeded", "topup", row.ID, "customer", row.Customer, "amount", payment.Amount.String(), "payment", p.ID)
	}
	return err
}

// fund credits a payment of a top-up, once. A second payment of the same
// top-up is money that came too: it is a purchase of its own, without bonus.
func (t *Topup) fund(ctx context.Context, tx *ledger.Tx, row ledger.Topup, p ledger.Payment) (credited bool, err error) {
	if row.State == ledger.TopupSucceeded && row.PaymentIntent == p.PaymentIntent {
		return false, nil
	}
	credited, _, err = tx.FundTopup(ctx, row.ID, p)
	if !errors.Is(err, ledger.ErrConflict) {
		return credited, err
	}
	t.Log.Warn("a top-up was paid twice; both payments are credited", "topup", row.ID, "payment", p.PaymentIntent)
	second, err := tx.CreateTopup(ctx, ledger.Topup{ID: PurchaseID(row.Customer, "payment/"+p.PaymentIntent), Customer: row.Customer,
		Kind: ledger.TopupCheckout, Amount: p.Amount})
	if err != nil {
		return false, err
	}
	credited, _, err = tx.FundTopup(ctx, second.ID, p)
	return credited, err
}

// keepCard keeps the card of a customer who agreed that it may be charged
// later. An automatic top-up that was off for want of a card is on again.
func (t *Topup) keepCard(ctx context.Context, tx *ledger.Tx, row ledger.Topup, p *stripe.PaymentIntent) error {
	if !row.SaveCard || p.PaymentMethod == nil {
		return nil
	}
	err := tx.SetPayer(ctx, ledger.Payer{Customer: row.Customer, StripeCustomer: p.Customer.ID, PaymentMethod: p.PaymentMethod.ID, ConsentedAt: row.CreatedAt})
	if err != nil {
		return err
	}
	auto, err := tx.AutoTopup(ctx, row.Customer)
	if errors.Is(err, ledger.ErrNotFound) || err == nil && auto.OffReason != ReasonNoCard {
		return nil
	}
	if err == nil {
		auto.Enabled, auto.OffReason = true, ""
		err = tx.SetAutoTopup(ctx, auto)
	}
	return err
}

// feeOf is what Stripe keeps, nil while it is not known.
func feeOf(b *stripe.BalanceTransaction) *money.Nano {
	if b == nil || string(b.Currency) != currency {
		return nil
	}
	fee := nano(b.Fee)
	return &fee
}

// unpaid follows a payment that has not succeeded, or not yet.
func (t *Topup) unpaid(ctx context.Context, row ledger.Topup, p *stripe.PaymentIntent) error {
	over := p.Status == stripe.PaymentIntentStatusCanceled
	switch {
	case !isLive(row):
		return nil // it has ended, as far as it was known
	case p.Status == stripe.PaymentIntentStatusProcessing:
		_, err := t.move(ctx, row, ledger.TopupProcessing, func(r *ledger.Topup) {
			r.PaymentIntent, r.NextTryAt = p.ID, t.Now().Add(sessionPoll)
		})
		return err
	case row.State == ledger.TopupProcessing:
		if over || p.LastPaymentError != nil {
			return t.fail(ctx, row, ReasonProcessing)
		}
		return nil
	case row.Session != "" || row.Kind != ledger.TopupAuto:
		return nil // on its page the customer may try again, until the page ends
	case p.LastPaymentError != nil:
		last := *p.LastPaymentError
		last.PaymentIntent = p
		return t.declined(ctx, row, &last)
	case over:
		return t.canceled(ctx, row, ReasonCanceled)
	case p.Status == stripe.PaymentIntentStatusRequiresAction:
		return t.declined(ctx, row, &stripe.Error{Code: stripe.ErrorCodeAuthenticationRequired, PaymentIntent: p})
	}
	return nil
}

func (t *Topup) canceled(ctx context.Context, row ledger.Topup, reason string) error {
	_, err := t.move(ctx, row, ledger.TopupCanceled, func(r *ledger.Topup) { r.Reason, r.NextTryAt = reason, time.Time{} })
	if err == nil {
		t.metrics.ended.WithLabelValues(row.Kind, ledger.TopupCanceled).Inc()
		t.Log.Info("top-up canceled", "topup", row.ID, "customer", row.Customer, "reason", reason)
	}
	return err
}

// ended forgives that somebody else was faster: the row is where it belongs.
func ended(err error) error {
	if errors.Is(err, ledger.ErrConflict) {
		return nil
	}
	return err
}

// unseen: an object that Stripe does not have is nobody's.
func (t *Topup) unseen(what string, err error) error {
	if notFound(err) {
		return errNotOurs
	}
	return asked("look at "+what, err)
}

// lookAtCharge brings the books to a charge: its payment, and what was
// refunded of it.
func (t *Topup) lookAtCharge(ctx context.Context, id string) error {
	c, err := t.stripe.Charges.Get(id, &stripe.ChargeParams{Params: asking(ctx)})
	if err != nil {
		return t.unseen("charge "+id, err)
	}
	if c.PaymentIntent == nil {
		return errNotOurs
	}
	return t.lookAtPayment(ctx, c.PaymentIntent.ID)
}

// lookAtDispute brings the books to a dispute. An inquiry takes no money yet.
func (t *Topup) lookAtDispute(ctx context.Context, id string) error {
	d, err := t.stripe.Disputes.Get(id, &stripe.DisputeParams{Params: asking(ctx)})
	if err != nil {
		return t.unseen("dispute "+id, err)
	}
	if d.PaymentIntent == nil || string(d.Currency) != currency {
		return errNotOurs
	}
	if err := t.lookAtPayment(ctx, d.PaymentIntent.ID); err != nil {
		return err
	}
	row := ledger.Dispute{ID: d.ID, PaymentIntent: d.PaymentIntent.ID, Amount: nano(d.Amount)}
	for _, b := range d.BalanceTransactions {
		row.Fee += nano(b.Fee)
	}
	return t.tx(ctx, func(tx *ledger.Tx) (err error) {
		switch d.Status {
		case stripe.DisputeStatusNeedsResponse, stripe.DisputeStatusUnderReview:
			_, err = tx.OpenDispute(ctx, row)
		case stripe.DisputeStatusWon:
			_, err = tx.CloseDispute(ctx, row, true)
		case stripe.DisputeStatusLost:
			_, err = tx.CloseDispute(ctx, row, false)
		}
		return err
	})
}

// lookAtWarning freezes the wallet of a card that its bank thinks was stolen,
// until the operator releases it.
func (t *Topup) lookAtWarning(ctx context.Context, id string) error {
	w, err := t.stripe.RadarEarlyFraudWarnings.Get(id, &stripe.RadarEarlyFraudWarningParams{Params: asking(ctx)})
	if err != nil {
		return t.unseen("warning "+id, err)
	}
	if w.PaymentIntent == nil {
		return errNotOurs
	}
	row, err := t.Ledger.TopupByPayment(ctx, w.PaymentIntent.ID)
	if errors.Is(err, ledger.ErrNotFound) {
		if err = t.lookAtPayment(ctx, w.PaymentIntent.ID); err == nil {
			row, err = t.Ledger.TopupByPayment(ctx, w.PaymentIntent.ID)
		}
	}
	if err != nil {
		return err
	}
	frozen := ledger.Frozen
	t.Log.Warn("early fraud warning: the wallet is frozen", "customer", row.Customer, "topup", row.ID)
	return t.tx(ctx, func(tx *ledger.Tx) error {
		_, err := tx.UpdateCustomer(ctx, row.Customer, &frozen, nil)
		return err
	})
}

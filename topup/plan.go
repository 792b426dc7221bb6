package topup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
)

// Subscribe opens a hosted page on which a customer subscribes to a plan. key
// names the request, so that the same one again gives the same page.
// Errors: ledger.ErrNotFound, ErrNotAccepted, ErrUnavailable.
func (t *Topup) Subscribe(ctx context.Context, key, customer string, plan ledger.Plan, pages Pages) (url string, err error) {
	if _, err := t.Ledger.Customer(ctx, customer); err != nil {
		return "", err
	}
	payer, err := t.payer(ctx, customer)
	if err != nil {
		return "", err
	}
	s, err := t.stripe.CheckoutSessions.New(&stripe.CheckoutSessionParams{Params: t.acting(ctx, "subscribe/"+PurchaseID(customer, key)),
		Mode: stripe.String(string(stripe.CheckoutSessionModeSubscription)), Customer: stripe.String(payer.StripeCustomer),
		SuccessURL: stripe.String(pages.SuccessURL), CancelURL: stripe.String(pages.CancelURL), Metadata: map[string]string{customerKey: customer},
		LineItems: []*stripe.CheckoutSessionLineItemParams{{Price: stripe.String(plan.StripePrice), Quantity: stripe.Int64(1)}}})
	if err != nil {
		return "", asked("open a page for plan "+plan.ID, err)
	}
	return s.URL, nil
}

// lookAtInvoice credits what a paid period of a plan includes, and follows the
// subscription.
func (t *Topup) lookAtInvoice(ctx context.Context, id string) error {
	in, err := t.creditInvoice(ctx, id)
	if err != nil || in.Status != stripe.InvoiceStatusPaid {
		return err
	}
	return t.lookAtSubscription(ctx, in.Subscription.ID)
}

// creditInvoice is lookAtInvoice without what follows.
func (t *Topup) creditInvoice(ctx context.Context, id string) (*stripe.Invoice, error) {
	in, err := t.stripe.Invoices.Get(id, &stripe.InvoiceParams{Params: asking(ctx, "charge.balance_transaction")})
	if err != nil {
		return nil, t.unseen("invoice "+id, err)
	}
	if in.Subscription == nil || in.Customer == nil || in.Livemode != t.live || string(in.Currency) != currency {
		return nil, errNotOurs
	}
	payer, err := t.Ledger.PayerByStripe(ctx, in.Customer.ID)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, errNotOurs
	}
	if err != nil || in.Status != stripe.InvoiceStatusPaid {
		return in, err
	}
	plan, end, err := t.soldBy(ctx, in)
	if err != nil {
		return nil, err
	}
	paid := ledger.Payment{Amount: nano(in.AmountPaid)}
	if in.PaymentIntent != nil {
		paid.PaymentIntent = in.PaymentIntent.ID
	}
	if in.Charge != nil {
		paid.Charge, paid.Fee = in.Charge.ID, feeOf(in.Charge.BalanceTransaction)
	}
	var credited bool
	err = t.tx(ctx, func(tx *ledger.Tx) (err error) {
		credited, _, err = tx.CreditInvoice(ctx, ledger.Invoice{ID: in.ID, Customer: payer.Customer, Payment: paid, Included: plan.Included, ExpiresAt: end})
		return err
	})
	if err == nil && credited {
		t.metrics.ended.WithLabelValues(ledger.TopupSubscription, ledger.TopupSucceeded).Inc()
		t.Log.Info("a paid period is credited", "customer", payer.Customer, "plan", plan.ID, "invoice", in.ID, "included", plan.Included.String())
	}
	return in, err
}

// soldBy finds the plan that an invoice is for, and when its period ends.
func (t *Topup) soldBy(ctx context.Context, in *stripe.Invoice) (plan ledger.Plan, end time.Time, err error) {
	if in.Lines == nil {
		return plan, end, errNotOurs
	}
	for _, line := range in.Lines.Data {
		if line.Price == nil || line.Period == nil || line.Proration {
			continue // a change within a period that is credited already
		}
		plan, err = t.Ledger.PlanByPrice(ctx, line.Price.ID)
		if err == nil || !errors.Is(err, ledger.ErrNotFound) {
			return plan, time.Unix(line.Period.End, 0), err
		}
	}
	return plan, end, fmt.Errorf("invoice %s is for no plan that is known here: %w", in.ID, errNotOurs)
}

// lookAtSubscription brings a customer's plan to what his subscription says.
func (t *Topup) lookAtSubscription(ctx context.Context, id string) error {
	s, err := t.stripe.Subscriptions.Get(id, &stripe.SubscriptionParams{Params: asking(ctx)})
	if err != nil {
		return t.unseen("subscription "+id, err)
	}
	if s.Customer == nil || s.Livemode != t.live || s.Items == nil || len(s.Items.Data) == 0 || s.Items.Data[0].Price == nil {
		return errNotOurs
	}
	payer, err := t.Ledger.PayerByStripe(ctx, s.Customer.ID)
	if errors.Is(err, ledger.ErrNotFound) {
		return errNotOurs
	}
	if err != nil {
		return err
	}
	plan, err := t.Ledger.PlanByPrice(ctx, s.Items.Data[0].Price.ID)
	if errors.Is(err, ledger.ErrNotFound) {
		return errNotOurs
	}
	if err != nil {
		return err
	}
	customer, err := t.Ledger.Customer(ctx, payer.Customer)
	if err != nil {
		return err
	}
	return t.tx(ctx, func(tx *ledger.Tx) error { return follow(ctx, tx, customer, plan, s) })
}

// follow gives a customer the plan that he pays for, and takes it from him
// when he no longer does, unless he has another by then.
func follow(ctx context.Context, tx *ledger.Tx, customer ledger.Customer, plan ledger.Plan, s *stripe.Subscription) error {
	err := tx.SetSubscription(ctx, ledger.Subscription{ID: s.ID, Customer: customer.ID, Plan: plan.ID, Status: string(s.Status), PeriodEnd: time.Unix(s.CurrentPeriodEnd, 0)})
	if err != nil {
		return err
	}
	none := ""
	switch s.Status {
	case stripe.SubscriptionStatusActive, stripe.SubscriptionStatusTrialing:
		if customer.Plan != plan.ID {
			_, err = tx.UpdateCustomer(ctx, customer.ID, nil, &plan.ID)
		}
	case stripe.SubscriptionStatusCanceled, stripe.SubscriptionStatusUnpaid, stripe.SubscriptionStatusIncompleteExpired:
		if customer.Plan == plan.ID {
			_, err = tx.UpdateCustomer(ctx, customer.ID, nil, &none)
		}
	}
	return err
}

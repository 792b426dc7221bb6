package topup

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
	"weir/schemas/money"
)

const (
	// sessionLife is how long a hosted page can be paid; Stripe's longest.
	sessionLife = 24 * time.Hour
	// sessionPoll is how often a page is looked at whose events do not come.
	sessionPoll = 15 * time.Minute
	// abandonAfter is when a purchase is given up that never got its page: whoever
	// asked for it got an error and did not ask again.
	abandonAfter = time.Hour
)

// Purchase is what a customer is to pay on a hosted page: Amount, for which he
// gets Bonus too. SaveCard: he has agreed that his card may be charged later
// without him.
type Purchase struct {
	Customer      string
	Amount, Bonus money.Nano
	Pages
	SaveCard bool
}

// Pages are where a customer goes from a hosted page.
type Pages struct{ SuccessURL, CancelURL string }

// PurchaseID is the id of the purchase that a customer's request of a key is:
// the same request is the same purchase.
func PurchaseID(customer, key string) string {
	sum := sha256.Sum256([]byte(customer + "\x00" + key))
	return "tup_" + hex.EncodeToString(sum[:12])
}

// Checkout opens a hosted page for a purchase, whose row is written first. The
// same id again gives the same page (repeated). Errors: ledger.ErrConflict when
// the id is another purchase's, ledger.ErrNotFound, ErrEnded, ErrNotAccepted,
// ErrUnavailable.
func (t *Topup) Checkout(ctx context.Context, id string, p Purchase) (row ledger.Topup, repeated bool, err error) {
	want := ledger.Topup{ID: id, Customer: p.Customer, Kind: ledger.TopupCheckout, Amount: p.Amount, Bonus: p.Bonus, SuccessURL: p.SuccessURL,
		CancelURL: p.CancelURL, SaveCard: p.SaveCard, NextTryAt: t.Now().Add(abandonAfter)}
	err = t.tx(ctx, func(tx *ledger.Tx) (err error) {
		row, err = tx.CreateTopup(ctx, want)
		return err
	})
	if errors.Is(err, ledger.ErrConflict) {
		if row, err = t.Ledger.Topup(ctx, id); err == nil && !samePurchase(row, want) {
			err = ledger.ErrConflict
		}
	}
	switch {
	case err != nil:
		return ledger.Topup{}, false, err
	case row.URL != "":
		return row, true, nil
	case row.State != ledger.TopupCreated:
		return row, true, ErrEnded
	}
	row, err = t.openPage(ctx, row, ledger.TopupSubmitted)
	return row, false, err
}

func samePurchase(a, b ledger.Topup) bool {
	return a.Customer == b.Customer && a.Kind == b.Kind && a.Amount == b.Amount && a.Bonus == b.Bonus && a.SuccessURL == b.SuccessURL &&
		a.CancelURL == b.CancelURL && a.SaveCard == b.SaveCard
}

// openPage opens a hosted page for a top-up and brings it to the state to.
func (t *Topup) openPage(ctx context.Context, row ledger.Topup, to string) (ledger.Topup, error) {
	payer, err := t.payer(ctx, row.Customer)
	if err != nil {
		return row, err
	}
	intent := &stripe.CheckoutSessionPaymentIntentDataParams{Metadata: map[string]string{topupKey: row.ID}}
	if row.SaveCard {
		intent.SetupFutureUsage = stripe.String(string(stripe.PaymentIntentSetupFutureUsageOffSession))
	}
	session, err := t.stripe.CheckoutSessions.New(&stripe.CheckoutSessionParams{Params: t.acting(ctx, fmt.Sprintf("topup/%s/page/%d", row.ID, row.Attempt)),
		Mode: stripe.String(string(stripe.CheckoutSessionModePayment)), Customer: stripe.String(payer.StripeCustomer),
		ClientReferenceID: stripe.String(row.ID), Metadata: map[string]string{topupKey: row.ID}, PaymentIntentData: intent,
		SuccessURL: stripe.String(row.SuccessURL), CancelURL: stripe.String(row.CancelURL),
		LineItems: []*stripe.CheckoutSessionLineItemParams{{Quantity: stripe.Int64(1), PriceData: &stripe.CheckoutSessionLineItemPriceDataParams{
			Currency: stripe.String(currency), UnitAmount: stripe.Int64(cents(row.Amount)),
			ProductData: &stripe.CheckoutSessionLineItemPriceDataProductDataParams{Name: stripe.String("Credit")}}}}})
	if err != nil {
		return row, errors.Join(asked("open a page for "+row.ID, err), t.forgetKey(ctx, row, err))
	}
	err = t.tx(ctx, func(tx *ledger.Tx) (err error) {
		row, err = tx.MoveTopup(ctx, row.ID, []string{ledger.TopupCreated, ledger.TopupSubmitted}, to, func(row *ledger.Topup) {
			row.Session, row.URL, row.NextTryAt = session.ID, session.URL, t.Now().Add(sessionPoll)
		})
		return err
	})
	return row, err
}

// forgetKey makes the next page of a top-up be asked for under a new key, where
// Stripe has broken down: it would answer the same for a day. A page that it
// may have opened all the same is known to nobody.
func (t *Topup) forgetKey(ctx context.Context, row ledger.Topup, why error) error {
	if !brokeDown(why) {
		return nil
	}
	_, err := t.move(ctx, row, row.State, func(r *ledger.Topup) { r.Attempt++ })
	return ended(err)
}

const (
	topupKey    = "weir_topup"    // metadata: which row an object is of
	refundKey   = "weir_refund"   // metadata: the same of refunds
	customerKey = "weir_customer" // metadata: for people
)

// payer finds the customer at Stripe, or makes him there. The key sees to it
// that a crash in between makes no second one.
func (t *Topup) payer(ctx context.Context, customer string) (ledger.Payer, error) {
	payer, err := t.Ledger.Payer(ctx, customer)
	if !errors.Is(err, ledger.ErrNotFound) {
		return payer, err
	}
	made, err := t.makePayer(ctx, customer, "customer/"+customer)
	if brokeDown(err) { // and would say so for a day: a second, unused one at Stripe is the smaller harm
		made, err = t.makePayer(ctx, customer, "customer/"+customer+"/"+rand.Text())
	}
	if err != nil {
		return payer, asked("make customer "+customer+" at Stripe", err)
	}
	payer = ledger.Payer{Customer: customer, StripeCustomer: made.ID}
	return payer, t.tx(ctx, func(tx *ledger.Tx) error { return tx.SetPayer(ctx, payer) })
}

func (t *Topup) makePayer(ctx context.Context, customer, key string) (*stripe.Customer, error) {
	return t.stripe.Customers.New(&stripe.CustomerParams{Params: t.acting(ctx, key), Description: stripe.String(customer),
		Metadata: map[string]string{customerKey: customer}})
}

// returnURL is where a customer goes after a page he was sent to by an event.
func (t *Topup) returnURL(ctx context.Context, customer string) (string, error) {
	if t.ReturnURL != "" {
		return strings.ReplaceAll(t.ReturnURL, "{customer}", customer), nil
	}
	list, _, err := t.Ledger.Topups(ctx, customer, ledger.Page{})
	for _, row := range list {
		if row.SuccessURL != "" {
			return row.SuccessURL, nil
		}
	}
	return "", err
}

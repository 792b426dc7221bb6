package topup

import (
	"errors"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
	"weir/topup/stripefake"
)

func TestCheckout(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	r.state(row, ledger.TopupSubmitted, "")
	r.settle()
	r.audit(0)
	r.pay(row, visa)
	r.settle()
	r.state(row, ledger.TopupSucceeded, "")
	r.charges(1)
	r.audit(2 * dollar)
	again, repeated, err := r.top.Checkout(r.ctx, row.ID, Purchase{Customer: "acme", Amount: 10 * dollar, Bonus: 2 * dollar,
		Pages: Pages{"https://platform.example/ok", "https://platform.example/no"}, SaveCard: true})
	if err != nil || !repeated || again.URL != row.URL {
		t.Errorf("again: %+v, %v, %v", again, repeated, err)
	}
	_, _, err = r.top.Checkout(r.ctx, row.ID, Purchase{Customer: "acme", Amount: 11 * dollar})
	if !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("another purchase of the same id: %v", err)
	}
	_, _, err = r.top.Checkout(r.ctx, "tup_x", Purchase{Customer: "nobody", Amount: 10 * dollar})
	if !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("no customer: %v", err)
	}
	payer, err := r.db.Payer(r.ctx, "acme")
	if err != nil || payer.PaymentMethod == "" || payer.ConsentedAt.IsZero() {
		t.Errorf("payer %+v, %v", payer, err)
	}
	r.later(48 * time.Hour)
	r.audit(2 * dollar)
}

// TestPageThatBrokeDown: Stripe has failed amid the request, and would say so
// under the same key for a day. Who asks again gets a page all the same.
func TestPageThatBrokeDown(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"POST /v1/customers", "POST /v1/checkout/sessions"} {
		r.fake.Inject(stripefake.Fault{Match: path, Count: 1, After: true, Status: 500})
	}
	if _, err := r.checkout("k"); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("the fault did not bite: %v", err)
	}
	r.pay(r.buy("k"), visa)
	r.settle()
	r.charges(1)
	r.audit(2 * dollar)
}

// TestPageNobodyGot: who asked got an error and did not ask again.
func TestPageNobodyGot(t *testing.T) {
	r := newRig(t)
	r.gate.arm(3, loses)
	if _, err := r.checkout("k"); err == nil {
		t.Fatal("the fault did not bite")
	}
	id := PurchaseID("acme", "k")
	r.later(abandonAfter - time.Minute)
	if row := r.topup(id); row.State != ledger.TopupCreated {
		t.Fatalf("%+v", row)
	}
	r.later(2 * time.Minute)
	if row := r.topup(id); row.State != ledger.TopupFailed || row.Reason != ReasonExpired {
		t.Fatalf("%+v", row)
	}
	if _, err := r.checkout("k"); !errors.Is(err, ErrEnded) {
		t.Errorf("asked again after all: %v", err)
	}
	r.charges(0)
	r.audit(0)
}

// TestSameKeySamePage: who asks again, having got no answer, gets the page that
// was opened, not a second one that could be paid too.
func TestSameKeySamePage(t *testing.T) {
	r := newRig(t)
	r.gate.arm(4, loses) // the row, the customer at Stripe and here, the page
	if _, err := r.checkout("k"); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("the fault did not bite: %v", err)
	}
	row := r.buy("k")
	list := r.top.stripe.CheckoutSessions.List(&stripe.CheckoutSessionListParams{})
	pages := 0
	for list.Next() {
		pages++
	}
	if pages != 1 {
		t.Errorf("%d pages", pages)
	}
	r.pay(row, visa)
	r.settle()
	r.audit(2 * dollar)
}

// TestForeignPages name a purchase of ours and are not its page: their end is
// not its end.
func TestForeignPages(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	payer, err := r.db.Payer(r.ctx, "acme")
	r.must(err)
	for _, customer := range []*string{nil, &payer.StripeCustomer} {
		page, err := r.top.stripe.CheckoutSessions.New(&stripe.CheckoutSessionParams{Mode: stripe.String("payment"), Customer: customer,
			ClientReferenceID: &row.ID, SuccessURL: &row.SuccessURL, CancelURL: &row.CancelURL,
			LineItems: []*stripe.CheckoutSessionLineItemParams{{Quantity: stripe.Int64(1), PriceData: &stripe.CheckoutSessionLineItemPriceDataParams{
				Currency: stripe.String("usd"), UnitAmount: stripe.Int64(1000),
				ProductData: &stripe.CheckoutSessionLineItemPriceDataProductDataParams{Name: stripe.String("x")}}}}})
		r.must(err)
		r.must(r.fake.ExpireSession(page.ID))
		r.settle()
		r.state(row, ledger.TopupSubmitted, "")
	}
}

// TestPageThatIsGone: Stripe does not know the page any more.
func TestPageThatIsGone(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	r.write(func(tx *ledger.Tx) error {
		_, err := tx.MoveTopup(r.ctx, row.ID, []string{row.State}, row.State, func(t *ledger.Topup) { t.Session = "cs_gone" })
		return err
	})
	r.clock.advance(sessionLife + 2*sessionPoll)
	r.must(r.top.Step(r.ctx))
	r.state(row, ledger.TopupFailed, ReasonExpired)
}

// TestTwoInstallations on one account: the same request of the same customer is
// another purchase, and what was paid for one is not credited to the other.
func TestTwoInstallations(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	r.pay(row, visa)
	r.settle()
	other := newRig(t)
	other.top.stripe = r.top.stripe
	again := other.buy("k")
	if again.Session == row.Session {
		t.Error("both have one page")
	}
	if err := other.top.lookAtSession(t.Context(), row.Session); !errors.Is(err, errNotOurs) {
		t.Errorf("looked at the other's page: %v", err)
	}
	other.balance("0.00")
}

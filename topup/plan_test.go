package topup

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
)

// subscribed is a customer who has paid the first month of a plan that costs $15
// and includes $20; Stripe has told nobody yet.
func (r *rig) subscribed() (plan ledger.Plan, subscription string) {
	r.Helper()
	price, err := r.top.stripe.Prices.New(&stripe.PriceParams{Params: asking(r.ctx), Currency: stripe.String("usd"), UnitAmount: stripe.Int64(1500),
		Recurring: &stripe.PriceRecurringParams{Interval: stripe.String("month")}, ProductData: &stripe.PriceProductDataParams{Name: stripe.String("pro")}})
	r.must(err)
	plan = ledger.Plan{ID: "pro", StripePrice: price.ID, Included: 20 * dollar}
	r.write(func(tx *ledger.Tx) error { return tx.SetPlan(r.ctx, plan) })
	url, err := r.top.Subscribe(r.ctx, "k", "acme", plan, Pages{"https://platform.example/ok", "https://platform.example/no"})
	r.must(err)
	again, err := r.top.Subscribe(r.ctx, "k", "acme", plan, Pages{"https://platform.example/ok", "https://platform.example/no"})
	if err != nil || again != url {
		r.Errorf("the same request: %s, %v, want %s", again, err, url)
	}
	sessions := r.top.stripe.CheckoutSessions.List(&stripe.CheckoutSessionListParams{})
	if !sessions.Next() {
		r.Fatal("no page")
	}
	_, err = r.fake.Pay(sessions.CheckoutSession().ID, visa)
	r.must(err)
	list := r.top.stripe.Subscriptions.List(&stripe.SubscriptionListParams{})
	if !list.Next() {
		r.Fatal("no subscription")
	}
	return plan, list.Subscription().ID
}

func (r *rig) planIs(plan string) {
	r.Helper()
	c, err := r.db.Customer(r.ctx, "acme")
	if err != nil || c.Plan != plan {
		r.Errorf("the customer's plan is %q, %v, want %q; log:\n%s", c.Plan, err, plan, r.log)
	}
}

func (r *rig) balance(want string) {
	r.Helper()
	w, err := r.db.Wallet(r.ctx, "acme")
	if err != nil || w.Balance().String() != want {
		r.Errorf("balance %s, %v, want %s; log:\n%s", w.Balance(), err, want, r.log)
	}
}

func TestSubscription(t *testing.T) {
	r := newRig(t)
	_, subscription := r.subscribed()
	r.settle()
	r.planIs("pro")
	r.balance("20.00")
	first := r.topups(ledger.TopupSubscription)
	if len(first) != 1 || first[0].Amount != 15*dollar || first[0].Bonus != 20*dollar || !first[0].FeeKnown {
		t.Errorf("%+v", first)
	}
	r.spend(7 * dollar)
	lots, err := r.db.Lots(r.ctx, "acme")
	r.must(err)
	r.clock.at = lots[0].ExpiresAt
	_, err = r.db.ExpireLots(r.ctx)
	r.must(err)
	r.balance("0.00")
	_, err = r.fake.Renew(subscription)
	r.must(err)
	r.settle()
	r.balance("20.00")
	_, err = r.top.stripe.Subscriptions.Cancel(subscription, nil)
	r.must(err)
	r.settle()
	r.planIs("")
	r.balance("20.00") // it is paid until the period ends
	s, err := r.db.Subscription(r.ctx, subscription)
	if err != nil || s.Status != "canceled" {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestSubscriptionToldBackwards: the refund and the dispute of an invoice come
// before anybody tells that it was paid.
func TestSubscriptionToldBackwards(t *testing.T) {
	r := newRig(t)
	r.subscribed()
	charge := r.charges(1)[0]
	_, err := r.fake.Refund(charge.ID, 750)
	r.must(err)
	pending := r.fake.Pending()
	slices.Reverse(pending)
	for _, e := range pending {
		if e.Type == "invoice.paid" {
			r.must(r.fake.Drop(e.ID))
			continue
		}
		_, err := r.fake.Deliver(e.ID)
		r.must(err)
		r.must(r.top.Step(r.ctx))
	}
	r.settle()
	r.planIs("pro")
	r.balance("10.00") // half of what was paid, half of what was included
}

func TestRenewalThatFails(t *testing.T) {
	r := newRig(t)
	_, subscription := r.subscribed()
	r.settle()
	payer, err := r.db.Payer(r.ctx, "acme")
	r.must(err)
	cards := r.top.stripe.PaymentMethods.List(&stripe.PaymentMethodListParams{Customer: stripe.String(payer.StripeCustomer)})
	for cards.Next() {
		r.must(r.fake.SetCard(cards.PaymentMethod().ID, "pm_card_chargeDeclined"))
	}
	r.clock.advance(31 * 24 * time.Hour)
	_, err = r.db.ExpireLots(r.ctx)
	r.must(err)
	_, err = r.fake.Renew(subscription)
	r.must(err)
	r.settle()
	r.charges(1)
	r.balance("0.00")
}

// TestPriceOfNobody: an invoice of a price that is no plan here credits nothing.
func TestPriceOfNobody(t *testing.T) {
	r := newRig(t)
	plan, _ := r.subscribed()
	plan.StripePrice = "price_other"
	r.write(func(tx *ledger.Tx) error { return tx.SetPlan(r.ctx, plan) })
	r.settle()
	r.balance("0.00")
	r.planIs("")
	if err := r.top.lookAtInvoice(r.ctx, "in_none"); !errors.Is(err, errNotOurs) {
		t.Errorf("an invoice that Stripe does not know: %v", err)
	}
}

// TestProration: a change within a period credits nothing, the period's own
// line does.
func TestProration(t *testing.T) {
	r := newRig(t)
	plan := ledger.Plan{ID: "pro", StripePrice: "price_pro", Included: 20 * dollar}
	r.write(func(tx *ledger.Tx) error { return tx.SetPlan(r.ctx, plan) })
	end := r.clock.now().Add(720 * time.Hour)
	line := func(price string, proration bool) *stripe.InvoiceLineItem {
		return &stripe.InvoiceLineItem{Price: &stripe.Price{ID: price}, Period: &stripe.Period{End: end.Unix()}, Proration: proration}
	}
	invoice := func(lines ...*stripe.InvoiceLineItem) *stripe.Invoice {
		return &stripe.Invoice{ID: "in_1", Lines: &stripe.InvoiceLineItemList{Data: lines}}
	}
	if _, _, err := r.top.soldBy(r.ctx, invoice(line("price_pro", true), line("price_other", false))); !errors.Is(err, errNotOurs) {
		t.Errorf("a change only: %v", err)
	}
	sold, until, err := r.top.soldBy(r.ctx, invoice(line("price_pro", true), line("price_other", false), line("price_pro", false)))
	if err != nil || sold != plan || !until.Equal(end) {
		t.Errorf("a period: %+v until %s, %v", sold, until, err)
	}
}

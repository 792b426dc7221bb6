package stripefake

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/stripe/stripe-go/v76"
)

func TestParams(t *testing.T) {
	form := url.Values{"items[][price]": {"last"}, "flags[]": {"x", "y"}, "metadata[2]": {"a number as key"}}
	if _, err := parseParams(form, "items.price flags metadata.*"); err == nil {
		t.Error("a list in place of metadata was taken")
	}
	delete(form, "metadata[2]")
	form.Set("range[gte]", "5")
	for i := range 12 {
		form.Set(fmt.Sprintf("items[%d][price]", i), fmt.Sprint(i))
		form.Set(fmt.Sprintf("items[%d][data][unit]", i), fmt.Sprint(i*i))
	}
	delete(form, "items[][price]")
	p := must(parseParams(form, "items.price items.data.unit:int flags range.gte:int"))(t)
	equal(t, "flags", fmt.Sprint(p.strs("flags")), "[x y]")
	equal(t, "range", p.num("range.gte", 0), 5)
	equal(t, "items", len(p.items("items")), 12)
	for i, item := range p.items("items") {
		equal(t, "price", item.str("price"), fmt.Sprint(i))
		equal(t, "unit", item.num("data.unit", -1), int64(i*i))
	}
}

// TestGuests pays without a customer: one is made only where a card is to be saved.
func TestGuests(t *testing.T) {
	for _, saves := range []bool{true, false} {
		f := start(t)
		p := topUpSession("", 2500)
		p.Customer, p.CustomerEmail = nil, stripe.String("guest@example.com")
		if !saves {
			p.PaymentIntentData.SetupFutureUsage = nil
		}
		cs := must(f.api.CheckoutSessions.New(p))(t)
		must(f.Pay(cs.ID, "4242424242424242"))(t)
		done := f.session(cs.ID)
		equal(t, "email", done.CustomerDetails.Email, "guest@example.com")
		equal(t, "has a customer", done.Customer != nil, saves)
		equal(t, "customer.created", slices.Contains(f.types(0), "customer.created"), saves)
	}
}

func TestCustomerWithCard(t *testing.T) {
	f := start(t)
	_, err := f.api.Customers.New(&stripe.CustomerParams{PaymentMethod: stripe.String("pm_card_chargeDeclined")})
	refused(t, err, 402, "card_error", "card_declined", "generic_decline")
	equal(t, "events of a refused customer", len(f.Events()), 0)
	c := must(f.api.Customers.New(&stripe.CustomerParams{PaymentMethod: stripe.String("pm_card_mastercard"), TaxExempt: stripe.String("none"),
		PreferredLocales: stripe.StringSlice([]string{"en"})}))(t)
	i := f.api.PaymentMethods.List(&stripe.PaymentMethodListParams{Customer: stripe.String(c.ID)})
	if !i.Next() || i.PaymentMethod().Card.Brand != "mastercard" {
		t.Errorf("the card of a new customer: %v", i.Err())
	}
	tok := must(f.api.PaymentMethods.New(&stripe.PaymentMethodParams{Type: stripe.String("card"), Card: &stripe.PaymentMethodCardParams{Token: stripe.String("tok_visa")}}))(t)
	equal(t, "card of a token", tok.Card.Last4, "4242")
	for name, err := range map[string]error{
		"SetCard": f.SetCard("pm_none", "pm_card_visa"), "SetCard to none": f.SetCard(tok.ID, "pm_card_none"), "ExpireSession": f.ExpireSession("cs_none"),
		"Authenticate": f.Authenticate("pi_none", true), "FinishProcessing": f.FinishProcessing("pi_none", true), "CloseDispute": f.CloseDispute("dp_none", true),
		"FailRefund": f.FailRefund("re_none"), "SettleRefund": f.SettleRefund("re_none"), "Drop": f.Drop("evt_none"),
	} {
		if err == nil {
			t.Errorf("%s of nothing succeeded", name)
		}
	}
}

// TestManyAtOnce asks with few keys from many clients: each key charges once.
func TestManyAtOnce(t *testing.T) {
	const keys, clients = 4, 8
	f := start(t)
	customer := f.customer()
	pm := must(f.SavedCard(customer, "pm_card_visa"))(t)
	var wg sync.WaitGroup
	for i := range keys * clients {
		wg.Go(func() {
			_, err := f.api.PaymentIntents.New(keyed1000(customer, pm, fmt.Sprint("k", i%keys)))
			var e *stripe.Error
			if err != nil && (!errors.As(err, &e) || e.HTTPStatusCode != 409) {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	equal(t, "charges", len(f.Log().Charges), keys)
}

// TestPriceLinesRefused checks the lines that cannot be sold.
func TestPriceLinesRefused(t *testing.T) {
	f := start(t)
	customer := f.customer()
	monthly := f.monthly(1900)
	n := len(f.Events())
	line := func(quantity, cents int64, currency string) *stripe.CheckoutSessionLineItemParams {
		return &stripe.CheckoutSessionLineItemParams{Quantity: stripe.Int64(quantity), PriceData: &stripe.CheckoutSessionLineItemPriceDataParams{
			Currency: stripe.String(currency), UnitAmount: stripe.Int64(cents),
			ProductData: &stripe.CheckoutSessionLineItemPriceDataProductDataParams{Name: stripe.String("Balance")}}}
	}
	for name, lines := range map[string][]*stripe.CheckoutSessionLineItemParams{
		"a recurring price in payment mode": {{Price: stripe.String(monthly.ID), Quantity: stripe.Int64(1)}},
		"two currencies":                    {line(1, 500, "usd"), line(1, 500, "eur")},
		"quantity 0":                        {line(0, 500, "usd")},
		"too much":                          {line(2, 60_000_000, "usd")},
		"too much in all":                   {line(1, 60_000_000, "usd"), line(1, 60_000_000, "usd")},
		"a product that is none":            {{Quantity: stripe.Int64(1), PriceData: &stripe.CheckoutSessionLineItemPriceDataParams{Currency: stripe.String("usd"), UnitAmount: stripe.Int64(500), Product: stripe.String("prod_none")}}},
	} {
		p := topUpSession(customer, 0)
		p.LineItems = lines
		if _, err := f.api.CheckoutSessions.New(p); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	f.wantTypes(n)
	p := topUpSession(customer, 0)
	p.LineItems = []*stripe.CheckoutSessionLineItemParams{line(10, 5, "usd"), line(1, 500, "usd")}
	equal(t, "total", must(f.api.CheckoutSessions.New(p))(t).AmountTotal, 550)
}

// TestLateFees: a payment's balance transaction is not there until it is told.
func TestLateFees(t *testing.T) {
	f := start(t, func(o *Options) { o.LateFees = true })
	customer := f.customer()
	pm := must(f.SavedCard(customer, "pm_card_visa"))(t)
	pay := func(key string) string {
		t.Helper()
		return must(f.api.PaymentIntents.New(keyed1000(customer, pm, key)))(t).LatestCharge.ID
	}
	first := pay("k1")
	equal(t, "told at once", must(f.api.Charges.Get(first, nil))(t).BalanceTransaction == nil, true)
	equal(t, "fee", f.Log().Charges[0].Fee, 0)
	n := len(f.Events())
	f.TellFees()
	f.wantTypes(n, "charge.updated")
	equal(t, "told later", must(f.api.Charges.Get(first, nil))(t).BalanceTransaction != nil, true)
	pay("k2")
	f.TellFees()
	for _, made := range f.Log().Charges {
		equal(t, "fee", made.Fee, 59) // 2.9 % of $10.00 and 30 cents
	}
	equal(t, "updates", len(slices.DeleteFunc(f.types(n), func(kind string) bool { return kind != "charge.updated" })), 1)
}

package stripefake

import (
	"testing"

	"github.com/stripe/stripe-go/v76"
)

// topUpSession is the Checkout of a first purchase that saves the card.
func topUpSession(customer string, cents int64) *stripe.CheckoutSessionParams {
	return &stripe.CheckoutSessionParams{Mode: stripe.String("payment"), Customer: stripe.String(customer),
		SuccessURL: stripe.String("https://example.com/done?session={CHECKOUT_SESSION_ID}"), CancelURL: stripe.String("https://example.com/back"),
		LineItems: []*stripe.CheckoutSessionLineItemParams{{Quantity: stripe.Int64(1), PriceData: &stripe.CheckoutSessionLineItemPriceDataParams{
			Currency: stripe.String("usd"), UnitAmount: stripe.Int64(cents),
			ProductData: &stripe.CheckoutSessionLineItemPriceDataProductDataParams{Name: stripe.String("Balance")}}}},
		PaymentIntentData: &stripe.CheckoutSessionPaymentIntentDataParams{SetupFutureUsage: stripe.String("off_session"), Metadata: map[string]string{"topup_id": "tup_1"}},
		Metadata:          map[string]string{"topup_id": "tup_1"}}
}

func TestCustomersAndCards(t *testing.T) {
	f := start(t)
	c := must(f.api.Customers.New(&stripe.CustomerParams{Name: stripe.String("Ada"), Email: stripe.String("ada@example.com"),
		Address: &stripe.AddressParams{City: stripe.String("London")}, Metadata: map[string]string{"weir": "acme"}}))(t)
	equal(t, "metadata", c.Metadata["weir"], "acme")
	c = must(f.api.Customers.Update(c.ID, &stripe.CustomerParams{Phone: stripe.String("+1"), Metadata: map[string]string{"weir": "", "b": "2"}}))(t)
	if _, there := c.Metadata["weir"]; there || c.Metadata["b"] != "2" {
		t.Errorf("metadata after an update: %v", c.Metadata)
	}
	c = must(f.api.Customers.Get(c.ID, nil))(t)
	equal(t, "phone", c.Phone, "+1")
	equal(t, "city", c.Address.City, "London")

	pm := must(f.api.PaymentMethods.Attach("pm_card_visa", &stripe.PaymentMethodAttachParams{Customer: stripe.String(c.ID)}))(t)
	equal(t, "last4", pm.Card.Last4, "4242")
	equal(t, "holder", must(f.api.PaymentMethods.Get(pm.ID, nil))(t).Customer.ID, c.ID)
	_, err := f.api.Customers.Update(c.ID, &stripe.CustomerParams{InvoiceSettings: &stripe.CustomerInvoiceSettingsParams{DefaultPaymentMethod: stripe.String(pm.ID)}})
	ok(t, err)
	made := must(f.api.PaymentMethods.New(&stripe.PaymentMethodParams{Type: stripe.String("card"), Card: &stripe.PaymentMethodCardParams{Number: stripe.String("5555555555554444"),
		ExpMonth: stripe.Int64(4), ExpYear: stripe.Int64(2031), CVC: stripe.String("123")}}))(t)
	equal(t, "brand", string(made.Card.Brand), "mastercard")
	_, err = f.api.PaymentMethods.Update(made.ID, &stripe.PaymentMethodParams{Metadata: map[string]string{"a": "1"}})
	ok(t, err)

	n := 0
	for i := f.api.PaymentMethods.List(&stripe.PaymentMethodListParams{Customer: stripe.String(c.ID), Type: stripe.String("card")}); i.Next(); n++ {
		equal(t, "listed", i.PaymentMethod().ID, pm.ID)
	}
	for i := f.api.Customers.ListPaymentMethods(&stripe.CustomerListPaymentMethodsParams{Customer: stripe.String(c.ID)}); i.Next(); n++ {
		equal(t, "listed of the customer", i.PaymentMethod().ID, pm.ID)
	}
	equal(t, "listed", n, 2)
	for i := f.api.Customers.List(&stripe.CustomerListParams{Email: stripe.String("ada@example.com")}); i.Next(); n++ {
	}
	search := f.api.Customers.Search(&stripe.CustomerSearchParams{SearchParams: stripe.SearchParams{Query: "metadata['b']:'2'"}})
	for ; search.Next(); n++ {
	}
	equal(t, "customers of the address and of the metadata", n, 4)

	_, err = f.api.PaymentMethods.Attach("pm_card_chargeDeclined", &stripe.PaymentMethodAttachParams{Customer: stripe.String(c.ID)})
	refused(t, err, 402, "card_error", "card_declined", "generic_decline")
	_, err = f.api.PaymentMethods.Attach(pm.ID, &stripe.PaymentMethodAttachParams{Customer: stripe.String(f.customer())})
	refused(t, err, 400, "invalid_request_error", "", "")
	detached := must(f.api.PaymentMethods.Detach(pm.ID, nil))(t)
	if detached.Customer != nil || must(f.api.Customers.Get(c.ID, nil))(t).InvoiceSettings.DefaultPaymentMethod != nil {
		t.Error("a detached card still belongs to its customer")
	}
}

func TestExpand(t *testing.T) {
	f := start(t)
	pi := f.charged("pm_card_visa", 2000)
	p := &stripe.PaymentIntentParams{}
	p.AddExpand("latest_charge.balance_transaction")
	p.AddExpand("latest_charge.refunds")
	p.AddExpand("customer")
	p.AddExpand("payment_method")
	got := must(f.api.PaymentIntents.Get(pi.ID, p))(t)
	equal(t, "fee", got.LatestCharge.BalanceTransaction.Fee, 88) // 2.9 % of 20.00 is 0.58, and 0.30
	equal(t, "net", got.LatestCharge.BalanceTransaction.Net, 1912)
	equal(t, "refunds", len(got.LatestCharge.Refunds.Data), 0)
	equal(t, "name", got.Customer.Name, "Ada")
	equal(t, "last4", got.PaymentMethod.Card.Last4, "4242")

	list := &stripe.PaymentIntentListParams{Customer: stripe.String(got.Customer.ID)}
	list.AddExpand("data.latest_charge")
	for i := f.api.PaymentIntents.List(list); i.Next(); {
		equal(t, "charge of a list", i.PaymentIntent().LatestCharge.Amount, 2000)
	}
	n := len(f.Log().Refunds)
	bad := &stripe.RefundParams{PaymentIntent: stripe.String(pi.ID)}
	bad.AddExpand("amount")
	_, err := f.api.Refunds.New(bad)
	refused(t, err, 400, "invalid_request_error", "", "")
	equal(t, "refunds by a request that cannot be answered", len(f.Log().Refunds), n)
}

func TestChargesAndBalance(t *testing.T) {
	f := start(t)
	pi := f.charged("pm_card_visa", 500)
	ch := must(f.api.Charges.Get(pi.LatestCharge.ID, nil))(t)
	if !ch.Paid || !ch.Captured || ch.Disputed || ch.AmountRefunded != 0 || ch.PaymentIntent.ID != pi.ID {
		t.Errorf("charge of a payment: %+v", ch)
	}
	txn := must(f.api.BalanceTransactions.Get(ch.BalanceTransaction.ID, nil))(t)
	equal(t, "fee", txn.Fee, 45) // 14.5 cents, rounded up, and 30
	equal(t, "source", txn.Source.ID, ch.ID)
	n := 0
	for i := f.api.BalanceTransactions.List(&stripe.BalanceTransactionListParams{Source: stripe.String(ch.ID)}); i.Next(); n++ {
	}
	for i := f.api.Charges.List(&stripe.ChargeListParams{PaymentIntent: stripe.String(pi.ID)}); i.Next(); n++ {
	}
	equal(t, "listed", n, 2)
	up := must(f.api.Charges.Update(ch.ID, &stripe.ChargeParams{Description: stripe.String("d"), Metadata: map[string]string{"a": "1"}}))(t)
	equal(t, "description", up.Description, "d")
}

func TestFee(t *testing.T) {
	// Calculated by hand: 2.9 % half up to a cent, and 30.
	for cents, want := range map[int64]int64{50: 31, 100: 33, 500: 45, 1000: 59, 1500: 74, 2000: 88, 99_999_999: 2_900_030} {
		equal(t, "fee", Fee(cents), want)
	}
}

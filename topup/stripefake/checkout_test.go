package stripefake

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

func (f *fixture) session(id string) *stripe.CheckoutSession {
	f.t.Helper()
	return must(f.api.CheckoutSessions.Get(id, nil))(f.t)
}

func TestCheckout(t *testing.T) {
	f := start(t)
	customer := f.customer()
	cs := must(f.api.CheckoutSessions.New(topUpSession(customer, 2500)))(t)
	if cs.Status != "open" || cs.PaymentStatus != "unpaid" || cs.PaymentIntent != nil || cs.AmountTotal != 2500 || !strings.HasPrefix(cs.URL, f.url+"/pay/cs_test_") {
		t.Errorf("a new session: %+v", cs)
	}
	_, err := f.Pay(cs.ID, "4000000000009995")
	if err == nil || !strings.Contains(err.Error(), "insufficient funds") {
		t.Errorf("a declined card: %v", err)
	}
	declined := f.session(cs.ID)
	equal(t, "status after a decline", string(declined.Status), "open")
	n := len(f.Events())
	equal(t, "paid", must(f.Pay(cs.ID, "4242 4242 4242 4242"))(t), "succeeded")
	f.wantTypes(n, "payment_method.attached", "charge.succeeded", "payment_intent.succeeded", "checkout.session.completed")
	done := f.session(cs.ID)
	if done.Status != "complete" || done.PaymentStatus != "paid" || done.URL != "" || done.CustomerDetails.Email != "ada@example.com" || done.PaymentIntent.ID != declined.PaymentIntent.ID {
		t.Errorf("a paid session: %+v", done)
	}
	pi := must(f.api.PaymentIntents.Get(done.PaymentIntent.ID, nil))(t)
	equal(t, "metadata of the payment", pi.Metadata["topup_id"], "tup_1")
	equal(t, "metadata of the session", done.Metadata["topup_id"], "tup_1")
	again := must(f.api.PaymentIntents.New(offSession(customer, pi.PaymentMethod.ID, 1000)))(t)
	equal(t, "the saved card pays off session", string(again.Status), "succeeded")
	if _, err := f.Pay(cs.ID, "4242424242424242"); err == nil {
		t.Error("a session was paid twice")
	}
	lines := 0
	for i := f.api.CheckoutSessions.ListLineItems(&stripe.CheckoutSessionListLineItemsParams{Session: stripe.String(cs.ID)}); i.Next(); lines++ {
		equal(t, "line", i.LineItem().AmountTotal, 2500)
	}
	for i := f.api.CheckoutSessions.List(&stripe.CheckoutSessionListParams{PaymentIntent: stripe.String(pi.ID)}); i.Next(); lines++ {
		equal(t, "session of the payment", i.CheckoutSession().ID, cs.ID)
	}
	equal(t, "lines and sessions", lines, 2)
	equal(t, "charges", len(f.Log().Charges), 2)
}

func TestCheckoutOfASlowMethod(t *testing.T) {
	for good, last := range map[bool]string{true: "checkout.session.async_payment_succeeded", false: "checkout.session.async_payment_failed"} {
		f := start(t)
		p := topUpSession(f.customer(), 2500)
		p.PaymentMethodTypes = stripe.StringSlice([]string{"us_bank_account"})
		cs := must(f.api.CheckoutSessions.New(p))(t)
		equal(t, "status", must(f.Pay(cs.ID, "pm_usBankAccount_success"))(t), "processing")
		equal(t, "event", f.types(len(f.Events()) - 1)[0], "checkout.session.completed")
		cs = f.session(cs.ID)
		equal(t, "completed and unpaid", string(cs.PaymentStatus), "unpaid")
		ok(t, f.FinishProcessing(cs.PaymentIntent.ID, good))
		equal(t, "event", f.types(len(f.Events()) - 1)[0], last)
		equal(t, "paid", f.session(cs.ID).PaymentStatus == "paid", good)
	}
}

func TestCheckoutAuthentication(t *testing.T) {
	f := start(t)
	cs := must(f.api.CheckoutSessions.New(topUpSession(f.customer(), 2500)))(t)
	equal(t, "status", must(f.Pay(cs.ID, "4000000000003220"))(t), "requires_action")
	pi := f.session(cs.ID).PaymentIntent.ID
	_, err := f.api.PaymentIntents.Cancel(pi, nil)
	refused(t, err, 400, "invalid_request_error", "payment_intent_unexpected_state", "")
	ok(t, f.Authenticate(pi, true))
	equal(t, "status", string(f.session(cs.ID).PaymentStatus), "paid")
}

func TestCheckoutExpires(t *testing.T) {
	f := start(t)
	p := topUpSession(f.customer(), 2500)
	p.ExpiresAt = stripe.Int64(f.now().Add(30 * time.Minute).Unix())
	first := must(f.api.CheckoutSessions.New(p))(t)
	second := must(f.api.CheckoutSessions.New(topUpSession(f.customer(), 2500)))(t)
	third := must(f.api.CheckoutSessions.New(topUpSession(f.customer(), 2500)))(t)
	_, err := f.Pay(second.ID, "4000000000000002")
	if err == nil {
		t.Error("a declined card paid")
	}
	n := len(f.Events())
	f.pass(30 * time.Minute)
	f.Tick()
	gone := must(f.api.CheckoutSessions.Expire(second.ID, nil))(t)
	ok(t, f.ExpireSession(third.ID))
	f.wantTypes(n, "checkout.session.expired", "payment_intent.canceled", "checkout.session.expired", "checkout.session.expired")
	equal(t, "status", string(f.session(first.ID).Status), "expired")
	equal(t, "its payment", string(must(f.api.PaymentIntents.Get(gone.PaymentIntent.ID, nil))(t).Status), "canceled")
	_, err = f.api.CheckoutSessions.Expire(second.ID, nil)
	refused(t, err, 400, "invalid_request_error", "", "")
	if _, err := f.Pay(first.ID, "4242424242424242"); err == nil {
		t.Error("an expired session was paid")
	}
}

func TestCheckoutSetup(t *testing.T) {
	f := start(t)
	customer := f.customer()
	setup := func() *stripe.CheckoutSession {
		return must(f.api.CheckoutSessions.New(&stripe.CheckoutSessionParams{Mode: stripe.String("setup"), Customer: stripe.String(customer), Currency: stripe.String("usd"),
			SuccessURL: stripe.String("https://example.com/done"),
			ConsentCollection: &stripe.CheckoutSessionConsentCollectionParams{TermsOfService: stripe.String("required"),
				PaymentMethodReuseAgreement: &stripe.CheckoutSessionConsentCollectionPaymentMethodReuseAgreementParams{Position: stripe.String("auto")}},
			CustomText: &stripe.CheckoutSessionCustomTextParams{Submit: &stripe.CheckoutSessionCustomTextSubmitParams{Message: stripe.String("Saved for later")}}}))(t)
	}
	cs := setup()
	if _, err := f.Pay(cs.ID, "4000000000000002"); err == nil {
		t.Error("a declined card was saved")
	}
	equal(t, "error", string(must(f.api.SetupIntents.Get(cs.SetupIntent.ID, nil))(t).LastSetupError.Code), "card_declined")
	n := len(f.Events())
	equal(t, "status", must(f.Pay(cs.ID, "4000002500003155"))(t), "requires_action")
	ok(t, f.Authenticate(cs.SetupIntent.ID, true))
	f.wantTypes(n, "setup_intent.requires_action", "payment_method.attached", "setup_intent.succeeded", "checkout.session.completed")
	done := f.session(cs.ID)
	equal(t, "payment status", string(done.PaymentStatus), "no_payment_required")
	equal(t, "consent", string(done.Consent.TermsOfService), "accepted")
	n = 0
	for i := f.api.SetupIntents.List(&stripe.SetupIntentListParams{Customer: stripe.String(customer)}); i.Next(); n++ {
		pi := must(f.api.PaymentIntents.New(offSession(customer, i.SetupIntent().PaymentMethod.ID, 1000)))(t)
		equal(t, "set up", string(pi.Status), "succeeded")
	}
	equal(t, "setup intents", n, 1)
}

func TestSessionsRefused(t *testing.T) {
	f := start(t)
	customer := f.customer()
	for name, c := range map[string]struct {
		change func(*stripe.CheckoutSessionParams)
		param  string
	}{
		"too little":     {func(p *stripe.CheckoutSessionParams) { p.LineItems[0].PriceData.UnitAmount = stripe.Int64(49) }, "amount"},
		"currency":       {func(p *stripe.CheckoutSessionParams) { p.LineItems[0].PriceData.Currency = stripe.String("xxx") }, "line_items[0][price_data][currency]"},
		"no lines":       {func(p *stripe.CheckoutSessionParams) { p.LineItems = nil }, "line_items"},
		"url":            {func(p *stripe.CheckoutSessionParams) { p.SuccessURL = stripe.String("javascript:alert(1)") }, "success_url"},
		"no customer":    {func(p *stripe.CheckoutSessionParams) { p.Customer = stripe.String("cus_none") }, "customer"},
		"two customers":  {func(p *stripe.CheckoutSessionParams) { p.CustomerEmail = stripe.String("a@example.com") }, "customer"},
		"other mode":     {func(p *stripe.CheckoutSessionParams) { p.Mode = stripe.String("subscription") }, "payment_intent_data"},
		"expires early":  {func(p *stripe.CheckoutSessionParams) { p.ExpiresAt = stripe.Int64(f.now().Unix() + 60) }, "expires_at"},
		"unknown option": {func(p *stripe.CheckoutSessionParams) { p.AllowPromotionCodes = stripe.Bool(true) }, "allow_promotion_codes"},
	} {
		p := topUpSession(customer, 2500)
		c.change(p)
		_, err := f.api.CheckoutSessions.New(p)
		if e, isStripe := err.(*stripe.Error); !isStripe || e.Param != c.param {
			t.Errorf("%s: got %v, want an error of %s", name, err, c.param)
		}
	}
	f.wantTypes(0, "customer.created") // and nothing by the refused requests
}

// TestPage clicks through the page as a person's browser does.
func TestPage(t *testing.T) {
	f := start(t)
	cs := must(f.api.CheckoutSessions.New(topUpSession(f.customer(), 2500)))(t)
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	see := func(form url.Values) (*http.Response, string) {
		var resp *http.Response
		if form == nil {
			resp = must(browser.Get(cs.URL))(t)
		} else {
			resp = must(browser.PostForm(cs.URL, form))(t)
		}
		defer resp.Body.Close()
		return resp, string(must(io.ReadAll(resp.Body))(t))
	}
	if _, body := see(nil); !strings.Contains(body, "25.00 usd") || !strings.Contains(body, "1 × Balance") || !strings.Contains(body, "https://example.com/back") {
		t.Errorf("page: %s", body)
	}
	if _, body := see(url.Values{"card": {"4000000000000069"}}); !strings.Contains(body, "Your card has expired.") {
		t.Errorf("page after a decline: %s", body)
	}
	if _, body := see(url.Values{"card": {"1"}}); !strings.Contains(body, "no test card") {
		t.Errorf("page after a card that is none: %s", body)
	}
	if _, body := see(url.Values{"card": {"4000000000003220"}}); !strings.Contains(body, `name="authenticate"`) {
		t.Errorf("page before authentication: %s", body)
	}
	if _, body := see(url.Values{"authenticate": {"fail"}}); !strings.Contains(body, "unable to authenticate") {
		t.Errorf("page after a failed authentication: %s", body)
	}
	resp, _ := see(url.Values{"card": {"4242424242424242"}})
	equal(t, "redirect", resp.Header.Get("Location"), "https://example.com/done?session="+cs.ID)
	equal(t, "paid", string(f.session(cs.ID).PaymentStatus), "paid")
	if resp, body := see(nil); resp.StatusCode != 404 || !strings.Contains(body, "complete") {
		t.Errorf("page of a paid session: %d %s", resp.StatusCode, body)
	}
}

func (f *fixture) monthly(cents int64) *stripe.Price {
	f.t.Helper()
	product := must(f.api.Products.New(&stripe.ProductParams{Name: stripe.String("Pro")}))(f.t)
	return must(f.api.Prices.New(&stripe.PriceParams{Currency: stripe.String("usd"), UnitAmount: stripe.Int64(cents), Product: stripe.String(product.ID),
		Recurring: &stripe.PriceRecurringParams{Interval: stripe.String("month")}}))(f.t)
}

func TestProductsAndPrices(t *testing.T) {
	f := start(t)
	price := f.monthly(1900)
	product := must(f.api.Products.Update(price.Product.ID, &stripe.ProductParams{Description: stripe.String("d"), Active: stripe.Bool(false)}))(t)
	equal(t, "active", must(f.api.Products.Get(product.ID, nil))(t).Active, false)
	_, err := f.api.Prices.Update(price.ID, &stripe.PriceParams{Nickname: stripe.String("n"), Active: stripe.Bool(false)})
	ok(t, err)
	equal(t, "nickname", must(f.api.Prices.Get(price.ID, nil))(t).Nickname, "n")
	n := 0
	for i := f.api.Products.List(&stripe.ProductListParams{Active: stripe.Bool(false)}); i.Next(); n++ {
	}
	for i := f.api.Prices.List(&stripe.PriceListParams{Product: stripe.String(product.ID)}); i.Next(); n++ {
	}
	equal(t, "listed", n, 2)
	_, err = f.api.CheckoutSessions.New(&stripe.CheckoutSessionParams{Mode: stripe.String("subscription"), SuccessURL: stripe.String("https://example.com"),
		LineItems: []*stripe.CheckoutSessionLineItemParams{{Price: stripe.String(price.ID), Quantity: stripe.Int64(1)}}})
	refused(t, err, 400, "invalid_request_error", "", "") // inactive
}

func TestSubscriptionByCheckout(t *testing.T) {
	f := start(t)
	price := f.monthly(1900)
	cs := must(f.api.CheckoutSessions.New(&stripe.CheckoutSessionParams{Mode: stripe.String("subscription"), Customer: stripe.String(f.customer()),
		SuccessURL:       stripe.String("https://example.com"),
		LineItems:        []*stripe.CheckoutSessionLineItemParams{{Price: stripe.String(price.ID), Quantity: stripe.Int64(1)}},
		SubscriptionData: &stripe.CheckoutSessionSubscriptionDataParams{Metadata: map[string]string{"plan": "pro"}}}))(t)
	n := len(f.Events())
	equal(t, "paid", must(f.Pay(cs.ID, "4242424242424242"))(t), "succeeded")
	f.wantTypes(n, "customer.subscription.created", "invoice.created", "payment_intent.created", "invoice.finalized", "customer.subscription.updated",
		"payment_method.attached", "charge.succeeded", "payment_intent.succeeded", "invoice.paid", "invoice.payment_succeeded", "customer.subscription.updated",
		"checkout.session.completed")
	cs = f.session(cs.ID)
	sub := must(f.api.Subscriptions.Get(cs.Subscription.ID, nil))(t)
	equal(t, "status", string(sub.Status), "active")
	equal(t, "metadata", sub.Metadata["plan"], "pro")
	equal(t, "period", sub.CurrentPeriodEnd, time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC).Unix())
	equal(t, "price", sub.Items.Data[0].Price.ID, price.ID)

	f.pass(31 * 24 * time.Hour)
	n = len(f.Events())
	second := must(f.Renew(sub.ID))(t)
	f.wantTypes(n, "invoice.created", "payment_intent.created", "invoice.finalized", "customer.subscription.updated",
		"charge.succeeded", "payment_intent.succeeded", "invoice.paid", "invoice.payment_succeeded")
	inv := must(f.api.Invoices.Get(second, nil))(t)
	if !inv.Paid || inv.AmountPaid != 1900 || inv.BillingReason != "subscription_cycle" || inv.Subscription.ID != sub.ID || inv.Charge == nil {
		t.Errorf("invoice of the second period: %+v", inv)
	}
	line := inv.Lines.Data[0]
	equal(t, "line's period", line.Period.Start, time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC).Unix())
	equal(t, "line's end", line.Period.End, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).Unix())
	equal(t, "line's price", line.Price.ID, price.ID)
	equal(t, "charges", len(f.Log().Charges), 2)
}

func TestSubscriptionTroubles(t *testing.T) {
	f := start(t)
	customer := f.customer()
	pm := must(f.SavedCard(customer, "pm_card_visa"))(t)
	items := []*stripe.SubscriptionItemsParams{{Price: stripe.String(f.monthly(1900).ID)}}
	_, err := f.api.Subscriptions.New(&stripe.SubscriptionParams{Customer: stripe.String(customer), Items: items})
	refused(t, err, 400, "invalid_request_error", "resource_missing", "")
	sub := must(f.api.Subscriptions.New(&stripe.SubscriptionParams{Customer: stripe.String(customer), Items: items, DefaultPaymentMethod: stripe.String(pm),
		OffSession: stripe.Bool(true)}))(t)
	equal(t, "status", string(sub.Status), "active")

	ok(t, f.SetCard(pm, "pm_card_chargeCustomerFail"))
	n := len(f.Events())
	invoice := must(f.Renew(sub.ID))(t)
	f.wantTypes(n, "invoice.created", "payment_intent.created", "invoice.finalized", "customer.subscription.updated",
		"charge.failed", "payment_intent.payment_failed", "invoice.payment_failed", "customer.subscription.updated")
	equal(t, "status", string(must(f.api.Subscriptions.Get(sub.ID, nil))(t).Status), "past_due")
	_, err = f.api.Invoices.Pay(invoice, nil)
	refused(t, err, 402, "card_error", "card_declined", "generic_decline")
	other := must(f.SavedCard(customer, "pm_card_visa"))(t)
	paid := must(f.api.Invoices.Pay(invoice, &stripe.InvoicePayParams{PaymentMethod: stripe.String(other)}))(t)
	equal(t, "attempts", paid.AttemptCount, 3)
	equal(t, "status", string(must(f.api.Subscriptions.Get(sub.ID, nil))(t).Status), "active")
	_, err = f.api.Invoices.Pay(invoice, nil)
	refused(t, err, 400, "invalid_request_error", "", "")

	up := must(f.api.Subscriptions.Update(sub.ID, &stripe.SubscriptionParams{CancelAtPeriodEnd: stripe.Bool(true), DefaultPaymentMethod: stripe.String(other)}))(t)
	equal(t, "to be canceled", up.CancelAt, up.CurrentPeriodEnd)
	n = len(f.Events())
	equal(t, "no invoice", must(f.Renew(sub.ID))(t), "")
	f.wantTypes(n, "customer.subscription.deleted")
	_, err = f.api.Subscriptions.Cancel(sub.ID, nil)
	refused(t, err, 404, "invalid_request_error", "resource_missing", "")

	ok(t, f.SetCard(other, "pm_card_chargeCustomerFail"))
	p := &stripe.SubscriptionParams{Customer: stripe.String(customer), Items: items, DefaultPaymentMethod: stripe.String(other)}
	incomplete := must(f.api.Subscriptions.New(p))(t)
	equal(t, "status of an unpaid one", string(incomplete.Status), "incomplete")
	p.PaymentBehavior = stripe.String("error_if_incomplete")
	_, err = f.api.Subscriptions.New(p)
	refused(t, err, 402, "card_error", "card_declined", "generic_decline")
	_, err = f.api.Subscriptions.Cancel(incomplete.ID, nil)
	ok(t, err)
	n = 0
	for i := f.api.Subscriptions.List(&stripe.SubscriptionListParams{Customer: stripe.String(customer)}); i.Next(); n++ {
	}
	equal(t, "not canceled", n, 1)
	for i := f.api.Invoices.List(&stripe.InvoiceListParams{Subscription: stripe.String(sub.ID)}); i.Next(); n++ {
	}
	equal(t, "with the invoices of the first", n, 3)
}

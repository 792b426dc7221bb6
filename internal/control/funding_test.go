package control

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"log/slog"

	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/topup"
	"weir/topup/stripefake"
)

// funded is a control plane with a payment account.
type funded struct {
	*bench
	fake *stripefake.Server
	top  *topup.Topup
}

func startFunded(t *testing.T) *funded {
	t.Helper()
	f := &funded{bench: start(t), fake: stripefake.New(stripefake.Options{Secret: "sk_test_control", WebhookSecret: "whsec_control"})}
	f.fake.Hold()
	t.Cleanup(func() { f.fake.Close() })
	stripe := httptest.NewServer(f.fake)
	t.Cleanup(stripe.Close)
	var err error
	f.top, err = topup.New(t.Context(), topup.Options{Ledger: f.db, SecretKey: "sk_test_control", WebhookSecrets: []string{"whsec_control"}, APIBase: stripe.URL,
		Now: time.Now, Log: slog.New(slog.NewTextHandler(f.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(New(Options{Ledger: f.db, Cards: cards.New(f.db), Token: token, Pepper: []byte("pepper"), Topup: f.top,
		Log: slog.New(slog.NewTextHandler(f.log, nil))}))
	t.Cleanup(s.Close)
	f.url = s.URL
	f.fake.SetWebhook(s.URL+"/webhooks/stripe", "whsec_control", "")
	f.want(f.do("POST /api/v1/customers", `{"id":"acme"}`), 201)
	return f
}

// work delivers what Stripe tells, without a token, and works on it.
func (f *funded) work() {
	f.Helper()
	for range 3 {
		f.fake.Flush()
		if err := f.top.Step(f.Context()); err != nil {
			f.Fatal(err)
		}
	}
}

const (
	checkoutPath = "POST /api/v1/customers/acme/checkout"
	pagesJSON    = `"success_url":"https://platform.example/ok","cancel_url":"https://platform.example/no"`
)

// bought is a purchase of $10 with a bonus of $1 whose card is kept.
func (f *funded) bought(key string) (id string) {
	f.Helper()
	a := f.do(checkoutPath, `{"amount":"10.00","bonus":"1","save_card":true,`+pagesJSON+`}`, "Idempotency-Key: "+key)
	f.want(a, 201)
	row, err := f.db.Topup(f.Context(), a.at("topup_id"))
	if err == nil {
		_, err = f.fake.Pay(row.Session, "4242424242424242")
	}
	if err != nil {
		f.Fatal(err)
	}
	f.work()
	return row.ID
}

func TestCheckoutRoute(t *testing.T) {
	f := startFunded(t)
	const body = `{"amount":"10.00",` + pagesJSON + `}`
	f.refused(f.do(checkoutPath, body), 400, "idempotency_key_required", "Idempotency-Key")
	a := f.do(checkoutPath, body, "Idempotency-Key: k")
	f.want(a, 201)
	if !strings.HasPrefix(a.at("topup_id"), "tup_") || !strings.HasPrefix(a.at("url"), "http") || a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("%s %v", a.body, a.header)
	}
	if again := f.do(checkoutPath, body, "Idempotency-Key: k"); again.status != 201 || again.body != a.body || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("again: %d %s %v", again.status, again.body, again.header)
	}
	for _, other := range []string{`{"amount":"11.00",` + pagesJSON + `}`, `{"amount":"10.00","bonus":"1",` + pagesJSON + `}`,
		`{"amount":"10.00","save_card":true,` + pagesJSON + `}`, `{"amount":"10.00","success_url":"https://x.example/","cancel_url":"https://platform.example/no"}`} {
		f.refused(f.do(checkoutPath, other, "Idempotency-Key: k"), 409, "idempotency_conflict", "another body")
	}
	f.want(f.do("GET /api/v1/topups/"+a.at("topup_id"), ""), 200, "state=submitted", "kind=checkout", "amount=10.00", "url="+a.at("url"), "refunds=[]")
	for _, bad := range []string{`"0.49"`, `"0"`, `"-1"`, `"10.001"`, `"1000000"`, `"ten"`, "10"} {
		f.refused(f.do(checkoutPath, `{"amount":`+bad+`,`+pagesJSON+`}`, "Idempotency-Key: x"), 422, "invalid_amount", "amount")
	}
	f.refused(f.do(checkoutPath, `{`+pagesJSON+`}`, "Idempotency-Key: x"), 422, "invalid_amount", "amount")
	f.refused(f.do(checkoutPath, `{"amount":"1"}`, "Idempotency-Key: x"), 400, "invalid_request", "success_url")
	f.refused(f.do(checkoutPath, `{"amount":"1","success_url":"javascript:x","cancel_url":"https://x.example"}`, "Idempotency-Key: x"), 422, "invalid_url", "success_url")
	f.refused(f.do(checkoutPath, `{"amount":"1","nmae":"x"}`, "Idempotency-Key: x"), 400, "invalid_request", `"nmae"`)
	f.refused(f.do("POST /api/v1/customers/none/checkout", body, "Idempotency-Key: x"), 404, "not_found", "none")
}

func TestCheckoutWhileStripeIsAway(t *testing.T) {
	f := startFunded(t)
	const body = `{"amount":"10.00",` + pagesJSON + `}`
	f.fake.Inject(stripefake.Fault{Match: "POST /v1/checkout/sessions", Count: 2, Status: 503})
	a := f.do(checkoutPath, body, "Idempotency-Key: k")
	f.refused(a, 503, "stripe_unavailable", "same Idempotency-Key")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if a = f.do(checkoutPath, body, "Idempotency-Key: k"); a.status != 201 || a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("asked again: %d %s", a.status, a.body)
	}
	f.fake.Inject(stripefake.Fault{Match: "POST /v1/checkout/sessions", Count: 2, Status: 400})
	f.refused(f.do(checkoutPath, body, "Idempotency-Key: other"), 422, "stripe_refused", "open a page")
	if strings.Contains(f.log.String(), "sk_test_control") {
		t.Error("the key is logged")
	}
}

func TestTopupRoutes(t *testing.T) {
	f := startFunded(t)
	first := f.bought("1")
	second := f.bought("2")
	f.want(f.do("GET /api/v1/customers/acme/wallet", ""), 200, "balance=22.00", "overdraft=null", "low_balance=null")
	f.want(f.do("GET /api/v1/customers/acme/topups?limit=1", ""), 200, "data.0.id="+second, "data.0.state=succeeded", "data.0.bonus=1.00", "data.0.fee=0.59", "data.0.url=null")
	page := f.do("GET /api/v1/customers/acme/topups?limit=1", "")
	f.want(f.do("GET /api/v1/customers/acme/topups?cursor="+page.at("next_cursor"), ""), 200, "data.0.id="+first, "next_cursor=null")
	f.refused(f.do("GET /api/v1/customers/none/topups", ""), 404, "not_found", "none")
	f.refused(f.do("GET /api/v1/topups/none", ""), 404, "not_found", "none")
	f.want(f.do("GET /api/v1/customers/acme/lots", ""), 200, "data.0.kind=promo", "data.0.parent="+first, "data.0.rest=1.00", "data.2.id="+first, "data.2.kind=paid",
		"data.2.rest=10.00", "data.2.expires_at=null")

	path := "POST /api/v1/topups/" + first + "/refund"
	f.refused(f.do(path, `{"amount":"4"}`), 400, "idempotency_key_required", "")
	a := f.do(path, `{"amount":"4","reason":"asked for it"}`, "Idempotency-Key: r")
	f.want(a, 201, "topup_id="+first, "amount=4.00", "reason=asked for it", "wallet.balance=17.60")
	if again := f.do(path, `{"amount":"4","reason":"asked for it"}`, "Idempotency-Key: r"); again.body != a.body || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("again: %s", again.body)
	}
	f.refused(f.do(path, `{"amount":"5"}`, "Idempotency-Key: r"), 409, "idempotency_conflict", "another body")
	f.work()
	f.want(f.do("GET /api/v1/topups/"+first, ""), 200, "refunded=4.00", "refunds.0.state=succeeded", "refunds.0.amount=4.00", "refunds.0.refund_id="+a.at("refund_id"), "refunds.1=<none>")
	if list := f.fake.Log().Refunds; len(list) != 1 || list[0].Amount != 400 {
		t.Errorf("Stripe gave back %+v", list)
	}
	f.refused(f.do(path, `{"amount":"7"}`, "Idempotency-Key: s"), 409, "topup_spent", "6.00 is left")
	f.refused(f.do(path, `{"amount":"0.001"}`, "Idempotency-Key: s"), 422, "invalid_amount", "whole cents")
	f.want(f.do(path, `{}`, "Idempotency-Key: s"), 201, "amount=6.00")
	f.refused(f.do(path, `{}`, "Idempotency-Key: t"), 409, "topup_spent", "0.00 is left")
	open := f.do(checkoutPath, `{"amount":"10.00",`+pagesJSON+`}`, "Idempotency-Key: open").at("topup_id")
	f.refused(f.do("POST /api/v1/topups/"+open+"/refund", `{}`, "Idempotency-Key: u"), 409, "not_refundable", "paid")
	f.refused(f.do("POST /api/v1/topups/none/refund", `{}`, "Idempotency-Key: v"), 404, "not_found", "none")
}

func TestAutoTopupRoute(t *testing.T) {
	f := startFunded(t)
	const path = "/api/v1/customers/acme/auto-topup"
	f.want(f.do("GET "+path, ""), 200, "enabled=false", "threshold=0.00", "has_card=false", "amount=null")
	f.refused(f.do("GET /api/v1/customers/none/auto-topup", ""), 404, "not_found", "none")
	const set = `{"enabled":true,"threshold":"5.00","amount":"20.00","cap_per_day":"50.00","cap_per_month":"200.00"}`
	f.want(f.do("PUT "+path, set), 200, "customer=acme", "enabled=true", "threshold=5.00", "amount=20.00", "recharge_to=null", "cap_per_day=50.00",
		"cap_per_month=200.00", "min_interval_seconds=60", "has_card=false", "failures=0", "off_reason=", "next_try_at=null")
	f.refused(f.do("PUT /api/v1/customers/none/auto-topup", set), 404, "not_found", "none")
	f.work()
	f.want(f.do("GET "+path, ""), 200, "enabled=false", "off_reason=missing_payment_method")
	// A purchase that does not say whether to keep the card keeps it for this.
	a := f.do(checkoutPath, `{"amount":"1.00",`+pagesJSON+`}`, "Idempotency-Key: k")
	row, err := f.db.Topup(t.Context(), a.at("topup_id"))
	if err != nil || !row.SaveCard {
		t.Fatalf("%+v, %v", row, err)
	}
	if _, err := f.fake.Pay(row.Session, "4242424242424242"); err != nil {
		t.Fatal(err)
	}
	f.work()
	f.want(f.do("GET "+path, ""), 200, "enabled=true", "off_reason=", "has_card=true")
	f.want(f.do("GET /api/v1/customers/acme/topups", ""), 200, "data.0.kind=auto", "data.0.state=succeeded", "data.0.amount=20.00")
	f.want(f.do(checkoutPath, `{"amount":"1.00",`+pagesJSON+`}`, "Idempotency-Key: k"), 201, "topup_id="+row.ID)

	f.want(f.do("PUT "+path, `{"enabled":false}`), 200, "enabled=false", "threshold=5.00", "amount=20.00")
	f.want(f.do("PUT "+path, `{"enabled":true,"threshold":"5","recharge_to":"25","min_interval_seconds":0}`), 200, "recharge_to=25.00", "amount=null", "cap_per_day=null", "min_interval_seconds=0")
	f.refused(f.do("PUT "+path, `{"threshold":"5","amount":"20"}`), 400, "invalid_request", "enabled")
	for body, words := range map[string]string{`"amount":"20"`: "threshold", `"threshold":"5"`: "amount", `"threshold":"5","amount":"20","recharge_to":"30"`: "one of",
		`"threshold":"5","recharge_to":"5"`: "recharge_to", `"threshold":"5","amount":"20","cap_per_day":"19.99"`: "cap_per_day",
		`"threshold":"5","amount":"20","cap_per_month":"1"`: "cap_per_month", `"threshold":"5","amount":"0.10"`: "amount", `"threshold":5,"amount":"20"`: "threshold",
		`"threshold":"5","amount":"20.005"`: "whole cents", `"threshold":"5","recharge_to":"2000000"`: "recharge_to"} {
		f.refused(f.do("PUT "+path, `{"enabled":true,`+body+`}`), 422, "invalid_amount", words)
	}
	f.refused(f.do("PUT "+path, `{"enabled":true,"threshold":"5","amount":"20","min_interval_seconds":-1}`), 422, "invalid_interval", "min_interval_seconds")
}

func TestPlanRoutes(t *testing.T) {
	f := startFunded(t)
	f.want(f.do("GET /api/v1/plans", ""), 200, "data=[]")
	f.refused(f.do("PUT /api/v1/plans/pro", `{"included_credit":"20"}`), 400, "invalid_request", "stripe_price")
	f.refused(f.do("PUT /api/v1/plans/pro", `{"stripe_price":"price_1"}`), 422, "invalid_amount", "included_credit")
	f.want(f.do("PUT /api/v1/plans/pro", `{"stripe_price":"price_1","included_credit":"20"}`), 200, "id=pro", "included_credit=20.00")
	f.refused(f.do("PUT /api/v1/plans/other", `{"stripe_price":"price_1","included_credit":"20"}`), 409, "exists", "pro")
	f.want(f.do("GET /api/v1/plans", ""), 200, "data.0.id=pro", "data.0.stripe_price=price_1")
	const subscribe = "POST /api/v1/customers/acme/subscription"
	f.refused(f.do(subscribe, `{"plan":"pro",`+pagesJSON+`}`), 400, "idempotency_key_required", "")
	f.refused(f.do(subscribe, `{"plan":"none",`+pagesJSON+`}`, "Idempotency-Key: k"), 404, "not_found", "none")
	f.refused(f.do(subscribe, `{"plan":"pro",`+pagesJSON+`}`, "Idempotency-Key: k"), 422, "stripe_refused", "price")
}

func TestWithoutStripe(t *testing.T) {
	b := start(t)
	b.fund("acme", "10")
	for _, request := range []string{"POST /api/v1/customers/acme/checkout", "PUT /api/v1/customers/acme/auto-topup", "POST /api/v1/topups/x/refund",
		"POST /api/v1/customers/acme/subscription", "PUT /api/v1/plans/x"} {
		b.refused(b.do(request, `{}`, "Idempotency-Key: k"), 409, "stripe_not_configured", "stripe.secret_key")
	}
	b.refused(b.do("POST /webhooks/stripe", `{}`), 404, "not_found", "")
	b.want(b.do("GET /api/v1/customers/acme/lots", ""), 200, "data.0.rest=10.00")
	b.want(b.do("GET /api/v1/customers/acme/topups", ""), 200, "data=[]")
}

func TestWebhookRouteIsOpenAndChecked(t *testing.T) {
	f := startFunded(t)
	resp, err := http.Post(f.url+"/webhooks/stripe", "application/json", strings.NewReader(`{"id":"evt_1","type":"payment_intent.succeeded"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("without a signature: %d", resp.StatusCode)
	}
	if resp, err = http.Get(f.url + "/thanks"); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("the page after paying: %d", resp.StatusCode)
	}
}

func TestOverdraftAndLowBalance(t *testing.T) {
	b := start(t)
	b.fund("acme", "10")
	const path = "PATCH /api/v1/customers/acme"
	b.want(b.do(path, `{"overdraft":"5","low_balance":["2.00","1"]}`), 200, "id=acme")
	b.want(b.do("GET /api/v1/customers/acme/wallet", ""), 200, "balance=10.00", "available=15.00", "overdraft=5.00", `low_balance=["2.00","1.00"]`)
	b.want(b.do("POST /api/v1/customers/acme/debits", `{"amount":"13","reason":"x"}`, "Idempotency-Key: d"), 201, "wallet.balance=-3.00", "wallet.available=2.00")
	b.refused(b.do(path, `{"overdraft":"2"}`), 409, "insufficient_funds", "")
	b.want(b.do(path, `{"overdraft":"3","low_balance":null}`), 200)
	b.want(b.do("GET /api/v1/customers/acme/wallet", ""), 200, "overdraft=3.00", "low_balance=null")
	b.refused(b.do(path, `{"overdraft":5}`), 422, "invalid_amount", "overdraft")
	b.refused(b.do(path, `{"overdraft":"-5"}`), 422, "invalid_amount", "overdraft")
	for _, bad := range []string{`["0"]`, `["-1"]`, `[1]`, `"1"`, `["1","2","3","4","5","6"]`} {
		b.refused(b.do(path, `{"low_balance":`+bad+`}`), 422, "invalid_amount", "low_balance")
	}
}

func TestCreditsThatEnd(t *testing.T) {
	b := start(t)
	b.fund("acme", "10")
	const path = "POST /api/v1/customers/acme/credits"
	soon := time.Now().Add(time.Hour).UTC().Truncate(time.Second).Format(time.RFC3339)
	b.want(b.do(path, `{"amount":"1","reason":"x","priority":7,"expires_at":"`+soon+`"}`, "Idempotency-Key: 1"), 201)
	b.want(b.do("GET /api/v1/customers/acme/lots", ""), 200, "data.1.priority=7", "data.1.expires_at="+soon, "data.0.priority=1")
	b.refused(b.do(path, `{"amount":"1","reason":"x","priority":101}`, "Idempotency-Key: 2"), 422, "invalid_priority", "100")
	b.refused(b.do(path, `{"amount":"1","reason":"x","expires_at":"2020-01-01T00:00:00Z"}`, "Idempotency-Key: 2"), 422, "invalid_time", "expires_at")
	b.refused(b.do(path, `{"amount":"1","reason":"x","expires_at":"soon"}`, "Idempotency-Key: 2"), 422, "invalid_time", "expires_at")
	b.refused(b.do("POST /api/v1/customers/acme/debits", `{"amount":"1","reason":"x","priority":1}`, "Idempotency-Key: 2"), 400, "invalid_request", "of credits")
	if _, err := b.db.Lots(t.Context(), "none"); err == nil || !strings.Contains(err.Error(), ledger.ErrNotFound.Error()) {
		t.Errorf("%v", err)
	}
}

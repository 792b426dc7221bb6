package stripefake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

func keyed1000(customer, pm, key string) *stripe.PaymentIntentParams {
	p := offSession(customer, pm, 1000)
	p.IdempotencyKey = stripe.String(key)
	return p
}

func TestIdempotency(t *testing.T) {
	f := start(t)
	customer := f.customer()
	pm := must(f.SavedCard(customer, "pm_card_visa"))(t)
	first := must(f.api.PaymentIntents.New(keyed1000(customer, pm, "k1")))(t)
	again := must(f.api.PaymentIntents.New(keyed1000(customer, pm, "k1")))(t)
	equal(t, "the same payment", again.ID, first.ID)
	equal(t, "replay is told", again.LastResponse.Header.Get("Idempotent-Replayed"), "true")
	equal(t, "first is not", first.LastResponse.Header.Get("Idempotent-Replayed"), "")
	equal(t, "bodies", string(again.LastResponse.RawJSON), string(first.LastResponse.RawJSON))
	equal(t, "charges", len(f.Log().Charges), 1)
	events := f.Events()
	last := must(f.api.Events.Get(events[len(events)-1].ID, nil))(t)
	equal(t, "key of the event", last.Request.IdempotencyKey, "k1")

	p := keyed1000(customer, pm, "k1")
	p.Amount = stripe.Int64(1001)
	_, err := f.api.PaymentIntents.New(p)
	refused(t, err, 400, "idempotency_error", "", "")
	_, err = f.api.Refunds.New(&stripe.RefundParams{PaymentIntent: stripe.String(first.ID), Params: stripe.Params{IdempotencyKey: stripe.String("k1")}})
	refused(t, err, 400, "idempotency_error", "", "")

	ok(t, f.SetCard(pm, "pm_card_chargeCustomerFail"))
	_, err = f.api.PaymentIntents.New(keyed1000(customer, pm, "k2"))
	declined := refused(t, err, 402, "card_error", "card_declined", "generic_decline")
	ok(t, f.SetCard(pm, "pm_card_visa"))
	_, err = f.api.PaymentIntents.New(keyed1000(customer, pm, "k2"))
	replay := refused(t, err, 402, "card_error", "card_declined", "generic_decline")
	equal(t, "a decline is kept", replay.PaymentIntent.ID, declined.PaymentIntent.ID)

	p = keyed1000(customer, pm, "k3")
	p.Amount = stripe.Int64(1)
	_, err = f.api.PaymentIntents.New(p)
	refused(t, err, 400, "invalid_request_error", "amount_too_small", "")
	must(f.api.PaymentIntents.New(keyed1000(customer, pm, "k3")))(t) // the key of a refused request is free

	f.pass(keyLife - time.Second)
	equal(t, "kept for a day", must(f.api.PaymentIntents.New(keyed1000(customer, pm, "k1")))(t).ID, first.ID)
	f.pass(time.Second)
	if fresh := must(f.api.PaymentIntents.New(keyed1000(customer, pm, "k1")))(t); fresh.ID == first.ID {
		t.Error("a key lives for more than a day")
	}
	equal(t, "charges", len(f.Log().Charges), 3)
}

// TestKeyInUse asks twice at the same time: the first one is held by a fault.
func TestKeyInUse(t *testing.T) {
	f := start(t)
	customer := f.customer()
	pm := must(f.SavedCard(customer, "pm_card_visa"))(t)
	f.Inject(Fault{Match: "POST /v1/payment_intents", Delay: 200 * time.Millisecond, Slow: true})
	done := make(chan error)
	go func() {
		_, err := f.api.PaymentIntents.New(keyed1000(customer, pm, "k"))
		done <- err
	}()
	inUse := func() bool {
		f.Server.mu.Lock()
		defer f.Server.mu.Unlock()
		return f.keys["k"] != nil
	}
	for !inUse() {
		time.Sleep(time.Millisecond)
	}
	_, err := f.api.PaymentIntents.New(keyed1000(customer, pm, "k"))
	refused(t, err, 409, "idempotency_error", "idempotency_key_in_use", "")
	ok(t, <-done)
	must(f.api.PaymentIntents.New(keyed1000(customer, pm, "k")))(t)
	equal(t, "charges", len(f.Log().Charges), 1)
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name           string
		fault          Fault
		status         int // that the client sees; 0 = no answer
		charged        int // after the first try
		again, byAgain int // status and charges of the second try under the same key
	}{
		{"connection lost before", Fault{}, 0, 0, 200, 1},
		{"answer lost", Fault{After: true}, 0, 1, 200, 1},
		{"500 before", Fault{Status: 500}, 500, 0, 200, 1},
		{"500 after", Fault{Status: 500, After: true}, 500, 1, 500, 1},
		{"too many requests", Fault{Status: 429}, 429, 0, 200, 1},
		{"twice", Fault{Status: 503, Count: 2}, 503, 0, 503, 0},
		{"another path", Fault{Status: 503, Match: "POST /v1/refunds"}, 200, 1, 200, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t)
			customer := f.customer()
			pm := must(f.SavedCard(customer, "pm_card_visa"))(t)
			n := len(f.Events())
			f.Inject(c.fault)
			try := func() int {
				_, err := f.api.PaymentIntents.New(keyed1000(customer, pm, "k"))
				var e *stripe.Error
				switch {
				case err == nil:
					return 200
				case errors.As(err, &e):
					return e.HTTPStatusCode
				}
				return 0
			}
			equal(t, "status", try(), c.status)
			equal(t, "charges", len(f.Log().Charges), c.charged)
			if c.charged == 0 {
				f.wantTypes(n)
			}
			equal(t, "status of the second try", try(), c.again)
			equal(t, "charges of both", len(f.Log().Charges), c.byAgain)
			f.ClearFaults()
			requests := f.Requests()
			equal(t, "request", requests[len(requests)-2], fmt.Sprintf("POST /v1/payment_intents %d", c.status))
		})
	}
}

func TestRefusals(t *testing.T) {
	f := start(t)
	for _, c := range []struct {
		method, path, form string
		header             []string
		status             int
		code, param        string
	}{
		{"GET", "/v1/charges/ch_none", "", nil, 404, "resource_missing", "id"},
		{"POST", "/v1/payment_intents", "currency=usd", nil, 400, "parameter_missing", "amount"},
		{"POST", "/v1/payment_intents", "amount=&currency=usd", nil, 400, "parameter_invalid_empty", "amount"},
		{"POST", "/v1/payment_intents", "amount=1.5&currency=usd", nil, 400, "parameter_invalid_integer", "amount"},
		{"POST", "/v1/payment_intents", "amount=100&currency=usd&colour=red", nil, 400, "parameter_unknown", "colour"},
		{"POST", "/v1/payment_intents", "amount=100&currency=usd&metadata[a][b]=1", nil, 400, "parameter_unknown", "metadata[a][b]"},
		{"POST", "/v1/payment_intents", "amount=100&currency=usd&confirm=yes", nil, 400, "", "confirm"},
		{"POST", "/v1/payment_intents", "amount=100&currency=usd&capture_method=manual", nil, 400, "", "capture_method"},
		{"POST", "/v1/payment_intents", "amount=100&currency=usd&off_session=true", nil, 400, "", "off_session"},
		{"POST", "/v1/payment_intents", "amount=100&currency=usd&confirm=true&payment_method=pm_card_visa", nil, 400, "", ""},
		{"POST", "/v1/payment_intents", "amount=100000000&currency=usd", nil, 400, "amount_too_large", "amount"},
		{"POST", "/v1/customers", "metadata[k]=" + strings.Repeat("x", 501), nil, 400, "", "metadata[k]"},
		{"GET", "/v1/charges?limit=101", "", nil, 400, "parameter_invalid_integer", "limit"},
		{"GET", "/v1/charges?starting_after=ch_none", "", nil, 400, "resource_missing", "starting_after"},
		{"GET", "/v1/nothing", "", nil, 404, "", ""},
		{"GET", "/v1/charges", "", []string{"Authorization", "Bearer sk_test_other"}, 401, "", ""},
		{"GET", "/v1/charges", "", []string{"Authorization", ""}, 401, "", ""},
		{"GET", "/v1/charges", "", []string{"Stripe-Version", "2026-08-26.dahlia"}, 400, "", ""},
		{"POST", "/v1/customers", "", []string{"Idempotency-Key", strings.Repeat("k", 256)}, 400, "", ""},
	} {
		form := must(url.ParseQuery(c.form))(t)
		f.refusedByMockToo(c.method, c.path, form, c.status, c.code)
		resp, body := f.raw(c.method, c.path, form, c.header...)
		if resp.StatusCode != c.status || !strings.Contains(body, `"type": "invalid_request_error"`) ||
			strings.Contains(body, `"code"`) != (c.code != "") || !strings.Contains(body, c.code) || c.param != "" && !strings.Contains(body, fmt.Sprintf(`"param": %q`, c.param)) {
			t.Errorf("%s %s %s: got %d %s, want %d %s %s", c.method, c.path, c.form, resp.StatusCode, body, c.status, c.code, c.param)
		}
	}
	equal(t, "events", len(f.Events()), 0)
	if resp, _ := f.raw("GET", "/v1/charges", nil); resp.StatusCode != 200 || resp.Header.Get("Request-Id") == "" || resp.Header.Get("Stripe-Version") != Version {
		t.Errorf("a plain request: %d %v", resp.StatusCode, resp.Header)
	}
	anyKey := start(t, func(o *Options) { o.Secret = "" })
	if resp, _ := anyKey.raw("GET", "/v1/charges", nil, "Authorization", "Bearer sk_test_what"); resp.StatusCode != 200 {
		t.Errorf("any test key: %d", resp.StatusCode)
	}
	if resp, _ := anyKey.raw("GET", "/v1/charges", nil, "Authorization", "Bearer sk_live_what"); resp.StatusCode != 401 {
		t.Errorf("a live key: %d", resp.StatusCode)
	}
}

// refusedByMockToo sends what is refused for its shape to stripe-mock: same
// status, and an error that has no member which ours has not.
func (f *fixture) refusedByMockToo(method, path string, form url.Values, status int, code string) {
	f.t.Helper()
	mock, _ := stripeMock()
	shapes := []string{"parameter_missing", "parameter_invalid_integer", "parameter_unknown"}
	if mock == "" || method != "POST" || !slices.Contains(shapes, code) {
		return
	}
	x := exchange{method: method, target: path, form: []byte(form.Encode()), header: http.Header{"Authorization": {"Bearer " + testSecret},
		"Content-Type": {"application/x-www-form-urlencoded"}}}
	got, body := ask(f.t, mock, x)
	equal(f.t, "stripe-mock's status of "+path+" "+form.Encode(), got, status)
	var answer any
	ok(f.t, json.Unmarshal(body, &answer))
	checkError(f.t, "stripe-mock's answer", answer)
}

// TestPaging walks both ways through more objects than a page holds.
func TestPaging(t *testing.T) {
	f := start(t)
	var all []string
	for range 7 {
		all = append(all, f.customer())
		f.pass(time.Second)
	}
	slices.Reverse(all)
	list := func(p *stripe.CustomerListParams) (ids []string) {
		i := f.api.Customers.List(p)
		for i.Next() {
			ids = append(ids, i.Customer().ID)
		}
		ok(t, i.Err())
		return ids
	}
	if got := list(&stripe.CustomerListParams{ListParams: stripe.ListParams{Limit: stripe.Int64(3)}}); !slices.Equal(got, all) {
		t.Errorf("all: got %q, want %q", got, all)
	}
	back := list(&stripe.CustomerListParams{ListParams: stripe.ListParams{Limit: stripe.Int64(2), EndingBefore: stripe.String(all[6])}})
	if slices.Reverse(back); !slices.Equal(back, all[:6]) {
		t.Errorf("backwards: got %q, want %q", back, all[:6])
	}
	single := list(&stripe.CustomerListParams{ListParams: stripe.ListParams{Limit: stripe.Int64(2), Single: true, StartingAfter: stripe.String(all[1])}})
	if !slices.Equal(single, all[2:4]) {
		t.Errorf("one page: got %q, want %q", single, all[2:4])
	}
	first := f.now().Add(-7 * time.Second).Unix()
	ranged := list(&stripe.CustomerListParams{CreatedRange: &stripe.RangeQueryParams{GreaterThan: first, LesserThanOrEqual: first + 2}})
	if !slices.Equal(ranged, all[4:6]) {
		t.Errorf("created in a range: got %q, want %q", ranged, all[4:6])
	}
}

func (f *fixture) listed(p *stripe.EventListParams) (ids []string) {
	i := f.api.Events.List(p)
	for i.Next() {
		ids = append(ids, i.Event().ID)
	}
	ok(f.t, i.Err())
	slices.Reverse(ids)
	return ids
}

func eventIDs(events []Event) (ids []string) {
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

func TestWebhooks(t *testing.T) {
	f := start(t)
	rc := receive(t, "whsec_1")
	f.SetWebhook(rc.url, "whsec_1", "")
	f.charged("pm_card_visa", 1000)
	ok(t, f.Wait(context.Background()))
	if want := eventIDs(f.Events()); !slices.Equal(rc.ids(), want) || len(want) != 5 {
		t.Errorf("delivered %q, want %q", rc.ids(), want)
	}
	e := rc.got[4]
	if e.Type != "payment_intent.succeeded" || e.APIVersion != Version || e.Livemode || e.Data.Object["amount"] != 1000.0 || e.PendingWebhooks != 1 {
		t.Errorf("event: %+v", e)
	}
	equal(t, "undelivered", len(f.listed(&stripe.EventListParams{DeliverySuccess: stripe.Bool(false)})), 0)

	f.SetWebhook(rc.url, "whsec_new", "whsec_1") // a rotation: the receiver has the old secret
	f.customer()
	ok(t, f.Wait(context.Background()))
	equal(t, "delivered with two secrets", len(rc.ids()), 6)

	f.SetDelivery(Delivery{Copies: 3})
	f.customer()
	ok(t, f.Wait(context.Background()))
	equal(t, "delivered three times", len(rc.ids()), 9)

	f.SetDelivery(Delivery{Forge: true})
	f.customer()
	ok(t, f.Wait(context.Background()))
	equal(t, "forged", rc.forged, 1)
	f.SetDelivery(Delivery{DropNext: 1})
	f.customer()
	ok(t, f.Wait(context.Background()))
	lost := f.Events()[7:]
	if lost[0].Delivered || lost[0].Dropped || !lost[1].Dropped {
		t.Errorf("a forged and a dropped event: %+v", lost)
	}
	if got := f.listed(&stripe.EventListParams{DeliverySuccess: stripe.Bool(false)}); !slices.Equal(got, eventIDs(lost)) {
		t.Errorf("undelivered: got %q, want %q", got, eventIDs(lost))
	}
	equal(t, "retried", f.RetryFailed(), 2)
	equal(t, "undelivered", len(f.listed(&stripe.EventListParams{DeliverySuccess: stripe.Bool(false)})), 0)
	equal(t, "of a type", len(f.listed(&stripe.EventListParams{Types: stripe.StringSlice([]string{"charge.succeeded", "payment_method.attached"})})), 2)
	equal(t, "of a group", len(f.listed(&stripe.EventListParams{Type: stripe.String("payment_intent.*")})), 2)
}

func TestHeldWebhooks(t *testing.T) {
	f := start(t)
	rc := receive(t, "whsec_1")
	f.SetWebhook(rc.url, "whsec_1", "")
	f.Hold()
	f.charged("pm_card_visa", 1000)
	waiting := f.Pending()
	equal(t, "waiting", len(waiting), 5)
	equal(t, "held events count as undelivered", len(f.listed(&stripe.EventListParams{DeliverySuccess: stripe.Bool(false)})), 5)
	equal(t, "status", must(f.Deliver(waiting[4].ID))(t), 200)
	ok(t, f.Drop(waiting[0].ID))
	equal(t, "waiting", len(f.Pending()), 3)
	equal(t, "flushed", f.Flush(), 3)
	if want := eventIDs([]Event{waiting[4], waiting[1], waiting[2], waiting[3]}); !slices.Equal(rc.ids(), want) {
		t.Errorf("delivered %q, want %q", rc.ids(), want)
	}
	equal(t, "resent", must(f.Resend(waiting[1].ID))(t), 200)
	equal(t, "delivered", len(rc.ids()), 5)
	f.customer()
	f.Release()
	ok(t, f.Wait(context.Background()))
	equal(t, "delivered after the release", len(rc.ids()), 6)

	rc.mu.Lock()
	rc.status = http.StatusInternalServerError
	rc.mu.Unlock()
	f.customer()
	ok(t, f.Wait(context.Background()))
	equal(t, "refused by the endpoint", f.Events()[6].Delivered, false)
	if _, err := f.Deliver("evt_none"); err == nil {
		t.Error("an event that is none was delivered")
	}
}

func TestShuffledWebhooks(t *testing.T) {
	f := start(t)
	rc := receive(t, "whsec_1")
	f.SetWebhook(rc.url, "whsec_1", "")
	f.Hold()
	for range 20 {
		f.customer()
	}
	f.SetDelivery(Delivery{Shuffle: true, Delay: time.Millisecond})
	f.Release()
	ok(t, f.Wait(context.Background()))
	got, want := rc.ids(), eventIDs(f.Events())
	if slices.Equal(got, want) {
		t.Error("delivered in order")
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}
}

// TestChangesAreTold reads previous_attributes of a refund.
func TestChangesAreTold(t *testing.T) {
	f := start(t)
	pi := f.charged("pm_card_visa", 1000)
	must(f.Refund(pi.LatestCharge.ID, 400))(t)
	e := must(f.api.Events.Get(f.Events()[5].ID, nil))(t)
	equal(t, "type", string(e.Type), "charge.refunded")
	equal(t, "refunded", fmt.Sprint(e.Data.Object["amount_refunded"]), "400")
	equal(t, "before", fmt.Sprint(e.Data.PreviousAttributes), "map[amount_refunded:0]")
}

package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/notify"
)

// hook makes a webhook and returns its id.
func (b *bench) hook(body string) string {
	b.Helper()
	a := b.do("POST /api/v1/webhooks", body)
	b.want(a, 201)
	return a.at("id")
}

// TestWebhooks: a webhook is made, shown without its secret, and deleted.
func TestWebhooks(t *testing.T) {
	b := start(t)
	b.want(b.do("GET /api/v1/webhooks", ""), 200, "data=[]", "next_cursor=null")
	a := b.do("POST /api/v1/webhooks", `{"url":"https://platform.example/weir?token=x","events":["wallet.low_balance","wallet.depleted","wallet.low_balance"]}`)
	b.want(a, 201, "url=https://platform.example/weir?token=x", `events=["wallet.depleted","wallet.low_balance"]`)
	if secret := a.at("secret"); !strings.HasPrefix(secret, "whsec_") {
		t.Errorf("secret %q", secret)
	}
	id := a.at("id")
	all := b.hook(`{"url":"https://platform.example/all"}`)
	list := b.do("GET /api/v1/webhooks", "")
	b.want(list, 200, "data.0.id="+all, "data.0.events=[]", "data.0.last_delivery=null", "data.0.disabled_at=null", "data.1.id="+id,
		`data.1.events=["wallet.depleted","wallet.low_balance"]`, "data.2=<none>", "next_cursor=null")
	if strings.Contains(list.body, "secret") || strings.Contains(list.body, "whsec") {
		t.Errorf("the list shows a secret: %s", list.body)
	}
	if a := b.do("DELETE /api/v1/webhooks/"+all, ""); a.status != 204 || a.body != "" {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	b.refused(b.do("DELETE /api/v1/webhooks/"+all, ""), 404, "not_found", all)
	b.want(b.do("GET /api/v1/webhooks", ""), 200, "data.0.id="+id, "data.1=<none>")

	f := func(body string, status int, code, words string) {
		t.Helper()
		b.refused(b.do("POST /api/v1/webhooks", body), status, code, words)
	}
	f(`{}`, 422, "invalid_url", "no URL")
	f(`{"url":"http://platform.example/"}`, 422, "invalid_url", "https://")
	f(`{"url":"https://127.0.0.1/"}`, 422, "invalid_url", "not a public one")
	f(`{"url":"https://platform.example/","events":["wallet.emptied"]}`, 422, "invalid_event",
		`"wallet.emptied" (known: wallet.credited, wallet.low_balance, wallet.depleted, wallet.recovered, topup.succeeded, topup.failed, topup.requires_action, limit.reached, margin.negative)`)
	f(`{"url":"https://platform.example/","events":["webhook.test"]}`, 422, "invalid_event", "webhook.test")
	f(`{"url":"https://platform.example/","secret":"mine"}`, 400, "invalid_request", `unknown field "secret"`)
	f(`{"url":"https://platform.example/","events":"wallet.depleted"}`, 400, "invalid_request", "events")
}

// TestPrivateWebhooks: a setting lets them go to receivers beside weir.
func TestPrivateWebhooks(t *testing.T) {
	b := start(t)
	s := httptest.NewServer(New(Options{Ledger: b.db, Cards: cards.New(b.db), Token: token, Pepper: []byte("pepper"), PrivateWebhooks: true,
		Log: slog.New(slog.DiscardHandler)}))
	defer s.Close()
	b.url = s.URL
	b.hook(`{"url":"http://127.0.0.1:9000/weir"}`)
}

// TestWebhookSecret: a repeated request shows the same secret again, it opens
// for the worker, and no file of the ledger holds it.
func TestWebhookSecret(t *testing.T) {
	b := start(t)
	const body = `{"url":"https://platform.example/weir"}`
	first := b.do("POST /api/v1/webhooks", body, "Idempotency-Key: k")
	again := b.do("POST /api/v1/webhooks", body, "Idempotency-Key: k")
	if first.status != 201 || again.body != first.body || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("first %s, again %d %s", first.body, again.status, again.body)
	}
	b.want(b.do("GET /api/v1/webhooks", ""), 200, "data.1=<none>")
	sealer, err := notify.NewSealer([]byte("pepper"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := b.db.Endpoint(t.Context(), first.at("id"))
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := sealer.Open(e.Secret, e.URL); err != nil || secret != first.at("secret") {
		t.Errorf("the worker opens %q, %v", secret, err)
	}
	files, _ := filepath.Glob(filepath.Join(b.dir, "*"))
	if len(files) == 0 {
		t.Fatal("no ledger files")
	}
	for _, name := range files {
		if strings.Contains(read(t, name), strings.TrimPrefix(first.at("secret"), "whsec_")) {
			t.Errorf("%s holds the secret in clear", name)
		}
	}
}

// TestWebhookPages: the list of webhooks has pages, and an end.
func TestWebhookPages(t *testing.T) {
	b := start(t)
	var made []string
	for i := range notify.EndpointsMax {
		made = append(made, b.hook(fmt.Sprintf(`{"url":"https://platform.example/%d"}`, i)))
	}
	b.refused(b.do("POST /api/v1/webhooks", `{"url":"https://platform.example/"}`), 409, "too_many_webhooks", "50 webhooks")
	cursor := ""
	for i := len(made) - 1; i >= 0; i -= 25 {
		a := b.do("GET /api/v1/webhooks?limit=25&cursor="+cursor, "")
		b.want(a, 200, "data.0.id="+made[i], "data.24.id="+made[i-24], "data.25=<none>")
		cursor = a.at("next_cursor")
	}
	b.want(b.do("GET /api/v1/webhooks", ""), 200, "data.49.id="+made[0], "next_cursor=null")
	b.refused(b.do("GET /api/v1/webhooks?cursor=none", ""), 400, "invalid_request", "cursor")
	b.refused(b.do("GET /api/v1/webhooks?secret=1", ""), 400, "invalid_request", "secret")
}

// TestDeliveries: an operator sees what each webhook was sent and how it went,
// and has it sent again.
func TestDeliveries(t *testing.T) {
	b := start(t)
	ctx := t.Context()
	all, some := b.hook(`{"url":"https://platform.example/all"}`), b.hook(`{"url":"https://platform.example/some","events":["wallet.depleted"]}`)
	b.fund("acme", "10")
	b.fund("zoo", "5")
	path := "/api/v1/webhooks/" + all
	a := b.do("GET "+path+"/deliveries", "")
	b.want(a, 200, "data.0.type=wallet.credited", "data.0.customer=zoo", "data.0.data.amount=5.00", "data.0.state=pending", "data.0.tries=0",
		"data.0.last_status=0", "data.0.last_error=", "data.0.last_try_at=null", "data.1.data.balance=10.00", "data.2=<none>")
	first := b.do("GET "+path+"/deliveries?limit=1", "")
	b.want(b.do("GET "+path+"/deliveries?limit=1&cursor="+first.at("next_cursor"), ""), 200, "data.0.customer=acme", "next_cursor=null")
	b.want(b.do("GET /api/v1/webhooks/"+some+"/deliveries", ""), 200, "data=[]")
	b.refused(b.do("GET /api/v1/webhooks/none/deliveries", ""), 404, "not_found", "none")

	// The list of webhooks tells of the last try, not of what waits behind it.
	d, found, err := b.db.ClaimDelivery(ctx, all, time.Minute)
	if err != nil || !found || d.Event.Customer != "acme" {
		t.Fatalf("claimed %+v, %v", d, err)
	}
	d.LastStatus, d.LastError = 503, "it answered 503"
	if err := b.db.DeliveryFailed(ctx, d, time.Time{}); err != nil {
		t.Fatal(err)
	}
	b.want(b.do("GET /api/v1/webhooks", ""), 200, "data.1.id="+all, "data.1.last_delivery.event="+d.Event.ID, "data.1.last_delivery.state=failed",
		"data.1.last_delivery.last_status=503", "data.1.last_delivery.last_error=it answered 503", "data.1.last_delivery.next_try_at=null")

	replay := func(body string) answer { return b.do("POST "+path+"/replay", body) }
	since := a.at("data.1.created_at")
	b.want(replay(`{"from":"`+since+`"}`), 200, "queued=2")
	b.want(b.do("GET "+path+"/deliveries", ""), 200, "data.1.state=pending", "data.1.tries=0")
	b.want(replay(`{"from":"`+since+`","to":"`+a.at("data.0.created_at")+`","event":"wallet.credited"}`), 200, "queued=1")
	b.want(replay(`{"from":"`+since+`","event":"wallet.depleted"}`), 200, "queued=0")
	b.want(replay(`{"from":"2999-01-01T00:00:00Z"}`), 200, "queued=0")
	b.refused(replay(`{}`), 400, "invalid_request", "from is missing")
	b.refused(replay(`{"from":"yesterday"}`), 422, "invalid_time", "from")
	b.refused(replay(`{"from":"`+since+`","to":"x"}`), 422, "invalid_time", "to")
	b.refused(replay(`{"from":"`+since+`","to":"`+since+`"}`), 422, "invalid_time", "not after from")
	b.refused(replay(`{"from":"`+since+`","event":"x"}`), 422, "invalid_event", "wallet.credited")
	b.refused(b.do("POST /api/v1/webhooks/none/replay", `{"from":"`+since+`"}`), 404, "not_found", "none")

	// A test goes to one webhook alone, whatever it wants.
	b.want(b.do("POST /api/v1/webhooks/"+some+"/test", ""), 200, "type=webhook.test")
	b.want(b.do("GET /api/v1/webhooks/"+some+"/deliveries", ""), 200, "data.0.type=webhook.test", "data.0.data.webhook="+some, "data.1=<none>")
	b.want(b.do("GET "+path+"/deliveries", ""), 200, "data.0.type=wallet.credited")
	b.refused(b.do("POST /api/v1/webhooks/none/test", ""), 404, "not_found", "none")
	b.refused(b.do("POST /api/v1/webhooks/"+some+"/test", `{"url":"x"}`), 400, "invalid_request", "url")

	err = b.db.Tx(ctx, func(tx *ledger.Tx) error { return tx.DisableEndpoint(context.Background(), all) })
	if err != nil {
		t.Fatal(err)
	}
	b.refused(replay(`{"from":"`+since+`"}`), 409, "webhook_disabled", "410 Gone")
	b.refused(b.do("POST "+path+"/test", ""), 409, "webhook_disabled", "410 Gone")
	if list := b.do("GET /api/v1/webhooks", ""); list.at("data.1.disabled_at") == "null" {
		t.Errorf("%s", list.body)
	}
}

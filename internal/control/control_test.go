package control

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"weir/internal/apikey"
	"weir/internal/cards"
	"weir/internal/ledger"
)

func TestAuthentication(t *testing.T) {
	b := start(t)
	for _, header := range []string{"Authorization: ", "Authorization: Bearer wrong", "Authorization: Bearer ", "Authorization: " + token,
		"Authorization: Basic " + token, "Authorization: Bearer " + token + "x"} {
		b.refused(b.do("GET /api/v1/customers", "", header), 401, "unauthorized", "admin token")
		b.refused(b.do("GET /api/v1/tieout", "", header), 401, "unauthorized", "admin token")
		b.refused(b.do("GET /api/v1/no-such-path", "", header), 401, "unauthorized", "admin token")
		b.want(b.do("GET /healthz", "", header), 200, "at=/healthz")
	}
	b.want(b.do("GET /api/v1/customers", "", "Authorization: bearer "+token), 200)
	b.want(b.do("GET /api/v1/tieout", ""), 200, "at=/api/v1/tieout")
	if a := b.do("GET /api/v1/customers", ""); a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", a.header)
	}
}

func TestNoSuchPathOrMethod(t *testing.T) {
	b := start(t)
	for _, path := range []string{"/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v1/customers/a/b", "/", "/nothing", "/healthz/", "/api/v1/../v1/customers",
		"/api/v1//customers", "/api/v1/customers/"} {
		b.refused(b.do("GET "+path, ""), 404, "not_found", "nothing at this path")
	}
	a := b.do("PUT /api/v1/customers", "")
	b.refused(a, 405, "method_not_allowed", "PUT is not possible here")
	if allow := a.header.Get("Allow"); !strings.Contains(allow, "POST") || !strings.Contains(allow, "GET") {
		t.Errorf("Allow: %s", allow)
	}
	b.refused(b.do("POST /healthz", ""), 405, "method_not_allowed", "")
	b.refused(b.do("GET /api/v1/keys/x", ""), 405, "method_not_allowed", "DELETE")
}

func TestCustomers(t *testing.T) {
	b := start(t)
	a := b.do("POST /api/v1/customers", `{"id":"acme","name":"Acme Inc.","plan":"free","metadata":{"crm":{"id":7}}}`)
	b.want(a, 201, "id=acme", "name=Acme Inc.", "plan=free", "status=active", `metadata={"crm":{"id":7}}`)
	if at, err := time.Parse(time.RFC3339, a.at("created_at")); err != nil || time.Since(at) > time.Minute || !strings.HasSuffix(a.at("created_at"), "Z") {
		t.Errorf("created_at %s", a.at("created_at"))
	}
	b.refused(b.do("POST /api/v1/customers", `{"id":"acme"}`), 409, "exists", "acme")
	b.want(b.do("GET /api/v1/customers/acme", ""), 200, "id=acme", "name=Acme Inc.", "plan=free")
	b.refused(b.do("GET /api/v1/customers/none", ""), 404, "not_found", "none")

	b.want(b.do("PATCH /api/v1/customers/acme", `{"status":"frozen"}`), 200, "status=frozen", "plan=free")
	b.want(b.do("PATCH /api/v1/customers/acme", `{"status":"active","plan":"pro"}`), 200, "status=active", "plan=pro")
	b.want(b.do("PATCH /api/v1/customers/acme", `{"plan":""}`), 200, "plan=", "name=Acme Inc.")
	b.want(b.do("GET /api/v1/customers/acme", ""), 200, "status=active", "plan=")
	b.refused(b.do("PATCH /api/v1/customers/none", `{"plan":"x"}`), 404, "not_found", "none")
	b.refused(b.do("PATCH /api/v1/customers/acme", `{}`), 400, "invalid_request", "nothing to change")
	b.refused(b.do("PATCH /api/v1/customers/acme", `{"status":"gone"}`), 422, "invalid_status", "gone")
	b.refused(b.do("PATCH /api/v1/customers/acme", `{"plan":"a b"}`), 422, "invalid_plan", "a b")

	for _, id := range []string{"-a", "a/b", "a b", "é", strings.Repeat("x", 65), ".a"} {
		b.refused(b.do("POST /api/v1/customers", `{"id":"`+id+`"}`), 422, "invalid_id", "does not match")
	}
	b.want(b.do("POST /api/v1/customers", `{"id":"`+strings.Repeat("x", 64)+`"}`), 201)
	b.want(b.do("POST /api/v1/customers", `{"id":"A.b_c-9","metadata":null}`), 201, "metadata={}")
}

func TestStrictBodies(t *testing.T) {
	b := start(t)
	f := func(body, words string) {
		t.Helper()
		b.refused(b.do("POST /api/v1/customers", body), 400, "invalid_request", words)
	}
	f(`{"id":"a","nmae":"x"}`, `unknown field "nmae" (known: id, name, plan, metadata, limits)`)
	f(`{"ID":"a"}`, `unknown field "ID"`)
	f(`{"id":"a","id":"b"}`, `field "id" is there twice`)
	f(`{"id":"a","\u0069d":"b"}`, `field "id" is there twice`)
	f(`{"id":"a","metadata":{"x":1,"x":2}}`, `field "metadata.x" is there twice`)
	f(`{"id":"a"} {}`, "something after the JSON object")
	f(`{"id":"a"}]`, "something after the JSON object")
	f(`["id"]`, "not a JSON object")
	f(`id=a`, "not a JSON object")
	f(`{"id":"a"`, "not JSON")
	f(`{"id":7}`, "id: a number does not belong there")
	f(`{"id":"a","metadata":[1]}`, "metadata: want an object")
	f(`{"id":"a","metadata":`+strings.Repeat(`{"x":`, 20)+"1"+strings.Repeat("}", 20)+"}", "nested too deep")
	f("{\"id\":\"a\",\"name\":\"\xff\"}", "not UTF-8")
	f("", "id is missing")
	b.refused(b.do("POST /api/v1/customers", `{"id":"`+strings.Repeat("a", bodyMax)+`"}`), 413, "body_too_large", "65536")
	b.want(b.do("GET /api/v1/customers", ""), 200, "data=[]", "next_cursor=null")
}

func TestWallet(t *testing.T) {
	b := start(t)
	b.want(b.do("POST /api/v1/customers", `{"id":"acme"}`), 201)
	b.want(b.do("GET /api/v1/customers/acme/wallet", ""), 200, "customer=acme", "currency=usd", "credited=0.00", "debited=0.00", "balance=0.00",
		"held=0.00", "available=0.00", "receivable=0.00", "status=active")
	b.refused(b.do("GET /api/v1/customers/none/wallet", ""), 404, "not_found", "none")

	a := b.do("POST /api/v1/customers/acme/credits", `{"amount":"10.00","reason":"wire","kind":"paid"}`, "Idempotency-Key: 1")
	b.want(a, 201, "wallet.credited=10.00", "wallet.balance=10.00", "wallet.available=10.00", "wallet.customer=acme")
	entry := a.at("entry_id")
	b.want(b.do("POST /api/v1/customers/acme/credits", `{"amount":"0.000000001","reason":"gift","kind":"promo"}`, "Idempotency-Key: 2"), 201,
		"wallet.balance=10.000000001")
	b.want(b.do("POST /api/v1/customers/acme/debits", `{"amount":"4","reason":"mistake"}`, "Idempotency-Key: 3"), 201,
		"wallet.balance=6.000000001", "wallet.debited=4.00", "wallet.credited=10.000000001")
	b.refused(b.do("POST /api/v1/customers/acme/debits", `{"amount":"6.000000002","reason":"x"}`, "Idempotency-Key: 4"), 409, "insufficient_funds", "6.000000001 available")
	b.want(b.do("GET /api/v1/customers/acme/wallet", ""), 200, "balance=6.000000001")

	// Newest first, signed, and the entry ids that the changes answered.
	b.want(b.do("GET /api/v1/customers/acme/entries", ""), 200, "data.0.amount=-4.00", "data.0.kind=debit", "data.1.amount=0.000000001",
		"data.2.amount=10.00", "data.2.kind=credit", "data.2.events=0", "data.2.id="+entry, "data.3=<none>", "next_cursor=null")
	b.refused(b.do("GET /api/v1/customers/none/entries", ""), 404, "not_found", "none")

	for _, amount := range []string{`"0"`, `"-1"`, `"1e3"`, `"+1"`, `"1.0000000001"`, `""`, `" 1"`, `"ten"`, `10`, `null`, `true`, `"1000000000.01"`, `"99999999999999999999"`, `{"a":1}`} {
		for _, route := range []string{"credits", "debits"} {
			b.refused(b.do("POST /api/v1/customers/acme/"+route, `{"amount":`+amount+`,"reason":"x"}`, "Idempotency-Key: bad"), 422, "invalid_amount", "amount")
		}
	}
	b.refused(b.do("POST /api/v1/customers/acme/credits", `{"reason":"x"}`, "Idempotency-Key: bad"), 422, "invalid_amount", "amount")
	b.refused(b.do("POST /api/v1/customers/acme/credits", `{"amount":"1"}`, "Idempotency-Key: bad"), 400, "invalid_request", "reason")
	b.refused(b.do("POST /api/v1/customers/acme/credits", `{"amount":"1","reason":"x","kind":"gift"}`, "Idempotency-Key: bad"), 422, "invalid_kind", "gift")
	b.refused(b.do("POST /api/v1/customers/none/credits", `{"amount":"1","reason":"x"}`, "Idempotency-Key: bad"), 404, "not_found", "none")
}

func TestIdempotency(t *testing.T) {
	b := start(t)
	b.fund("acme", "10")
	const route, body = "POST /api/v1/customers/acme/credits", `{"amount":"1","reason":"x"}`
	b.refused(b.do(route, body), 400, "idempotency_key_required", "Idempotency-Key")
	b.refused(b.do("POST /api/v1/customers/acme/debits", body), 400, "idempotency_key_required", "Idempotency-Key")
	b.refused(b.do(route, body, "Idempotency-Key: "+strings.Repeat("k", 256)), 400, "invalid_request", "255")

	first := b.do(route, body, "Idempotency-Key: k")
	b.want(first, 201, "wallet.balance=11.00")
	if first.header.Get("Idempotent-Replayed") != "" {
		t.Error("the first answer is called a replay")
	}
	b.fund("other", "5")
	again := b.do(route, body, "Idempotency-Key: k")
	if again.status != 201 || again.body != first.body || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("replay: %d %s, first: %s", again.status, again.body, first.body)
	}
	b.refused(b.do(route, `{"amount":"2","reason":"x"}`, "Idempotency-Key: k"), 409, "idempotency_conflict", "another body")
	b.want(b.do("GET /api/v1/customers/acme/wallet", ""), 200, "balance=11.00")

	// A failure is not stored: the same request may succeed later.
	const debit = `{"amount":"100","reason":"x"}`
	b.refused(b.do("POST /api/v1/customers/acme/debits", debit, "Idempotency-Key: d"), 409, "insufficient_funds", "")
	b.want(b.do(route, `{"amount":"100","reason":"more"}`, "Idempotency-Key: m"), 201)
	b.want(b.do("POST /api/v1/customers/acme/debits", debit, "Idempotency-Key: d"), 201, "wallet.balance=11.00")

	// The key counts for its own route only, and where it is optional too.
	b.want(b.do("POST /api/v1/customers", `{"id":"third"}`, "Idempotency-Key: k"), 201)
	a := b.do("POST /api/v1/customers", `{"id":"third"}`, "Idempotency-Key: k")
	b.want(a, 201, "id=third")
	if a.header.Get("Idempotent-Replayed") != "true" {
		t.Error("not a replay")
	}
	b.refused(b.do("POST /api/v1/customers", `{"id":"third"}`), 409, "exists", "third")
}

func TestConcurrentRepeats(t *testing.T) {
	b := start(t)
	b.want(b.do("POST /api/v1/customers", `{"id":"acme"}`), 201)
	bodies := make(chan string)
	const n = 8
	for range n {
		go func() {
			bodies <- b.do("POST /api/v1/customers/acme/credits", `{"amount":"3","reason":"x"}`, "Idempotency-Key: same").body
		}()
	}
	first := <-bodies
	for range n - 1 {
		if body := <-bodies; body != first {
			t.Errorf("two answers: %s and %s", first, body)
		}
	}
	b.want(b.do("GET /api/v1/customers/acme/wallet", ""), 200, "balance=3.00")
}

func TestPaging(t *testing.T) {
	b := start(t)
	for i := range 7 {
		b.want(b.do("POST /api/v1/customers", fmt.Sprintf(`{"id":"c%d"}`, i)), 201)
	}
	var got []string
	cursor := ""
	for range 4 {
		a := b.do("GET /api/v1/customers?limit=3&cursor="+cursor, "")
		b.want(a, 200)
		for _, row := range a.json["data"].([]any) {
			got = append(got, row.(map[string]any)["id"].(string))
		}
		if a.json["next_cursor"] == nil {
			break
		}
		cursor = a.at("next_cursor")
	}
	if strings.Join(got, " ") != "c6 c5 c4 c3 c2 c1 c0" {
		t.Errorf("pages: %v", got)
	}
	for _, limit := range []string{"0", "-1", "1001", "x", "1.5"} {
		b.refused(b.do("GET /api/v1/customers?limit="+limit, ""), 400, "invalid_request", "limit")
	}
	b.want(b.do("GET /api/v1/customers?limit=1000", ""), 200, "data.6.id=c0")
	b.refused(b.do("GET /api/v1/customers?limt=5", ""), 400, "invalid_request", `"limt"`)
	b.refused(b.do("GET /api/v1/customers?cursor=nonsense", ""), 400, "invalid_request", "cursor")
}

func TestKeys(t *testing.T) {
	b := start(t)
	b.fund("acme", "1")
	a := b.do("POST /api/v1/customers/acme/keys", `{"name":"prod","models":["openai/gpt-4o"],"expires_at":"2030-01-01T00:00:00Z"}`)
	b.want(a, 201)
	id, key := a.at("id"), a.at("key")
	if !regexp.MustCompile(`^sk-weir-[0-9A-Za-z]{8}-[0-9A-Za-z]{43}$`).MatchString(key) || a.at("prefix") != "sk-weir-"+id {
		t.Errorf("%s", a.body)
	}
	stored, err := b.db.Key(t.Context(), id)
	if hash := apikey.Hash([]byte("pepper"), key); err != nil || string(stored.Hash) != string(hash[:]) || stored.Customer != "acme" {
		t.Errorf("stored %+v, %v", stored, err)
	}
	list := b.do("GET /api/v1/customers/acme/keys", "")
	b.want(list, 200, "data.0.id="+id, "data.0.name=prod", `data.0.models=["openai/gpt-4o"]`, "data.0.expires_at=2030-01-01T00:00:00Z",
		"data.0.revoked_at=null", "data.0.prefix=sk-weir-"+id, "data.1=<none>")
	if secret := key[len(key)-43:]; strings.Contains(list.body, secret) {
		t.Error("the list shows the key")
	}

	operator := b.do("POST /api/v1/operator-keys", "")
	b.want(operator, 201)
	b.want(b.do("GET /api/v1/operator-keys", ""), 200, "data.0.id="+operator.at("id"), "data.1=<none>")
	b.want(b.do("GET /api/v1/customers/acme/keys", ""), 200, "data.1=<none>")

	revoke := b.do("DELETE /api/v1/keys/"+id, "")
	if revoke.status != 204 || revoke.body != "" {
		t.Errorf("revoke: %d %s", revoke.status, revoke.body)
	}
	b.want(b.do("DELETE /api/v1/keys/"+id, ""), 204)
	if stored, _ := b.db.Key(t.Context(), id); stored.RevokedAt == nil {
		t.Error("the key is not revoked")
	}
	b.refused(b.do("DELETE /api/v1/keys/none", ""), 404, "not_found", "none")
	b.refused(b.do("POST /api/v1/customers/none/keys", ""), 404, "not_found", "none")
	b.refused(b.do("GET /api/v1/customers/none/keys", ""), 404, "not_found", "none")
	b.refused(b.do("POST /api/v1/customers/acme/keys", `{"models":[""]}`), 422, "invalid_models", "")
	b.refused(b.do("POST /api/v1/customers/acme/keys", `{"models":"gpt-4o"}`), 400, "invalid_request", "models")
	b.refused(b.do("POST /api/v1/customers/acme/keys", `{"expires_at":"tomorrow"}`), 422, "invalid_time", "tomorrow")
}

// TestLimits: limits of keys and customers are set, shown, changed one by one,
// and removed by null.
func TestLimits(t *testing.T) {
	b := start(t)
	const all = `{"limits":{"requests_per_minute":60,"tokens_per_minute":100000,"spend_per_day":"5.00","spend_per_month":"50"}}`
	const shown = `limits={"requests_per_minute":60,"spend_per_day":"5.00","spend_per_month":"50.00","tokens_per_minute":100000}`
	b.want(b.do("POST /api/v1/customers", `{"id":"acme",`+all[1:]), 201, shown)
	b.want(b.do("GET /api/v1/customers/acme", ""), 200, shown)
	b.want(b.do("PATCH /api/v1/customers/acme", `{"plan":"pro"}`), 200, "plan=pro", shown)
	b.want(b.do("PATCH /api/v1/customers/acme", `{"limits":{"spend_per_day":null,"tokens_per_minute":7}}`), 200, "plan=pro",
		`limits={"requests_per_minute":60,"spend_per_month":"50.00","tokens_per_minute":7}`)
	b.want(b.do("PATCH /api/v1/customers/acme", `{"status":"frozen","limits":null}`), 200, "status=frozen", "limits=null")

	key := b.do("POST /api/v1/customers/acme/keys", all)
	b.want(key, 201)
	b.want(b.do("GET /api/v1/customers/acme/keys", ""), 200, "data.0."+shown)
	path := "PATCH /api/v1/keys/" + key.at("id")
	b.want(b.do(path, `{"limits":{"requests_per_minute":1}}`), 200, "id="+key.at("id"), "limits.requests_per_minute=1", "limits.spend_per_day=5.00")
	b.want(b.do(path, `{"limits":null}`), 200, "limits=null")
	if stored, err := b.db.Key(t.Context(), key.at("id")); err != nil || (stored.Limits != ledger.Limits{}) {
		t.Errorf("%+v, %v", stored, err)
	}
	b.refused(b.do("PATCH /api/v1/keys/none", all), 404, "not_found", "none")
	b.refused(b.do(path, `{}`), 400, "invalid_request", "nothing to change")
	b.refused(b.do(path, `{"name":"x"}`), 400, "invalid_request", `unknown field "name"`)
	b.refused(b.do(path, `{"limits":7}`), 400, "invalid_request", "limits: want an object")
	b.refused(b.do(path, `{"limits":{"rpm":7}}`), 400, "invalid_request", `unknown field "rpm"`)
	for _, bad := range []string{"0", "-1", "1.5", "1e3", `"60"`, "true", "1000000000001", "99999999999999999999"} {
		b.refused(b.do(path, `{"limits":{"requests_per_minute":`+bad+`}}`), 422, "invalid_limit", "limits.requests_per_minute")
		b.refused(b.do("POST /api/v1/customers/acme/keys", `{"limits":{"tokens_per_minute":`+bad+`}}`), 422, "invalid_limit", "limits.tokens_per_minute")
	}
	for _, bad := range []string{`"0"`, `"-1"`, "5", `"1e3"`, `""`, `"0.0000000001"`, `"1000000000.01"`, "{}"} {
		b.refused(b.do("PATCH /api/v1/customers/acme", `{"limits":{"spend_per_day":`+bad+`}}`), 422, "invalid_limit", "limits.spend_per_day")
		b.refused(b.do("POST /api/v1/customers", `{"id":"x","limits":{"spend_per_month":`+bad+`}}`), 422, "invalid_limit", "limits.spend_per_month")
	}
}

// TestKeyIsNotStored: a repeated request shows the same key again, and yet no
// file of the ledger holds it.
func TestKeyIsNotStored(t *testing.T) {
	b := start(t)
	b.fund("acme", "1")
	first := b.do("POST /api/v1/customers/acme/keys", `{"name":"a"}`, "Idempotency-Key: k")
	again := b.do("POST /api/v1/customers/acme/keys", `{"name":"a"}`, "Idempotency-Key: k")
	if first.status != 201 || again.body != first.body || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("first %s, again %d %s", first.body, again.status, again.body)
	}
	b.want(b.do("GET /api/v1/customers/acme/keys", ""), 200, "data.1=<none>")
	secret := []byte(first.at("key")[len("sk-weir-12345678-"):])
	files, _ := filepath.Glob(filepath.Join(b.dir, "*"))
	if len(files) == 0 {
		t.Fatal("no ledger files")
	}
	for _, name := range files {
		if strings.Contains(read(t, name), string(secret)) {
			t.Errorf("%s holds the key in clear", name)
		}
	}
	// Under another token the stored answer cannot be opened, and says so.
	b.url = b.serve("new-token")
	b.refused(b.do("POST /api/v1/customers/acme/keys", `{"name":"a"}`, "Idempotency-Key: k", "Authorization: Bearer new-token"),
		409, "idempotency_conflict", "another admin token")
}

func TestRates(t *testing.T) {
	b := start(t)
	b.refused(b.do("GET /api/v1/rates/current", ""), 404, "not_found", "no rate card")
	if _, err := cards.PublishFiles(t.Context(), b.db, nil); err != nil {
		t.Fatal(err)
	}
	builtin := b.do("GET /api/v1/rates/current", "")
	b.want(builtin, 200, "models.openai/gpt-4o.cost.input=2.50")
	card := func(multiplier string) string {
		return "version: my-card\nrules:\n  - {multiplier: \"" + multiplier + "\"}\n"
	}
	a := b.do("POST /api/v1/rates", card("3"))
	b.want(a, 201)
	if !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(a.at("version")) || a.at("version") == builtin.at("version") {
		t.Errorf("version %s", a.body)
	}
	b.want(b.do("GET /api/v1/rates/current", ""), 200, "version="+a.at("version"), "label=my-card", "rules.0.multiplier=3",
		"cost_card="+builtin.at("cost_card"), "models.openai/gpt-4o.cost.input=2.50")

	// Publications are whole: the next one replaces all rules, and an older
	// one can come back.
	second := b.do("POST /api/v1/rates", card("2"))
	b.want(b.do("GET /api/v1/rates/current", ""), 200, "version="+second.at("version"))
	b.want(b.do("POST /api/v1/rates", card("3")), 201, "version="+a.at("version"))
	b.want(b.do("GET /api/v1/rates/current", ""), 200, "version="+a.at("version"))
	// One for the future changes nothing now.
	b.want(b.do("POST /api/v1/rates", "effective_from: 2999-01-01T00:00:00Z\n"+card("9")), 201)
	b.want(b.do("GET /api/v1/rates/current", ""), 200, "version="+a.at("version"))
	b.want(b.do("POST /api/v1/rates", card("4"), "Idempotency-Key: r"), 201)
	if a := b.do("POST /api/v1/rates", card("4"), "Idempotency-Key: r"); a.header.Get("Idempotent-Replayed") != "true" {
		t.Error("not a replay")
	}

	bad := b.do("POST /api/v1/rates", "version: x\nrules:\n  - {multiplier: \"-3\"}\n")
	b.refused(bad, 422, "invalid_card", "")
	b.want(bad, 422, "error.line=3")
	b.refused(b.do("POST /api/v1/rates", "modles: {}\n"), 422, "invalid_card", "modles")
	b.refused(b.do("POST /api/v1/rates", strings.Repeat("#", cardMax+1)), 413, "body_too_large", "")
}

func TestAcceptBatch(t *testing.T) {
	b := start(t)
	b.refused(b.do("POST /api/v1/tieout/accept", `{"batch":"t/0/0"}`), 400, "invalid_request", "reason")
	const accept = `{"batch":"t/0/0","reason":"checked"}`
	b.refused(b.do("POST /api/v1/tieout/accept", accept), 404, "not_found", "t/0/0")

	// A batch with a record that nobody can read breaks the tie-out until it
	// is accepted.
	cursor, err := b.db.AcquirePartition(t.Context(), "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.db.Settle(t.Context(), ledger.Batch{Topic: "t", Epoch: cursor.Epoch, To: 1, Dead: []ledger.DeadLetter{{Bytes: []byte("?"), Reason: "unreadable"}}})
	if err != nil {
		t.Fatal(err)
	}
	if breaks := b.breaks(); len(breaks) != 1 || breaks[0].Batch != "t/0/0" {
		t.Errorf("breaks: %+v", breaks)
	}
	b.want(b.do("POST /api/v1/tieout/accept", accept), 200, "batch=t/0/0", "reason=checked")
	b.want(b.do("POST /api/v1/tieout/accept", accept), 200)
	if breaks := b.breaks(); len(breaks) != 0 {
		t.Errorf("breaks: %+v", breaks)
	}
}

// TestLedgerDown: a ledger that cannot be asked is never "not found" or
// "exists", and its own words stay in the log.
func TestLedgerDown(t *testing.T) {
	b := start(t)
	b.fund("acme", "1")
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, path := range []string{"/api/v1/customers/acme/wallet", "/api/v1/customers", "/api/v1/rates/current"} {
		r, _ := http.NewRequestWithContext(ctx, "GET", b.url+path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(text), `"ledger_unavailable"`) || strings.Contains(string(text), "sql") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	if !strings.Contains(b.log.String(), "control request failed") {
		t.Error("nothing is logged")
	}
}

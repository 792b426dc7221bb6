package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"weir/internal/ledger"
	"weir/schemas/money"
)

func TestUnmeteredPaths(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/", "/openai", "/openai/v1/files", "/openai/v1/chat/completions/", "//openai/v1/chat/completions",
		"/openai//v1/chat/completions", "/openai/v1/chat%2fcompletions", "/openai/v1/./chat/completions", "/openai/v1/x/../chat/completions",
		"/OPENAI/v1/chat/completions", "/v1/chat/completions", "/openai/v1/chat/completions;x", "/anthropic/v1/complete"} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			a := r.raw(method+" "+path+" HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer "+r.key+"\r\nContent-Length: 2\r\n\r\n{}", method)
			r.refused(a, 404, "unmetered_path")
			if anthropic := strings.HasPrefix(path, "/anthropic"); anthropic != strings.HasPrefix(a.body, `{"type":"error"`) {
				t.Errorf("%s: the wrong shape: %s", path, a.body)
			}
		}
	}
	if len(r.records()) > 0 || len(r.served("end")) > 0 {
		t.Error("something went upstream")
	}
}

func TestWrongMethod(t *testing.T) {
	r := newRig(t)
	for path, method := range map[string]string{chatPath: "GET", messagesPath: "PUT", "/openai/v1/models": "POST", "/v1/key": "DELETE", "/v1/credits": "OPTIONS"} {
		a := r.do(method, path, "", "Authorization: Bearer "+r.key)
		r.refused(a, 405, "method_not_allowed")
		if a.Get("Allow") == "" {
			t.Error(path + ": no Allow header")
		}
	}
	if a := r.do("HEAD", chatPath, "", "Authorization: Bearer "+r.key); a.status != 405 || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
}

// raw sends bytes as they are and reads one answer to the given method.
func (r *rig) raw(request, method string) reply {
	r.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	must(r.t, err)
	defer conn.Close()
	_, err = conn.Write([]byte(request))
	must(r.t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	must(r.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if res.Close {
		res.Header.Set("Connection", "close") // net/http takes it out
	}
	return reply{res.StatusCode, res.Header, string(text), err}
}

func TestKeyPlaces(t *testing.T) {
	r := newRig(t)
	other := r.newKey("acme")
	for _, c := range []struct {
		query   string
		headers []string
		status  int
		code    string
	}{
		{"", []string{"Authorization: Bearer " + r.key}, 200, ""},
		{"", []string{"Authorization: bearer " + r.key}, 200, ""},
		{"", []string{"X-Api-Key: " + r.key}, 200, ""},
		{"", []string{"x-goog-api-key: " + r.key}, 200, ""},
		{"?key=" + r.key, nil, 200, ""},
		{"", []string{"Authorization: Bearer " + r.key, "X-Api-Key: " + r.key}, 200, ""},
		{"", []string{"Authorization: Bearer " + r.key, "X-Api-Key: " + other}, 400, "ambiguous_key"},
		{"", []string{"Authorization: Bearer " + r.key, "Authorization: Bearer " + other}, 400, "ambiguous_key"},
		{"?key=" + other, []string{"x-goog-api-key: " + r.key}, 400, "ambiguous_key"},
		{"", nil, 401, "invalid_key"},
		{"", []string{"Authorization: Bearer sk-openai-key"}, 401, "invalid_key"},
		{"", []string{"Authorization: Bearer " + r.key[:len(r.key)-1] + "!"}, 401, "invalid_key"},
		{"", []string{"Authorization: Bearer " + swapLast(r.key)}, 401, "invalid_key"},
	} {
		a := r.do("GET", "/v1/key"+c.query, "", c.headers...)
		if c.status == 200 && a.status != 200 {
			t.Errorf("%v: %d %s", c.headers, a.status, a.body)
		} else if c.status != 200 {
			r.refused(a, c.status, c.code)
		}
	}
}

// swapLast changes a key's last character to another that keys may have.
func swapLast(key string) string {
	if last := key[len(key)-1]; last != 'a' {
		return key[:len(key)-1] + "a"
	}
	return key[:len(key)-1] + "b"
}

func TestOperatorKeys(t *testing.T) {
	r := newRig(t)
	ask := func(key string, more ...string) reply {
		return r.do("POST", chatPath, chatBody("in=20 out=10", `"max_tokens":50`), append(more, "Authorization: Bearer "+key)...)
	}
	r.refused(ask(r.operator), 400, "customer_required")
	r.refused(ask(r.operator, "X-Weir-Customer: nobody"), 404, "unknown_customer")
	r.refused(ask(r.operator, "X-Weir-Customer: acme", "X-Weir-Customer: other"), 400, "invalid_request")
	r.refused(ask(r.key, "X-Weir-Customer: acme"), 403, "customer_not_allowed")
	a := ask(r.operator, "X-Weir-Customer: acme")
	if a.status != 200 || a.Get(headerCost) != "0.000009" || a.Get(headerPrice) != "0.000027" {
		t.Errorf("%d, cost %s, price %s", a.status, a.Get(headerCost), a.Get(headerPrice))
	}
	if rec := r.result(); rec.Customer != "acme" {
		t.Errorf("%+v", rec)
	}
}

// TestRevocation: a key revoked or a wallet frozen is refused with the next
// heartbeat, and what was cached before is not believed any more.
func TestRevocation(t *testing.T) {
	r := newRig(t)
	id := strings.Split(r.key, "-")[2]
	second := r.newKey("acme")
	if a := r.chat("", ""); a.status != 200 {
		t.Fatal(a)
	}
	must(t, r.Ledger.Tx(t.Context(), func(tx *ledger.Tx) error { return tx.RevokeKey(t.Context(), id) }))
	must(t, r.heart.Beat(t.Context()))
	r.refused(r.chat("", ""), 401, "invalid_key")
	r.key = second
	frozen := ledger.Frozen
	must(t, r.Ledger.Tx(t.Context(), func(tx *ledger.Tx) error {
		_, err := tx.UpdateCustomer(t.Context(), "acme", &frozen, nil)
		return err
	}))
	must(t, r.heart.Beat(t.Context()))
	a := r.chat("", "")
	r.refused(a, 403, "wallet_frozen")
	if a.Get("x-should-retry") != "false" {
		t.Error("a frozen wallet may not be retried")
	}
}

// TestDirectoryRace: a row that was read before its change, and would be kept
// after it, is not kept.
func TestDirectoryRace(t *testing.T) {
	r := newRig(t)
	d, id := r.directory, strings.Split(r.key, "-")[2]
	row, err := d.key(r.key)
	must(t, err)
	clear(d.keys)
	d.updates = 7
	stale := *row
	d.update([]ledger.Key{stale}, nil) // as if it came between a read and its keeping
	if d.updates == 7 || d.keys[id] != nil {
		t.Error("an update goes unnoticed, or keeps rows that are not in use")
	}
}

// TestLedgerDown: what is known serves from the lease; what is not known is
// 503, never a judgement on the key or the money.
func TestLedgerDown(t *testing.T) {
	r := newRig(t)
	fresh, poor := r.newKey("acme"), r.customer("poor", 0)
	if a := r.chat("in=20 out=10", `"max_tokens":1000`); a.status != 200 {
		t.Fatal(a)
	}
	r.do("GET", "/v1/key", "", "Authorization: Bearer "+poor) // its row is cached; it has no lease
	must(t, r.Ledger.Close())
	if a := r.chat("in=20 out=10", `"max_tokens":10`); a.status != 200 {
		t.Errorf("a warm wallet: %d %s", a.status, a.body)
	}
	for _, key := range []string{fresh, poor} {
		a := r.do("POST", chatPath, chatBody("", `"max_tokens":10`), "Authorization: Bearer "+key)
		r.refused(a, 503, "ledger_unavailable")
		if a.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	r.refused(r.do("POST", chatPath, "{}", "Authorization: Bearer garbage"), 401, "invalid_key") // no form of a key at all
}

func TestOwnData(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Generation = func(_ context.Context, customer, id string) ([]byte, error) {
			if id == "1" && customer == "acme" {
				return []byte(`{"data":{"id":"1"}}`), nil
			}
			return nil, fmt.Errorf("request %s: %w", id, ledger.ErrNotFound)
		}
	})
	other := r.customer("other", money.Dollar)
	get := func(path, key string) reply { return r.do("GET", path, "", "Authorization: Bearer "+key) }
	fields(t, get("/v1/key", r.key).body, "name", "customer", "prefix", "models", "usage", "expires_at")
	fields(t, get("/v1/credits", r.key).body, "currency", "balance", "held", "available")
	if a := get("/v1/credits", r.key); !strings.Contains(a.body, `"balance":"100.00"`) {
		t.Error(a.body)
	}
	if a := get("/v1/generation?id=1", r.key); a.status != 200 || a.body != `{"data":{"id":"1"}}` {
		t.Error(a)
	}
	r.refused(get("/v1/generation?id=1", other), 404, "not_found")
	r.refused(get("/v1/generation?id=2", r.key), 404, "not_found")
	r.refused(get("/v1/generation", r.key), 404, "not_found")
}

// fields checks the names in a body's data object.
func fields(t *testing.T, body string, names ...string) {
	t.Helper()
	var got struct{ Data map[string]any }
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.Data) != len(names) {
		t.Errorf("%s: %v", body, err)
	}
	for _, name := range names {
		if _, ok := got.Data[name]; !ok {
			t.Errorf("no %s in %s", name, body)
		}
	}
}

func TestModels(t *testing.T) {
	r := newRig(t)
	key := r.newKey("acme", "openai/gpt-4o-mini*", "claude-haiku-4-5")
	get := func(path string) (list struct {
		Object  string
		HasMore *bool `json:"has_more"`
		Data    []struct{ ID, Object, Type string }
	}) {
		a := r.do("GET", path, "", "X-Api-Key: "+key)
		if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.status != 200 {
			t.Fatal(a, err)
		}
		return list
	}
	if l := get("/openai/v1/models"); l.Object != "list" || len(l.Data) != 2 || l.Data[0].ID != "gpt-4o-mini" || l.Data[0].Object != "model" {
		t.Errorf("%+v", l)
	}
	if l := get("/anthropic/v1/models"); l.HasMore == nil || len(l.Data) != 1 || l.Data[0].ID != "claude-haiku-4-5" || l.Data[0].Type != "model" {
		t.Errorf("%+v", l)
	}
	a := r.do("POST", chatPath, `{"model":"gpt-4o","messages":[],"max_tokens":9}`, "X-Api-Key: "+key)
	r.refused(a, 403, "model_not_allowed")
}

func TestHealth(t *testing.T) {
	r := newRig(t)
	if a := r.do("GET", "/healthz", ""); a.status != 200 {
		t.Error(a)
	}
	if a := r.do("GET", "/readyz", ""); a.status != 200 {
		t.Error(a)
	}
	r.stopping.Store(true)
	if a := r.do("GET", "/readyz", ""); a.status != 503 || !strings.Contains(a.body, "stopping") {
		t.Error(a)
	}
	r.refused(r.chat("", ""), 503, "stopping")
}

// TestPanic: a bug in one request is that request's alone.
func TestPanic(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Generation = func(context.Context, string, string) ([]byte, error) { panic("a bug") }
	})
	r.refused(r.do("GET", "/v1/generation?id=1", "", "Authorization: Bearer "+r.key), 500, "internal")
	card := r.Cards
	r.Cards = nil
	r.refused(r.chat("", `"max_tokens":9`), 500, "internal")
	r.Cards = card
	if a := r.chat("", `"max_tokens":9`); a.status != 200 {
		t.Error(a)
	}
}

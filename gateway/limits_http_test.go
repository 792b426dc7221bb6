package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/apikey"
	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// limitedKey makes a key of acme with limits.
func (r *rig) limitedKey(l ledger.Limits) (text, id string) {
	r.t.Helper()
	text, id = apikey.Make()
	hash := apikey.Hash(r.Pepper, text)
	must(r.t, r.Ledger.Tx(r.t.Context(), func(tx *ledger.Tx) error {
		return tx.CreateKey(r.t.Context(), ledger.Key{ID: id, Customer: "acme", Name: "test", Prefix: apikey.Prefix(id), Hash: hash[:], Limits: l})
	}))
	return text, id
}

// frozenClock keeps the limits' clock at the 20th second of a minute of today.
func frozenClock(g *Gateway) {
	at := time.Now().Truncate(time.Minute).Add(20 * time.Second)
	g.limits.now, g.limits.started = func() time.Time { return at }, time.Time{}
}

// at64 runs fn, which sends requests, 64 times at once.
func at64(fn func()) {
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(fn)
	}
	wg.Wait()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // a shutdown would wait for them
}

// TestParallelRequests: of 64 requests at once exactly as many pass as the key
// may send, and the answers say so.
func TestParallelRequests(t *testing.T) {
	r := newTunedRig(t, frozenClock)
	r.key, _ = r.limitedKey(ledger.Limits{RequestsPerMinute: 10, TokensPerMinute: 1_000_000})
	var mu sync.Mutex
	passed := 0
	at64(func() {
		a := r.chat("in=20 out=10", `"max_tokens":50`)
		mu.Lock()
		defer mu.Unlock()
		if a.status == 200 {
			passed++
			return
		}
		m := r.refused(a, 429, "rate_limited")
		if at, err := time.Parse(time.RFC3339, fmt.Sprint(m["resets_at"])); m["reason"] != "requests_per_minute" || err != nil || at.Second() != 0 || a.Get("Retry-After") != "40" {
			t.Errorf("%s, Retry-After %s", a.body, a.Get("Retry-After"))
		}
		if a.Get("X-Ratelimit-Limit-Requests") != "10" || a.Get("X-Ratelimit-Remaining-Requests") != "0" || a.Get("X-Ratelimit-Reset-Requests") != "40s" {
			t.Errorf("%v", a.Header)
		}
	})
	if served := len(r.served("start")); passed != 10 || served != 10 {
		t.Errorf("%d of 64 passed, %d served; want 10", passed, served)
	}
	own := r.do("GET", "/v1/key", "", "Authorization: Bearer "+r.key)
	var body struct {
		Data struct{ Limits, Remaining map[string]any }
	}
	// 30 tokens were used by each of the ten.
	must(t, json.Unmarshal([]byte(own.body), &body))
	if fmt.Sprint(body.Data.Limits) != "map[requests_per_minute:10 tokens_per_minute:1e+06]" ||
		fmt.Sprint(body.Data.Remaining) != "map[requests_per_minute:0 tokens_per_minute:999700]" {
		t.Error(own.body)
	}
}

// TestParallelSpend: 64 clients send until nothing more fits. The limit is not
// passed, and nothing that would have fitted was kept out.
func TestParallelSpend(t *testing.T) {
	r := newRig(t)
	const limit = 300_000
	r.key, _ = r.limitedKey(ledger.Limits{SpendPerDay: limit})
	bound := r.chat("in=20 out=10", `"max_tokens":50`).Get(headerReserved)
	at64(func() {
		for {
			a := r.chat("in=20 out=10", `"max_tokens":50`)
			if a.status == 200 {
				continue
			}
			if m := r.refused(a, 429, "rate_limited"); m["reason"] != "spend_per_day" {
				t.Errorf("%s", a.body)
			}
			if a.Get("Retry-After") != "1" { // not only in flight: spent
				return
			}
		}
	})
	var spent money.Nano
	for _, rec := range r.records(usage.KindUsage) {
		spent += rec.Price
	}
	need, err := money.ParseNano(bound)
	if must(t, err); spent > limit || limit-spent >= need {
		t.Errorf("%s of %s spent; a request needs %s", spent, money.Nano(limit), need)
	}
}

// TestLimitsArrive: a limit that is set, changed or removed holds from the next
// beat on; of key and customer the tighter one is told.
func TestLimitsArrive(t *testing.T) {
	r := newTunedRig(t, frozenClock)
	var id string
	r.key, id = r.limitedKey(ledger.Limits{})
	send := func() reply { return r.chat("in=20 out=10", `"max_tokens":50`) }
	if a := send(); a.status != 200 || a.Get("X-Ratelimit-Limit-Tokens") != "" {
		t.Fatalf("%d %v", a.status, a.Header)
	}
	set := func(key, customer ledger.Limits) {
		must(t, r.Ledger.Tx(t.Context(), func(tx *ledger.Tx) error {
			if _, err := tx.LimitKey(t.Context(), id, func(l *ledger.Limits) { *l = key }); err != nil {
				return err
			}
			_, err := tx.LimitCustomer(t.Context(), "acme", func(l *ledger.Limits) { *l = customer })
			return err
		}))
		must(t, r.heart.Beat(t.Context()))
	}
	set(ledger.Limits{RequestsPerMinute: 5}, ledger.Limits{RequestsPerMinute: 2})
	if a := send(); a.status != 200 || a.Get("X-Ratelimit-Limit-Requests") != "2" || a.Get("X-Ratelimit-Remaining-Requests") != "1" {
		t.Errorf("%d %v", a.status, a.Header)
	}
	send()
	if a := send(); !strings.Contains(a.body, "This customer may send 2 requests a minute.") || a.status != 429 {
		t.Errorf("%d %s", a.status, a.body)
	}
	set(ledger.Limits{RequestsPerMinute: 5}, ledger.Limits{})
	if a := send(); a.status != 200 || a.Get("X-Ratelimit-Remaining-Requests") != "2" {
		t.Errorf("%d %v", a.status, a.Header)
	}
	_, err := r.Ledger.StartSession(t.Context(), ledger.Session{ID: "second", Gateway: "a", TTL: time.Minute})
	must(t, err)
	set(ledger.Limits{RequestsPerMinute: 11}, ledger.Limits{})
	if a := send(); a.status != 200 || a.Get("X-Ratelimit-Remaining-Requests") != "1" { // the smaller half is 5, and 4 are counted
		t.Errorf("%d %v", a.status, a.Header)
	}
	set(ledger.Limits{}, ledger.Limits{SpendPerDay: 1})
	if m := r.refused(send(), 429, "rate_limited"); m["reason"] != "spend_per_day" {
		t.Errorf("%v", m)
	}
	set(ledger.Limits{}, ledger.Limits{})
	if a := send(); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestProviderLimits: the provider's headers about the platform's account give
// way to those about the key, on every answer; without limits they pass.
func TestProviderLimits(t *testing.T) {
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Ratelimit-Limit-Requests", "10000")
		w.Header().Set("X-Ratelimit-Limit-Project-Tokens", "77")
		w.WriteHeader(503)
	}))
	defer provider.Close()
	r := newTunedRig(t, frozenClock, func(o *Options) { o.Upstreams[0].BaseURL = provider.URL })
	if a := r.chat("", `"max_tokens":50`); a.status != 503 || a.Get("X-Ratelimit-Limit-Requests") != "10000" || a.Get("X-Ratelimit-Limit-Project-Tokens") != "77" {
		t.Errorf("%d %v", a.status, a.Header)
	}
	r.key, _ = r.limitedKey(ledger.Limits{RequestsPerMinute: 5})
	a := r.chat("", `"max_tokens":50`)
	if got := a.Values("X-Ratelimit-Limit-Requests"); a.status != 503 || fmt.Sprint(got) != "[5]" || a.Get("X-Ratelimit-Limit-Project-Tokens") != "" {
		t.Errorf("%d %v", a.status, a.Header)
	}
}

// TestUnlimitedCost: a key without limits costs nothing.
func TestUnlimitedCost(t *testing.T) {
	l := newLimits(nil, "g")
	c := &call{who: identity{&ledger.Key{}, &ledger.Customer{}}}
	if n := testing.AllocsPerRun(100, func() {
		if l.admit(c, 1) != nil {
			t.Fatal("refused")
		}
		l.record(c, true)
		l.tell(nil, c)
	}); n != 0 || len(l.keys)+len(l.customers) > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRefusedCallsAreGivenBack: what the wallet or the upstream refuses leaves
// no count behind but the request's own.
func TestRefusedCallsAreGivenBack(t *testing.T) {
	r := newTunedRig(t, frozenClock)
	r.customer("poor", 1)
	must(t, r.Ledger.Tx(t.Context(), func(tx *ledger.Tx) error {
		_, err := tx.LimitCustomer(t.Context(), "poor", func(l *ledger.Limits) {
			*l = ledger.Limits{RequestsPerMinute: 1, TokensPerMinute: 500, SpendPerDay: money.Dollar}
		})
		return err
	}))
	poor := r.newKey("poor")
	send := func(control string) reply {
		return r.do("POST", chatPath, chatBody(control, `"max_tokens":50`), "Authorization: Bearer "+poor)
	}
	for range 2 {
		a := send("in=20 out=10")
		r.refused(a, 402, "insufficient_funds")
		if a.Get("X-Ratelimit-Remaining-Requests") != "1" || a.Get("X-Ratelimit-Remaining-Tokens") != "500" {
			t.Errorf("%v", a.Header)
		}
	}
	must(t, r.Ledger.Tx(t.Context(), func(tx *ledger.Tx) error {
		_, _, err := tx.Credit(t.Context(), ledger.Credit{Customer: "poor", Amount: money.Dollar})
		return err
	}))
	a := send("status=500")
	if a.status != 500 || a.Get("X-Ratelimit-Remaining-Requests") != "0" || a.Get("X-Ratelimit-Remaining-Tokens") != "500" {
		t.Errorf("%d %s %v", a.status, a.body, a.Header)
	}
}

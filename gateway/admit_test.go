package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/schemas/money"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

func TestHeaders(t *testing.T) {
	r := newRig(t)
	a := r.chat("in=20 out=10", `"max_tokens":50`)
	if a.status != 200 || a.Get(headerPrice) != "0.000027" || a.Get(headerCost) != "" || a.Get(headerMaxTokens) != "" {
		t.Errorf("%d %v", a.status, a.Header)
	}
	rec := r.result()
	if a.Get(headerReserved) != rec.Reserved.String() || rec.Reserved <= rec.Price {
		t.Errorf("reserved %s, in the record %s at a price of %s", a.Get(headerReserved), rec.Reserved, rec.Price)
	}
	if a.Get(headerBalance) != (100*money.Dollar - rec.Price).String() {
		t.Errorf("balance %s", a.Get(headerBalance))
	}
	if a.Get(headerRequestID) != rec.RequestID || r.served("end")[0].RequestID != rec.RequestID {
		t.Error("one request has several ids")
	}
	want := usage.Quantities{usage.Input: 20, usage.Output: 10}
	if rec.Kind != usage.KindUsage || rec.Row != usage.RowUsage || rec.Status != usage.StatusOK || rec.Meters != want || rec.Estimated ||
		rec.Cost != 9000 || rec.Price != 27000 || rec.Model != "gpt-4o-mini" || rec.ModelBilled != "gpt-4o-mini-2024-07-18" || rec.Rule != "default" ||
		rec.API != "openai.chat" || rec.Provider != "openai" || rec.HTTPStatus != 200 || rec.Seq != 1 || len(rec.CostCard) != 64 || len(rec.PriceCard) != 64 {
		t.Errorf("%+v", rec)
	}
}

func TestTags(t *testing.T) {
	r := newRig(t)
	ask := func(headers ...string) reply {
		return r.do("POST", chatPath, chatBody("in=20 out=10", `"max_tokens":50`), append(headers, "Authorization: Bearer "+r.key)...)
	}
	many := make([]string, maxTags+1)
	for i := range many {
		many[i] = fmt.Sprintf("X-Weir-Tag-t%d: x", i)
	}
	for _, bad := range [][]string{{"X-Weir-Tag-a.b: x"}, {"X-Weir-Tag-é: x"}, {"X-Weir-Tag-" + strings.Repeat("a", 33) + ": x"},
		{"X-Weir-Tag-a: " + strings.Repeat("x", 65)}, {"X-Weir-Tag-a: 1", "X-Weir-Tag-A: 2"}, {"X-Weir-Tag-a: \xff"}, many} {
		if strings.Contains(bad[0], "é") {
			continue // no client sends it: Go's does not
		}
		r.refused(ask(bad...), 400, "invalid_tag")
	}
	if a := ask("X-Weir-Tag-Team: blue", "x-weir-tag-feature_2: "+strings.Repeat("x", 64)); a.status != 200 {
		t.Error(a)
	}
	tags := r.result().Tags
	slices.SortFunc(tags, func(a, b usage.Tag) int { return strings.Compare(a.Key, b.Key) })
	if !slices.Equal(tags, []usage.Tag{{Key: "feature_2", Value: strings.Repeat("x", 64)}, {Key: "team", Value: "blue"}}) {
		t.Errorf("%+v", tags)
	}
}

// TestMissingLimit: a limit that the client left out is put in, so that what
// was reserved bounds the answer: the model's, or what half the wallet pays.
func TestMissingLimit(t *testing.T) {
	rich := newRig(t)
	a := rich.chat("in=20 out=16384", "")
	if a.status != 200 || a.Get(headerMaxTokens) != "16384" {
		t.Errorf("a rich wallet: %d, limit %q", a.status, a.Get(headerMaxTokens))
	}
	r := newRig(t)
	r.key = r.customer("small", money.Dollar/100)
	a = r.chat("in=20 out=16384", "")
	limit := 0
	fmt.Sscan(a.Get(headerMaxTokens), &limit)
	// Half of a cent, less the input's bound, at 1,800 nano-dollars a token.
	if a.status != 200 || limit < 2500 || limit > 2778 || r.result().Meters[usage.Output] != uint64(limit) {
		t.Errorf("%d, limit %d, %d tokens", a.status, limit, r.result().Meters[usage.Output])
	}
	r.key = r.customer("tiny", 1000)
	m := r.refused(r.chat("", ""), 402, "insufficient_funds")
	if m["available"] != "0.000001" || m["reason"] != "request_exceeds_balance" {
		t.Error(m)
	}
	r.MissingMax = missingRefuse
	r.refused(r.chat("", ""), 400, "invalid_request")
	r.MissingMax = "model"
	r.refused(r.chat("", ""), 402, "insufficient_funds")
	r.key = r.newKey("acme")
	if a = r.chat("in=20 out=20000", ""); a.Get(headerMaxTokens) != "16384" {
		t.Errorf("missing_max: model gives %q", a.Get(headerMaxTokens))
	}
}

// TestZeroLimit: servers of OpenAI's API are known to read a limit of 0 as none,
// so it is refused there. Anthropic's 0 asks for no output, and reserves none.
func TestZeroLimit(t *testing.T) {
	r := newRig(t)
	for _, limit := range []string{`"max_tokens":0`, `"max_completion_tokens":0`, `"max_tokens":50,"max_completion_tokens":0`, `"max_tokens":0,"stream":true`} {
		r.refused(r.chat("", limit), 400, "invalid_request")
	}
	if n := len(r.served("end")); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
	reserved := func(limit int) money.Nano {
		t.Helper()
		r.do("POST", messagesPath, fmt.Sprintf(`{"model":"claude-haiku-4-5","max_tokens":%d,"messages":[{"role":"user","content":"hello"}]}`, limit), "x-api-key: "+r.key)
		recs := r.records(usage.KindUsage)
		return recs[len(recs)-1].Reserved // the stand-in does not serve 0
	}
	none, some := reserved(0), reserved(5)
	if none == 0 || some-none != 3*5*5000 { // three times the cost of 5 tokens
		t.Errorf("%s reserved without output, %s for 5 tokens", none, some)
	}
}

// TestWindow: a limit that weir puts in leaves room for the input.
func TestWindow(t *testing.T) {
	r := newRig(t)
	body := `{"model":"gpt-4","messages":[{"role":"user","content":"` + strings.Repeat("word ", 600) + `"}]}`
	a := r.do("POST", chatPath, body, "Authorization: Bearer "+r.key)
	limit := 0
	if fmt.Sscan(a.Get(headerMaxTokens), &limit); a.status != 200 || limit < fitFloor || limit > 8192-3000 {
		t.Errorf("%d, limit %d of a window of 8192 with 3000 bytes of input", a.status, limit)
	}
}

func TestMoneyRefusals(t *testing.T) {
	r := newRig(t)
	r.key = r.customer("poor", 0)
	a := r.chat("", `"max_tokens":100`)
	m := r.refused(a, 402, "insufficient_funds")
	if m["reason"] != "balance_exhausted" || m["available"] != "0.00" || m["held"] != "0.00" || m["required"] == "" || m["currency"] != "usd" ||
		m["top_up_url"] != "https://platform.example/topup?for=poor" {
		t.Error(m)
	}
	if a.Get("x-should-retry") != "false" {
		t.Error("402 may not be retried")
	}
	// A request in flight holds all there is.
	r.key = r.customer("one", money.Dollar/100)
	c := r.dial(chatPath, r.key, chatBody("in=20 out=10 delay=1s", `"max_tokens":5000`))
	r.reaches(1)
	a = r.chat("", `"max_tokens":4000`)
	m = r.refused(a, 429, "funds_held")
	if a.Get("Retry-After") != "1" || m["reason"] != "held_by_in_flight" {
		t.Error(a.Header, m)
	}
	c.Close()
}

func TestAnthropicShape(t *testing.T) {
	r := newRig(t)
	poor := r.customer("poor", 0)
	a := r.do("POST", messagesPath, `{"model":"claude-haiku-4-5","max_tokens":9,"messages":[]}`, "x-api-key: "+poor)
	if m := r.refused(a, 402, "insufficient_funds"); m["top_up_url"] != "https://platform.example/topup?for=poor" {
		t.Error(m)
	}
	r.TopUpURL = ""
	if m := r.refused(r.do("POST", messagesPath, `{"model":"claude-haiku-4-5","max_tokens":9,"messages":[]}`, "x-api-key: "+poor), 402, "insufficient_funds"); m["top_up_url"] != nil {
		t.Error(m)
	}
	var body struct {
		Type      string
		Error     struct{ Type string }
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Type != "error" || body.Error.Type != "billing_error" || body.RequestID != a.Get(headerRequestID) {
		t.Errorf("%s %v", a.body, err)
	}
}

func TestBodyRefusals(t *testing.T) {
	r := newRig(t)
	ask := func(body string, headers ...string) reply {
		return r.do("POST", chatPath, body, append(headers, "Authorization: Bearer "+r.key)...)
	}
	r.refused(ask("[]"), 400, "invalid_request")
	r.refused(ask(`{"model":"gpt-4o-mini","max_tokens":-1}`), 400, "invalid_request")
	r.refused(ask(`{"model":"gpt-4o-mini","Model":"gpt-4o"}`), 422, "ambiguous_request")
	r.refused(ask(`{"model":"gpt-17"}`), 422, "unpriced_model")
	r.refused(ask(`{"model":"gpt-4o-mini","service_tier":"priority"}`), 422, "unpriced_option")
	r.refused(ask(chatBody("", ""), "Content-Encoding: gzip"), 415, "encoded_body")
	if a := ask(`{"model":"gpt-17"}`); a.Get("x-should-retry") != "false" {
		t.Error("422 may not be retried")
	}
	a := r.do("POST", messagesPath, `{"model":"claude-haiku-4-5","max_tokens":9,"messages":[]}`, "x-api-key: "+r.key, "anthropic-beta: context-1m-2025-08-07")
	r.refused(a, 422, "unpriced_option")
	if n := len(r.records()); n != 0 {
		t.Errorf("%d records of requests that were refused", n)
	}
}

func TestUnreadableRequests(t *testing.T) {
	r := newRig(t)
	body := chatBody("", `"max_tokens":9`)
	twice := fmt.Sprintf("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	head := "POST " + chatPath + " HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer " + r.key + "\r\n"
	for request, want := range map[string]struct {
		status int
		code   string
	}{
		head + "X-Long: " + strings.Repeat("x", 17<<10) + "\r\n\r\n": {431, "headers_too_large"},
		head + "Content-Length: 33554433\r\n\r\n{":                   {413, "body_too_large"},
		"NONSENSE\r\n\r\n": {400, "invalid_request"},
		head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}": {400, "invalid_request"},
		head + twice: {400, "invalid_request"},
	} {
		a := r.raw(request, "POST")
		r.refused(a, want.status, want.code)
		if a.Get("Connection") != "close" {
			t.Errorf("%d: the connection is kept", a.status)
		}
	}
}

// TestExpect: a client that asks whether it may send its body may.
func TestExpect(t *testing.T) {
	r := newRig(t)
	body := chatBody("in=20 out=10", `"max_tokens":50`)
	a := r.do("POST", chatPath, body, "Authorization: Bearer "+r.key, "Expect: 100-continue")
	if a.status != 200 {
		t.Error(a)
	}
}

func TestBudget(t *testing.T) {
	r := newRig(t)
	gift := r.customer("gift", 10*money.Dollar)
	// 10,000 in and out cost 7,500,000 nano-dollars; the rule pays half of it and
	// may lose 200,000 a day, so only small requests go by it.
	ask := func(limit int) {
		t.Helper()
		a := r.do("POST", chatPath, chatBody("in=20 out=100000", fmt.Sprintf(`"max_tokens":%d`, limit)), "Authorization: Bearer "+gift)
		if a.status != 200 {
			t.Fatal(a)
		}
	}
	ask(200)  // loses 61,500
	ask(200)  // loses as much again
	ask(1000) // would lose 301,500: the default rule
	for range 5 {
		ask(200)
	}
	var lost money.Nano
	names := map[string]int{}
	for _, rec := range r.records(usage.KindUsage) {
		lost += max(rec.Cost-rec.Price, 0)
		names[rec.Rule]++
	}
	if lost > 200_000 || lost < 120_000 || names["customer=gift"] != 3 || names["default"] != 5 {
		t.Errorf("lost %d nano-dollars of 200,000; rules %v", lost, names)
	}
}

// TestBudgetDay: an allowance of yesterday does not add to today's budget.
func TestBudgetDay(t *testing.T) {
	r := newRig(t)
	rule := r.Cards.Current(time.Now()).Rule("customer=gift")
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	bound := ratecard.Rated{Cost: 150_000}
	yesterday, ok := r.budgets.take(rule, bound, noon)
	if !ok {
		t.Fatal("does not fit")
	}
	if _, ok := r.budgets.take(rule, ratecard.Rated{Cost: 150_000}, noon.Add(24*time.Hour)); !ok {
		t.Fatal("a new day has no budget of its own")
	}
	r.budgets.giveAll(yesterday)
	if _, ok := r.budgets.take(rule, bound, noon.Add(24*time.Hour)); ok {
		t.Error("a day lost more than its budget")
	}
}

func TestFreeModel(t *testing.T) {
	r := newRig(t)
	r.key = r.customer("freebie", 0)
	a := r.chat("in=20 out=10", `"max_tokens":50`)
	rec := r.result()
	if a.status != 200 || a.Get(headerPrice) != "0.00" || rec.Price != 0 || rec.Cost != 9000 || rec.Rule != "plan=free" {
		t.Errorf("%d %+v", a.status, rec)
	}
}

func TestFee(t *testing.T) {
	r := newRig(t)
	r.key = r.customer("feed", money.Dollar)
	r.chat("in=20 out=10", `"max_tokens":50`)
	r.chat("status=500", `"max_tokens":50`)
	recs := r.records(usage.KindUsage)
	if len(recs) != 2 || recs[0].Price != 27_000+1_000_000 || recs[1].Price != 0 {
		t.Errorf("%+v", recs)
	}
}

func TestSpoolFull(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxRequest = time.Second })
	broken := func() error { return errors.New("input/output error") }
	r.syncing.Store(&broken)
	a := r.chat("in=20 out=10", `"max_tokens":50`)
	r.refused(a, 503, "spool_full")
	if strings.Contains(a.body, "choices") {
		t.Error("the answer was given without a record")
	}
	r.refused(r.chat("", `"max_tokens":50`), 503, "spool_full")
	if n := len(r.served("start")); n != 1 {
		t.Errorf("%d requests went upstream", n)
	}
}

// TestLeakageLimit: a customer whose requests leak more than a dollar's worth
// in an hour is slowed down; others are not.
func TestLeakageLimit(t *testing.T) {
	r := newRig(t)
	now := time.Now()
	if r.leakage.add("acme", money.Dollar, now) || r.leakage.exceeded("acme", now) {
		t.Error("a dollar is allowed")
	}
	if !r.leakage.add("acme", 1, now.Add(time.Second)) || r.leakage.add("acme", 1, now.Add(time.Second)) {
		t.Error("passing the limit is told once")
	}
	a := r.chat("", "")
	r.refused(a, 429, "leakage_limit")
	if a.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if r.leakage.exceeded("other", now) || !r.leakage.exceeded("acme", now.Add(58*time.Minute)) || r.leakage.exceeded("acme", now.Add(61*time.Minute)) {
		t.Error("the hour does not slide, or is everybody's")
	}
}

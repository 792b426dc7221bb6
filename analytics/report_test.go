package analytics

import (
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/internal/warehouse/warehousetest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestReports holds all three reports, by every dimension and over ranges that
// the rollup and that only the events can answer, to sums over the records.
func TestReports(t *testing.T) {
	b := newWorld(t, warehousetest.Open(t))
	rng := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		b.settle(b.records(rng, 400))
	}
	day := firstDay.AddDate(0, 0, 1)
	edge := b.records(rng, 20) // half a millisecond before a bound that is used below
	for i := range edge {
		edge[i].TimeMs = day.UnixMilli()
	}
	b.settle(edge)
	for _, kind := range []string{"margin", "usage", "leakage"} {
		for _, by := range []string{"", "customer", "model", "provider", "day", "hour", "customer,day", "key_id", "rule", "status", "customer,model,rule"} {
			for _, when := range [][2]string{{"", ""}, {"2026-11-21", ""}, {"", "2026-11-22T06:00:00Z"}, {"2026-11-21T03:00:00+02:00", "2026-11-22"},
				{"2026-11-21T00:00:00.001Z", "2026-11-22T10:20:30Z"}, {"2026-11-21T00:00:00.0005Z", ""}} {
				b.checkReport(kind, by, when[0], when[1])
			}
		}
	}
	if got := b.ask("/reports/margin?from=" + day.AddDate(1, 0, 0).Format(time.DateOnly)); len(got["rows"].([]any)) != 0 ||
		fmt.Sprint(got["totals"]) != "map[cost:0.00 margin:0.00 margin_percent:<nil> price:0.00 requests:0]" || got["fresh_to"] == nil {
		t.Errorf("a year without events: %v", got)
	}
	b.checkNames()
	b.checkRefusals()
}

// figures are a report's row, computed from the records.
type figures map[string]*big.Int

func (b *world) checkReport(kind, by, from, to string) {
	b.Helper()
	want, total := map[string]figures{}, figures{}
	for i := range b.all {
		r := &b.all[i]
		if !within(r, from, to) || kind == "leakage" && r.Row != usage.RowLeakage {
			continue
		}
		key := keyOf(r, by)
		if want[key] == nil {
			want[key] = figures{}
		}
		want[key].count(kind, r)
		total.count(kind, r)
	}
	query := url.Values{}
	for name, value := range map[string]string{"by": by, "from": from, "to": to} {
		if value != "" {
			query.Set(name, value)
		}
	}
	path := "/reports/" + kind + "?" + query.Encode()
	got := b.ask(path)
	if n := len(got["rows"].([]any)); n != len(want) {
		b.Errorf("%s: %d rows, not %d", path, n, len(want))
		return
	}
	for _, one := range got["rows"].([]any) {
		r := one.(map[string]any)
		want[rowKey(r, by)].check(b, path, kind, r)
	}
	total.check(b, path, kind, got["totals"].(map[string]any))
}

func within(r *usage.Record, from, to string) bool {
	at := time.UnixMilli(r.TimeMs)
	for _, bound := range []struct {
		text  string
		after bool
	}{{from, true}, {to, false}} {
		if bound.text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, bound.text)
		if err != nil {
			t, _ = time.Parse(time.DateOnly, bound.text)
		}
		if at.Before(t) == bound.after {
			return false
		}
	}
	return true
}

func dimensionsOf(by string) []string {
	if by == "" {
		by = "customer,model"
	}
	return strings.Split(strings.ReplaceAll(by, "model", "provider,model"), ",")
}

func keyOf(r *usage.Record, by string) (key string) {
	at := time.UnixMilli(r.TimeMs).UTC()
	for _, d := range dimensionsOf(by) {
		key += "|" + map[string]string{"customer": r.Customer, "provider": r.Provider, "model": r.Model, "key_id": r.KeyID, "rule": r.Rule,
			"status": r.Status.String(), "day": at.Format(time.DateOnly), "hour": at.Truncate(time.Hour).Format(time.RFC3339)}[d]
	}
	return key
}

func rowKey(r map[string]any, by string) (key string) {
	for _, d := range dimensionsOf(by) {
		key += fmt.Sprint("|", r[d])
	}
	return key
}

func (f figures) add(name string, n int64) {
	if f[name] == nil {
		f[name] = new(big.Int)
	}
	f[name].Add(f[name], big.NewInt(n))
}

func (f figures) count(kind string, r *usage.Record) {
	isUsage := int64(0)
	if r.Row == usage.RowUsage {
		isUsage = 1
	}
	if kind == "leakage" {
		f.add("count", 1)
		f.add("reserved", int64(r.Reserved))
		return
	}
	f.add("requests", isUsage)
	f.add("price", int64(r.Price))
	if kind == "margin" {
		f.add("cost", int64(r.Cost))
		f.add("margin", int64(r.Price-r.Cost))
		return
	}
	f.add("events", 1)
	if f.add("estimated", 0); r.Estimated {
		f.add("estimated", isUsage)
	}
	for m := usage.Input; m <= usage.Reasoning; m++ {
		f.add(m.String()+"_tokens", int64(r.Meters[m]))
	}
}

func (f figures) check(b *world, path, kind string, got map[string]any) {
	b.Helper()
	for name, n := range f {
		text := n.String()
		if name == "price" || name == "cost" || name == "margin" || name == "reserved" {
			text = money.Nano(n.Int64()).String()
			if _, isText := got[name].(string); !isText {
				b.Errorf("%s: %s is %v, not a decimal string", path, name, got[name])
			}
		}
		if fmt.Sprint(got[name]) != text {
			b.Errorf("%s: %s is %v, not %s", path, name, got[name], text)
		}
	}
	if kind != "margin" || len(f) == 0 {
		return
	}
	if want := percent(f["margin"], f["price"]); fmt.Sprint(got["margin_percent"]) != want {
		b.Errorf("%s: margin_percent is %v, not %s", path, got["margin_percent"], want)
	}
}

// percent is 100 × margin ÷ price, rounded to two places by hand: half away
// from zero.
func percent(margin, price *big.Int) string {
	if price.Sign() == 0 {
		return "<nil>"
	}
	n := new(big.Int).Mul(margin, big.NewInt(20_000))
	n.Abs(n).Add(n, price).Quo(n, new(big.Int).Mul(price, big.NewInt(2)))
	text := fmt.Sprintf("%03s", n)
	text = text[:len(text)-2] + "." + text[len(text)-2:]
	if margin.Sign() < 0 && n.Sign() != 0 {
		text = "-" + text
	}
	return text
}

func TestMarginPercent(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 100_000 {
		price := money.Nano(1 + rng.Int64N(1<<rng.IntN(62)))
		margin := price - money.Nano(rng.Int64N(1<<rng.IntN(62)))
		if rng.IntN(4) == 0 { // a tie, or a neighbour of one
			price = money.Nano(20_000 * (1 + rng.Int64N(1000)))
			margin = price/20_000*money.Nano(2*rng.Int64N(30_000)-30_001) + money.Nano(rng.Int64N(3)-1)
		}
		want := percent(big.NewInt(int64(margin)), big.NewInt(int64(price)))
		if got := marginPercent(margin, price); string(got) != want {
			t.Fatalf("margin %s of price %s: %s, not %s", margin, price, got, want)
		}
	}
	for _, c := range []struct {
		margin, price money.Nano
		want          rawJSON
	}{{-5, 0, "null"}, {-1, 1_000_000_000, "0.00"}, {-1, 20_000, "-0.01"}, {1, 20_000, "0.01"}, {2, 3, "66.67"}} {
		if got := marginPercent(c.margin, c.price); got != c.want {
			t.Errorf("margin %s of price %s: %s, not %s", c.margin, c.price, got, c.want)
		}
	}
}

// checkNames holds the members of the answers to those that clients rely on.
func (b *world) checkNames() {
	const top = "rows totals fresh_to truncated"
	for path, want := range map[string]string{
		"/reports/margin":                     "customer provider model requests cost price margin margin_percent",
		"/reports/usage":                      "customer provider model requests events estimated input_tokens cached_input_tokens cache_write_5m_tokens cache_write_1h_tokens output_tokens reasoning_tokens price",
		"/reports/leakage":                    "customer provider model count reserved",
		"/reports/margin?by=customer,key_id":  "customer key_id requests cost price margin margin_percent",
		"/reports/leakage?by=provider,status": "provider status count reserved",
	} {
		got := b.ask(path)
		if n := names(got); n != sorted(top) {
			b.Errorf("%s: members %s", path, n)
		}
		if n := names(got["rows"].([]any)[0]); n != sorted(want) {
			b.Errorf("%s: a row has %s", path, n)
		}
	}
	newest := int64(0)
	for _, r := range b.all {
		newest = max(newest, r.TimeMs)
	}
	if got := b.ask("/reports/margin")["fresh_to"]; got != time.UnixMilli(newest).UTC().Format(time.RFC3339Nano) {
		b.Errorf("fresh_to is %v", got)
	}
	if _, isNumber := b.ask("/reports/margin")["totals"].(map[string]any)["margin_percent"].(json.Number); !isNumber {
		b.Error("margin_percent is not a number")
	}
}

// checkRefusals: a question that would be misread is refused, and told why.
func (b *world) checkRefusals() {
	for path, want := range map[string]string{
		"/reports/margin?group=customer":                 `"group"`,
		"/reports/margin?limit=3":                        `"limit"`,
		"/reports/margin?by=customer&by=model":           "twice",
		"/reports/margin?by=price":                       `"price"`,
		"/reports/margin?by=customer,":                   `""`,
		"/reports/margin?from=yesterday":                 "yesterday",
		"/reports/usage?to=2026-13-01":                   "2026-13-01",
		"/reports/usage?from=2026-11-02&to=2026-11-02":   "before",
		"/reports/leakage?from=2026-11-03&to=2026-11-02": "before",
		"/events?limit=0":                                "limit",
		"/events?cursor=nonsense":                        "cursor",
		"/events?limit=1001":                             "limit",
		"/events?limit=ten":                              "limit",
		"/events?offset=1":                               `"offset"`,
		"/events?from=x":                                 `"x"`,
		"/tieout?wait=soon":                              "soon",
		"/tieout?wait=-1s":                               "-1s",
		"/tieout?wait=20m":                               "20m",
		"/tieout?batch=1":                                `"batch"`,
	} {
		status, answer := b.get(path)
		e, _ := answer["error"].(map[string]any)
		if status != http.StatusBadRequest || e["code"] != "invalid_request" || !strings.Contains(fmt.Sprint(e["message"]), want) {
			b.Errorf("%s: %d %v", path, status, answer)
		}
	}
}

// TestEvents: single events by customer, request and time, newest first, with
// the names of the table; and a customer's own view of one, without its cost.
func TestEvents(t *testing.T) {
	b := newWorld(t, warehousetest.Open(t))
	b.settle(b.records(rand.New(rand.NewPCG(5, 6)), 300))
	const columns = `event_id entry_no kind request_id event_time customer key_id provider api model model_billed rule tags status stream estimated
		input_tokens cached_input_tokens cache_write_5m_tokens cache_write_1h_tokens output_tokens reasoning_tokens units reserved cost price margin
		currency cost_card price_card http_status latency_ms ttft_ms gateway lease_id seq batch_id`
	byID := map[string]usage.Record{}
	for _, r := range b.all {
		byID[r.EventID()] = r
	}
	for query, want := range map[string]func(r *usage.Record) bool{
		"limit=1000": func(*usage.Record) bool { return true },
		"limit=1000&customer=" + url.QueryEscape("it's?"): func(r *usage.Record) bool { return r.Customer == "it's?" },
		"limit=1000&from=2026-11-21&to=2026-11-22":        func(r *usage.Record) bool { return within(r, "2026-11-21", "2026-11-22") },
		"request_id=req-acme-7":                           func(r *usage.Record) bool { return r.RequestID == "req-acme-7" },
		"request_id=" + url.QueryEscape("x' OR 1=1 -- ?"): func(*usage.Record) bool { return false },
		"customer=bolt&request_id=req-acme-7":             func(*usage.Record) bool { return false },
	} {
		n := 0
		for i := range b.all {
			if want(&b.all[i]) {
				n++
			}
		}
		got := b.ask("/events?" + query)
		list := got["data"].([]any)
		if len(list) != n || got["next_cursor"] != nil {
			t.Errorf("%s: %d events, not %d", query, len(list), n)
		}
		before := "9"
		for _, one := range list {
			e := one.(map[string]any)
			r := byID[e["event_id"].(string)]
			if !want(&r) || names(e) != sorted(columns) {
				t.Errorf("%s: %v", query, e)
			}
			if at := e["event_time"].(string); at > before {
				t.Errorf("%s: %s comes after %s", query, at, before)
			} else {
				before = at
			}
			b.checkEvent(&r, e)
		}
	}
	if n := len(b.ask("/events")["data"].([]any)); n != 100 {
		t.Errorf("%d events without a limit", n)
	}
	b.checkPages(len(b.all))
	b.checkGeneration()
}

// checkPages walks the whole list by its cursors: every event once, in order.
func (b *world) checkPages(all int) {
	b.Helper()
	seen, path := map[string]bool{}, "/events?limit=7"
	for next := path; ; {
		page := b.ask(next)
		for _, one := range page["data"].([]any) {
			seen[one.(map[string]any)["event_id"].(string)] = true
		}
		cursor, more := page["next_cursor"].(string)
		if !more {
			break
		}
		next = path + "&cursor=" + cursor
	}
	if len(seen) != all {
		b.Errorf("the pages have %d events, not %d", len(seen), all)
	}
}

func (b *world) checkEvent(r *usage.Record, e map[string]any) {
	b.Helper()
	at, err := time.Parse(time.RFC3339, e["event_time"].(string))
	if err != nil || at.UnixMilli() != r.TimeMs || !strings.HasSuffix(e["event_time"].(string), "Z") {
		b.Errorf("event_time %v of %d", e["event_time"], r.TimeMs)
	}
	for name, want := range map[string]any{"kind": r.Row.String(), "customer": r.Customer, "cost": r.Cost.String(), "price": r.Price.String(),
		"margin": (r.Price - r.Cost).String(), "reserved": r.Reserved.String(), "stream": r.Stream, "estimated": r.Estimated, "status": r.Status.String(),
		"seq": json.Number(strconv.FormatUint(r.Seq, 10)), "input_tokens": json.Number(strconv.FormatUint(r.Meters[usage.Input], 10)),
		"entry_no": json.Number("0"), "http_status": json.Number("200"), "latency_ms": json.Number("12"), "ttft_ms": json.Number("3")} {
		if e[name] != want {
			b.Errorf("event %s: %s is %v, not %v", r.EventID(), name, e[name], want)
		}
	}
	if fmt.Sprint(e["tags"]) != "map[team:a]" {
		b.Errorf("tags %v", e["tags"])
	}
}

func (b *world) checkGeneration() {
	b.Helper()
	var r usage.Record
	for _, r = range b.all {
		if r.Row == usage.RowUsage && r.Meters[usage.Images] > 0 {
			break
		}
	}
	body, err := b.a.Generation(b.ctx, r.Customer, r.RequestID)
	b.must(err)
	var got struct{ Data map[string]any }
	b.must(json.Unmarshal(body, &got))
	if n := names(got.Data); n != sorted("id model status price usage created_at") {
		b.Errorf("members %s", n)
	}
	used := got.Data["usage"].(map[string]any)
	if got.Data["price"] != r.Price.String() || used["input"] != float64(r.Meters[usage.Input]) || used["images"] != float64(r.Meters[usage.Images]) {
		b.Errorf("%s of %+v", body, r)
	}
	for _, secret := range []string{"cost", "margin", "rule", r.Cost.String()} {
		if strings.Contains(string(body), secret) {
			b.Errorf("a customer is shown %q: %s", secret, body)
		}
	}
	other := customers[0]
	if other == r.Customer {
		other = customers[1]
	}
	for _, q := range [][2]string{{other, r.RequestID}, {r.Customer, "none"}, {"", r.RequestID}} {
		if body, err := b.a.Generation(b.ctx, q[0], q[1]); err == nil {
			b.Errorf("%v was answered: %s", q, body)
		}
	}
}

package warehouse

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// promised are the columns of usage_events that outsiders rely on.
const promised = `event_id String, entry_no UInt16, kind String, request_id String, event_time DateTime64(3, 'UTC'),
customer String, key_id String, provider String, api String, model String, model_billed String, rule String,
tags Map(String, String), status String, stream UInt8, estimated UInt8, input_tokens UInt64, cached_input_tokens UInt64,
cache_write_5m_tokens UInt64, cache_write_1h_tokens UInt64, output_tokens UInt64, reasoning_tokens UInt64,
units Map(String, UInt64), reserved Decimal(18, 9), cost Decimal(18, 9), price Decimal(18, 9), margin Decimal(18, 9),
currency String, cost_card String, price_card String, http_status UInt16, latency_ms UInt32, ttft_ms UInt32,
gateway String, lease_id String, seq UInt64, batch_id String`

func TestRowSaysWhatTheRecordSays(t *testing.T) { onEveryStore(t, rowSaysWhatTheRecordSays) }

func rowSaysWhatTheRecordSays(t *testing.T, d *DB) {
	types := query[[]string](t, d, `SELECT groupArray(concat(name, ' ', replaceRegexpOne(type, '^LowCardinality\\((.*)\\)$', '\\1')))
		FROM (SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = 'usage_events' ORDER BY position)`)
	if got, want := strings.Join(types, ", "), strings.ReplaceAll(promised, "\n", " "); got != want {
		t.Errorf("columns\n got %s\nwant %s", got, want)
	}

	rec := usage.Record{
		Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "L1", Seq: 7, Customer: "acme", Gateway: "gw1", TimeMs: 1_793_000_000_123,
		RequestID: "r1", KeyID: "k1", Provider: "openai", API: "openai.chat", Model: "gpt-4o", ModelBilled: "gpt-4o-2024", Plan: "pro",
		Rule: "customer=acme", CostCard: "cc", PriceCard: "pc", Currency: "usd", Tags: []usage.Tag{{Key: "team", Value: "a'b\\c"}},
		Status: usage.StatusPartial, Stream: true, Estimated: true, Reserved: 5, Cost: 1_234_567_891, Price: 1_000_000_000,
		HTTPStatus: 200, LatencyMs: 11, TTFTMs: 3,
	}
	for m := range rec.Meters {
		rec.Meters[m] = uint64(m + 1)
	}
	append1(t, d, "T.0", []usage.Record{rec})
	const want = `{"event_id":"L1:7","entry_no":0,"kind":"usage","request_id":"r1","event_time":"2026-10-26 07:33:20.123","customer":"acme",` +
		`"key_id":"k1","provider":"openai","api":"openai.chat","model":"gpt-4o","model_billed":"gpt-4o-2024","rule":"customer=acme",` +
		`"tags":{"team":"a'b\\c"},"status":"partial","stream":1,"estimated":1,"input_tokens":1,"cached_input_tokens":2,` +
		`"cache_write_5m_tokens":3,"cache_write_1h_tokens":4,"output_tokens":5,"reasoning_tokens":6,` +
		`"units":{"audio_input":7,"audio_output":8,"characters":12,"image_input":9,"image_output":10,"images":11,"requests":15,"seconds":13,"web_searches":14},` +
		`"reserved":0.000000005,"cost":1.234567891,"price":1,"margin":-0.234567891,"currency":"usd","cost_card":"cc","price_card":"pc",` +
		`"http_status":200,"latency_ms":11,"ttft_ms":3,"gateway":"gw1","lease_id":"L1","seq":7,"batch_id":"T.0"}`
	// formatRow writes the row as text inside the engine, past this client's decoding.
	got := strings.TrimSpace(query[string](t, d, "SELECT formatRow('JSONEachRow', * REPLACE (mapSort(units) AS units)) FROM usage_events"))
	if got != want {
		t.Errorf("row\n got %s\nwant %s", got, want)
	}
}

func TestAppendRefuses(t *testing.T) {
	d := &DB{} // nothing may be sent
	good := records(1, 1)
	for name, change := range map[string]func(r *usage.Record){
		"intent":          func(r *usage.Record) { r.Kind = usage.KindIntent },
		"close":           func(r *usage.Record) { r.Kind = usage.KindClose },
		"too much":        func(r *usage.Record) { r.Price = 1_000_000_000 * money.Dollar },
		"negative amount": func(r *usage.Record) { r.Cost = -1 },
	} {
		recs := slices.Clone(good)
		change(&recs[0])
		if err := d.Append(context.Background(), "b", recs); err == nil {
			t.Errorf("%s: appended", name)
		}
	}
	if err := d.Append(context.Background(), "", good); err == nil {
		t.Error("a batch without id was appended: its repetition would count twice")
	}
}

// total reads count and sums of the table and of both rollups as text.
func totals(t testing.TB, d *DB) [3]string {
	t.Helper()
	const sums = "toString(sum(input_tokens)), ' ', toString(sum(cost)), ' ', toString(sum(price)), ' ', toString(sum(margin)))"
	return [3]string{
		query[string](t, d, "SELECT concat(toString(countIf(entry_no = 0 AND kind = 'usage')), ' ', toString(count()), ' ', "+sums+" FROM usage_events"),
		query[string](t, d, "SELECT concat(toString(sum(requests)), ' ', toString(sum(events)), ' ', "+sums+" FROM usage_hourly"),
		query[string](t, d, "SELECT concat(toString(sum(requests)), ' ', toString(sum(events)), ' ', "+sums+" FROM usage_daily"),
	}
}

// expected computes what totals must be from the records themselves.
func expected(batches ...[]usage.Record) [3]string {
	var n, requests, input uint64
	var cost, price money.Nano
	for _, recs := range batches {
		for i := range recs {
			n++
			if recs[i].Row == usage.RowUsage {
				requests++
			}
			input += recs[i].Meters[usage.Input]
			cost += recs[i].Cost
			price += recs[i].Price
		}
	}
	text := fmt.Sprintf("%d %d %d %s %s %s", requests, n, input, trim(cost), trim(price), trim(price-cost))
	return [3]string{text, text, text}
}

// trim writes an amount as ClickHouse does, without trailing zeros.
func trim(n money.Nano) string { return strings.TrimSuffix(strings.TrimRight(n.String(), "0"), ".") }

func TestSameBatchCountsOnce(t *testing.T) { onEveryStore(t, sameBatchCountsOnce) }

func sameBatchCountsOnce(t *testing.T, d *DB) {
	a, b := records(1, 500), records(2, 300)
	a[3].Row, a[3].Kind, a[3].Cost, a[3].Price = usage.RowLeakage, usage.KindUnknown, 0, 0
	append1(t, d, "T/0/0", a)
	append1(t, d, "T/0/500", b)
	append1(t, d, "T/0/0", a)
	if got, want := totals(t, d), expected(a, b); got != want {
		t.Errorf("totals\n got %q\nwant %q", got, want)
	}
	// Equal rows under another id are other rows.
	append1(t, d, "T/1/0", b)
	if got, want := totals(t, d), expected(a, b, b); got != want {
		t.Errorf("totals\n got %q\nwant %q", got, want)
	}
	if d.child == nil {
		return // a server's restarts are not ours
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, d.cfg.DataDir) // tokens are remembered on disk
	append1(t, d, "T/1/0", b)
	if got, want := totals(t, d), expected(a, b, b); got != want {
		t.Errorf("totals after a restart\n got %q\nwant %q", got, want)
	}
}

func TestBatchSumsAreThoseOfTheRecords(t *testing.T) { onEveryStore(t, batchSumsAreThoseOfTheRecords) }

func batchSumsAreThoseOfTheRecords(t *testing.T, d *DB) {
	var want []BatchSum
	r := rand.New(rand.NewPCG(3, 3))
	for i := range 4 {
		recs := records(uint64(10+i), 1000)
		for j := range recs {
			recs[j].Cost, recs[j].Price = money.Nano(r.Int64N(1<<r.IntN(50))), money.Nano(r.Int64N(1<<r.IntN(50)))
		}
		recs[0].Cost, recs[0].Price = 0, maxAmount-1
		sum := BatchSum{BatchID: fmt.Sprintf("T/%d/0", i), Count: 1000}
		var hash uint64
		for j := range recs {
			sum.Cost += recs[j].Cost
			sum.Price += recs[j].Price
			hash += xxhash.Sum64String(fmt.Sprintf("%s:%d:%d", recs[j].EventID(), recs[j].Cost, recs[j].Price))
		}
		sum.Hash = fmt.Sprintf("%016x", hash)
		want = append(want, sum)
		append1(t, d, sum.BatchID, recs)
	}
	got, err := d.BatchSums(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("sums\n got %+v\nwant %+v", got, want)
	}
	// A correction is no first entry, but counts in every plain sum.
	if err := d.Conn().Exec(context.Background(),
		"INSERT INTO usage_events (event_id, entry_no, kind, event_time, cost, margin, batch_id) VALUES ('x:1', 1, 'rerate', now64(3), -1, 1, 'T/0/0')"); err != nil {
		t.Fatal(err)
	}
	if again, err := d.BatchSums(context.Background()); err != nil || !slices.Equal(again, want) {
		t.Errorf("sums after a correction: %+v, %v", again, err)
	}
}

func TestMarginViews(t *testing.T) { onEveryStore(t, marginViews) }

func marginViews(t *testing.T, d *DB) {
	base := records(1, 1)[0]
	add := func(customer, model string, cost, price money.Nano) {
		r := base
		r.LeaseID, r.Customer, r.Model, r.Cost, r.Price = customer+model, customer, model, cost, price
		append1(t, d, r.LeaseID, []usage.Record{r})
	}
	add("acme", "m1", 1_000_000_000, 3_000_000_000) // 66.666… %
	add("acme", "m2", 500_000_000, 0)               // given away
	add("beta", "m1", 1_000_000_000, 999_950_000)   // -0.00500025… % rounds away from zero
	for view, want := range map[string]string{
		"margin_by_customer":       "acme\t2\t1.5\t3\t1.5\t50\nbeta\t1\t1\t0.99995\t-0.00005\t-0.01\n",
		"margin_by_model":          "openai\tm1\t2\t2\t3.99995\t1.99995\t50\nopenai\tm2\t1\t0.5\t0\t-0.5\t\\N\n",
		"margin_by_customer_model": "acme\topenai\tm1\t1\t1\t3\t2\t66.67\nacme\topenai\tm2\t1\t0.5\t0\t-0.5\t\\N\nbeta\topenai\tm1\t1\t1\t0.99995\t-0.00005\t-0.01\n",
		"margin_daily":             "\t3\t2.5\t3.99995\t1.49995\t37.5\n",
	} {
		got := query[string](t, d, "SELECT arrayStringConcat(groupArray(formatRow('TSV', *)), '') FROM (SELECT * FROM "+view+" ORDER BY ALL)")
		if view == "margin_daily" {
			_, got, _ = strings.Cut(got, "\t")
			got = "\t" + got
		}
		if got != want {
			t.Errorf("%s\n got %q\nwant %q", view, got, want)
		}
	}
}

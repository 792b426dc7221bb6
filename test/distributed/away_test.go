package distributed

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestServersAway: gateways serve from what they hold while the whole Kafka and
// ClickHouse are away, start without them, and the books close when they are
// back.
func TestServersAway(t *testing.T) {
	in := install(t, remote)
	in.migrate()
	analytics := in.weir("analytics", "")
	in.serveBooks(analytics)
	processor := in.weir("processor", "")
	gateway := in.weir("gateway", "")
	key, _ := in.books.customer("acme", "", "50.00")
	client := newClient()
	var answers []answer
	serve := func(n int) {
		t.Helper()
		for i := range n {
			q := chat(100, 10+i, "")
			if i%3 == 0 {
				q.body = strings.Replace(q.body, `"max_tokens"`, `"stream":true,"max_tokens"`, 1)
			}
			a := send(t.Context(), client, gateway.data, key, q)
			if !a.ok() {
				t.Fatalf("%+v", a)
			}
			answers = append(answers, a)
		}
	}
	serve(20)
	in.kafka.killAll(t)
	in.clickhouse.stop()
	serve(20)
	endless := make(chan answer)
	go func() { endless <- send(t.Context(), client, gateway.data, key, endlessStream()) }()
	eventually(t, 10*time.Second, "a long stream is under way", func() (bool, string) {
		_, body := gateway.health("/metrics")
		return strings.Contains(body, "\nweir_requests_in_flight 1\n"), "another number"
	})
	t.Logf("a gateway with a stream and without Kafka stopped in %.1f s", gateway.stop().Seconds())
	if a := <-endless; a.status != http.StatusOK || a.whole {
		t.Errorf("the stream that was aborted: %+v", a)
	}
	gateway.start()
	t.Logf("and was ready after %.1f s", gateway.lastStart.Seconds())
	if status, body := gateway.health("/readyz"); status != http.StatusOK || !strings.Contains(body, "usage log") {
		t.Errorf("a gateway without Kafka: status %d: %s", status, body)
	}
	serve(20)
	t.Logf("a processor without Kafka stopped in %.1f s", processor.stop().Seconds())
	processor.launch()
	eventually(t, startPatience, "a processor names what is down", func() (bool, string) {
		status, body := processor.health("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "usage log"), body
	})
	analytics.stop()
	analytics.start()
	if w := in.books.wallet("acme"); w.Held == "0.00" {
		t.Errorf("nothing is held while nothing settles: %+v", w)
	}
	began := time.Now()
	in.kafka.restartAll(t)
	in.clickhouse.start()
	in.books.closed()
	t.Logf("Kafka and ClickHouse were back and everything was settled after %.1f s", time.Since(began).Seconds())
	if v := in.judge(answers); v.whole != 60 || v.billed != 61 || v.leaked != 0 {
		t.Errorf("%+v", v)
	}
	aborted := in.sql("SELECT estimated FROM weir.usage_events WHERE status <> 'ok' AND output_tokens BETWEEN 10 AND 60 AND price > 0")
	if len(aborted) != 1 || aborted[0] != `{"estimated":1}` {
		t.Errorf("the stream that was aborted is billed as %q", aborted)
	}
}

// endlessStream takes far longer than a stop waits.
func endlessStream() request {
	q := chat(100, 200, "chunks=200 interval=1s")
	q.body = strings.Replace(q.body, `"max_tokens"`, `"stream":true,"max_tokens"`, 1)
	return q
}

// TestLedgerAway: without the ledger gateways serve from their leases until
// those end; then 503, and never that a key or money were not there.
func TestLedgerAway(t *testing.T) {
	in := install(t, remote)
	in.migrate()
	in.serveBooks(in.weir("analytics", ""))
	in.weir("processor", "")
	const ttl = 10 * time.Second
	gateway := in.weir("gateway", fmt.Sprintf("reserve: {lease_ttl: %s}\n", ttl))
	known, _ := in.books.customer("known", "", "20.00")
	stranger, _ := in.books.customer("stranger", "", "20.00")
	client := newClient()
	var answers []answer
	for range 40 { // so much spending that the lease holds more than one request
		a := send(t.Context(), client, gateway.data, known, chat(100, 100, ""))
		if !a.ok() {
			t.Fatalf("%+v", a)
		}
		answers = append(answers, a)
	}
	in.wire.cut()
	cut := time.Now()
	served, refused := 0, 0
	for refused < 5 {
		a := send(t.Context(), client, gateway.data, known, chat(100, 1, ""))
		switch {
		case a.ok() && refused == 0 && time.Since(cut) < ttl:
			served++
			answers = append(answers, a)
			time.Sleep(50 * time.Millisecond) // else the lease is spent before its time ends
		case a.status == http.StatusServiceUnavailable && a.code == "ledger_unavailable" && a.retryAfter != "":
			refused++
		default:
			t.Fatalf("after %d answers and %d refusals, %s without the ledger: %+v", served, refused, time.Since(cut), a)
		}
		if a := send(t.Context(), client, gateway.data, stranger, chat(100, 1, "")); a.status != http.StatusServiceUnavailable || a.retryAfter == "" {
			t.Fatalf("a key that the gateway has never seen: %+v", a)
		}
	}
	t.Logf("without the ledger %d requests were served in %.1f s, then none", served, time.Since(cut).Seconds())
	if served == 0 {
		t.Error("no lease served")
	}
	eventually(t, 2*ttl, "its readiness names the ledger", func() (bool, string) {
		status, body := gateway.health("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "ledger"), body
	})
	in.wire.mend()
	mended := time.Now()
	for _, key := range []string{known, stranger} {
		eventually(t, 15*time.Second, "it serves again", func() (bool, string) {
			a := send(t.Context(), client, gateway.data, key, chat(100, 1, ""))
			return a.ok(), fmt.Sprintf("%+v", a)
		})
	}
	t.Logf("served again %.1f s after the ledger was back", time.Since(mended).Seconds())
	in.wire.cut()
	t.Logf("a gateway without the ledger stopped in %.1f s", gateway.stop().Seconds())
	gateway.launch()
	eventually(t, startPatience, "a gateway without the ledger names it", func() (bool, string) {
		status, body := gateway.health("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "ledger"), body
	})
	in.wire.mend()
	gateway.firstLine() // it is ready
	in.books.closed()
	in.judge(answers)
}

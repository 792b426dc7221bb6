package distributed

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestRoles: each role starts without the others, says so, serves its part of
// the control listener and nothing else, and together they bill.
func TestRoles(t *testing.T) {
	in := install(t, remote)
	migrateLate(in)
	analytics := in.weir("analytics", "")
	in.serveBooks(analytics)
	key, _ := in.books.customer("acme", "", "10.00")
	gateway := in.weir("gateway", "")
	if a := send(t.Context(), newClient(), gateway.data, key, chat(100, 10, "")); !a.ok() {
		t.Errorf("without a processor: %+v", a)
	}
	gateway.stop()
	processor := in.weir("processor", "")
	in.books.closed() // by a processor alone
	gateway.start()

	for _, c := range []struct {
		w      *weir
		path   string
		status int
	}{
		{gateway, "/healthz", 200}, {gateway, "/readyz", 200}, {gateway, "/metrics", 200}, {gateway, "/api/v1/customers", 401}, {gateway, "/", 404},
		{processor, "/healthz", 200}, {processor, "/readyz", 200}, {processor, "/metrics", 200}, {processor, "/api/v1/tieout", 401},
		{analytics, "/healthz", 200}, {analytics, "/readyz", 200}, {analytics, "/metrics", 200}, {analytics, "/api/v1/customers", 401},
	} {
		if status, body := c.w.health(c.path); status != c.status {
			t.Errorf("%s %s: status %d: %s", c.w.role, c.path, status, body)
		}
	}
	for w, want := range map[*weir]int{gateway: 404, processor: 404, analytics: 200} { // with the token
		if status, err := (&books{t, "http://" + w.control}).call("GET", "/customers", nil, nil); status != want {
			t.Errorf("%s serves customers: status %d, %v", w.role, status, err)
		}
	}
	outside := map[string]any{"id": "e1", "customer": "acme", "provider": "openai", "model": "gpt-4o", "meters": map[string]int{"input": 100}}
	if status, err := (&books{t, "http://" + gateway.control}).call("POST", "/events", outside, nil); status != http.StatusAccepted {
		t.Errorf("usage from outside, told to a gateway: status %d, %v", status, err)
	}
	for w, metric := range map[*weir]string{gateway: "weir_spool_unacked_records", processor: "weir_batches_waiting", analytics: "go_goroutines"} {
		if _, body := w.health("/metrics"); !strings.Contains(body, metric) {
			t.Errorf("%s has no metric %s", w.role, metric)
		}
	}
	a := send(t.Context(), newClient(), gateway.data, key, chat(100, 10, ""))
	if !a.ok() {
		t.Fatalf("%+v", a)
	}
	eventually(t, 10*time.Second, "a gateway tells its customer of a request", func() (bool, string) {
		r, err := http.NewRequest(http.MethodGet, "http://"+gateway.data+"/v1/generation?id="+a.id, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return false, err.Error()
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	t.Logf("ready after: gateway %s, processor %s, analytics %s", gateway.lastStart, processor.lastStart, analytics.lastStart)
	for _, w := range []*weir{gateway, processor, analytics} {
		if took := w.stop(); took > 5*time.Second {
			t.Errorf("%s without requests stopped in %s", w.role, took)
		}
	}
}

// migrateLate starts a process before its servers have what it needs: it waits
// and says what to do, and goes on by itself once that is done.
func migrateLate(in *installation) {
	in.Helper()
	early := in.configure("processor", "")
	early.launch()
	took := eventually(in.T, startPatience, "without a topic a processor says what to do", func() (bool, string) {
		status, body := early.health("/readyz")
		log, err := os.ReadFile(early.log())
		return err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, "usage log") &&
			strings.Contains(string(log), "weir migrate"), body
	})
	in.Logf("a processor said that there is no topic after %.1f s", took.Seconds())
	if told := in.migrate(); !strings.Contains(told, "ledger") || !strings.Contains(told, in.topic) || !strings.Contains(told, "warehouse") {
		in.Errorf("migrate says %q", told)
	}
	early.firstLine() // it is ready
	early.stop()
}

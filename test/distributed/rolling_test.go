package distributed

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	rollingClients = 8
	// pace is the traffic between two restarts.
	pace = 3 * time.Second
)

// TestRollingRestart: every process of an installation is restarted under load,
// by SIGTERM and then by SIGKILL, and brokers die meanwhile. No client fails for
// a reason that the failure policy does not name; at the end everything that
// was served is billed once or reported as leakage.
func TestRollingRestart(t *testing.T) {
	in := install(t, remote)
	in.migrate()
	analytics := in.weir("analytics", "")
	in.serveBooks(analytics)
	processors := []*weir{in.weir("processor", ""), in.weir("processor", "")}
	gateways := []*weir{in.weir("gateway", "reserve: {lease_idle: 2s}\n"), in.weir("gateway", "reserve: {lease_idle: 2s}\n")}
	var keys []string
	for i := range rollingClients {
		key, _ := in.books.customer(fmt.Sprintf("customer-%d", i), "", "100.00")
		keys = append(keys, key)
	}
	began := time.Now()
	l := startLoad(t, keys, gateways...)
	order := []*weir{gateways[0], processors[0], analytics, gateways[1], processors[1]}

	time.Sleep(pace)
	absorbed := 0
	for i, w := range order {
		absorbed += duplicates(w)
		took := w.stop()
		w.start()
		t.Logf("%s stopped in %.1f s, ready after %.2f s", w.role, took.Seconds(), w.lastStart.Seconds())
		if i == 2 {
			in.kafka.kill(t, 2)
		}
		time.Sleep(pace)
	}
	in.kafka.restart(t, 2)
	_, broken, cut, failed := l.sofar()
	if cut > 0 || len(failed) > 0 {
		t.Errorf("while processes were stopped in order %d answers broke off and %d requests failed: %+v", cut, len(failed), failed)
	}
	t.Logf("restarts by SIGTERM: %d tries met a connection that closed", broken)

	for i, w := range order {
		absorbed += duplicates(w)
		w.kill()
		if i == 1 {
			in.kafka.kill(t, 3)
		}
		w.start()
		time.Sleep(pace)
	}
	in.kafka.restart(t, 3)
	time.Sleep(pace)
	l.stop()
	whole, broken, cut, failed := l.sofar()
	if len(failed) > 0 || broken > 3*rollingClients || cut > 2*rollingClients {
		t.Errorf("%d connections broken, %d answers broken off, failed: %+v", broken, cut, failed)
	}
	loaded := time.Since(began)
	tied := in.books.closed()
	v := in.judge(l.answers)
	if v.leaked > 2*rollingClients {
		t.Errorf("%d requests leaked, at most %d were under way at the kills", v.leaked, 2*rollingClients)
	}
	if int64(v.billed+v.leaked+v.errors) != tied.Events.Count {
		t.Errorf("%+v, tie-out counts %d", v, tied.Events.Count)
	}
	for _, p := range processors {
		absorbed += duplicates(p)
	}
	t.Logf("%.0f s of load, %d answers; refused %d, stopping %d, broken %d, broken off %d; %+v; events that came again: %d",
		loaded.Seconds(), whole, l.refused, l.stopping, broken, cut, v, absorbed)
}

// duplicates is what a processor's metrics say of events that came again; other
// roles have none.
func duplicates(w *weir) (n int) {
	_, body := w.health("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, "weir_events_duplicate_total "); ok {
			_, _ = fmt.Sscan(value, &n) // 0 where it is no number
		}
	}
	return n
}

package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/standin"
	"weir/schemas/usage"
)

const streaming = `"max_tokens":50,"stream":true`

// TestStream: a stream is billed by its usage, which weir asks for; the chunk
// that carries it reaches only the client that asked, and nothing else differs.
func TestStream(t *testing.T) {
	r := newRig(t)
	direct := func(more string) string {
		req, err := http.NewRequest("POST", "http://"+r.upstream+"/v1/chat/completions", strings.NewReader(chatBody("in=20 out=10", more)))
		must(t, err)
		req.Header.Set("Authorization", "Bearer provider-key")
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		must(t, err)
		return string(text)
	}
	for i, c := range []struct {
		more  string
		asked bool
	}{{streaming, false}, {streaming + `,"stream_options":null`, false}, {streaming + `,"stream_options":{"include_usage":false}`, false},
		{streaming + `,"stream_options":{"include_usage":true}`, true}} {
		a := r.chat("in=20 out=10", c.more)
		if a.status != 200 || a.err != nil || !strings.HasSuffix(a.body, "data: [DONE]\n\n") {
			t.Fatalf("%d %v %s", a.status, a.err, a.body)
		}
		if c.asked != strings.Contains(a.body, `"usage":{`) {
			t.Errorf("%s: %s", c.more, a.body)
		}
		want := chunks(t, direct(streaming+`,"stream_options":{"include_usage":true}`))
		if !c.asked {
			want-- // the usage chunk
		}
		if got := chunks(t, a.body); got != want {
			t.Errorf("%d chunks, the provider sent %d", got, want)
		}
		if a.Get(headerPrice) != "" || a.Get(headerReserved) == "" || a.Get("Content-Type") != "text/event-stream; charset=utf-8" {
			t.Errorf("%v", a.Header)
		}
		rec := r.records(usage.KindUsage)[i]
		if rec.Price != 27000 || rec.Estimated || rec.Status != usage.StatusOK || !rec.Stream || rec.TTFTMs == 0 {
			t.Errorf("%+v", rec)
		}
	}
}

// chunks counts the events of a stream, each of which must be JSON or the end.
func chunks(t *testing.T, body string) (n int) {
	t.Helper()
	for event := range strings.SplitSeq(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		data := strings.TrimPrefix(event, "data: ")
		if data != "[DONE]" && !json.Valid([]byte(data)) {
			t.Errorf("not an event: %q", event)
		}
		n++
	}
	return n
}

// TestStreamFaults: an upstream that breaks off after output is billed by what
// it sent; one that gave nothing is leakage.
func TestStreamFaults(t *testing.T) {
	for _, c := range []struct {
		control string
		whole   bool // the client sees an orderly end
		check   func(usage.Record) bool
	}{
		{"fault=break-stream after=3", false, estimated(3)},
		{"fault=no-terminator after=3", true, estimated(3)},
		{"fault=error-event after=3", true, estimated(3)},
		{"fault=no-usage", true, func(r usage.Record) bool { return r.Estimated && r.Status == usage.StatusOK && r.Price > 0 }},
		{"fault=garbage", true, func(r usage.Record) bool { return r.Row == usage.RowLeakage && r.Price == 0 }},
		{"fault=break-headers", false, func(r usage.Record) bool { return r.Row == usage.RowLeakage && r.Price == 0 }},
		{"fault=break-stream after=0", false, func(r usage.Record) bool { return r.Price == 0 || r.Estimated }},
		{"fault=stall after=3 stall=1m", false, estimated(3)}, // the longest request ends it
	} {
		t.Run(c.control, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *Options) { o.MaxRequest = 2 * time.Second })
			a := r.chat("in=20 out=10 chunks=10 "+c.control, streaming)
			if a.status != 200 || c.whole != (a.err == nil) {
				t.Errorf("%d, the body ended with %v", a.status, a.err)
			}
			if rec := r.result(); !c.check(rec) || rec.Price > rec.Reserved {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// estimated: a partial answer of so many deltas, each at least one token.
func estimated(deltas uint64) func(usage.Record) bool {
	return func(r usage.Record) bool {
		return r.Estimated && r.Row == usage.RowUsage && r.Status == usage.StatusPartial && r.Meters[usage.Output] >= deltas &&
			r.Meters[usage.Input] > 0 && r.Price > 0
	}
}

// TestClientLeaves: a client that leaves in the middle does not stop metering.
func TestClientLeaves(t *testing.T) {
	drained := func(r usage.Record) bool { return !r.Estimated && r.Price == 27000 }
	cut := func(r usage.Record) bool { return r.Estimated && r.Price > 0 && r.Price <= r.Reserved }
	for _, c := range []struct {
		name, control string
		opt           option
		check         func(usage.Record) bool
	}{
		{"drained to its usage", "chunks=10 interval=20ms", nil, drained},
		{"while the upstream is silent", "chunks=10 fault=stall after=3 stall=300ms", nil, drained},
		{"before the first byte", "delay=300ms", nil, drained},
		{"drain ends", "chunks=10 fault=stall after=3 stall=1m", func(o *Options) { o.DrainMax = 50 * time.Millisecond }, cut},
		{"drain ends before the first byte", "fault=timeout", func(o *Options) { o.DrainMax = 50 * time.Millisecond }, cut},
		{"abort", "chunks=10 fault=stall after=3 stall=1m", func(o *Options) { o.Drain = false }, cut},
		{"abort of a busy stream", "chunks=10 interval=100ms", func(o *Options) { o.Drain = false }, cut},
		{"abort before the first byte", "fault=timeout", func(o *Options) { o.Drain = false }, cut},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			opt := c.opt
			if opt == nil {
				opt = func(*Options) {}
			}
			r := newRig(t, opt)
			conn := r.dial(chatPath, r.key, chatBody("in=20 out=10 "+c.control, streaming))
			if r.reaches(1); strings.Contains(c.control, "chunks") {
				conn.until(t, `"content":"`)
			}
			conn.Close()
			rec := r.result()
			if rec.Status != usage.StatusClientGone || rec.Row != usage.RowUsage || !c.check(rec) {
				t.Errorf("%+v", rec)
			}
			r.eventually("the end of the call", func() bool { return r.InFlight() == 0 && r.draining.Load() == 0 })
		})
	}
}

// TestAbortIsPrompt: with a silent upstream the client's leaving is noticed by
// itself, at once, and ends the upstream call.
func TestAbortIsPrompt(t *testing.T) {
	const readTimeout = 50 * time.Millisecond
	r := newTunedRig(t, func(g *Gateway) { g.server.ReadTimeout = readTimeout }, func(o *Options) { o.Drain = false })
	conn := r.dial(chatPath, r.key, chatBody("in=20 out=10 chunks=10 fault=stall after=3 stall=1m", streaming))
	conn.until(t, `"content":"`)
	sent := time.Now()
	r.eventually("the end of the time to read a request in", func() bool { return time.Since(sent) > 2*readTimeout })
	left := time.Now()
	conn.Close()
	r.eventually("an aborted upstream", func() bool { return len(r.served(standin.EventEnd)) == 1 })
	if took := time.Since(left); took > time.Second { // it is a few milliseconds; the stall is a minute
		t.Errorf("noticed after %v", took)
	}
	if end := r.served(standin.EventEnd)[0]; end.Outcome != standin.OutcomeClientGone || end.DeltasSent != 3 {
		t.Errorf("%+v", end)
	}
}

// TestJSONClientLeaves: the answer is read, billed by its usage, and known to
// have had no reader.
func TestJSONClientLeaves(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Drain = false })
	conn := r.dial(chatPath, r.key, chatBody("in=20 out=10 delay=200ms", `"max_tokens":50`))
	r.reaches(1)
	conn.Close()
	if rec := r.result(); rec.Status != usage.StatusClientGone || rec.Price != 27000 || rec.Estimated {
		t.Errorf("%+v", rec)
	}
}

// TestKeepAlive: watching leaves the connection as it was. Streams that last
// longer than a request may take to arrive, and requests that come after a
// pause, work on one connection.
func TestKeepAlive(t *testing.T) {
	r := newTunedRig(t, func(g *Gateway) {
		g.server.ReadTimeout, g.server.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	})
	conn := r.dial(chatPath, r.key, chatBody("in=20 out=10 chunks=10 interval=30ms", streaming))
	for i := range 3 {
		res, err := http.ReadResponse(conn.Reader, nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		if err != nil || res.Close || !strings.HasSuffix(string(body), "[DONE]\n\n") {
			t.Fatalf("stream %d: %v, close %v: %s", i, err, res.Close, body)
		}
		pause := time.Now().Add(200 * time.Millisecond)
		r.eventually("the end of a pause", func() bool { return time.Now().After(pause) })
		if i < 2 {
			conn.send(t, chatPath, r.key, chatBody("in=20 out=10 chunks=10 interval=30ms", streaming))
		}
	}
	if recs := r.records(usage.KindUsage); len(recs) != 3 || recs[2].Status != usage.StatusOK {
		t.Errorf("%+v", recs)
	}
}

// TestNextRequestDuringStream: a client that sends its next request early has
// not left.
func TestNextRequestDuringStream(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Drain = false })
	body := chatBody("in=20 out=10 chunks=10 interval=20ms", streaming)
	conn := r.dial(chatPath, r.key, body)
	conn.until(t, `"content":"`)
	conn.send(t, chatPath, r.key, body)
	conn.until(t, "[DONE]")
	conn.until(t, "[DONE]")
	for _, rec := range r.records(usage.KindUsage) {
		if rec.Status != usage.StatusOK {
			t.Errorf("%+v", rec)
		}
	}
}

// TestShutdown: running streams end; those that outlast the grace are aborted
// and billed by estimate, drains too; every lease closes.
func TestShutdown(t *testing.T) {
	r := newRig(t)
	short := r.dial(chatPath, r.key, chatBody("in=20 out=10 chunks=10 interval=30ms", streaming))
	long := r.dial(chatPath, r.key, chatBody("in=20 out=10 chunks=10 fault=stall after=3 stall=1m", streaming))
	drain := r.dial(chatPath, r.key, chatBody("in=20 out=10 chunks=10 fault=stall after=4 stall=1m", streaming))
	silent := r.dial(chatPath, r.key, chatBody("fault=timeout", `"max_tokens":50`))
	for _, c := range []client{short, long, drain} {
		c.until(t, `"content":"`)
	}
	r.reaches(4)
	drain.Close()
	r.eventually("a drain", func() bool { return r.draining.Load() == 1 })
	r.stop(time.Second)
	short.until(t, "[DONE]")
	silent.until(t, "503 Service Unavailable")
	if r.InFlight() != 0 {
		t.Errorf("%d calls in flight", r.InFlight())
	}
	found := map[string]int{}
	for _, rec := range r.records(usage.KindUsage, usage.KindUnknown) {
		found[fmt.Sprintf("%s %s estimated=%v", rec.Row, rec.Status, rec.Estimated)]++
		if rec.Row == usage.RowUsage && rec.Price == 0 {
			t.Errorf("%+v", rec)
		}
	}
	for _, want := range []string{"usage ok estimated=false", "usage partial estimated=true", "usage client_gone estimated=true", "leakage unknown estimated=false"} {
		if found[want] != 1 {
			t.Errorf("%d of %q: %v", found[want], want, found)
		}
	}
	if closes := r.records(usage.KindClose); len(closes) != 1 || closes[0].Count != 4 {
		t.Errorf("%+v", closes)
	}
	if len(r.leakage.leaks) > 0 {
		t.Error("a stop counts as the customer's leakage")
	}
}

// TestShutdownWaitsForDrains: a drain has no connection that would hold the
// shutdown up, and ends all the same.
func TestShutdownWaitsForDrains(t *testing.T) {
	r := newRig(t)
	conn := r.dial(chatPath, r.key, chatBody("in=20 out=10 chunks=10 interval=10ms fault=stall after=8 stall=700ms", streaming))
	conn.until(t, `"content":"`)
	conn.Close()
	r.eventually("a drain without a connection", func() bool { return r.draining.Load() == 1 && r.server.GetOpenConnectionsCount() == 0 })
	r.stop(waitMax)
	if rec := r.result(); rec.Estimated || rec.Price != 27000 || rec.Status != usage.StatusClientGone {
		t.Errorf("%+v", rec)
	}
}

// TestDiskFailsInStream: without its record a stream does not end in order.
func TestDiskFailsInStream(t *testing.T) {
	r := newRig(t)
	var count atomic.Int32
	broken := func() error { count.Add(1); return io.ErrShortWrite }
	r.syncing.Store(&broken)
	a := r.chat("in=20 out=10", streaming)
	if a.err == nil || strings.Contains(a.body, "[DONE]") || count.Load() == 0 {
		t.Errorf("%v %s", a.err, a.body)
	}
}

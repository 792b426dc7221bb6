package gateway

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/standin"
	"weir/schemas/usage"
)

// leaked checks that a call counts as leakage: its bound is told, nobody pays.
func leaked(t *testing.T, rec usage.Record) {
	t.Helper()
	if rec.Kind != usage.KindUnknown || rec.Row != usage.RowLeakage || rec.Status != usage.StatusUnknown ||
		rec.Cost != 0 || rec.Price != 0 || rec.Reserved == 0 || rec.Seq == 0 {
		t.Errorf("not leakage: %+v", rec)
	}
}

// TestUpstreamErrors: an answer that is no success goes on as it is, costs
// nothing and is an event of kind error.
func TestUpstreamErrors(t *testing.T) {
	r := newRig(t)
	for _, status := range []string{"400", "404", "429", "500", "503", "529"} {
		for _, stream := range []string{"", `,"stream":true`} {
			a := r.chat("status="+status, `"max_tokens":50`+stream)
			if !strings.HasPrefix(a.body, `{"error":{"message":"an error that the prompt asked for"`) || strings.Contains(a.body, "metadata") {
				t.Errorf("the body is not the provider's: %s", a.body)
			}
			recs := r.records(usage.KindUsage)
			rec := recs[len(recs)-1]
			if got := strconv.Itoa(a.status); got != status || a.status != int(rec.HTTPStatus) {
				t.Errorf("status %s, in the record %d, expected %s", got, rec.HTTPStatus, status)
			}
			if rec.Kind != usage.KindUsage || rec.Row != usage.RowError || rec.Status != usage.StatusUpstreamError || rec.Cost != 0 || rec.Price != 0 {
				t.Errorf("%+v", rec)
			}
			if a.Get(headerReserved) != "" || a.Get(headerRequestID) != rec.RequestID {
				t.Errorf("%v", a.Header)
			}
			if status == "429" && a.Get("Retry-After") == "" {
				t.Error("the provider's Retry-After is lost")
			}
		}
	}
}

// TestUnreachable: without a connection nothing was served: an error, no leakage.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	l.Close()
	r := newRig(t, func(o *Options) { o.Upstreams[0].BaseURL = "http://" + address })
	r.refused(r.chat("", `"max_tokens":50`), 502, "upstream_unreachable")
	if rec := r.result(); rec.Row != usage.RowError || rec.Price != 0 || rec.HTTPStatus != 0 {
		t.Errorf("%+v", rec)
	}
}

// TestNoAnswer: what the upstream may have served and the client did not get is
// leakage, never billed.
func TestNoAnswer(t *testing.T) {
	for _, c := range []struct {
		control, more string
		status        int
		code          string
	}{
		{"fault=timeout", "", 504, "upstream_timeout"},
		{"fault=refuse", "", 502, "upstream_broke_off"},
		{"fault=break-headers", "", 502, "upstream_broke_off"},
		{"fault=break-body", "", 502, "upstream_broke_off"},
		{"fault=garbage", "", 502, "upstream_broke_off"},
		{"fault=stall stall=1m", "", 504, "upstream_timeout"},
		{"fault=timeout", `,"stream":true`, 504, "upstream_timeout"},
		{"fault=refuse", `,"stream":true`, 502, "upstream_broke_off"},
	} {
		t.Run(c.control+c.more, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *Options) { o.MaxRequest = time.Second })
			a := r.chat("in=20 out=10 "+c.control, `"max_tokens":50`+c.more)
			r.refused(a, c.status, c.code)
			leaked(t, r.result())
		})
	}
}

// TestErrorInSuccess: an error that comes with status 200 goes on as it is, and
// nobody pays for it.
func TestErrorInSuccess(t *testing.T) {
	const body = `{"error":{"message":"overloaded"}}`
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
	t.Cleanup(up.Close)
	r := newRig(t, func(o *Options) { o.Upstreams[0].BaseURL = up.URL })
	if a := r.chat("", `"max_tokens":50`); a.status != 200 || a.body != body || a.Get(headerPrice) != "0.00" {
		t.Errorf("%d %s, price %s", a.status, a.body, a.Get(headerPrice))
	}
	leaked(t, r.result())
}

// TestPrivateAddress: a provider may not lead into the operator's own network.
func TestPrivateAddress(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Upstreams[0].AllowPrivate = false
		o.Upstreams[0].BaseURL = strings.Replace(o.Upstreams[0].BaseURL, "http://", "https://", 1)
	})
	r.refused(r.chat("", `"max_tokens":50`), 502, "upstream_unreachable")
	if n := len(r.served(standin.EventEnd)); n != 0 {
		t.Error("the private address was connected to")
	}
	if _, err := New(Options{Upstreams: []Upstream{{Name: "x", Kind: "openai", BaseURL: "http://provider.example"}}}); err == nil {
		t.Error("plain http to a public provider")
	}
}

// TestNoUsage: an answer without usage is billed by estimate.
func TestNoUsage(t *testing.T) {
	r := newRig(t)
	a := r.chat("in=20 out=40 fault=no-usage", `"max_tokens":50`)
	rec := r.result()
	if a.status != 200 || !rec.Estimated || rec.Price == 0 || rec.Price > rec.Reserved || rec.Meters[usage.Input] == 0 || rec.Meters[usage.Output] == 0 {
		t.Errorf("%d %+v", a.status, rec)
	}
}

// TestUnknownMeter: usage that no meter covers is billed as far as it is
// understood, marked and counted.
func TestUnknownMeter(t *testing.T) {
	r := newRig(t)
	a := r.chat("in=20 out=10 unknown=5", `"max_tokens":50`)
	if rec := r.result(); a.status != 200 || !rec.UnknownMeter || rec.Price != 27000 || rec.Estimated {
		t.Errorf("%d %+v", a.status, rec)
	}
}

// TestZeroUsage: a reported zero is zero, and no reason to estimate.
func TestZeroUsage(t *testing.T) {
	r := newRig(t)
	r.chat("in=0 out=0", `"max_tokens":50`)
	if rec := r.result(); rec.Estimated || rec.Price != 0 || rec.Row != usage.RowUsage {
		t.Errorf("%+v", rec)
	}
}

func TestAnthropicAndEmbeddings(t *testing.T) {
	r := newRig(t)
	a := r.do("POST", messagesPath, `{"model":"claude-haiku-4-5","max_tokens":99,"messages":[{"role":"user","content":"[[standin in=30 cached=10 out=7]]",
		"cache_control":{"type":"ephemeral"}}]}`, "x-api-key: "+r.key, "anthropic-version: 2023-06-01")
	if rec := r.result(); a.status != 200 || rec.Meters != (usage.Quantities{usage.Input: 30, usage.CachedInput: 10, usage.Output: 7}) || rec.Cost != 30_000+1000+35_000 {
		t.Errorf("%d %s %+v", a.status, a.body, rec)
	}
	a = r.do("POST", "/openai/v1/embeddings", `{"model":"text-embedding-3-small","input":"[[standin in=25]]","dimensions":4}`, "Authorization: Bearer "+r.key)
	recs := r.records(usage.KindUsage)
	if rec := recs[len(recs)-1]; a.status != 200 || a.Get(headerMaxTokens) != "" || rec.API != "openai.embeddings" ||
		rec.Meters != (usage.Quantities{usage.Input: 17}) && rec.Meters[usage.Input] == 0 || rec.Cost == 0 {
		t.Errorf("%d %s %+v", a.status, a.body, rec)
	}
}

// TestBillsOnceDurable: neither a JSON body nor a stream's terminator leaves
// before the record is on the disk.
func TestBillsOnceDurable(t *testing.T) {
	for name, more := range map[string]string{"json": "", "stream": `,"stream":true`} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			disk := make(chan struct{})
			release := sync.OnceFunc(func() { close(disk) })
			t.Cleanup(release)
			wait := func() error { <-disk; return nil }
			r.syncing.Store(&wait)
			c := r.dial(chatPath, r.key, chatBody("in=20 out=10 chunks=5", `"max_tokens":50`+more))
			var before string
			if more != "" {
				before = c.until(t, `"finish_reason":"stop"`)
			}
			r.eventually("a written record", func() bool { return len(r.records(usage.KindUsage)) == 1 })
			must(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
			if rest, err := c.ReadString(0); err == nil || strings.Contains(rest, "[DONE]") || more == "" && rest != "" {
				t.Errorf("before the disk has the record: %q, %v", before+rest, err)
			}
			release()
			must(t, c.SetReadDeadline(time.Now().Add(waitMax)))
			if more == "" {
				c.until(t, "X-Weir-Price: 0.000027")
			} else {
				c.until(t, "[DONE]")
			}
		})
	}
}

// TestPipelining: requests that follow each other without waiting are answered
// in order, each billed once.
func TestPipelining(t *testing.T) {
	r := newRig(t)
	c := r.dial(chatPath, r.key, chatBody("in=20 out=1", `"max_tokens":50`))
	c.send(t, chatPath, r.key, chatBody("in=20 out=2", `"max_tokens":50,"stream":true`))
	c.send(t, chatPath, r.key, chatBody("in=20 out=3", `"max_tokens":50`))
	for range 3 {
		res, err := http.ReadResponse(c.Reader, nil)
		must(t, err)
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
			t.Fatal(res.Status, err)
		}
		res.Body.Close()
	}
	for i, rec := range r.records(usage.KindUsage) {
		if rec.Meters[usage.Output] != uint64(i+1) || rec.Status != usage.StatusOK {
			t.Errorf("record %d: %+v", i, rec)
		}
	}
}

// TestStopClosesLeases: at a stop the close record counts every call, however
// it ended.
func TestStopClosesLeases(t *testing.T) {
	r := newRig(t)
	r.chat("in=20 out=10", `"max_tokens":50`)
	r.chat("status=500", `"max_tokens":50`)
	r.chat("in=20 out=10", `"max_tokens":50,"stream":true`)
	r.stop(waitMax)
	closes := r.records(usage.KindClose)
	if len(closes) != 1 || closes[0].Seq != 4 || closes[0].Count != 3 || closes[0].PriceSum != 2*27_000 {
		t.Errorf("%+v", closes)
	}
}

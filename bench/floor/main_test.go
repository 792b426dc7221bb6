package main

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"weir/internal/standin"
)

// start puts a floor in front of a stand-in and returns its URL.
func start(t *testing.T) string {
	t.Helper()
	upstream, err := standin.New(standin.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := upstream.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := newProxy(addr)
	go proxy.Serve(l)
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String()
}

func post(t *testing.T, url, marker, more string) *http.Response {
	t.Helper()
	body := `{"model":"gpt-4o","messages":[{"role":"user","content":"[[standin ` + marker + `]]"}]` + more + `}`
	resp, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestAnswerAndError(t *testing.T) {
	url := start(t)
	resp := post(t, url, "out=7", "")
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), `"completion_tokens":7`) {
		t.Errorf("%d %v %s", resp.StatusCode, err, body)
	}
	resp = post(t, url, "status=429", "")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

// Deltas pass as they come: the first arrives while the upstream still stalls.
func TestStreamIsNotHeld(t *testing.T) {
	url := start(t)
	began := time.Now()
	resp := post(t, url, "out=10 chunks=10 after=1 fault=stall stall=1s", `,"stream":true`)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), `"delta":{"content"`) {
	}
	if waited := time.Since(began); waited > 900*time.Millisecond {
		t.Errorf("the first delta took %v: it was held until the stall's end", waited)
	}
	last := ""
	for lines.Scan() {
		if lines.Text() != "" {
			last = lines.Text()
		}
	}
	if last != "data: [DONE]" {
		t.Errorf("the stream ended with %q, %v", last, lines.Err())
	}
}

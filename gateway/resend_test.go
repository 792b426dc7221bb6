package gateway

import (
	"bufio"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"weir/schemas/usage"
)

// hangsUp is a provider on a raw socket. The first request of a connection is
// answered; what happens to the next is the test's.
type hangsUp struct {
	second   func(*net.TCPConn, *bufio.Reader)
	requests atomic.Int32 // whose first byte has come
	conns    atomic.Int32
}

const cannedAnswer = `{"model":"gpt-4o-mini","choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":20,"completion_tokens":10}}`

func (h *hangsUp) serve(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			h.conns.Add(1)
			go h.answer(conn.(*net.TCPConn))
		}
	}()
	return "http://" + l.Addr().String()
}

func (h *hangsUp) answer(conn *net.TCPConn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	if _, err := in.Peek(1); err != nil {
		return
	}
	h.requests.Add(1)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, req.Body)
	res := http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(cannedAnswer)), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(cannedAnswer))}
	if res.Write(conn) != nil || h.second == nil {
		return
	}
	if _, err := in.Peek(1); err == nil {
		h.requests.Add(1)
		h.second(conn, in)
	}
}

// TestNeverSentTwice: a request of which a byte has gone to the provider may be
// served already, so it is not sent again, whatever the client says of it.
func TestNeverSentTwice(t *testing.T) {
	for name, second := range map[string]func(*net.TCPConn, *bufio.Reader){
		"end after the first byte": func(*net.TCPConn, *bufio.Reader) {},
		"end after the request": func(_ *net.TCPConn, in *bufio.Reader) {
			if req, err := http.ReadRequest(in); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
			}
		},
		"reset after the request": func(conn *net.TCPConn, in *bufio.Reader) {
			if req, err := http.ReadRequest(in); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
			}
			_ = conn.SetLinger(0)
		},
		"half an answer": func(conn *net.TCPConn, in *bufio.Reader) {
			_, _ = io.WriteString(conn, "HTTP/1.1 20")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := &hangsUp{second: second}
			url := up.serve(t)
			r := newRig(t, func(o *Options) { o.Upstreams[0].BaseURL = url })
			ask := func() reply {
				return r.do("POST", chatPath, chatBody("", `"max_tokens":50`), "Authorization: Bearer "+r.key, "Idempotency-Key: 1", "X-Idempotency-Key: 1")
			}
			if a := ask(); a.status != 200 {
				t.Fatal(a)
			}
			r.refused(ask(), 502, "upstream_broke_off")
			if up.requests.Load() != 2 || up.conns.Load() != 1 {
				t.Errorf("two requests came as %d, on %d connections", up.requests.Load(), up.conns.Load())
			}
			recs := r.records(usage.KindUsage, usage.KindUnknown)
			if len(recs) != 2 {
				t.Fatalf("%+v", recs)
			}
			leaked(t, recs[1])
		})
	}
}

// TestStaleConnection: a connection that the provider has closed meanwhile is
// not used, or the request fails on it; either way the provider reads it once
// at most.
func TestStaleConnection(t *testing.T) {
	const asked = 20
	up := &hangsUp{}
	url := up.serve(t)
	r := newRig(t, func(o *Options) { o.Upstreams[0].BaseURL = url })
	answered := 0
	for range asked {
		switch a := r.chat("", `"max_tokens":50`); a.status {
		case 200:
			answered++
		default:
			r.refused(a, 502, "upstream_broke_off")
		}
	}
	billed, leaks := len(r.records(usage.KindUsage)), len(r.records(usage.KindUnknown))
	if read := int(up.requests.Load()); read != answered || billed != answered || billed+leaks != asked {
		t.Errorf("%d requests: %d answered, %d read, %d billed, %d leaks", asked, answered, read, billed, leaks)
	}
}

// TestNeverSentTwiceHTTP2: the same where connections are shared.
func TestNeverSentTwiceHTTP2(t *testing.T) {
	var requests atomic.Int32
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		if requests.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
		if req.ProtoMajor != 2 {
			t.Errorf("spoken to by %s", req.Proto)
		}
		_, _ = io.WriteString(w, cannedAnswer)
	}))
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw}), 0o600))
	r := newRig(t, func(o *Options) { o.Upstreams[0].BaseURL, o.Upstreams[0].CAFile = up.URL, ca })
	if a := r.chat("", `"max_tokens":50`); a.status != 200 {
		t.Fatal(a)
	}
	r.refused(r.chat("", `"max_tokens":50`), 502, "upstream_broke_off")
	if requests.Load() != 2 {
		t.Errorf("two requests came %d times", requests.Load())
	}
	leaked(t, r.records(usage.KindUnknown)[0])
}

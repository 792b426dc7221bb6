package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"weir/schemas/usage"
)

// TestWire sends bytes as they are, by the scripts of testdata/wire, and
// compares the answers, and what reached the provider, with what they say.
//
// A `send` block is one connection. Its lines are joined by CRLF; {post} stands
// for the request line and the host of a chat completion, {key} for a customer's
// key and {other} for another's, {body} for a body with its two lengths {len}
// and {hex}, and {sent} for that body behind its Content-Length and the empty
// line; escapes are those of Go. The client then closes its side. What comes
// out is a line per answer, and how many requests the provider was sent, each
// of which must be as weir writes them.
func TestWire(t *testing.T) {
	w := newWire(t)
	datadriven.Walk(t, "testdata/wire", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "send" {
				t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			}
			w.reset()
			answers := w.exchange(t, w.expand(t, d.Input))
			return answers + w.arrived(t)
		})
	})
}

// wire is a gateway whose provider is watched.
type wire struct {
	*rig
	other string // a key of another customer
	body  string

	mu       sync.Mutex // guards the following
	requests []string   // what the provider was sent, "" if it is as it should be
}

func newWire(t *testing.T) *wire {
	w := &wire{body: chatBody("in=20 out=10", `"max_tokens":50`)}
	watched := httptest.NewUnstartedServer(nil)
	w.rig = newTunedRig(t, func(g *Gateway) { g.server.ReadTimeout = 300 * time.Millisecond },
		func(o *Options) { o.Upstreams[0].BaseURL = "http://" + watched.Listener.Addr().String() })
	to, err := url.Parse("http://" + w.upstream)
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	watched.Config.Handler = http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		w.note(req)
		proxy.ServeHTTP(res, req)
	})
	watched.Start()
	t.Cleanup(watched.Close)
	w.other = w.customer("other", 1e9)
	return w
}

// note reads a request as the provider got it.
func (w *wire) note(req *http.Request) {
	body, err := io.ReadAll(req.Body)
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	wrong := ""
	switch {
	case err != nil || string(body) != w.body:
		wrong = fmt.Sprintf("body %q, %v", body, err)
	case req.Method != "POST" || req.RequestURI != "/v1/chat/completions" || req.ContentLength != int64(len(body)) || req.TransferEncoding != nil:
		wrong = req.Method + " " + req.RequestURI
	}
	allowed := slices.Concat(requestHeaders[:], []string{"Content-Type", "Content-Length", "Accept-Encoding", "Authorization", "X-Request-Id"})
	for name, values := range req.Header {
		if !slices.Contains(allowed, name) || len(values) != 1 || name == "Authorization" && values[0] != "Bearer provider-key" {
			wrong += fmt.Sprintf(" %s: %q", name, values)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = append(w.requests, wrong)
}

func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = nil
}

// arrived tells what the provider was sent, and holds it to the spool: one
// intent and one result for each.
func (w *wire) arrived(t *testing.T) string {
	w.eventually("the end of all calls", func() bool { return w.InFlight() == 0 })
	intents, results := len(w.records(usage.KindIntent)), len(w.records(usage.KindUsage))
	if total := len(w.served("end")); intents != total || results != total {
		t.Errorf("%d requests served, %d intents, %d results", total, intents, results)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wrong := range w.requests {
		if wrong != "" {
			t.Errorf("the provider was sent: %s", wrong)
		}
	}
	return fmt.Sprintf("upstream %d\n", len(w.requests))
}

// expand makes the bytes of a script's block.
func (w *wire) expand(t *testing.T, text string) string {
	t.Helper()
	quoted := `"` + strings.ReplaceAll(strings.ReplaceAll(text, `"`, `\"`), "\n", `\r\n`) + `"`
	plain, err := strconv.Unquote(quoted)
	must(t, err)
	return strings.NewReplacer(
		"{post}", "POST "+chatPath+" HTTP/1.1\r\nHost: weir", "{key}", w.key, "{other}", w.other, "{operator}", w.operator,
		"{body}", w.body, "{len}", strconv.Itoa(len(w.body)), "{hex}", strconv.FormatInt(int64(len(w.body)), 16),
		"{sent}", fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(w.body), w.body),
		"{17k}", strings.Repeat("x", 17<<10)).Replace(plain)
}

// exchange sends bytes, closes the sending side and reads all answers.
func (w *wire) exchange(t *testing.T, request string) string {
	conn := w.connect(t)
	_, _ = conn.Write([]byte(request)) // weir may have refused it by its beginning
	_ = conn.CloseWrite()
	method, _, _ := strings.Cut(strings.TrimLeft(request, "\r\n"), " ")
	return answers(t, conn, method)
}

func (w *wire) connect(t *testing.T) *net.TCPConn {
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(waitMax)))
	return conn.(*net.TCPConn)
}

// answers reads all answers of a connection up to its end: status, code, and
// whether weir said that it closes.
func answers(t *testing.T, conn io.Reader, method string) string {
	var out strings.Builder
	for in := bufio.NewReader(conn); ; {
		if _, err := in.Peek(1); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) { // bytes that nobody reads any more end it so
				fmt.Fprintf(&out, "%v\n", err)
			}
			return out.String()
		}
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, err)
		fmt.Fprint(&out, res.StatusCode)
		if res.StatusCode >= 400 && method != "HEAD" {
			code, _ := errorOf(t, reply{status: res.StatusCode, body: string(body)})
			fmt.Fprint(&out, " ", code)
		}
		if res.Close {
			fmt.Fprint(&out, " close")
		}
		fmt.Fprintln(&out)
	}
}

// TestSlowClients: a client that sends drop by drop has its time, and no more;
// nothing of what it sent goes anywhere.
func TestSlowClients(t *testing.T) {
	w := newWire(t)
	request := w.expand(t, "{post}\nAuthorization: Bearer {key}\n{sent}")
	for name, part := range map[string]int{"no byte": 0, "the request line": 30, "the headers": 90, "the body": len(request) - 5} {
		t.Run(name, func(t *testing.T) {
			w.reset()
			conn := w.connect(t)
			for i := range part { // bytes in packets of their own, as fast as they go
				if _, err := conn.Write([]byte{request[i]}); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := answers(t, conn, "POST"), "408 invalid_request close\n"; got != want && (name != "no byte" || got != "") {
				t.Errorf("%q, expected %q", got, want)
			}
			if got := w.arrived(t); got != "upstream 0\n" {
				t.Error(got)
			}
		})
	}
	if a := w.chat("in=20 out=10", `"max_tokens":50`); a.status != 200 {
		t.Error(a)
	}
}

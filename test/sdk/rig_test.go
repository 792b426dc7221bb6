// Package sdk holds weir to what the providers' official SDKs expect. The same
// calls are made twice, straight to the provider stand-in and through weir with
// nothing changed but base URL and key, and both must look the same to the SDK;
// what weir itself refuses must become the SDK's own exceptions.
package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/app"
	"weir/internal/config"
	"weir/internal/standin"
)

// providerKey is what the provider wants to see; customers never have it.
const providerKey = "provider-key"

// upstream is the stand-in behind a recorder of what reaches it.
type upstream struct {
	url     string
	serve   http.Handler
	release chan struct{} // closed: held requests go on

	mu   sync.Mutex
	seen map[string][]arrival // guarded by mu; by case, in order of arrival
}

// arrival is one request as the provider saw it.
type arrival struct {
	target string // path and query
	header http.Header
	body   string
}

// caseName finds the case that a prompt belongs to.
var caseName = regexp.MustCompile(`case:([a-z0-9-]+)`)

const (
	// caseHeld waits until the end of a test, so that its reservation holds money.
	caseHeld = "held-by-another"
	// caseRecovers is refused once with 503 and served when it comes again.
	caseRecovers = "upstream-recovers"
)

// newUpstream starts a provider that asks for a key; "" takes any, wherever the
// SDK puts it.
func newUpstream(t *testing.T, key string) *upstream {
	t.Helper()
	server, err := standin.New(standin.Options{Key: key, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	u := &upstream{serve: server, release: make(chan struct{}), seen: map[string][]arrival{}}
	front := httptest.NewServer(u)
	t.Cleanup(front.Close)
	u.url = front.URL
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	name := ""
	if m := caseName.FindSubmatch(body); m != nil {
		name = string(m[1])
	}
	if r.Method == http.MethodPost {
		u.mu.Lock()
		u.seen[name] = append(u.seen[name], arrival{r.RequestURI, r.Header.Clone(), string(body)})
		u.mu.Unlock()
	}
	switch {
	case name == caseHeld:
		<-u.release
	case name == caseRecovers && len(u.arrivals(name)) == 1:
		w.Header().Set("Retry-After-Ms", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	u.serve.ServeHTTP(w, r)
}

func (u *upstream) arrivals(name string) []arrival {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.seen[name]
}

func (u *upstream) count() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range u.seen {
		n += len(a)
	}
	return n
}

// rig is a weir of its own with the providers behind it, and keys of customers
// whose wallets are in the states that matter.
type rig struct {
	t       *testing.T
	behind  *upstream
	data    string // base URL of the data plane
	control string
	token   string
	changes int               // so far, each with an idempotency key of its own
	keys    map[string]string // by the name the cases use
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, behind: newUpstream(t, providerKey), keys: map[string]string{"wrong": "sk-weir-unknown-key"}}
	r.serve(t.TempDir())
	r.customer("rich", "100.00")
	r.customer("poor", "0.000001")
	r.customer("frozen", "100.00")
	r.call(http.MethodPatch, "/customers/frozen", `{"status":"frozen"}`)
	r.customer("held", "0.03")
	r.keys["limited"] = r.key("rich", `{"models":["gpt-4o-mini","claude-haiku-4-5"]}`)
	return r
}

// serve runs weir in process, without a warehouse, until the test ends.
func (r *rig) serve(dir string) {
	t := r.t
	t.Helper()
	file := filepath.Join(dir, "weir.yaml")
	text := fmt.Sprintf(`data_dir: %q
listen: {data: "127.0.0.1:0", control: "127.0.0.1:0", clickhouse: ""}
clickhouse: {url: none}
providers:
  openai: {kind: openai, base_url: %[2]q, api_key: %[3]q, allow_private: true}
  anthropic: {kind: anthropic, base_url: %[2]q, api_key: %[3]q, allow_private: true}
`, filepath.Join(dir, "data"), r.behind.url, providerKey)
	must(t, os.WriteFile(file, []byte(text), 0o600))
	cfg, err := config.Load(nil, nil, file)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan app.Addresses, 1), make(chan error, 1)
	go func() {
		ended <- app.New(cfg, config.RoleAll, slog.New(slog.DiscardHandler)).Run(ctx, func(a app.Addresses) { ready <- a })
	}()
	select {
	case at := <-ready:
		r.data, r.control = "http://"+at.Data, "http://"+at.Control
	case err := <-ended:
		stop()
		t.Fatalf("weir did not start: %v", err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("weir did not stop in order: %v", err)
		}
	})
	token, err := os.ReadFile(filepath.Join(cfg.DataDir, config.TokenFile))
	must(t, err)
	r.token = strings.TrimSpace(string(token))
}

// customer makes a customer with so much money and a key of the same name.
func (r *rig) customer(id, amount string) {
	r.t.Helper()
	r.call(http.MethodPost, "/customers", fmt.Sprintf(`{"id":%q}`, id))
	r.call(http.MethodPost, "/customers/"+id+"/credits", fmt.Sprintf(`{"amount":%q,"reason":"test","kind":"paid"}`, amount))
	r.keys[id] = r.key(id, `{}`)
}

func (r *rig) key(customer, body string) string {
	r.t.Helper()
	var made struct{ Key string }
	must(r.t, json.Unmarshal(r.call(http.MethodPost, "/customers/"+customer+"/keys", body), &made))
	return made.Key
}

// call asks the control plane, which must agree, and returns its answer.
func (r *rig) call(method, path, body string) []byte {
	r.t.Helper()
	req, err := http.NewRequest(method, r.control+"/api/v1"+path, strings.NewReader(body))
	must(r.t, err)
	req.Header.Set("Authorization", "Bearer "+r.token)
	r.changes++
	req.Header.Set("Idempotency-Key", strconv.Itoa(r.changes))
	resp, err := http.DefaultClient.Do(req)
	must(r.t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(r.t, err)
	if resp.StatusCode > 299 {
		r.t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, answer)
	}
	return answer
}

// holdMoney leaves a request in flight whose bound is more than half of the
// wallet of "held" (1,400 tokens at $15 per million, the dearest snapshot of the
// model), until the money is released.
func (r *rig) holdMoney() {
	t := r.t
	t.Helper()
	body := `{"model":"gpt-4o","max_tokens":1400,"messages":[{"role":"user","content":"[[standin in=1 out=1]] case:` + caseHeld + `"}]}`
	answered := make(chan error, 1)
	go func() {
		req, err := http.NewRequest(http.MethodPost, r.data+"/openai/v1/chat/completions", strings.NewReader(body))
		if err == nil {
			req.Header.Set("Authorization", "Bearer "+r.keys["held"])
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					err = fmt.Errorf("status %d", resp.StatusCode)
				}
			}
		}
		answered <- err
	}()
	r.waitFor("the held request to reach the provider", func() bool { return len(r.behind.arrivals(caseHeld)) == 1 })
	t.Cleanup(func() {
		r.releaseMoney()
		if err := <-answered; err != nil {
			t.Errorf("the held request: %v", err)
		}
	})
}

// releaseMoney lets the held request be answered.
func (r *rig) releaseMoney() {
	select {
	case <-r.behind.release:
	default:
		close(r.behind.release)
	}
}

// waitMax bounds every wait for a condition; it is not measured.
const waitMax = 20 * time.Second

func (r *rig) waitFor(what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(waitMax); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain for %s", what)
		}
	}
}

var refusedLine = regexp.MustCompile(`(?m)^weir_refused_total\{code="([a-z_]+)"\} (\d+)$`)

// refused counts, by code, the requests that weir answered itself: each attempt
// of an SDK is one.
func (r *rig) refused() map[string]int {
	r.t.Helper()
	resp, err := http.Get(r.control + "/metrics")
	must(r.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(r.t, err)
	counts := map[string]int{}
	for _, m := range refusedLine.FindAllSubmatch(text, -1) {
		counts[string(m[1])], err = strconv.Atoi(string(m[2]))
		must(r.t, err)
	}
	return counts
}

// tieOut is the part of the tie-out that says whether all was booked.
type tieOut struct {
	OK     bool
	Events struct{ Count int }
	Breaks []json.RawMessage
}

func (r *rig) tieOut() (out tieOut) {
	r.t.Helper()
	must(r.t, json.Unmarshal(r.call(http.MethodGet, "/tieout?wait=30s", ""), &out))
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

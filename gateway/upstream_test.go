package gateway

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"weir/schemas/usage"
)

// TestPrivateCA: a provider whose certificate a private authority signed is
// served through ca_file, under the name that is in the certificate, and not
// without; and an address of this machine is no provider unless that is allowed.
func TestPrivateCA(t *testing.T) {
	var proxy http.Handler
	var called atomic.Int64
	provider := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		called.Add(1)
		proxy.ServeHTTP(w, req)
	}))
	defer provider.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw}), 0o600))
	otherName := strings.Replace(provider.URL, "127.0.0.1", "localhost", 1) // which the certificate does not name
	for name, up := range map[string]Upstream{
		"with the authority": {BaseURL: provider.URL, CAFile: ca, AllowPrivate: true},
		"without":            {BaseURL: provider.URL, AllowPrivate: true},
		"another name":       {BaseURL: otherName, CAFile: ca, AllowPrivate: true},
		"private":            {BaseURL: provider.URL, CAFile: ca},
	} {
		t.Run(name, func(t *testing.T) {
			up.Name, up.Kind, up.Key = "openai", "openai", "provider-key"
			r := newRig(t, func(o *Options) { o.Upstreams[0] = up })
			to, err := url.Parse("http://" + r.upstream)
			must(t, err)
			proxy = httputil.NewSingleHostReverseProxy(to)
			called.Store(0)
			a := r.chat("in=20 out=10", `"max_tokens":50`)
			if name == "with the authority" {
				if a.status != 200 || called.Load() != 1 {
					t.Errorf("%d %s", a.status, a.body)
				}
				return
			}
			r.refused(a, 502, "upstream_unreachable")
			if rec := r.result(); rec.Row != usage.RowError || rec.Price != 0 || called.Load() != 0 {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// TestFeatures: of a header that switches features on, every line is judged, and
// all go on in their order or none does.
func TestFeatures(t *testing.T) {
	var arrived [][]string
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		arrived = append(arrived, req.Header.Values("Anthropic-Beta"))
		w.WriteHeader(529)
	}))
	defer provider.Close()
	r := newRig(t, func(o *Options) { o.Upstreams[1].BaseURL = provider.URL })
	ask := func(lines ...string) reply {
		headers := []string{"x-api-key: " + r.key}
		for _, l := range lines {
			headers = append(headers, "anthropic-beta: "+l)
		}
		return r.do("POST", messagesPath, `{"model":"claude-haiku-4-5","max_tokens":9,"messages":[]}`, headers...)
	}
	free := []string{"prompt-caching-2024-07-31, interleaved-thinking-2025-05-14", "effort-2025-11-24", "output-128k-2025-02-19"}
	if a := ask(free...); a.status != 529 || len(arrived) != 1 || !slices.Equal(arrived[0], free) {
		t.Errorf("%d %s: %q", a.status, a.body, arrived)
	}
	for _, dear := range [][]string{{free[0], "context-1m-2025-08-07"}, {free[0], "effort-2025-11-24,fast-mode-2026-02-01"}, {"context-1m-2025-08-07", free[0]}} {
		a := ask(dear...)
		r.refused(a, 422, "unpriced_option")
		if !strings.Contains(a.body, "anthropic-beta") {
			t.Errorf("%s does not name the header", a.body)
		}
	}
	if len(arrived) != 1 {
		t.Errorf("went on: %q", arrived[1:])
	}
}

package control

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"weir/internal/cards"
	"weir/internal/ledger"
)

const token = "the-admin-token"

// bench is a control plane over a real ledger in a file.
type bench struct {
	*testing.T
	db  *ledger.DB
	dir string
	url string
	log *strings.Builder
}

func start(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir(), log: &strings.Builder{}}
	var err error
	if b.db, err = ledger.Open(t.Context(), ledger.Config{Dir: b.dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	b.url = b.serve(token)
	return b
}

// serve is another control plane over the same ledger.
func (b *bench) serve(token string) string {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { WriteJSON(w, 200, map[string]string{"at": r.URL.Path}) })
	s := httptest.NewServer(New(Options{Ledger: b.db, Cards: cards.New(b.db), Token: token, Pepper: []byte("pepper"),
		Log:    slog.New(slog.NewTextHandler(b.log, nil)),
		Extra:  map[string]http.Handler{"GET /api/v1/tieout": echo},
		Public: map[string]http.Handler{"GET /healthz": echo}}))
	b.Cleanup(s.Close)
	return s.URL
}

// call is one request and its answer.
type answer struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

// do sends "METHOD /path"; headers are "Name: value".
func (b *bench) do(request, body string, headers ...string) answer {
	b.Helper()
	method, path, _ := strings.Cut(request, " ")
	r, err := http.NewRequest(method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(text)}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &a.json); err != nil {
			b.Fatalf("%s: %s is not JSON", request, text)
		}
	}
	return a
}

// at reads "wallet.balance" or "data.0.id" of an answer as text.
func (a answer) at(path string) string {
	var v any = a.json
	for key := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[key]
		case []any:
			var i int
			if _, err := fmt.Sscan(key, &i); err != nil || i >= len(in) {
				return "<none>"
			}
			v = in[i]
		default:
			return "<none>"
		}
	}
	if text, ok := v.(string); ok {
		return text
	}
	text, _ := json.Marshal(v)
	return string(text)
}

// want checks the status and "path=value" pairs of an answer.
func (b *bench) want(a answer, status int, pairs ...string) {
	b.Helper()
	if a.status != status {
		b.Errorf("status %d, want %d: %s", a.status, status, a.body)
		return
	}
	for _, pair := range pairs {
		path, value, _ := strings.Cut(pair, "=")
		if got := a.at(path); got != value {
			b.Errorf("%s is %q, want %q in %s", path, got, value, a.body)
		}
	}
}

// refused checks the one error shape.
func (b *bench) refused(a answer, status int, code, words string) {
	b.Helper()
	b.want(a, status, "error.code="+code, "error.request_id="+a.header.Get("X-Weir-Request-Id"))
	if !strings.Contains(a.at("error.message"), words) || a.header.Get("X-Weir-Request-Id") == "" {
		b.Errorf("%s lacks %q or a request id", a.body, words)
	}
	for key := range a.json["error"].(map[string]any) {
		if !strings.Contains("code message request_id line", key) {
			b.Errorf("an error has no %q: %s", key, a.body)
		}
	}
}

func (b *bench) fund(customer, amount string) {
	b.Helper()
	b.want(b.do("POST /api/v1/customers", `{"id":"`+customer+`"}`), 201)
	b.want(b.do("POST /api/v1/customers/"+customer+"/credits", `{"amount":"`+amount+`","reason":"test"}`, "Idempotency-Key: fund-"+customer), 201)
}

func (b *bench) breaks() []ledger.Break {
	books, err := b.db.Books(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return books.Breaks
}

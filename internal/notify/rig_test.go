package notify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/internal/notify"
)

// hush is in the query of every endpoint's URL, as a receiver's own secret, and
// must come into no log and no stored error.
const hush = "?token=hush-7c1"

// rig is a ledger under a clock of its own, endpoints in it, and what is logged.
type rig struct {
	*testing.T
	config  ledger.Config
	db      *ledger.DB
	sealer  *notify.Sealer
	secrets map[string]string // by endpoint

	mu  sync.Mutex // guards now and log
	now time.Time
	log bytes.Buffer
}

func newRig(t *testing.T, c ledger.Config) *rig {
	t.Helper()
	r := &rig{T: t, secrets: map[string]string{}, now: time.Now().UTC().Truncate(time.Second)}
	c.Now = r.clock
	r.config, r.db = c, ledgertest.Open(t, c)
	var err error
	r.sealer, err = notify.NewSealer([]byte("pepper"))
	r.must(err)
	t.Cleanup(r.keepsSecrets)
	return r
}

// each runs fn on every engine.
func each(t *testing.T, fn func(*rig)) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) { fn(newRig(t, c)) })
}

// onFile is a rig on SQLite.
func onFile(t *testing.T) *rig { return newRig(t, ledger.Config{Dir: t.TempDir()}) }

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// to sets the clock.
func (r *rig) to(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = at
}

func (r *rig) pass(d time.Duration) { r.to(r.clock().Add(d)) }

// Write takes what is logged.
func (r *rig) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) tx(fn func(context.Context, *ledger.Tx) error) {
	r.Helper()
	r.must(r.db.Tx(r.Context(), func(tx *ledger.Tx) error { return fn(r.Context(), tx) }))
}

// keepsSecrets looks for secrets in the log and in what is kept of failures.
func (r *rig) keepsSecrets() {
	text := r.log.String()
	for id, secret := range r.secrets {
		list, _, err := r.db.Deliveries(context.Background(), id, ledger.Page{})
		if err != nil {
			continue // the test closed the ledger
		}
		for _, d := range list {
			text += d.LastError
		}
		if strings.Contains(text, strings.TrimPrefix(secret, "whsec_")) || strings.Contains(text, "hush") {
			r.Errorf("a secret in the log or an error: %s", text)
		}
	}
}

// notifier is another one over the rig's ledger; private addresses are allowed.
func (r *rig) notifier() *notify.Notifier { return r.over(r.db, true) }

func (r *rig) over(db *ledger.DB, private bool) *notify.Notifier {
	return notify.New(notify.Options{Ledger: db, Sealer: r.sealer, AllowPrivate: private, Now: r.clock,
		Log: slog.New(slog.NewJSONHandler(r, nil)), Registry: prometheus.NewRegistry()})
}

// add makes an endpoint.
func (r *rig) add(id, url string, events ...string) {
	r.Helper()
	secret := notify.NewSecret()
	r.secrets[id] = secret
	r.tx(func(ctx context.Context, tx *ledger.Tx) error {
		_, err := tx.AddEndpoint(ctx, ledger.Endpoint{ID: id, URL: url + hush, Secret: r.sealer.Seal(secret, url+hush), Events: events})
		return err
	})
}

// emit makes events of one type, with these ids.
func (r *rig) emit(kind string, ids ...string) {
	r.Helper()
	r.tx(func(ctx context.Context, tx *ledger.Tx) error {
		var list []ledger.Event
		for _, id := range ids {
			list = append(list, ledger.Event{ID: id, Type: kind, Customer: "acme", Data: ledger.WalletNews{Customer: "acme"}})
		}
		return tx.Emit(ctx, list...)
	})
}

// delivery is where one event stands at an endpoint.
func (r *rig) delivery(endpoint, event string) ledger.Delivery {
	r.Helper()
	list, _, err := r.db.Deliveries(r.Context(), endpoint, ledger.Page{Limit: 1000})
	r.must(err)
	for _, d := range list {
		if d.Event.ID == event {
			return d
		}
	}
	r.Fatalf("%s is not for %s", event, endpoint)
	return ledger.Delivery{}
}

// expect compares where one event stands at an endpoint.
func (r *rig) expect(endpoint, event, state string, tries, status int, why string) {
	r.Helper()
	d := r.delivery(endpoint, event)
	if d.State != state || d.Tries != tries || d.LastStatus != status || !strings.Contains(d.LastError, why) || why == "" && d.LastError != "" {
		r.Errorf("%s at %s: %s after %d tries, status %d, %q; want %s, %d, %d, %q", event, endpoint, d.State, d.Tries, d.LastStatus, d.LastError,
			state, tries, status, why)
	}
}

// got is one request that a receiver took.
type got struct {
	header http.Header
	body   []byte
}

func (g got) id() string { return g.header.Get("webhook-id") }

// message is the body as a receiver reads it.
func (g got) message(t *testing.T) (m struct {
	Type, Customer string
	Timestamp      time.Time
	Data           map[string]any
}) {
	t.Helper()
	if err := json.Unmarshal(g.body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// receiver is an HTTP server that keeps what it is sent and answers by its
// function, 200 without one.
type receiver struct {
	*httptest.Server
	answer http.HandlerFunc

	mu    sync.Mutex // guards taken
	taken []got
}

func (r *rig) receiver(answer http.HandlerFunc) *receiver {
	p := &receiver{answer: answer}
	p.Server = httptest.NewServer(p)
	r.Cleanup(p.Close)
	return p
}

// ServeHTTP keeps the request before it answers.
func (p *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body) // cut off, it is no valid delivery
	p.mu.Lock()
	p.taken = append(p.taken, got{req.Header, body})
	p.mu.Unlock()
	if p.answer != nil {
		p.answer(w, req)
	}
}

func (p *receiver) all() []got {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]got(nil), p.taken...)
}

// ids are those of all that was taken.
func (p *receiver) ids() (list []string) {
	for _, g := range p.all() {
		list = append(list, g.id())
	}
	return list
}

// within waits for a condition that another goroutine brings about.
func within(t *testing.T, what string, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// status answers a status.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// encode writes JSON, its members in order.
func encode(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

package stripefake

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
	"github.com/stripe/stripe-go/v76/webhook"
)

const testSecret = "sk_test_weir"

// exchange is one request with the fake's answer.
type exchange struct {
	method, target string
	form           []byte
	header         http.Header
	status         int
	answer         []byte
}

// fixture is a fake that stripe-go talks to over HTTP. Every answer is checked
// against stripe-go's structs and stripe-mock when the test ends.
type fixture struct {
	*Server
	t   *testing.T
	url string
	api *client.API

	mu        sync.Mutex
	clock     time.Time
	exchanges []exchange
	told      map[string]bool // faults of the shapes
}

func start(t *testing.T, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), told: map[string]bool{}}
	o := Options{Secret: testSecret, Now: f.now, Seed: 1}
	for _, c := range change {
		c(&o)
	}
	f.Server = New(o)
	srv := httptest.NewServer(http.HandlerFunc(f.record))
	f.url = srv.URL
	t.Cleanup(func() {
		srv.Close()
		f.Close()
		f.checkShapes()
	})
	quiet := &stripe.LeveledLogger{Level: stripe.LevelNull}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{URL: stripe.String(srv.URL), MaxNetworkRetries: stripe.Int64(0), LeveledLogger: quiet})
	f.api = client.New(testSecret, &stripe.Backends{API: backend, Connect: backend, Uploads: backend})
	return f
}

func (f *fixture) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clock
}

func (f *fixture) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock = f.clock.Add(d)
}

// tee keeps what is written.
type tee struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (w *tee) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *tee) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *tee) Write(b []byte) (int, error) {
	w.body.Write(b)
	return w.ResponseWriter.Write(b)
}

func (f *fixture) record(w http.ResponseWriter, r *http.Request) {
	form, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Errorf("cannot read the request: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(form))
	t := &tee{ResponseWriter: w}
	f.ServeHTTP(t, r)
	if t.status == http.StatusOK {
		driven.Store(r.Pattern, true)
	}
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.exchanges = append(f.exchanges, exchange{r.Method, r.URL.RequestURI(), form, r.Header.Clone(), t.status, t.body.Bytes()})
}

// must ends the test on an error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%v", err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// refused asserts that err is Stripe's error with this status, type, code and
// decline code, and returns it.
func refused(t *testing.T, err error, status int, kind, code, decline string) *stripe.Error {
	t.Helper()
	e, isStripe := err.(*stripe.Error)
	if !isStripe {
		t.Fatalf("got %v, want an error of Stripe", err)
	}
	if e.HTTPStatusCode != status || string(e.Type) != kind || string(e.Code) != code || string(e.DeclineCode) != decline {
		t.Fatalf("got %d %s %s %s (%s), want %d %s %s %s", e.HTTPStatusCode, e.Type, e.Code, e.DeclineCode, e.Msg, status, kind, code, decline)
	}
	return e
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func (f *fixture) customer() string {
	f.t.Helper()
	return must(f.api.Customers.New(&stripe.CustomerParams{Name: stripe.String("Ada"), Email: stripe.String("ada@example.com")}))(f.t).ID
}

// offSession is the payment of an auto top-up.
func offSession(customer, method string, cents int64) *stripe.PaymentIntentParams {
	return &stripe.PaymentIntentParams{Amount: stripe.Int64(cents), Currency: stripe.String("usd"), Customer: stripe.String(customer),
		PaymentMethod: stripe.String(method), PaymentMethodTypes: stripe.StringSlice([]string{"card"}), Confirm: stripe.Bool(true), OffSession: stripe.Bool(true),
		Metadata: map[string]string{"topup_id": "tup_1"}}
}

// charged makes a payment with a test card and returns it.
func (f *fixture) charged(card string, cents int64) *stripe.PaymentIntent {
	f.t.Helper()
	customer := f.customer()
	pm := must(f.SavedCard(customer, card))(f.t)
	return must(f.api.PaymentIntents.New(offSession(customer, pm, cents)))(f.t)
}

// types lists the types of the events made since the first n.
func (f *fixture) types(n int) []string {
	var out []string
	for _, e := range f.Events()[n:] {
		out = append(out, e.Type)
	}
	return out
}

func (f *fixture) wantTypes(n int, want ...string) {
	f.t.Helper()
	if got := f.types(n); !slices.Equal(got, want) {
		f.t.Errorf("events: got %q, want %q", got, want)
	}
}

// raw sends a request as curl would.
func (f *fixture) raw(method, path string, form url.Values, header ...string) (*http.Response, string) {
	f.t.Helper()
	r := must(http.NewRequest(method, f.url+path, strings.NewReader(form.Encode())))(f.t)
	r.Header.Set("Authorization", "Bearer "+testSecret)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp := must(http.DefaultClient.Do(r))(f.t)
	defer resp.Body.Close()
	return resp, string(must(io.ReadAll(resp.Body))(f.t))
}

// receiver is a webhook endpoint that verifies signatures with stripe-go.
type receiver struct {
	mu     sync.Mutex
	url    string
	secret string
	status int // of its answers to good events
	got    []stripe.Event
	forged int
}

func receive(t *testing.T, secret string) *receiver {
	rc := &receiver{secret: secret, status: http.StatusOK}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		rc.mu.Lock()
		defer rc.mu.Unlock()
		event, errSignature := webhook.ConstructEventWithOptions(body, r.Header.Get("Stripe-Signature"), rc.secret, webhook.ConstructEventOptions{IgnoreTolerance: true})
		if err != nil || errSignature != nil {
			rc.forged++
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		rc.got = append(rc.got, event)
		w.WriteHeader(rc.status)
	}))
	t.Cleanup(srv.Close)
	rc.url = srv.URL
	return rc
}

func (rc *receiver) ids() (out []string) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	for _, e := range rc.got {
		out = append(out, e.ID)
	}
	return out
}

// Package control is the control plane: the HTTP API by which an operator
// keeps customers, wallets, keys and rate cards.
//
// Every change is one ledger transaction together with the record of its
// answer, so a repeated Idempotency-Key can neither act twice nor answer
// differently.
package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"strings"

	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/topup"
)

const (
	root = "/api/v1"
	// bodyMax bounds the body of a JSON request: the largest one is a
	// customer with its metadata.
	bodyMax = 64 << 10
	// cardMax bounds a rate card: some thousand models and rules.
	cardMax = 4 << 20

	requestIDHeader = "X-Weir-Request-Id"
)

// Options are what the control plane works on.
type Options struct {
	Ledger *ledger.DB // nil: only Extra and Public are served
	Cards  *cards.Cards
	Token  string // of the operator; must not be empty
	Pepper []byte // hashes API keys
	// PrivateWebhooks lets webhooks go to http and to private addresses.
	PrivateWebhooks bool
	Topup           *topup.Topup // nil: no payment account, and what needs one is refused
	Log             *slog.Logger // must not be nil
	// Extra are more routes for the operator, by ServeMux pattern such as
	// "GET /api/v1/tieout". They run behind the same authentication.
	Extra map[string]http.Handler
	// Public are routes outside /api/v1 that need no token, such as
	// "GET /healthz".
	Public map[string]http.Handler
}

type plane struct {
	Options
	token [sha256.Size]byte
	api   *http.ServeMux
	open  *http.ServeMux
}

// New returns the handler of the control plane's listener.
func New(o Options) http.Handler {
	if o.Token == "" {
		panic("BUG: a control plane without a token")
	}
	p := &plane{Options: o, token: sha256.Sum256([]byte(o.Token)), api: http.NewServeMux(), open: http.NewServeMux()}
	if o.Ledger != nil {
		routes := p.routes()
		maps.Copy(routes, p.fundingRoutes())
		for pattern, h := range routes {
			method, route, _ := strings.Cut(pattern, " ")
			p.api.Handle(method+" "+root+route, p.answering(h))
		}
	}
	if o.Topup != nil {
		p.open.Handle("POST /webhooks/stripe", o.Topup.Webhook())
		p.open.HandleFunc("GET /thanks", thanks)
	}
	for pattern, h := range o.Extra {
		p.api.Handle(pattern, h)
	}
	for pattern, h := range o.Public {
		p.open.Handle(pattern, h)
	}
	return http.HandlerFunc(p.serve)
}

// routes are the control plane's own, below root.
func (p *plane) routes() map[string]handler {
	return map[string]handler{
		"POST /customers":               p.createCustomer,
		"GET /customers":                p.listCustomers,
		"GET /customers/{id}":           p.showCustomer,
		"PATCH /customers/{id}":         p.updateCustomer,
		"GET /customers/{id}/wallet":    p.showWallet,
		"GET /customers/{id}/entries":   p.listEntries,
		"POST /customers/{id}/credits":  p.credit,
		"POST /customers/{id}/debits":   p.debit,
		"POST /customers/{id}/keys":     p.createKey,
		"GET /customers/{id}/keys":      p.listKeys,
		"POST /operator-keys":           p.createOperatorKey,
		"GET /operator-keys":            p.listOperatorKeys,
		"PATCH /keys/{id}":              p.updateKey,
		"DELETE /keys/{id}":             p.revokeKey,
		"POST /rates":                   p.publishRates,
		"GET /rates/current":            p.showRates,
		"POST /tieout/accept":           p.acceptBatch,
		"POST /webhooks":                p.createWebhook,
		"GET /webhooks":                 p.listWebhooks,
		"DELETE /webhooks/{id}":         p.deleteWebhook,
		"GET /webhooks/{id}/deliveries": p.listDeliveries,
		"POST /webhooks/{id}/replay":    p.replayWebhook,
		"POST /webhooks/{id}/test":      p.testWebhook,
	}
}

// serve names the request, and lets only the operator past /api/v1.
func (p *plane) serve(w http.ResponseWriter, r *http.Request) {
	id := rand.Text()
	r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
	w.Header().Set(requestIDHeader, id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	mux := p.open
	if r.URL.Path == root || strings.HasPrefix(r.URL.Path, root+"/") {
		w.Header().Set("Cache-Control", "no-store")
		if !p.authorized(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			WriteError(w, r, http.StatusUnauthorized, "unauthorized", "the admin token is missing or wrong: send Authorization: Bearer TOKEN")
			return
		}
		mux = p.api
	}
	// ServeMux would redirect a path with dots or double slashes; no client
	// of ours sends one.
	if clean := path.Clean("/" + r.URL.Path); clean != strings.TrimSuffix(r.URL.Path, "/") && r.URL.Path != "/" {
		WriteError(w, r, http.StatusNotFound, "not_found", "there is nothing at this path")
		return
	}
	if h, pattern := mux.Handler(r); pattern == "" {
		p.unrouted(h, w, r)
		return
	}
	mux.ServeHTTP(w, r)
}

// unrouted answers in our shape what ServeMux would answer in plain text: 404,
// or 405 with the methods that the path has.
func (p *plane) unrouted(h http.Handler, w http.ResponseWriter, r *http.Request) {
	probe := probe{header: http.Header{}}
	h.ServeHTTP(&probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		allow := probe.header.Get("Allow")
		w.Header().Set("Allow", allow)
		WriteError(w, r, probe.status, "method_not_allowed", r.Method+" is not possible here; this path takes "+allow)
		return
	}
	WriteError(w, r, http.StatusNotFound, "not_found", "there is nothing at this path")
}

// probe learns the status that a handler answers.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
func (p *probe) WriteHeader(status int)      { p.status = status }

// authorized compares hashes, so that neither the token nor its length can be
// told from the time it takes.
func (p *plane) authorized(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], p.token[:]) == 1
}

type requestIDKey struct{}

// RequestID is the id that the control plane gave the request.
func RequestID(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string)
	return id
}

// Package stripefake is a Stripe that keeps state: customers, Checkout with a
// page to click on, payments with declines, 3-D Secure and slow methods,
// refunds, disputes, subscriptions, events and signed webhooks, idempotency
// keys, and faults on demand. It speaks the form-encoded /v1 API of version
// 2023-10-16 and nothing else of Stripe: a parameter it does not act on is
// refused, never ignored. No money moves; Log says what would have.
package stripefake

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Version is the only API version spoken.
const Version = "2023-10-16"

// Options of New; the zero value is a server that takes any test key and has
// no webhook endpoint.
type Options struct {
	// Secret is the API key asked for; empty takes any that begins with sk_test_.
	Secret string
	// WebhookURL receives events, signed with WebhookSecret and, during a
	// rotation, with SecondSecret too. Empty: no endpoint, nothing to deliver.
	WebhookURL, WebhookSecret, SecondSecret string
	// BaseURL is put before the path of hosted pages; empty takes the host of
	// the request that made the session.
	BaseURL string
	// Now is the clock of all times shown, signed and compared; nil is time.Now.
	Now func() time.Time
	// Seed other than 0 makes the same ids in every run.
	Seed uint64
	// SearchLag is how long search does not find a new object; at Stripe up to
	// a minute.
	SearchLag time.Duration
	// LateFees keeps the balance transactions of payments, and so their fees,
	// back until TellFees, as Stripe's asynchronous capture does for a while.
	LateFees bool
}

// Server is the fake. It is an http.Handler for /v1/… and the hosted pages
// under /pay/. All methods may be called from any goroutine.
type Server struct {
	options Options
	mux     *http.ServeMux
	stop    context.CancelFunc
	ctx     context.Context
	workers sync.WaitGroup

	mu       sync.Mutex // guards the following
	random   *rand.Rand
	objects  map[string]object
	order    map[string][]object // by kind, oldest first
	cards    map[string]card     // by payment method: how it behaves
	sessions map[string]*session
	owners   map[string]string // payment or setup intent → its session
	keys     map[string]*keyed
	faults   []*Fault
	requests []string
	outbox   outbox
	cause    cause // of the events made now
}

// cause is the request that makes events; zero for what the world does.
type cause struct{ requestID, key string }

// New makes a server. Close it.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	seed := o.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	s := &Server{
		options: o, mux: http.NewServeMux(),
		random:  rand.New(rand.NewPCG(seed, seed)),
		objects: map[string]object{}, order: map[string][]object{}, cards: map[string]card{},
		sessions: map[string]*session{}, owners: map[string]string{}, keys: map[string]*keyed{},
	}
	s.outbox.url, s.outbox.secrets = o.WebhookURL, signers(o.WebhookSecret, o.SecondSecret)
	s.ctx, s.stop = context.WithCancel(context.Background())
	for _, e := range endpoints() {
		s.mux.HandleFunc(e.pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, e) })
	}
	s.mux.HandleFunc("GET /pay/{id}", s.showPage)
	s.mux.HandleFunc("POST /pay/{id}", s.postPage)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, &apiError{status: 404, kind: "invalid_request_error",
			message: "Unrecognized request URL (" + r.Method + ": " + r.URL.Path + ")."})
	})
	return s
}

// ServeHTTP answers the API and the hosted pages.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close stops deliveries and waits for those under way.
func (s *Server) Close() {
	s.stop()
	s.workers.Wait()
}

func (s *Server) now() time.Time { return s.options.Now() }
func (s *Server) unix() int64    { return s.now().Unix() }

// world runs fn under the lock as something that no request causes.
func (s *Server) world(fn func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	s.cause = cause{}
	return fn()
}

// Tick lets everything happen that is due by the clock: sessions expire, old
// idempotency keys go. Every request does it too.
func (s *Server) Tick() {
	_ = s.world(func() error { return nil }) // only fn could fail
}

func (s *Server) tick() {
	for _, o := range s.order["checkout.session"] {
		if o.str("status") == "open" && s.unix() >= o.num("expires_at") {
			s.cause = cause{}
			s.expireSession(o)
		}
	}
	s.forgetKeys()
}

// Requests lists what the API was asked, in order, as "POST /v1/refunds 200"; a
// request whose answer was lost by a fault shows 0.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

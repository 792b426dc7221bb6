// Package gateway is the request path: it authenticates a client's request,
// reserves its upper bound from the wallet, forwards it to the provider,
// measures the answer's usage and records it before the answer ends.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"weir/gateway/lease"
	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/stream"
)

const (
	// maxHeaderBytes bounds a request's headers; larger ones answer 431.
	maxHeaderBytes = 16 << 10
	// readTimeout bounds the reading of a request's headers, and of a body that
	// nobody wants; of one that is wanted it is the longest pause. A connection
	// that sends nothing holds a shutdown up for as long.
	readTimeout = 5 * time.Second
	// idleTimeout closes kept connections that send nothing.
	idleTimeout = 75 * time.Second
	// writeTimeout bounds every flush to a client, not the whole answer (a
	// stream sets it anew before each): a client that stops reading has left.
	writeTimeout = 30 * time.Second
	// maxConns bounds the client connections served at a time.
	maxConns = 64 << 10
)

// The values of Options.MissingMax.
const (
	missingFit    = "fit"
	missingRefuse = "refuse"
)

// Upstream is one provider as configured.
type Upstream struct {
	Name         string // first segment of the path and provider on the card
	Kind         string // openai or anthropic: which APIs it speaks
	BaseURL      string
	Key          string
	CAFile       string
	AllowPrivate bool
	StreamUsage  bool // ask for usage in streams
}

// Options is what a Gateway needs.
type Options struct {
	ID         string // of the data directory
	Ledger     *ledger.DB
	Spool      *stream.Spool
	Cards      *cards.Cards
	Pepper     []byte
	Upstreams  []Upstream
	LeaseTTL   time.Duration // how long leases admit without a heartbeat
	LeaseIdle  time.Duration // a lease unused for this long is closed
	MaxRequest time.Duration // longest upstream call
	MissingMax string        // what to do without an output limit: fit, model or refuse
	Drain      bool          // read on to the usage when the client leaves
	DrainMax   time.Duration
	TopUpURL   string // told with every 402; {customer} in it stands for the customer's id
	Log        *slog.Logger
	Metrics    *Metrics
	// Generation finds a settled request for its owner; nil where none can be
	// looked up. The error wraps ledger.ErrNotFound when there is none.
	Generation func(ctx context.Context, customer, requestID string) ([]byte, error)
}

// Gateway serves the data plane.
type Gateway struct {
	Options
	Book      *lease.Book
	routes    map[string]*route
	directory *directory
	budgets   *budgets
	leakage   *leakageLimit
	limits    *limits
	server    *fasthttp.Server
	stopping  atomic.Bool
	// noNewLeases is what the last heartbeat said.
	noNewLeases atomic.Bool
	inFlight    atomic.Int64    // calls between their intent and their result
	draining    atomic.Int64    // those of them whose client has left
	abort       context.Context // ends when running calls must end
	abortNow    context.CancelFunc
	lives       *lives
	outside     *outside
}

// New makes a gateway. It fails on an upstream that cannot be used.
func New(o Options) (*Gateway, error) {
	g := &Gateway{Options: o, directory: newDirectory(o.Ledger, o.Pepper), budgets: newBudgets(o.Ledger), leakage: newLeakageLimit(), limits: newLimits(o.Ledger, o.ID)}
	g.Book = lease.NewBook(lease.Config{Ledger: o.Ledger, Spool: o.Spool, Gateway: o.ID, TTL: o.LeaseTTL, Idle: o.LeaseIdle,
		NewID: newRequestID, Now: time.Now, Log: o.Log, NoGrants: g.NoGrants})
	g.abort, g.abortNow = context.WithCancel(context.Background())
	g.lives = newLives(g.abort, o.MaxRequest)
	g.outside = newOutside(g)
	var err error
	if g.routes, err = makeRoutes(o); err != nil {
		return nil, err
	}
	g.server = &fasthttp.Server{
		Handler: g.handle, Name: "weir", NoDefaultServerHeader: true, NoDefaultContentType: true, NoDefaultDate: true,
		ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		StreamRequestBody: true, MaxRequestBodySize: readAhead, ReadBufferSize: maxHeaderBytes,
		Concurrency: maxConns, CloseOnShutdown: true, DisablePreParseMultipartForm: true, ErrorHandler: answerBroken,
		Logger: quiet{},
	}
	return g, nil
}

// Serve answers clients on l until Shutdown.
func (g *Gateway) Serve(l net.Listener) error { return g.server.Serve(l) }

// Shutdown admits nothing more, lets running calls and drains end until ctx
// does, then aborts them: they are billed by what was received.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.stopping.Store(true)
	err := g.server.ShutdownWithContext(ctx)
	g.idle(ctx) // drains have no connection any more
	g.abortNow()
	g.outside.abort()
	ctx, cancel := context.WithTimeout(context.Background(), abortGrace)
	defer cancel()
	g.idle(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // what was still running has been aborted and billed
	}
	return err
}

// idle waits until every call has its result, or ctx ends.
func (g *Gateway) idle(ctx context.Context) {
	tick := time.NewTicker(idleTick)
	defer tick.Stop()
	for g.inFlight.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const (
	// abortGrace is how long aborted calls have to write their records.
	abortGrace = 3 * time.Second
	// idleTick is how closely the end of the last call is noticed at a stop.
	idleTick = 10 * time.Millisecond
)

// InFlight is how many upstream calls run and reservations are open now. The
// books wait for the first alone: a reservation may stay open for minutes.
func (g *Gateway) InFlight() int64 { return g.inFlight.Load() + g.outside.openCount.Load() }

// handle is one request's way. Every verb either answers the client itself, by
// returning a refusal, or hands on to the next.
func (g *Gateway) handle(ctx *fasthttp.RequestCtx) {
	c := &call{g: g, start: time.Now(), id: newRequestID()}
	ctx.Response.Header.Set(headerRequestID, c.id)
	defer skipBody(ctx)
	defer g.limits.tell(ctx, c)
	defer g.recovered(ctx, c)

	if !g.wellFormed(ctx, c) {
		return // answered: not to be believed
	}
	r := g.route(ctx, c)
	if r == nil {
		return // answered: not a metered path
	}
	refusal := g.authenticate(ctx, c)
	if refusal == nil && r.own != nil {
		r.own(g, ctx, c)
		return
	}
	if refusal == nil {
		refusal = g.reserve(ctx, c)
	}
	if refusal != nil {
		g.refuse(ctx, c, refusal)
		return
	}
	// From here on the call has exactly one result, whatever happens.
	answer := g.forward(ctx, c)
	switch {
	case answer == nil: // the upstream cannot have served, or gave nothing; recorded and answered
	case c.scan.Stream && isEventStream(answer):
		g.measureStream(ctx, c, answer) // measures and records while the client reads
	default:
		g.measureJSON(ctx, c, answer) // measures, records, then answers
	}
}

// recovered keeps a panic from leaving its request. What the call has begun is
// ended, so that its lease can close.
func (g *Gateway) recovered(ctx *fasthttp.RequestCtx, c *call) {
	p := recover()
	if p == nil {
		return
	}
	g.Log.Error("BUG: a request panicked", "request_id", c.id, "panic", p, "stack", string(debug.Stack()))
	if c.end != nil {
		c.end()
	}
	c.abandon()
	g.refuse(ctx, c, &refusal{status: http.StatusInternalServerError, code: "internal", message: "The request failed inside the gateway; it was not billed."})
}

func newRequestID() string {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the system has no randomness: nothing can be identified
	}
	return id.String()
}

// quiet drops what fasthttp would print about clients that misbehave.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

var _ fasthttp.Logger = quiet{}

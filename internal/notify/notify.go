// Package notify tells the platform what happens to its customers' wallets: it
// delivers the ledger's events to the endpoints that want them, signed as
// Standard Webhooks says, at least once each. An event's id stays the same in
// every delivery, so that a receiver can tell repeats.
package notify

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/ledger"
)

const (
	// lookEvery is how soon a new event is on its way.
	lookEvery = time.Second
	// noteTimeout bounds a claim, and what is noted of a try.
	noteTimeout = 5 * time.Second
	// claimHold keeps other workers from a delivery under way. It is longer than
	// a claim, a send and a note together, so a worker whose claim has ended
	// writes nothing over what the next one noted.
	claimHold = sendTimeout + 3*noteTimeout
	// turnMax bounds what one endpoint gets in one turn, so that a removed
	// endpoint is looked up again before long.
	turnMax = 100
	// restMin is how long an endpoint is left alone after a try that failed;
	// twice as long after each further one in a row, up to restMax. So a receiver
	// that is overloaded is not met by all that waits for it, and what waits
	// behind a dead one does not use up its own tries.
	restMin, restMax = time.Second, time.Minute
	// jitterShare of a pause is added at random, so that a receiver that comes
	// back is not met by everything at once.
	jitterShare = 10
)

// EndpointsMax bounds the endpoints of an installation: each is served by a
// goroutine of its own.
const EndpointsMax = 50

// pauses are between tries, a little over three days in all, as Standard
// Webhooks proposes.
var pauses = [...]time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour,
	14 * time.Hour, 20 * time.Hour, 24 * time.Hour}

// EventTest is the type of an event that an operator sends to see whether an
// endpoint works. It goes to that endpoint alone, whatever it subscribed to.
const EventTest = "webhook.test"

// TestNews is the data of webhook.test.
type TestNews struct {
	Webhook string `json:"webhook"` // the endpoint's id
}

// Options are what delivering needs.
type Options struct {
	Ledger       *ledger.DB
	Sealer       *Sealer
	AllowPrivate bool // http and private addresses too
	Now          func() time.Time
	Log          *slog.Logger
	Registry     prometheus.Registerer
}

// Notifier delivers events. Any number of them may work on one ledger.
type Notifier struct {
	Options
	client *http.Client
	tries  *prometheus.CounterVec

	mu      sync.Mutex // guards turns and what they point at
	turns   map[string]*turn
	running sync.WaitGroup
}

// turn is how the serving of an endpoint stands.
type turn struct {
	busy  bool          // a goroutine has it
	rest  time.Duration // after the last failure in a row
	until time.Time     // the end of that rest
}

// ended notes how a turn went.
func (t *turn) ended(sent, failed bool, now time.Time) {
	t.busy = false
	if sent {
		t.rest = 0
	}
	if failed {
		t.rest = min(max(2*t.rest, restMin), restMax)
		t.until = now.Add(t.rest)
	}
}

// New makes it and registers its metrics.
func New(o Options) *Notifier {
	n := &Notifier{Options: o, client: newClient(o.AllowPrivate), turns: map[string]*turn{}}
	n.tries = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_webhook_tries_total", Help: "Tries to deliver an event to a webhook, by outcome."}, []string{"outcome"})
	o.Registry.MustRegister(n.tries)
	return n
}

// Run delivers until ctx ends. A send that is under way then is cut off, and
// repeated by whoever runs next.
func (n *Notifier) Run(ctx context.Context) {
	defer n.running.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := n.dispatch(ctx); err != nil && ctx.Err() == nil {
			n.Log.Warn("cannot look for events to deliver, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// dispatch begins to deliver what is due, each endpoint for itself: one that is
// slow or dead keeps no other waiting.
func (n *Notifier) dispatch(ctx context.Context) error {
	due, err := n.Ledger.DueEndpoints(ctx)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, endpoint := range due {
		t := n.turns[endpoint.ID]
		if t == nil {
			t = &turn{}
			n.turns[endpoint.ID] = t
		}
		if t.busy || n.Now().Before(t.until) {
			continue
		}
		t.busy = true
		n.running.Go(func() {
			sent, failed, err := n.serve(ctx, endpoint)
			if err != nil && ctx.Err() == nil {
				n.Log.Warn("cannot deliver webhooks, trying again", "webhook", endpoint.ID, "err", err)
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			t.ended(sent, failed, n.Now())
		})
	}
	return nil
}

// serve delivers what is due at one endpoint, one after another, until one
// fails. sent and failed tell whether any was delivered and whether one failed.
func (n *Notifier) serve(ctx context.Context, endpoint ledger.Endpoint) (sent, failed bool, err error) {
	for range turnMax {
		d, found, err := n.claim(ctx, endpoint.ID)
		if err != nil || !found {
			return sent, false, err
		}
		status, failure := n.send(ctx, endpoint, d.Event)
		if failure != nil && ctx.Err() != nil {
			return sent, false, nil // cut off: the claim ends, and it is sent again
		}
		err = n.note(ctx, endpoint, d, status, failure)
		if err != nil || failure != nil {
			return sent, failure != nil, err
		}
		sent = true
	}
	return sent, false, nil
}

func (n *Notifier) claim(ctx context.Context, endpoint string) (ledger.Delivery, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	return n.Ledger.ClaimDelivery(ctx, endpoint, claimHold)
}

// note writes down how a try went, also when the process is being stopped: what
// was delivered need not be sent again.
func (n *Notifier) note(ctx context.Context, endpoint ledger.Endpoint, d ledger.Delivery, status int, failure error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if failure == nil {
		n.tries.WithLabelValues("delivered").Inc()
		return n.Ledger.Delivered(ctx, d.Event.ID, endpoint.ID, status)
	}
	n.tries.WithLabelValues("failed").Inc()
	d.LastStatus, d.LastError = status, failure.Error()
	var next time.Time // never
	if d.Tries < len(pauses) && status != http.StatusGone {
		pause := pauses[d.Tries]
		next = n.Now().Add(pause + rand.N(pause/jitterShare))
	}
	n.Log.Warn("a webhook was not delivered", "webhook", endpoint.ID, "event", d.Event.ID, "type", d.Event.Type, "try", d.Tries+1,
		"given_up", next.IsZero(), "err", failure)
	err := n.Ledger.DeliveryFailed(ctx, d, next)
	if err == nil && status == http.StatusGone { // the one way to say: for good
		n.Log.Warn("the webhook's receiver is gone and is told nothing more", "webhook", endpoint.ID)
		err = n.Ledger.Tx(ctx, func(tx *ledger.Tx) error { return tx.DisableEndpoint(ctx, endpoint.ID) })
	}
	return err
}

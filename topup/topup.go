// Package topup brings money into wallets: by a hosted page of Stripe that the
// customer pays on, by a saved card when the balance runs low, by a plan's
// paid period. It is the only package that knows Stripe.
//
// Nothing that arrives is believed but for the name of an object: the object is
// then fetched from Stripe, and the books are brought to what it says. So it
// does not matter which events come, in which order, or how often. A row is
// written before Stripe is asked for money, and Stripe is asked under a key
// made of that row, so a crash between any two steps charges once.
package topup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stripe/stripe-go/v76/client"

	"weir/internal/ledger"
	"weir/schemas/money"
)

const (
	// currency is the one currency of an installation, in Stripe's words.
	currency = "usd"
	// cent is Stripe's unit of amounts.
	cent money.Nano = 10_000_000
	// MinAmount is the least that Stripe charges in dollars.
	MinAmount = 50 * cent
	// MaxAmount is the most that Stripe charges at once.
	MaxAmount = 99_999_999 * cent

	// dueEvery is how often wallets below their threshold are looked for: a
	// top-up is under way within two seconds of the usage that made it due.
	dueEvery = 500 * time.Millisecond
	// pollEvery is how often Stripe is asked for what it could not deliver.
	pollEvery = 15 * time.Minute
	// workMax bounds what one turn of the worker takes on.
	workMax = 100
	// workAtOnce is on how many top-ups it works at the same time: a slow answer
	// about one is not waited for by the others, and Stripe takes far more.
	workAtOnce = 8
)

// The errors that callers can tell apart, beside those of the ledger.
var (
	// ErrNotAccepted wraps Stripe's refusal of a request; its text is Stripe's,
	// and fit for the operator.
	ErrNotAccepted = errors.New("stripe does not accept this")
	// ErrUnavailable wraps a question that Stripe did not answer: the same one
	// may be asked again.
	ErrUnavailable = errors.New("stripe cannot be asked now")
	// ErrEnded refuses a purchase that was paid, canceled or given up before
	// anybody was told its page.
	ErrEnded = errors.New("this purchase has ended")
)

// Options are what top-ups need.
type Options struct {
	Ledger         *ledger.DB
	SecretKey      string
	WebhookSecrets []string // the current one, and while it is replaced the one before
	APIBase        string   // "" is Stripe itself
	// ReturnURL is where a customer goes after a page that no request of the
	// platform led him to; {customer} in it is his id. "" is the page of his
	// last purchase.
	ReturnURL string
	Now       func() time.Time
	Log       *slog.Logger
	Registry  prometheus.Registerer
}

// Topup is the funding of wallets by one Stripe account.
type Topup struct {
	Options
	stripe *client.API
	live   bool // the key is of live mode: objects of test mode are not ours
	// installation is a name that no other ledger has.
	installation string
	metrics      *metrics
	kick         chan struct{} // there is something to do
	// tx is Ledger.Tx; a test puts faults between.
	tx func(context.Context, func(*ledger.Tx) error) error
}

// New makes it. It fails without webhook secrets: an empty one would take any
// event for a true one.
func New(ctx context.Context, o Options) (*Topup, error) {
	for _, s := range append([]string{o.SecretKey}, o.WebhookSecrets...) {
		if strings.TrimSpace(s) == "" {
			return nil, errors.New("stripe.secret_key and stripe.webhook_secret must be set together: without the second, anybody could credit a wallet")
		}
	}
	if len(o.WebhookSecrets) == 0 {
		return nil, errors.New("stripe.webhook_secret is empty")
	}
	installation, err := o.Ledger.Setting(ctx, "installation", rand.Text())
	if err != nil {
		return nil, err
	}
	t := &Topup{Options: o, installation: installation, stripe: newClient(o.SecretKey, o.APIBase, askRetries), kick: make(chan struct{}, 1), tx: o.Ledger.Tx,
		live: strings.HasPrefix(o.SecretKey, "sk_live_") || strings.HasPrefix(o.SecretKey, "rk_live_")}
	t.metrics = newMetrics(o.Registry, o.Ledger.StripeInbox, o.Now)
	return t, nil
}

// Wake makes Run work at once on what was just written to the ledger.
func (t *Topup) Wake() {
	select {
	case t.kick <- struct{}{}:
	default: // it is awake already
	}
}

// Run works until ctx ends: events as they come, wallets that run low, top-ups
// and refunds under way, and what Stripe could not deliver.
func (t *Topup) Run(ctx context.Context) {
	due, poll := time.NewTicker(dueEvery), time.NewTicker(pollEvery)
	defer due.Stop()
	defer poll.Stop()
	t.try(ctx, "ask Stripe for missed events", t.Poll)
	for {
		select {
		case <-ctx.Done():
			return
		case <-due.C:
			t.try(ctx, "top up", t.Step)
		case <-t.kick:
			t.try(ctx, "work on what came", t.Step)
		case <-poll.C:
			t.try(ctx, "ask Stripe for missed events", t.Poll)
		}
	}
}

// try logs what a turn of the worker could not do; the next turn tries again.
func (t *Topup) try(ctx context.Context, what string, work func(context.Context) error) {
	if err := work(ctx); err != nil && ctx.Err() == nil {
		t.metrics.failures.Inc()
		t.Log.Warn("cannot "+what+", trying again", "err", err)
	}
}

// Step does everything that is due now, once: events, wallets below their
// threshold, top-ups and refunds under way.
func (t *Topup) Step(ctx context.Context) error {
	return errors.Join(t.workInbox(ctx), t.workDue(ctx), t.workLive(ctx), t.workRefunds(ctx))
}

// Poll asks Stripe for what nobody told: events that were not delivered, fees
// that were not known yet.
func (t *Topup) Poll(ctx context.Context) error {
	return errors.Join(t.missedEvents(ctx), t.unknownFees(ctx), t.Step(ctx))
}

// cents converts an amount, which must be whole cents.
func cents(n money.Nano) int64 { return int64(n / cent) }

// nano converts Stripe's amount.
func nano(cents int64) money.Nano { return money.Nano(cents) * cent }

// WholeCents tells whether Stripe can move an amount exactly.
func WholeCents(n money.Nano) bool { return n%cent == 0 }

// CheckAmount says what is wrong with an amount to be charged, "" if nothing.
func CheckAmount(n money.Nano) string {
	switch {
	case !WholeCents(n):
		return fmt.Sprintf("%s is not in whole cents", n)
	case n < MinAmount || n > MaxAmount:
		return fmt.Sprintf("%s is not from %s to %s", n, MinAmount, MaxAmount)
	}
	return ""
}

// each works on a list, on so many items at once: one that fails does not keep
// the others back, and one that another worker has taken on is no failure.
func each[T any](ctx context.Context, list []T, atOnce int, work func(context.Context, T) error) error {
	errs := make([]error, len(list))
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for i, item := range list {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		running.Go(func() {
			errs[i] = ended(work(ctx, item))
			<-slots
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

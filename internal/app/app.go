// Package app puts weir together: it opens what a role needs in order, serves
// until it is told to stop, and stops in reverse.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/analytics"
	"weir/gateway"
	"weir/internal/cards"
	"weir/internal/config"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/internal/warehouse"
	"weir/processor"
	"weir/topup"
)

const (
	// openRetry paces attempts to reach a ledger or a log that is not there
	// yet; weir starts before its databases and is not ready until then.
	openRetry = 2 * time.Second
	// streamGrace is how long streams and drains may go on after a stop.
	streamGrace = 30 * time.Second
	// settleGrace is how long a stop waits for the spool to be produced and
	// settled; what is left then stays in the spool for the next start.
	settleGrace = 10 * time.Second
	// endGrace bounds the last word to the ledger. A session that could not be
	// ended ends by its time, so a ledger that is away fails no stop.
	endGrace = 5 * time.Second
	// controlGrace lets answers of the control plane that are under way end: a
	// credit that was booked should be told to who asked for it.
	controlGrace = 3 * time.Second
)

// Usage is an error of configuration or environment that trying again would
// not mend: the process exits 2.
type Usage struct{ Err error }

func (u Usage) Error() string { return u.Err.Error() }

// Unwrap returns the cause.
func (u Usage) Unwrap() error { return u.Err }

// Addresses are where a running weir listens; "" = off.
type Addresses struct {
	Data       string `json:"data"`
	Control    string `json:"control"`
	ClickHouse string `json:"clickhouse"`
}

// App is one process: a role, its configuration, and what it has opened.
type App struct {
	cfg  config.Config
	role string
	log  *slog.Logger

	dir      *dataDir
	token    string
	registry *prometheus.Registry
	plane    atomic.Pointer[http.Handler] // the control listener's routes: a few at first, all once open
	control  *http.Server

	ledger    *ledger.DB
	cards     *cards.Cards
	pepper    []byte
	spool     *stream.Spool
	warehouse *warehouse.DB // nil without one
	whyNot    string        // why there is none although one is wanted
	analytics *analytics.Analytics
	topup     *topup.Topup     // nil without a payment account
	gateway   *gateway.Gateway // nil in other roles
	heart     *gateway.Heart
	processor atomic.Pointer[processor.Processor] // nil in other roles, and until the usage log is reached

	partitions int           // of the usage log, for ever
	usageLog   *stream.Log   // set before logReached is closed
	logReached chan struct{} // closed when the usage log is open

	listeners struct{ data, control, clickhouse net.Listener }
	ready     atomic.Bool
	awaited   atomic.Pointer[string] // what the start waits for, while it does
	failed    chan error             // the first failure of anything that must not fail

	background sync.WaitGroup // ends with the context given to it
}

// New prepares an app. The configuration has been checked.
func New(cfg config.Config, role string, log *slog.Logger) *App {
	return &App{cfg: cfg, role: role, log: log, registry: newRegistry(), logReached: make(chan struct{}), failed: make(chan error, 1)}
}

func (a *App) isGateway() bool   { return a.role == config.RoleAll || a.role == config.RoleGateway }
func (a *App) isProcessor() bool { return a.role == config.RoleAll || a.role == config.RoleProcessor }
func (a *App) isAnalytics() bool { return a.role == config.RoleAll || a.role == config.RoleAnalytics }

// Run opens everything, calls ready with the addresses, serves until ctx ends
// or something fails, and stops. It returns nil after an orderly stop.
func (a *App) Run(ctx context.Context, ready func(Addresses)) (err error) {
	defer func() { err = errors.Join(err, a.closeAll()) }()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer a.background.Wait()
	defer stopWork()

	if err := a.open(ctx, work); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while starting
		}
		return err
	}
	a.ready.Store(true)
	addresses := a.addresses()
	if err := a.dir.writeRun(addresses); err != nil {
		return err
	}
	ready(addresses)
	select {
	case <-ctx.Done():
		a.log.Info("stopping")
		return a.stop(work)
	case err := <-a.failed:
		return err
	}
}

// open brings the parts up in the order in which they need each other; the
// data listener comes last, when everything behind it works.
func (a *App) open(ctx, work context.Context) error {
	if err := a.openFiles(); err != nil {
		return err
	}
	if err := a.serveControl(); err != nil {
		return err
	}
	left, err := a.openLedger(ctx)
	if err != nil {
		return err
	}
	if a.isGateway() {
		if err := a.openSpool(); err != nil {
			return err
		}
	}
	if err := a.openLog(ctx, work); err != nil {
		return err
	}
	if err := a.openWarehouse(work); err != nil {
		return err
	}
	a.openAnalytics()
	if err := a.startWebhooks(work); err != nil {
		return err
	}
	if err := a.startFunding(work); err != nil {
		return err
	}
	if a.isProcessor() {
		a.startProcessor(work)
		a.background.Go(func() { a.housekeep(work) })
	}
	if a.isGateway() {
		if err := a.startGateway(ctx, work, left); err != nil {
			return err
		}
	}
	a.servePlane()
	return nil
}

// awaits notes what the start waits for; "" is nothing.
func (a *App) awaits(what string) { a.awaited.Store(&what) }

// fail ends the process for a reason; the first one counts.
func (a *App) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}

// start runs a part in the background until work ends. A part that ends by
// itself with an error ends the process.
func (a *App) start(what string, part func() error) {
	a.background.Go(func() {
		if err := part(); err != nil {
			a.fail(fmt.Errorf("%s: %w", what, err))
		}
	})
}

// stop lets running calls end, gives the leases back, and waits a while for
// the books to be complete.
func (a *App) stop(work context.Context) error {
	a.ready.Store(false)
	if a.gateway == nil {
		return nil
	}
	grace, cancel := context.WithTimeout(work, streamGrace)
	defer cancel()
	err := a.gateway.Shutdown(grace)
	a.gateway.Book.Stop(grace)
	settle, cancel := context.WithTimeout(work, settleGrace)
	defer cancel()
	a.waitSettled(settle)
	end, cancel := context.WithTimeout(work, endGrace)
	defer cancel()
	if err := a.ledger.EndSession(end, a.heart.Session()); err != nil {
		a.log.Warn("the session ends by its time", "err", err)
	}
	return err
}

// waitSettled returns once the log has everything the spool holds and, where
// this process settles, the ledger too.
func (a *App) waitSettled(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		behind, err := a.behind(ctx)
		if err == nil && behind == 0 {
			return
		}
		select {
		case <-ctx.Done():
			a.log.Warn("stopping before everything is settled; the rest is in the spool", "records", behind, "err", err)
			return
		case <-tick.C:
		}
	}
}

// behind counts the records that this process still has to bring into the books.
func (a *App) behind(ctx context.Context) (int64, error) {
	behind := a.spool.Usage().UnackedRecords
	l := a.reachedLog()
	if behind > 0 || l == nil || !a.isProcessor() {
		return behind, nil
	}
	pending, err := a.ledger.Pending(ctx)
	if err != nil {
		return 1, err
	}
	ends, err := l.EndOffsets(ctx)
	if err != nil {
		return 1, err
	}
	for part, end := range ends {
		for _, c := range pending.Cursors {
			if c.Topic == l.TopicID() && c.Part == part {
				end -= c.Settled
			}
		}
		behind += max(end, 0)
	}
	if a.warehouse != nil && a.warehouse.Up() {
		behind += pending.Unappended
	}
	return behind, nil
}

// closeAll closes what is open, the control plane first: it asks all others.
func (a *App) closeAll() error {
	var errs []error
	if a.control != nil {
		grace, cancel := context.WithTimeout(context.Background(), controlGrace)
		defer cancel()
		if a.control.Shutdown(grace) != nil { // a tie-out may wait for minutes
			errs = append(errs, a.control.Close())
		}
	}
	if a.spool != nil {
		errs = append(errs, a.spool.Close())
	}
	if a.usageLog != nil {
		a.usageLog.Close()
	}
	if a.warehouse != nil {
		errs = append(errs, a.warehouse.Close())
	}
	if a.ledger != nil {
		errs = append(errs, a.ledger.Close())
	}
	if a.dir != nil {
		errs = append(errs, a.dir.close())
	}
	return errors.Join(errs...)
}

func (a *App) addresses() Addresses {
	text := func(l net.Listener) string {
		if l == nil {
			return ""
		}
		return l.Addr().String()
	}
	return Addresses{Data: text(a.listeners.data), Control: text(a.listeners.control), ClickHouse: text(a.listeners.clickhouse)}
}

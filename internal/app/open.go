package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"weir/analytics"
	"weir/gateway"
	"weir/gateway/lease"
	"weir/internal/cards"
	"weir/internal/config"
	"weir/internal/control"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/internal/warehouse"
	"weir/processor"
)

const currencySetting = "currency"

// recovered is what an earlier process of this gateway left behind.
type recovered struct {
	session gateway.Session
	leases  []ledger.Lease
}

// openLedger reaches the ledger, however long that takes, reads what is fixed
// there, publishes the configured rate cards and begins the gateway's session.
func (a *App) openLedger(ctx context.Context) (left recovered, err error) {
	reach := func() (err error) {
		left, err = a.reachLedger(ctx)
		return err
	}
	if a.cfg.Ledger.URL.Reveal() == "" {
		err = reach() // a local failure does not pass by itself
		return left, err
	}
	a.awaits("ledger")
	defer a.awaits("")
	err = a.retry(ctx, "ledger", reach)
	return left, err
}

// reachLedger may be repeated after a failure.
func (a *App) reachLedger(ctx context.Context) (left recovered, err error) {
	if a.ledger == nil {
		a.ledger, err = ledger.Open(ctx, ledger.Config{URL: a.cfg.Ledger.URL.Reveal(), Dir: a.cfg.DataDir, Log: a.log})
		if err != nil {
			return left, err
		}
	}
	if err := a.checkCurrency(ctx); err != nil {
		return left, err
	}
	if a.pepper, err = control.Pepper(ctx, a.ledger, a.cfg.Keys.Pepper.Reveal()); err != nil {
		return left, err
	}
	if a.partitions, err = readPartitions(ctx, a.ledger, a.cfg.Kafka); err != nil {
		return left, err
	}
	if a.isProcessor() {
		if err := a.ledger.SetWarehouse(ctx, a.cfg.ClickHouse.URL.Reveal() != config.NoClickHouse); err != nil {
			return left, err
		}
	}
	published, err := cards.PublishFiles(ctx, a.ledger, a.cfg.Rates)
	if err != nil {
		return left, err
	}
	if published {
		a.log.Info("published the configured rate card")
	}
	a.cards = cards.New(a.ledger)
	if err := a.cards.Refresh(ctx); err != nil || !a.isGateway() {
		return left, err
	}
	return a.openSession(ctx)
}

// checkCurrency fixes the installation's one currency at first start.
func (a *App) checkCurrency(ctx context.Context) error {
	have, err := a.ledger.Setting(ctx, currencySetting, gateway.Currency)
	if err == nil && have != gateway.Currency {
		err = Usage{fmt.Errorf("the ledger counts in %q; this program counts in %q only", have, gateway.Currency)}
	}
	return err
}

// openSession begins this process' standing in the ledger, which ends that of
// an earlier process of the same data directory and lists what it left open.
func (a *App) openSession(ctx context.Context) (recovered, error) {
	s := gateway.Session{ID: uuid.NewString(), TTL: a.cfg.Reserve.LeaseTTL,
		Exclusive: a.role == config.RoleAll && (len(a.cfg.Kafka.Brokers) == 0 || a.cfg.ClickHouse.URL.Reveal() == "")}
	leases, err := a.ledger.StartSession(ctx, ledger.Session{ID: s.ID, Gateway: a.dir.gatewayID, Exclusive: s.Exclusive, TTL: s.TTL})
	if errors.Is(err, ledger.ErrAlone) {
		return recovered{}, Usage{fmt.Errorf("%w: an embedded usage log or warehouse cannot be shared; set kafka.brokers and clickhouse.url on all of them", err)}
	}
	return recovered{s, leases}, err
}

// openWarehouse starts it in the background: it is off the money path, so
// nothing waits for it, and without its library weir serves all the same.
func (a *App) openWarehouse(work context.Context) error {
	url := a.cfg.ClickHouse.URL.Reveal()
	if a.role == config.RoleGateway && url == "" {
		return nil // then its clients cannot look single requests up
	}
	if url == config.NoClickHouse {
		return nil
	}
	var err error
	a.warehouse, err = warehouse.Start(warehouseConfig(a.cfg, a.log))
	if errors.Is(err, warehouse.ErrNoLibrary) {
		a.warehouse, a.whyNot = nil, "Reports are off: "+err.Error()
		a.log.Error("serving and settling without a warehouse; it catches up when it is there", "err", err)
		return nil
	}
	if err != nil {
		return Usage{err}
	}
	if url != "" || a.cfg.Listen.ClickHouse == "" {
		return nil
	}
	if err := a.warehouse.MayServe(); err != nil {
		a.log.Error("the SQL interface is off", "err", err)
		return nil
	}
	l, err := net.Listen("tcp", a.cfg.Listen.ClickHouse)
	if err != nil {
		return Usage{fmt.Errorf("cannot listen for SQL (listen.clickhouse): %w", err)}
	}
	a.listeners.clickhouse = l
	context.AfterFunc(work, func() { _ = l.Close() }) // Serve returns
	a.background.Go(func() {
		if err := a.warehouse.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) {
			a.log.Error("the SQL interface is off", "err", err)
		}
	})
	return nil
}

// warehouseConfig is where the warehouse is, as configured.
func warehouseConfig(c config.Config, log *slog.Logger) warehouse.Config {
	return warehouse.Config{URL: c.ClickHouse.URL.Reveal(), Cluster: c.ClickHouse.Cluster, KeepRaw: c.ClickHouse.KeepRaw.Duration(),
		Library: c.ClickHouse.Library, Unconfined: c.ClickHouse.Unconfined, DataDir: c.DataDir, Log: log}
}

func (a *App) openAnalytics() {
	a.analytics = analytics.New(analytics.Options{Ledger: a.ledger, Warehouse: a.warehouse, WhyNot: a.whyNot, LogEnds: a.logEnds,
		Fail: control.WriteError, Log: a.log})
}

func (a *App) startProcessor(work context.Context) {
	a.startOnLog("processor", work, func(l *stream.Log) error {
		o := processor.Options{Log: l, Ledger: a.ledger, Cards: a.cards, Logger: a.log, Metrics: processor.NewMetrics(a.registry),
			Grace: a.cfg.Reserve.MaxRequest + a.cfg.Reserve.RecoveryGrace}
		if a.warehouse != nil {
			o.Warehouse = a.warehouse
		}
		p := processor.New(o)
		a.processor.Store(p)
		a.background.Go(func() { a.trim(work, l) })
		return p.Run(work)
	})
}

// startGateway ends what an earlier process left open, then serves.
func (a *App) startGateway(ctx, work context.Context, left recovered) error {
	recovery := lease.Recovery{Spool: a.spool, Found: a.spool.Replay(), Leases: left.leases, Lookup: a.ledger.Lease, Now: time.Now(), Log: a.log}
	if err := recovery.Run(ctx); err != nil {
		return err
	}
	a.start("spool", func() error {
		select {
		case <-a.spool.Failed():
			return a.spool.Err()
		case <-work.Done():
			return nil
		}
	})
	var err error
	a.gateway, err = gateway.New(gateway.Options{ID: a.dir.gatewayID, Ledger: a.ledger, Spool: a.spool, Cards: a.cards, Pepper: a.pepper,
		Upstreams: upstreams(a.cfg.Providers), LeaseTTL: a.cfg.Reserve.LeaseTTL, LeaseIdle: a.cfg.Reserve.LeaseIdle,
		MaxRequest: a.cfg.Reserve.MaxRequest, MissingMax: a.cfg.Reserve.MissingMax, Drain: a.cfg.Disconnect.Policy == "drain",
		DrainMax: a.cfg.Disconnect.Max, TopUpURL: a.cfg.TopUpURL, Log: a.log, Metrics: gateway.NewMetrics(a.registry), Generation: a.analytics.Generation})
	if err != nil {
		return Usage{err}
	}
	a.heart = a.gateway.NewHeart(left.session, "")
	a.produce(work)
	if err := a.heart.Beat(ctx); err != nil {
		return err
	}
	a.start("heartbeat", func() error { return a.heart.Run(work) })
	if a.cfg.Listen.Data == "" {
		return nil
	}
	if a.listeners.data, err = net.Listen("tcp", a.cfg.Listen.Data); err != nil {
		return Usage{fmt.Errorf("cannot listen for requests (listen.data): %w", err)}
	}
	l := a.listeners.data
	context.AfterFunc(work, func() { _ = l.Close() }) // where no Shutdown came before, Serve returns
	a.start("data plane", func() error {
		if err := a.gateway.Serve(l); work.Err() == nil {
			return err
		}
		return nil
	})
	return nil
}

func upstreams(providers map[string]config.Provider) []gateway.Upstream {
	var list []gateway.Upstream
	for name, p := range providers {
		list = append(list, gateway.Upstream{Name: name, Kind: p.Kind, BaseURL: p.BaseURL, Key: p.APIKey.Reveal(), CAFile: p.CAFile,
			AllowPrivate: p.AllowPrivate, StreamUsage: p.StreamUsage})
	}
	slices.SortFunc(list, func(x, y gateway.Upstream) int { return strings.Compare(x.Name, y.Name) })
	return list
}

// retry tries to reach something until it is there or ctx ends.
func (a *App) retry(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		if err == nil || ctx.Err() != nil || errors.As(err, new(Usage)) {
			return errors.Join(err, ctx.Err())
		}
		a.log.Warn("waiting for "+what, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(openRetry):
		}
	}
}

package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
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

const (
	currencySetting   = "currency"
	partitionsSetting = "partitions"
	// embeddedPartitions are few: each is a batch, and so a transaction and a
	// block, of its own.
	embeddedPartitions = 4
	clusterPartitions  = 24
	// trimEvery is how often the embedded log drops what is settled and appended.
	trimEvery = time.Minute
)

// recovered is what an earlier process of this gateway left behind.
type recovered struct {
	session gateway.Session
	leases  []ledger.Lease
}

// openLedger reaches the ledger, however long that takes, and publishes the
// configured rate cards.
func (a *App) openLedger(ctx context.Context) error {
	err := a.retry(ctx, "the ledger", func() (err error) {
		a.ledger, err = ledger.Open(ctx, ledger.Config{URL: a.cfg.Ledger.URL.Reveal(), Dir: a.cfg.DataDir, Log: a.log})
		return err
	})
	if err != nil {
		return err
	}
	if err := a.checkCurrency(ctx); err != nil {
		return err
	}
	if a.pepper, err = control.Pepper(ctx, a.ledger, a.cfg.Keys.Pepper.Reveal()); err != nil {
		return err
	}
	published, err := cards.PublishFiles(ctx, a.ledger, a.cfg.Rates)
	if err != nil {
		return Usage{err}
	}
	if published {
		a.log.Info("published the configured rate card")
	}
	a.cards = cards.New(a.ledger)
	return a.cards.Refresh(ctx)
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
		Exclusive: len(a.cfg.Kafka.Brokers) == 0 || a.cfg.ClickHouse.URL.Reveal() == ""}
	leases, err := a.ledger.StartSession(ctx, ledger.Session{ID: s.ID, Gateway: a.dir.gatewayID, Exclusive: s.Exclusive, TTL: s.TTL})
	if errors.Is(err, ledger.ErrAlone) {
		return recovered{}, Usage{fmt.Errorf("%w: an embedded usage log or warehouse cannot be shared; set kafka.brokers and clickhouse.url on all of them", err)}
	}
	return recovered{s, leases}, err
}

// openLog opens the spool, where this process is a gateway, and the usage log.
func (a *App) openLog(ctx context.Context) (err error) {
	if a.isGateway() {
		a.spool, err = stream.OpenSpool(stream.SpoolConfig{Dir: filepath.Join(a.cfg.DataDir, "spool"), MaxBytes: int64(a.cfg.Spool.MaxBytes), Log: a.log})
		if err != nil {
			return err
		}
	}
	partitions, err := a.partitions(ctx)
	if err != nil {
		return err
	}
	k := a.cfg.Kafka
	secure, err := clientTLS(k.TLS)
	if err != nil {
		return Usage{err}
	}
	return a.retry(ctx, "the usage log", func() (err error) {
		a.usageLog, err = stream.OpenLog(ctx, stream.LogConfig{Brokers: k.Brokers, Topic: k.Topic, Partitions: partitions,
			Dir: filepath.Join(a.cfg.DataDir, "log"), TLS: secure, Log: a.log,
			SASL: stream.SASLConfig{Mechanism: strings.ToUpper(k.SASL.Mechanism), Username: k.SASL.Username, Password: k.SASL.Password.Reveal()}})
		return err
	})
}

// partitions is fixed at first start: another number would spread a customer's
// records over two partitions and so break their order.
func (a *App) partitions(ctx context.Context) (int, error) {
	want := a.cfg.Kafka.Partitions
	if want == 0 {
		want = embeddedPartitions
		if len(a.cfg.Kafka.Brokers) > 0 {
			want = clusterPartitions
		}
	}
	text, err := a.ledger.Setting(ctx, partitionsSetting, fmt.Sprint(want))
	if err != nil {
		return 0, err
	}
	var have int
	if _, err := fmt.Sscan(text, &have); err != nil {
		return 0, fmt.Errorf("the ledger's setting %s is %q: %w", partitionsSetting, text, err)
	}
	if a.cfg.Kafka.Partitions != 0 && have != want {
		return 0, Usage{fmt.Errorf("kafka.partitions is %d, this installation was started with %d; the number cannot be changed in place", want, have)}
	}
	return have, nil
}

func clientTLS(c config.TLS) (*tls.Config, error) {
	if !c.Enabled {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read kafka.tls.ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka.tls.ca_file %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read kafka.tls.cert_file: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// openWarehouse starts it in the background: it is off the money path, so
// nothing waits for it, and without its library weir serves all the same.
func (a *App) openWarehouse(ctx, work context.Context) error {
	if a.role == config.RoleGateway {
		return nil
	}
	url := a.cfg.ClickHouse.URL.Reveal()
	if a.isProcessor() {
		if err := a.ledger.SetWarehouse(ctx, url != config.NoClickHouse); err != nil {
			return err
		}
	}
	if url == config.NoClickHouse {
		return nil
	}
	var err error
	a.warehouse, err = warehouse.Start(warehouse.Config{URL: url, Library: a.cfg.ClickHouse.Library, Unconfined: a.cfg.ClickHouse.Unconfined,
		DataDir: a.cfg.DataDir, Log: a.log})
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

func (a *App) openAnalytics() {
	a.analytics = analytics.New(analytics.Options{Ledger: a.ledger, Warehouse: a.warehouse, WhyNot: a.whyNot, LogEnds: a.logEnds,
		Fail: control.WriteError, Log: a.log})
}

func (a *App) logEnds(ctx context.Context) (string, map[int32]int64, error) {
	ends, err := a.usageLog.EndOffsets(ctx)
	return a.usageLog.TopicID(), ends, err
}

func (a *App) startProcessor(work context.Context) {
	o := processor.Options{Log: a.usageLog, Ledger: a.ledger, Cards: a.cards, Logger: a.log, Metrics: processor.NewMetrics(a.registry),
		Grace: a.cfg.Reserve.MaxRequest + a.cfg.Reserve.RecoveryGrace}
	if a.warehouse != nil {
		o.Warehouse = a.warehouse
	}
	a.processor = processor.New(o)
	a.start("processor", func() error { return a.processor.Run(work) })
	a.background.Go(func() { a.trim(work) })
}

// trim keeps the embedded log small: what is settled and appended is needed no
// more there.
func (a *App) trim(work context.Context) {
	for every := time.NewTicker(trimEvery); ; {
		select {
		case <-work.Done():
			every.Stop()
			return
		case <-every.C:
		}
		progress, err := a.ledger.Progress(work, a.usageLog.TopicID())
		if err == nil {
			done := make(map[int32]int64, len(progress))
			for _, p := range progress {
				done[p.Part] = min(p.Settled, p.Appended)
			}
			err = a.usageLog.Trim(work, done)
		}
		if err != nil && work.Err() == nil {
			a.log.Warn("cannot trim the usage log", "err", err)
		}
	}
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
	a.start("usage log", func() error { return a.usageLog.Produce(work, a.spool) })
	var err error
	a.gateway, err = gateway.New(gateway.Options{ID: a.dir.gatewayID, Ledger: a.ledger, Spool: a.spool, Cards: a.cards, Pepper: a.pepper,
		Upstreams: upstreams(a.cfg.Providers), LeaseTTL: a.cfg.Reserve.LeaseTTL, LeaseIdle: a.cfg.Reserve.LeaseIdle,
		MaxRequest: a.cfg.Reserve.MaxRequest, MissingMax: a.cfg.Reserve.MissingMax, Drain: a.cfg.Disconnect.Policy == "drain",
		DrainMax: a.cfg.Disconnect.Max, Log: a.log, Metrics: gateway.NewMetrics(a.registry), Generation: a.analytics.Generation})
	if err != nil {
		return Usage{err}
	}
	a.heart = a.gateway.NewHeart(left.session, a.usageLog.TopicID())
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
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if embedded := what == "the ledger" && a.cfg.Ledger.URL.Reveal() == "" || what == "the usage log" && len(a.cfg.Kafka.Brokers) == 0; embedded {
			return err // a local failure does not pass by itself
		}
		a.log.Warn("waiting for "+what, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(openRetry):
		}
	}
}

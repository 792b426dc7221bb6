package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weir/gateway"
	"weir/internal/control"
	"weir/internal/stream"
)

const (
	controlHeaderTimeout = 5 * time.Second
	controlReadTimeout   = 30 * time.Second
	controlIdleTimeout   = time.Minute
	// askTimeout bounds what a question for readiness asks of the ledger.
	askTimeout = 2 * time.Second
)

// serveControl opens the control listener before anything else, so that an
// orchestrator can ask how far the start is.
func (a *App) serveControl() error {
	early := http.NewServeMux()
	for pattern, h := range a.public() {
		early.Handle(pattern, h)
	}
	early.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "1")
		control.WriteError(w, r, http.StatusServiceUnavailable, "starting", "weir is starting; try again in a moment")
	})
	var h http.Handler = early
	a.plane.Store(&h)
	if a.cfg.Listen.Control == "" {
		return nil
	}
	l, err := net.Listen("tcp", a.cfg.Listen.Control)
	if err != nil {
		return Usage{fmt.Errorf("cannot listen for the control plane (listen.control): %w", err)}
	}
	a.listeners.control = l
	a.control = &http.Server{ReadHeaderTimeout: controlHeaderTimeout, ReadTimeout: controlReadTimeout, IdleTimeout: controlIdleTimeout,
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*a.plane.Load()).ServeHTTP(w, r) }),
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)}
	go func() {
		if err := a.control.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			a.fail(fmt.Errorf("control plane: %w", err))
		}
	}()
	return nil
}

// public are the routes that ask for no token.
func (a *App) public() map[string]http.Handler {
	return map[string]http.Handler{
		"GET /healthz": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			control.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
		}),
		"GET /readyz":  http.HandlerFunc(a.readiness),
		"GET /metrics": promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}),
	}
}

// readiness is 200 while this process does its part, else it names what is
// down. What is away and not needed for that is named beside a 200.
func (a *App) readiness(w http.ResponseWriter, r *http.Request) {
	if down := a.down(r.Context()); len(down) > 0 {
		control.WriteJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "down": down})
		return
	}
	answer := map[string]any{"status": "ready"}
	if away := a.away(); len(away) > 0 {
		answer["away"] = away
	}
	control.WriteJSON(w, http.StatusOK, answer)
}

func (a *App) down(ctx context.Context) []string {
	if !a.ready.Load() {
		if what := a.awaited.Load(); what != nil && *what != "" {
			return []string{*what}
		}
		return []string{"starting or stopping"}
	}
	if a.gateway != nil {
		return a.gateway.Down()
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := a.ledger.Setting(ctx, currencySetting, gateway.Currency); err != nil {
		return []string{"ledger"}
	}
	return nil
}

func (a *App) away() (list []string) {
	if a.reachedLog() == nil {
		list = append(list, "usage log")
	}
	if a.whyNot != "" || a.warehouse != nil && !a.warehouse.Up() {
		list = append(list, "warehouse")
	}
	return list
}

// servePlane puts the control plane on its listener: all of it where analytics
// is, beside a gateway what takes that gateway's leases and spool, and health
// and metrics everywhere. So whoever reaches a process that only is a gateway or
// a processor reaches no key and no wallet.
func (a *App) servePlane() {
	a.observeStores()
	o := control.Options{Token: a.token, Log: a.log, Public: a.public(), Extra: map[string]http.Handler{}}
	if a.isAnalytics() {
		o.Ledger, o.Cards, o.Pepper = a.ledger, a.cards, a.pepper
		o.PrivateWebhooks = a.cfg.Webhooks.AllowPrivate
		o.Topup = a.topup
		maps.Copy(o.Extra, a.analytics.Routes())
	}
	if a.gateway != nil {
		maps.Copy(o.Extra, a.gateway.OutsideRoutes())
	}
	h := control.New(o)
	a.plane.Store(&h)
}

func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// observeStores exports the gauges of what has no metrics of its own.
func (a *App) observeStores() {
	gauge := func(name, help string, read func() float64) {
		a.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
	}
	if a.spool != nil {
		spool := func(read func(stream.SpoolUsage) float64) func() float64 {
			return func() float64 { return read(a.spool.Usage()) }
		}
		gauge("weir_spool_unsettled_bytes", "Bytes in the spool not yet settled and appended.", spool(func(u stream.SpoolUsage) float64 { return float64(u.UnsettledBytes) }))
		gauge("weir_spool_unacked_records", "Records the usage log has not acknowledged.", spool(func(u stream.SpoolUsage) float64 { return float64(u.UnackedRecords) }))
		gauge("weir_spool_disk_bytes", "Bytes of all spool segments.", spool(func(u stream.SpoolUsage) float64 { return float64(u.DiskBytes) }))
		gauge("weir_spool_syncs_total", "fsyncs of the spool.", spool(func(u stream.SpoolUsage) float64 { return float64(u.Syncs) }))
	}
	if a.gateway != nil {
		gauge("weir_requests_in_flight", "Upstream calls running now.", func() float64 { return float64(a.gateway.InFlight()) })
		gauge("weir_leases_open", "Leases this gateway holds.", func() float64 { n, _ := a.gateway.Book.InFlight(); return float64(n) })
	}
	if a.isProcessor() {
		gauge("weir_batches_waiting", "Settled batches not yet in the warehouse.", func() float64 {
			if p := a.processor.Load(); p != nil {
				return float64(p.Waiting())
			}
			return 0
		})
	}
	if a.isGateway() {
		gauge("weir_log_rewinds_total", "Times the producer began again.", func() float64 {
			if l := a.reachedLog(); l != nil {
				return float64(l.Counters().Rewinds)
			}
			return 0
		})
	}
}

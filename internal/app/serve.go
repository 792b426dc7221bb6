package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weir/internal/control"
	"weir/internal/stream"
)

const (
	controlHeaderTimeout = 5 * time.Second
	controlReadTimeout   = 30 * time.Second
	controlIdleTimeout   = time.Minute
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

// readiness is 200 while requests are admitted, else it names what is down.
func (a *App) readiness(w http.ResponseWriter, _ *http.Request) {
	down := []string{"starting or stopping"}
	if a.ready.Load() {
		down = nil
		if a.gateway != nil {
			down = a.gateway.Down()
		}
	}
	if len(down) > 0 {
		control.WriteJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "down": down})
		return
	}
	control.WriteJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

// serveEverything puts the whole control plane on its listener. Roles that
// only gateway or process keep to health and metrics.
func (a *App) serveEverything() {
	a.observeStores()
	if !a.isAnalytics() {
		return
	}
	h := control.New(control.Options{Ledger: a.ledger, Cards: a.cards, Token: a.token, Pepper: a.pepper, Log: a.log,
		Extra: a.analytics.Routes(), Public: a.public()})
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
	if a.processor != nil {
		gauge("weir_batches_waiting", "Settled batches not yet in the warehouse.", func() float64 { return float64(a.processor.Waiting()) })
	}
	if a.usageLog != nil {
		gauge("weir_log_rewinds_total", "Times the producer began again.", func() float64 { return float64(a.usageLog.Counters().Rewinds) })
	}
}

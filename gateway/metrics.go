package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"weir/schemas/usage"
)

// Metrics is what the gateway tells Prometheus.
type Metrics struct {
	Requests      *prometheus.CounterVec // by provider, row, status
	Refused       *prometheus.CounterVec // by code
	Seconds       *prometheus.HistogramVec
	Overruns      prometheus.Counter
	UnknownMeter  prometheus.Counter
	Estimated     prometheus.Counter
	BeatFailures  prometheus.Counter
	LeakageLimits prometheus.Counter
}

// NewMetrics makes the gateway's metrics and registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		Requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_requests_total", Help: "Upstream calls by how they ended."},
			[]string{"provider", "row", "status"}),
		Refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_refused_total", Help: "Requests that weir answered itself, by error code."},
			[]string{"code"}),
		Seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "weir_request_seconds", Help: "Time from a request's arrival to its record.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 16)}, []string{"provider"}),
		Overruns:      counter("weir_overruns_total", "Requests whose price passed their reservation. Must stay 0."),
		UnknownMeter:  counter("weir_unknown_meter_total", "Answers with usage that no meter or price covers."),
		Estimated:     counter("weir_estimated_total", "Requests billed by estimate."),
		BeatFailures:  counter("weir_heartbeat_failures_total", "Heartbeats that the ledger did not answer."),
		LeakageLimits: counter("weir_leakage_limits_total", "Times a customer's leakage passed its limit of an hour."),
	}
	r.MustRegister(m.Requests, m.Refused, m.Seconds, m.Overruns, m.UnknownMeter, m.Estimated, m.BeatFailures, m.LeakageLimits)
	return m
}

func (m *Metrics) observe(rec *usage.Record) {
	m.Requests.WithLabelValues(rec.Provider, rec.Row.String(), rec.Status.String()).Inc()
	m.Seconds.WithLabelValues(rec.Provider).Observe(float64(rec.LatencyMs) / 1000)
	if rec.Price > rec.Reserved {
		m.Overruns.Inc()
	}
	if rec.Estimated {
		m.Estimated.Inc()
	}
}

package topup

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	ended    *prometheus.CounterVec // top-ups by kind and outcome
	events   *prometheus.CounterVec // webhook events by what became of them
	failures prometheus.Counter     // turns of the worker that will be tried again
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		ended:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_topups_total", Help: "Top-ups that ended, by kind and outcome."}, []string{"kind", "outcome"}),
		events:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_stripe_events_total", Help: "Events of Stripe, by what became of them."}, []string{"outcome"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_topup_failures_total", Help: "Turns of the funding worker that failed and are tried again."}),
	}
	if r != nil {
		r.MustRegister(m.ended, m.events, m.failures)
	}
	return m
}

package topup

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	ended    *prometheus.CounterVec // top-ups by kind and outcome
	events   *prometheus.CounterVec // webhook events by what became of them
	failures prometheus.Counter     // turns of the worker that will be tried again
}

// inboxTimeout bounds what a reading of the metrics asks of the ledger.
const inboxTimeout = 2 * time.Second

func newMetrics(r prometheus.Registerer, inbox func(context.Context) (int, time.Time, error), now func() time.Time) *metrics {
	m := &metrics{
		ended:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_topups_total", Help: "Top-ups that ended, by kind and outcome."}, []string{"kind", "outcome"}),
		events:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_stripe_events_total", Help: "Events of Stripe, by what became of them."}, []string{"outcome"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_topup_failures_total", Help: "Turns of the funding worker that failed and are tried again."}),
	}
	if r != nil {
		read := func(of func(waiting int, oldest time.Time) float64) func() float64 {
			return func() float64 {
				ctx, cancel := context.WithTimeout(context.Background(), inboxTimeout)
				defer cancel()
				waiting, oldest, err := inbox(ctx)
				if err != nil || waiting == 0 {
					return 0
				}
				return of(waiting, oldest)
			}
		}
		r.MustRegister(m.ended, m.events, m.failures,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_stripe_events_waiting", Help: "Events of Stripe that are kept and not worked on yet."},
				read(func(waiting int, _ time.Time) float64 { return float64(waiting) })),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_stripe_events_oldest_seconds", Help: "Since when the oldest of them waits."},
				read(func(_ int, oldest time.Time) float64 { return now().Sub(oldest).Seconds() })))
	}
	return m
}

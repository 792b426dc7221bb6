package processor

import "github.com/prometheus/client_golang/prometheus"

// Metrics is what the processor tells Prometheus.
type Metrics struct {
	Settled, Duplicates, Dead, Mismatches, Appended, AppendFailures, Reclaimed, LogBreaks prometheus.Counter
	Batch                                                                                 prometheus.Histogram
}

// NewMetrics makes the processor's metrics and registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	m := &Metrics{
		Settled:        counter("weir_events_settled_total", "Usage events settled for the first time."),
		Duplicates:     counter("weir_events_duplicate_total", "Events delivered again and absorbed."),
		Dead:           counter("weir_dead_letters_total", "Records that could not be decoded or rated. Must stay 0."),
		Mismatches:     counter("weir_rate_mismatch_total", "Events whose promised amount differs from their rating. Must stay 0."),
		Appended:       counter("weir_batches_appended_total", "Batches appended to the warehouse."),
		AppendFailures: counter("weir_append_failures_total", "Failed attempts to append a batch or to mark it as appended; each is tried again."),
		Reclaimed:      counter("weir_leases_reclaimed_total", "Leases taken back because their gateway was gone too long."),
		LogBreaks:      counter("weir_log_breaks_total", "Partitions found cut off, replaced or expired against what is settled. Must stay 0."),
		Batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weir_settle_seconds", Help: "Time to settle one batch.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	r.MustRegister(m.Batch)
	return m
}

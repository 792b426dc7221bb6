package processor

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what the processor tells Prometheus.
type Metrics struct {
	Settled, Duplicates, Dead, Mismatches, Appended, AppendFailures, Reclaimed, LogBreaks prometheus.Counter
	Batch                                                                                 prometheus.Histogram
	LagRecords, LagSeconds                                                                *prometheus.GaugeVec // by partition of this processor
}

// NewMetrics makes the processor's metrics and registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	lag := func(name, help string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"partition"})
		r.MustRegister(g)
		return g
	}
	m := &Metrics{
		LagRecords:     lag("weir_log_lag_records", "Records in the log that are not settled."),
		LagSeconds:     lag("weir_log_lag_seconds", "Age of the oldest record that is not settled."),
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

func (m *Metrics) setLag(part int32, records int64, seconds float64) {
	label := strconv.Itoa(int(part))
	m.LagRecords.WithLabelValues(label).Set(float64(records))
	m.LagSeconds.WithLabelValues(label).Set(seconds)
}

// forgetLag ends the series of a partition that left.
func (m *Metrics) forgetLag(part int32) {
	label := strconv.Itoa(int(part))
	m.LagRecords.DeleteLabelValues(label)
	m.LagSeconds.DeleteLabelValues(label)
}

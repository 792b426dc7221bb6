// Package processor is the usage path: it reads usage events from the log,
// rates them again, settles them in the ledger and fills the warehouse.
package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/usage"
)

const (
	// batchWindow is how long records are collected before they are settled:
	// long enough that a busy wallet is one update per batch, short enough
	// that margins are seconds old.
	batchWindow = 500 * time.Millisecond
	// reclaimEvery is how often leases past their grace are looked for.
	reclaimEvery = 30 * time.Second
	// retryMin and retryMax bound the pause after a failure of the ledger, the
	// log or the warehouse.
	retryMin = 200 * time.Millisecond
	retryMax = 10 * time.Second
	// readerGroup is the consumer group that shares the partitions out.
	readerGroup = "weir-processor"
)

// Warehouse is where settled batches are appended.
type Warehouse interface {
	Append(ctx context.Context, batchID string, recs []usage.Record) error
	Up() bool
}

// Options is what a Processor needs.
type Options struct {
	Log       *stream.Log
	Ledger    *ledger.DB
	Cards     *cards.Cards
	Warehouse Warehouse     // nil: nothing is appended, manifests wait
	Grace     time.Duration // after a session's end, before its leases are reclaimed
	Logger    *slog.Logger
	Metrics   *Metrics
}

// Metrics is what the processor tells Prometheus.
type Metrics struct {
	Settled, Duplicates, Dead, Mismatches, Appended prometheus.Counter
	Batch                                           prometheus.Histogram
}

// NewMetrics makes the processor's metrics and registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		Settled:    counter("weir_events_settled_total", "Usage events settled for the first time."),
		Duplicates: counter("weir_events_duplicate_total", "Records delivered again and absorbed."),
		Dead:       counter("weir_dead_letters_total", "Records that could not be decoded or rated."),
		Mismatches: counter("weir_rate_mismatch_total", "Events whose promised amount differs from their rating. Must stay 0."),
		Appended:   counter("weir_batches_appended_total", "Batches appended to the warehouse."),
		Batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weir_settle_seconds", Help: "Time to settle one batch.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	r.MustRegister(m.Settled, m.Duplicates, m.Dead, m.Mismatches, m.Appended, m.Batch)
	return m
}

// Processor settles the partitions that its consumer group gives it.
type Processor struct {
	Options
	reader   *stream.Reader
	appender *appender

	mu   sync.Mutex // guards owned, which the reader's callbacks change
	owns map[int32]*partition
}

// partition is one that this processor owns.
type partition struct {
	epoch int64
	next  int64 // offset to settle next
}

// New makes a processor.
func New(o Options) *Processor {
	return &Processor{Options: o, owns: map[int32]*partition{}, appender: newAppender(o)}
}

// Run settles until ctx ends. Whatever fails is tried again: the books only
// move in whole transactions, so a repeated step changes nothing twice.
func (p *Processor) Run(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { p.reclaim(ctx) })
	background.Go(func() { p.appender.run(ctx) })
	for pause := retryMin; ctx.Err() == nil; pause = min(2*pause, retryMax) {
		began := time.Now()
		err := p.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > retryMax {
			pause = retryMin
		}
		level := slog.LevelWarn
		if errors.Is(err, ledger.ErrFenced) {
			level = slog.LevelInfo // another processor took the partition over
		}
		p.Logger.Log(ctx, level, "settling starts over", "err", err)
		wait(ctx, pause)
	}
	return nil
}

// follow joins the group and steps until something fails.
func (p *Processor) follow(ctx context.Context) (err error) {
	p.reader, err = p.Log.NewReader(stream.ReaderConfig{Group: readerGroup, Start: p.assigned, Revoked: p.revoked})
	if err != nil {
		return err
	}
	defer func() {
		p.reader.Close()
		p.mu.Lock()
		clear(p.owns)
		p.mu.Unlock()
	}()
	for ctx.Err() == nil {
		if err := p.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step is one turn: poll, rate, settle, append, and last the commit of the
// offsets, which is only a hint for people: the ledger's cursors are the truth.
func (p *Processor) step(ctx context.Context) error {
	polled, err := p.poll(ctx)
	if err != nil {
		return err
	}
	next := make(map[int32]int64, len(polled))
	for _, fetched := range polled {
		batch, err := p.rate(ctx, fetched)
		if err != nil {
			return err
		}
		if batch == nil {
			continue // revoked meanwhile: its new owner settles it
		}
		settled, err := p.settle(ctx, batch)
		if err != nil {
			return err
		}
		p.append(batch, settled)
		next[fetched.Part] = batch.To
	}
	return p.reader.Commit(ctx, next)
}

// poll waits for records and then collects more for one window: at most a
// batch over all partitions, in order within each.
func (p *Processor) poll(ctx context.Context) ([]stream.Fetch, error) {
	got, err := p.reader.Poll(ctx, ledger.MaxBatch)
	if err != nil {
		return nil, err
	}
	window, cancel := context.WithTimeout(ctx, batchWindow)
	defer cancel()
	for {
		total := 0
		for _, f := range got {
			total += len(f.Records)
		}
		if total >= ledger.MaxBatch || window.Err() != nil {
			return got, ctx.Err()
		}
		more, err := p.reader.Poll(window, ledger.MaxBatch-total)
		if err != nil && window.Err() == nil {
			return nil, err
		}
		for _, f := range more {
			got = merge(got, f)
		}
	}
}

// merge adds a fetch. A partition that was taken away and given back within
// the window is read again from its cursor: what was read before is dropped.
func merge(list []stream.Fetch, f stream.Fetch) []stream.Fetch {
	for i := range list {
		have := list[i].Records
		switch {
		case list[i].Part != f.Part || len(f.Records) == 0:
		case len(have) > 0 && f.Records[0].Offset <= have[len(have)-1].Offset:
			list[i] = f
			return list
		default:
			list[i].Records = append(have, f.Records...)
			return list
		}
	}
	if len(f.Records) == 0 {
		return list
	}
	return append(list, f)
}

// settle books one batch in one transaction. Past its return the batch cannot
// be undone, and repeating it changes nothing.
func (p *Processor) settle(ctx context.Context, b *ledger.Batch) (ledger.Settled, error) {
	began := time.Now()
	settled, err := p.Ledger.Settle(ctx, *b)
	if err != nil {
		return settled, fmt.Errorf("cannot settle batch %s/%d/%d: %w", b.Topic, b.Part, b.From, err)
	}
	p.Metrics.Batch.Observe(time.Since(began).Seconds())
	p.Metrics.Settled.Add(float64(len(settled.Fresh)))
	p.mu.Lock()
	if own := p.owns[b.Part]; own != nil {
		own.next = b.To
	}
	p.mu.Unlock()
	return settled, nil
}

// assigned takes partitions over: a new epoch fences their former owner, and
// the ledger's cursor says where to read on.
func (p *Processor) assigned(ctx context.Context, parts []int32) (map[int32]int64, error) {
	start := make(map[int32]int64, len(parts))
	for _, part := range parts {
		cursor, err := p.Ledger.AcquirePartition(ctx, p.Log.TopicID(), part)
		if err != nil {
			return nil, err
		}
		start[part] = cursor.NextOffset
		p.mu.Lock()
		p.owns[part] = &partition{epoch: cursor.Epoch, next: cursor.NextOffset}
		p.mu.Unlock()
	}
	return start, p.appender.adopt(ctx, parts)
}

func (p *Processor) revoked(parts []int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range parts {
		delete(p.owns, part)
	}
}

// reclaim takes leases back whose gateway has been gone for longer than any
// request and any recovery takes.
func (p *Processor) reclaim(ctx context.Context) {
	for ctx.Err() == nil {
		leases, err := p.Ledger.Reclaim(ctx, p.Grace)
		if err != nil && ctx.Err() == nil {
			p.Logger.Warn("cannot reclaim leases", "err", err)
		}
		for _, l := range leases {
			p.Logger.Warn("reclaimed a lease whose gateway is gone", "lease", l.ID, "customer", l.Customer, "gateway", l.Gateway)
		}
		wait(ctx, reclaimEvery)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

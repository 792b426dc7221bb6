// Package processor is the usage path: it reads usage events from the log,
// rates them again, settles them in the ledger and fills the warehouse.
package processor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/usage"
)

const (
	// batchWindow is how long records are collected before they are settled.
	batchWindow = 500 * time.Millisecond
	// busyWindows is how many windows are collected when the first brought
	// busyRecords or more. Every batch is a transaction and a block in the
	// warehouse, whatever its size: at 5,000 requests a second on two cores the
	// whole process tree took a third more processor time per request with one
	// window than with two. Margins are then two seconds old, of five promised.
	busyWindows = 4
	busyRecords = 500
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

// Processor settles the partitions that its consumer group gives it.
type Processor struct {
	Options
	reader   *stream.Reader
	appender *appender
	window   time.Duration          // batchWindow, but in tests
	missing  map[cardName]time.Time // cards that events name and nobody published, since when

	mu   sync.Mutex // guards the map, which the reader's callbacks change
	owns map[int32]*partition
}

// New makes a processor.
func New(o Options) *Processor {
	return &Processor{Options: o, appender: newAppender(o), window: batchWindow, missing: map[cardName]time.Time{}, owns: map[int32]*partition{}}
}

// Run settles until ctx ends, or until the topic is another one
// (stream.ErrTopicGone). Whatever else fails is tried again: the books only move
// in whole transactions, so a repeated step changes nothing twice.
func (p *Processor) Run(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	background.Go(func() { p.watchLag(ctx) })
	background.Go(func() { p.reclaim(ctx) })
	background.Go(func() { p.appender.run(ctx) })
	for pause := retryMin; ctx.Err() == nil; pause = min(2*pause, retryMax) {
		began := time.Now()
		err := p.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, stream.ErrTopicGone) {
			return err
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
		for part := range p.owns {
			p.Metrics.forgetLag(part)
		}
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
	for _, run := range polled {
		batch, err := p.rate(ctx, run)
		if err != nil {
			return err
		}
		settled, err := p.settle(ctx, batch)
		if err != nil {
			return err
		}
		p.append(batch, settled)
	}
	p.commit(ctx, polled)
	return nil
}

// poll waits for records and then collects more, longer when they are many: at most a
// batch over all partitions, in order within each, and of each partition that
// is still this processor's exactly what comes next.
func (p *Processor) poll(ctx context.Context) ([]run, error) {
	got, err := p.reader.Poll(ctx, ledger.MaxBatch)
	if err != nil {
		return nil, err
	}
	if got, err = p.collect(ctx, got, p.window); err == nil && count(got) >= busyRecords {
		got, err = p.collect(ctx, got, (busyWindows-1)*p.window)
	}
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return p.due(got)
}

// collect adds what comes within a window to got.
func (p *Processor) collect(ctx context.Context, got []stream.Fetch, length time.Duration) ([]stream.Fetch, error) {
	window, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	for window.Err() == nil && count(got) < ledger.MaxBatch {
		more, err := p.reader.Poll(window, ledger.MaxBatch-count(got))
		if err != nil && !errors.Is(err, window.Err()) {
			return nil, err
		}
		for _, f := range more {
			got = merge(got, f)
		}
	}
	return got, nil
}

func count(list []stream.Fetch) (n int) {
	for _, f := range list {
		n += len(f.Records)
	}
	return n
}

// merge adds a fetch. A partition that was taken away and given back within
// the window is read again from its cursor: what was read before is dropped.
func merge(list []stream.Fetch, f stream.Fetch) []stream.Fetch {
	for i := range list {
		if list[i].Part != f.Part {
			continue
		}
		if have := list[i].Records; f.Records[0].Offset > have[len(have)-1].Offset {
			f.Records = append(have, f.Records...)
		}
		list[i] = f
		return list
	}
	return append(list, f)
}

// settle books one batch in one transaction. Past its return the batch cannot
// be undone, and repeating it changes nothing.
func (p *Processor) settle(ctx context.Context, b *batch) (ledger.Settled, error) {
	began := time.Now()
	settled, err := p.Ledger.Settle(ctx, b.Batch)
	if err != nil {
		return settled, err
	}
	p.Metrics.Batch.Observe(time.Since(began).Seconds())
	p.Metrics.Settled.Add(float64(len(settled.Fresh)))
	b.cursor.next = b.To
	b.own.next = b.inLog(b.To)
	return settled, nil
}

// append hands a settled batch on to the appender, which owns its rows then.
func (p *Processor) append(b *batch, s ledger.Settled) {
	fresh := s.Fresh
	rows := make([]usage.Record, 0, len(fresh))
	for i, r := range b.Records {
		switch {
		case len(fresh) > 0 && fresh[0] == i:
			fresh = fresh[1:]
			rows = append(rows, *r.Rec)
			if r.Mismatch != "" {
				p.Metrics.Mismatches.Inc()
				p.Logger.Error("an event's promise differs from its rating", "event", r.Rec.EventID(), "difference", r.Mismatch)
			}
		case r.Rec.Kind.IsEvent():
			p.Metrics.Duplicates.Inc()
			p.appender.offer(r.Rec, b.Part, b.inLog(r.Offset))
		}
	}
	dead := slices.Concat(b.Dead, s.Dead)
	p.Metrics.Dead.Add(float64(len(dead)))
	for _, d := range dead {
		p.Logger.Error("a record went to the dead letters", "part", b.Part, "offset", b.inLog(d.Offset), "reason", d.Reason)
	}
	if s.Manifest.Count > 0 {
		p.appender.add(&pending{manifest: s.Manifest, from: b.first, to: b.inLog(b.To), rows: rows})
	}
}

// commit tells the group how far it is, for tools that show lag.
func (p *Processor) commit(ctx context.Context, polled []run) {
	next := make(map[int32]int64, len(polled))
	for _, r := range polled {
		next[r.part] = r.own.next
	}
	if len(next) == 0 {
		return
	}
	if err := p.reader.Commit(ctx, next); err != nil && ctx.Err() == nil {
		p.Logger.Warn("the group's offsets lag behind what is settled", "err", err)
	}
}

// reclaim takes leases back whose gateway has been gone for longer than any
// request and any recovery takes. It waits before it looks, so that what a
// start finds in the log is settled first.
func (p *Processor) reclaim(ctx context.Context) {
	for wait(ctx, reclaimEvery); ctx.Err() == nil; wait(ctx, reclaimEvery) {
		leases, err := p.Ledger.Reclaim(ctx, p.Grace)
		if err != nil && ctx.Err() == nil {
			p.Logger.Warn("cannot reclaim leases", "err", err)
		}
		p.Metrics.Reclaimed.Add(float64(len(leases)))
		for _, l := range leases {
			p.Logger.Warn("reclaimed a lease whose gateway is gone", "lease", l.ID, "customer", l.Customer, "gateway", l.Gateway)
		}
	}
}

// Waiting is how many settled batches are not yet in the warehouse, as far as
// this processor knows.
func (p *Processor) Waiting() int { return p.appender.waiting() }

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

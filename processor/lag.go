package processor

import (
	"context"
	"time"

	"weir/internal/stream"
	"weir/schemas/usage"
)

const (
	// lagEvery is how often the lag is measured: about as often as Prometheus asks.
	lagEvery = 10 * time.Second
	// lagTimeout bounds one measuring while the log or the ledger is away.
	lagTimeout = 5 * time.Second
)

// watchLag measures until ctx ends how far settling is behind the log.
func (p *Processor) watchLag(ctx context.Context) {
	for wait(ctx, lagEvery); ctx.Err() == nil; wait(ctx, lagEvery) {
		if err := p.measureLag(ctx); err != nil && ctx.Err() == nil {
			p.Logger.Warn("cannot tell how far settling is behind the log", "err", err)
		}
	}
}

func (p *Processor) measureLag(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lagTimeout)
	defer cancel()
	progress, err := p.Ledger.Progress(ctx, p.Log.TopicID())
	if err != nil {
		return err
	}
	ends, err := p.Log.EndOffsets(ctx)
	if err != nil {
		return err
	}
	due := make(map[int32]int64, len(ends))
	for part := range ends {
		due[part] = 0
	}
	for _, c := range progress {
		due[c.Part] = c.Settled
	}
	p.mu.Lock()
	for part := range due {
		if p.owns[part] == nil {
			delete(due, part)
		}
	}
	p.mu.Unlock()
	oldest, err := p.Log.RecordsAt(ctx, due)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for part, offset := range due {
		if p.owns[part] != nil { // it may have left in the meantime
			p.Metrics.setLag(part, max(0, ends[part]-offset), age(oldest[part]).Seconds())
		}
	}
	return nil
}

// age is for how long a record has been in the log, 0 if there is none.
func age(f stream.Found) time.Duration {
	if f.State != stream.Present {
		return 0
	}
	rec, err := usage.ParseRecord(f.Value)
	if err != nil {
		return 0
	}
	return max(0, time.Since(time.UnixMilli(rec.TimeMs)))
}

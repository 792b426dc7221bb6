package processor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	// unknownCardWait is how long an event waits for the card it names. Cards
	// are published before they are served, so only a ledger that lags behind
	// its replica can lack one.
	unknownCardWait = 30 * time.Second
	unknownCardTick = time.Second
)

// rate decodes one partition's records and rates every usage event again. What
// cannot be decoded or rated goes to the dead letters; the partition goes on.
// nil says that the partition is not this processor's any more.
func (p *Processor) rate(ctx context.Context, f stream.Fetch) (*ledger.Batch, error) {
	p.mu.Lock()
	own := p.owns[f.Part]
	p.mu.Unlock()
	if own == nil || f.Records[0].Offset < own.next {
		return nil, nil
	}
	b := &ledger.Batch{Topic: p.Log.TopicID(), Part: f.Part, Epoch: own.epoch, From: own.next,
		To: f.Records[len(f.Records)-1].Offset + 1, Records: make([]ledger.Settling, 0, len(f.Records))}
	recs := make([]usage.Record, len(f.Records))
	for i, raw := range f.Records {
		rec := &recs[i]
		var err error
		if *rec, err = usage.ParseRecord(raw.Value); err == nil && rec.Kind == usage.KindIntent {
			err = fmt.Errorf("%w: an intent in the log", usage.ErrMalformed)
		}
		if err != nil {
			b.Dead = append(b.Dead, ledger.DeadLetter{Offset: raw.Offset, Bytes: raw.Value, Reason: err.Error()})
			continue
		}
		mismatch, err := p.check(ctx, rec)
		if err != nil {
			if ctx.Err() != nil || !unrateable(err) {
				return nil, err
			}
			b.Dead = append(b.Dead, ledger.DeadLetter{Offset: raw.Offset, Lease: rec.LeaseID, Customer: rec.Customer, Seq: rec.Seq,
				Bytes: raw.Value, Reason: err.Error()})
			continue
		}
		b.Records = append(b.Records, ledger.Settling{Offset: raw.Offset, Rec: rec, Mismatch: mismatch})
	}
	return b, nil
}

// check compares the promise in a usage event with what the pinned card says,
// and tells how they differ.
func (p *Processor) check(ctx context.Context, rec *usage.Record) (mismatch string, err error) {
	if rec.Kind != usage.KindUsage || rec.Row != usage.RowUsage {
		return "", nil
	}
	card, err := p.card(ctx, rec)
	if err != nil {
		return "", err
	}
	rated, err := ratecard.Rate(card, ratecard.Rating{Provider: rec.Provider, Model: rec.Model, Answered: rec.Answered, Rule: rec.Rule, Meters: rec.Meters})
	if err != nil {
		return "", err
	}
	if rated.Cost != rec.Cost || rated.Price != rec.Price || rated.ModelBilled != rec.ModelBilled {
		return fmt.Sprintf("promised cost %s price %s as %s, rated cost %s price %s as %s",
			rec.Cost, rec.Price, rec.ModelBilled, rated.Cost, rated.Price, rated.ModelBilled), nil
	}
	return "", nil
}

// card finds the card an event is pinned to, waiting for one that is unknown.
func (p *Processor) card(ctx context.Context, rec *usage.Record) (*ratecard.Card, error) {
	for deadline := time.Now().Add(unknownCardWait); ; {
		card, err := p.Cards.Find(ctx, rec.CostCard, rec.PriceCard)
		if !errors.Is(err, ledger.ErrNotFound) || time.Now().After(deadline) {
			return card, err
		}
		wait(ctx, unknownCardTick)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// unrateable tells a fault of the event from a failure to ask.
func unrateable(err error) bool {
	return errors.Is(err, ledger.ErrNotFound) || errors.Is(err, ratecard.ErrUnpricedModel) || errors.Is(err, ratecard.ErrUnpricedMeter) ||
		errors.Is(err, ratecard.ErrUnknownRule) || errors.Is(err, ratecard.ErrTooLarge)
}

package processor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/internal/ledger"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	// unknownCardWait is how long events wait for a card they name. Cards are
	// published before they are served, so only a ledger that lags behind its
	// replica can lack one.
	unknownCardWait = 30 * time.Second
	unknownCardTick = time.Second
)

// rate decodes a run's records and rates every usage event again. What
// cannot be decoded or rated goes to the dead letters; the partition goes on.
func (p *Processor) rate(ctx context.Context, r run) (*batch, error) {
	first := r.recs[0].Offset
	c := r.own.cursorAt(first)
	b := &batch{own: r.own, cursor: c, first: first, Batch: ledger.Batch{Topic: c.topic, Part: r.part, Epoch: c.epoch,
		From: c.next, To: c.next + int64(len(r.recs)), Records: make([]ledger.Settling, 0, len(r.recs))}}
	recs := make([]usage.Record, len(r.recs))
	for i, raw := range r.recs {
		s := ledger.Settling{Offset: b.From + int64(i), Rec: &recs[i]}
		var err error
		if recs[i], err = decode(raw.Value); err == nil {
			s.Mismatch, err = p.check(ctx, s.Rec)
		}
		switch {
		case err == nil:
			b.Records = append(b.Records, s)
		case isFaultOfEvent(err):
			b.Dead = append(b.Dead, ledger.DeadLetter{Offset: s.Offset, Lease: s.Rec.LeaseID, Customer: s.Rec.Customer, Seq: s.Rec.Seq,
				Bytes: raw.Value, Reason: usage.StorableText(err.Error())})
		default:
			return nil, err
		}
	}
	return b, nil
}

// decode reads one record of the log, and nothing of one that is refused.
func decode(value []byte) (usage.Record, error) {
	rec, err := usage.ParseRecord(value)
	if err == nil {
		err = rec.CheckStorable()
	}
	if err != nil {
		return usage.Record{}, err
	}
	return rec, nil
}

// check compares the promise in a usage event with what the pinned card says,
// and tells how they differ.
func (p *Processor) check(ctx context.Context, rec *usage.Record) (mismatch string, err error) {
	if rec.Row != usage.RowUsage {
		return "", nil
	}
	card, err := p.card(ctx, cardName{rec.CostCard, rec.PriceCard})
	if err != nil {
		return "", err
	}
	rated, err := ratecard.Rate(card, ratecard.Rating{Provider: rec.Provider, Model: rec.Model, Answered: rec.Answered, Rule: rec.Rule, Meters: rec.Meters})
	if err != nil {
		return "", err
	}
	promised := ratecard.Rated{ModelBilled: rec.ModelBilled, Cost: rec.Cost, Price: rec.Price}
	if rated == promised {
		return "", nil
	}
	return usage.StorableText(fmt.Sprintf("promised cost %s price %s as %s, rated cost %s price %s as %s",
		promised.Cost, promised.Price, promised.ModelBilled, rated.Cost, rated.Price, rated.ModelBilled)), nil
}

// cardName is how events name a card: by the hashes of its models and rules.
type cardName struct{ cost, price string }

// card finds the card an event is pinned to. One that is unknown is waited for
// once, counted from its first event on: not once more for each.
func (p *Processor) card(ctx context.Context, name cardName) (*ratecard.Card, error) {
	for {
		card, err := p.Cards.Find(ctx, name.cost, name.price)
		if !errors.Is(err, ledger.ErrNotFound) {
			delete(p.missing, name)
			return card, err
		}
		since, known := p.missing[name]
		if !known {
			since = time.Now()
			p.missing[name] = since
			p.Logger.Warn("an event names a card that nobody published; waiting for it", "cost_card", name.cost, "price_card", name.price)
		}
		if time.Since(since) >= unknownCardWait {
			return nil, err
		}
		wait(ctx, unknownCardTick)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// isFaultOfEvent tells what is wrong with an event from a failure to ask.
func isFaultOfEvent(err error) bool {
	for _, fault := range []error{usage.ErrMalformed, ledger.ErrNotFound, ratecard.ErrUnpricedModel, ratecard.ErrUnpricedMeter,
		ratecard.ErrUnknownRule, ratecard.ErrTooLarge} {
		if errors.Is(err, fault) {
			return true
		}
	}
	return false
}

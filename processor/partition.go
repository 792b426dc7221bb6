package processor

import (
	"context"
	"errors"
	"fmt"

	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/usage"
)

// partition is one that this processor owns. The offsets of the log and those
// of the ledger's cursor are the same, with one exception: when the log turns
// out not to be the one that was settled (cut off, or filled anew under the
// same topic id), what it holds below the cursor is settled under a cursor of
// its own, again, which counts from 0 and whose name says where the break was. Settled
// events are known by lease and seq, so whatever is read twice changes nothing.
//
// The reader's callbacks set it; from then on only step uses it.
type partition struct {
	next  int64 // offset in the log of the record that is due
	main  cursor
	again *cursor // nil as long as the log is what was settled
}

// cursor is a place in the ledger's sequence of batches of a partition.
type cursor struct {
	topic       string
	epoch, next int64
}

// cursorAt tells under which cursor the record at an offset of the log is
// settled.
func (own *partition) cursorAt(offset int64) *cursor {
	if own.again != nil && offset < own.main.next {
		return own.again
	}
	return &own.main
}

// run is what comes next of one partition: records without a hole, all to be
// settled under one cursor.
type run struct {
	part int32
	own  *partition
	recs []stream.Rec
}

// batch is a run, rated.
type batch struct {
	ledger.Batch
	own    *partition
	cursor *cursor // under which it is settled
	first  int64   // offset in the log of the first record
}

// inLog is the offset in the log of one of the batch's offsets.
func (b *batch) inLog(offset int64) int64 { return b.first + offset - b.From }

// assigned takes partitions over: a new epoch fences their former owner, and
// the ledger's cursor says where to read on. One whose log no longer has what
// is due stays unread; the others go on.
func (p *Processor) assigned(ctx context.Context, parts []int32) (map[int32]int64, error) {
	if err := p.Log.CheckTopic(ctx); err != nil {
		return nil, err
	}
	cursors := make(map[int32]ledger.Cursor, len(parts))
	last := make(map[int32]int64, len(parts))
	for _, part := range parts {
		c, err := p.Ledger.AcquirePartition(ctx, p.Log.TopicID(), part)
		if err != nil {
			return nil, err
		}
		cursors[part], last[part] = c, c.NextOffset-1
	}
	found, err := p.Log.RecordsAt(ctx, last)
	if err != nil {
		return nil, err
	}
	next := make(map[int32]int64, len(parts))
	behind := make(map[int32]stretch, len(parts))
	for _, part := range parts {
		own, err := p.takeOver(ctx, part, cursors[part], found[part])
		if err != nil && !errors.Is(err, stream.ErrOffsetGone) {
			return nil, err
		}
		p.mu.Lock()
		p.owns[part] = own
		p.mu.Unlock()
		if err == nil {
			next[part] = own.next
			behind[part] = stretch{found[part].Start, own.next}
		}
	}
	return next, p.appender.adopt(ctx, behind)
}

func (p *Processor) revoked(parts []int32) {
	p.mu.Lock()
	for _, part := range parts {
		delete(p.owns, part)
		p.Metrics.forgetLag(part)
	}
	p.mu.Unlock()
	p.appender.release(parts)
}

// takeOver finds out whether the log is the one that was settled: last is what
// it has at the offset before the cursor. Without the record that is due it is
// ErrOffsetGone.
func (p *Processor) takeOver(ctx context.Context, part int32, c ledger.Cursor, last stream.Found) (*partition, error) {
	own := &partition{next: c.NextOffset, main: cursor{p.Log.TopicID(), c.Epoch, c.NextOffset}}
	if c.NextOffset < last.Start {
		// Going on would drop what the gateways' spools still keep for lack of settling.
		p.Metrics.LogBreaks.Inc()
		p.Logger.Error("records left the log before they were settled; the gateways' spools keep them: make the topic anew, and all of them are produced again",
			"part", part, "from", c.NextOffset, "to", last.Start)
		return own, fmt.Errorf("%w: partition %d begins at %d, settled is up to %d", stream.ErrOffsetGone, part, last.Start, c.NextOffset)
	}
	why := breakOf(c, last)
	if why == "" {
		return own, nil
	}
	p.Metrics.LogBreaks.Inc()
	p.Logger.Error("the log is not the one that was settled; all of it is read again", "part", part, "break", why)
	own.next = last.Start
	var err error
	own.again, err = p.openAgain(ctx, part, c.NextOffset, why)
	return own, err
}

// breakOf compares the record before the cursor with the one settled last. It
// returns how they differ, "" if they do not or cannot be compared.
func breakOf(c ledger.Cursor, last stream.Found) string {
	if last.State == stream.Beyond {
		return fmt.Sprintf("the log ends at %d, offset %d was settled", last.End, c.NextOffset-1)
	}
	if last.State == stream.Gone || c.LastEventID == "" {
		return ""
	}
	id := "no record"
	if rec, err := usage.ParseRecord(last.Value); err == nil {
		id = rec.EventID()
	}
	if id == c.LastEventID {
		return ""
	}
	return fmt.Sprintf("offset %d was %s when it was settled, the log has %s there", c.NextOffset-1, c.LastEventID, id)
}

// openAgain acquires the cursor for what is settled again below the break at
// offset at. Its first batch is a dead letter that says what happened: the
// tie-out shows it until it is accepted.
func (p *Processor) openAgain(ctx context.Context, part int32, at int64, why string) (*cursor, error) {
	name := ledger.RereadTopic(p.Log.TopicID(), at)
	c, err := p.Ledger.AcquirePartition(ctx, name, part)
	if err != nil {
		return nil, err
	}
	again := &cursor{name, c.Epoch, c.NextOffset}
	if c.NextOffset > 0 {
		return again, nil
	}
	_, err = p.Ledger.Settle(ctx, ledger.Batch{Topic: name, Part: part, Epoch: c.Epoch, To: 1,
		Dead: []ledger.DeadLetter{{Reason: "the usage log was cut off or replaced: " + why}}})
	again.next = 1
	return again, err
}

// due makes runs of what was fetched. What was fetched before a partition moved
// away or came back is left out: it is its owner's, or comes again. A fetch
// over the place of a break is cut in two there.
func (p *Processor) due(got []stream.Fetch) ([]run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []run
	for _, f := range got {
		own := p.owns[f.Part]
		if own == nil {
			continue
		}
		recs := f.Records
		for len(recs) > 0 && recs[0].Offset < own.next {
			recs = recs[1:]
		}
		for i, r := range recs {
			if want := own.next + int64(i); r.Offset != want {
				return nil, fmt.Errorf("offset %d of partition %d came where %d was due", r.Offset, f.Part, want)
			}
		}
		if below := own.main.next - own.next; own.again != nil && 0 < below && below < int64(len(recs)) {
			list = append(list, run{f.Part, own, recs[:below]})
			recs = recs[below:]
		}
		if len(recs) > 0 {
			list = append(list, run{f.Part, own, recs})
		}
	}
	return list, nil
}

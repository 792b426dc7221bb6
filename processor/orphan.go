package processor

import (
	"context"
	"errors"
	"slices"

	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/usage"
)

// orphan is a batch that was settled from another log than there is now, and
// not appended. Gateways produce their events again: they come as duplicates,
// known by lease and seq.
type orphan struct {
	manifest ledger.Manifest
	missing  []ledger.SeqRange // of its events, those that have not come again; ascending
	came     stretch           // where in the log those that did lie
}

// orphans are all that wait. They hold no rows: once all events of one have
// come, it is read from the log like any other batch.
type orphans struct {
	byBatch map[string]*orphan
	byLease map[string][]*orphan
	// searches are the parts of the log that were read before their orphans
	// were adopted, by this processor's forerunner.
	searches map[int32]stretch
}

func newOrphans() orphans {
	return orphans{byBatch: map[string]*orphan{}, byLease: map[string][]*orphan{}, searches: map[int32]stretch{}}
}

// add takes a batch in. behind is what its partition's log holds already.
func (all *orphans) add(m ledger.Manifest, behind stretch) {
	if all.byBatch[m.ID] != nil {
		return
	}
	o := &orphan{manifest: m, missing: slices.Clone(m.Seqs)}
	all.byBatch[m.ID] = o
	for i, r := range m.Seqs {
		if i == 0 || m.Seqs[i-1].Lease != r.Lease {
			all.byLease[r.Lease] = append(all.byLease[r.Lease], o)
		}
	}
	if behind.from < behind.to {
		all.searches[m.Part] = behind
	}
}

// offer returns the batch whose last missing event this is, or nil.
func (all *orphans) offer(rec *usage.Record, part int32, offset int64) *pending {
	for _, o := range all.byLease[rec.LeaseID] {
		if o.manifest.Part != part || !o.take(rec, offset) {
			continue
		}
		if len(o.missing) > 0 {
			return nil
		}
		all.drop(o)
		return &pending{manifest: o.manifest, from: o.came.from, to: o.came.to}
	}
	return nil
}

// take strikes an event off the missing ones, if it is among them.
func (o *orphan) take(rec *usage.Record, offset int64) bool {
	i, found := find(o.missing, rec)
	if !found {
		return false
	}
	var rest []ledger.SeqRange
	if r := o.missing[i]; r.From < rec.Seq {
		rest = append(rest, ledger.SeqRange{Lease: r.Lease, From: r.From, To: rec.Seq - 1})
	}
	if r := o.missing[i]; r.To > rec.Seq {
		rest = append(rest, ledger.SeqRange{Lease: r.Lease, From: rec.Seq + 1, To: r.To})
	}
	o.missing = slices.Replace(o.missing, i, i+1, rest...)
	if o.came == (stretch{}) {
		o.came = stretch{offset, offset + 1}
	}
	o.came = stretch{min(o.came.from, offset), max(o.came.to, offset+1)}
	return true
}

func (all *orphans) drop(o *orphan) {
	delete(all.byBatch, o.manifest.ID)
	for _, r := range o.manifest.Seqs {
		rest := slices.DeleteFunc(all.byLease[r.Lease], func(other *orphan) bool { return other == o })
		if all.byLease[r.Lease] = rest; len(rest) == 0 {
			delete(all.byLease, r.Lease)
		}
	}
}

func (all *orphans) release(parts []int32) {
	for _, part := range parts {
		delete(all.searches, part)
	}
	for _, o := range all.byBatch {
		if slices.Contains(parts, o.manifest.Part) {
			all.drop(o)
		}
	}
}

// search looks for orphans' events in the parts of the log that were read before.
func (a *appender) search(ctx context.Context) error {
	for {
		part, where, ok := a.nextSearch()
		if !ok {
			return nil
		}
		err := a.events(ctx, part, where, func(rec *usage.Record, offset int64) { a.offer(rec, part, offset) })
		if errors.Is(err, stream.ErrOffsetGone) {
			a.o.Logger.Error("the log lost events of batches that are not appended; they wait for being produced again", "part", part, "err", err)
		} else if err != nil {
			return err
		}
		a.mu.Lock()
		if a.orphans.searches[part] == where { // else the partition left, or came back, in the meantime
			delete(a.orphans.searches, part)
		}
		a.mu.Unlock()
	}
}

func (a *appender) nextSearch() (int32, stretch, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for part, where := range a.orphans.searches {
		return part, where, true
	}
	return 0, stretch{}, false
}

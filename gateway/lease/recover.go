package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/usage"
)

// Recovery ends what an earlier process of this gateway left behind.
type Recovery struct {
	Spool   Spool
	Found   stream.Recovery
	Leases  []ledger.Lease                                             // open or closing, as the ledger lists them
	Lookup  func(ctx context.Context, id string) (ledger.Lease, error) // of a lease that is not among them
	Now     time.Time
	Log     *slog.Logger
	pending map[string]stream.Totals // by lease: its end so far
	known   map[string]ledger.Lease
}

// Run turns every intent without a result into an unknown event, at once, and
// then writes the close record of every lease that is open in the ledger, with
// totals of what is settled there plus what the spool holds beyond.
func (r *Recovery) Run(ctx context.Context) error {
	r.pending, r.known = make(map[string]stream.Totals), make(map[string]ledger.Lease, len(r.Leases))
	for _, l := range r.Leases {
		r.known[l.ID] = l
	}
	for i := range r.Found.OpenIntents {
		if err := r.unknown(ctx, r.Found.OpenIntents[i]); err != nil {
			return fmt.Errorf("cannot end an intent of an earlier process: %w", err)
		}
	}
	for _, l := range r.Leases {
		if tail := r.Found.Leases[l.ID]; l.State != ledger.LeaseOpen || tail != nil && tail.Closed {
			continue
		}
		if err := r.close(ctx, l); err != nil {
			return fmt.Errorf("cannot close a lease of an earlier process: %w", err)
		}
	}
	return nil
}

// unknown writes the result of an intent whose call nobody can tell about.
func (r *Recovery) unknown(ctx context.Context, rec usage.Record) error {
	end, err := r.end(ctx, rec.LeaseID)
	if err != nil {
		return err
	}
	end.LastSeq++
	end.Count++
	rec.Kind, rec.Row, rec.Status = usage.KindUnknown, usage.RowLeakage, usage.StatusUnknown
	rec.Seq, rec.TimeMs, rec.Cost, rec.Price = end.LastSeq, r.Now.UnixMilli(), 0, 0
	if _, err := r.Spool.Append(&rec); err != nil {
		return err
	}
	r.pending[rec.LeaseID] = end
	return nil
}

func (r *Recovery) close(ctx context.Context, l ledger.Lease) error {
	end, err := r.end(ctx, l.ID)
	if err != nil {
		return err
	}
	rec := usage.Record{Kind: usage.KindClose, LeaseID: l.ID, Customer: l.Customer, Gateway: l.Gateway, TimeMs: r.Now.UnixMilli(),
		Seq: end.LastSeq + 1, Count: uint64(l.Count) + end.Count, CostSum: l.Cost + end.Cost, PriceSum: l.Price + end.Price}
	_, err = r.Spool.Append(&rec)
	return err
}

// end is how far a lease's records go. A spool that lacks some of them was
// damaged or exchanged: the rest is kept as it is, and the ledger reports the
// gap as lost usage.
func (r *Recovery) end(ctx context.Context, id string) (stream.Totals, error) {
	if end, ok := r.pending[id]; ok {
		return end, nil
	}
	row, ok := r.known[id]
	if !ok {
		var err error
		row, err = r.Lookup(ctx, id)
		if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			return stream.Totals{}, err
		}
	}
	after := uint64(row.LastSeq)
	end, err := r.Found.Tail(id, after)
	if err != nil {
		tail := r.Found.Leases[id]
		r.Log.Error("a lease's records are not all in the spool", "lease", id, "err", err)
		end = stream.Totals{LastSeq: max(after, tail.LastSeq)}
	}
	return end, nil
}

package processor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	// rowsInMemoryMax bounds the settled rows that wait for the warehouse in
	// memory, about 100 MB. Beyond it only the manifest is kept, and the rows
	// are read from the log again.
	rowsInMemoryMax = 100_000
	// markBatch is how many appended batches are marked at a time.
	markBatch = 64
)

// appender follows the manifests: every settled batch becomes one block in the
// warehouse under one insert token. It is off the money path: while the
// warehouse is away, manifests wait in the ledger.
type appender struct {
	o    Options
	wake chan struct{}

	mu      sync.Mutex // guards the following
	queue   []*pending
	inQueue map[string]*pending // by batch id, until marked as appended
	rows    int                 // held in memory over all
	orphans []*orphan
}

// pending is a batch to append. Without rows they are read again.
type pending struct {
	manifest ledger.Manifest
	rows     []usage.Record
	held     bool // rows are in memory
}

// orphan is a batch of a topic that is gone: its rows come again as duplicates
// on the new topic, and are recognized by lease and seq.
type orphan struct {
	manifest ledger.Manifest
	rows     map[string]usage.Record // by event id
}

func newAppender(o Options) *appender {
	return &appender{o: o, wake: make(chan struct{}, 1), inQueue: map[string]*pending{}}
}

// append hands a settled batch on to the appender, which owns the rows then.
func (p *Processor) append(b *ledger.Batch, s ledger.Settled) {
	duplicates := 0
	fresh := 0
	rows := make([]usage.Record, 0, len(s.Fresh))
	for i := range b.Records {
		rec := b.Records[i].Rec
		switch {
		case fresh < len(s.Fresh) && s.Fresh[fresh] == i:
			fresh++
			rows = append(rows, *rec)
		case rec.Kind.IsEvent():
			duplicates++
			p.appender.offer(rec)
		}
		if b.Records[i].Mismatch != "" {
			p.Metrics.Mismatches.Inc()
			p.Logger.Error("an event's promise differs from its rating", "event", rec.EventID(), "difference", b.Records[i].Mismatch)
		}
	}
	p.Metrics.Duplicates.Add(float64(duplicates))
	p.Metrics.Dead.Add(float64(len(b.Dead)))
	for _, d := range b.Dead {
		p.Logger.Error("a record went to the dead letters", "part", b.Part, "offset", d.Offset, "reason", d.Reason)
	}
	if s.Manifest.Count > 0 {
		p.appender.add(s.Manifest, rows)
	}
}

func (a *appender) add(m ledger.Manifest, rows []usage.Record) {
	if a.o.Warehouse == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inQueue[m.ID] != nil {
		return
	}
	if a.rows+len(rows) > rowsInMemoryMax {
		rows = nil
	}
	a.enqueue(m, rows)
}

// enqueue is called with mu held.
func (a *appender) enqueue(m ledger.Manifest, rows []usage.Record) {
	a.rows += len(rows)
	one := &pending{manifest: m, rows: rows, held: rows != nil}
	a.inQueue[m.ID] = one
	a.queue = append(a.queue, one)
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// adopt takes over what is not appended of these partitions: after a crash, or
// from a processor that left. What belongs to another topic waits for its
// duplicates.
func (a *appender) adopt(ctx context.Context, parts []int32) error {
	if a.o.Warehouse == nil {
		return nil
	}
	list, err := a.o.Ledger.Unappended(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		switch {
		case !slices.Contains(parts, m.Part):
		case m.Topic == a.o.Log.TopicID():
			a.add(m, nil)
		default:
			a.mu.Lock()
			if !slices.ContainsFunc(a.orphans, func(o *orphan) bool { return o.manifest.ID == m.ID }) {
				a.orphans = append(a.orphans, &orphan{manifest: m, rows: map[string]usage.Record{}})
			}
			a.mu.Unlock()
		}
	}
	return nil
}

// offer gives a duplicate event to the orphan that needs it.
func (a *appender) offer(rec *usage.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, o := range a.orphans {
		if !contains(o.manifest.Seqs, rec) {
			continue
		}
		o.rows[rec.EventID()] = *rec
		if int64(len(o.rows)) < o.manifest.Count {
			return
		}
		rows := make([]usage.Record, 0, len(o.rows))
		for _, r := range o.rows {
			rows = append(rows, r)
		}
		slices.SortFunc(rows, func(x, y usage.Record) int {
			return cmp.Or(cmp.Compare(x.LeaseID, y.LeaseID), cmp.Compare(x.Seq, y.Seq))
		})
		a.orphans = slices.Delete(a.orphans, i, i+1)
		a.enqueue(o.manifest, rows)
		return
	}
}

func contains(ranges []ledger.SeqRange, rec *usage.Record) bool {
	for _, r := range ranges {
		if r.Lease == rec.LeaseID && r.From <= rec.Seq && rec.Seq <= r.To {
			return true
		}
	}
	return false
}

// run appends in order until ctx ends. A failure is tried again for ever, with
// the same rows under the same token.
func (a *appender) run(ctx context.Context) {
	var done []string
	pause := retryMin
	for ctx.Err() == nil {
		one := a.head()
		if one == nil || len(done) >= markBatch {
			if done = a.mark(ctx, done); one == nil && len(done) == 0 {
				select {
				case <-a.wake:
				case <-ctx.Done():
				}
				continue
			}
		}
		if one == nil {
			wait(ctx, retryMin) // marking failed: the ledger is away
			continue
		}
		if err := a.appendOne(ctx, one); err != nil {
			if ctx.Err() == nil {
				a.o.Logger.Warn("cannot append a batch", "batch", one.manifest.ID, "err", err)
			}
			a.rotate()
			wait(ctx, pause)
			pause = min(2*pause, retryMax)
			continue
		}
		pause = retryMin
		done = append(done, one.manifest.ID)
		a.pop(one)
		a.o.Metrics.Appended.Inc()
	}
	a.mark(context.WithoutCancel(ctx), done)
}

func (a *appender) head() *pending {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return nil
	}
	return a.queue[0]
}

// rotate puts the head last: one batch that cannot be appended does not keep
// the others back. Blocks need no order.
func (a *appender) rotate() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = append(a.queue[1:], a.queue[0])
}

func (a *appender) pop(one *pending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = a.queue[1:]
	if one.held {
		a.rows -= len(one.rows)
	}
}

// mark tells the ledger; what it could not be told stays on the list. An
// unmarked batch is appended again after a restart, under its token.
func (a *appender) mark(ctx context.Context, done []string) []string {
	if len(done) == 0 {
		return done
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := a.o.Ledger.MarkAppended(ctx, done...); err != nil {
		a.o.Logger.Warn("cannot mark batches as appended", "err", err)
		return done
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range done {
		delete(a.inQueue, id)
	}
	return done[:0]
}

func (a *appender) appendOne(ctx context.Context, one *pending) error {
	if one.rows == nil {
		rows, err := a.readAgain(ctx, one.manifest)
		if err != nil {
			return err
		}
		one.rows = rows
	}
	if err := verify(one.manifest, one.rows); err != nil {
		return err
	}
	if !a.o.Warehouse.Up() {
		return errors.New("the warehouse is not up")
	}
	return a.o.Warehouse.Append(ctx, one.manifest.ID, one.rows)
}

// readAgain rebuilds the rows of a settled batch from the log: those records of
// its offsets that the manifest names, each once.
func (a *appender) readAgain(ctx context.Context, m ledger.Manifest) ([]usage.Record, error) {
	raw, err := a.o.Log.ReadRange(ctx, m.Part, m.From, m.To)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool, m.Count)
	rows := make([]usage.Record, 0, m.Count)
	for _, r := range raw {
		rec, err := usage.ParseRecord(r.Value)
		if err != nil || !rec.Kind.IsEvent() || !contains(m.Seqs, &rec) || seen[rec.EventID()] {
			continue // a dead letter, or a duplicate of another batch's event
		}
		seen[rec.EventID()] = true
		rows = append(rows, rec)
	}
	return rows, nil
}

// verify holds the rows to the manifest before they are sent: under one token
// other rows would be dropped in silence.
func verify(m ledger.Manifest, rows []usage.Record) error {
	var cost, price money.Nano
	var hash uint64
	var text []byte
	for i := range rows {
		cost += rows[i].Cost
		price += rows[i].Price
		text = rows[i].AppendTieText(text[:0])
		hash += xxhash.Sum64(text)
	}
	if int64(len(rows)) != m.Count || cost != m.Cost || price != m.Price || hash != m.Hash {
		return fmt.Errorf("batch %s has %d rows of cost %s and price %s, its manifest says %d, %s and %s (or other events)",
			m.ID, len(rows), cost, price, m.Count, m.Cost, m.Price)
	}
	return nil
}

// Waiting is how many settled batches are not yet in the warehouse, as far as
// this processor knows.
func (p *Processor) Waiting() int {
	p.appender.mu.Lock()
	defer p.appender.mu.Unlock()
	return len(p.appender.inQueue) + len(p.appender.orphans)
}

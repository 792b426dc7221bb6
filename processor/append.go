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
	"weir/internal/stream"
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
	// markTimeout bounds one marking, so that a stop does not wait for a ledger
	// that is away.
	markTimeout = 5 * time.Second
	// readStep is how many records are read again at a time.
	readStep = ledger.MaxBatch
)

// appender follows the manifests: every settled batch becomes one block in the
// warehouse under one insert token. It is off the money path: while the
// warehouse is away, manifests wait in the ledger.
type appender struct {
	o    Options
	wake chan struct{}

	mu       sync.Mutex // guards the following
	queue    []*pending
	unmarked map[string]bool // by batch id: in the queue, or appended and not marked yet
	rows     int             // held in memory over all
	orphans  orphans
}

// pending is a batch to append, whose events lie at the offsets from to to of
// its partition's log. Without rows they are read there.
type pending struct {
	manifest ledger.Manifest
	from, to int64
	rows     []usage.Record
}

// stretch is a run of offsets of a partition, without to itself.
type stretch struct{ from, to int64 }

func newAppender(o Options) *appender {
	return &appender{o: o, wake: make(chan struct{}, 1), unmarked: map[string]bool{}, orphans: newOrphans()}
}

// add queues a batch, unless it is known already.
func (a *appender) add(one *pending) {
	if a.o.Warehouse == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.enqueue(one)
}

// enqueue is add, called with mu held.
func (a *appender) enqueue(one *pending) {
	if a.unmarked[one.manifest.ID] {
		return
	}
	if a.rows+len(one.rows) > rowsInMemoryMax {
		one.rows = nil
	}
	a.rows += len(one.rows)
	a.unmarked[one.manifest.ID] = true
	a.queue = append(a.queue, one)
	a.signal()
}

func (a *appender) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// adopt takes over what is not appended of partitions that were just given to
// this processor: after a crash, or from one that left. What was settled from
// another log is an orphan. behind says for each partition what its log holds
// below the place where reading begins.
func (a *appender) adopt(ctx context.Context, behind map[int32]stretch) error {
	if a.o.Warehouse == nil {
		return nil
	}
	list, err := a.o.Ledger.Unappended(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range list {
		log, mine := behind[m.Part]
		switch {
		case !mine || a.unmarked[m.ID]:
		case m.Topic == a.o.Log.TopicID():
			a.enqueue(&pending{manifest: m, from: m.From, to: m.To})
		default:
			a.orphans.add(m, log)
		}
	}
	a.signal()
	return nil
}

// offer gives an event that came again, at an offset of a partition's log, to
// the orphan that misses it.
func (a *appender) offer(rec *usage.Record, part int32, offset int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if found := a.orphans.offer(rec, part, offset); found != nil {
		a.enqueue(found)
	}
}

// release forgets the orphans of partitions that another processor has now.
func (a *appender) release(parts []int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.orphans.release(parts)
}

func (a *appender) waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.unmarked) + len(a.orphans.byBatch)
}

// run appends until ctx ends. A failure is tried again for ever, with the same
// rows under the same token.
func (a *appender) run(ctx context.Context) {
	var done []string // appended and not marked yet
	for pause := retryMin; ctx.Err() == nil; {
		err := a.search(ctx)
		one := a.head()
		if err == nil && one != nil {
			if err = a.appendOne(ctx, one); err == nil {
				done = append(done, one.manifest.ID)
			}
			a.leave(one, err)
		}
		if one == nil || err != nil || len(done) >= markBatch {
			var markErr error
			done, markErr = a.mark(ctx, done)
			err = errors.Join(err, markErr)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			a.o.Metrics.AppendFailures.Inc()
			a.o.Logger.Warn("the warehouse lags behind the ledger", "waiting", a.waiting(), "err", err)
			wait(ctx, pause)
			pause = min(2*pause, retryMax)
		case one == nil:
			select {
			case <-a.wake:
			case <-ctx.Done():
			}
		default:
			pause = retryMin
		}
	}
	if _, err := a.mark(context.WithoutCancel(ctx), done); err != nil {
		a.o.Logger.Warn("stopping; these batches are appended once more after a start, which changes nothing", "batches", len(done), "err", err)
	}
}

func (a *appender) head() *pending {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return nil
	}
	return a.queue[0]
}

// leave takes the head off the queue, after it was appended or failed with err.
func (a *appender) leave(one *pending, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue[0] = nil // for the garbage collector
	a.queue = a.queue[1:]
	var lost *lostError
	switch {
	case err == nil:
		a.rows -= len(one.rows)
		a.o.Metrics.Appended.Inc()
	case errors.As(err, &lost):
		delete(a.unmarked, one.manifest.ID)
		a.orphans.add(one.manifest, lost.search)
	default: // goes last, so that it does not keep the others back: blocks need no order
		a.queue = append(a.queue, one)
	}
}

// mark tells the ledger, and returns what it could not be told. An unmarked
// batch is appended again after a restart, under its token.
func (a *appender) mark(ctx context.Context, done []string) ([]string, error) {
	if len(done) == 0 {
		return done, nil
	}
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	if err := a.o.Ledger.MarkAppended(ctx, done...); err != nil {
		return done, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range done {
		delete(a.unmarked, id)
	}
	return done[:0], nil
}

func (a *appender) appendOne(ctx context.Context, one *pending) error {
	if !a.o.Warehouse.Up() {
		return errors.New("the warehouse is not up")
	}
	rows := one.rows
	if rows == nil {
		var err error
		if rows, err = a.readAgain(ctx, one); err != nil {
			return err
		}
	} else if err := verify(one.manifest, rows); err != nil {
		return err
	}
	return a.o.Warehouse.Append(ctx, one.manifest.ID, rows)
}

// readAgain rebuilds the rows of a settled batch from the log: those events in
// its offsets that the manifest names, each once. The others are dead letters,
// and duplicates of other batches' events. It is a *lostError if the log has
// other events there than were settled, or none.
func (a *appender) readAgain(ctx context.Context, one *pending) ([]usage.Record, error) {
	seen := make(map[string]bool, one.manifest.Count)
	rows := make([]usage.Record, 0, one.manifest.Count)
	err := a.events(ctx, one.manifest.Part, stretch{one.from, one.to}, func(rec *usage.Record, _ int64) {
		if _, named := find(one.manifest.Seqs, rec); named && !seen[rec.EventID()] {
			seen[rec.EventID()] = true
			rows = append(rows, *rec)
		}
	})
	if err != nil && !errors.Is(err, stream.ErrOffsetGone) {
		return nil, fmt.Errorf("cannot read batch %s again: %w", one.manifest.ID, err)
	}
	if err == nil {
		err = verify(one.manifest, rows)
	}
	if err == nil {
		return rows, nil
	}
	whole, err2 := a.whole(ctx, one.manifest.Part)
	if err2 != nil {
		return nil, err2
	}
	return nil, &lostError{search: whole, cause: err}
}

// lostError says that a batch is not in the log where it was settled from.
// search is where its events may be.
type lostError struct {
	search stretch
	cause  error
}

func (e *lostError) Error() string {
	return "a batch is not in the log as it was settled: " + e.cause.Error()
}

// whole is all that the log holds of a partition now.
func (a *appender) whole(ctx context.Context, part int32) (stretch, error) {
	starts, err := a.o.Log.StartOffsets(ctx)
	if err != nil {
		return stretch{}, err
	}
	ends, err := a.o.Log.EndOffsets(ctx)
	return stretch{starts[part], ends[part]}, err
}

// events calls f with every event that a partition's log holds at some offsets.
func (a *appender) events(ctx context.Context, part int32, at stretch, f func(rec *usage.Record, offset int64)) error {
	for from := at.from; from < at.to; from += readStep {
		raw, err := a.o.Log.ReadRange(ctx, part, from, min(from+readStep, at.to))
		if err != nil {
			return err
		}
		for _, r := range raw {
			if rec, err := decode(r.Value); err == nil && rec.Kind.IsEvent() {
				f(&rec, r.Offset)
			}
		}
	}
	return nil
}

// find looks an event up in a manifest's ranges, which are ascending.
func find(ranges []ledger.SeqRange, rec *usage.Record) (int, bool) {
	return slices.BinarySearchFunc(ranges, rec, func(r ledger.SeqRange, rec *usage.Record) int {
		switch by := cmp.Compare(r.Lease, rec.LeaseID); {
		case by != 0:
			return by
		case r.To < rec.Seq:
			return -1
		case r.From > rec.Seq:
			return 1
		}
		return 0
	})
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

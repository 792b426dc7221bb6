package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/schemas/usage"
)

const (
	// producerLinger gathers records for a batch, off the answer's path. The
	// embedded log syncs each batch, so at 500 records a second a record costs
	// 170 us of processor time with 50 ms, and three times that with 5 ms.
	producerLinger = 50 * time.Millisecond
	// The buffer bounds memory while the log is slow; the rest waits on disk.
	producerRecordsMax = 10_000
	producerBytesMax   = 16 << 20

	// rewindPauseMin and rewindPauseMax pace new attempts while the log fails.
	rewindPauseMin = 100 * time.Millisecond
	rewindPauseMax = 5 * time.Second

	// topicCheckInterval is how soon a producer with nothing to send notices
	// that the topic was made anew, and that what it had sent is to be sent again.
	topicCheckInterval = 15 * time.Second
)

// errDataLoss says that the log no longer has records it had acknowledged.
var errDataLoss = errors.New("the usage log lost acknowledged records")

// Produce brings the spool's durable records to the log, in order, until ctx
// ends (then it returns nil) or the spool fails. A log that never saw this
// spool gets all of it; on an error it goes back to the first record that is
// not acknowledged, and when the log lost records, to the first that is not
// settled. So records may come twice, and readers tell them by (lease, seq).
func (l *Log) Produce(ctx context.Context, s *Spool) error {
	pause := rewindPauseMin
	for {
		from := s.ackedPos()
		err := l.produceOnce(ctx, s)
		if ctx.Err() != nil {
			return nil
		}
		if failed := s.Err(); failed != nil {
			return failed
		}
		if errors.Is(err, ErrTopicGone) {
			return err
		}
		l.rewinds.Add(1)
		l.cfg.Log.Warn("producing to the usage log begins again", "error", err, "position", s.ackedPos())
		if errors.Is(err, errDataLoss) {
			s.rewindUnsettled()
		}
		if s.ackedPos() > from {
			pause = rewindPauseMin
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, rewindPauseMax)
	}
}

// produceOnce produces with one client until something fails. Each attempt has
// a client of its own: what an abandoned one had buffered goes with it.
func (l *Log) produceOnce(ctx context.Context, s *Spool) error {
	if err := l.checkLog(ctx, s); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	f := &flight{spool: s, landed: make(chan struct{}, 1), fail: cancel}
	client, err := kgo.NewClient(append(l.options[:len(l.options):len(l.options)],
		kgo.DefaultProduceTopic(l.cfg.Topic),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // Kafka's default: murmur2 of the key
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(producerLinger),
		kgo.MaxBufferedRecords(producerRecordsMax),
		kgo.MaxBufferedBytes(producerBytesMax),
		kgo.UnknownTopicRetries(-1),
		kgo.ProducerBatchCompression(l.compression()),
		kgo.ProducerOnDataLossDetected(func(string, int32) { cancel(errDataLoss) }))...)
	if err != nil {
		cancel(nil)
		return fmt.Errorf("cannot make a producer: %w", err)
	}
	var beside sync.WaitGroup
	beside.Go(func() { f.ackLoop(ctx, l) })
	beside.Go(func() { l.watchTopic(ctx, cancel) })
	err = l.feed(ctx, client, f)
	cancel(err) // keeps an earlier cause
	client.Close()
	beside.Wait()
	return context.Cause(ctx)
}

// watchTopic ends an attempt when the topic was made anew. An embedded one
// cannot be, under a running broker.
func (l *Log) watchTopic(ctx context.Context, fail context.CancelCauseFunc) {
	if l.broker != nil {
		return
	}
	for tick := time.NewTicker(topicCheckInterval); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		if err := l.CheckTopic(ctx); errors.Is(err, ErrTopicGone) {
			fail(err)
		}
	}
}

// compression spares the embedded log the work: its bytes do not travel.
func (l *Log) compression() kgo.CompressionCodec {
	if l.broker != nil {
		return kgo.NoCompression()
	}
	return kgo.SnappyCompression()
}

// checkLog compares the log with what the spool remembers of it: the last
// record it acknowledged in each partition. An unclean election takes records
// back, and others' records may have come into their places.
func (l *Log) checkLog(ctx context.Context, s *Spool) error {
	if err := l.CheckTopic(ctx); err != nil {
		return err
	}
	last := s.resume(l.topicID)
	at := make(map[int32]int64, len(last))
	for _, o := range last {
		at[o.Part] = o.Offset
	}
	found, err := l.RecordsAt(ctx, at)
	if err != nil {
		return err
	}
	for _, o := range last {
		switch f := found[o.Part]; f.State {
		case Beyond:
			return fmt.Errorf("%w: partition %d ends before offset %d, which it acknowledged", errDataLoss, o.Part, o.Offset)
		case Present:
			if xxhash.Sum64(f.Value) != o.Hash {
				return fmt.Errorf("%w: offset %d of partition %d has another record than it acknowledged", errDataLoss, o.Offset, o.Part)
			}
		}
	}
	return nil
}

// feed hands the client one record after the other, from the first that is
// not acknowledged.
func (l *Log) feed(ctx context.Context, client *kgo.Client, f *flight) error {
	for at := f.spool.ackedPos(); ; {
		frames, err := f.spool.read(at)
		if err != nil {
			return err
		}
		if len(frames) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-f.spool.Failed():
				return f.spool.Err()
			case <-f.spool.readable:
			}
			continue
		}
		n, err := f.send(ctx, client, frames, at)
		if err != nil {
			return err
		}
		at += Pos(n)
	}
}

// flight is what one attempt has sent, in the spool's order.
type flight struct {
	spool  *Spool
	landed chan struct{} // something was acknowledged
	fail   context.CancelCauseFunc

	mu     sync.Mutex // guards the following
	first  int64      // number of sent[0]
	sent   []sentRecord
	passed []ackedRecord // scratch of ackLoop
}

type sentRecord struct {
	ackedRecord
	acked bool
}

// send produces the whole frames of b, which begins at position at, and
// returns their length.
func (f *flight) send(ctx context.Context, client *kgo.Client, b []byte, at Pos) (int64, error) {
	var n int64
	for n < int64(len(b)) {
		payload, ok, cut := frameAt(b[n:])
		if cut {
			break
		}
		if !ok {
			return n, fmt.Errorf("the spool is damaged at position %d", at+Pos(n))
		}
		r, err := usage.ParseRecord(payload)
		if err != nil {
			return n, fmt.Errorf("the spool is damaged at position %d: %w", at+Pos(n), err)
		}
		n += frameHeaderBytes + int64(len(payload))
		number := f.add(at+Pos(n), r.Kind == usage.KindIntent)
		if r.Kind == usage.KindIntent {
			continue
		}
		client.Produce(ctx, &kgo.Record{Key: []byte(r.Customer), Value: payload}, func(sent *kgo.Record, err error) {
			if err != nil {
				f.fail(fmt.Errorf("cannot produce: %w", err))
				return
			}
			f.ack(number, partOffset{sent.Partition, sent.Offset, xxhash.Sum64(sent.Value)})
		})
	}
	return n, ctx.Err()
}

// add notes a record that ends at end and returns its number. An intent is
// passed over: it stays in the spool.
func (f *flight) add(end Pos, intent bool) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, sentRecord{ackedRecord{end: end, at: partOffset{Part: notProduced}}, intent})
	if intent && len(f.sent) == 1 {
		signal(f.landed)
	}
	return f.first + int64(len(f.sent)) - 1
}

func (f *flight) ack(number int64, at partOffset) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &f.sent[number-f.first]
	r.at, r.acked = at, true
	if number == f.first {
		signal(f.landed)
	}
}

// ackLoop acknowledges the spool's records in order, without holes, as far as
// they landed. It alone does, so a record that lands after the attempt ended
// changes nothing.
func (f *flight) ackLoop(ctx context.Context, l *Log) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.landed:
		}
		for passed := f.takeLanded(); len(passed) > 0; passed = f.takeLanded() {
			f.spool.acknowledge(passed)
			for _, r := range passed {
				if r.at.Part != notProduced {
					l.produced.Add(1)
				}
			}
		}
	}
}

// takeLanded removes what landed without a hole before it.
func (f *flight) takeLanded() []ackedRecord {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed = f.passed[:0]
	for _, r := range f.sent {
		if !r.acked {
			break
		}
		f.passed = append(f.passed, r.ackedRecord)
	}
	f.first += int64(len(f.passed))
	f.sent = append(f.sent[:0], f.sent[len(f.passed):]...)
	return f.passed
}

package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

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
	acking := make(chan struct{})
	go func() {
		defer close(acking)
		f.ackLoop(ctx, l)
	}()
	err = l.feed(ctx, client, f)
	cancel(err) // keeps an earlier cause
	client.Close()
	<-acking
	return context.Cause(ctx)
}

// compression spares the embedded log the work: its bytes do not travel.
func (l *Log) compression() kgo.CompressionCodec {
	if l.broker != nil {
		return kgo.NoCompression()
	}
	return kgo.SnappyCompression()
}

// checkLog compares the log with what the spool remembers of it.
func (l *Log) checkLog(ctx context.Context, s *Spool) error {
	topic, err := l.describe(ctx)
	if err != nil {
		return err
	}
	if topicID(topic) != l.topicID {
		return ErrTopicGone
	}
	ends, err := l.EndOffsets(ctx)
	if err != nil {
		return err
	}
	for _, o := range s.resume(l.topicID) {
		if ends[o.Part] <= o.Offset {
			return fmt.Errorf("%w: partition %d ends at %d, offset %d was acknowledged", errDataLoss, o.Part, ends[o.Part], o.Offset)
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
			f.ack(number, sent.Partition, sent.Offset)
		})
	}
	return n, ctx.Err()
}

// add notes a record that ends at end and returns its number. An intent is
// passed over: it stays in the spool.
func (f *flight) add(end Pos, intent bool) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, sentRecord{ackedRecord{end: end, part: notProduced}, intent})
	if intent && len(f.sent) == 1 {
		signal(f.landed)
	}
	return f.first + int64(len(f.sent)) - 1
}

func (f *flight) ack(number int64, part int32, offset int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &f.sent[number-f.first]
	r.part, r.offset, r.acked = part, offset, true
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
				if r.part != notProduced {
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

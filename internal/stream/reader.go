package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// fetchWait is how long a fetch of an idle log stays at the broker. Records
	// end it at once, but partitions that come in a rebalance wait for its end.
	fetchWait = time.Second
	// fetchBytesMax bounds what a reader buffers.
	fetchBytesMax          = 16 << 20
	fetchPartitionBytesMax = 4 << 20
	// retryPause paces errors that pass by themselves.
	retryPause = 100 * time.Millisecond
	// rebalanceTimeout is how long the members of a group have to finish the
	// batches they are at before partitions move.
	rebalanceTimeout = 30 * time.Second
	// sessionTimeout is how long the partitions of a member that died stay
	// unread: well within the minute that a restart may take to settle.
	sessionTimeout = 15 * time.Second
	// heartbeatInterval is how soon a member hears of a rebalance.
	heartbeatInterval = time.Second
)

// ErrOffsetGone says that records a reader must see are not in the log: it was
// truncated or made anew, or its retention passed them.
var ErrOffsetGone = errors.New("offsets are not in the usage log")

// Rec is one record of a partition; Value is a usage.Record in wire format.
type Rec struct {
	Offset int64
	Value  []byte
}

// Fetch is a run of records of one partition, in order.
type Fetch struct {
	Part    int32
	Records []Rec
}

// ReaderConfig says how a member of a consumer group reads.
type ReaderConfig struct {
	Group string
	// Start returns where to begin with each of the partitions that this
	// member has just been given. One it leaves out stays this member's and is
	// not read. It is called again after an error.
	Start func(ctx context.Context, parts []int32) (map[int32]int64, error)
	// Revoked tells that partitions belong to another member now, or may.
	Revoked func(parts []int32)
}

// Reader is one member of a consumer group. Partitions move between members
// only inside Poll and Close, so a batch is never settled by two of them.
type Reader struct {
	log     *Log
	cfg     ReaderConfig
	client  *kgo.Client
	made    chan struct{} // closed when client is set, for its callbacks
	closing context.Context
	close   context.CancelFunc

	polling sync.Mutex // held by Poll: a client must not be closed under it
	pending error      // comes after records that were fetched before it
}

// ErrReaderClosed answers a Poll that Close ended.
var ErrReaderClosed = errors.New("the reader is closed")

// NewReader joins the group. What the group has committed is not looked at:
// where reading begins is for Start to say, and an offset outside the log is
// ErrOffsetGone from Poll, never a jump to the nearest one that exists.
func (l *Log) NewReader(cfg ReaderConfig) (*Reader, error) {
	r := &Reader{log: l, cfg: cfg, made: make(chan struct{})}
	r.closing, r.close = context.WithCancel(context.Background())
	revoked := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
		if parts := lost[l.cfg.Topic]; len(parts) > 0 {
			cfg.Revoked(parts)
		}
	}
	client, err := kgo.NewClient(append(l.options[:len(l.options):len(l.options)],
		kgo.ConsumeTopics(l.cfg.Topic),
		kgo.ConsumerGroup(cfg.Group+"."+l.cfg.Topic), // of two installations on one cluster neither disturbs the other
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.BlockRebalanceOnPoll(),
		kgo.RebalanceTimeout(rebalanceTimeout),
		kgo.SessionTimeout(sessionTimeout),
		kgo.HeartbeatInterval(heartbeatInterval),
		kgo.DisableAutoCommit(),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // outside the log is an error
		kgo.AdjustFetchOffsetsFn(r.adjust),
		kgo.OnPartitionsRevoked(revoked),
		kgo.OnPartitionsLost(revoked),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMaxBytes(fetchBytesMax),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytesMax))...)
	if err != nil {
		return nil, fmt.Errorf("cannot make a reader: %w", err)
	}
	r.client = client
	close(r.made)
	return r, nil
}

// adjust replaces the group's offsets by those of Start.
func (r *Reader) adjust(ctx context.Context, committed map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	var parts []int32
	for part := range committed[r.log.cfg.Topic] {
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return committed, nil
	}
	from, err := r.cfg.Start(ctx, parts)
	if err != nil {
		return nil, fmt.Errorf("cannot tell where to begin: %w", err)
	}
	<-r.made
	for _, part := range parts {
		one := map[string][]int32{r.log.cfg.Topic: {part}}
		offset, ok := from[part]
		if ok {
			r.client.ResumeFetchPartitions(one)
		} else {
			r.client.PauseFetchPartitions(one)
		}
		committed[r.log.cfg.Topic][part] = kgo.NewOffset().At(offset).WithEpoch(-1)
	}
	return committed, nil
}

// Poll returns at least one record, at most maxRecords, or an error: ctx has
// ended, the reader is closed, records are lost (ErrOffsetGone, and then only a
// new reader with other offsets helps), or the topic was made anew
// (ErrTopicGone, and then only a new Log helps). What passes by itself, such as a
// broker that is away or a Start that failed, is waited for. The partitions of
// the records stay with this member until the next Poll.
func (r *Reader) Poll(ctx context.Context, maxRecords int) ([]Fetch, error) {
	r.polling.Lock()
	defer r.polling.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.closing, func() { cancel(ErrReaderClosed) })()
	for {
		if err := r.pending; err != nil {
			r.pending = nil
			return nil, err
		}
		r.client.AllowRebalance()
		fetches := r.client.PollRecords(ctx, maxRecords)
		passing := r.sortErrors(ctx, fetches)
		if got := collect(fetches); len(got) > 0 {
			return got, nil
		}
		r.client.AllowRebalance() // also an empty poll holds it up
		if ctx.Err() == nil && passing != nil && r.pending == nil {
			r.log.cfg.Log.Warn("reading the usage log is interrupted", "error", passing)
			select {
			case <-ctx.Done():
			case <-time.After(retryPause):
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// sortErrors keeps an error that does not pass as pending, and returns one
// that does.
func (r *Reader) sortErrors(ctx context.Context, fetches kgo.Fetches) (passing error) {
	fetches.EachError(func(_ string, part int32, err error) {
		var loss *kgo.ErrDataLoss
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		case errors.As(err, &loss), errors.Is(err, kerr.OffsetOutOfRange):
			r.pending = fmt.Errorf("%w: partition %d: %w", ErrOffsetGone, part, err)
		case errors.Is(err, kgo.ErrClientClosed):
			r.pending = ErrReaderClosed
		case errors.Is(err, ErrTopicGone): // from Start
			r.pending = err
		case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.UnknownTopicOrPartition):
			if passing = r.log.CheckTopic(ctx); errors.Is(passing, ErrTopicGone) {
				r.pending = passing
			}
		default:
			passing = err
		}
	})
	return passing
}

func collect(fetches kgo.Fetches) []Fetch {
	var got []Fetch
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		records := make([]Rec, len(p.Records))
		for i, rec := range p.Records {
			records[i] = Rec{Offset: rec.Offset, Value: rec.Value}
		}
		got = append(got, Fetch{Part: p.Partition, Records: records})
	})
	return got
}

// Commit tells the group how far partitions are read, the next offset of each:
// a hint for tools that show lag, nothing is read from it.
func (r *Reader) Commit(ctx context.Context, next map[int32]int64) error {
	last := make([]*kgo.Record, 0, len(next))
	for part, offset := range next {
		last = append(last, &kgo.Record{Topic: r.log.cfg.Topic, Partition: part, Offset: offset - 1, LeaderEpoch: -1})
	}
	if err := r.client.CommitRecords(ctx, last...); err != nil {
		return fmt.Errorf("cannot commit offsets: %w", err)
	}
	return nil
}

// Close ends a Poll that is waiting and leaves the group; its partitions are
// revoked first.
func (r *Reader) Close() {
	r.close()
	r.polling.Lock()
	defer r.polling.Unlock()
	r.client.CloseAllowingRebalance()
}

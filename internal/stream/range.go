package stream

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ReadRange returns the records of a partition with offsets from up to but not
// including to. Without all of them it is ErrOffsetGone.
func (l *Log) ReadRange(ctx context.Context, part int32, from, to int64) ([]Rec, error) {
	starts, err := l.StartOffsets(ctx)
	if err != nil {
		return nil, err
	}
	ends, err := l.EndOffsets(ctx)
	if err != nil {
		return nil, err
	}
	if from < starts[part] || to > ends[part] {
		return nil, fmt.Errorf("%w: partition %d holds %d to %d, not %d to %d", ErrOffsetGone, part, starts[part], ends[part], from, to)
	}
	if from >= to {
		return nil, nil
	}
	client, err := l.readerAt(map[int32]int64{part: from})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return readRange(ctx, client, from, to)
}

func readRange(ctx context.Context, client *kgo.Client, from, to int64) ([]Rec, error) {
	var got []Rec
	for next := from; next < to; {
		fetches := client.PollRecords(ctx, int(to-next))
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("cannot read offsets %d to %d: %w", from, to, err)
		}
		for _, f := range collect(fetches) {
			for _, rec := range f.Records {
				if rec.Offset != next {
					return nil, fmt.Errorf("%w: offset %d came where %d was due", ErrOffsetGone, rec.Offset, next)
				}
				got = append(got, rec)
				next++
			}
		}
	}
	return got, nil
}

// State tells where an offset lies.
type State int

// The states: before the first record that is still there, at a record, or at
// or behind the end.
const (
	Gone State = iota
	Present
	Beyond
)

// Found is what RecordsAt found at an offset; Value is only of a Present one.
type Found struct {
	State State
	Value []byte
	Start int64 // of the partition
	End   int64
}

// RecordsAt looks one offset up in each of some partitions.
func (l *Log) RecordsAt(ctx context.Context, at map[int32]int64) (map[int32]Found, error) {
	if len(at) == 0 {
		return nil, nil
	}
	starts, err := l.StartOffsets(ctx)
	if err != nil {
		return nil, err
	}
	ends, err := l.EndOffsets(ctx)
	if err != nil {
		return nil, err
	}
	found, present := make(map[int32]Found, len(at)), make(map[int32]int64, len(at))
	for part, offset := range at {
		f := Found{Start: starts[part], End: ends[part]}
		switch {
		case offset >= f.End:
			f.State = Beyond
		case offset >= f.Start:
			f.State, present[part] = Present, offset
		}
		found[part] = f
	}
	if len(present) == 0 {
		return found, nil
	}
	client, err := l.readerAt(present)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return found, readEach(ctx, client, present, found)
}

// readEach adds the values at some offsets, which is where client begins.
func readEach(ctx context.Context, client *kgo.Client, at map[int32]int64, found map[int32]Found) error {
	for left := len(at); left > 0; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("cannot read single offsets: %w", err)
		}
		for _, f := range collect(fetches) {
			one := found[f.Part]
			if one.Value != nil {
				continue // more of a partition that is done
			}
			if first := f.Records[0]; first.Offset != at[f.Part] {
				return fmt.Errorf("%w: offset %d came where %d was due", ErrOffsetGone, first.Offset, at[f.Part])
			}
			one.Value = f.Records[0].Value
			found[f.Part] = one
			left--
		}
	}
	return nil
}

// readerAt is a client that reads partitions from given offsets, without a group.
func (l *Log) readerAt(from map[int32]int64) (*kgo.Client, error) {
	offsets := make(map[int32]kgo.Offset, len(from))
	for part, offset := range from {
		offsets[part] = kgo.NewOffset().At(offset)
	}
	client, err := kgo.NewClient(append(l.options[:len(l.options):len(l.options)],
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.cfg.Topic: offsets}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxWait(fetchWait))...)
	if err != nil {
		return nil, fmt.Errorf("cannot make a reader: %w", err)
	}
	return client, nil
}

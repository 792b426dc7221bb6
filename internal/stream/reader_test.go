package stream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestReadRange: exactly the offsets asked for, or ErrOffsetGone.
func TestReadRange(t *testing.T) {
	l, spool := openLog(t, LogConfig{Dir: t.TempDir(), Partitions: 1}), openSpool(t, SpoolConfig{Dir: t.TempDir(), MaxBytes: 1 << 30})
	fillSpool(t, spool, 1, 1, trimKeepRecords+500)
	produceAll(t, l, spool)
	ctx := withPatience(t)
	got, err := l.ReadRange(ctx, 0, 20, 30)
	if err != nil || len(got) != 10 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i, r := range got {
		if rec := mustParse(t, r.Value); r.Offset != int64(20+i) || rec.Seq != uint64(21+i) {
			t.Errorf("record %d is offset %d, seq %d", i, r.Offset, rec.Seq)
		}
	}
	end := int64(trimKeepRecords + 500)
	if _, err := l.ReadRange(ctx, 0, end-1, end+1); !errors.Is(err, ErrOffsetGone) {
		t.Errorf("behind the end: %v", err)
	}
	if err := l.Trim(ctx, map[int32]int64{0: end - 100}); err != nil {
		t.Fatal(err)
	}
	starts, err := l.StartOffsets(ctx)
	if want := end - 100 - trimKeepRecords; err != nil || !maps.Equal(starts, map[int32]int64{0: want}) {
		t.Errorf("trimmed to %v, want %d, %v", starts, want, err)
	}
	if _, err := l.ReadRange(ctx, 0, starts[0]-1, end); !errors.Is(err, ErrOffsetGone) {
		t.Errorf("before the start: %v", err)
	}
	if got, err := l.ReadRange(ctx, 0, starts[0], end); err != nil || int64(len(got)) != end-starts[0] {
		t.Errorf("%d records, %v", len(got), err)
	}
	if got, err := l.ReadRange(ctx, 0, 5, 5); err == nil && len(got) > 0 {
		t.Error("an empty range has records")
	}
}

// beginnings is a ledger's cursors as far as a reader can tell.
type beginnings struct {
	mu      sync.Mutex
	next    map[int32]int64
	owner   map[int32]string
	asked   int
	failing int // answers that are errors still
}

func (b *beginnings) reader(t testing.TB, l *Log, name string) *Reader {
	t.Helper()
	r, err := l.NewReader(ReaderConfig{Group: "processors",
		Start: func(_ context.Context, parts []int32) (map[int32]int64, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.asked++
			if b.failing--; b.failing >= 0 {
				return nil, errors.New("the ledger is away")
			}
			from := make(map[int32]int64)
			for _, part := range parts {
				if other := b.owner[part]; other != "" {
					t.Errorf("partition %d is given to %s and still %s's", part, name, other)
				}
				b.owner[part], from[part] = name, b.next[part]
			}
			return from, nil
		},
		Revoked: func(parts []int32) {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, part := range parts {
				b.owner[part] = ""
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// take moves the cursors on over what was fetched, and fails on a hole.
func (b *beginnings) take(t testing.TB, name string, got []Fetch) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range got {
		if b.owner[f.Part] != name {
			t.Errorf("%s reads partition %d of %q", name, f.Part, b.owner[f.Part])
		}
		for _, r := range f.Records {
			if r.Offset != b.next[f.Part] {
				t.Errorf("partition %d: offset %d, not %d", f.Part, r.Offset, b.next[f.Part])
			}
			b.next[f.Part] = r.Offset + 1
			n++
		}
	}
	return n
}

func newBeginnings() *beginnings {
	return &beginnings{next: make(map[int32]int64), owner: make(map[int32]string)}
}

// TestReaderStart: reading begins where Start says, not where the group has
// committed, and a Start that fails is asked again.
func TestReaderStart(t *testing.T) {
	l, spool := openLog(t, LogConfig{Dir: t.TempDir()}), openSpool(t, SpoolConfig{Dir: t.TempDir()})
	fillSpool(t, spool, 30, 1, 20)
	produceAll(t, l, spool)
	ctx := withPatience(t)
	b := newBeginnings()
	r := b.reader(t, l, "first")
	for n := 0; n < 600; {
		got, err := r.Poll(ctx, 50)
		if err != nil {
			t.Fatal(err)
		}
		k := b.take(t, "first", got)
		if n += k; k > 50 || k == 0 {
			t.Errorf("a poll of 50 has %d records", k)
		}
	}
	if err := r.Commit(ctx, b.next); err != nil {
		t.Fatal(err)
	}
	r.Close()

	again := newBeginnings()
	again.failing = 2
	want := 0
	for part, end := range b.next {
		again.next[part] = end - min(end, 10)
		want += int(min(end, 10))
	}
	r = again.reader(t, l, "second")
	for n := 0; n < want; {
		got, err := r.Poll(ctx, 1000)
		if err != nil {
			t.Fatal(err)
		}
		n += again.take(t, "second", got)
	}
	if !maps.Equal(again.next, b.next) {
		t.Errorf("read to %v, not %v", again.next, b.next)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if got, err := r.Poll(short, 10); !errors.Is(err, context.DeadlineExceeded) || got != nil {
		t.Errorf("an empty log gives %v, %v", got, err)
	}
	ended := make(chan error)
	go func() {
		_, err := r.Poll(ctx, 10)
		ended <- err
	}()
	r.Close()
	if err := <-ended; !errors.Is(err, ErrReaderClosed) {
		t.Errorf("a poll under a close: %v", err)
	}
}

// TestReaderOffsetGone: a beginning outside the log is an error, not the
// nearest offset that exists.
func TestReaderOffsetGone(t *testing.T) {
	l, spool := openLog(t, LogConfig{Dir: t.TempDir(), Partitions: 1}), openSpool(t, SpoolConfig{Dir: t.TempDir()})
	fillSpool(t, spool, 1, 1, 20)
	produceAll(t, l, spool)
	if err := l.broker.DeleteRecords("usage", 0, 5); err != nil {
		t.Fatal(err)
	}
	for _, from := range []int64{4, 21} {
		b := newBeginnings()
		b.next[0] = from
		r := b.reader(t, l, "reader")
		if got, err := r.Poll(withPatience(t), 10); !errors.Is(err, ErrOffsetGone) {
			t.Errorf("from %d: %v, %v", from, got, err)
		}
		b.owner[0] = ""
		r.Close()
	}
	b := newBeginnings()
	b.next[0] = 5
	r := b.reader(t, l, "reader")
	got, err := r.Poll(withPatience(t), 10)
	if err != nil || b.take(t, "reader", got) != 10 {
		t.Fatal(got, err)
	}
	// Now the log moves past what is to be read next.
	if err := l.broker.DeleteRecords("usage", 0, 18); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		if got, err = r.Poll(withPatience(t), 1); err == nil {
			b.take(t, "reader", got) // what the client had fetched before
			if b.next[0] == 20 {
				return
			}
		}
	}
	if !errors.Is(err, ErrOffsetGone) {
		t.Error(err)
	}
}

// TestReaderLeavesOut: a partition that Start leaves out is not read, and the
// others are; with a Start that names it, it is.
func TestReaderLeavesOut(t *testing.T) {
	l, spool := openLog(t, LogConfig{Dir: t.TempDir()}), openSpool(t, SpoolConfig{Dir: t.TempDir()})
	fillSpool(t, spool, 30, 1, 5)
	produceAll(t, l, spool)
	ends, err := l.EndOffsets(withPatience(t))
	if err != nil || ends[1] == 0 {
		t.Fatal(ends, err)
	}
	for _, out := range []int{1, -1} {
		read := map[int32]int64{}
		r, err := l.NewReader(ReaderConfig{Group: "processors", Revoked: func([]int32) {},
			Start: func(_ context.Context, parts []int32) (map[int32]int64, error) {
				from := map[int32]int64{}
				for _, part := range parts {
					if int(part) != out {
						from[part] = 0
					}
				}
				return from, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		want := maps.Clone(ends)
		delete(want, int32(out))
		for !maps.Equal(read, want) {
			got, err := r.Poll(withPatience(t), 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range got {
				if int(f.Part) == out {
					t.Fatalf("partition %d was read", out)
				}
				read[f.Part] += int64(len(f.Records))
			}
		}
		r.Close()
	}
}

// TestRebalance: a second reader takes over some partitions and a third of
// them all when the others leave; each record is read once, by the partition's
// owner, and no partition is owned twice.
func TestRebalance(t *testing.T) {
	t.Parallel()
	l, spool := openLog(t, LogConfig{Dir: t.TempDir()}), openSpool(t, SpoolConfig{Dir: t.TempDir()})
	stop := produce(t, l, spool)
	b := newBeginnings()
	read := func(name string) (leave func() int) {
		ctx, cancel := context.WithCancel(withPatience(t))
		count := make(chan int)
		r := b.reader(t, l, name)
		go func() {
			n := 0
			for {
				got, err := r.Poll(ctx, 10)
				if err != nil {
					r.Close()
					count <- n
					return
				}
				n += b.take(t, name, got)
			}
		}()
		return func() int { cancel(); return <-count }
	}
	owned := func(names ...string) func() bool {
		return func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			owners := slices.Collect(maps.Values(b.owner))
			for _, name := range names {
				if !slices.Contains(owners, name) {
					return false
				}
			}
			return len(owners) == embeddedPartitions && !slices.Contains(owners, "")
		}
	}
	caughtUp := func(total int64) func() bool {
		return func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			var sum int64
			for _, next := range b.next {
				sum += next
			}
			return sum == total
		}
	}
	leaveFirst := read("first")
	fillSpool(t, spool, 20, 1, 20)
	until(t, "the first reader has everything", caughtUp(400))
	leaveSecond := read("second")
	until(t, "two readers share the partitions", owned("first", "second"))
	fillSpool(t, spool, 20, 21, 40)
	until(t, "two readers have everything", caughtUp(800))
	first := leaveFirst()
	fillSpool(t, spool, 20, 41, 50)
	until(t, "the second reader has everything", caughtUp(1000))
	stop()
	if second := leaveSecond(); first+second != 1000 || second == 0 {
		t.Errorf("read %d and %d", first, second)
	}
}

// owners counts the partitions of each reader.
func (b *beginnings) owners() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := make(map[string]int)
	for _, name := range b.owner {
		n[name]++
	}
	return n
}

func pollOn(ctx context.Context, r *Reader) {
	for {
		if _, err := r.Poll(ctx, 100); err != nil {
			return
		}
	}
}

// TestHeldBatch: while a reader is at a batch its partitions stay with it,
// though another reader has joined; with the next Poll they move.
func TestHeldBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, spool := openLog(t, LogConfig{Dir: t.TempDir()}), openSpool(t, SpoolConfig{Dir: t.TempDir()})
		fillSpool(t, spool, 20, 1, 20)
		produceAll(t, l, spool)
		b := newBeginnings()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		first := b.reader(t, l, "first")
		if _, err := first.Poll(ctx, 1); err != nil {
			t.Fatal(err)
		}
		second := b.reader(t, l, "second")
		go pollOn(ctx, second)
		time.Sleep(rebalanceTimeout / 2)
		if got := b.owners(); got["first"] != embeddedPartitions {
			t.Errorf("while the first is at its batch: %v", got)
		}
		go pollOn(ctx, first)
		time.Sleep(rebalanceTimeout / 2)
		if got := b.owners(); got["first"] != embeddedPartitions/2 || got["second"] != embeddedPartitions/2 {
			t.Errorf("after its next poll: %v", got)
		}
	})
}

// TestEmptyPoll: a Poll that ended without records holds no partition back.
func TestEmptyPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := openLog(t, LogConfig{Dir: t.TempDir()}), newBeginnings()
		ctx, cancel := context.WithTimeout(context.Background(), rebalanceTimeout/2)
		defer cancel()
		if _, err := b.reader(t, l, "first").Poll(ctx, 1); !errors.Is(err, context.DeadlineExceeded) || b.owners()["first"] != embeddedPartitions {
			t.Fatal(err, b.owners())
		}
		ctx, cancel = context.WithTimeout(context.Background(), rebalanceTimeout/2)
		defer cancel()
		pollOn(ctx, b.reader(t, l, "second"))
		if got := b.owners(); got["second"] != embeddedPartitions/2 {
			t.Errorf("%v", got)
		}
	})
}

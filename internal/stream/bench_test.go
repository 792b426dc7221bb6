package stream

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkAppendDurable is what an answer waits for, with 64 at a time.
func BenchmarkAppendDurable(b *testing.B) {
	s := openSpool(b, SpoolConfig{Dir: b.TempDir(), MaxBytes: 4 << 30})
	var lease atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		name := fmt.Sprint("lease-", lease.Add(1))
		for seq := uint64(1); pb.Next(); seq++ {
			p, err := s.Append(event(name, seq))
			if err == nil {
				err = s.WaitDurable(p)
			}
			if err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/float64(s.Usage().Syncs), "records/fsync")
}

// BenchmarkAppend is what happens under a lease's lock.
func BenchmarkAppend(b *testing.B) {
	s := openSpool(b, SpoolConfig{Dir: b.TempDir(), MaxBytes: 4 << 30})
	r := event("lease", 1)
	b.ReportAllocs()
	for b.Loop() {
		r.Seq++
		if _, err := s.Append(r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProduce is a record's way from the disk into the embedded log,
// broker and all, in processor time.
func BenchmarkProduce(b *testing.B) {
	s, l := openSpool(b, SpoolConfig{Dir: b.TempDir(), MaxBytes: 4 << 30}), openLog(b, LogConfig{Dir: b.TempDir()})
	for n := range b.N {
		mustAppend(b, s, event(fmt.Sprint(n%100), uint64(n)+1))
	}
	b.ResetTimer()
	before := processorTime()
	produceAll(b, l, s)
	b.ReportMetric(float64((processorTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/record")
}

// BenchmarkReplay is a start with b.N records in the spool.
func BenchmarkReplay(b *testing.B) {
	s := openSpool(b, SpoolConfig{Dir: b.TempDir(), MaxBytes: 4 << 30})
	for n := range b.N {
		mustAppend(b, s, event(fmt.Sprint(n%100), uint64(n)+1))
	}
	b.ResetTimer()
	reopen(b, s)
}

// BenchmarkIdle is the processor time that an embedded log with a producer and
// a reader takes when nothing happens.
func BenchmarkIdle(b *testing.B) {
	s, l := openSpool(b, SpoolConfig{Dir: b.TempDir()}), openLog(b, LogConfig{Dir: b.TempDir()})
	produce(b, l, s)
	mustAppend(b, s, event("lease", 1))
	r := newBeginnings().reader(b, l, "reader")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := r.Poll(ctx, 10); err != nil {
		b.Fatal(err)
	}
	go r.Poll(ctx, 10)
	const span = 3 * time.Second
	for b.Loop() {
		before := processorTime()
		time.Sleep(span)
		b.ReportMetric(100*float64(processorTime()-before)/float64(span), "cpu-percent")
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSteady is the processor time of a record at 500 a second, from the
// append to a reader, where batches are small.
func BenchmarkSteady(b *testing.B) {
	s, l := openSpool(b, SpoolConfig{Dir: b.TempDir(), MaxBytes: 4 << 30}), openLog(b, LogConfig{Dir: b.TempDir()})
	produce(b, l, s)
	r := newBeginnings().reader(b, l, "reader")
	go func() {
		for {
			if _, err := r.Poll(context.Background(), 1000); err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	before := processorTime()
	n := 0
	for b.Loop() {
		<-tick.C
		n++
		p := mustAppend(b, s, event(fmt.Sprint(n%100), uint64(n)))
		if err := s.WaitDurable(p); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((processorTime()-before).Microseconds())/float64(n), "cpu-us/record")
}

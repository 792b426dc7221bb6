// Package stream carries usage records from a gateway to the processors: the
// spool, a local log that is durable before a client sees the end of its
// answer, and the usage log, a Kafka topic that the spool is produced to.
package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"weir/schemas/usage"
)

const (
	// maxSegmentBytes is large enough that making files costs nothing and
	// small enough that deleting whole segments frees space steadily.
	maxSegmentBytes = 64 << 20
	// segmentsPerSpool keeps a small spool in many segments, so that one
	// unsettled record never holds more than a sixteenth of it.
	segmentsPerSpool = 16
	// minSpoolBytes leaves every segment room for several of the largest records.
	minSpoolBytes = segmentsPerSpool * 4 * maxRecordBytes

	// backgroundSyncDelay bounds how long a record that nobody waits for
	// (an intent, an error) stays only in the page cache.
	backgroundSyncDelay = 100 * time.Millisecond
)

// ErrSpoolClosed answers calls that come after Close.
var ErrSpoolClosed = errors.New("the spool is closed")

// SpoolConfig says where the spool is and how large it may grow.
type SpoolConfig struct {
	Dir      string
	MaxBytes int64 // cap of what is not yet settled and appended
	Log      *slog.Logger
	// Fault, if set, is asked before each "write" and each "sync"; the error
	// it returns is taken for the disk's. For tests.
	Fault func(op string) error
}

// Spool is the gateway's own durable log: append-only segments in one
// directory, written by one process. It is the truth about usage until the
// ledger and the warehouse have everything, so the usage log may be lost and
// made again from it.
type Spool struct {
	cfg          SpoolConfig
	segmentBytes int64

	mu       sync.Mutex // guards the following
	segments []*segment // oldest first; records are appended to the last
	end      Pos
	durable  Pos                 // everything before it survives a power loss
	frame    []byte              // scratch of Append
	intents  map[string]*segment // open intents by request id
	batch    *syncBatch          // joined by those who wait for the next fsync
	dirty    bool                // the syncer knows of bytes not yet durable
	err      error               // sticky
	recovery Recovery

	// Guarded by mu too: what the log and the ledger have.
	topicID     string
	acked       Pos // everything before it is acknowledged by the log
	unacked     int64
	chunks      []*chunk // not yet settled, in order
	ackedChange int64    // counts changes of what acked.json holds

	unsettledBytes atomic.Int64 // Σ bytes of chunks
	appends        atomic.Int64
	syncs          atomic.Int64

	releasing sync.Mutex // one Release at a time

	syncNow    chan struct{} // somebody waits
	syncSoon   chan struct{} // bytes are dirty
	readable   chan struct{} // durable has moved, for the one producer
	ackedMoved chan struct{} // acked.json is out of date
	failed     chan struct{}
	closing    chan struct{}
	closeOnce  sync.Once
	running    sync.WaitGroup
}

// syncBatch is one fsync as its waiters see it; err is set before done closes.
type syncBatch struct {
	done chan struct{}
	err  error
}

// OpenSpool opens or makes the spool in cfg.Dir and reads all of it. A torn
// last record is cut off; any other damage is an error that names file and
// offset.
func OpenSpool(cfg SpoolConfig) (*Spool, error) {
	if cfg.MaxBytes < minSpoolBytes {
		return nil, fmt.Errorf("cannot open the spool: a cap of %d bytes is below the least, %d", cfg.MaxBytes, minSpoolBytes)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open the spool: %w", err)
	}
	s := &Spool{cfg: cfg, segmentBytes: min(maxSegmentBytes, cfg.MaxBytes/segmentsPerSpool),
		intents: make(map[string]*segment), batch: &syncBatch{done: make(chan struct{})},
		syncNow: make(chan struct{}, 1), syncSoon: make(chan struct{}, 1), readable: make(chan struct{}, 1),
		ackedMoved: make(chan struct{}, 1), failed: make(chan struct{}), closing: make(chan struct{})}
	if err := s.load(); err != nil {
		for _, g := range s.segments {
			g.file.Close()
		}
		return nil, fmt.Errorf("cannot open the spool: %w", err)
	}
	s.running.Add(2)
	go s.syncLoop()
	go s.keepAcked()
	return s, nil
}

// Append writes r and returns the position behind it. The record is in the
// page cache then, so it survives the death of the process but not yet a power
// loss; for that see WaitDurable. On an error nothing was appended.
func (s *Spool) Append(r *usage.Record) (Pos, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.frame = appendFrame(s.frame[:0], r)
	if err := s.refuse(r); err != nil {
		return 0, fmt.Errorf("cannot append to the spool: %w", err)
	}
	size := int64(len(s.frame))
	active := s.segments[len(s.segments)-1]
	if active.size > 0 && active.size+size > s.segmentBytes {
		next, err := s.roll(active)
		if err != nil {
			return 0, err
		}
		active = next
	}
	if err := s.write(active); err != nil {
		return 0, err
	}
	active.size += size
	s.end += Pos(size)
	s.track(r, active, s.end-Pos(size), time.Now().UnixMilli())
	s.appends.Add(1)
	if !s.dirty {
		s.dirty = true
		signal(s.syncSoon)
	}
	return s.end, nil
}

// refuse keeps out what a later start could not read back, and a second intent
// of an open request, which would hide the first from recovery.
func (s *Spool) refuse(r *usage.Record) error {
	payload := s.frame[frameHeaderBytes:]
	if len(payload) > maxRecordBytes {
		return fmt.Errorf("a record of %d bytes is above the limit of %d", len(payload), maxRecordBytes)
	}
	if err := r.Check(); err != nil {
		return err
	}
	if r.Kind == usage.KindIntent && s.intents[r.RequestID] != nil {
		return fmt.Errorf("request %q has an open intent", r.RequestID)
	}
	return nil
}

// write puts s.frame behind the whole frames of g. A short write is cut off
// again, or the next frame would follow half a record.
func (s *Spool) write(g *segment) error {
	err := s.fault("write")
	if err == nil {
		_, err = g.file.WriteAt(s.frame, headerBytes+g.size)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("cannot write to the spool: %w", err)
	if truncateErr := g.file.Truncate(headerBytes + g.size); truncateErr != nil {
		s.fail(errors.Join(err, truncateErr))
	}
	return err
}

// roll begins the next segment. The full one is made durable first: recovery
// takes every segment but the last for complete.
func (s *Spool) roll(full *segment) (*segment, error) {
	if err := s.sync(full.file); err != nil {
		s.fail(fmt.Errorf("cannot fsync the spool: %w", err))
		return nil, s.err
	}
	s.durable = s.end
	signal(s.readable)
	next, err := s.create(s.end)
	if err != nil {
		return nil, fmt.Errorf("cannot begin a spool segment: %w", err)
	}
	s.segments = append(s.segments, next)
	return next, nil
}

// create makes an empty durable segment that begins at base.
func (s *Spool) create(base Pos) (*segment, error) {
	file, err := os.OpenFile(segmentPath(s.cfg.Dir, base), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = file.WriteAt(segmentHeader(base), 0); err == nil {
		if err = errors.Join(s.sync(file), syncDir(s.cfg.Dir)); err != nil {
			s.fail(fmt.Errorf("cannot fsync the spool: %w", err))
		}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &segment{base: base, file: file}, nil
}

func (s *Spool) sync(f *os.File) error {
	s.syncs.Add(1)
	if err := s.fault("sync"); err != nil {
		return err
	}
	return datasync(f)
}

func (s *Spool) fault(op string) error {
	if s.cfg.Fault == nil {
		return nil
	}
	return s.cfg.Fault(op)
}

// fail makes err the answer to everything from now on. After a failed fsync
// the kernel may have dropped the dirty pages and report success the next
// time, so trying again would call lost records durable. Caller holds mu.
func (s *Spool) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	close(s.failed)
	signal(s.syncNow) // releases the waiters
}

// Failed is closed when the disk failed in a way that cannot be retried: the
// process must end, and recover from what is on the disk.
func (s *Spool) Failed() <-chan struct{} { return s.failed }

// Err is the error that closed Failed, or ErrSpoolClosed after Close, or nil.
func (s *Spool) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// WaitDurable returns when everything before p is on the disk.
func (s *Spool) WaitDurable(p Pos) error {
	s.mu.Lock()
	if p <= s.durable || s.err != nil {
		defer s.mu.Unlock()
		if p <= s.durable {
			return nil
		}
		return s.err
	}
	// The next batch takes its end after this moment, so it covers p.
	batch := s.batch
	s.mu.Unlock()
	signal(s.syncNow)
	<-batch.done
	return batch.err
}

// syncLoop is the only caller of fsync but for new segments. While one fsync
// runs, waiters gather for the next: the slower the disk, the larger the group.
func (s *Spool) syncLoop() {
	defer s.running.Done()
	for {
		select {
		case <-s.syncNow:
		case <-s.syncSoon:
			delay := time.NewTimer(backgroundSyncDelay)
			select {
			case <-s.syncNow:
			case <-delay.C:
			case <-s.closing:
			}
			delay.Stop()
		case <-s.closing:
			s.syncOnce()
			s.mu.Lock()
			if s.err == nil {
				s.err = ErrSpoolClosed
			}
			s.mu.Unlock()
			s.syncOnce() // answers who came in between
			return
		}
		s.syncOnce()
	}
}

// syncOnce makes everything appended so far durable and wakes all who waited
// for it, or tells them of the error.
func (s *Spool) syncOnce() {
	s.mu.Lock()
	batch, target, file := s.batch, s.end, s.segments[len(s.segments)-1].file
	s.batch = &syncBatch{done: make(chan struct{})}
	s.dirty = false
	stopped, done := s.err != nil, s.durable >= target
	s.mu.Unlock()

	var err error
	if !stopped && !done {
		err = s.sync(file)
	}

	s.mu.Lock()
	switch {
	case s.durable >= target: // also when roll did it meanwhile
	case err != nil:
		s.fail(fmt.Errorf("cannot fsync the spool: %w", err))
		fallthrough
	case stopped:
		batch.err = s.err
	default:
		s.durable = target
	}
	s.mu.Unlock()
	close(batch.done)
	signal(s.readable)
}

// Close makes everything durable, writes acked.json and closes the files. A
// producer of this spool must have ended.
func (s *Spool) Close() error {
	s.closeOnce.Do(func() { close(s.closing) })
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.err != ErrSpoolClosed {
		err = s.err
	}
	for _, g := range s.segments {
		err = errors.Join(err, g.file.Close())
	}
	s.segments = nil
	return err
}

// signal leaves one token in c, a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

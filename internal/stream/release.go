package stream

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"weir/schemas/usage"
)

const (
	// chunkBytes and chunkSpan bound how much and how long a run of records
	// counts as unsettled because of one of them. At 64 KiB, 4 GiB of unsettled
	// records need some 10 MB of memory for chunks.
	chunkBytes = 64 << 10
	chunkSpan  = time.Second

	// Released segments stay for people to look at, and for a ledger that was
	// restored from yesterday, but within a part of the spool's cap.
	releasedAgeMax      = 24 * time.Hour
	releasedShareOfMax  = 4 // one part in four
	levelHighPercentMax = 80
)

// chunk is a run of records of one segment that is settled as a whole.
type chunk struct {
	seg        *segment
	start, end Pos
	firstMs    int64 // time of the first record, Unix milliseconds
	records    int64 // records the log gets
	offsets    []partOffset
}

// settled tells whether the log acknowledged all of c and the ledger and the
// warehouse have it: its offsets are all below done.
func (c *chunk) settled(acked Pos, done map[int32]int64) bool {
	if c.end > acked {
		return false
	}
	for _, o := range c.offsets {
		if o.Offset >= done[o.Part] {
			return false
		}
	}
	return true
}

// track counts a record that was written at start, and opens or ends its
// intent. Caller holds mu.
func (s *Spool) track(r *usage.Record, g *segment, start Pos, nowMs int64) {
	if r.Kind == usage.KindIntent {
		s.intents[r.RequestID] = g
		g.openIntents++
	} else if from := s.intents[r.RequestID]; from != nil && r.Kind.IsEvent() {
		from.openIntents--
		delete(s.intents, r.RequestID)
	}
	if g.firstMs == 0 {
		g.firstMs = nowMs
	}
	g.lastMs = max(g.lastMs, nowMs)
	c := s.openChunk(g, start, nowMs)
	s.unsettledBytes.Add(int64(s.end - c.end))
	c.end = s.end
	if r.Kind != usage.KindIntent {
		g.records++
		c.records++
		s.unacked++
	}
}

// openChunk returns the chunk that the record at start belongs to.
func (s *Spool) openChunk(g *segment, start Pos, nowMs int64) *chunk {
	if n := len(s.chunks); n > 0 {
		last := s.chunks[n-1]
		if last.seg == g && last.end == start && start-last.start < chunkBytes && nowMs-last.firstMs < chunkSpan.Milliseconds() {
			return last
		}
	}
	return s.addChunk(&chunk{seg: g, start: start, end: start, firstMs: nowMs})
}

func (s *Spool) addChunk(c *chunk) *chunk {
	c.seg.unsettled++
	s.chunks = append(s.chunks, c)
	s.unsettledBytes.Add(int64(c.end - c.start))
	return c
}

// ackedRecord is a record that the log acknowledged, or passed over.
type ackedRecord struct {
	end Pos
	at  partOffset // Part is notProduced for an intent
}

const notProduced = -1

// acknowledge notes that everything up to the last of recs is in the log. recs
// are in the spool's order and leave nothing out.
func (s *Spool) acknowledge(recs []ackedRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearchFunc(s.chunks, recs[0].end, func(c *chunk, p Pos) int { return int(c.end - p) })
	for _, r := range recs {
		for i < len(s.chunks) && s.chunks[i].end < r.end {
			i++
		}
		// A record outside all chunks was settled before it was produced again.
		if r.at.Part == notProduced || i == len(s.chunks) || r.end <= s.chunks[i].start {
			continue
		}
		c := s.chunks[i]
		c.offsets = raise(c.offsets, r.at)
		c.seg.offsets = raise(c.seg.offsets, r.at)
		s.unacked--
	}
	s.acked = recs[len(recs)-1].end
	s.ackedChanged()
}

// forgetLog makes everything unacknowledged, for a log that has never seen
// this spool. Caller holds mu.
func (s *Spool) forgetLog(topicID string) {
	s.chunks, s.unacked = nil, 0
	s.unsettledBytes.Store(0)
	for _, g := range s.segments {
		g.offsets, g.unsettled = nil, 0
		if g.size > 0 {
			s.addChunk(&chunk{seg: g, start: g.base, end: g.end(), firstMs: g.firstMs, records: g.records})
			s.unacked += g.records
		}
	}
	s.topicID, s.acked = topicID, s.segments[0].base
	s.ackedChanged()
}

// resume prepares for producing to the log with this topic id, and returns the
// last record it acknowledged in each partition.
func (s *Spool) resume(topicID string) []partOffset {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topicID != topicID {
		s.forgetLog(topicID)
	}
	var greatest []partOffset
	for _, g := range s.segments {
		for _, o := range g.offsets {
			greatest = raise(greatest, o)
		}
	}
	return greatest
}

// rewindUnsettled takes back the acknowledgements of all that is not settled:
// the log lost records it had acknowledged. What is settled needs no log.
func (s *Spool) rewindUnsettled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unacked = 0
	for _, g := range s.segments {
		g.offsets = nil
	}
	for _, c := range s.chunks {
		c.offsets = nil
		s.unacked += c.records
	}
	s.acked = s.settledTo()
	s.ackedChanged()
}

// settledTo is the position before which everything is settled.
func (s *Spool) settledTo() Pos {
	if len(s.chunks) > 0 {
		return s.chunks[0].start
	}
	return s.end
}

// ackedPos is the position before which the log has everything.
func (s *Spool) ackedPos() Pos {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// Release takes the offsets before which records of the topic are settled in
// the ledger and appended to the warehouse, per partition, and deletes the
// segments that nothing needs any more. Offsets of another topic say nothing.
//
// Segments go strictly oldest first. An intent is older than its result, so a
// start never sees an intent whose result is gone, which it would book as
// leakage a second time.
func (s *Spool) Release(topicID string, done map[int32]int64) error {
	s.releasing.Lock()
	defer s.releasing.Unlock()
	s.mu.Lock()
	if s.err == nil && topicID == s.topicID {
		s.settle(done)
	}
	s.mu.Unlock()
	for {
		g := s.popReleased(time.Now().UnixMilli())
		if g == nil {
			return nil
		}
		path := g.file.Name()
		// The directory is synced for each: a deleted segment that came back
		// without the deleted one behind it would be a hole.
		if err := errors.Join(os.Remove(path), syncDir(s.cfg.Dir), g.file.Close()); err != nil {
			return s.failRelease(fmt.Errorf("cannot delete spool segment %s: %w", path, err))
		}
	}
}

// failRelease makes a failed deletion fatal, as it is the disk's failure and a
// later deletion would leave a hole.
func (s *Spool) failRelease(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(err)
	return err
}

// settle drops the chunks that done covers.
func (s *Spool) settle(done map[int32]int64) {
	before := len(s.chunks)
	s.chunks = slices.DeleteFunc(s.chunks, func(c *chunk) bool {
		if !c.settled(s.acked, done) {
			return false
		}
		c.seg.unsettled--
		s.unsettledBytes.Add(int64(c.start - c.end))
		return true
	})
	if len(s.chunks) < before {
		s.ackedChanged()
	}
}

// released tells whether nothing needs g any more.
func (s *Spool) released(g *segment) bool {
	return g.unsettled == 0 && g.openIntents == 0 && g.end() <= s.acked && g != s.segments[len(s.segments)-1]
}

// popReleased takes the oldest segment out of the spool if it is released and
// too old, or the released ones are too many.
func (s *Spool) popReleased(nowMs int64) *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || !s.released(s.segments[0]) {
		return nil
	}
	var releasedBytes int64
	for _, g := range s.segments {
		if s.released(g) {
			releasedBytes += g.size
		}
	}
	oldest := s.segments[0]
	if releasedBytes <= s.cfg.MaxBytes/releasedShareOfMax && nowMs-oldest.lastMs <= releasedAgeMax.Milliseconds() {
		return nil
	}
	s.segments = slices.Delete(s.segments, 0, 1)
	return oldest
}

// Level tells how full the spool is.
type Level int

// The levels: below 80 % of the cap; from 80 %, where no new leases are taken;
// from 100 %, where nothing is admitted.
const (
	LevelNormal Level = iota
	LevelHigh
	LevelFull
)

// Level compares what is not settled with the cap. It takes no lock.
func (s *Spool) Level() Level {
	unsettled := s.unsettledBytes.Load()
	switch {
	case unsettled >= s.cfg.MaxBytes:
		return LevelFull
	case unsettled >= s.cfg.MaxBytes/100*levelHighPercentMax:
		return LevelHigh
	}
	return LevelNormal
}

// SpoolUsage is what the spool holds.
type SpoolUsage struct {
	UnsettledBytes  int64     // not yet settled and appended, in whole chunks
	OldestUnsettled time.Time // zero when everything is settled
	UnackedRecords  int64     // not acknowledged by the log; intents do not count
	OpenIntents     int       // requests in flight
	DiskBytes       int64     // all segments, kept ones too
	Segments        int
	Appends         int64 // records appended since the start
	Syncs           int64 // fsyncs since the start
}

// Usage reads the spool's gauges and counters.
func (s *Spool) Usage() SpoolUsage {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := SpoolUsage{UnsettledBytes: s.unsettledBytes.Load(), UnackedRecords: s.unacked, OpenIntents: len(s.intents),
		Segments: len(s.segments), Appends: s.appends.Load(), Syncs: s.syncs.Load()}
	for _, g := range s.segments {
		u.DiskBytes += g.size
	}
	if len(s.chunks) > 0 {
		u.OldestUnsettled = time.UnixMilli(s.chunks[0].firstMs)
	}
	return u
}

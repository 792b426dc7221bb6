package stream

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// Recovery is what a start found in the spool.
type Recovery struct {
	OpenIntents []usage.Record // intents without a result, in the order of writing
	Leases      map[string]*LeaseTail
	TornBytes   int64 // of a last record that a crash cut off
}

// LeaseTail is what the spool still holds of one lease: a contiguous end of
// it, since the spool forgets the oldest records first.
type LeaseTail struct {
	Customer          string
	FirstSeq, LastSeq uint64
	Closed            bool // the lease's own close record is in the spool

	steps []leaseStep // in order of seq; none once the lease is closed
}

// leaseStep holds the sums over the steps of a lease up to and including seq.
type leaseStep struct {
	seq, count  uint64
	cost, price money.Nano
}

// Totals sums the usage events of a lease behind some seq.
type Totals struct {
	Count       uint64
	Cost, Price money.Nano
	LastSeq     uint64 // greatest seq of any record, or the seq that was asked for
}

// Replay returns what OpenSpool found. The spool keeps none of it, so only
// the first call answers.
func (s *Spool) Replay() Recovery {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.recovery
	s.recovery = Recovery{}
	return found
}

// Tail sums what the spool holds of a lease behind afterSeq, so that together
// with what is settled up to there a close record can be written. A lease that
// is closed, or whose records behind afterSeq are no longer all in the spool,
// is an error.
func (r Recovery) Tail(leaseID string, afterSeq uint64) (Totals, error) {
	tail := r.Leases[leaseID]
	if tail == nil {
		return Totals{LastSeq: afterSeq}, nil
	}
	if tail.Closed {
		return Totals{}, fmt.Errorf("lease %s is closed", leaseID)
	}
	if tail.FirstSeq > afterSeq+1 {
		return Totals{}, fmt.Errorf("the spool holds lease %s from seq %d, seq %d is missing", leaseID, tail.FirstSeq, afterSeq+1)
	}
	last := tail.steps[len(tail.steps)-1]
	t := Totals{Count: last.count, Cost: last.cost, Price: last.price, LastSeq: max(last.seq, afterSeq)}
	if i := sort.Search(len(tail.steps), func(i int) bool { return tail.steps[i].seq > afterSeq }); i > 0 {
		before := tail.steps[i-1]
		t.Count, t.Cost, t.Price = t.Count-before.count, t.Cost-before.cost, t.Price-before.price
	}
	return t, nil
}

// add notes one record.
func (r *Recovery) add(rec *usage.Record) {
	if rec.Kind == usage.KindIntent {
		return
	}
	tail := r.Leases[rec.LeaseID]
	if tail == nil {
		tail = &LeaseTail{Customer: rec.Customer, FirstSeq: rec.Seq}
		r.Leases[rec.LeaseID] = tail
	}
	tail.LastSeq = max(tail.LastSeq, rec.Seq)
	if rec.Kind == usage.KindClose {
		tail.Closed, tail.steps = true, nil
	}
	if tail.Closed {
		return
	}
	step := leaseStep{seq: rec.Seq}
	if n := len(tail.steps); n > 0 {
		step.count, step.cost, step.price = tail.steps[n-1].count, tail.steps[n-1].cost, tail.steps[n-1].price
	}
	if rec.Kind.IsEvent() {
		step.count++
		step.cost += rec.Cost
		step.price += rec.Price
	}
	tail.steps = append(tail.steps, step)
}

// load reads the directory into s, which no other goroutine knows yet.
func (s *Spool) load() error {
	acked, err := readAcked(s.cfg.Dir)
	if err != nil {
		return err
	}
	bases, err := listSegments(s.cfg.Dir)
	if err != nil {
		return err
	}
	s.recovery.Leases = make(map[string]*LeaseTail)
	replay := replay{s: s, intents: make(map[string]openIntent), cuts: []Pos{acked.Settled, acked.Acked}}
	for i, base := range bases {
		if i > 0 && base != s.end {
			return fmt.Errorf("segment %s does not begin at %d, where the one before it ends", segmentPath(s.cfg.Dir, base), s.end)
		}
		s.end = base
		if err := replay.segment(base, i == len(bases)-1); err != nil {
			return err
		}
	}
	if len(s.segments) == 0 {
		first, err := s.create(s.end)
		if err != nil {
			return err
		}
		s.segments = append(s.segments, first)
	}
	for _, open := range replay.intents {
		replay.open = append(replay.open, open)
	}
	slices.SortFunc(replay.open, func(a, b openIntent) int { return cmp.Compare(a.start, b.start) })
	for _, open := range replay.open {
		s.recovery.OpenIntents = append(s.recovery.OpenIntents, open.record)
	}
	if err := s.apply(acked); err != nil {
		return err
	}
	// The last process may have died between write and fsync; what was read
	// here must not vanish after a later power loss.
	s.durable = s.segments[0].base
	if err := s.sync(s.segments[len(s.segments)-1].file); err != nil {
		return fmt.Errorf("cannot fsync the spool: %w", err)
	}
	s.durable = s.end
	return nil
}

// replay is the state of reading a spool.
type replay struct {
	s       *Spool
	intents map[string]openIntent
	open    []openIntent
	cuts    []Pos // where chunks must end
}

type openIntent struct {
	start  Pos
	record usage.Record
}

// segment reads the segment at base and adds it to the spool.
func (p *replay) segment(base Pos, last bool) error {
	path := segmentPath(p.s.cfg.Dir, base)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	err = checkHeader(data, base)
	if errors.Is(err, errTornHeader) && last {
		p.s.cfg.Log.Warn("spool segment without records removed", "file", path)
		return p.removeTorn(path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	g := &segment{base: base, file: file}
	p.s.segments = append(p.s.segments, g)
	intact, torn, err := scanFrames(data[headerBytes:], func(payload []byte, end int64) error { return p.record(g, payload, end) })
	if err != nil {
		return fmt.Errorf("%s: record before offset %d: %w", path, headerBytes+intact, err)
	}
	rest := int64(len(data)) - headerBytes - intact
	if rest > 0 && !(torn && last) {
		return fmt.Errorf("%s: the record at offset %d is damaged", path, headerBytes+intact)
	}
	if rest > 0 {
		p.s.recovery.TornBytes = rest
		p.s.cfg.Log.Warn("torn record cut off the spool", "file", path, "offset", headerBytes+intact, "bytes", rest)
		if err := file.Truncate(headerBytes + intact); err != nil {
			return fmt.Errorf("%s: cannot cut off a torn record: %w", path, err)
		}
	}
	return nil
}

// removeTorn deletes a segment that never held a record; the one before it is
// appended to again.
func (p *replay) removeTorn(path string) error {
	return errors.Join(os.Remove(path), syncDir(p.s.cfg.Dir))
}

// record takes up one record of g that ends at the offset end of its frames.
func (p *replay) record(g *segment, payload []byte, end int64) error {
	r, err := usage.ParseRecord(payload)
	if err != nil {
		return err
	}
	start := g.end()
	g.size, p.s.end = end, g.base+Pos(end)
	for _, cut := range p.cuts {
		if start < cut && cut < p.s.end {
			return fmt.Errorf("%s says that a record ends at %d, within this one", ackedName, cut)
		}
	}
	if slices.Contains(p.cuts, start) {
		p.s.addChunk(&chunk{seg: g, start: start, end: start, firstMs: r.TimeMs})
	}
	if r.Kind == usage.KindIntent {
		p.intents[r.RequestID] = openIntent{start, r}
	} else if r.Kind.IsEvent() {
		delete(p.intents, r.RequestID)
	}
	p.s.recovery.add(&r)
	p.s.track(&r, g, start, r.TimeMs)
	return nil
}

// apply sets what the log and the ledger already have.
func (s *Spool) apply(a ackedFile) error {
	if a.Acked > s.end {
		return fmt.Errorf("the spool ends at %d but the log acknowledged it up to %d: records are missing", s.end, a.Acked)
	}
	s.topicID = a.TopicID
	s.acked = max(a.Acked, s.segments[0].base)
	offsets := make(map[Pos][]partOffset, len(a.Segments))
	for _, g := range a.Segments {
		offsets[g.Base] = g.Offsets
	}
	for _, g := range s.segments {
		g.offsets = slices.Clone(offsets[g.base])
	}
	s.chunks = slices.DeleteFunc(s.chunks, func(c *chunk) bool {
		if c.end > a.Acked {
			return false
		}
		s.unacked -= c.records
		c.offsets = offsets[c.seg.base] // shared: no more acknowledgements come for c
		if c.end <= a.Settled {
			c.seg.unsettled--
			s.unsettledBytes.Add(int64(c.start - c.end))
			return true
		}
		return false
	})
	return nil
}

// readBytes is how much of the spool is read at once; at least one record of
// the greatest size fits.
const readBytes = 256 << 10

// read returns durable frames from position from on, none when there are no
// more yet. The last one may be cut. Records are readable only once durable:
// after a power loss the gateway would give the seq of a record that only the
// log had kept to another one, which would then be dropped as a repetition.
func (s *Spool) read(from Pos) ([]byte, error) {
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	i := sort.Search(len(s.segments), func(i int) bool { return s.segments[i].end() > from })
	limit := min(s.durable-from, readBytes)
	if i == len(s.segments) || limit <= 0 {
		s.mu.Unlock()
		return nil, nil
	}
	g := s.segments[i]
	limit = min(limit, g.end()-from)
	s.mu.Unlock()
	if from < g.base {
		return nil, fmt.Errorf("the spool begins at %d, behind %d", g.base, from)
	}
	b := make([]byte, min(limit, math.MaxInt32))
	if _, err := g.file.ReadAt(b, headerBytes+int64(from-g.base)); err != nil {
		return nil, fmt.Errorf("cannot read the spool: %w", err)
	}
	return b, nil
}

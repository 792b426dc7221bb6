package stream

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/schemas/usage"
)

// releaseModel is what the spool must keep, record by record.
type releaseModel struct {
	t     *testing.T
	rng   *rand.Rand
	spool *Spool
	topic int
	seq   uint64

	records []modelRecord
	acked   int             // records before it are acknowledged
	next    map[int32]int64 // next offset of each partition of the topic
	done    map[int32]int64
	open    map[string]int // open intents by request, with their record
}

type modelRecord struct {
	start, end Pos
	intent     bool
	settled    bool // for good, whatever becomes of the log
	part       int32
	offset     int64
}

func (m *releaseModel) topicID() string { return fmt.Sprint("topic-", m.topic) }

// append writes an intent, the result of an open one, or an event without one.
func (m *releaseModel) append() {
	m.seq++
	r := event("lease", m.seq)
	r.Model = strings.Repeat("m", 1000+m.rng.IntN(20_000)) // few records fill a segment
	switch m.rng.IntN(5) {
	case 0:
		*r = *intent(fmt.Sprint("request-", m.seq))
		m.open[r.RequestID] = len(m.records)
	case 1:
		for request := range m.open {
			if len(m.open) > 3 { // so some stay open for long
				r.RequestID = request
				delete(m.open, request)
			}
			break
		}
	}
	end := mustAppend(m.t, m.spool, r)
	m.records = append(m.records, modelRecord{start: end - Pos(len(appendFrame(nil, r))), end: end, intent: r.Kind == usage.KindIntent})
}

// ack acknowledges the next few records.
func (m *releaseModel) ack(n int) {
	var passed []ackedRecord
	for ; n > 0 && m.acked < len(m.records); n-- {
		r := &m.records[m.acked]
		m.acked++
		a := ackedRecord{end: r.end, at: partOffset{Part: notProduced}}
		if !r.intent {
			r.part = m.rng.Int32N(3)
			r.offset = m.next[r.part]
			m.next[r.part]++
			a.at.Part, a.at.Offset = r.part, r.offset
		}
		passed = append(passed, a)
	}
	if len(passed) > 0 {
		m.spool.acknowledge(passed)
	}
}

func (m *releaseModel) release(all bool) {
	for part, end := range m.next {
		if advance := end - m.done[part]; all {
			m.done[part] = end
		} else if advance > 0 {
			m.done[part] += m.rng.Int64N(advance + 1)
		}
	}
	// What is settled in another topic must count for nothing.
	far := map[int32]int64{0: 1 << 40, 1: 1 << 40, 2: 1 << 40}
	for topic, done := range map[string]map[int32]int64{"another topic": far, m.topicID(): m.done} {
		if err := m.spool.Release(topic, done); err != nil {
			m.t.Fatal(err)
		}
	}
}

// rewind makes the records behind position p unacknowledged.
func (m *releaseModel) rewind(p Pos) {
	for m.acked > 0 && m.records[m.acked-1].end > p {
		m.acked--
	}
}

// loseLog takes back what is not settled; what is stays so.
func (m *releaseModel) loseLog() {
	m.release(false)
	m.spool.rewindUnsettled()
	for i := range m.acked {
		m.records[i].settled = true
	}
	for _, c := range m.spool.chunks {
		for i := range m.records {
			if r := &m.records[i]; r.start >= c.start && r.end <= c.end {
				r.settled = false
			}
		}
	}
	m.rewind(m.spool.ackedPos())
}

// forget makes the records that the log does not have unsettled.
func (m *releaseModel) forget() {
	for i := m.acked; i < len(m.records); i++ {
		m.records[i].settled = false
	}
}

// restart closes and opens the spool, perhaps with an acked.json that a crash
// left behind the times.
func (m *releaseModel) restart(stale bool) {
	path := filepath.Join(m.spool.cfg.Dir, ackedName)
	m.spool = reopen(m.t, m.spool)
	old, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	oldAcked := m.spool.ackedPos()
	m.forget()
	m.ack(m.rng.IntN(20))
	m.release(false)
	if err := m.spool.Close(); err != nil {
		m.t.Fatal(err)
	}
	if stale {
		if err := os.WriteFile(path, old, 0o600); err != nil {
			m.t.Fatal(err)
		}
		m.rewind(oldAcked)
	}
	m.forget()
	m.spool = openSpool(m.t, m.spool.cfg)
	if got := m.spool.Replay().OpenIntents; len(got) != len(m.open) {
		m.t.Fatalf("%d open intents, not %d", len(got), len(m.open))
	}
	m.spool.resume(m.topicID())
}

func (m *releaseModel) newTopic() {
	m.topic++
	m.next, m.done = make(map[int32]int64), make(map[int32]int64)
	m.spool.resume(m.topicID())
	m.acked = 0
	for m.acked < len(m.records) && m.records[m.acked].end <= m.oldest() {
		m.records[m.acked].settled = true
		m.acked++
	}
	m.forget()
}

func (m *releaseModel) oldest() Pos {
	m.spool.mu.Lock()
	defer m.spool.mu.Unlock()
	return m.spool.segments[0].base
}

// check holds the spool to the model.
func (m *releaseModel) check() {
	m.t.Helper()
	oldest, settled, unacked := m.oldest(), true, int64(0)
	for i, r := range m.records {
		needed := !r.settled && (i >= m.acked || !r.intent && r.offset >= m.done[r.part])
		settled = settled && !(needed && r.end > oldest)
		if needed && r.start < oldest {
			m.t.Fatalf("record %d at %d is not settled, the spool begins at %d", i, r.start, oldest)
		}
		if i >= m.acked && !r.intent && !r.settled {
			unacked++
		}
	}
	for request, i := range m.open {
		if m.records[i].start < oldest {
			m.t.Fatalf("the open intent of %s at %d is gone, the spool begins at %d", request, m.records[i].start, oldest)
		}
	}
	u := m.spool.Usage()
	if u.UnackedRecords != unacked || u.OpenIntents != len(m.open) {
		m.t.Fatalf("%+v; unacked %d, open %d", u, unacked, len(m.open))
	}
	if settled != (u.UnsettledBytes == 0) || settled != u.OldestUnsettled.IsZero() {
		m.t.Fatalf("all settled %v: %+v", settled, u)
	}
	if limit := m.spool.cfg.MaxBytes/releasedShareOfMax + m.spool.segmentBytes; settled && len(m.open) == 0 && u.DiskBytes > limit {
		m.t.Fatalf("everything is settled and %d bytes are kept", u.DiskBytes)
	}
}

// TestRelease does random things to a spool and to a model of it.
func TestRelease(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := &releaseModel{t: t, rng: rand.New(rand.NewPCG(seed, 1)), spool: openSpool(t, SpoolConfig{Dir: t.TempDir()}),
				next: make(map[int32]int64), done: make(map[int32]int64), open: make(map[string]int)}
			m.spool.resume(m.topicID())
			for range 1000 {
				switch what := m.rng.IntN(1000); {
				case what < 600:
					m.append()
				case what < 850:
					m.ack(m.rng.IntN(8))
				case what < 980:
					m.release(m.rng.IntN(3) == 0)
					m.check()
				case what < 988:
					m.restart(what%2 == 0)
				case what < 990:
					m.newTopic()
				case what < 992:
					m.loseLog()
				}
			}
			m.ack(len(m.records))
			m.release(true)
			m.check()
			if m.oldest() == 0 {
				t.Error("nothing was ever deleted")
			}
		})
	}
}

// TestKeptForADay: a released segment goes when it is a day old, though there
// is room.
func TestKeptForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := OpenSpool(withDefaults(SpoolConfig{Dir: t.TempDir(), MaxBytes: minSpoolBytes}))
		if err != nil {
			t.Fatal(err)
		}
		s.resume("topic")
		seq := uint64(1)
		for ; s.Usage().Segments < 2; seq++ {
			s.acknowledge([]ackedRecord{{end: mustAppend(t, s, event("l", seq)), at: partOffset{Offset: int64(seq)}}})
		}
		for _, step := range []struct {
			wait     time.Duration
			segments int
		}{{0, 2}, {releasedAgeMax, 2}, {time.Millisecond, 1}} {
			time.Sleep(step.wait)
			if err := s.Release("topic", map[int32]int64{0: int64(seq)}); err != nil {
				t.Fatal(err)
			}
			if got := s.Usage().Segments; got != step.segments {
				t.Errorf("after %v more: %d segments", step.wait, got)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLevel: only what is not settled fills the spool.
func TestLevel(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	s.resume("topic")
	seq := int64(0)
	for _, limit := range []struct {
		bytes int64
		level Level
	}{{s.cfg.MaxBytes * 80 / 100, LevelHigh}, {s.cfg.MaxBytes, LevelFull}} {
		for s.Usage().UnsettledBytes < limit.bytes {
			if s.Level() >= limit.level {
				t.Fatalf("level %d at %d bytes", s.Level(), s.Usage().UnsettledBytes)
			}
			seq++
			s.acknowledge([]ackedRecord{{end: mustAppend(t, s, event("l", uint64(seq))), at: partOffset{Offset: seq}}})
		}
		if s.Level() != limit.level {
			t.Errorf("level %d at %d bytes", s.Level(), s.Usage().UnsettledBytes)
		}
	}
	if err := s.Release("topic", map[int32]int64{0: seq}); err != nil || s.Level() != LevelNormal {
		t.Errorf("level %d, %v", s.Level(), err)
	}
	if u := s.Usage(); u.UnsettledBytes == 0 || u.UnsettledBytes > chunkBytes+maxRecordBytes {
		t.Errorf("one record is not settled: %+v", u)
	}
	if err := s.Release("topic", map[int32]int64{0: seq + 1}); err != nil || s.Usage().UnsettledBytes != 0 {
		t.Errorf("%+v, %v", s.Usage(), err)
	}
}

// TestSpoolBehindLog: a spool shorter than what the log has from it lost
// durable records, and must not give their seqs again.
func TestSpoolBehindLog(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	s.resume("topic")
	s.acknowledge([]ackedRecord{{end: mustAppend(t, s, event("l", 1))}})
	s.acknowledge([]ackedRecord{{end: mustAppend(t, s, event("l", 2)), at: partOffset{Offset: 1}}})
	path := activePath(s)
	s.Close()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()-1)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSpool(s.cfg); err == nil || !strings.Contains(err.Error(), "records are missing") {
		t.Error(err)
	}
}

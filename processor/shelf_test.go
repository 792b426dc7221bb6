package processor

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"weir/internal/ledger"
	"weir/schemas/usage"
)

// shelf is a warehouse that fails when a test wants it to. Like the real one
// it takes the rows of a token once, and unlike it, it says so if the same token
// ever comes with other rows.
type shelf struct {
	t      *testing.T
	down   atomic.Bool
	refuse atomic.Value // id of the one batch that is refused, a string
	// Of a thousand appends, how many fail before and after they took effect.
	failBefore, failAfter int

	mu      sync.Mutex // guards the following
	rng     *rand.Rand
	batches map[string]map[string]usage.Record // rows by event id, by batch
	repeats int
}

func newShelf(t *testing.T) *shelf {
	return &shelf{t: t, rng: rand.New(rand.NewPCG(1, 1)), batches: map[string]map[string]usage.Record{}}
}

func (s *shelf) Up() bool { return !s.down.Load() }

func (s *shelf) Append(_ context.Context, batchID string, recs []usage.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse.Load() == batchID {
		return errors.New("the warehouse refuses this batch")
	}
	if s.down.Load() || s.rng.IntN(1000) < s.failBefore {
		return errors.New("the warehouse is away")
	}
	rows := make(map[string]usage.Record, len(recs))
	for _, r := range recs {
		rows[r.EventID()] = r
	}
	if len(rows) != len(recs) || len(recs) > ledger.MaxBatch {
		s.t.Errorf("batch %s has %d rows of %d events", batchID, len(recs), len(rows))
	}
	if before := s.batches[batchID]; before != nil {
		s.repeats++
		if !reflect.DeepEqual(before, rows) {
			s.t.Errorf("batch %s came again with other rows", batchID)
		}
	}
	s.batches[batchID] = rows
	if s.rng.IntN(1000) < s.failAfter {
		return errors.New("the answer was lost")
	}
	return nil
}

// compare holds the rows to the manifests and to what was written.
func (s *shelf) compare(expected map[string]usage.Record, manifests []ledger.ManifestSum) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(manifests) != len(s.batches) {
		s.t.Errorf("%d batches were appended, the ledger has %d with events", len(s.batches), len(manifests))
	}
	seen := map[string]bool{}
	for _, m := range manifests {
		if int64(len(s.batches[m.ID])) != m.Count || !m.Appended {
			s.t.Errorf("batch %s has %d rows, its manifest says %d, appended %v", m.ID, len(s.batches[m.ID]), m.Count, m.Appended)
		}
		for id, rec := range s.batches[m.ID] {
			if seen[id] {
				s.t.Errorf("event %s is in two batches", id)
			}
			seen[id] = true
			if !reflect.DeepEqual(rec, expected[id]) {
				s.t.Errorf("event %s was appended as %+v, written as %+v", id, rec, expected[id])
			}
		}
	}
	if len(seen) != len(expected) {
		s.t.Errorf("%d events were appended, %d written", len(seen), len(expected))
	}
}

func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.batches)
}

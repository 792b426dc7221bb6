package ledger

import (
	"slices"
)

// span is a run of seqs, both ends included.
type span struct{ from, to uint64 }

// see marks seq as seen and tells whether it was seen for the first time.
// LastSeq and gaps are one integer and, as a rule, nothing: every seq at or
// below LastSeq has been seen unless it lies in a gap.
func (l *leaseRow) see(seq uint64) (fresh bool) {
	last := uint64(l.LastSeq)
	if seq > last {
		if seq > last+1 {
			l.gaps = append(l.gaps, span{last + 1, seq - 1})
			l.regap = true
		}
		l.LastSeq = int64(seq)
		return true
	}
	i, found := slices.BinarySearchFunc(l.gaps, seq, func(g span, seq uint64) int {
		switch {
		case g.to < seq:
			return -1
		case g.from > seq:
			return 1
		}
		return 0
	})
	if !found {
		return false
	}
	var rest []span
	if g := l.gaps[i]; g.from < seq {
		rest = append(rest, span{g.from, seq - 1})
	}
	if g := l.gaps[i]; g.to > seq {
		rest = append(rest, span{seq + 1, g.to})
	}
	l.gaps = slices.Replace(l.gaps, i, i+1, rest...)
	l.regap = true
	return true
}

// complete tells whether every seq up to the close record's has been seen.
func (l *leaseRow) complete() bool {
	return l.FinalSeq > 0 && (len(l.gaps) == 0 || l.gaps[0].from > uint64(l.FinalSeq))
}

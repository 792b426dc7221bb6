package ledger_test

import (
	"fmt"

	"weir/internal/ledger"
)

// insist makes a call that must succeed.
func (h *history) insist(call func() error) {
	h.Helper()
	h.must(persist(h.rough, call))
}

// once changes the ledger by a request that has a key.
func (h *history) once(key string, fn func(*ledger.Tx) error) error {
	id := ledger.OnceKey{Key: fmt.Sprintf("%s %d %d", key, h.seed, h.step), Route: "test"}
	return persist(h.rough, func() error {
		_, _, err := h.db.Once(h.ctx, id, func(tx *ledger.Tx) (ledger.Answer, error) {
			return ledger.Answer{Status: 200, Body: []byte("{}")}, fn(tx)
		})
		return err
	})
}

func (h *history) beat(g *gateway) (answer ledger.BeatAnswer) {
	h.insist(func() (err error) {
		answer, err = h.db.Beat(h.ctx, ledger.Beat{Session: g.session})
		return err
	})
	return answer
}

func (h *history) books() (b ledger.Books) {
	h.insist(func() (err error) {
		b, err = h.db.Books(h.ctx)
		return err
	})
	return b
}

func (h *history) acquire(part int) (o owner) {
	h.insist(func() error {
		c, err := h.db.AcquirePartition(h.ctx, h.topic, int32(part))
		o = owner{c.Epoch, c.NextOffset}
		return err
	})
	return o
}

// book settles a batch of the newest owner. One whose call failed becomes the
// owner anew, as a processor does, and learns from the cursor whether the batch
// was booked: then there is no answer.
func (h *history) book(o *owner, b ledger.Batch) (out ledger.Settled, answered bool) {
	for {
		out, err := h.db.Settle(h.ctx, b)
		if err == nil {
			return out, true
		}
		if !h.rough {
			h.must(err)
		}
		*o = h.acquire(int(b.Part))
		if o.next == b.To {
			return ledger.Settled{}, false
		}
		if b.Epoch = o.epoch; o.next != b.From {
			h.fatalf("the cursor is at %d, which no batch begins or ends at", o.next)
		}
	}
}

package lease

import (
	"weir/internal/stream"
	"weir/schemas/usage"
)

// Report ends a reservation with a fact that no intent went before: usage that
// somebody else served. When it cannot be written nothing has happened, and
// whoever reported it must do so again.
func (b *Book) Report(r Reservation, rec *usage.Record) (stream.Pos, error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	pos, err := b.settle(r, rec)
	if err != nil {
		b.release(r)
	}
	return pos, err
}

// Ungranted makes a reservation of nothing under a lease that the ledger never
// granted: a fact is recorded although the wallet has no money for it, is
// frozen or cannot be asked. The ledger settles it as late. The lease closes
// with this one record.
func (b *Book) Ungranted(customer string) (Reservation, error) {
	w, err := b.wallet(customer)
	if err != nil {
		return Reservation{}, err
	}
	l := &slice{id: b.cfg.NewID(), used: b.cfg.Now(), calls: 1}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retired = append(w.retired, l)
	return Reservation{w: w, l: l}, nil
}

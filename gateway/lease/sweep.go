package lease

import (
	"context"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// forgetAfter is how long a wallet without leases stays in memory: long enough
// that a busy wallet keeps its spend rate over a pause, short enough that the
// book's size follows the customers of the last minutes.
const forgetAfter = 5 * time.Minute

// Sweep does what time alone asks for: closes leases that nobody uses, asks
// again for grants whose answer was lost, forgets wallets. To be called about
// once a second.
func (b *Book) Sweep(now time.Time) {
	for _, w := range b.all() {
		w.mu.Lock()
		if l := w.open; l != nil {
			l.inFlightPeak = max(l.inFlight, l.inFlightPeak/2)
			if l.inFlight == 0 && w.waiting == 0 && w.granting == nil && now.Sub(l.used) >= b.cfg.Idle {
				b.retire(w)
			}
		}
		again := w.pending != nil && w.granting == nil
		w.mu.Unlock()
		if again {
			b.growInBackground(w)
		}
	}
	b.forget(now)
}

// forget drops wallets that hold nothing. A request that looked its wallet up
// before and reserves after would open a lease that no sweep sees, so only
// wallets that were not looked up for longer than any grant takes are dropped.
func (b *Book) forget(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, w := range b.wallets {
		w.mu.Lock()
		if w.open == nil && len(w.retired) == 0 && w.pending == nil && w.waiting == 0 && now.Sub(w.used) > forgetAfter {
			delete(b.wallets, id)
		}
		w.mu.Unlock()
	}
}

// Recall gives back what is unused of these customers' leases: another
// gateway's request of a nearly empty wallet needs it.
func (b *Book) Recall(customers []string) {
	for _, id := range customers {
		b.mu.Lock()
		w := b.wallets[id]
		b.mu.Unlock()
		if w == nil {
			continue
		}
		w.mu.Lock()
		if l := w.open; l != nil && w.granting == nil {
			if l.inFlight == 0 {
				b.retire(w)
			} else if free := l.free(); free > 0 {
				b.giveBack(w, l, free)
			}
		}
		w.mu.Unlock()
	}
}

// giveBack returns part of a lease that is still in use. The wallet's lock is
// held: nothing can reserve what is being returned.
func (b *Book) giveBack(w *wallet, l *slice, amount money.Nano) {
	rec := usage.Record{Kind: usage.KindReturn, Customer: w.customer, Gateway: b.cfg.Gateway,
		TimeMs: b.cfg.Now().UnixMilli(), Returned: amount}
	if _, err := b.append(l, &rec); err != nil {
		b.cfg.Log.Error("cannot return part of a lease", "lease", l.id, "err", err)
		return
	}
	l.returned += amount
}

// RetireAll ends admission on every lease; each closes with its last call.
// Grants whose answer was lost are forgotten: they belong to a session that
// has ended, and the next one lists what they made.
func (b *Book) RetireAll() {
	for _, w := range b.all() {
		w.mu.Lock()
		if w.open != nil {
			b.retire(w)
		}
		w.pending = nil
		w.mu.Unlock()
	}
}

// CloseUnknown closes the leases of this gateway that the book does not hold:
// a grant made them whose answer never came.
func (b *Book) CloseUnknown(leases []ledger.Lease) {
	held := make(map[string]bool)
	for _, w := range b.all() {
		w.mu.Lock()
		for _, l := range w.retired {
			held[l.id] = true
		}
		w.mu.Unlock()
	}
	for _, row := range leases {
		if row.State != ledger.LeaseOpen || row.LastSeq > 0 || held[row.ID] {
			continue // with a seq it was used, so its close record is under way
		}
		w := &wallet{customer: row.Customer}
		w.mu.Lock()
		b.closeSlice(w, &slice{id: row.ID})
		w.mu.Unlock()
	}
}

// Stop admits nothing more, waits for grants under way and closes every lease
// that has no call in flight.
func (b *Book) Stop(ctx context.Context) {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	done := make(chan struct{})
	go func() { b.growing.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	b.RetireAll()
}

// InFlight counts nothing but what is reserved now, over all wallets, and the
// leases that are open or retiring.
func (b *Book) InFlight() (leases int, reserved money.Nano) {
	for _, w := range b.all() {
		w.mu.Lock()
		if w.open != nil {
			leases++
			reserved += w.open.inFlight
		}
		for _, l := range w.retired {
			leases++
			reserved += l.inFlight
		}
		w.mu.Unlock()
	}
	return leases, reserved
}

func (b *Book) all() []*wallet {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*wallet, 0, len(b.wallets))
	for _, w := range b.wallets {
		all = append(all, w)
	}
	return all
}

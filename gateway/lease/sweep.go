package lease

import (
	"context"
	"slices"
	"time"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// forgetAfter is how long a wallet without leases stays in memory: long enough
// that a busy wallet keeps its spend rate over a pause, short enough that the
// book's size follows the customers of the last minutes.
const forgetAfter = 5 * time.Minute

// Sweep does what time alone asks for: writes what the spool refused before,
// closes leases that nobody uses, buries those whose grant was never answered,
// forgets wallets. To be called about once a second.
func (b *Book) Sweep(now time.Time) {
	for _, w := range b.all() {
		b.sweep(w, now)
	}
	b.forget(now)
}

func (b *Book) sweep(w *wallet, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.unwritten) > 0 {
		late := &w.unwritten[0]
		if _, err := b.settle(late.r, &late.rec); err != nil {
			return // the spool takes nothing: neither would it take what follows
		}
		w.unwritten = w.unwritten[1:]
	}
	for _, l := range slices.Clone(w.retired) {
		if l.calls == 0 {
			b.closeSlice(w, l)
		}
	}
	if w.granting != nil || w.waiting > 0 {
		return
	}
	if l := w.open; l != nil {
		l.inFlightPeak = max(l.inFlight, l.inFlightPeak/2)
		if l.calls == 0 && now.Sub(l.used) >= b.cfg.Idle {
			b.retire(w)
		}
	}
	if w.opening.id != "" && now.Sub(w.opening.askedAt) >= b.cfg.Idle {
		b.bury(w)
	}
}

// forget drops wallets that hold nothing. A request that looked its wallet up
// before and reserves after would open a lease that no sweep sees, so only
// wallets that were not looked up for longer than any grant takes are dropped.
func (b *Book) forget(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, w := range b.wallets {
		w.mu.Lock()
		if w.open == nil && len(w.retired) == 0 && w.opening.id == "" && w.waiting == 0 && now.Sub(w.used) > forgetAfter {
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
			if l.calls == 0 {
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

// retireAll ends admission on every lease; each closes with its last call.
// A lease that is being asked for is buried, whatever the answer will be.
func (b *Book) retireAll() {
	for _, w := range b.all() {
		w.mu.Lock()
		if w.open != nil {
			b.retire(w)
		}
		if w.opening.id != "" {
			b.bury(w)
		}
		w.mu.Unlock()
	}
}

// Stop admits nothing more and closes every lease with its last call: at once
// where there is none. Growth under way is waited for while ctx lasts.
func (b *Book) Stop(ctx context.Context) {
	b.mu.Lock()
	b.stopped.Store(true)
	b.mu.Unlock()
	b.retireAll()
	grown := make(chan struct{})
	go func() { b.growing.Wait(); close(grown) }()
	select {
	case <-grown:
	case <-ctx.Done():
	}
}

// InFlight counts the leases that are not closed and what calls have reserved
// under them now.
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

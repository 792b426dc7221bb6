package lease

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// wallet is what this gateway knows of one customer's wallet.
type wallet struct {
	customer string
	used     time.Time // when it was last looked up; the book's lock guards it

	mu       sync.Mutex    // guards everything below, its slices included
	open     *slice        // the lease that admits, or nil
	retired  []*slice      // leases that admit no more and wait for their calls
	granting chan struct{} // closed when the grant under way has ended
	// pending is a grant whose answer was lost. It is asked again, under the
	// same number, before any other: a lease that exists must be owned.
	pending *ledger.GrantRequest
	rest    money.Nano // the ledger's available at its last answer
	waiting money.Nano // reservations that wait for a grant

	spendRate   int64 // nano-dollars per second, decaying
	spendRateAt time.Time
}

// slice is one lease in memory.
type slice struct {
	id           string
	grantNo      int64
	granted      money.Nano
	returned     money.Nano
	spent        money.Nano
	inFlight     money.Nano
	inFlightPeak money.Nano
	seq          uint64
	count        uint64
	cost, price  money.Nano
	used         time.Time
}

func (l *slice) free() money.Nano { return l.granted - l.returned - l.spent - l.inFlight }

func (w *wallet) available() (money.Nano, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.knownLocked(), w.open != nil
}

func (w *wallet) knownLocked() money.Nano {
	if w.open == nil {
		return w.rest
	}
	return max(0, w.rest+w.open.free())
}

// observe folds one price into the spend rate.
func (w *wallet) observe(price money.Nano, now time.Time) {
	elapsed := max(now.Sub(w.spendRateAt), 0)
	w.spendRateAt = now
	if elapsed >= rateWindow {
		w.spendRate = 0
	} else { // linear, not exponential: close enough to choose a slice by
		w.spendRate -= w.spendRate / int64(rateWindow/time.Millisecond) * int64(elapsed/time.Millisecond)
	}
	w.spendRate += int64(price) / int64(rateWindow/time.Second)
}

// wanted is what one lease of this wallet should hold. The lock is held.
func (w *wallet) wanted() money.Nano {
	peak := w.waiting
	if w.open != nil {
		peak += w.open.inFlightPeak
	}
	if w.spendRate > math.MaxInt64/spendWindow/2 {
		return math.MaxInt64 / 2
	}
	return money.Nano(w.spendRate*spendWindow) + peak
}

// wantsMore tells whether the open lease has fallen below half of what it
// should hold, and there is something to take. The wallet's lock is held.
func (b *Book) wantsMore(w *wallet, l *slice) bool {
	want := min(w.wanted(), w.rest/money.Nano(2*b.gateways.Load()))
	return w.granting == nil && want > 0 && l.free() < want/2 && !b.cfg.NoGrants()
}

func (b *Book) growInBackground(w *wallet) {
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		return
	}
	b.growing.Add(1)
	b.mu.Unlock()
	go func() {
		defer b.growing.Done()
		ctx, cancel := context.WithTimeout(context.Background(), grantTimeout)
		defer cancel()
		if err := b.grant(ctx, w, 0); err != nil && !errors.Is(err, ledger.ErrInsufficient) {
			b.cfg.Log.Warn("cannot grow a lease", "customer", w.customer, "err", err)
		}
	}()
}

// wait counts need among what the next grant should have room for.
func (w *wallet) wait(need money.Nano) {
	w.mu.Lock()
	w.waiting += need
	w.mu.Unlock()
}

// grant asks the ledger for room for one reservation of need, and for as much
// as the wallet's slice should be. One grant per wallet is under way at a
// time: where there is one already this waits for it, since it may be enough
// for both. The caller looks again afterwards. need 0 only grows.
func (b *Book) grant(ctx context.Context, w *wallet, need money.Nano) error {
	if !b.Live(b.cfg.Now()) {
		return ErrLedger
	}
	w.mu.Lock()
	if busy := w.granting; busy != nil {
		w.mu.Unlock()
		select {
		case <-busy:
			return nil
		case <-ctx.Done():
			return ErrLedger
		}
	}
	if w.open != nil && w.open.free() >= need && need > 0 {
		w.mu.Unlock()
		return nil // a grant that ended meanwhile was enough
	}
	if b.cfg.NoGrants() {
		w.mu.Unlock()
		return ErrNoNewLeases
	}
	req := b.request(w, need)
	done := make(chan struct{})
	w.granting, w.pending = done, &req
	w.mu.Unlock()

	row, state, err := b.cfg.Ledger.Grant(ctx, req)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.granting = nil
	close(done)
	if err != nil {
		if definite(err) {
			w.pending = nil // nothing was granted
		}
		if w.open != nil && w.open.id == req.LeaseID && (errors.Is(err, ledger.ErrLeaseClosed) || errors.Is(err, ledger.ErrConflict)) {
			b.retire(w) // reclaimed meanwhile: it must not admit any more
		}
		err = unavailable(err)
		var short *ledger.InsufficientError
		if errors.As(err, &short) {
			w.rest = short.Wallet.Available()
		}
		return err
	}
	w.pending = nil
	w.rest = state.Available()
	b.adopt(w, row)
	return nil
}

// definite tells whether the ledger answered, by a refusal, so that nothing
// was granted. Any other failure leaves that open.
func definite(err error) bool {
	for _, refusal := range []error{ledger.ErrInsufficient, ledger.ErrFrozen, ledger.ErrNotFound, ledger.ErrLeaseClosed, ledger.ErrConflict,
		ledger.ErrSessionEnded, ledger.ErrSessionExpired, ledger.ErrSuperseded} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// request says what to ask for. The wallet's lock is held.
func (b *Book) request(w *wallet, need money.Nano) ledger.GrantRequest {
	session := b.session.Load().session
	want := max(w.wanted(), need)
	if w.pending != nil {
		req := *w.pending
		req.Session = session
		if need > 0 {
			req.Need, req.Want = b.shortfall(w, need), want
		}
		return req
	}
	if w.open == nil {
		return ledger.GrantRequest{LeaseID: b.cfg.NewID(), Customer: w.customer, Session: session, Gateway: b.cfg.Gateway,
			GrantNo: 1, Need: need, Want: want}
	}
	return ledger.GrantRequest{LeaseID: w.open.id, Customer: w.customer, Session: session, Gateway: b.cfg.Gateway,
		GrantNo: w.open.grantNo + 1, Need: b.shortfall(w, need), Want: max(want-w.open.free(), 0)}
}

func (b *Book) shortfall(w *wallet, need money.Nano) money.Nano {
	if w.open == nil {
		return need
	}
	return max(need-w.open.free(), 0)
}

// adopt takes the ledger's row for what is granted. The wallet's lock is held.
func (b *Book) adopt(w *wallet, row ledger.Lease) {
	if l := w.open; l != nil && l.id == row.ID {
		l.granted, l.grantNo = row.Granted, row.GrantNo
		return
	}
	if w.open != nil {
		b.retire(w)
	}
	w.open = &slice{id: row.ID, grantNo: row.GrantNo, granted: row.Granted, used: b.cfg.Now()}
}

// retire ends admission on the open lease; it closes with its last call. The
// wallet's lock is held.
func (b *Book) retire(w *wallet) {
	l := w.open
	w.open = nil
	if w.pending != nil && w.pending.LeaseID == l.id {
		w.pending = nil // whatever that growth became, the close gives it back
	}
	if l.inFlight == 0 {
		b.closeSlice(w, l)
		return
	}
	w.retired = append(w.retired, l)
}

// closeSlice writes the close record: final seq, count and sums, against which
// the ledger checks that it has seen everything. The wallet's lock is held.
func (b *Book) closeSlice(w *wallet, l *slice) {
	rec := usage.Record{Kind: usage.KindClose, Customer: w.customer, Gateway: b.cfg.Gateway, TimeMs: b.cfg.Now().UnixMilli(),
		Count: l.count, CostSum: l.cost, PriceSum: l.price}
	if _, err := b.append(l, &rec); err != nil {
		b.cfg.Log.Error("cannot close a lease", "lease", l.id, "err", err)
		return
	}
	for i, r := range w.retired {
		if r == l {
			w.retired = append(w.retired[:i], w.retired[i+1:]...)
			break
		}
	}
}

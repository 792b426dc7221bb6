package lease

import (
	"context"
	"errors"
	"math"
	"slices"
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
	retired  []*slice      // leases that admit no more and are not closed yet
	granting chan struct{} // closed when the grant under way has ended
	opening  opening       // the lease that is asked for while there is no open one

	unwritten []unwritten // results that the spool has refused so far
	rest      money.Nano  // the ledger's available at its last answer
	waiting   money.Nano  // reservations that wait for a grant
	growAfter time.Time   // the lease does not grow in the background before

	spendRate   int64 // nano-dollars per second, decaying
	spendRateAt time.Time
}

// opening is a lease that the ledger may know and this gateway does not hold
// yet. A lease that exists must be owned or closed, so its id is asked for
// again until an answer comes, or buried.
type opening struct {
	id string // "" = none
	// doubtful: an answer was lost. From then on a refusal proves nothing, for
	// the lost request may still be carried out after the refused one.
	doubtful bool
	askedAt  time.Time
}

// slice is one lease in memory. free ≥ 0 is what the package promises.
type slice struct {
	id           string
	grantNo      int64
	granted      money.Nano
	returned     money.Nano
	spent        money.Nano
	inFlight     money.Nano // reserved by calls
	inFlightPeak money.Nano
	calls        int // reservations under way, those of nothing included
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
func (b *Book) wantsMore(w *wallet, now time.Time) bool {
	want := min(w.wanted(), w.rest/money.Nano(2*b.gateways.Load()))
	if want <= 0 || w.open.free() >= want/2 || w.granting != nil || now.Before(w.growAfter) || b.cfg.NoGrants() {
		return false
	}
	w.growAfter = now.Add(growEvery)
	return true
}

func (b *Book) growInBackground(w *wallet) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped.Load() {
		return
	}
	b.growing.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), grantTimeout)
		defer cancel()
		err := b.grant(ctx, w, grow)
		if err != nil && !errors.Is(err, ledger.ErrInsufficient) && !errors.Is(err, ErrStopping) {
			b.cfg.Log.Warn("cannot grow a lease", "customer", w.customer, "err", err)
		}
	})
}

// wait counts need among what the next grant should have room for.
func (w *wallet) wait(need money.Nano) {
	w.mu.Lock()
	w.waiting += need
	w.mu.Unlock()
}

// grow is the need of a grant that no request waits for.
const grow money.Nano = -1

// grant asks the ledger for room for one reservation of need, and for as much
// as the wallet's slice should be. One grant per wallet is under way at a
// time: where there is one already this waits for it, since it may be enough
// for both. The caller looks again afterwards.
func (b *Book) grant(ctx context.Context, w *wallet, need money.Nano) error {
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
	now := b.cfg.Now()
	enough := need != grow && w.open != nil && w.open.free() >= need // a grant that ended meanwhile
	var no error
	switch {
	case !b.Live(now):
		no = ErrLedger
	case b.stopped.Load():
		no = ErrStopping
	case !enough && b.cfg.NoGrants():
		no = ErrNoNewLeases
	}
	if no != nil || enough || need == grow && w.open == nil {
		w.mu.Unlock()
		return no
	}
	req := b.request(w, max(need, 0), now)
	ended := make(chan struct{})
	w.granting = ended
	w.mu.Unlock()

	row, state, err := b.cfg.Ledger.Grant(ctx, req)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.granting = nil
	close(ended)
	if err != nil {
		return b.notGranted(w, &req, err)
	}
	w.rest = state.Available()
	b.adopt(w, row)
	return nil
}

// notGranted follows a grant without money. The wallet's lock is held.
func (b *Book) notGranted(w *wallet, req *ledger.GrantRequest, err error) error {
	var short *ledger.InsufficientError
	if errors.As(err, &short) {
		w.rest = short.Wallet.Available()
	}
	switch {
	case w.opening.id == req.LeaseID && !definite(err):
		w.opening.doubtful = true
	case w.opening.id == req.LeaseID && w.opening.doubtful:
		b.bury(w)
	case w.opening.id == req.LeaseID:
		w.opening = opening{}
	case w.open != nil && w.open.id == req.LeaseID && (errors.Is(err, ledger.ErrLeaseClosed) || errors.Is(err, ledger.ErrConflict)):
		b.retire(w) // it was taken back; the caller looks again and opens another
		return nil
	}
	return unavailable(err)
}

// definite tells whether the ledger answered, by a refusal, so that this
// request granted nothing. Any other failure leaves that open.
func definite(err error) bool {
	for _, refusal := range []error{ledger.ErrInsufficient, ledger.ErrFrozen, ledger.ErrNotFound, ledger.ErrLeaseClosed, ledger.ErrConflict,
		ledger.ErrSessionEnded, ledger.ErrSessionExpired, ledger.ErrSuperseded} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// request says what to ask for. A growth whose answer was lost has its number
// asked for again, and is then answered by what it became. The wallet's lock
// is held.
func (b *Book) request(w *wallet, need money.Nano, now time.Time) ledger.GrantRequest {
	q := ledger.GrantRequest{Customer: w.customer, Session: b.session.Load().session, Gateway: b.cfg.Gateway}
	want := max(w.wanted(), need)
	if w.open != nil {
		q.LeaseID, q.GrantNo = w.open.id, w.open.grantNo+1
		q.Need, q.Want = max(need-w.open.free(), 0), max(want-w.open.free(), 0)
		return q
	}
	if w.opening.id == "" {
		w.opening.id = b.cfg.NewID()
	}
	w.opening.askedAt = now
	q.LeaseID, q.GrantNo, q.Need, q.Want = w.opening.id, 1, need, want
	return q
}

// adopt takes the ledger's row for what is granted, unless the lease was
// retired or buried while the ledger was asked: then its close record gives
// everything back. The wallet's lock is held.
func (b *Book) adopt(w *wallet, row ledger.Lease) {
	switch {
	case w.open != nil && w.open.id == row.ID:
		w.open.granted, w.open.grantNo = row.Granted, row.GrantNo
	case w.opening.id == row.ID:
		w.opening = opening{}
		w.open = &slice{id: row.ID, grantNo: row.GrantNo, granted: row.Granted, used: b.cfg.Now()}
	}
}

// bury writes the close record of a lease that may exist in the ledger: what
// it was granted goes back, and a grant that is still on its way is refused.
// The wallet's lock is held.
func (b *Book) bury(w *wallet) {
	rec := b.closeRecord(w, &slice{})
	rec.LeaseID, rec.Seq = w.opening.id, 1
	if _, err := b.cfg.Spool.Append(&rec); err != nil {
		b.cfg.Log.Error("cannot close a lease whose grant was not answered", "lease", rec.LeaseID, "err", err)
		return // the next sweep tries again
	}
	w.opening = opening{}
}

// retire ends admission on the open lease; it closes with its last call. The
// wallet's lock is held.
func (b *Book) retire(w *wallet) {
	l := w.open
	w.open = nil
	w.retired = append(w.retired, l)
	if l.calls == 0 {
		b.closeSlice(w, l)
	}
}

// closeSlice writes the close record of a retired lease: final seq, count and
// sums, against which the ledger checks that it has seen everything. One that
// cannot be written is tried again by the next sweep. The wallet's lock is held.
func (b *Book) closeSlice(w *wallet, l *slice) {
	rec := b.closeRecord(w, l)
	if _, err := b.append(l, &rec); err != nil {
		b.cfg.Log.Error("cannot close a lease", "lease", l.id, "err", err)
		return
	}
	w.retired = slices.DeleteFunc(w.retired, func(r *slice) bool { return r == l })
}

func (b *Book) closeRecord(w *wallet, l *slice) usage.Record {
	return usage.Record{Kind: usage.KindClose, Customer: w.customer, Gateway: b.cfg.Gateway, TimeMs: b.cfg.Now().UnixMilli(),
		Count: l.count, CostSum: l.cost, PriceSum: l.price}
}

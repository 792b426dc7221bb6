// Package lease holds the slices of wallets that this gateway may spend.
//
// A lease moves money from a wallet's available part to its held part, once,
// in the ledger; after that requests reserve from it in memory. The invariant
// kept here: what is spent plus what is reserved in flight never exceeds
// granted minus returned.
package lease

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	// grantTimeout bounds a request's wait for the ledger; past it the client
	// is told to come again rather than kept hanging.
	grantTimeout = 3 * time.Second
	// admissionShare of the session's life is used for admission: the rest
	// covers the difference between two machines' clock rates.
	admissionShare = 9 // tenths
	// spendWindow is how many seconds of spending a slice should last for.
	spendWindow = 60
	// rateWindow is the time over which the spend rate is averaged, and after
	// which it is forgotten.
	rateWindow = 10 * time.Second
	// growEvery bounds how often a lease grows in the background, so that a
	// ledger that refuses is not asked by every request.
	growEvery = time.Second
)

var (
	// ErrLedger says that a grant was needed and the ledger did not answer.
	ErrLedger = errors.New("the ledger does not answer")
	// ErrNoNewLeases says that the spool is too full to promise more.
	ErrNoNewLeases = errors.New("no new leases: the spool is filling up")
	// ErrStopping says that the book is closed.
	ErrStopping = errors.New("stopping")
)

// Ledger is what a Book asks of the ledger. Tests put faults here.
type Ledger interface {
	Grant(context.Context, ledger.GrantRequest) (ledger.Lease, ledger.Wallet, error)
	Wallet(ctx context.Context, customer string) (ledger.Wallet, error)
}

// Spool is where a Book writes what happened under its leases.
type Spool interface {
	Append(*usage.Record) (stream.Pos, error)
}

// Config is what a Book needs to know.
type Config struct {
	Ledger   Ledger
	Spool    Spool
	Gateway  string        // id of the data directory
	TTL      time.Duration // life of the session, and so of every lease, without a heartbeat
	Idle     time.Duration // a lease unused for this long is closed
	NewID    func() string // ids of leases: random, never reused
	Now      func() time.Time
	Log      *slog.Logger
	NoGrants func() bool // true while the spool is too full for new leases
}

// Book holds the open leases of one gateway.
type Book struct {
	cfg      Config
	gateways atomic.Int64 // heard lately, this one included
	session  atomic.Pointer[validity]

	mu      sync.Mutex // guards wallets, and that nothing joins growing once stopped; taken before a wallet's
	wallets map[string]*wallet
	stopped atomic.Bool
	growing sync.WaitGroup
}

// validity is one session's right to admit.
type validity struct {
	session string
	until   time.Time // monotonic and wall reading: both must not have passed
}

// NewBook makes an empty book. Nothing is admitted before Renew.
func NewBook(c Config) *Book {
	b := &Book{cfg: c, wallets: make(map[string]*wallet)}
	b.gateways.Store(1)
	b.session.Store(&validity{})
	return b
}

// Renew extends the right to admit: the heartbeat that left at sent was
// answered. Counting starts at the sending, so that the ledger, which counts
// from its own later moment, never reclaims what is still spent from.
//
// Leases never come back to life: those of another session, and those whose
// time was over before the answer came, are closed, for the ledger may have
// taken them back meanwhile.
func (b *Book) Renew(session string, sent time.Time, gateways int) {
	if old := b.session.Load(); old.session != "" && (old.session != session || !b.Live(b.cfg.Now())) {
		b.retireAll()
	}
	b.session.Store(&validity{session: session, until: sent.Add(b.cfg.TTL * admissionShare / 10)})
	b.gateways.Store(int64(max(gateways, 1)))
}

// Live tells whether admission is allowed at now: neither the monotonic clock
// nor, on a machine that was suspended, the wall clock has passed the end.
func (b *Book) Live(now time.Time) bool {
	until := b.session.Load().until
	return now.Before(until) && now.Round(0).Before(until.Round(0))
}

// Reservation is money set aside for one upstream call. It ends once: by
// Settle or, where no intent was written, by Void.
type Reservation struct {
	Amount money.Nano
	w      *wallet
	l      *slice
}

// Reserve sets need aside for one request of customer: from memory when the
// lease has room, after a grant otherwise. Errors: *ledger.InsufficientError,
// ledger.ErrFrozen, ledger.ErrNotFound, ErrLedger, ErrNoNewLeases, ErrStopping.
func (b *Book) Reserve(ctx context.Context, customer string, need money.Nano) (Reservation, error) {
	w, err := b.wallet(customer)
	if err != nil {
		return Reservation{}, err
	}
	if r, ok := b.tryReserve(w, need); ok {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, grantTimeout)
	defer cancel()
	w.wait(need)
	defer func() { w.wait(-need) }()
	for {
		if err := b.grant(ctx, w, need); err != nil {
			return Reservation{}, err
		}
		if r, ok := b.tryReserve(w, need); ok {
			return r, nil
		}
		if ctx.Err() != nil {
			return Reservation{}, ErrLedger
		}
	}
}

// tryReserve takes need from the open lease if it has room.
func (b *Book) tryReserve(w *wallet, need money.Nano) (Reservation, bool) {
	now := b.cfg.Now()
	if !b.Live(now) {
		return Reservation{}, false
	}
	w.mu.Lock()
	l := w.open
	if l == nil || l.free() < need {
		w.mu.Unlock()
		return Reservation{}, false
	}
	l.calls++
	l.inFlight += need
	l.inFlightPeak = max(l.inFlightPeak, l.inFlight)
	l.used = now
	grow := b.wantsMore(w, now)
	w.mu.Unlock()
	if grow {
		b.growInBackground(w)
	}
	return Reservation{Amount: need, w: w, l: l}, true
}

// Intend writes the intent of the reservation's call. After it has returned
// the call may be made: a killed process leaves the intent in the page cache.
func (b *Book) Intend(r Reservation, rec *usage.Record) error {
	rec.Kind, rec.LeaseID, rec.Seq = usage.KindIntent, r.l.id, 0
	_, err := b.cfg.Spool.Append(rec)
	return err
}

// Settle ends a reservation with its one result: a usage or unknown record,
// which takes the lease's next seq. The record's price leaves the lease. The
// record is durable when the spool says so of the returned position.
//
// When the record cannot be written the caller must not let the answer end.
// The call then counts as one of unknown outcome, which nobody pays for, and
// Sweep writes that as soon as it can: until then its reservation stays.
func (b *Book) Settle(r Reservation, rec *usage.Record) (stream.Pos, error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	pos, err := b.settle(r, rec)
	if err != nil {
		late := *rec
		if late.Row == usage.RowUsage {
			late.Kind, late.Row, late.Status = usage.KindUnknown, usage.RowLeakage, usage.StatusUnknown
			late.Meters, late.Cost, late.Price = usage.Quantities{}, 0, 0
		}
		r.w.unwritten = append(r.w.unwritten, unwritten{r, late})
	}
	return pos, err
}

// unwritten is the result of a call that the spool did not take.
type unwritten struct {
	r   Reservation
	rec usage.Record
}

// settle writes a result and moves its price from in flight to spent. The
// wallet's lock is held.
func (b *Book) settle(r Reservation, rec *usage.Record) (stream.Pos, error) {
	l := r.l
	pos, err := b.append(l, rec)
	if err != nil {
		return 0, err
	}
	now := b.cfg.Now()
	l.spent += rec.Price
	l.count++
	l.cost += rec.Cost
	l.price += rec.Price
	l.used = now
	r.w.observe(rec.Price, now)
	b.release(r)
	return pos, nil
}

// Void gives a reservation back for which no intent was written.
func (b *Book) Void(r Reservation) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	b.release(r)
}

// release ends a call's hold. The last call of a lease that admits no more
// closes it. The wallet's lock is held.
func (b *Book) release(r Reservation) {
	r.l.calls--
	r.l.inFlight -= r.Amount
	if r.w.open != r.l && r.l.calls == 0 {
		b.closeSlice(r.w, r.l)
	}
}

// append gives rec the lease's next seq. The wallet's lock is held: order in
// the spool is order of seqs.
func (b *Book) append(l *slice, rec *usage.Record) (stream.Pos, error) {
	rec.LeaseID, rec.Seq = l.id, l.seq+1
	pos, err := b.cfg.Spool.Append(rec)
	if err == nil {
		l.seq++
	}
	return pos, err
}

// Available is what the wallet could still pay for, as this gateway knows it:
// what the ledger had available at the last answer plus what the lease has
// free. A wallet without a lease is asked for.
func (b *Book) Available(ctx context.Context, customer string) (money.Nano, error) {
	w, err := b.wallet(customer)
	if err != nil {
		return 0, err
	}
	if known, ok := w.available(); ok {
		return known, nil
	}
	return b.Refresh(ctx, customer)
}

// Refresh asks the ledger for what Available answers.
func (b *Book) Refresh(ctx context.Context, customer string) (money.Nano, error) {
	w, err := b.wallet(customer)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, grantTimeout)
	defer cancel()
	row, err := b.cfg.Ledger.Wallet(ctx, customer)
	if err != nil {
		return 0, unavailable(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = row.Available()
	return w.knownLocked(), nil
}

// Known is Available without asking anyone; for an answer's header.
func (b *Book) Known(r Reservation) money.Nano {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	return r.w.knownLocked()
}

func (b *Book) wallet(customer string) (*wallet, error) {
	now := b.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped.Load() {
		return nil, ErrStopping
	}
	w := b.wallets[customer]
	if w == nil {
		w = &wallet{customer: customer}
		b.wallets[customer] = w
	}
	w.used = now
	return w, nil
}

// unavailable keeps the answers that mean something to a client and folds
// everything else into ErrLedger: a database failure is never "no money".
func unavailable(err error) error {
	if errors.Is(err, ledger.ErrInsufficient) || errors.Is(err, ledger.ErrFrozen) || errors.Is(err, ledger.ErrNotFound) {
		return err
	}
	return errors.Join(ErrLedger, err)
}

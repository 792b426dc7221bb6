package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weir/schemas/money"
)

// The states of a lease. Open and closing ones hold money.
const (
	LeaseOpen      = "open"
	LeaseClosing   = "closing"   // its close record came, some of its seqs have not
	LeaseClosed    = "closed"    // all seqs seen
	LeaseReclaimed = "reclaimed" // taken back after its grace
)

// Lease is a slice of a wallet in a gateway's hands. Granted − Settled −
// Returned is what it still holds. Count, Cost and Price are the totals of the
// events settled under it, covered or not.
type Lease struct {
	ID, Customer, Gateway, Session, State string
	Granted, Settled, Returned            money.Nano
	GrantNo, LastSeq, FinalSeq, Count     int64
	Cost, Price                           money.Nano
}

// Rest is what the wallet still holds for the lease: nothing once it is closed
// or reclaimed.
func (l *Lease) Rest() money.Nano { return l.Granted - l.Settled - l.Returned }

// leaseRow is a lease with what settling keeps beside it.
type leaseRow struct {
	Lease
	closeCount            int64 // totals as its close record gave them
	closeCost, closePrice money.Nano
	closeDiffers          bool // they were not the settled ones
	nGaps                 int64
	createdAt, closingAt  int64

	gaps    []span // seqs below LastSeq that have not arrived, ascending
	regap   bool   // gaps changed
	changed bool
	isNew   bool
}

// differs tells whether the totals of the lease's close record are others than
// what was settled, the repeats of outside events counted in.
func (l *leaseRow) differs(repeats int64, cost, price money.Nano) bool {
	return l.closeCount != l.Count+repeats || l.closeCost != l.Cost+cost || l.closePrice != l.Price+price
}

const leaseColumns = `SELECT id, customer, gateway, session, state, granted, settled, returned, grant_no, last_seq, final_seq,
	events, cost, price, close_events, close_cost, close_price, close_differs, gaps, created_at, closing_at FROM lease `

func scanLease(row scanner) (l leaseRow, err error) {
	err = row.Scan(&l.ID, &l.Customer, &l.Gateway, &l.Session, &l.State, &l.Granted, &l.Settled, &l.Returned, &l.GrantNo, &l.LastSeq,
		&l.FinalSeq, &l.Count, &l.Cost, &l.Price, &l.closeCount, &l.closeCost, &l.closePrice, &l.closeDiffers, &l.nGaps, &l.createdAt, &l.closingAt)
	return l, err
}

func (tx *Tx) leases(ctx context.Context, where string, args ...any) (list []Lease, err error) {
	err = tx.each(ctx, func(r *sql.Rows) error {
		l, err := scanLease(r)
		list = append(list, l.Lease)
		return err
	}, leaseColumns+where, args...)
	return list, err
}

// LeasesByGateway lists a gateway's leases that are open or closing, oldest first.
func (db *DB) LeasesByGateway(ctx context.Context, gateway string) ([]Lease, error) {
	list, err := db.view().leases(ctx, "WHERE gateway = $1 AND state IN ('open', 'closing') ORDER BY created_at, id", gateway)
	if err != nil {
		return nil, fmt.Errorf("cannot list the leases of gateway %s: %w", gateway, err)
	}
	return list, nil
}

// Lease reads one lease; ErrNotFound.
func (db *DB) Lease(ctx context.Context, id string) (Lease, error) {
	l, err := scanLease(db.view().row(ctx, leaseColumns+"WHERE id = $1", id))
	return l.Lease, missing(err, "lease", id)
}

// GrantRequest asks for money for a lease: a new one with GrantNo 1, more for
// an open one with the next number. Need must be granted whole; up to Want is,
// as far as half of a gateway's share of what is available goes.
type GrantRequest struct {
	LeaseID, Customer, Session, Gateway string
	GrantNo                             int64
	Need, Want                          money.Nano
}

// recallEvery is how often a wallet's slices are called back at most, however
// many grants are refused: a beat carries the call every two seconds.
const recallEvery = time.Second

// Grant moves money of a wallet into a lease and returns both as they are
// then. A number that was granted before is answered from the lease's row, so
// a call whose answer was lost can be repeated. Refusals:
// *InsufficientError, ErrFrozen, ErrNotFound (no such wallet or session), ErrSuperseded,
// ErrSessionEnded, ErrSessionExpired, ErrLeaseClosed, ErrConflict (a number
// out of order, or a lease of another wallet or session).
//
// When the balance would cover Need but other leases hold it, they are called
// back; when it would not, the wallet is depleted. Both in a second
// transaction, since the refusal rolls the first one back.
func (db *DB) Grant(ctx context.Context, q GrantRequest) (l Lease, w Wallet, err error) {
	if q.Need < 0 || q.Want < 0 || q.GrantNo < 1 {
		return Lease{}, Wallet{}, fmt.Errorf("BUG: a grant of %s to %s with number %d", q.Need, q.Want, q.GrantNo)
	}
	var row walletRow
	err = db.again(ctx, func(tx *Tx) (err error) {
		l, row, err = tx.grant(ctx, q)
		return err
	})
	if err == nil {
		return l, row.Wallet, nil
	}
	var short *InsufficientError
	if !errors.As(err, &short) {
		return Lease{}, Wallet{}, fmt.Errorf("cannot grant %s: %w", q.LeaseID, err)
	}
	if err := db.refused(ctx, &row, short.Required); err != nil {
		return Lease{}, Wallet{}, err
	}
	return Lease{}, short.Wallet, short
}

// refused follows a grant that the wallet did not have available.
func (db *DB) refused(ctx context.Context, w *walletRow, required money.Nano) error {
	switch {
	case required > w.Spendable():
		if w.depleted {
			return nil
		}
		return db.deplete(ctx, w.Customer)
	case w.AsOf.UnixMicro()-w.recalledAt < recallEvery.Microseconds():
		return nil
	}
	return db.recall(ctx, w.Customer)
}

// grant locks the lease before the wallet, as settling does. Before both it
// shares the session's row: a newer session of the gateway, which ends this one
// and lists its leases, comes before a grant or after it, never in between.
func (tx *Tx) grant(ctx context.Context, q GrantRequest) (Lease, walletRow, error) {
	s, err := tx.liveSession(ctx, q.Session, tx.db.share)
	if err != nil {
		return Lease{}, walletRow{}, err
	}
	now, err := tx.now(ctx)
	if err != nil {
		return Lease{}, walletRow{}, err
	}
	have, err := tx.leases(ctx, "WHERE id = $1"+tx.db.lock, q.LeaseID)
	if err != nil {
		return Lease{}, walletRow{}, err
	}
	w, err := tx.lockWallet(ctx, q.Customer)
	if err != nil {
		return Lease{}, walletRow{}, err
	}
	l := Lease{ID: q.LeaseID, Customer: q.Customer, Gateway: q.Gateway, Session: q.Session, State: LeaseOpen}
	if len(have) > 0 {
		l = have[0]
	}
	switch {
	case s.gateway != q.Gateway || l.Customer != q.Customer || l.Session != q.Session || q.GrantNo > l.GrantNo+1:
		return Lease{}, walletRow{}, fmt.Errorf("grant %d after %d: %w", q.GrantNo, l.GrantNo, ErrConflict)
	case q.GrantNo <= l.GrantNo:
		return l, w, nil
	case l.State != LeaseOpen:
		return Lease{}, walletRow{}, ErrLeaseClosed
	case now > s.expiresAt:
		return Lease{}, walletRow{}, ErrSessionExpired
	case w.Status != Active:
		return Lease{}, walletRow{}, ErrFrozen
	}
	amount, err := tx.slice(ctx, q, w)
	if err != nil {
		return Lease{}, w, err
	}
	return tx.hand(ctx, q, l, w, amount)
}

// slice is how much a request gets: what it needs, and beyond that at most
// half of an even share among the gateways that live.
func (tx *Tx) slice(ctx context.Context, q GrantRequest, w walletRow) (money.Nano, error) {
	if q.Need > w.Available() {
		return 0, &InsufficientError{Wallet: w.Wallet, Required: q.Need}
	}
	var gateways int64
	err := tx.row(ctx, "SELECT COUNT(*) FROM session WHERE ended_at = 0 AND heard_at > $1",
		w.AsOf.UnixMicro()-heardWithin.Microseconds()).Scan(&gateways)
	if err != nil {
		return 0, err
	}
	share := w.Available() / money.Nano(2*max(1, gateways))
	return max(q.Need, min(q.Want, share)), nil
}

// hand moves amount from available to held and into the lease.
func (tx *Tx) hand(ctx context.Context, q GrantRequest, l Lease, w walletRow, amount money.Nano) (Lease, walletRow, error) {
	var hit int64
	var err error
	if q.GrantNo == 1 {
		hit, err = tx.exec(ctx, `INSERT INTO lease (id, customer, gateway, session, state, granted, grant_no, created_at)
			VALUES ($1, $2, $3, $4, 'open', $5, 1, $6) ON CONFLICT (id) DO NOTHING`,
			q.LeaseID, q.Customer, q.Gateway, q.Session, int64(amount), micros(w.AsOf))
	} else {
		hit, err = tx.exec(ctx, `UPDATE lease SET granted = granted + $1, grant_no = $2
			WHERE id = $3 AND grant_no = $2 - 1 AND state = 'open'`, int64(amount), q.GrantNo, q.LeaseID)
	}
	if err == nil && hit == 0 { // the same request, sent twice, was faster
		have, err := tx.leases(ctx, "WHERE id = $1", q.LeaseID)
		if err == nil && (len(have) == 0 || have[0].Customer != q.Customer || have[0].Session != q.Session) {
			err = ErrConflict
		}
		if err != nil {
			return Lease{}, walletRow{}, err
		}
		return have[0], w, nil
	}
	if err == nil {
		hit, err = tx.exec(ctx, `UPDATE wallet SET held = held + $1
			WHERE customer = $2 AND status = 'active' AND disputes = 0 AND credited - debited - held >= $1`, int64(amount), q.Customer)
	}
	if err == nil && hit == 0 {
		err = fmt.Errorf("BUG: wallet %s changed under its lock", q.Customer)
	}
	if err != nil {
		return Lease{}, walletRow{}, err
	}
	l.Granted += amount
	l.GrantNo = q.GrantNo
	w.Held += amount
	return l, w, nil
}

// recall asks the gateways, through their beats, to return what they do not
// use of a wallet.
func (db *DB) recall(ctx context.Context, customer string) error {
	err := db.again(ctx, func(tx *Tx) error {
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		epoch, err := tx.raise(ctx, epochRecall)
		if err != nil {
			return err
		}
		_, err = tx.exec(ctx, "UPDATE wallet SET recall_epoch = $1, recalled_at = $2 WHERE customer = $3", epoch, now, customer)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot recall the slices of %s: %w", customer, err)
	}
	return nil
}

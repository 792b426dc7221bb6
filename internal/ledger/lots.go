package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weir/schemas/money"
)

// Lot is money of a wallet by where it came from. Used went to debits, Expired
// and Refunded were taken away; Rest is what is left of it. Parent is the
// lot of the purchase that a bonus, or money that came back, belongs to.
type Lot struct {
	ID, Kind, Parent              string
	Amount                        money.Nano
	Used, Expired, Refunded, Rest money.Nano
	Priority                      int
	ExpiresAt, CreatedAt          time.Time
}

// lot is a Lot with what the books alone need.
type lot struct {
	Lot
	returned bool       // no new money: it was the wallet's before
	take     money.Nano // how much of its rest spread takes
}

// spentLotsMax bounds the lots without rest that Lots lists.
const spentLotsMax = 200

const (
	lotColumns = `SELECT id, kind, parent, amount, used, expired, refunded, amount - used - expired - refunded, priority, expires_at, created_at FROM lot `
	// lotOrder is the order in which debits use lots up.
	lotOrder = " ORDER BY priority, CASE WHEN expires_at = 0 THEN 1 ELSE 0 END, expires_at, created_at, id"
	lotsLeft = " AND used + expired + refunded < amount"
)

func (tx *Tx) lots(ctx context.Context, where string, args ...any) (list []lot, err error) {
	err = tx.each(ctx, func(r *sql.Rows) error {
		var l lot
		var expires, created int64
		err := r.Scan(&l.ID, &l.Kind, &l.Parent, &l.Amount, &l.Used, &l.Expired, &l.Refunded, &l.Rest, &l.Priority, &expires, &created)
		l.ExpiresAt, l.CreatedAt = moment(expires), moment(created)
		list = append(list, l)
		return err
	}, lotColumns+where, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot read lots: %w", err)
	}
	return list, nil
}

// Lots lists what a customer's money consists of, as of now: first what is left, in the
// order in which it will be used, then the newest lots of which nothing is. ErrNotFound.
func (db *DB) Lots(ctx context.Context, customer string) (list []Lot, err error) {
	err = db.snapshot(ctx, func(tx *Tx) error {
		list = nil
		w, err := scanWallet(tx.row(ctx, walletColumns+"WHERE customer = $1", customer))
		if err = missing(err, "wallet", customer); err != nil {
			return err
		}
		left, err := tx.lots(ctx, "WHERE customer = $1"+lotsLeft+lotOrder, customer)
		if err != nil {
			return err
		}
		gone, err := tx.lots(ctx, "WHERE customer = $1 AND used + expired + refunded = amount ORDER BY created_at DESC, id LIMIT $2",
			customer, spentLotsMax)
		if err != nil {
			return err
		}
		spread(w.Debited-w.attributed, left)
		for _, l := range append(left, gone...) {
			l.Used += l.take
			l.Rest -= l.take
			list = append(list, l.Lot)
		}
		return nil
	})
	return list, err
}

// addLot adds a lot to a locked wallet and books it against contra. What the
// wallet owes is paid first, then what it has borrowed.
func (tx *Tx) addLot(ctx context.Context, w *walletRow, l lot, head txnHead, contra string) error {
	if err := tx.attribute(ctx, w); err != nil {
		return err
	}
	if l.Priority == 0 && l.Kind == Paid {
		l.Priority = 1
	}
	_, err := tx.exec(ctx, `INSERT INTO lot (id, customer, currency, kind, priority, amount, expires_at, parent, returned, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, l.ID, w.Customer, w.Currency, l.Kind, l.Priority, int64(l.Amount),
		micros(l.ExpiresAt), l.Parent, l.returned, micros(w.AsOf))
	if err != nil {
		return fmt.Errorf("cannot add a lot to %s: %w", w.Customer, err)
	}
	if _, err := tx.book(ctx, w, change{credit: l.Amount}, head, head.against(contra, -l.Amount)); err != nil {
		return err
	}
	return tx.Emit(ctx, Event{Type: EventCredited, Customer: w.Customer, Data: walletNews(w.Wallet, func(n *WalletNews) {
		n.Amount, n.Kind, n.Reference = &l.Amount, l.Kind, head.reference
	})})
}

// attribute assigns the debits since the last lot event to the lots that
// exist now: promo before paid, what expires earlier first. Every lot event
// begins with it, so that a new lot never pays for what was used before it,
// but for what was borrowed: those debits no lot covers, and they stay to be
// attributed until one comes.
func (tx *Tx) attribute(ctx context.Context, w *walletRow) error {
	due := w.Debited - w.attributed
	if due == 0 {
		return nil
	}
	list, err := tx.lots(ctx, "WHERE customer = $1"+lotsLeft+lotOrder+tx.db.lock, w.Customer)
	if err != nil {
		return err
	}
	if overdrawn := spread(due, list); overdrawn > w.Overdraft {
		return fmt.Errorf("BUG: lots of %s do not cover %s of its debits", w.Customer, overdrawn)
	}
	return tx.takeLots(ctx, w, list, "used")
}

// takeLots writes what spread took from lots, into one of their columns, and
// counts it as attributed.
func (tx *Tx) takeLots(ctx context.Context, w *walletRow, list []lot, column string) error {
	var taken money.Nano
	for _, l := range list {
		if l.take == 0 {
			continue
		}
		if _, err := tx.exec(ctx, "UPDATE lot SET "+column+" = "+column+" + $1 WHERE id = $2", int64(l.take), l.ID); err != nil {
			return fmt.Errorf("cannot take from lot %s: %w", l.ID, err)
		}
		taken += l.take
	}
	if taken == 0 {
		return nil
	}
	if _, err := tx.exec(ctx, "UPDATE wallet SET attributed = attributed + $1 WHERE customer = $2", int64(taken), w.Customer); err != nil {
		return fmt.Errorf("cannot attribute debits of %s: %w", w.Customer, err)
	}
	w.attributed += taken
	return nil
}

// spread takes due from the lots in their order and returns what they lack.
func spread(due money.Nano, lots []lot) (left money.Nano) {
	for i := range lots {
		lots[i].take = min(due, lots[i].Rest)
		due -= lots[i].take
	}
	return due
}

// ExpireLots takes away what is left of lots whose time has come, as far as it
// is available: what leases hold of them is taken by a later call, once it
// came back. It returns how many lots it took from.
func (db *DB) ExpireLots(ctx context.Context) (n int, err error) {
	var customers []string
	tx := db.view()
	now, err := tx.now(ctx)
	if err != nil {
		return 0, err
	}
	err = tx.each(ctx, func(r *sql.Rows) error {
		var id string
		err := r.Scan(&id)
		customers = append(customers, id)
		return err
	}, "SELECT DISTINCT customer FROM lot WHERE expires_at > 0 AND expires_at <= $1"+lotsLeft+" ORDER BY customer", now)
	if err != nil {
		return 0, fmt.Errorf("cannot list expired lots: %w", err)
	}
	for _, id := range customers {
		taken := 0
		err := db.Tx(ctx, func(tx *Tx) (err error) {
			taken, err = tx.expire(ctx, id)
			return err
		})
		if n += taken; err != nil {
			return n, fmt.Errorf("cannot expire lots of %s: %w", id, err)
		}
	}
	return n, nil
}

func (tx *Tx) expire(ctx context.Context, customer string) (n int, err error) {
	w, err := tx.lockWallet(ctx, customer)
	if err != nil {
		return 0, err
	}
	if err := tx.attribute(ctx, &w); err != nil {
		return 0, err
	}
	due, err := tx.lots(ctx, "WHERE customer = $1 AND expires_at > 0 AND expires_at <= $2"+lotsLeft+lotOrder+tx.db.lock,
		customer, micros(w.AsOf))
	if err != nil {
		return 0, err
	}
	for _, l := range due {
		if l.take = min(l.Rest, w.Available()); l.take == 0 {
			continue
		}
		n++
		head := txnHead{id: fmt.Sprintf("lot/%s/expiry/%d", l.ID, l.Expired), kind: KindDebit, reference: "expired", reason: l.ID}
		contra := accountPromo
		if l.Kind == Paid {
			contra = accountExpired
		}
		if _, err := tx.book(ctx, &w, change{overrun: l.take}, head, head.against(contra, l.take)); err != nil {
			return 0, err
		}
		if err := tx.takeLots(ctx, &w, []lot{l}, "expired"); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// takeBack takes money of a purchase back from its wallet: paid from what was
// purchased, bonus from its bonus. What is available of it goes, first from the
// purchase's own lots; what is not there any more becomes receivable.
func (tx *Tx) takeBack(ctx context.Context, w *walletRow, t *Topup, paid, bonus money.Nano, head txnHead, others ...posting) error {
	if err := tx.attribute(ctx, w); err != nil {
		return err
	}
	m, err := tx.book(ctx, w, change{overrun: paid + bonus}, head, others...)
	if err != nil {
		return err
	}
	covered := paid + bonus - m.uncovered
	for _, part := range []struct {
		kind string
		most money.Nano
	}{{Paid, paid}, {Promo, bonus}} {
		own, err := tx.lots(ctx, "WHERE customer = $1 AND (id = $2 OR parent = $2) AND kind = $3"+lotsLeft+lotOrder+tx.db.lock,
			w.Customer, t.ID, part.kind)
		if err != nil {
			return err
		}
		most := min(part.most, covered)
		covered -= most - spread(most, own)
		if err := tx.takeLots(ctx, w, own, "refunded"); err != nil {
			return err
		}
	}
	return nil
}

// giveBack returns to a wallet what takeBack took: as lots of their own, that
// belong to the purchase.
func (tx *Tx) giveBack(ctx context.Context, w *walletRow, t *Topup, l lot, head txnHead, contra string) error {
	if l.Amount == 0 {
		return nil
	}
	l.Parent, l.returned = t.ID, true
	return tx.addLot(ctx, w, l, head, contra)
}

// ErrSpent refuses a refund of what is not there unspent.
var ErrSpent = errors.New("more than is left unspent of this top-up")

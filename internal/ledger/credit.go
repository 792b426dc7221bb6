package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weir/schemas/money"
)

// The kinds of credits, which are the kinds of lots.
const (
	Paid  = "paid"
	Promo = "promo" // used up before paid money
)

// Credit adds money to a wallet. Kind "" is paid.
type Credit struct {
	Customer          string
	Amount            money.Nano
	Kind              string
	Reason, Reference string
}

// Debit takes available money from a wallet.
type Debit struct {
	Customer string
	Amount   money.Nano
	Reason   string
}

var errAmount = errors.New("the amount must be above zero")

// Credit books a credit as a lot of its own and pays what the wallet owes
// first. The entry id names the credit in the customer's entries. ErrNotFound.
func (tx *Tx) Credit(ctx context.Context, c Credit) (entryID string, after Wallet, err error) {
	contra, priority := accountPaid, 1
	switch c.Kind {
	case "", Paid:
		c.Kind = Paid
	case Promo:
		contra, priority = accountPromo, 0
	default:
		return "", Wallet{}, fmt.Errorf("%q is no kind of credit", c.Kind)
	}
	if c.Amount <= 0 {
		return "", Wallet{}, errAmount
	}
	w, err := tx.lockWallet(ctx, c.Customer)
	if err != nil {
		return "", Wallet{}, err
	}
	if err := tx.attribute(ctx, w); err != nil {
		return "", Wallet{}, err
	}
	id := newID()
	_, err = tx.exec(ctx, `INSERT INTO lot (id, customer, currency, kind, priority, amount, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, id, c.Customer, w.Currency, c.Kind, priority, int64(c.Amount), micros(w.AsOf))
	if err != nil {
		return "", Wallet{}, fmt.Errorf("cannot add a lot to %s: %w", c.Customer, err)
	}
	head := txnHead{id: "credit/" + id, kind: KindCredit, reference: c.Reference, reason: c.Reason}
	after, err = tx.book(ctx, w.Wallet, change{credit: c.Amount}, head, contra)
	return entryID0(head), after, err
}

// Debit books a debit. More than is available is refused with
// *InsufficientError. ErrNotFound.
func (tx *Tx) Debit(ctx context.Context, d Debit) (entryID string, after Wallet, err error) {
	if d.Amount <= 0 {
		return "", Wallet{}, errAmount
	}
	w, err := tx.lockWallet(ctx, d.Customer)
	if err != nil {
		return "", Wallet{}, err
	}
	if d.Amount > w.Available() {
		return "", Wallet{}, &InsufficientError{Wallet: w.Wallet, Required: d.Amount}
	}
	head := txnHead{id: "debit/" + newID(), kind: KindDebit, reason: d.Reason}
	after, err = tx.book(ctx, w.Wallet, change{overrun: d.Amount}, head, accountAdjust)
	return entryID0(head), after, err
}

// book applies one change to a locked wallet and posts it against contra.
func (tx *Tx) book(ctx context.Context, w Wallet, c change, head txnHead, contra string) (Wallet, error) {
	m, err := w.pay(c)
	if err != nil {
		return Wallet{}, err
	}
	lines := m.lines(w.Customer, head.kind, 0)
	if other := c.covered + c.overrun - c.credit; other != 0 {
		lines = append(lines, posting{account: contra, kind: head.kind, amount: other})
	}
	if len(lines) > 0 {
		if err := tx.post(ctx, head, lines); err != nil {
			return Wallet{}, err
		}
	}
	if err := tx.writeWallets(ctx, []walletEffect{{w, m}}); err != nil {
		return Wallet{}, err
	}
	w.apply(m)
	return w, nil
}

// lotUse is how much of a lot's rest a debit takes.
type lotUse struct {
	id         string
	rest, used money.Nano
}

// attribute assigns the debits since the last lot event to the lots that
// exist now: promo before paid, what expires earlier first. Every lot event
// begins with it, so that a new lot never pays for what was used before it.
func (tx *Tx) attribute(ctx context.Context, w walletRow) error {
	due := w.Debited - w.attributed
	if due == 0 {
		return nil
	}
	var lots []lotUse
	err := tx.each(ctx, func(r *sql.Rows) error {
		var l lotUse
		err := r.Scan(&l.id, &l.rest)
		lots = append(lots, l)
		return err
	}, `SELECT id, amount - used - expired - refunded FROM lot
		WHERE customer = $1 AND used + expired + refunded < amount
		ORDER BY priority, CASE WHEN expires_at = 0 THEN 1 ELSE 0 END, expires_at, created_at, id`+tx.db.lock, w.Customer)
	if err != nil {
		return fmt.Errorf("cannot read the lots of %s: %w", w.Customer, err)
	}
	if left := spread(due, lots); left != 0 {
		return fmt.Errorf("BUG: lots of %s do not cover %s of its debits", w.Customer, left)
	}
	for _, l := range lots {
		if l.used == 0 {
			continue
		}
		if _, err := tx.exec(ctx, "UPDATE lot SET used = used + $1 WHERE id = $2", int64(l.used), l.id); err != nil {
			return fmt.Errorf("cannot use lot %s: %w", l.id, err)
		}
	}
	if _, err := tx.exec(ctx, "UPDATE wallet SET attributed = attributed + $1 WHERE customer = $2", int64(due), w.Customer); err != nil {
		return fmt.Errorf("cannot attribute debits of %s: %w", w.Customer, err)
	}
	return nil
}

// spread takes due from the lots in their order and returns what they lack.
func spread(due money.Nano, lots []lotUse) (left money.Nano) {
	for i := range lots {
		lots[i].used = min(due, lots[i].rest)
		due -= lots[i].used
	}
	return due
}

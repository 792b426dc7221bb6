package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/schemas/money"
)

// The kinds of credits, which are the kinds of lots.
const (
	Paid  = "paid"
	Promo = "promo" // used up before paid money
)

// priorityMax is the last priority a credit can ask for; what is lent comes
// after all credits.
const priorityMax = 100

// Credit adds money to a wallet. Kind "" is paid. Of several credits the one
// of the lower Priority is used up first, 0 being the kind's own (promo 0,
// paid 1), and of one priority the one that expires first. ExpiresAt zero is never.
type Credit struct {
	Customer          string
	Amount            money.Nano
	Kind              string
	Priority          int
	ExpiresAt         time.Time
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
	contra := accountPaid
	switch c.Kind {
	case "":
		c.Kind = Paid
	case Paid:
	case Promo:
		contra = accountPromo
	default:
		return "", Wallet{}, fmt.Errorf("%q is no kind of credit", c.Kind)
	}
	switch {
	case c.Amount <= 0:
		return "", Wallet{}, errAmount
	case c.Priority < 0 || c.Priority > priorityMax:
		return "", Wallet{}, fmt.Errorf("priority %d is not within 0 and %d", c.Priority, priorityMax)
	}
	w, err := tx.lockWallet(ctx, c.Customer)
	if err != nil {
		return "", Wallet{}, err
	}
	if !c.ExpiresAt.IsZero() && !c.ExpiresAt.After(w.AsOf) {
		return "", Wallet{}, fmt.Errorf("a credit that expired at %s", c.ExpiresAt.UTC().Format(time.RFC3339))
	}
	l := lot{Lot: Lot{ID: newID(), Kind: c.Kind, Amount: c.Amount, Priority: c.Priority, ExpiresAt: c.ExpiresAt}}
	head := txnHead{id: "credit/" + l.ID, kind: KindCredit, reference: c.Reference, reason: c.Reason}
	err = tx.addLot(ctx, &w, l, head, contra)
	return entryID0(head), w.Wallet, err
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
	_, err = tx.book(ctx, &w, change{overrun: d.Amount}, head, head.against(accountAdjust, d.Amount))
	return entryID0(head), w.Wallet, err
}

// against is the line of a transaction that is not the customer's.
func (t txnHead) against(account string, amount money.Nano) posting {
	return posting{account: account, kind: t.kind, amount: amount}
}

// book applies one change to a locked wallet, posts it together with the
// lines of the other side, and writes what it sets off.
func (tx *Tx) book(ctx context.Context, w *walletRow, c change, head txnHead, others ...posting) (effect, error) {
	m, err := w.pay(c)
	if err != nil {
		return effect{}, err
	}
	if lines := append(m.lines(w.Customer, head.kind, 0), others...); len(lines) > 0 {
		if err := tx.post(ctx, head, lines); err != nil {
			return effect{}, err
		}
	}
	if err := tx.writeWallets(ctx, []walletEffect{{w.Wallet, m}}); err != nil {
		return effect{}, err
	}
	if x, something := w.crossed(m); something {
		if err := tx.cross(ctx, []crossing{x}); err != nil {
			return effect{}, err
		}
		w.depleted = (w.depleted || x.depleted) && !x.recovered
	}
	w.apply(m)
	return m, nil
}

// SetOverdraft lends a wallet up to limit: its balance may go down to −limit.
// What is lent is used after all lots, and the next credits pay for it first.
// Less than what is in use is refused with *InsufficientError. ErrNotFound.
func (tx *Tx) SetOverdraft(ctx context.Context, customer string, limit money.Nano) (Wallet, error) {
	if limit < 0 {
		return Wallet{}, errAmount
	}
	w, err := tx.lockWallet(ctx, customer)
	if err != nil {
		return Wallet{}, err
	}
	more := limit - w.Overdraft
	switch {
	case more == 0:
		return w.Wallet, nil
	case -more > w.Available():
		return Wallet{}, &InsufficientError{Wallet: w.Wallet, Required: -more}
	}
	head := txnHead{id: "overdraft/" + newID(), kind: KindOverdraft}
	if _, err := tx.book(ctx, &w, change{overdraft: more}, head, head.against(accountOverdraft, -more)); err != nil {
		return Wallet{}, err
	}
	if _, err := tx.exec(ctx, "UPDATE wallet SET overdraft = $1 WHERE customer = $2", int64(limit), customer); err != nil {
		return Wallet{}, fmt.Errorf("cannot set the overdraft of %s: %w", customer, err)
	}
	return w.Wallet, nil
}

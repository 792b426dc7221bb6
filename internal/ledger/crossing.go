package ledger

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"weir/schemas/money"
)

// lowBalanceMax bounds the thresholds of one wallet: each is a comparison in
// every settlement of it.
const lowBalanceMax = 5

// crossing is what a change of a wallet sets off: thresholds its balance fell
// below, and the states it entered or left.
type crossing struct {
	wallet              Wallet // as it is afterwards
	low                 []money.Nano
	due                 bool // its balance is below the one at which it tops itself up
	depleted, recovered bool
}

// crossed compares a wallet before and after a change. Thresholds are of the
// balance, not of what is available, which falls with every lease. A due top-up
// is told whenever the balance is below, not only when it falls below: what
// was missed once is caught by the next change.
func (w walletRow) crossed(m effect) (c crossing, something bool) {
	after := w.Wallet
	after.apply(m)
	c = crossing{wallet: after, due: after.Balance() < w.topupBelow}
	if w.lowBalance != "" {
		for _, t := range parseLow(w.lowBalance) {
			if w.Balance() >= t && after.Balance() < t {
				c.low = append(c.low, t)
			}
		}
	}
	c.depleted = !w.depleted && w.Spendable() > 0 && after.Spendable() <= 0
	c.recovered = w.depleted && m.credited+m.overdraft > 0 && after.Available() > 0
	return c, c.due || c.low != nil || c.depleted || c.recovered
}

// parseLow reads the thresholds as the wallet's row keeps them.
func parseLow(text string) (list []money.Nano) {
	for word := range strings.SplitSeq(text, ",") {
		if n, err := strconv.ParseInt(word, 10, 64); err == nil {
			list = append(list, money.Nano(n))
		}
	}
	return list
}

var insertDue = insertInto("topup_due", " ON CONFLICT (customer) DO NOTHING", "customer", "since")

// cross writes what changes of wallets set off.
func (tx *Tx) cross(ctx context.Context, list []crossing) error {
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	var due []any
	var events []Event
	for _, c := range list {
		if c.due {
			due = append(due, c.wallet.Customer, now)
		}
		for _, t := range c.low {
			events = append(events, Event{Type: EventLowBalance, Customer: c.wallet.Customer, Data: walletNews(c.wallet, func(n *WalletNews) { n.Threshold = &t })})
		}
		if c.depleted || c.recovered {
			if err := tx.setDepleted(ctx, c.wallet.Customer, c.depleted); err != nil {
				return err
			}
			kind := EventRecovered
			if c.depleted {
				kind = EventDepleted
			}
			events = append(events, Event{Type: kind, Customer: c.wallet.Customer, Data: walletNews(c.wallet, nil)})
		}
	}
	if _, err := tx.bulk(ctx, insertDue, due); err != nil {
		return fmt.Errorf("cannot note due top-ups: %w", err)
	}
	return tx.Emit(ctx, events...)
}

func (tx *Tx) setDepleted(ctx context.Context, customer string, depleted bool) error {
	if _, err := tx.exec(ctx, "UPDATE wallet SET depleted = $1 WHERE customer = $2", depleted, customer); err != nil {
		return fmt.Errorf("cannot mark %s as depleted: %w", customer, err)
	}
	return nil
}

// deplete notes that a request was refused for lack of balance. It is told
// once, until money comes.
func (db *DB) deplete(ctx context.Context, customer string) error {
	return db.Tx(ctx, func(tx *Tx) error {
		w, err := tx.lockWallet(ctx, customer)
		if err != nil || w.depleted {
			return err
		}
		return tx.cross(ctx, []crossing{{wallet: w.Wallet, depleted: true}})
	})
}

// SetLowBalance replaces the balances below which a wallet.low_balance event
// is due, at most five, each above zero; none turns it off. ErrNotFound.
func (tx *Tx) SetLowBalance(ctx context.Context, customer string, thresholds []money.Nano) error {
	if len(thresholds) > lowBalanceMax {
		return fmt.Errorf("%d thresholds, at most %d can be set", len(thresholds), lowBalanceMax)
	}
	words := make([]string, len(thresholds))
	for i, t := range thresholds {
		if t <= 0 {
			return errAmount
		}
		words[i] = strconv.FormatInt(int64(t), 10)
	}
	hit, err := tx.exec(ctx, "UPDATE wallet SET low_balance = $1 WHERE customer = $2", strings.Join(words, ","), customer)
	if err != nil {
		return fmt.Errorf("cannot set the thresholds of %s: %w", customer, err)
	}
	if hit == 0 {
		return fmt.Errorf("wallet %q: %w", customer, ErrNotFound)
	}
	return nil
}

// LowBalance is the list that SetLowBalance stored; ErrNotFound.
func (db *DB) LowBalance(ctx context.Context, customer string) ([]money.Nano, error) {
	w, err := scanWallet(db.view().row(ctx, walletColumns+"WHERE customer = $1", customer))
	if err = missing(err, "wallet", customer); err != nil || w.lowBalance == "" {
		return nil, err
	}
	return parseLow(w.lowBalance), nil
}

package ledger

import (
	"context"
	"errors"
	"fmt"

	"weir/schemas/money"
)

// The accounts of the books. A posting above zero adds to what an account owes
// or has earned, one below zero to what it owns or has spent.
const (
	accountWallet     = "wallet:"           // + customer: what the platform owes him
	accountReceivable = "receivable:"       // + customer: what he owes the platform
	accountRevenue    = "revenue:usage"     // one line per batch; its events are the batch's
	accountCOGS       = "cogs:"             // + provider: what usage cost
	accountPayable    = "provider_payable:" // + provider: what the provider will ask for
	accountPaid       = "funding:paid"      // money that customers brought
	accountPromo      = "promo"             // money that was given to them
	accountAdjust     = "adjust:debit"      // money that was taken back by hand
	accountClearing   = "stripe_clearing"   // money at the payment provider
	accountFees       = "fees:stripe"       // what the payment provider keeps
	accountDisputed   = "disputed:"         // + customer: money that a dispute holds back
	accountOverdraft  = "overdraft"         // money that is lent
	accountExpired    = "revenue:expired"   // paid money that was not used in time
	accountPlans      = "revenue:plans"     // what periods of plans were sold for
)

// The kinds of transactions, postings and entries.
const (
	KindCredit     = "credit"
	KindDebit      = "debit"
	KindUsage      = "usage"
	KindReceivable = "receivable"
	KindRefund     = "refund"
	KindDispute    = "dispute"
	KindOverdraft  = "overdraft"
	KindFee        = "fee"  // no entry of a customer's
	KindPlan       = "plan" // a period of a plan was paid; no entry of a customer's
)

// posting is one line of a transaction. customer is set on the lines that are
// his to see; events counts what stands behind a usage line.
type posting struct {
	account, customer, kind string
	amount                  money.Nano
	events                  int64
}

// txnHead is what a set of postings has in common.
type txnHead struct{ id, kind, reference, reason string }

var (
	insertTxn      = insertInto("txn", "", "id", "kind", "currency", "reference", "reason", "created_at")
	insertPostings = insertInto("posting", "", "txn", "line", "account", "customer", "kind", "currency", "amount", "events", "created_at")
)

// post writes a transaction and its lines. It is the only writer of the books,
// and refuses lines that do not sum to zero: every transaction balances.
func (tx *Tx) post(ctx context.Context, t txnHead, lines []posting) error {
	var sum money.Nano
	for _, p := range lines {
		var ok bool
		if sum, ok = sum.Add(p.amount); !ok {
			return fmt.Errorf("BUG: postings of %s overflow", t.id)
		}
	}
	if sum != 0 {
		return fmt.Errorf("BUG: postings of %s sum to %s", t.id, sum)
	}
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	args := make([]any, 0, len(lines)*len(insertPostings.types))
	for i, p := range lines {
		args = append(args, t.id, int64(i), p.account, p.customer, p.kind, tx.db.currency, int64(p.amount), p.events, now)
	}
	_, err = tx.bulk(ctx, insertTxn, []any{t.id, t.kind, tx.db.currency, t.reference, t.reason, now})
	if err == nil {
		_, err = tx.bulk(ctx, insertPostings, args)
	}
	if err != nil {
		return fmt.Errorf("cannot post %s: %w", t.id, err)
	}
	return nil
}

// change is what happens to one wallet at once: amounts added to it.
type change struct {
	credit    money.Nano // new money
	overdraft money.Nano // more is lent, or less
	covered   money.Nano // debit that was held for
	freed     money.Nano // leaves held: the covered part and what is given back
	overrun   money.Nano // debit that nothing was held for
}

// effect is what a change does to a wallet's columns, and how much of what
// was owed before it collects.
type effect struct {
	credited, overdraft       money.Nano // the column credited takes both
	debited, held, receivable money.Nano
	uncovered                 money.Nano // part of overrun that becomes receivable
	collected                 money.Nano // part of the old receivable that is paid
}

// errOverflow refuses what no longer fits 9.2 billion dollars.
var errOverflow = errors.New("the wallet would leave the range of amounts")

// pay decides a change: what the wallet then has available pays the overrun
// first, then what was owed before. So afterwards something is owed only if
// nothing is available, whichever way the money came.
func (w Wallet) pay(c change) (effect, error) {
	var bad bool
	add := func(a, b money.Nano) money.Nano {
		s, ok := a.Add(b)
		bad = bad || !ok
		return s
	}
	available := add(add(w.Available(), add(c.credit, c.overdraft)), c.freed-c.covered)
	owed := add(w.Receivable, c.overrun)
	paid := min(available, owed)
	m := effect{credited: c.credit, overdraft: c.overdraft, debited: add(c.covered, paid), held: -c.freed, receivable: c.overrun - paid}
	covered := min(paid, c.overrun)
	m.uncovered, m.collected = c.overrun-covered, paid-covered
	add(add(w.Credited, w.Overdraft), m.credited+m.overdraft)
	add(w.Debited, m.debited)
	switch {
	case bad:
		return effect{}, fmt.Errorf("%s: %w", w.Customer, errOverflow)
	case available < 0:
		return effect{}, fmt.Errorf("BUG: wallet %s would have %s available", w.Customer, available)
	}
	return m, nil
}

func (w *Wallet) apply(m effect) {
	w.Credited += m.credited
	w.Overdraft += m.overdraft
	w.Debited += m.debited
	w.Held += m.held
	w.Receivable += m.receivable
}

// lines are the postings of an effect on the customer's own accounts: what he
// used (minus what nobody paid), and what of his debt was collected. The other
// side is the caller's: it owes covered + overrun − credit − overdraft.
func (m effect) lines(customer, kind string, events int64) []posting {
	var out []posting
	wallet, receivable := accountWallet+customer, accountReceivable+customer
	if used := m.credited + m.overdraft - (m.debited - m.collected); used != 0 || events > 0 {
		out = append(out, posting{wallet, customer, kind, used, events})
	}
	if m.uncovered != 0 {
		out = append(out, posting{receivable, customer, KindReceivable, -m.uncovered, 0})
	}
	if m.collected != 0 {
		out = append(out, posting{wallet, customer, KindReceivable, -m.collected, 0},
			posting{receivable, customer, KindReceivable, m.collected, 0})
	}
	return out
}

var updateWallets = &bulk{
	head: "WITH v(id, credited, debited, held, receivable) AS (VALUES ",
	tail: `) UPDATE wallet SET credited = wallet.credited + v.credited, debited = wallet.debited + v.debited,
		held = wallet.held + v.held, receivable = wallet.receivable + v.receivable FROM v WHERE wallet.customer = v.id`,
	types: []string{"TEXT", "BIGINT", "BIGINT", "BIGINT", "BIGINT"},
}

// walletEffect is a wallet with what was decided for it.
type walletEffect struct {
	wallet Wallet
	effect effect
}

// writeWallets adds each effect to its wallet. The table's CHECKs are the last
// word on it.
func (tx *Tx) writeWallets(ctx context.Context, changes []walletEffect) error {
	args := make([]any, 0, len(changes)*len(updateWallets.types))
	for _, c := range changes {
		args = append(args, c.wallet.Customer, int64(c.effect.credited+c.effect.overdraft), int64(c.effect.debited), int64(c.effect.held), int64(c.effect.receivable))
	}
	hit, err := tx.bulk(ctx, updateWallets, args)
	if err != nil {
		return fmt.Errorf("cannot update wallets: %w", err)
	}
	if hit != int64(len(changes)) {
		return fmt.Errorf("BUG: %d of %d wallets were updated", hit, len(changes))
	}
	return nil
}

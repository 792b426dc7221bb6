package gateway

import (
	"context"
	"sync"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	// budgetSlices is how many slices a rule's daily budget is cut into for the
	// gateways: few enough ledger calls, and at most this share of the budget lies
	// unused in a gateway.
	budgetSlices = 50
	// budgetPause is how long the ledger is not asked again after it gave too
	// little or did not answer, so that a spent budget costs no call per request.
	budgetPause = time.Second
)

// budgets holds this gateway's slices of rules' daily budgets, each the most
// that may be lost (cost above price) under the rule on one UTC day.
type budgets struct {
	db *ledger.DB

	mu    sync.Mutex // guards the following; held while the ledger is asked, so that a slice is taken once
	day   string
	slice map[string]*budgetSlice // by rule name
}

// budgetSlice is what one rule may still lose here today.
type budgetSlice struct {
	left     money.Nano
	askAfter time.Time
}

// allowance is what one call may lose under its rule.
type allowance struct {
	rule   string
	day    string
	amount money.Nano
}

func newBudgets(db *ledger.DB) *budgets { return &budgets{db: db, slice: map[string]*budgetSlice{}} }

// take sets aside what the call may lose. A rule without a budget needs
// nothing; where it does not fit, or cannot be asked for, ok is false and the
// caller takes the next less specific rule.
func (b *budgets) take(rule *ratecard.Rule, bound ratecard.Rated, now time.Time) (a allowance, ok bool) {
	need := bound.Cost
	if !rule.Absolute() { // cost and price bounds are of the same split: their difference bounds the loss
		need = max(bound.Cost-bound.Price, 0)
	}
	if rule.BudgetPerDay == 0 || need == 0 {
		return allowance{}, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if day := now.UTC().Format(time.DateOnly); day != b.day {
		b.day = day
		clear(b.slice)
	}
	s := b.slice[rule.Name()]
	if s == nil {
		s = &budgetSlice{}
		b.slice[rule.Name()] = s
	}
	if s.left < need && !now.Before(s.askAfter) {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		got, err := b.db.TakeBudget(ctx, rule.Name(), b.day, rule.BudgetPerDay, max(need-s.left, rule.BudgetPerDay/budgetSlices))
		if s.left += got; err != nil || s.left < need {
			s.askAfter = time.Now().Add(budgetPause)
		}
	}
	if s.left < need {
		return allowance{}, false
	}
	s.left -= need
	return allowance{rule.Name(), b.day, need}, true
}

// give returns what the call did not lose of its allowance.
func (b *budgets) give(a allowance, rec *usage.Record) {
	a.amount -= min(a.amount, max(rec.Cost-rec.Price, 0))
	b.giveAll(a)
}

// giveAll returns an allowance to the slice of its day. One of an earlier day
// is gone: on another day it would let the rule lose more than its budget.
func (b *budgets) giveAll(a allowance) {
	if a.amount == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.slice[a.rule]; s != nil && a.day == b.day {
		s.left += a.amount
	}
}

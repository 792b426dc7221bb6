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

// budgetSlices is how many slices a rule's daily budget is cut into for the
// gateways: few enough ledger calls, and at most this share of the budget lies
// unused in a gateway.
const budgetSlices = 50

// budgets holds this gateway's slices of rules' daily budgets, each the most
// that may be lost (cost above price) under the rule on one UTC day.
type budgets struct {
	db *ledger.DB

	mu   sync.Mutex // guards the rest; held while the ledger is asked, so that a slice is taken once
	day  string
	left map[string]money.Nano // by rule name
}

func newBudgets(db *ledger.DB) *budgets { return &budgets{db: db, left: map[string]money.Nano{}} }

// take sets aside what the call may lose. Without a budget nothing is needed;
// when it does not fit, or cannot be asked for, ok is false and the caller
// takes the next less specific rule.
func (b *budgets) take(ctx context.Context, rule *ratecard.Rule, bound ratecard.Rated) (taken money.Nano, ok bool) {
	if rule.BudgetPerDay == 0 {
		return 0, true
	}
	need := bound.Cost
	if !rule.Absolute() { // cost and price bounds are of the same split: their difference bounds the loss
		need = max(bound.Cost-bound.Price, 0)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if day := time.Now().UTC().Format(time.DateOnly); day != b.day {
		b.day = day
		clear(b.left)
	}
	left := b.left[rule.Name()]
	if left < need {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		got, err := b.db.TakeBudget(ctx, rule.Name(), b.day, rule.BudgetPerDay, max(need-left, rule.BudgetPerDay/budgetSlices))
		if err != nil {
			return 0, false
		}
		left += got
	}
	ok = left >= need
	if ok {
		left -= need
		taken = need
	}
	b.left[rule.Name()] = left
	return taken, ok
}

// give returns what the call did not lose of what was taken for it.
func (b *budgets) give(taken money.Nano, rec *usage.Record, rule *ratecard.Rule) {
	b.giveAll(taken-min(taken, max(rec.Cost-rec.Price, 0)), rule)
}

// giveAll returns an amount to the slice. Past midnight it lands in the next
// day's slice, which it can only make larger by what an earlier day was denied.
func (b *budgets) giveAll(amount money.Nano, rule *ratecard.Rule) {
	if amount == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left[rule.Name()] += amount
}

const (
	// leakageMax is how much leakage by upstream causes one customer may cause
	// in leakageWindow, at the estimate's cost.
	leakageMax    = money.Dollar
	leakageWindow = time.Hour
)

// leakageLimit slows down customers whose requests end without an answer.
type leakageLimit struct {
	mu    sync.Mutex // guards leaks
	leaks map[string][]leak
}

type leak struct {
	at   time.Time
	cost money.Nano
}

func newLeakageLimit() *leakageLimit { return &leakageLimit{leaks: map[string][]leak{}} }

func (l *leakageLimit) add(customer string, cost money.Nano, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaks[customer] = append(current(l.leaks[customer], now), leak{now, cost})
}

func (l *leakageLimit) exceeded(customer string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.leaks) == 0 {
		return false
	}
	list := current(l.leaks[customer], now)
	if len(list) == 0 {
		delete(l.leaks, customer)
		return false
	}
	l.leaks[customer] = list
	var sum money.Nano
	for _, one := range list {
		sum += one.cost
	}
	return sum > leakageMax
}

func current(list []leak, now time.Time) []leak {
	for len(list) > 0 && now.Sub(list[0].at) > leakageWindow {
		list = list[1:]
	}
	return list
}

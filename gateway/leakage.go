package gateway

import (
	"sync"
	"time"

	"weir/schemas/money"
)

const (
	// leakageMax is how much leakage by upstream causes one customer may cause
	// within an hour, at the estimate's cost.
	leakageMax = money.Dollar
	// leakageMinutes is that hour, in the steps in which it slides.
	leakageMinutes = 60
)

// leakageLimit slows down customers whose requests end without an answer.
type leakageLimit struct {
	mu    sync.Mutex // guards leaks
	leaks map[string]*leaks
}

// leaks is one customer's leakage of the last hour.
type leaks struct {
	minute int64 // the last one with leakage, Unix time
	cost   [leakageMinutes]money.Nano
}

func newLeakageLimit() *leakageLimit { return &leakageLimit{leaks: map[string]*leaks{}} }

// add notes one leak and tells whether it is the one that passes the limit.
func (l *leakageLimit) add(customer string, cost money.Nano, now time.Time) (passed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.leaks[customer]
	if of == nil {
		l.forget(now)
		of = &leaks{}
		l.leaks[customer] = of
	}
	before := of.slide(now)
	of.cost[of.minute%leakageMinutes] += cost
	return before <= leakageMax && before+cost > leakageMax
}

// exceeded tells whether the customer's requests leak too much.
func (l *leakageLimit) exceeded(customer string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.leaks[customer]
	return of != nil && of.slide(now) > leakageMax
}

// slide moves to the present minute and returns the hour's sum.
func (of *leaks) slide(now time.Time) (sum money.Nano) {
	minute := now.Unix() / 60
	for m := max(of.minute+1, minute-leakageMinutes+1); m <= minute; m++ {
		of.cost[m%leakageMinutes] = 0
	}
	of.minute = max(of.minute, minute)
	for _, c := range of.cost {
		sum += c
	}
	return sum
}

// forget drops the customers without leakage in the last hour.
func (l *leakageLimit) forget(now time.Time) {
	for id, of := range l.leaks {
		if of.slide(now) == 0 {
			delete(l.leaks, id)
		}
	}
}

package main

import "fmt"

// facts are what the three parties say of the whole run so far.
type facts struct {
	received   []received
	served     []served
	rows       []row // by SQL
	events     []row // by the API
	wallets    []wallet
	tied       tiedOut
	leakageMax int // requests that can have been under way at the kills
}

// verdict counts, and says in words what differs.
type verdict struct {
	completed   int // answers that customers have whole
	served      int // requests that reached the upstream
	billed      int // usage rows
	leakage     int
	duplicates  int
	missing     int // completed and not billed, or served and in no row
	differences []string
}

// differencesMax keeps a broken run's output readable; the counts go on.
const differencesMax = 50

func (v *verdict) differ(format string, args ...any) {
	if len(v.differences) < differencesMax {
		v.differences = append(v.differences, fmt.Sprintf(format, args...))
	}
}

// check compares the parties. Every request of the upstream must be in the books once, with the
// tokens that were served; every answer a customer has whole must be billed, at the price he was
// told; and what wallets lost must be what rows add up to.
func (f *facts) check() verdict {
	var v verdict
	byRequest := f.index(&v)
	f.checkReceived(&v, byRequest)
	f.checkServed(&v, byRequest)
	f.checkWallets(&v)
	f.checkAPI(&v)
	first := 0
	for i := range f.rows {
		if f.rows[i].EntryNo == 0 {
			first++
		}
	}
	if f.tied.Events.Count != first {
		v.differ("tie-out counts %d events, SQL %d", f.tied.Events.Count, first)
	}
	if v.leakage > f.leakageMax {
		v.differ("%d requests leaked, at most %d were under way at the kills", v.leakage, f.leakageMax)
	}
	return v
}

// index returns the first entry of each request and counts kinds and duplicates.
func (f *facts) index(v *verdict) map[string]*row {
	type entry struct {
		event string
		no    int
	}
	entries := make(map[entry]bool, len(f.rows))
	byRequest := make(map[string]*row, len(f.rows))
	for i := range f.rows {
		r := &f.rows[i]
		key := entry{r.EventID, r.EntryNo}
		if entries[key] {
			v.duplicates++
			v.differ("event %s entry %d is in ClickHouse twice", r.EventID, r.EntryNo)
		}
		entries[key] = true
		if r.EntryNo != 0 {
			continue
		}
		if byRequest[r.RequestID] != nil && byRequest[r.RequestID].EventID != r.EventID {
			v.duplicates++
			v.differ("request %s has the events %s and %s", r.RequestID, byRequest[r.RequestID].EventID, r.EventID)
		}
		byRequest[r.RequestID] = r
		switch r.Kind {
		case "usage":
			v.billed++
		case "leakage":
			v.leakage++
		}
		if r.Kind != "usage" && (r.Price != 0 || r.Cost != 0) {
			v.differ("request %s of kind %s has a price or a cost", r.RequestID, r.Kind)
		}
	}
	return byRequest
}

// checkReceived: what a customer has whole is billed once, at the price in its header.
func (f *facts) checkReceived(v *verdict, byRequest map[string]*row) {
	for i := range f.received {
		r := &f.received[i]
		if !r.good() {
			continue
		}
		v.completed++
		billed := byRequest[r.RequestID]
		switch {
		case r.RequestID == "":
			v.differ("a whole answer has no X-Weir-Request-Id")
		case billed == nil:
			v.missing++
			v.differ("request %s was answered whole and is in no row", r.RequestID)
		case billed.Kind != "usage" || billed.Status != "ok":
			v.missing++
			v.differ("request %s was answered whole and is booked as %s, %s", r.RequestID, billed.Kind, billed.Status)
		case billed.Customer != customerID(r.Key):
			v.differ("request %s of %s is billed to %s", r.RequestID, customerID(r.Key), billed.Customer)
		case !r.Stream:
			told, err := nano(r.Price)
			if err != nil || amount(told) != billed.Price {
				v.differ("request %s: the customer was told %q, the row says %d nano-dollars", r.RequestID, r.Price, billed.Price)
			}
		}
	}
}

// checkServed: what reached the upstream is in the books, and nothing else is billed.
func (f *facts) checkServed(v *verdict, byRequest map[string]*row) {
	reached := make(map[string]bool, len(f.served))
	for i := range f.served {
		s := &f.served[i]
		v.served++
		reached[s.RequestID] = true
		r := byRequest[s.RequestID]
		switch {
		case s.RequestID == "":
			v.differ("the upstream's request %d came without X-Request-Id", s.N)
		case r == nil:
			v.missing++
			v.differ("request %s reached the upstream (%s) and is in no row", s.RequestID, s.Outcome)
		case s.Outcome == "complete" && r.Kind == "error":
			v.differ("request %s was served whole and is booked as an error", s.RequestID)
		case s.Outcome == "complete" && r.Kind == "usage" && r.meters() != s.Meters:
			v.differ("request %s: served %+v, billed %+v", s.RequestID, s.Meters, r.meters())
		}
	}
	for id, r := range byRequest {
		if r.Kind == "usage" && !reached[id] {
			v.differ("request %s is billed and never reached the upstream", id)
		}
	}
}

// checkWallets: what a wallet lost, and what it still owes, is what its rows add up to.
func (f *facts) checkWallets(v *verdict) {
	prices := map[string]amount{}
	var sum amount
	for i := range f.rows {
		prices[f.rows[i].Customer] += f.rows[i].Price
		sum += f.rows[i].Price
	}
	for _, w := range f.wallets {
		if lost := w.Credited - w.Balance; lost+w.Receivable != prices[w.Customer] {
			v.differ("%s lost %d and owes %d nano-dollars, its rows add up to %d", w.Customer, lost, w.Receivable, prices[w.Customer])
		}
		if w.Held != 0 || w.Balance < 0 {
			v.differ("%s holds %d of %d nano-dollars", w.Customer, w.Held, w.Balance)
		}
		delete(prices, w.Customer)
	}
	for customer := range prices {
		v.differ("rows name %q, who is no customer", customer)
	}
	if f.tied.Events.Price != sum {
		v.differ("tie-out says %d nano-dollars, SQL %d", f.tied.Events.Price, sum)
	}
}

// checkAPI: the API shows the same events as SQL.
func (f *facts) checkAPI(v *verdict) {
	type entry struct {
		event string
		no    int
	}
	left := make(map[entry]row, len(f.rows))
	for _, r := range f.rows {
		left[entry{r.EventID, r.EntryNo}] = r
	}
	for _, r := range f.events {
		key := entry{r.EventID, r.EntryNo}
		if same, ok := left[key]; !ok || same != r {
			v.differ("the API says %+v, SQL says %+v", r, same)
		}
		delete(left, key)
	}
	if len(left) > 0 {
		v.differ("%d events are in SQL and not in the API", len(left))
	}
}

package demo

import (
	"cmp"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"weir/internal/standin"
	"weir/schemas/money"
	"weir/topup/stripefake"
)

// facts are what the parties say of the run: the provider stand-in's own log of what it served,
// what customers saw, and weir's books in three forms.
type facts struct {
	card      *card
	customers []customer
	exchanges []exchange
	served    []standin.Line
	wallets   []wallet
	tied      tieOut

	charges []stripefake.ChargeMade // by the payment stand-in's own log
	topups  []topup
	entries map[string][]entry // by customer, oldest first

	// The rest comes from the columnar store; hasSQL tells whether there is one.
	hasSQL              bool
	events              []row // by the API
	rows                []row // by SQL
	byCustomer, byModel report
	customerView        []margin // by SQL
	modelView           []margin
}

// owed is what one request must have cost, worked out from what the provider served.
type owed struct {
	exchange    *exchange
	line        *standin.Line
	cost, price money.Nano
}

// checker collects differences.
type checker struct {
	*facts
	owed        map[string]*owed // by request id: all that reached the provider
	differences []string
}

func (c *checker) differ(format string, args ...any) {
	c.differences = append(c.differences, fmt.Sprintf(format, args...))
}

// same reports a difference between two figures that must be equal.
func same[T comparable](c *checker, what string, expected, found T) {
	if expected != found {
		c.differ("%s: expected %v, found %v", what, expected, found)
	}
}

// check compares the parties, one request after the other and then the sums, and returns every
// difference as a sentence. The truth is what the provider served, at prices worked out here.
func (f *facts) check() []string {
	c := &checker{facts: f, owed: map[string]*owed{}}
	c.checkServed()
	c.checkExchanges()
	if f.hasSQL {
		c.checkEvents()
		c.checkRows()
	}
	c.checkPrices()
	c.checkWallets()
	c.checkFunding()
	if f.hasSQL {
		customer := func(o *owed) string { return f.customers[o.exchange.customer].id }
		model := func(o *owed) string { return o.exchange.full() }
		total := func(*owed) string { return "" }
		c.checkMargins("the API's report by customer", f.byCustomer.Rows, customer)
		c.checkMargins("the API's report by model", f.byModel.Rows, model)
		c.checkMargins("SQL's margin_by_customer", f.customerView, customer)
		c.checkMargins("SQL's margin_by_model", f.modelView, model)
		c.checkMargins("the total of the API's report by customer", []margin{f.byCustomer.Totals}, total)
		c.checkMargins("the total of the API's report by model", []margin{f.byModel.Totals}, total)
	}
	c.checkTieOut()
	return c.differences
}

// checkServed indexes what reached the provider. Every start in its log must have an end.
func (c *checker) checkServed() {
	started := map[uint64]bool{}
	for i := range c.served {
		line := &c.served[i]
		switch {
		case line.Event == standin.EventStart:
			started[line.N] = true
		case line.RequestID == "":
			c.differ("the provider's request %d carries no id of weir's", line.N)
		case c.owed[line.RequestID] != nil:
			c.differ("request %s reached the provider twice", line.RequestID)
		default:
			delete(started, line.N)
			c.owed[line.RequestID] = &owed{line: line}
		}
	}
	for n := range started {
		c.differ("the provider began to serve its request %d and did not end", n)
	}
}

// checkExchanges matches what customers saw with what was served, and works out what is owed.
func (c *checker) checkExchanges() {
	for i := range c.exchanges {
		x := &c.exchanges[i]
		if x.failed != "" {
			c.differ("request %d, %s: %s", i, x.id, x.failed)
			continue
		}
		o := c.owed[x.id]
		if o == nil {
			if dry := c.customers[x.customer].runsDry; !dry || !x.unfunded() {
				c.differ("request %s of %s was refused with %d %s", x.id, c.customers[x.customer].id, x.status, x.code)
			}
			continue
		}
		if o.exchange != nil {
			c.differ("two answers carry the request id %s", x.id)
		}
		o.exchange = x
		outcome, status := standin.OutcomeComplete, http.StatusOK
		if x.providerError != 0 {
			outcome, status = "error:"+strconv.Itoa(x.providerError), x.providerError
		}
		same(c, "request "+x.id+", what the provider did", outcome, o.line.Outcome)
		same(c, "request "+x.id+", the status that its customer saw", status, x.status)
		same(c, "request "+x.id+", the model that the provider was asked for", x.model, o.line.Model)
		same(c, "request "+x.id+", streamed by the provider", x.stream, o.line.Stream)
		c.work(o, c.card.rules(c.customers[x.customer].id, x.full())[0])
	}
	for id, o := range c.owed {
		if o.exchange == nil {
			c.differ("request %s reached the provider, and nobody sent it", id)
			delete(c.owed, id)
		}
	}
}

// unfunded tells whether weir refused for want of money.
func (x *exchange) unfunded() bool {
	return x.status == http.StatusPaymentRequired && x.code == "insufficient_funds" ||
		x.status == http.StatusTooManyRequests && x.code == "funds_held"
}

// work prices what was served; an error costs nothing.
func (c *checker) work(o *owed, r *rule) {
	if o.line.Outcome != standin.OutcomeComplete {
		return
	}
	var err error
	if o.cost, o.price, err = c.card.amounts(o.exchange.full(), r, o.line.Meters); err != nil {
		c.differ("request %s: %v", o.line.RequestID, err)
	}
}

// checkEvents: everything that reached the provider is one event, with the provider's meters and
// the amounts worked out here, and there are no other events.
func (c *checker) checkEvents() {
	seen := map[string]bool{}
	for i := range c.events {
		e := &c.events[i]
		o := c.owed[e.RequestID]
		switch {
		case o == nil:
			c.differ("event %s is of request %q, which never reached the provider", e.EventID, e.RequestID)
			continue
		case seen[e.RequestID]:
			c.differ("request %s has more than one event", e.RequestID)
			continue
		}
		seen[e.RequestID] = true
		c.checkEvent(e, o)
	}
	for id, o := range c.owed {
		if !seen[id] {
			c.differ("request %s of %s reached the provider (%s) and is no event", id, c.customers[o.exchange.customer].id, o.line.Outcome)
		}
	}
}

// checkEvent compares one event. Its rule may be any that the card allows here: which budgets
// were spent when is not for an outsider to know.
func (c *checker) checkEvent(e *row, o *owed) {
	x, m := o.exchange, o.line.Meters
	allowed := c.card.rules(c.customers[x.customer].id, x.full())
	i := slices.IndexFunc(allowed, func(r *rule) bool { return r.name() == e.Rule })
	if i < 0 {
		c.differ("request %s is priced by rule %q, expected %q", x.id, e.Rule, allowed[0].name())
		return
	}
	c.work(o, allowed[i])
	expected := row{EventID: e.EventID, Kind: "usage", RequestID: x.id, Customer: c.customers[x.customer].id, Provider: x.provider, API: o.line.API,
		Model: x.model, Rule: e.Rule, Status: "ok", Tags: map[string]string{"feature": x.feature}, Stream: x.stream,
		Input: m.Input, CachedInput: m.CachedInput, CacheWrite5m: m.CacheWrite5m, CacheWrite1h: m.CacheWrite1h, Output: m.Output,
		Reasoning: m.Reasoning, Cost: o.cost, Price: o.price, Margin: o.price - o.cost}
	if x.providerError != 0 {
		expected.Kind, expected.Status = "error", "upstream_error"
	}
	c.sameRow("request "+x.id+", the API's event", &expected, e)
}

// sameRow reports every column that differs.
func (c *checker) sameRow(what string, expected, found *row) {
	a, b := reflect.ValueOf(expected).Elem(), reflect.ValueOf(found).Elem()
	for i := range a.NumField() {
		x, y := a.Field(i).Interface(), b.Field(i).Interface()
		if !reflect.DeepEqual(x, y) {
			c.differ("%s: %s should be %v and is %v", what, a.Type().Field(i).Tag.Get("json"), x, y)
		}
	}
}

// checkRows: SQL shows the same events as the API.
func (c *checker) checkRows() {
	key := func(r *row) string { return r.EventID + " " + strconv.Itoa(r.EntryNo) }
	byKey := map[string]*row{}
	for i := range c.rows {
		if byKey[key(&c.rows[i])] != nil {
			c.differ("event %s is twice in SQL", c.rows[i].EventID)
		}
		byKey[key(&c.rows[i])] = &c.rows[i]
	}
	for i := range c.events {
		e := &c.events[i]
		if r := byKey[key(e)]; r == nil {
			c.differ("event %s is in the API and not in SQL", e.EventID)
		} else {
			c.sameRow("event "+e.EventID+" in SQL", e, r)
		}
		delete(byKey, key(e))
	}
	for _, r := range byKey {
		c.differ("event %s is in SQL and not in the API", r.EventID)
	}
}

// checkPrices: the header of an answer told its customer what he paid.
func (c *checker) checkPrices() {
	for id, o := range c.owed {
		if o.exchange.stream || o.line.Outcome != standin.OutcomeComplete {
			continue
		}
		told, err := money.ParseNano(o.exchange.price)
		if err != nil || told != o.price {
			c.differ("request %s: its customer was told a price of %q, expected %s", id, o.exchange.price, o.price)
		}
	}
}

// checkWallets: a wallet lost what its requests cost the customer, and no more.
func (c *checker) checkWallets() {
	for i := range c.customers {
		customer := &c.customers[i]
		at := slices.IndexFunc(c.wallets, func(w wallet) bool { return w.Customer == customer.id })
		if at < 0 {
			c.differ("%s has no wallet", customer.id)
			continue
		}
		w := &c.wallets[at]
		credit := customer.given()
		if n := c.rechargesDue(customer); n > 0 {
			credit += money.Nano(n) * customer.auto.by
		}
		same(c, "the wallet of "+customer.id+", credited", credit, w.Credited)
		same(c, "the wallet of "+customer.id+", balance", credit-c.spent(customer), w.Balance)
		same(c, "the wallet of "+customer.id+", receivable", 0, w.Receivable)
	}
}

// checkMargins: a report's rows are the sums of what is owed, grouped by key.
func (c *checker) checkMargins(what string, found []margin, key func(*owed) string) {
	expected := map[string]margin{}
	for _, o := range c.owed {
		sum := expected[key(o)]
		if o.line.Outcome == standin.OutcomeComplete {
			sum.Requests++
		}
		sum.Cost += o.cost
		sum.Price += o.price
		sum.Margin += o.price - o.cost
		expected[key(o)] = sum
	}
	for i := range found {
		m := found[i]
		e, there := expected[m.name()]
		if !there && m.name() != "" {
			c.differ("%s has a row for %s, who has no requests", what, m.name())
			continue
		}
		name := strings.TrimSpace(what + " " + m.name())
		same(c, name+", requests", e.Requests, m.Requests)
		same(c, name+", cost", e.Cost, m.Cost)
		same(c, name+", price", e.Price, m.Price)
		same(c, name+", margin", e.Margin, m.Margin)
		delete(expected, m.name())
	}
	for name := range expected {
		c.differ("%s has no row for %s", what, cmp.Or(name, "everything"))
	}
}

// checkTieOut: weir finds nothing wrong, and its sums are those of what was served.
func (c *checker) checkTieOut() {
	expected := sums{Count: len(c.owed)}
	for _, o := range c.owed {
		expected.Cost += o.cost
		expected.Price += o.price
	}
	same(c, "the tie-out, events", expected, c.tied.Events)
	same(c, "the tie-out, ledger", expected, c.tied.Ledger)
	same(c, "the tie-out, leakage", 0, c.tied.Leakage.Count)
	if !c.hasSQL {
		return // weir itself says that without its warehouse the books do not tie out
	}
	if c.tied.ClickHouse == nil {
		c.differ("the tie-out leaves ClickHouse out")
	} else {
		same(c, "the tie-out, ClickHouse", expected, *c.tied.ClickHouse)
	}
	same(c, "the tie-out, ok", true, c.tied.OK)
	for name, n := range c.tied.Pending {
		same(c, "the tie-out, pending in the "+name, 0, n)
	}
	for _, b := range c.tied.Breaks {
		c.differ("the tie-out breaks: batch %q, %s: expected %s, found %s", b.Batch, b.Check, b.Expected, b.Found)
	}
}

package demo

import (
	"strings"
	"testing"
	"time"

	"weir/internal/standin"
	"weir/schemas/money"
	"weir/topup/stripefake"
)

// story is one request of the honest books below. Its amounts were worked out by hand from the
// prices in rates.yaml.
type story struct {
	customer              int
	provider, model, rule string
	stream                bool
	status                int // 402: refused by weir; other errors: the provider's
	meters                standin.Meters
	cost, price           money.Nano
}

var stories = []story{
	// 1000 × $2.50 + 200 × $1.25 + 100 × $10 per million; three times that.
	{0, "openai", "gpt-4o", "default", false, 0, standin.Meters{Input: 1000, CachedInput: 200, Output: 100}, 3_750_000, 11_250_000},
	// 300 × $3 + 1000 × $0.30 + 500 × $3.75 + 40 × $15; by birch's own prices 300 × $4.50 + 1000 × $0.45 + 500 × $5.60 + 40 × $22.50.
	{1, "anthropic", "claude-sonnet-4-5", "customer=birch,model=anthropic/claude-sonnet-4-5", true, 0,
		standin.Meters{Input: 300, CachedInput: 1000, CacheWrite5m: 500, Output: 40}, 3_675_000, 5_500_000},
	// 7 × $0.15 + 3 × $0.075 + 1 × $0.60; half of it is 937.5 nano-dollars, rounded away from zero.
	{0, "openai", "gpt-4o-mini", "model=openai/gpt-4o-mini", false, 0, standin.Meters{Input: 7, CachedInput: 3, Output: 1}, 1875, 938},
	// The same with the subsidy spent.
	{0, "openai", "gpt-4o-mini", "default", true, 0, standin.Meters{Input: 7, CachedInput: 3, Output: 1}, 1875, 5625},
	// 50 × $1.10 + (10 + 20) × $4.40: reasoning costs what output costs.
	{2, "openai", "o4-mini", "default", false, 0, standin.Meters{Input: 50, Output: 10, Reasoning: 20}, 187_000, 561_000},
	{1, "openai", "gpt-4o", "default", false, 503, standin.Meters{}, 0, 0},
	{5, "openai", "gpt-4o", "", false, 402, standin.Meters{}, 0, 0},
}

var requestIDs = []string{"r0", "r1", "r2", "r3", "r4", "r5", "r6"}

// honest are books in which everything agrees.
func honest(t *testing.T) *facts {
	t.Helper()
	card, err := readCard()
	if err != nil {
		t.Fatal(err)
	}
	f := &facts{card: card, customers: newCustomers(), hasSQL: true}
	f.customers[0].auto = &recharge{below: 9_990_000_000, by: 10 * money.Dollar} // its requests below cost more than a cent
	sum := sums{}
	customers, models := map[string]margin{}, map[string]margin{}
	for i, s := range stories {
		id := f.customers[s.customer].id
		x := exchange{request: request{customer: s.customer, provider: s.provider, model: s.model, stream: s.stream, feature: "search", providerError: s.status},
			id: requestIDs[i], status: max(s.status, 200)}
		if !s.stream && s.status == 0 {
			x.price = s.price.String()
		}
		if s.status == 402 {
			x.providerError, x.code = 0, "insufficient_funds"
			f.exchanges = append(f.exchanges, x)
			continue
		}
		f.exchanges = append(f.exchanges, x)
		line := standin.Line{Event: standin.EventStart, N: uint64(i), RequestID: x.id, API: "the.api", Model: s.model, Stream: s.stream}
		f.served = append(f.served, line)
		line.Event, line.Outcome, line.Meters = standin.EventEnd, standin.OutcomeComplete, s.meters
		e := row{EventID: "lease:" + x.id, Kind: "usage", RequestID: x.id, Customer: id, Provider: s.provider, API: line.API, Model: s.model, Rule: s.rule,
			Status: "ok", Tags: map[string]string{"feature": "search"}, Stream: s.stream, Input: s.meters.Input, CachedInput: s.meters.CachedInput,
			CacheWrite5m: s.meters.CacheWrite5m, Output: s.meters.Output, Reasoning: s.meters.Reasoning, Cost: s.cost, Price: s.price, Margin: s.price - s.cost}
		n := 1
		if s.status != 0 {
			n, line.Outcome, e.Kind, e.Status = 0, "error:503", "error", "upstream_error"
		}
		f.served = append(f.served, line)
		f.events, f.rows = append(f.events, e), append(f.rows, e)
		sum = sums{sum.Count + 1, sum.Cost + s.cost, sum.Price + s.price}
		customers[id] = plus(customers[id], margin{Customer: id, Requests: n, Cost: s.cost, Price: s.price})
		models[s.model] = plus(models[s.model], margin{Provider: s.provider, Model: s.model, Requests: n, Cost: s.cost, Price: s.price})
	}
	f.fill(sum, customers, models)
	return f
}

func plus(a, b margin) margin {
	b.Requests, b.Cost, b.Price = a.Requests+b.Requests, a.Cost+b.Cost, a.Price+b.Price
	b.Margin = b.Price - b.Cost
	return b
}

// fill adds what is summed.
func (f *facts) fill(sum sums, customers, models map[string]margin) {
	f.tied = tieOut{OK: true, Pending: map[string]int{"spool": 0, "log": 0}, Events: sum, Ledger: sum, ClickHouse: &sum}
	total := margin{Requests: 5, Cost: sum.Cost, Price: sum.Price, Margin: sum.Price - sum.Cost}
	f.byCustomer.Totals, f.byModel.Totals = total, total
	for _, m := range customers {
		f.byCustomer.Rows, f.customerView = append(f.byCustomer.Rows, m), append(f.customerView, m)
	}
	for _, m := range models {
		f.byModel.Rows, f.modelView = append(f.byModel.Rows, m), append(f.modelView, m)
	}
	f.pay()
	credits := map[string]money.Nano{"acme": 20, "birch": 500, "cobalt": 275, "dune": 250, "ember": 250}
	for _, c := range f.customers {
		w := wallet{Customer: c.id, Credited: credits[c.id] * money.Dollar}
		if c.runsDry {
			w.Credited = 50_000_000
		}
		w.Balance = w.Credited - customers[c.id].Price
		f.wallets = append(f.wallets, w)
	}
}

// pay fills in what was paid, in dollars, and how.
func (f *facts) pay() {
	f.entries = map[string][]entry{"fjord": {{Kind: "credit", Amount: 50_000_000, Reference: "demo"}}}
	for _, p := range []struct {
		customer, kind string
		amount, bonus  money.Nano
	}{{"acme", "checkout", 10, 0}, {"acme", "auto", 10, 0}, {"birch", "checkout", 500, 0}, {"cobalt", "checkout", 250, 25}, {"dune", "", 250, 0}, {"ember", "", 250, 0}} {
		id := "demo"
		if p.kind != "" {
			id = "tup_" + p.kind + "_" + p.customer
			f.topups = append(f.topups, topup{ID: id, Customer: p.customer, Kind: p.kind, State: "succeeded", Amount: p.amount * money.Dollar, PaymentIntent: "pi_" + id})
			f.charges = append(f.charges, stripefake.ChargeMade{ID: "ch_" + id, PaymentIntent: "pi_" + id, Amount: int64(p.amount) * 100, Metadata: map[string]string{"weir_topup": id}})
		}
		for _, amount := range []money.Nano{p.amount, p.bonus} {
			f.entries[p.customer] = append(f.entries[p.customer], entry{Kind: "credit", Amount: amount * money.Dollar, Reference: id})
		}
	}
	f.topups = append(f.topups, topup{ID: "tup_given_up", Customer: "birch", Kind: "checkout", State: "canceled"})
}

// last is the end of the last request that reached the provider.
var last = len(stories)*2 - 3

var plants = []struct {
	name  string
	plant func(*facts)
	want  string // in one of the differences
}{
	{"an answer that broke off", func(f *facts) { f.exchanges[1].failed = "the stream has no terminator" }, "r1: the stream has no terminator"},
	{"a rich customer refused", func(f *facts) { f.exchanges[6].customer = 0 }, "r6 of acme was refused"},
	{"refused for another reason", func(f *facts) { f.exchanges[6].status, f.exchanges[6].code = 503, "spool_full" }, "refused with 503 spool_full"},
	{"another status", func(f *facts) { f.exchanges[5].status = 200 }, "r5, the status that its customer saw"},
	{"another outcome", func(f *facts) { f.served[1].Outcome = "fault:stall" }, "r0, what the provider did"},
	{"another model asked", func(f *facts) { f.served[1].Model = "gpt-4" }, "r0, the model that the provider"},
	{"streamed unasked", func(f *facts) { f.served[1].Stream = true }, "r0, streamed by the provider"},
	{"a model without price", func(f *facts) { delete(f.card.Models, "openai/gpt-4o") }, "r0: the demo's rate card has no model openai/gpt-4o"},
	{"served and nobody asked", func(f *facts) { f.exchanges = f.exchanges[1:] }, "r0 reached the provider, and nobody sent it"},
	{"two answers of one id", func(f *facts) { f.exchanges[6].id = "r0" }, "two answers carry the request id r0"},
	{"served twice", func(f *facts) { f.served[last].RequestID = "r0" }, "r0 reached the provider twice"},
	{"served without id", func(f *facts) { f.served[last].RequestID = "" }, "carries no id"},
	{"served without end", func(f *facts) { f.served = f.served[:last] }, "did not end"},
	{"more tokens served", func(f *facts) { f.served[1].Meters.Output++ }, "r0, the API's event: output_tokens should be 101 and is 100"},
	{"a lost event", func(f *facts) { f.events, f.rows = f.events[1:], f.rows[1:] }, "r0 of acme reached the provider (complete) and is no event"},
	{"an invented event", func(f *facts) { f.events[0].RequestID = "x" }, `"x", which never reached the provider`},
	{"a double event", func(f *facts) { f.events = append(f.events, f.events[0]) }, "r0 has more than one event"},
	{"another customer's", func(f *facts) { f.events[0].Customer = "birch" }, "customer should be acme and is birch"},
	{"another tag", func(f *facts) { f.events[0].Tags["feature"] = "chat" }, "tags should be map[feature:search]"},
	{"an estimate", func(f *facts) { f.events[1].Estimated = true }, "estimated should be false"},
	{"a nano-dollar of cost", func(f *facts) { f.events[0].Cost++ }, "cost should be 0.00375 and is 0.003750001"},
	{"half a nano-dollar of price", func(f *facts) { f.events[2].Price-- }, "price should be 0.000000938 and is 0.000000937"},
	{"another margin", func(f *facts) { f.events[1].Margin++ }, "margin should be"},
	{"a rule that is not allowed", func(f *facts) { f.events[1].Rule = "default" }, `r1 is priced by rule "default"`},
	{"an error that costs", func(f *facts) { f.events[5].Cost = 1 }, "r5, the API's event: cost should be 0.00"},
	{"lost in SQL", func(f *facts) { f.rows = f.rows[1:] }, "in the API and not in SQL"},
	{"only in SQL", func(f *facts) { f.rows = append(f.rows, row{EventID: "x"}) }, "in SQL and not in the API"},
	{"twice in SQL", func(f *facts) { f.rows = append(f.rows, f.rows[0]) }, "is twice in SQL"},
	{"another figure in SQL", func(f *facts) { f.rows[3].Price++ }, "lease:r3 in SQL: price"},
	{"another price told", func(f *facts) { f.exchanges[0].price = "0.01125001" }, "was told a price"},
	{"no price told", func(f *facts) { f.exchanges[0].price = "" }, "was told a price"},
	{"a balance", func(f *facts) { f.wallets[0].Balance-- }, "wallet of acme, balance"},
	{"a credit", func(f *facts) { f.wallets[2].Credited++ }, "wallet of cobalt, credited"},
	{"a debt", func(f *facts) { f.wallets[5].Receivable = 1 }, "wallet of fjord, receivable"},
	{"charged twice", func(f *facts) { f.charges = append(f.charges, f.charges[1]) }, `top-up "tup_auto_acme" was charged twice`},
	{"charged for nothing", func(f *facts) { f.charges[0].Metadata["weir_topup"] = "x" }, `ch_tup_checkout_acme is of top-up "x", which weir does not know`},
	{"nobody charged", func(f *facts) { f.charges = f.charges[1:] }, "tup_checkout_acme of acme succeeded, and nobody was charged"},
	{"charged and not told", func(f *facts) { f.topups[0].State = "submitted" }, "tup_checkout_acme of acme, state: expected succeeded, found submitted"},
	{"a cent more charged", func(f *facts) { f.charges[2].Amount++ }, "of birch, amount: expected 500.01"},
	{"another payment", func(f *facts) { f.charges[2].PaymentIntent = "pi_x" }, "of birch, its payment: expected pi_x"},
	{"credited twice", func(f *facts) { f.entries["acme"] = append(f.entries["acme"], f.entries["acme"][2]) }, "tup_auto_acme of acme, credited: expected 10.00, found 20.00"},
	{"no bonus", func(f *facts) { f.entries["cobalt"] = f.entries["cobalt"][:1] }, "of cobalt, credited: expected 275.00, found 250.00"},
	{"a gift", func(f *facts) { f.entries["dune"] = append(f.entries["dune"], entry{Kind: "credit", Amount: 1}) }, "dune, credited by the operator"},
	{"topped up without reason", func(f *facts) { f.customers[0].auto.below = 9_980_000_000 }, "acme, payments on a page and automatic ones: expected {1 0}, found {1 1}"},
	{"left below its threshold", func(f *facts) { f.customers[0].auto.below = 20 * money.Dollar }, "acme, payments on a page and automatic ones: expected {1 2}, found {1 1}"},
	{"no wallet", func(f *facts) { f.wallets = f.wallets[1:] }, "acme has no wallet"},
	{"a report's count", func(f *facts) { f.byCustomer.Rows[0].Requests++ }, "report by customer"},
	{"a report's cost", func(f *facts) { f.byModel.Rows[0].Cost++ }, "report by model"},
	{"a report's row too few", func(f *facts) { f.byModel.Rows = f.byModel.Rows[1:] }, "has no row for"},
	{"a report's row too many", func(f *facts) { f.byCustomer.Rows = append(f.byCustomer.Rows, margin{Customer: "x"}) }, "has a row for x"},
	{"a total's price", func(f *facts) { f.byCustomer.Totals.Price++ }, "total of the API's report by customer, price"},
	{"a total's margin", func(f *facts) { f.byModel.Totals.Margin++ }, "total of the API's report by model, margin"},
	{"a view's price", func(f *facts) { f.customerView[0].Price++ }, "SQL's margin_by_customer"},
	{"a view's margin", func(f *facts) { f.modelView[0].Margin++ }, "SQL's margin_by_model"},
	{"the tie-out's count", func(f *facts) { f.tied.Events.Count++ }, "the tie-out, events"},
	{"the ledger's price", func(f *facts) { f.tied.Ledger.Price++ }, "the tie-out, ledger"},
	{"ClickHouse's cost", func(f *facts) { f.tied.ClickHouse = &sums{} }, "the tie-out, ClickHouse"},
	{"no ClickHouse", func(f *facts) { f.tied.ClickHouse = nil }, "leaves ClickHouse out"},
	{"leakage", func(f *facts) { f.tied.Leakage.Count = 1 }, "the tie-out, leakage"},
	{"something pending", func(f *facts) { f.tied.Pending["log"] = 1 }, "pending in the log"},
	{"a break that weir found", func(f *facts) { f.tied.Breaks = []broken{{Batch: "b1", Check: "hash"}} }, `batch "b1", hash`},
	{"weir's own verdict", func(f *facts) { f.tied.OK = false }, "the tie-out, ok"},
}

// TestCheck plants differences one by one: the honest books have none, and each that is planted
// must be told.
func TestCheck(t *testing.T) {
	if found := honest(t).check(); len(found) > 0 {
		t.Fatalf("honest books differ:\n%s", strings.Join(found, "\n"))
	}
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			f := honest(t)
			p.plant(f)
			if found := strings.Join(f.check(), "\n"); !strings.Contains(found, p.want) {
				t.Errorf("want a difference with %q, found:\n%s", p.want, found)
			}
		})
	}
}

// TestCheckWithoutSQL: what the ledger alone tells is compared all the same.
func TestCheckWithoutSQL(t *testing.T) {
	f := honest(t)
	f.hasSQL, f.tied.OK, f.tied.ClickHouse, f.events = false, false, nil, nil
	f.served = append(f.served[:6], f.served[8:]...) // without the event that tells its rule, the subsidy counts as not spent
	f.exchanges = append(f.exchanges[:3], f.exchanges[4:]...)
	rest := sums{Count: 5, Cost: f.tied.Events.Cost - 1875, Price: f.tied.Events.Price - 5625}
	f.tied.Events, f.tied.Ledger = rest, rest
	f.wallets[0].Balance += 5625
	if found := f.check(); len(found) > 0 {
		t.Fatalf("honest books differ:\n%s", strings.Join(found, "\n"))
	}
	f.wallets[1].Balance--
	if found := f.check(); len(found) != 1 {
		t.Errorf("want one difference, found:\n%s", strings.Join(found, "\n"))
	}
}

// TestRecharges: a top-up takes from the usage that made the wallet low, not from later usage.
func TestRecharges(t *testing.T) {
	f := honest(t)
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	f.entries["acme"] = []entry{
		{Time: at(0), Kind: "credit", Amount: 10 * money.Dollar, Reference: "tup_checkout_acme"},
		{Time: at(100), Kind: "usage", Amount: -10_000_000}, // $9.99 is not below $9.99
		{Time: at(200), Kind: "usage", Amount: -1},
		{Time: at(300), Kind: "usage", Amount: -1},
		{Time: at(700), Kind: "credit", Amount: 10 * money.Dollar, Reference: "tup_auto_acme"},
		{Time: at(900), Kind: "usage", Amount: -1},
	}
	took, last := f.recharges(&f.customers[0])
	if len(took) != 1 || took[0] != 500*time.Millisecond || !last.Equal(at(700)) {
		t.Errorf("took %v, the last at %v", took, last)
	}
}

package demo

import (
	"context"
	"fmt"
	"io"
	"strings"

	"weir/schemas/money"
)

// The worked month: two customers of a hundred sessions each, so that each is
// worth the same, and what Stripe keeps of it depends on how it was paid.
const (
	monthSessions = 100
	sessionIn     = 2000 // tokens
	sessionOut    = 1000
	// monthOverdraft lets the last session through: what it reserves is an upper
	// bound, a token for each byte of its text, and more than it costs. It has
	// room for those of all that are under way.
	monthOverdraft = 5 * money.Dollar
)

// monthCustomers pay for the same sessions: one in advance for more of them, one just for these.
func monthCustomers() []customer {
	return []customer{
		{id: "pooled", name: "Pooled", paid: 8 * money.Dollar, byCard: true, overdraft: monthOverdraft},
		{id: "alone", name: "Charged alone", paid: 450 * cent, byCard: true, overdraft: monthOverdraft},
	}
}

// monthRequests are the sessions of both, in turn.
func monthRequests() []request {
	r := request{provider: "openai", path: "/v1/chat/completions", model: "gpt-4o", feature: "session"}
	text := strings.Repeat(sentence, sessionIn*bytesPerToken/len(sentence)) + r.marker(fmt.Sprintf("in=%d out=%d", sessionIn, sessionOut))
	r.body = encode(map[string]any{"model": r.model, "max_tokens": sessionOut, "messages": []map[string]string{{"role": "user", "content": text}}})
	list := make([]request, 2*monthSessions)
	for i := range list {
		list[i] = r
		list[i].customer = i % 2
	}
	return list
}

// tellMonth prints what is left of the month's margin after Stripe's fees:
// first as weir books them until Stripe tells its own, then with those.
func (d *demo) tellMonth(ctx context.Context, f *facts) error {
	d.printf("\npooled paid $8.00 at once, for these sessions and more; alone paid $4.50 for just these.\n" +
		"The margin after fees (weir report margin --by customer --net) while Stripe has not told its own:\n" +
		"weir books 2.9 %% + $0.30 of a payment, unrounded.\n\n")
	estimated := map[string]money.Nano{}
	for i := range d.customers {
		estimated[d.customers[i].id] = d.customers[i].paid*29/1000 + 30*cent // exact: what was paid is in cents
	}
	if err := d.tellNet(ctx, estimated); err != nil {
		return err
	}
	d.stripe.TellFees()
	told := map[string]money.Nano{}
	for _, ch := range d.stripe.Log().Charges {
		for _, t := range f.topups {
			if t.PaymentIntent == ch.PaymentIntent {
				told[t.Customer] = dollars(ch.Fee)
			}
		}
	}
	for i := range d.customers {
		c := &d.customers[i]
		err := wait(ctx, func() (bool, error) {
			list, err := pages[topup](ctx, &d.books, "/customers/"+c.id+"/topups")
			return err == nil && len(list) == 1 && list[0].Fee == told[c.id], err
		})
		if err != nil {
			return err
		}
	}
	d.printf("The same once Stripe has told its fees, in whole cents: $%s of the $8.00, $%s of the $4.50.\n\n", told["pooled"], told["alone"])
	return d.tellNet(ctx, told)
}

// tellNet prints the net report and compares it with the fees of each
// customer's one payment: what he used of it bears its share of them.
func (d *demo) tellNet(ctx context.Context, fees map[string]money.Nano) error {
	var net report
	if err := d.books.api(ctx, "/reports/margin?by=customer&net=true", nil, &net); err != nil {
		return err
	}
	printNet(d.Out, &net)
	c := &checker{facts: &facts{}}
	same(c, "the net report, rows", len(d.customers), len(net.Rows))
	for _, row := range net.Rows {
		for i := range d.customers {
			if customer := &d.customers[i]; customer.id == row.Customer {
				share := fees[customer.id] * (row.Price / cent) / (customer.paid / cent) // exact for this month's figures
				same(c, "the net report, fees of "+row.Customer, share, row.Fees)
				same(c, "the net report, net of "+row.Customer, row.Margin-share, row.Net)
			}
		}
	}
	if len(c.differences) == 0 {
		return nil
	}
	printDifferences(d.Out, c.differences)
	return fmt.Errorf("%w in %d places", ErrDiffers, len(c.differences))
}

// printNet prints the report with every place of its amounts.
func printNet(w io.Writer, r *report) {
	lines := [][]string{{"CUSTOMER", "REQUESTS", "COST", "PRICE", "MARGIN", "FEES", "NET"}}
	for _, m := range append(r.Rows, r.Totals) {
		name := m.name()
		if name == "" {
			name = "total"
		}
		lines = append(lines, []string{name, thousands(m.Requests), m.Cost.String(), m.Price.String(), m.Margin.String(), m.Fees.String(), m.Net.String()})
	}
	table(w, lines)
}

package demo

import (
	"weir/schemas/money"
	"weir/topup/stripefake"
)

// checkFunding: what the payment stand-in says it took is what weir topped up
// and credited, once each; nobody paid more often than he had reason to; and
// what else was credited is what the operator gave.
func (c *checker) checkFunding() {
	charged := map[string]*stripefake.ChargeMade{}
	for i := range c.charges {
		id := c.charges[i].Metadata["weir_topup"]
		if charged[id] != nil {
			c.differ("top-up %q was charged twice", id)
		}
		charged[id] = &c.charges[i]
	}
	credited := c.credits()
	type purchases struct{ checkouts, recharges int }
	made := map[string]purchases{}
	for i := range c.topups {
		t := &c.topups[i]
		ch := charged[t.ID]
		delete(charged, t.ID)
		if ch == nil && t.State != succeeded {
			continue
		}
		c.checkTopup(t, ch, credited[t.ID])
		n := made[t.Customer]
		if t.Kind == byItself {
			n.recharges++
		} else {
			n.checkouts++
		}
		made[t.Customer] = n
	}
	for id, ch := range charged {
		c.differ("charge %s is of top-up %q, which weir does not know", ch.ID, id)
	}
	for i := range c.customers {
		customer := &c.customers[i]
		expected, given := purchases{recharges: c.rechargesDue(customer)}, customer.given()
		if customer.byCard {
			expected.checkouts, given = 1, 0
		}
		same(c, customer.id+", payments on a page and automatic ones", expected, made[customer.id])
		same(c, customer.id+", credited by the operator", given, credited[byOperator+customer.id])
	}
}

// byOperator begins the key of credits that come from no top-up.
const byOperator = "operator: "

// credits sums the credit entries by the top-up that they come from.
func (c *checker) credits() map[string]money.Nano {
	known := map[string]bool{}
	for i := range c.topups {
		known[c.topups[i].ID] = true
	}
	sums := map[string]money.Nano{}
	for customer, list := range c.entries {
		for _, e := range list {
			switch {
			case e.Kind != "credit":
			case known[e.Reference]:
				sums[e.Reference] += e.Amount
			default:
				sums[byOperator+customer] += e.Amount
			}
		}
	}
	return sums
}

// checkTopup compares one top-up with its charge, nil if there is none.
func (c *checker) checkTopup(t *topup, ch *stripefake.ChargeMade, credited money.Nano) {
	what := "top-up " + t.ID + " of " + t.Customer
	if ch == nil {
		c.differ("%s succeeded, and nobody was charged", what)
		return
	}
	amount, bonus := dollars(ch.Amount), money.Nano(0)
	for i := range c.customers {
		if customer := &c.customers[i]; customer.id == t.Customer && t.Kind == byCheckout {
			bonus = customer.promo
		}
	}
	same(c, what+", state", succeeded, t.State)
	same(c, what+", its payment", ch.PaymentIntent, t.PaymentIntent)
	same(c, what+", amount", amount, t.Amount)
	same(c, what+", credited", amount+bonus, credited)
}

// rechargesDue is how often a wallet must have topped itself up: until what
// was spent left it at its threshold, and not once more.
func (c *checker) rechargesDue(customer *customer) (n int) {
	if customer.auto == nil {
		return 0
	}
	for left := customer.given() - c.spent(customer); left < customer.auto.below; left += customer.auto.by {
		n++
	}
	return n
}

// spent is what a customer's requests cost him.
func (c *checker) spent(customer *customer) (sum money.Nano) {
	for _, o := range c.owed {
		if c.customers[o.exchange.customer].id == customer.id {
			sum += o.price
		}
	}
	return sum
}

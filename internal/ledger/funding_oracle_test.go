package ledger_test

import (
	"cmp"
	"math/big"
	"slices"
	"strings"
)

// purse is an independent model of one wallet and where its money came from.
// Unlike the ledger it uses lots up with every debit, one operation after the
// other, and keeps what is borrowed as a number of its own.
type purse struct {
	id                              string
	credited, debited, held, owed   int64
	overdraft, borrowed             int64
	lots                            []*purseLot
	topups                          []*purchase
	disputes                        int // open
	below                           int64
	low                             []int64
	due, depleted                   bool
	events                          map[string]int
	month                           map[string]int64 // price − cost of usage
	lossTold                        map[string]bool
	dayLimit                        int64
	day                             map[string]int64
	accounts                        map[string]int64 // shared by all purses
	usage, gone, given, cost, taken int64            // Σ price, Σ expired, Σ credited by hand, Σ cost, Σ debits by hand
}

type purseLot struct {
	id, kind, parent                string
	priority                        int64
	expires, created                int64
	amount, used, expired, refunded int64
}

func (l *purseLot) rest() int64 { return l.amount - l.used - l.expired - l.refunded }

// purchase is a top-up and what was told of it.
type purchase struct {
	id, pi, plan   string
	amount, bonus  int64
	paid           bool
	seen, refunded int64
	lost, back     int64
	fee            int64
	feeKnown       bool
	disputes       []*quarrel
}

type quarrel struct {
	id              string
	amount, fee     int64
	open, won, lost bool // told
	opened, closed  bool // booked
	created         int64
}

func (p *purse) balance() int64                    { return p.credited - p.debited }
func (p *purse) spendable() int64                  { return p.balance() + p.overdraft }
func (p *purse) available() int64                  { return p.spendable() - p.held }
func (p *purse) post(account string, amount int64) { p.accounts[account] += amount }

// step runs one change and counts the events that it must set off.
func (p *purse) step(brings bool, change func()) {
	balance, spendable := p.balance(), p.spendable()
	change()
	for _, t := range p.low {
		if balance >= t && p.balance() < t {
			p.events["wallet.low_balance"]++
		}
	}
	p.due = p.due || p.balance() < p.below
	switch {
	case !p.depleted && spendable > 0 && p.spendable() <= 0:
		p.depleted = true
		p.events["wallet.depleted"]++
	case p.depleted && brings && p.available() > 0:
		p.depleted = false
		p.events["wallet.recovered"]++
	}
}

func (p *purse) ordered() []*purseLot {
	list := slices.Clone(p.lots)
	slices.SortFunc(list, func(a, b *purseLot) int {
		never := func(l *purseLot) int {
			if l.expires == 0 {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(never(a), never(b)), cmp.Compare(a.expires, b.expires),
			cmp.Compare(a.created, b.created), cmp.Compare(a.id, b.id))
	})
	return list
}

// use takes a debit from the lots; what they lack is borrowed.
func (p *purse) use(amount int64) {
	for _, l := range p.ordered() {
		x := min(amount, l.rest())
		l.used += x
		amount -= x
	}
	p.borrowed += amount
}

// collect pays what is owed from what is available.
func (p *purse) collect() int64 {
	paid := min(p.available(), p.owed)
	p.owed -= paid
	p.debited += paid
	return paid
}

func (p *purse) credit(l purseLot, contra string) {
	if l.kind == "paid" && l.priority == 0 {
		l.priority = 1
	}
	p.step(true, func() {
		p.credited += l.amount
		p.post(contra, -l.amount)
		p.lots = append(p.lots, &l)
		back := min(l.rest(), p.borrowed)
		l.used += back
		p.borrowed -= back
		p.use(p.collect())
	})
	p.events["wallet.credited"]++
}

func (p *purse) lend(limit int64) bool {
	more := limit - p.overdraft
	if -more > p.available() {
		return false
	}
	if more != 0 {
		p.post("overdraft", -more)
		p.step(more > 0, func() {
			p.overdraft = limit
			p.use(p.collect())
		})
	}
	return true
}

// take debits what was not held for; own are lots that pay first and note it
// as refunded.
func (p *purse) take(amount int64, own ...func(covered int64) int64) {
	p.step(false, func() {
		p.owed += amount
		covered := p.collect()
		for _, f := range own {
			covered -= f(covered)
		}
		p.use(covered)
	})
}

// ownLots is a purchase's lots of a kind, which give up to most.
func (p *purse) ownLots(t *purchase, kind string, most int64) func(int64) int64 {
	return func(covered int64) (taken int64) {
		for _, l := range p.ordered() {
			if (l.id == t.id || l.parent == t.id) && l.kind == kind {
				x := min(l.rest(), min(most, covered)-taken)
				l.refunded += x
				taken += x
			}
		}
		return taken
	}
}

func (p *purse) debit(amount int64) bool {
	if amount > p.available() {
		return false
	}
	p.taken += amount
	p.post("adjust:debit", amount)
	p.take(amount)
	return true
}

func (p *purse) expire(now int64) {
	for _, l := range p.ordered() {
		if l.expires == 0 || l.expires > now {
			continue
		}
		x := min(l.rest(), p.available())
		if x == 0 {
			continue
		}
		l.expired += x
		p.gone += x
		p.post(map[string]string{"promo": "promo", "paid": "revenue:expired"}[l.kind], x)
		p.step(false, func() { p.debited += x })
	}
}

// share is total × part ÷ whole, rounded half away from zero, by arithmetic
// without bounds.
func share(total, part, whole int64) int64 {
	if part >= whole {
		return total
	}
	n := new(big.Int).Mul(big.NewInt(2*total), big.NewInt(part))
	n.Add(n, big.NewInt(whole))
	return n.Div(n, big.NewInt(2*whole)).Int64()
}

// forfeit is how much more of the bonus goes.
func (t *purchase) forfeit() int64 {
	more := share(t.bonus, t.refunded+t.lost, t.amount) - t.back
	t.back += more
	return more
}

func (t *purchase) inWallet() bool { return t.plan == "" }

// tell brings the purse to what is known of a purchase.
func (p *purse) tell(t *purchase, now int64) {
	if !t.paid {
		return
	}
	if more := t.seen - t.refunded; more > 0 {
		t.refunded = t.seen
		p.post("stripe_clearing", more)
		p.takePurchase(t, more)
	}
	list := slices.Clone(t.disputes)
	slices.SortFunc(list, func(a, b *quarrel) int { return cmp.Or(cmp.Compare(a.created, b.created), strings.Compare(a.id, b.id)) })
	for _, d := range list {
		if (d.open || d.won || d.lost) && !d.opened {
			d.opened = true
			p.disputes++
			p.post("disputed:"+p.id, d.amount)
			p.takePurchase(t, d.amount)
		}
		if !(d.won || d.lost) || d.closed {
			continue
		}
		d.closed = true
		p.disputes--
		switch {
		case d.lost:
			t.lost += d.amount
			p.post("disputed:"+p.id, -d.amount)
			p.post("stripe_clearing", d.amount)
			bonus := t.forfeit()
			p.post("promo", bonus)
			p.take(bonus, p.ownLots(t, "promo", bonus))
		case !t.inWallet():
			p.post("disputed:"+p.id, -d.amount)
			p.post("revenue:plans", d.amount)
		default:
			p.credit(purseLot{id: d.id, kind: "paid", parent: t.id, amount: d.amount, created: now}, "disputed:"+p.id)
		}
	}
}

func (p *purse) takePurchase(t *purchase, paid int64) {
	bonus := t.forfeit()
	p.post("promo", bonus)
	if !t.inWallet() {
		p.post("revenue:plans", -paid)
		paid = 0
	}
	p.take(paid+bonus, p.ownLots(t, "paid", paid), p.ownLots(t, "promo", bonus))
}

// pay is a payment told for the first time; fee −1 is not known.
func (p *purse) pay(t *purchase, fee, expires, now int64) {
	t.paid = true
	if t.inWallet() {
		p.credit(purseLot{id: t.id, kind: "paid", amount: t.amount, created: now}, "stripe_clearing")
	} else {
		p.post("stripe_clearing", -t.amount)
		p.post("revenue:plans", t.amount)
	}
	if t.bonus > 0 {
		l := purseLot{id: t.id + "/bonus", parent: t.id, kind: "promo", amount: t.bonus, expires: expires, created: now}
		if !t.inWallet() {
			l.id, l.parent = t.id, ""
		}
		p.credit(l, "promo")
	}
	if t.feeKnown = fee >= 0; !t.feeKnown {
		fee = t.amount*29/1000 + 300_000_000
	}
	p.charge(t, fee)
	p.tell(t, now)
	p.events["topup.succeeded"]++
}

func (p *purse) charge(t *purchase, fee int64) {
	p.post("fees:stripe", t.fee-fee)
	p.post("stripe_clearing", fee-t.fee)
	t.fee = fee
}

// worth is what balance − receivable must be in the end, from the facts alone
// and whatever their order was.
func (p *purse) worth() (n int64) {
	n = p.given - p.usage - p.gone - p.taken
	for _, t := range p.topups {
		if !t.paid {
			continue
		}
		lost, out := int64(0), int64(0)
		for _, d := range t.disputes {
			if d.lost && !d.won {
				lost += d.amount
			}
			if (d.open || d.lost) && !d.won {
				out += d.amount
			}
		}
		if t.inWallet() {
			n += t.amount - t.seen - out
		}
		n += t.bonus - share(t.bonus, t.seen+lost, t.amount)
	}
	return n
}

package ledger_test

import (
	"weir/schemas/usage"
)

// oracle is an independent model of the ledger: it takes the records of the
// logs one by one, in plain integers, each paying what it can at once. The
// ledger sums batches first; both must arrive at the same wallets.
type oracle struct {
	wallets map[string]*oracleWallet
	leases  map[string]*oracleLease
	events  int64
	cost    int64
	price   int64
}

type oracleWallet struct{ credited, debited, held, owed, charged, withdrawn int64 }

type oracleLease struct {
	wallet    *oracleWallet
	gateway   string
	live      bool
	granted   int64
	spent     int64 // settled or returned
	seen      map[uint64]bool
	final     uint64
	closingAt int64
}

func (w *oracleWallet) available() int64 { return w.credited - w.debited - w.held }

// collect pays what is owed from what is available.
func (w *oracleWallet) collect() {
	paid := min(w.available(), w.owed)
	w.debited += paid
	w.owed -= paid
}

func (w *oracleWallet) credit(amount int64) {
	w.credited += amount
	w.collect()
}

func (w *oracleWallet) debit(amount int64) (ok bool) {
	if amount > w.available() {
		return false
	}
	w.debited += amount
	w.withdrawn += amount
	return true
}

// slice is the amount a grant must give, or refuse.
func (w *oracleWallet) slice(need, want, gateways int64) (int64, bool) {
	if need > w.available() {
		return 0, false
	}
	return max(need, min(want, w.available()/2/gateways)), true
}

func (o *oracle) grant(id, customer, gateway string, amount int64) {
	l := o.leases[id]
	if l == nil {
		l = &oracleLease{wallet: o.wallets[customer], gateway: gateway, live: true, seen: map[uint64]bool{}}
		o.leases[id] = l
	}
	l.granted += amount
	l.wallet.held += amount
}

func (l *oracleLease) giveBack(amount int64) {
	l.spent += amount
	l.wallet.held -= amount
	l.wallet.collect()
}

func (l *oracleLease) reclaim() {
	l.giveBack(l.granted - l.spent)
	l.live = false
}

// settle takes one record and tells whether it is an event seen for the first time.
func (o *oracle) settle(r *usage.Record, now int64) (fresh bool) {
	l := o.leases[r.LeaseID]
	if l == nil {
		l = &oracleLease{wallet: o.wallets[r.Customer], seen: map[uint64]bool{}}
		o.leases[r.LeaseID] = l
	}
	if l.seen[r.Seq] {
		return false
	}
	l.seen[r.Seq] = true
	rest := l.granted - l.spent
	switch r.Kind {
	case usage.KindReturn:
		if l.live {
			l.giveBack(min(int64(r.Returned), rest))
		}
	case usage.KindClose:
		if l.final = r.Seq; l.live && l.closingAt == 0 {
			l.closingAt = now
		}
	default:
		fresh = true
		o.events++
		o.cost += int64(r.Cost)
		o.price += int64(r.Price)
		l.charge(int64(r.Price), rest)
	}
	if l.live && l.final > 0 && l.sawAll() {
		l.giveBack(l.granted - l.spent)
		l.live = false
	}
	return fresh
}

func (l *oracleLease) charge(price, rest int64) {
	w := l.wallet
	w.charged += price
	covered := int64(0)
	if l.live {
		covered = min(price, rest)
	}
	l.spent += covered
	w.held -= covered
	w.debited += covered
	w.owed += price - covered
	w.collect()
}

func (l *oracleLease) sawAll() bool {
	for seq := uint64(1); seq <= l.final; seq++ {
		if !l.seen[seq] {
			return false
		}
	}
	return true
}

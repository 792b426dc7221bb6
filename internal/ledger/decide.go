package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	// MaxBatch bounds the records of one batch: one manifest, one block in the
	// warehouse, one transaction of well under a second.
	MaxBatch = 10_000
	// maxAmount is the largest cost or price of one event that is believed,
	// $100,000: sums over a batch stay far inside int64. What is above goes to
	// the dead letters.
	maxAmount = 100_000 * money.Dollar
)

// Batch is a run of one partition's records, offsets From ≤ o < To. Every
// record stands in Records or in Dead, each in ascending order of offset.
type Batch struct {
	Topic           string
	Part            int32
	Epoch, From, To int64
	Records         []Settling
	Dead            []DeadLetter
}

// Settling is one record to settle. Mismatch, if not empty, says how the
// processor's own rating differs from the promise, which settles all the same.
type Settling struct {
	Offset   int64
	Rec      *usage.Record
	Mismatch string
}

// DeadLetter is a record that cannot be decoded, rated or billed. Lease, Seq
// and Customer are set as far as they could be read; the seq counts as seen.
type DeadLetter struct {
	Offset          int64
	Lease, Customer string
	Seq             uint64
	Bytes           []byte
	Reason          string
}

// Settled is the outcome of a batch: its manifest and the indexes of Records
// that are events seen for the first time, in order: the manifest's rows.
// Repeats are records that are new but report usage from outside that was
// billed before: they change nothing and have no row.
// Dead are the records that nothing but settling found to be unbillable; the
// batch's own dead letters are not among them.
type Settled struct {
	Manifest Manifest
	Fresh    []int
	Repeats  []int
	Dead     []DeadLetter
}

func (b *Batch) id() string { return fmt.Sprintf("%s/%d/%d", b.Topic, b.Part, b.From) }

// check refuses what is not one run of a partition.
func (b *Batch) check() error {
	if b.Topic == "" || b.From < 0 || b.To <= b.From {
		return fmt.Errorf("BUG: batch %s ends at %d", b.id(), b.To)
	}
	if n := len(b.Records) + len(b.Dead); n > MaxBatch {
		return fmt.Errorf("BUG: batch %s has %d records", b.id(), n)
	}
	last, dead := b.From-1, b.Dead
	for i := 0; i < len(b.Records) || len(dead) > 0; {
		var next int64
		if i == len(b.Records) || len(dead) > 0 && dead[0].Offset < b.Records[i].Offset {
			next, dead = dead[0].Offset, dead[1:]
		} else {
			r := b.Records[i].Rec
			if r == nil || r.Seq == 0 {
				return fmt.Errorf("BUG: batch %s has no record at offset %d", b.id(), b.Records[i].Offset)
			}
			next = b.Records[i].Offset
			i++
		}
		if next <= last || next >= b.To {
			return fmt.Errorf("BUG: offset %d of batch %s is out of order", next, b.id())
		}
		last = next
	}
	return nil
}

// lastEvent is the event id of the last record, "" when it could not be read.
func (b *Batch) lastEvent() string {
	var r *usage.Record
	offset := int64(-1)
	if n := len(b.Records); n > 0 {
		r, offset = b.Records[n-1].Rec, b.Records[n-1].Offset
	}
	if n := len(b.Dead); n > 0 && b.Dead[n-1].Offset > offset {
		if r = nil; b.Dead[n-1].Lease != "" {
			r = &usage.Record{LeaseID: b.Dead[n-1].Lease, Seq: b.Dead[n-1].Seq}
		}
	}
	if r == nil {
		return ""
	}
	return r.EventID()
}

// outcome is what a batch changes: everything that Settle then writes.
type outcome struct {
	settled    Settled
	leases     []*leaseRow
	wallets    []walletEffect
	lines      []posting
	spends     map[spendKey]spendSum
	crossings  []crossing
	dead       []DeadLetter
	mismatches []Settling
}

type spendKey struct{ scope, period string }

// How scopes and periods of spend begin.
const (
	scopeCustomer = "customer:"
	scopeKey      = "key:"
	periodDay     = "day:"
	periodMonth   = "month:"
	periodAll     = "all"
)

// decision is the state of one decide.
type decision struct {
	outcome
	batch    *Batch
	outside  map[outsideID]eventID // whose usage from outside is
	now      int64
	leaseOf  map[string]*leaseRow
	walletOf map[string]walletRow
	changeOf map[string]*walletChange
	costOf   map[string]money.Nano // by provider
	events   int64                 // counted beside the manifest, for the books
	days     map[int64][2]string   // names of a day's periods
}

type walletChange struct {
	change
	events int64 // billed usage
}

// books is what a batch is settled against: the leases and wallets that it
// names, and which records the usage from outside in it belongs to.
type books struct {
	leases  map[string]*leaseRow
	wallets map[string]walletRow
	outside map[outsideID]eventID
}

// decide settles a batch on paper: which records are new, what each takes from
// its lease and its wallet, and the postings that follow. It is a pure function
// of the batch, what it is settled against, and the clock; the rows of
// leases become its own and are changed.
//
// Records of a lease are taken in the order of their offsets. Facts are never
// refused: a record that cannot be billed becomes a dead letter whose seq
// counts as seen.
func decide(b *Batch, with books, now int64) (outcome, error) {
	d := decision{batch: b, outside: with.outside, now: now, leaseOf: with.leases, walletOf: with.wallets,
		changeOf: map[string]*walletChange{}, costOf: map[string]money.Nano{}, days: map[int64][2]string{}}
	d.spends = map[spendKey]spendSum{}
	d.settled.Manifest = Manifest{ID: b.id(), Topic: b.Topic, Part: b.Part, From: b.From, To: b.To}
	dead := b.Dead
	for i := range b.Records {
		for len(dead) > 0 && dead[0].Offset < b.Records[i].Offset {
			d.bury(dead[0])
			dead = dead[1:]
		}
		d.take(i)
	}
	for _, l := range dead {
		d.bury(l)
	}
	d.finishLeases()
	d.finishManifest()
	if err := d.finishWallets(); err != nil {
		return outcome{}, err
	}
	return d.outcome, nil
}

// take settles one record.
func (d *decision) take(i int) {
	s := &d.batch.Records[i]
	r := s.Rec
	l := d.lease(r.LeaseID, r.Customer, r.Gateway)
	if !l.see(r.Seq) {
		return // a repeated delivery
	}
	l.changed = true
	switch r.Kind {
	case usage.KindUsage, usage.KindUnknown:
		if why := d.unbillable(l, r); why != "" {
			letter := DeadLetter{Offset: s.Offset, Lease: r.LeaseID, Customer: r.Customer, Seq: r.Seq,
				Bytes: usage.AppendRecord(nil, r), Reason: why}
			d.dead = append(d.dead, letter)
			d.settled.Dead = append(d.settled.Dead, letter)
			break
		}
		if id, ok := outsideOf(r); ok && d.outside[id] != (eventID{r.LeaseID, r.Seq}) {
			d.settled.Repeats = append(d.settled.Repeats, i)
			break
		}
		d.settled.Fresh = append(d.settled.Fresh, i)
		if s.Mismatch != "" {
			d.mismatches = append(d.mismatches, *s)
		}
		d.bill(l, r)
	case usage.KindReturn:
		d.giveBack(l, min(r.Returned, l.Rest()))
	case usage.KindClose:
		d.close(l, r)
	}
	d.finishClose(l)
}

// lease finds the lease of a record. One that was never granted here becomes a
// closed lease of nothing: what happens under it settles as late.
func (d *decision) lease(id, customer, gateway string) *leaseRow {
	l := d.leaseOf[id]
	if l == nil {
		l = &leaseRow{isNew: true, createdAt: d.now,
			Lease: Lease{ID: id, Customer: customer, Gateway: gateway, State: LeaseClosed}}
		d.leaseOf[id] = l
	}
	return l
}

func (d *decision) change(customer string) *walletChange {
	c := d.changeOf[customer]
	if c == nil {
		c = &walletChange{}
		d.changeOf[customer] = c
	}
	return c
}

// unbillable says why an event cannot be booked on a wallet.
func (d *decision) unbillable(l *leaseRow, r *usage.Record) string {
	switch _, known := d.walletOf[r.Customer]; {
	case !known:
		return fmt.Sprintf("customer %q has no wallet", r.Customer)
	case l.Customer != r.Customer:
		return fmt.Sprintf("it names customer %q, its lease belongs to %q", r.Customer, l.Customer)
	case r.Price < 0 || r.Cost < 0 || r.Price > maxAmount || r.Cost > maxAmount:
		return fmt.Sprintf("cost %s or price %s is out of range", r.Cost, r.Price)
	}
	return ""
}

// bill books one event: its lease pays as far as it reaches, the wallet the
// rest. A lease that holds nothing any more leaves all of it to the wallet.
func (d *decision) bill(l *leaseRow, r *usage.Record) {
	covered := min(r.Price, l.Rest())
	l.Settled += covered
	l.Count++
	l.Cost += r.Cost
	l.Price += r.Price

	c := d.change(r.Customer)
	c.covered += covered
	c.freed += covered
	c.overrun += r.Price - covered
	if r.Row == usage.RowUsage {
		c.events++
	}
	if r.Cost != 0 {
		d.costOf[r.Provider] += r.Cost
	}
	d.events++
	d.spend(r)
	d.list(r)
}

// list enters an event into the manifest.
func (d *decision) list(r *usage.Record) {
	m := &d.settled.Manifest
	var text [128]byte
	m.Count++
	m.Cost += r.Cost
	m.Price += r.Price
	m.Hash += xxhash.Sum64(r.AppendTieText(text[:0]))
	if r.Row == usage.RowLeakage {
		m.LeakCount++
		m.LeakReserved += min(r.Reserved, maxAmount)
	}
	m.Seqs = append(m.Seqs, SeqRange{Lease: r.LeaseID, From: r.Seq, To: r.Seq})
}

// spend adds an event's price to what its customer and key spent on its day,
// in its month and ever. What it cost is kept for the customer's month alone,
// whose margin is watched.
func (d *decision) spend(r *usage.Record) {
	if r.Price == 0 && r.Cost == 0 {
		return
	}
	day := r.TimeMs / int64(24*time.Hour/time.Millisecond)
	names, ok := d.days[day]
	if !ok {
		t := time.UnixMilli(r.TimeMs).UTC()
		names = [2]string{periodDay + t.Format(time.DateOnly), periodMonth + t.Format("2006-01")}
		d.days[day] = names
	}
	d.addSpend(scopeCustomer+r.Customer, names[1], spendSum{r.Price, r.Cost})
	if r.Price == 0 {
		return
	}
	d.addSpend(scopeCustomer+r.Customer, names[0], spendSum{price: r.Price})
	d.addSpend(scopeCustomer+r.Customer, periodAll, spendSum{price: r.Price})
	if r.KeyID == "" {
		return
	}
	for _, period := range [3]string{names[0], names[1], periodAll} {
		d.addSpend(scopeKey+r.KeyID, period, spendSum{price: r.Price})
	}
}

func (d *decision) addSpend(scope, period string, more spendSum) {
	s := d.spends[spendKey{scope, period}]
	d.spends[spendKey{scope, period}] = spendSum{s.price + more.price, s.cost + more.cost}
}

// giveBack returns part of what a lease holds to its wallet. One that is
// closed or was never granted holds nothing.
func (d *decision) giveBack(l *leaseRow, amount money.Nano) {
	if amount > 0 {
		l.Returned += amount
		d.change(l.Customer).freed += amount
	}
}

// close notes a close record, of several the last one written. On a lease
// that no longer holds anything it changes no money; its totals are kept to be
// compared.
func (d *decision) close(l *leaseRow, r *usage.Record) {
	if int64(r.Seq) < l.FinalSeq {
		return
	}
	l.FinalSeq = int64(r.Seq)
	l.closeCount, l.closeCost, l.closePrice = int64(r.Count), r.CostSum, r.PriceSum
	if l.State == LeaseOpen {
		l.State, l.closingAt = LeaseClosing, d.now
	}
}

// finishClose runs after every record: it ends a closing lease once no seq up
// to its close record is missing, gives back what it still holds, and compares
// the totals.
func (d *decision) finishClose(l *leaseRow) {
	if !l.complete() {
		return
	}
	if l.State == LeaseClosing {
		d.giveBack(l, l.Rest())
		l.State = LeaseClosed
	}
	l.closeDiffers = l.differs(0, 0, 0)
}

// bury keeps a dead letter of the caller's; its seq, if known, counts as seen.
// One that was buried before is a repeated delivery.
func (d *decision) bury(dead DeadLetter) {
	if dead.Lease != "" && dead.Seq > 0 {
		l := d.lease(dead.Lease, dead.Customer, "")
		if !l.see(dead.Seq) {
			return
		}
		l.changed = true
		defer d.finishClose(l)
	}
	d.dead = append(d.dead, dead)
}

func (d *decision) finishLeases() {
	for _, l := range d.leaseOf {
		if l.changed || l.isNew {
			l.nGaps = int64(len(l.gaps))
			d.leases = append(d.leases, l)
		}
	}
	slices.SortFunc(d.leases, func(a, b *leaseRow) int { return cmp.Compare(a.ID, b.ID) })
}

// finishManifest joins the events' seqs to ranges.
func (d *decision) finishManifest() {
	m := &d.settled.Manifest
	slices.SortFunc(m.Seqs, func(a, b SeqRange) int {
		return cmp.Or(cmp.Compare(a.Lease, b.Lease), cmp.Compare(a.From, b.From))
	})
	n := 0
	for i, s := range m.Seqs {
		if i > 0 && m.Seqs[n-1].Lease == s.Lease && m.Seqs[n-1].To+1 == s.From {
			m.Seqs[n-1].To = s.To
		} else {
			m.Seqs[n] = s
			n++
		}
	}
	m.Seqs = m.Seqs[:n]
	m.Appended = m.Count == 0 // nothing to append
}

// finishWallets decides one effect per wallet and the batch's postings: per
// wallet what its customer sees, then revenue for the batch, then what each
// provider costs.
func (d *decision) finishWallets() error {
	var revenue money.Nano
	for _, id := range slices.Sorted(maps.Keys(d.changeOf)) {
		c := d.changeOf[id]
		w, ok := d.walletOf[id]
		if !ok {
			return errors.New("BUG: lease of a customer without wallet: " + id)
		}
		m, err := w.pay(c.change)
		if err != nil {
			return err
		}
		revenue += c.covered + c.overrun
		d.lines = append(d.lines, m.lines(id, KindUsage, c.events)...)
		if m == (effect{}) {
			continue
		}
		d.wallets = append(d.wallets, walletEffect{w.Wallet, m})
		if x, something := w.crossed(m); something {
			d.crossings = append(d.crossings, x)
		}
	}
	if d.events > 0 {
		d.lines = append(d.lines, posting{account: accountRevenue, kind: KindUsage, amount: revenue, events: d.events})
	}
	for _, provider := range slices.Sorted(maps.Keys(d.costOf)) {
		cost := d.costOf[provider]
		d.lines = append(d.lines, posting{account: accountCOGS + provider, kind: KindUsage, amount: -cost},
			posting{account: accountPayable + provider, kind: KindUsage, amount: cost})
	}
	return nil
}

func compareSpends(a, b spendKey) int {
	return cmp.Or(cmp.Compare(a.scope, b.scope), cmp.Compare(a.period, b.period))
}

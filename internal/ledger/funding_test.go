package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// till is a ledger with one customer, acme, for tests that follow single
// cases with figures worked out by hand.
type till struct {
	*testing.T
	ctx    context.Context
	db     *ledger.DB
	now    time.Time
	epoch  int64
	offset int64
	seq    uint64
}

// eachTill runs fn on every backend with $balance in acme's wallet.
func eachTill(t *testing.T, balance money.Nano, fn func(*till)) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		k := &till{T: t, ctx: t.Context(), now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
		c.Now = func() time.Time { return k.now }
		k.db = ledgertest.Open(t, c)
		k.tx(func(tx *ledger.Tx) error {
			_, err := tx.CreateCustomer(k.ctx, ledger.Customer{ID: "acme"})
			if err == nil && balance > 0 {
				_, _, err = tx.Credit(k.ctx, ledger.Credit{Customer: "acme", Amount: balance})
			}
			return err
		})
		_, err := k.db.StartSession(k.ctx, ledger.Session{ID: "s", Gateway: "g", TTL: time.Hour})
		k.must(err)
		cursor, err := k.db.AcquirePartition(k.ctx, "t", 0)
		k.must(err)
		k.epoch = cursor.Epoch
		fn(k)
		b, err := k.db.Books(k.ctx)
		k.must(err)
		for _, broken := range b.Breaks {
			t.Errorf("break %+v", broken)
		}
	})
}

func (k *till) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func (k *till) tx(fn func(*ledger.Tx) error) {
	k.Helper()
	k.must(k.db.Tx(k.ctx, fn))
}

// settle settles one batch of events of the lease "l".
func (k *till) settle(recs ...usage.Record) ledger.Settled {
	k.Helper()
	b := ledger.Batch{Topic: "t", Epoch: k.epoch, From: k.offset, To: k.offset + int64(len(recs))}
	for i := range recs {
		r := &recs[i]
		if r.Kind == 0 {
			r.Kind, r.Row = usage.KindUsage, usage.RowUsage
		}
		if r.LeaseID == "" {
			k.seq++
			r.LeaseID, r.Seq = "l", k.seq
		}
		r.Customer, r.TimeMs = "acme", k.now.UnixMilli()
		b.Records = append(b.Records, ledger.Settling{Offset: k.offset + int64(i), Rec: r})
	}
	out, err := k.db.Settle(k.ctx, b)
	k.must(err)
	k.offset = b.To
	return out
}

// told lists the events of a type, as JSON, oldest first.
func (k *till) told(kind string) (list []string) {
	k.Helper()
	for _, d := range k.deliveries() {
		if d.Event.Type == kind {
			list = append(list, string(d.Event.Data.(json.RawMessage)))
		}
	}
	return list
}

func (k *till) deliveries() []ledger.Delivery {
	k.Helper()
	list, _, err := k.db.Deliveries(k.ctx, "all", ledger.Page{})
	k.must(err)
	slices.Reverse(list)
	return list
}

// listen adds an endpoint that wants everything.
func (k *till) listen() {
	k.tx(func(tx *ledger.Tx) error {
		_, err := tx.AddEndpoint(k.ctx, ledger.Endpoint{ID: "all", URL: "https://example.com", Secret: []byte{1}})
		return err
	})
}

func (k *till) wallet() ledger.Wallet {
	k.Helper()
	w, err := k.db.Wallet(k.ctx, "acme")
	k.must(err)
	return w
}

// paid makes a top-up and its payment.
func (k *till) paid(id string, amount money.Nano) {
	k.Helper()
	k.tx(func(tx *ledger.Tx) error {
		_, err := tx.CreateTopup(k.ctx, ledger.Topup{ID: id, Customer: "acme", Kind: ledger.TopupCheckout, Amount: amount})
		if err == nil {
			_, _, err = tx.FundTopup(k.ctx, id, ledger.Payment{PaymentIntent: "pi_" + id, Amount: amount})
		}
		return err
	})
}

// TestFeesOfAMonth: $4.50 of usage that cost $1.50. Charged alone the payment
// costs 2.9 % of 4.50 + 0.30 = 0.4305, which leaves 2.5695; out of $8 top-ups
// it bears 4.50 ÷ 8 of 0.532 = 0.29925, which leaves 2.70075.
func TestFeesOfAMonth(t *testing.T) {
	for _, c := range []struct{ topup, fee, net money.Nano }{{4_500_000_000, 430_500_000, 2_569_500_000}, {8_000_000_000, 532_000_000, 2_700_750_000}} {
		eachTill(t, 0, func(k *till) {
			k.paid("tup_1", c.topup)
			k.settle(usage.Record{Price: 4_500_000_000, Cost: 1_500_000_000})
			fees, err := k.db.FundingFees(k.ctx, "acme", "nobody")
			k.must(err)
			if want := (ledger.FundingFees{Fees: c.fee, Funded: c.topup}); fees["acme"] != want || len(fees) != 1 {
				k.Errorf("fees %+v, want %+v", fees, want)
			}
			const price, cost = 4_500_000_000, 1_500_000_000
			if net := price - cost - fees["acme"].Fees*(price/1e6)/(fees["acme"].Funded/1e6); net != c.net {
				k.Errorf("net %s, want %s", net, c.net)
			}
		})
	}
}

// TestPaymentsOfOthers: one payment credits one top-up, one top-up takes one
// payment, and money that came is credited whatever the top-up's state was.
func TestPaymentsOfOthers(t *testing.T) {
	eachTill(t, 0, func(k *till) {
		k.paid("tup_1", 10e9)
		k.tx(func(tx *ledger.Tx) error {
			_, err := tx.CreateTopup(k.ctx, ledger.Topup{ID: "tup_2", Customer: "acme", Kind: ledger.TopupAuto, Amount: 10e9, Bonus: 5e9})
			return err
		})
		pay := func(id, pi string, amount money.Nano) error {
			return k.db.Tx(k.ctx, func(tx *ledger.Tx) error {
				_, _, err := tx.FundTopup(k.ctx, id, ledger.Payment{PaymentIntent: pi, Amount: amount})
				return err
			})
		}
		if err := pay("tup_2", "pi_tup_1", 10e9); !errors.Is(err, ledger.ErrConflict) {
			k.Errorf("the payment of another top-up: %v", err)
		}
		if err := pay("tup_1", "pi_other", 10e9); !errors.Is(err, ledger.ErrConflict) {
			k.Errorf("a second payment of a top-up: %v", err)
		}
		second := func() error {
			return k.db.Tx(k.ctx, func(tx *ledger.Tx) error {
				_, err := tx.CreateTopup(k.ctx, ledger.Topup{ID: "tup_3", Customer: "acme", Kind: ledger.TopupAuto, Amount: 10e9})
				return err
			})
		}
		if err := second(); !errors.Is(err, ledger.ErrConflict) {
			k.Errorf("a second automatic top-up under way: %v", err)
		}
		k.tx(func(tx *ledger.Tx) error {
			_, err := tx.MoveTopup(k.ctx, "tup_2", []string{ledger.TopupCreated}, ledger.TopupFailed, nil)
			return err
		})
		k.must(second())
		k.must(pay("tup_2", "pi_2", 9e9)) // less than was asked for: no bonus
		if w := k.wallet(); w.Balance() != 19e9 {
			k.Errorf("balance %s, want 19", w.Balance())
		}
	})
}

// TestDepleted: a refused grant tells it once, and money ends it.
func TestDepleted(t *testing.T) {
	eachTill(t, 1e9, func(k *till) {
		k.listen()
		for i := range 3 {
			_, _, err := k.db.Grant(k.ctx, ledger.GrantRequest{LeaseID: string(rune('a' + i)), Customer: "acme", Session: "s", Gateway: "g", GrantNo: 1, Need: 2e9})
			if !errors.Is(err, ledger.ErrInsufficient) {
				k.Fatal(err)
			}
		}
		want := `{"customer":"acme","balance":"1.00","available":"1.00","receivable":"0.00"}`
		if got := k.told(ledger.EventDepleted); !slices.Equal(got, []string{want}) {
			k.Errorf("told %v", got)
		}
		k.paid("tup_1", 5e9)
		k.paid("tup_2", 5e9)
		if got := k.told(ledger.EventRecovered); len(got) != 1 || len(k.told(ledger.EventTopupSucceeded)) != 2 {
			k.Errorf("told %v", got)
		}
	})
}

// TestSpendLimitsTold: keys and customers without a limit are never told of,
// a limit once per period, of a key with its customer.
func TestSpendLimitsTold(t *testing.T) {
	eachTill(t, 100e9, func(k *till) {
		k.listen()
		k.tx(func(tx *ledger.Tx) error {
			return errors.Join(tx.CreateKey(k.ctx, ledger.Key{ID: "k1", Customer: "acme", Hash: []byte{1}, Limits: ledger.Limits{SpendPerMonth: 3e9}}),
				tx.CreateKey(k.ctx, ledger.Key{ID: "k2", Customer: "acme", Hash: []byte{1}}))
		})
		k.settle(usage.Record{Price: 2e9, KeyID: "k1"}, usage.Record{Price: 2e9, KeyID: "k2"})
		if got := k.told(ledger.EventLimitReached); len(got) != 0 {
			k.Errorf("told %v", got)
		}
		k.settle(usage.Record{Price: 1e9, KeyID: "k1"}, usage.Record{Price: 9e9, KeyID: "k2"})
		k.settle(usage.Record{Price: 5e9, KeyID: "k1"})
		want := `{"scope":"key","id":"k1","period":"month:2026-11","limit":"3.00","spent":"3.00"}`
		if got := k.told(ledger.EventLimitReached); !slices.Equal(got, []string{want}) {
			k.Errorf("told %v", got)
		}
		if d := k.deliveries(); d[len(d)-1].Event.Customer != "acme" {
			k.Errorf("of %q", d[len(d)-1].Event.Customer)
		}
	})
}

// TestAutoTopupDue: a wallet is due once it falls below its threshold, as long
// as it is below, and not while a top-up is under way or put off.
func TestAutoTopupDue(t *testing.T) {
	eachTill(t, 10e9, func(k *till) {
		auto := ledger.AutoTopup{Customer: "acme", Enabled: true, Threshold: 5e9, Amount: 20e9, CapPerDay: 100e9, MinInterval: time.Minute}
		set := func() { k.tx(func(tx *ledger.Tx) error { return tx.SetAutoTopup(k.ctx, auto) }) }
		due := func(want int, when string) {
			k.Helper()
			if list, err := k.db.DueTopups(k.ctx, 10); err != nil || len(list) != want {
				k.Errorf("%s: due %v, %v", when, list, err)
			}
		}
		done := func() (ok bool) {
			k.tx(func(tx *ledger.Tx) (err error) {
				ok, err = tx.DoneDue(k.ctx, "acme")
				return err
			})
			return ok
		}
		set()
		k.settle(usage.Record{Price: 5e9})
		due(0, "at the threshold")
		k.settle(usage.Record{Price: 1})
		due(1, "below it")
		if done() {
			k.Error("it was struck off while it is below")
		}
		auto.NextTryAt = k.now.Add(time.Hour)
		set()
		due(0, "put off")
		k.now = k.now.Add(time.Hour)
		due(1, "an hour later")
		k.tx(func(tx *ledger.Tx) error {
			_, err := tx.CreateTopup(k.ctx, ledger.Topup{ID: "tup_1", Customer: "acme", Kind: ledger.TopupAuto, Amount: 20e9})
			return err
		})
		due(0, "with one under way")
		k.tx(func(tx *ledger.Tx) error {
			s, err := tx.AutoTopupSpent(k.ctx, "acme", k.now)
			if err == nil && (s.Day != 20e9 || s.Month != 20e9 || !s.Last.Equal(k.now)) {
				k.Errorf("spent %+v", s)
			}
			if err == nil {
				_, _, err = tx.FundTopup(k.ctx, "tup_1", ledger.Payment{PaymentIntent: "pi_1", Amount: 20e9})
			}
			return err
		})
		if !done() {
			k.Error("it is above the threshold and was not struck off")
		}
		auto.Threshold = 100e9
		set()
		due(1, "below a new threshold")
		auto.Enabled = false
		set()
		due(0, "off")
		if s, err := k.db.AutoTopupSpent(k.ctx, "acme", k.now.AddDate(0, 0, 1)); err != nil || s.Day != 0 || s.Month != 20e9 {
			k.Errorf("a day later spent %+v, %v", s, err)
		}
	})
}

// TestOutside: usage from outside is billed once under its own identity,
// whichever lease and batch it comes by, and a gateway's totals, which count
// the repeat, are no break.
func TestOutside(t *testing.T) {
	eachTill(t, 10e9, func(k *till) {
		for _, lease := range []string{"l1", "l2"} {
			_, _, err := k.db.Grant(k.ctx, ledger.GrantRequest{LeaseID: lease, Customer: "acme", Session: "s", Gateway: "g", GrantNo: 1, Need: 3e9})
			k.must(err)
		}
		event := func(lease string, seq uint64, source string) usage.Record {
			return usage.Record{LeaseID: lease, Seq: seq, Price: 1e9, Cost: 5e8, Source: source, ExternalID: "e"}
		}
		first := k.settle(event("l1", 1, "a"), event("l1", 2, "b"), event("l1", 3, "a"), event("l1", 1, "a"))
		if !slices.Equal(first.Fresh, []int{0, 1}) || !slices.Equal(first.Repeats, []int{2}) || first.Manifest.Count != 2 {
			k.Errorf("first %+v", first)
		}
		second := k.settle(event("l2", 1, "a"), event("l1", 2, "b"), event("l2", 2, "c"), event("l2", 3, ""))
		if !slices.Equal(second.Fresh, []int{2, 3}) || !slices.Equal(second.Repeats, []int{0}) {
			k.Errorf("second %+v", second)
		}
		k.settle(usage.Record{Kind: usage.KindClose, LeaseID: "l1", Seq: 4, Count: 3, PriceSum: 3e9, CostSum: 15e8},
			usage.Record{Kind: usage.KindClose, LeaseID: "l2", Seq: 4, Count: 3, PriceSum: 3e9, CostSum: 15e8})
		if w := k.wallet(); w.Balance() != 6e9 || w.Held != 0 || w.Receivable != 0 {
			k.Errorf("wallet %+v", w)
		}
		if lease, seq, err := k.db.OutsideEvent(k.ctx, "acme", "a", "e"); lease != "l1" || seq != 1 || err != nil {
			k.Errorf("billed by %s:%d, %v", lease, seq, err)
		}
		if _, _, err := k.db.OutsideEvent(k.ctx, "acme", "a", "other"); !errors.Is(err, ledger.ErrNotFound) {
			k.Error(err)
		}
	})
}

// TestDeliveries: an event waits for each endpoint that wants it, one worker
// at a time has it, and a replay begins anew.
func TestDeliveries(t *testing.T) {
	eachTill(t, 0, func(k *till) {
		k.listen()
		k.tx(func(tx *ledger.Tx) error {
			_, err := tx.AddEndpoint(k.ctx, ledger.Endpoint{ID: "low", URL: "https://example.org", Secret: []byte{1}, Events: []string{ledger.EventLowBalance}})
			return err
		})
		k.paid("tup_1", 5e9) // wallet.credited, topup.succeeded
		endpoints, err := k.db.DueEndpoints(k.ctx)
		if err != nil || len(endpoints) != 1 || endpoints[0].ID != "all" {
			k.Fatalf("due %+v, %v", endpoints, err)
		}
		claim := func() (ledger.Delivery, bool) {
			k.Helper()
			d, found, err := k.db.ClaimDelivery(k.ctx, "all", time.Minute)
			k.must(err)
			return d, found
		}
		a, _ := claim()
		b, found := claim()
		if _, more := claim(); !found || more || a.Event.ID == b.Event.ID {
			k.Fatalf("claimed %+v, %+v, more: %v", a, b, more)
		}
		k.must(k.db.Delivered(k.ctx, a.Event.ID, "all", 200))
		k.now = k.now.Add(2 * time.Minute)
		again, found := claim() // its worker died
		if !found || again.Event.ID != b.Event.ID {
			k.Fatalf("claimed %+v", again)
		}
		again.LastStatus, again.LastError = 500, "no"
		k.must(k.db.DeliveryFailed(k.ctx, again, time.Time{}))
		k.now = k.now.Add(time.Hour)
		if d, found := claim(); found {
			k.Fatalf("claimed %+v", d)
		}
		states := map[string]string{}
		for _, d := range k.deliveries() {
			states[d.Event.ID] = d.State
		}
		if states[a.Event.ID] != ledger.DeliveryDone || states[b.Event.ID] != ledger.DeliveryFailed {
			k.Errorf("states %v", states)
		}
		k.tx(func(tx *ledger.Tx) error {
			n, err := tx.Replay(k.ctx, "all", "", k.now.Add(-24*time.Hour), k.now)
			if n != 2 {
				k.Errorf("%d events replayed", n)
			}
			return errors.Join(err, tx.DisableEndpoint(k.ctx, "low"))
		})
		if d, found := claim(); !found || d.Tries != 0 {
			k.Errorf("claimed %+v", d)
		}
	})
}

// TestThresholds: a balance is low once it is below, not at, the threshold;
// a wallet that owes is depleted until money is there again, not until some came.
func TestThresholds(t *testing.T) {
	eachTill(t, 10e9, func(k *till) {
		k.listen()
		k.tx(func(tx *ledger.Tx) error { return tx.SetLowBalance(k.ctx, "acme", []money.Nano{5e9}) })
		told := func(when string, low, depleted, recovered int) {
			k.Helper()
			got := [3]int{len(k.told(ledger.EventLowBalance)), len(k.told(ledger.EventDepleted)), len(k.told(ledger.EventRecovered))}
			if got != [3]int{low, depleted, recovered} {
				k.Errorf("%s: told %v", when, got)
			}
		}
		credit := func(amount money.Nano) {
			k.tx(func(tx *ledger.Tx) error {
				_, _, err := tx.Credit(k.ctx, ledger.Credit{Customer: "acme", Amount: amount})
				return err
			})
		}
		k.settle(usage.Record{Price: 5e9})
		told("at the threshold", 0, 0, 0)
		k.settle(usage.Record{Price: 1})
		told("below it", 1, 0, 0)
		k.settle(usage.Record{Price: 8e9})
		told("with a debt", 1, 1, 0)
		credit(1e9)
		told("with less debt", 1, 1, 0)
		credit(10e9)
		told("with money", 1, 1, 1)
		if w := k.wallet(); w.Balance() != 7_999_999_999 || w.Receivable != 0 {
			k.Errorf("wallet %+v", w)
		}
	})
}

// TestExpiryUnderLease: what a lease holds of an expired lot is taken when it
// comes back, and what the lease used of it is usage.
func TestExpiryUnderLease(t *testing.T) {
	eachTill(t, 0, func(k *till) {
		k.tx(func(tx *ledger.Tx) error {
			_, _, err := tx.Credit(k.ctx, ledger.Credit{Customer: "acme", Amount: 10e9, Kind: ledger.Promo, ExpiresAt: k.now.Add(time.Hour)})
			return err
		})
		_, _, err := k.db.Grant(k.ctx, ledger.GrantRequest{LeaseID: "l", Customer: "acme", Session: "s", Gateway: "g", GrantNo: 1, Need: 6e9})
		k.must(err)
		expire := func(when string, lots int, available, used, expired money.Nano) {
			k.Helper()
			n, err := k.db.ExpireLots(k.ctx)
			k.must(err)
			list, err := k.db.Lots(k.ctx, "acme")
			k.must(err)
			w, l := k.wallet(), list[0]
			if n != lots || w.Available() != available || w.Receivable != 0 || l.Used != used || l.Expired != expired {
				k.Errorf("%s: %d lots, %+v, %+v", when, n, w, l)
			}
		}
		k.now = k.now.Add(time.Hour - time.Microsecond)
		expire("before its time", 0, 4e9, 0, 0)
		k.now = k.now.Add(time.Microsecond)
		expire("with a lease open", 1, 0, 0, 4e9)
		expire("again", 0, 0, 0, 4e9)
		k.settle(usage.Record{Price: 2e9}, usage.Record{Kind: usage.KindClose, LeaseID: "l", Seq: 2, Count: 1, PriceSum: 2e9})
		expire("after it", 1, 0, 2e9, 8e9)
	})
}

// TestOperatorRefund: only what is neither spent nor held goes back.
func TestOperatorRefund(t *testing.T) {
	eachTill(t, 0, func(k *till) {
		k.paid("tup_1", 10e9)
		k.settle(usage.Record{LeaseID: "late", Seq: 1, Price: 1e9})
		_, _, err := k.db.Grant(k.ctx, ledger.GrantRequest{LeaseID: "l", Customer: "acme", Session: "s", Gateway: "g", GrantNo: 1, Need: 6e9})
		k.must(err)
		refund := func(amount money.Nano) error {
			return k.db.Tx(k.ctx, func(tx *ledger.Tx) error {
				_, _, err := tx.CreateRefund(k.ctx, ledger.Refund{Topup: "tup_1", Amount: amount})
				return err
			})
		}
		if err := refund(10e9); !errors.Is(err, ledger.ErrSpent) {
			k.Errorf("of what is spent: %v", err)
		}
		if err := refund(4e9); !errors.Is(err, ledger.ErrInsufficient) {
			k.Errorf("of what is held: %v", err)
		}
		k.must(refund(2e9))
		k.settle(usage.Record{Kind: usage.KindClose, LeaseID: "l", Seq: 1})
		k.must(refund(0)) // all that is left
		if w := k.wallet(); w.Balance() != 0 || w.Receivable != 0 {
			k.Errorf("wallet %+v", w)
		}
		if list, err := k.db.LiveRefunds(k.ctx, 10); err != nil || len(list) != 2 || list[0].Amount+list[1].Amount != 9e9 {
			k.Errorf("refunds %+v, %v", list, err)
		}
	})
}

// TestOverdraft: what is lent is used last, is repaid first, and cannot be
// taken back while it is in use.
func TestOverdraft(t *testing.T) {
	eachTill(t, 1e9, func(k *till) {
		lend := func(limit money.Nano) error {
			return k.db.Tx(k.ctx, func(tx *ledger.Tx) error {
				_, err := tx.SetOverdraft(k.ctx, "acme", limit)
				return err
			})
		}
		k.must(lend(5e9))
		k.settle(usage.Record{Price: 4e9})
		if w := k.wallet(); w.Credited != 1e9 || w.Balance() != -3e9 || w.Available() != 2e9 || w.Receivable != 0 {
			k.Errorf("wallet %+v", w)
		}
		if err := lend(2_999_999_999); !errors.Is(err, ledger.ErrInsufficient) {
			k.Errorf("less than is in use: %v", err)
		}
		k.must(lend(3e9))
		k.paid("tup_1", 10e9)
		lots, err := k.db.Lots(k.ctx, "acme")
		k.must(err)
		if w := k.wallet(); w.Balance() != 7e9 || w.Available() != 10e9 || lots[0].ID != "tup_1" || lots[0].Used != 3e9 {
			k.Errorf("wallet %+v, lots %+v", w, lots)
		}
	})
}

package notify_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// platform is a rig whose one endpoint is told everything about acme, a
// customer with $10.
type platform struct {
	*rig
	receiver *receiver
	seen     int
	epoch    int64
	seq      uint64
}

// eachPlatform runs fn on every engine, at noon of a day.
func eachPlatform(t *testing.T, fn func(*platform)) {
	each(t, func(r *rig) {
		p := &platform{rig: r, receiver: r.receiver(nil)}
		r.to(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))
		r.add("all", p.receiver.URL)
		r.tx(func(ctx context.Context, tx *ledger.Tx) error {
			_, err := tx.CreateCustomer(ctx, ledger.Customer{ID: "acme"})
			return err
		})
		p.credit("10.00")
		_, err := r.db.StartSession(r.Context(), ledger.Session{ID: "s", Gateway: "g", TTL: 365 * 24 * time.Hour})
		r.must(err)
		cursor, err := r.db.AcquirePartition(r.Context(), "t", 0)
		r.must(err)
		p.epoch = cursor.Epoch
		p.told(`wallet.credited {"amount":"10.00","available":"10.00","balance":"10.00","kind":"paid","receivable":"0.00"}`)
		fn(p)
	})
}

func (p *platform) money(text string) money.Nano {
	p.Helper()
	n, err := money.ParseNano(text)
	p.must(err)
	return n
}

func (p *platform) credit(amount string) {
	p.Helper()
	p.tx(func(ctx context.Context, tx *ledger.Tx) error {
		_, _, err := tx.Credit(ctx, ledger.Credit{Customer: "acme", Amount: p.money(amount)})
		return err
	})
}

// settle settles a batch of one event by the key "k".
func (p *platform) settle(cost, price string) {
	p.Helper()
	p.seq++
	rec := usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "l", Seq: p.seq, Customer: "acme", KeyID: "k",
		TimeMs: p.clock().UnixMilli(), Cost: p.money(cost), Price: p.money(price)}
	_, err := p.db.Settle(p.Context(), ledger.Batch{Topic: "t", Epoch: p.epoch, From: int64(p.seq) - 1, To: int64(p.seq),
		Records: []ledger.Settling{{Offset: int64(p.seq) - 1, Rec: &rec}}})
	p.must(err)
}

// refuse asks for more than there is.
func (p *platform) refuse() {
	p.Helper()
	_, _, err := p.db.Grant(p.Context(), ledger.GrantRequest{LeaseID: "big", Customer: "acme", Session: "s", Gateway: "g", GrantNo: 1,
		Need: 1000 * money.Dollar})
	if !errors.Is(err, ledger.ErrInsufficient) {
		p.Fatalf("grant: %v", err)
	}
}

// told delivers, and compares what arrived since the last call: type and data,
// without the customer, which is in all of it.
func (p *platform) told(want ...string) {
	p.Helper()
	p.must(p.notifier().Step(p.Context()))
	var list []string
	all := p.receiver.all()
	for _, g := range all[p.seen:] {
		m := g.message(p.T)
		if m.Customer != "acme" || m.Data["customer"] != nil && m.Data["customer"] != "acme" || !m.Timestamp.Equal(p.clock()) {
			p.Errorf("about %q, %v at %s", m.Customer, m.Data["customer"], m.Timestamp)
		}
		delete(m.Data, "customer")
		if m.Type == ledger.EventCredited {
			delete(m.Data, "reference") // a random id
		}
		list = append(list, m.Type+" "+string(encode(p.T, m.Data)))
	}
	p.seen = len(all)
	if !slices.Equal(sorted(list), sorted(want)) {
		p.Errorf("told %q\nwant %q", list, want)
	}
}

// TestWalletEvents: each change of a wallet is told when it happens and not
// again, with the wallet as it is then.
func TestWalletEvents(t *testing.T) {
	eachPlatform(t, func(p *platform) {
		p.tx(func(ctx context.Context, tx *ledger.Tx) error {
			return tx.SetLowBalance(ctx, "acme", []money.Nano{p.money("5"), p.money("2")})
		})
		p.settle("1", "4")
		p.told()
		p.settle("1", "2")
		p.told(`wallet.low_balance {"available":"4.00","balance":"4.00","receivable":"0.00","threshold":"5.00"}`)
		p.settle("0", "1")
		p.told()
		p.refuse()
		p.told(`wallet.depleted {"available":"3.00","balance":"3.00","receivable":"0.00"}`)
		p.refuse()
		p.told()
		p.settle("0", "3.5") // half a dollar more than there is
		p.told(`wallet.low_balance {"available":"0.00","balance":"0.00","receivable":"0.50","threshold":"2.00"}`)
		p.credit("100")
		p.told(`wallet.credited {"amount":"100.00","available":"99.50","balance":"99.50","kind":"paid","receivable":"0.00"}`,
			`wallet.recovered {"available":"99.50","balance":"99.50","receivable":"0.00"}`)
		p.settle("0", "99.5")
		p.told(`wallet.depleted {"available":"0.00","balance":"0.00","receivable":"0.00"}`,
			`wallet.low_balance {"available":"0.00","balance":"0.00","receivable":"0.00","threshold":"2.00"}`,
			`wallet.low_balance {"available":"0.00","balance":"0.00","receivable":"0.00","threshold":"5.00"}`)
	})
}

// TestLimitEvents: a spend limit is told once per period, of the customer and
// of the key, with whom it belongs to.
func TestLimitEvents(t *testing.T) {
	eachPlatform(t, func(p *platform) {
		p.credit("90")
		p.tx(func(ctx context.Context, tx *ledger.Tx) error {
			_, err := tx.LimitCustomer(ctx, "acme", func(l *ledger.Limits) { l.SpendPerDay, l.SpendPerMonth = p.money("3"), p.money("8") })
			return errors.Join(err, tx.CreateKey(ctx, ledger.Key{ID: "k", Customer: "acme", Hash: []byte{1}, Limits: ledger.Limits{SpendPerDay: p.money("4")}}))
		})
		p.told(`wallet.credited {"amount":"90.00","available":"100.00","balance":"100.00","kind":"paid","receivable":"0.00"}`)
		p.settle("1", "2.9")
		p.told()
		p.settle("1", "1.1")
		p.told(`limit.reached {"id":"acme","limit":"3.00","period":"day:2026-11-24","scope":"customer","spent":"4.00"}`,
			`limit.reached {"id":"k","limit":"4.00","period":"day:2026-11-24","scope":"key","spent":"4.00"}`)
		p.settle("1", "1")
		p.told()
		p.pass(24 * time.Hour)
		p.settle("1", "3")
		p.told(`limit.reached {"id":"acme","limit":"3.00","period":"day:2026-11-25","scope":"customer","spent":"3.00"}`,
			`limit.reached {"id":"acme","limit":"8.00","period":"month:2026-11","scope":"customer","spent":"8.00"}`)
	})
}

// TestMarginEvents: a month that becomes unprofitable is told once, also when
// it turns profitable and back again.
func TestMarginEvents(t *testing.T) {
	eachPlatform(t, func(p *platform) {
		p.settle("1", "2")
		p.settle("2.75", "1")
		p.told(`margin.negative {"cost":"3.75","margin":"-0.75","month":"2026-11","price":"3.00"}`)
		p.settle("1", "0.5")
		p.settle("0", "2")
		p.settle("3", "1")
		p.told()
		p.pass(10 * 24 * time.Hour)
		p.settle("1", "0.5")
		p.told(`margin.negative {"cost":"1.00","margin":"-0.50","month":"2026-12","price":"0.50"}`)
	})
}

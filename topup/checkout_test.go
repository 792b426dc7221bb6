package topup

import (
	"errors"
	"testing"
	"time"

	"weir/internal/ledger"
)

func TestCheckout(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	r.state(row, ledger.TopupSubmitted, "")
	r.settle()
	r.audit(0)
	r.pay(row, visa)
	r.settle()
	r.state(row, ledger.TopupSucceeded, "")
	r.charges(1)
	r.audit(2 * dollar)
	again, repeated, err := r.top.Checkout(r.ctx, row.ID, Purchase{Customer: "acme", Amount: 10 * dollar, Bonus: 2 * dollar,
		Pages: Pages{"https://platform.example/ok", "https://platform.example/no"}, SaveCard: true})
	if err != nil || !repeated || again.URL != row.URL {
		t.Errorf("again: %+v, %v, %v", again, repeated, err)
	}
	_, _, err = r.top.Checkout(r.ctx, row.ID, Purchase{Customer: "acme", Amount: 11 * dollar})
	if !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("another purchase of the same id: %v", err)
	}
	_, _, err = r.top.Checkout(r.ctx, "tup_x", Purchase{Customer: "nobody", Amount: 10 * dollar})
	if !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("no customer: %v", err)
	}
	payer, err := r.db.Payer(r.ctx, "acme")
	if err != nil || payer.PaymentMethod == "" || payer.ConsentedAt.IsZero() {
		t.Errorf("payer %+v, %v", payer, err)
	}
	r.later(48 * time.Hour)
	r.audit(2 * dollar)
}

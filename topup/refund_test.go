package topup

import (
	"errors"
	"testing"
	"time"

	"weir/internal/ledger"
)

func TestRefund(t *testing.T) {
	r := newRig(t)
	row := r.bought("k")
	r.must(r.refund("ref_1", row.ID, 4*dollar))
	r.settle()
	got, err := r.db.Refund(r.ctx, "ref_1")
	if err != nil || got.State != ledger.RefundSucceeded || got.StripeRefund == "" {
		t.Errorf("refund %+v, %v", got, err)
	}
	r.audit(1_200_000_000) // four tenths of the bonus went too
	r.must(r.refund("ref_2", row.ID, 0))
	r.settle()
	r.audit(0)
	if c := r.charges(1)[0]; c.Refunded != 1000 {
		t.Errorf("refunded %d cents of 1000", c.Refunded)
	}
	if err := r.refund("ref_3", row.ID, 0); !errors.Is(err, ledger.ErrSpent) {
		t.Errorf("a third refund: %v", err)
	}
}

// TestBonusSpentThenRefunded: promotional money is spent first; refunding the
// whole payment at Stripe then leaves the customer owing the bonus.
func TestBonusSpentThenRefunded(t *testing.T) {
	r := newRig(t)
	row := r.bought("k")
	r.spend(2 * dollar)
	if _, err := r.fake.Refund(row.Charge, 1000); err != nil {
		t.Fatal(err)
	}
	r.settle()
	r.audit(-2 * dollar)
	if w, err := r.db.Wallet(r.ctx, "acme"); err != nil || w.Receivable != 2*dollar || w.Balance() != 0 {
		t.Errorf("balance %s, receivable %s, %v", w.Balance(), w.Receivable, err)
	}
}

// TestRefundBeforeSuccess: of a payment that nobody has told of yet, the
// refund is told first.
func TestRefundBeforeSuccess(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	r.pay(row, visa)
	_, err := r.fake.Refund(r.charges(1)[0].ID, 250)
	r.must(err)
	pending := r.fake.Pending()
	for i := len(pending) - 1; i >= 0; i-- {
		_, err := r.fake.Deliver(pending[i].ID)
		r.must(err)
		r.must(r.top.Step(r.ctx))
	}
	r.settle()
	r.audit(1_500_000_000)
}

func TestRefundThatFails(t *testing.T) {
	for _, late := range []bool{false, true} {
		r := newRig(t)
		row := r.buy("k")
		r.pay(row, visa)
		r.settle()
		r.must(r.refund("ref_1", row.ID, 5*dollar))
		if late {
			r.settle()
			r.audit(dollar)
			got, err := r.db.Refund(r.ctx, "ref_1")
			r.must(err)
			r.must(r.fake.FailRefund(got.StripeRefund))
		} else { // Stripe refuses: the dispute took the money first
			dispute, err := r.fake.OpenDispute(r.topup(row.ID).Charge, "fraudulent")
			r.must(err)
			r.must(r.top.Step(r.ctx))
			r.must(r.fake.CloseDispute(dispute, true))
		}
		r.settle()
		got, err := r.db.Refund(r.ctx, "ref_1")
		if err != nil || got.State != ledger.RefundFailed {
			t.Errorf("late %t: refund %+v, %v; log:\n%s", late, got, err, r.log)
		}
		r.audit(2 * dollar)
	}
}

// TestRefundAfterTheKeyIsForgotten: the answer was lost and Stripe was away for
// a day; what it has done is found by the refund's name.
func TestRefundAfterTheKeyIsForgotten(t *testing.T) {
	r := newRig(t)
	row := r.bought("k")
	r.fake.SetWebhook("", "", "") // and no event tells
	r.must(r.refund("ref_1", row.ID, 5*dollar))
	r.gate.arm(1, loses)
	r.top.Step(r.ctx)
	r.clock.advance(25 * time.Hour)
	r.restart()
	r.settle()
	r.audit(dollar)
	if list := r.fake.Log().Refunds; len(list) != 1 {
		t.Errorf("%d refunds", len(list))
	}
}

// TestRefundAnswerLost: asked again, it is the same refund.
func TestRefundAnswerLost(t *testing.T) {
	r := newRig(t)
	row := r.bought("k")
	r.fake.SetWebhook("", "", "") // and no event tells
	r.must(r.refund("ref_1", row.ID, 4*dollar))
	for range 2 {
		r.gate.arm(1, loses)
		if err := r.top.Step(r.ctx); err == nil {
			t.Fatal("the fault did not bite")
		}
		r.clock.advance(time.Minute)
	}
	r.settle()
	r.audit(1_200_000_000)
	if list := r.fake.Log().Refunds; len(list) != 1 {
		t.Errorf("%d refunds", len(list))
	}
}

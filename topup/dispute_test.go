package topup

import (
	"testing"

	"weir/internal/ledger"
)

func TestDispute(t *testing.T) {
	for _, won := range []bool{true, false} {
		for _, order := range []string{"as they came", "backwards"} {
			r := newRig(t)
			row := r.buy("k")
			r.pay(row, visa)
			r.settle()
			r.spend(5 * dollar)
			dispute, err := r.fake.OpenDispute(r.charges(1)[0].ID, "fraudulent")
			r.must(err)
			if order == "as they came" {
				r.settle()
				if w, err := r.db.Wallet(r.ctx, "acme"); err != nil || w.Status != ledger.Frozen || w.Receivable != 3*dollar {
					t.Errorf("disputed: %+v, %v", w, err)
				}
				r.audit(-3 * dollar)
			}
			r.must(r.fake.CloseDispute(dispute, won))
			pending := r.fake.Pending()
			for i := len(pending) - 1; i >= 0; i-- {
				_, err := r.fake.Deliver(pending[i].ID)
				r.must(err)
				r.must(r.top.Step(r.ctx))
			}
			r.settle()
			besides := -3 * dollar // the bonus of two less the five that were spent
			if !won {
				besides = -5 * dollar
			}
			r.audit(besides)
			if w, err := r.db.Wallet(r.ctx, "acme"); err != nil || w.Status != ledger.Active {
				t.Errorf("closed: %s, %v", w.Status, err)
			}
		}
	}
}

// TestDisputeBeforeSuccess: nobody has told of the payment yet.
func TestDisputeBeforeSuccess(t *testing.T) {
	r := newRig(t)
	r.pay(r.buy("k"), "pm_card_createDispute")
	for _, e := range r.fake.Pending() {
		if e.Type == "charge.dispute.created" {
			_, err := r.fake.Deliver(e.ID)
			r.must(err)
		} else {
			r.must(r.fake.Drop(e.ID))
		}
	}
	r.settle()
	r.audit(2 * dollar)
	if w, err := r.db.Wallet(r.ctx, "acme"); err != nil || w.Status != ledger.Frozen {
		t.Errorf("%s, %v", w.Status, err)
	}
}

// TestInquiry takes no money, and so takes none here.
func TestInquiry(t *testing.T) {
	r := newRig(t)
	r.pay(r.buy("k"), "pm_card_createDisputeInquiry")
	r.settle()
	r.audit(2 * dollar)
}

// TestFrozenWalletIsNotCharged: neither a dispute nor a bank's warning is
// answered by charging the card again.
func TestFrozenWalletIsNotCharged(t *testing.T) {
	r := newRig(t)
	row := r.bought("k")
	warning, err := r.fake.WarnOfFraud(row.Charge)
	r.must(err)
	r.settle()
	if w, err := r.db.Wallet(r.ctx, "acme"); err != nil || w.Status != ledger.Frozen {
		t.Fatalf("after %s: %s, %v", warning, w.Status, err)
	}
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	r.later(frozenPause)
	r.charges(1)
	active := ledger.Active
	r.write(func(tx *ledger.Tx) error { _, err := tx.UpdateCustomer(r.ctx, "acme", &active, nil); return err })
	r.later(frozenPause)
	r.charges(2)
	r.audit(2 * dollar)
}

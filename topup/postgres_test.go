package topup

import (
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
)

// TestOnEveryLedger goes once through what moves money, on each database.
func TestOnEveryLedger(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		r := newRigOn(t, c)
		r.story()
		r.settle()
		r.audit(storyBonus)
		row := r.topup(PurchaseID("acme", "won"))
		r.must(r.refund("ref_1", row.ID, 4*dollar))
		r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar, CapPerDay: 20 * dollar})
		r.settle()
		r.charges(4)
		r.later(time.Hour)
		r.audit(storyBonus - 800_000_000)
	})
}

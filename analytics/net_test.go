package analytics

import (
	"fmt"
	"testing"

	"weir/internal/ledger"
	"weir/internal/warehouse/warehousetest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// fund brings money by a payment whose fee is 2.9 % + $0.30.
func (b *world) fund(customer string, amount money.Nano) {
	b.Helper()
	fee := amount*29/1000 + 30*money.Dollar/100
	b.must(b.db.Tx(b.ctx, func(tx *ledger.Tx) error {
		t, err := tx.CreateTopup(b.ctx, ledger.Topup{Customer: customer, Kind: ledger.TopupCheckout, Amount: amount})
		if err == nil {
			_, _, err = tx.FundTopup(b.ctx, t.ID, ledger.Payment{PaymentIntent: "pi_" + t.ID, Amount: amount, Fee: &fee})
		}
		return err
	}))
}

// TestNetMarginOfAMonth: a hundred uses of $0.015 cost, sold at three times
// that. The figures are worked by hand. $4.50 charged alone loses 2.9 % + $0.30
// = $0.4305 of the $3.00 margin; out of top-ups of $8.00, each of which loses
// $0.532, it loses 4.50 / 8.00 of that, $0.29925.
func TestNetMarginOfAMonth(t *testing.T) {
	b := newWorld(t, warehousetest.Open(t))
	for customer, paid := range map[string]money.Nano{"alone": 4_500_000_000, "packs": 8 * money.Dollar, "given": 0} {
		b.must(b.db.Tx(b.ctx, func(tx *ledger.Tx) error {
			_, err := tx.CreateCustomer(b.ctx, ledger.Customer{ID: customer})
			if err == nil && paid == 0 {
				_, _, err = tx.Credit(b.ctx, ledger.Credit{Customer: customer, Amount: 8 * money.Dollar, Kind: ledger.Promo})
			}
			return err
		}))
		if paid > 0 {
			b.fund(customer, paid)
		}
		recs := make([]usage.Record, 100)
		for i := range recs {
			recs[i] = usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, Status: usage.StatusOK, LeaseID: "lease-" + customer, Seq: uint64(i + 1),
				Customer: customer, Gateway: "gw", TimeMs: firstDay.UnixMilli() + int64(i)*60_000, RequestID: fmt.Sprint(customer, i), Provider: "openai",
				API: "openai.chat", Model: fmt.Sprint("model", i%2), ModelBilled: fmt.Sprint("model", i%2), Rule: "default", Currency: "usd", HTTPStatus: 200,
				Cost: 15_000_000, Price: 45_000_000}
		}
		b.settle(recs)
	}
	want := map[string][2]string{"alone": {"0.4305", "2.5695"}, "packs": {"0.29925", "2.70075"}, "given": {"0.00", "3.00"}}
	answer := b.ask("/reports/margin?by=customer&net=true")
	order := []string{"given", "packs", "alone"} // what is left decides
	for i, r := range answer["rows"].([]any) {
		row := r.(map[string]any)
		customer := row["customer"].(string)
		if customer != order[i] || row["price"] != "4.50" || row["cost"] != "1.50" || row["margin"] != "3.00" || row["fees"] != want[customer][0] || row["net"] != want[customer][1] {
			t.Errorf("row %d: %v", i, row)
		}
	}
	if total := answer["totals"].(map[string]any); total["fees"] != "0.72975" || total["net"] != "8.27025" {
		t.Errorf("totals %v", total)
	}
	// By model each customer's fees follow its use: half of each model.
	for _, r := range b.ask("/reports/margin?by=model&net=true")["rows"].([]any) {
		if row := r.(map[string]any); row["fees"] != "0.364875" || row["net"] != "4.135125" || row["customer"] != nil {
			t.Errorf("%v", row)
		}
	}
	if status, _ := b.get("/reports/usage?net=true"); status != 400 {
		t.Errorf("the usage report takes net: %d", status)
	}
	if status, _ := b.get("/reports/margin?net=yes"); status != 400 {
		t.Errorf("net=yes is taken: %d", status)
	}
}

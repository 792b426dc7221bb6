package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"weir/schemas/money"
)

// Payment is money that a customer paid, as its payment provider tells. Fee
// nil is not known yet.
type Payment struct {
	PaymentIntent, Charge string
	Amount                money.Nano
	Fee                   *money.Nano
}

// The fee that is booked until the provider's own is known: a domestic card's
// list price, 2.9 % + $0.30. It is exact, since amounts are whole cents.
const (
	feeEstimateMille            = 29
	feeEstimateFixed money.Nano = 300_000_000
)

func estimateFee(amount money.Nano) money.Nano {
	if amount == 0 {
		return 0
	}
	return amount/1000*feeEstimateMille + feeEstimateFixed
}

// nanoPerCent converts the payment provider's amounts, which are whole cents.
const nanoPerCent = 10_000_000

// FundTopup makes a top-up succeeded: the payment is credited as a lot with
// the top-up's id, its bonus as another, the fee is booked, and what was seen of
// refunds and disputes before is booked after it. A payment counts once, however often it is
// told (credited false), in whatever state the top-up was: money that came is
// credited. What was paid decides the amount; the bonus is for a whole payment. ErrConflict when the
// top-up was paid by another payment, or the payment paid another top-up;
// ErrNotFound.
func (tx *Tx) FundTopup(ctx context.Context, id string, p Payment) (credited bool, after Wallet, err error) {
	t, err := tx.lockTopup(ctx, "id", id)
	if err != nil {
		return false, Wallet{}, err
	}
	if t.State == TopupSucceeded && t.PaymentIntent == p.PaymentIntent {
		after, err = tx.wallet(ctx, t.Customer, "")
		return false, after, err
	}
	other, err := tx.topup(ctx, "payment_intent", p.PaymentIntent)
	switch {
	case p.PaymentIntent == "" || p.Amount <= 0:
		return false, Wallet{}, fmt.Errorf("BUG: payment %q of %s for top-up %s", p.PaymentIntent, p.Amount, id)
	case t.State == TopupSucceeded || err == nil && other.ID != id:
		return false, Wallet{}, fmt.Errorf("payment %s for top-up %s: %w", p.PaymentIntent, id, ErrConflict)
	case err != nil && !errors.Is(err, ErrNotFound):
		return false, Wallet{}, err
	}
	if p.Amount < t.Amount {
		t.Bonus = 0
	}
	t.Amount = p.Amount
	after, err = tx.settleTopup(ctx, &t, p, time.Time{})
	return err == nil, after, err
}

// Invoice is a paid period of a plan: Included is the credit that comes with
// it and ends at ExpiresAt.
type Invoice struct {
	ID, Customer string
	Payment      Payment
	Included     money.Nano
	ExpiresAt    time.Time
}

// CreditInvoice books a paid period of a plan as a top-up of kind
// subscription: what was paid is revenue, what is included is promotional
// credit. An invoice counts once (credited false). ErrNotFound without a wallet.
func (tx *Tx) CreditInvoice(ctx context.Context, in Invoice) (credited bool, after Wallet, err error) {
	if in.ID == "" {
		return false, Wallet{}, errors.New("BUG: an invoice without id")
	}
	t, err := tx.lockTopup(ctx, "invoice", in.ID)
	if err == nil {
		after, err = tx.wallet(ctx, t.Customer, "")
		return false, after, err
	}
	if !errors.Is(err, ErrNotFound) {
		return false, Wallet{}, err
	}
	t, err = tx.CreateTopup(ctx, Topup{Customer: in.Customer, Kind: TopupSubscription, Invoice: in.ID, PaymentIntent: in.Payment.PaymentIntent,
		Amount: in.Payment.Amount, Bonus: in.Included})
	if err != nil {
		return false, Wallet{}, err
	}
	after, err = tx.settleTopup(ctx, &t, in.Payment, in.ExpiresAt)
	return err == nil, after, err
}

// source is what the transactions of a top-up are named after: a payment or
// an invoice, so that each can be booked once.
func (t *Topup) source() string {
	if t.Invoice != "" {
		return "stripe/in/" + t.Invoice
	}
	return "stripe/pi/" + t.PaymentIntent
}

// settleTopup credits a locked top-up that was paid.
func (tx *Tx) settleTopup(ctx context.Context, t *Topup, p Payment, expires time.Time) (Wallet, error) {
	t.State, t.Reason, t.PaymentIntent, t.Charge, t.NextTryAt = TopupSucceeded, "", p.PaymentIntent, p.Charge, time.Time{}
	w, err := tx.lockWallet(ctx, t.Customer)
	if err != nil {
		return Wallet{}, err
	}
	head := txnHead{id: t.source() + "/credit", kind: KindCredit, reference: t.ID}
	bonus := lot{Lot: Lot{ID: t.ID + "/bonus", Kind: Promo, Parent: t.ID, Amount: t.Bonus, ExpiresAt: expires}}
	if t.Kind == TopupSubscription {
		bonus.ID, bonus.Parent = t.ID, ""
		err = tx.bookPlan(ctx, t)
	} else {
		err = tx.addLot(ctx, &w, lot{Lot: Lot{ID: t.ID, Kind: Paid, Amount: t.Amount}}, head, accountClearing)
		head.id = t.source() + "/bonus"
	}
	if err == nil && t.Bonus > 0 {
		err = tx.addLot(ctx, &w, bonus, head, accountPromo)
	}
	if err == nil {
		err = tx.bookFirstFee(ctx, t, p.Fee)
	}
	if err == nil {
		err = tx.bookRefund(ctx, t, &w)
	}
	if err == nil {
		err = tx.bookDisputes(ctx, t, &w)
	}
	if err == nil {
		err = tx.writeTopup(ctx, t)
	}
	if err == nil {
		err = tx.tellTopup(ctx, EventTopupSucceeded, t)
	}
	if err != nil {
		return Wallet{}, fmt.Errorf("cannot credit top-up %s: %w", t.ID, err)
	}
	return w.Wallet, nil
}

// bookPlan books the price of a plan's period.
func (tx *Tx) bookPlan(ctx context.Context, t *Topup) error {
	if t.Amount == 0 {
		return nil
	}
	head := txnHead{id: t.source() + "/payment", kind: KindPlan, reference: t.ID}
	return tx.post(ctx, head, []posting{head.against(accountClearing, -t.Amount), head.against(accountPlans, t.Amount)})
}

// bookFirstFee books the fee with the payment, an estimate where it is not
// known.
func (tx *Tx) bookFirstFee(ctx context.Context, t *Topup, fee *money.Nano) error {
	if fee == nil {
		t.Fee, t.FeeKnown = estimateFee(t.Amount), t.Amount == 0
	} else {
		t.Fee, t.FeeKnown = *fee, true
	}
	return tx.bookFee(ctx, t.source()+"/fee", t.ID, t.Fee)
}

// bookFee books money that the payment provider keeps of what it has.
func (tx *Tx) bookFee(ctx context.Context, id, reference string, fee money.Nano) error {
	if fee == 0 {
		return nil
	}
	head := txnHead{id: id, kind: KindFee, reference: reference}
	return tx.post(ctx, head, []posting{head.against(accountFees, -fee), head.against(accountClearing, fee)})
}

// SetFee replaces the estimate of a payment's fee by the real one, once.
// ErrNotFound; ErrConflict when the payment is not booked.
func (tx *Tx) SetFee(ctx context.Context, paymentIntent string, fee money.Nano) error {
	t, err := tx.lockTopup(ctx, "payment_intent", paymentIntent)
	switch {
	case err != nil:
		return err
	case t.State != TopupSucceeded:
		return fmt.Errorf("a fee of top-up %s, which is %s: %w", t.ID, t.State, ErrConflict)
	case t.FeeKnown:
		return nil
	}
	delta := fee - t.Fee
	t.Fee, t.FeeKnown = fee, true
	if err := tx.bookFee(ctx, t.source()+"/fee/actual", t.ID, delta); err != nil {
		return err
	}
	return tx.writeTopup(ctx, &t)
}

// RefundTo books the refunds of a payment up to cumulative, which is what the
// payment provider tells: of repeats and of what comes late only the largest
// counts. With the payment its share of the bonus goes, rounded half away from
// zero. What the wallet has not available becomes receivable. Before the
// payment is booked it is remembered. ErrNotFound.
func (tx *Tx) RefundTo(ctx context.Context, paymentIntent string, cumulative money.Nano) (Wallet, error) {
	if cumulative < 0 || cumulative%nanoPerCent != 0 {
		return Wallet{}, fmt.Errorf("a refund of %s is not in whole cents", cumulative)
	}
	t, err := tx.lockTopup(ctx, "payment_intent", paymentIntent)
	if err != nil {
		return Wallet{}, err
	}
	w, err := tx.lockWallet(ctx, t.Customer)
	if err != nil || cumulative <= t.refundSeen {
		return w.Wallet, err
	}
	t.refundSeen = cumulative
	if t.State == TopupSucceeded {
		err = tx.bookRefund(ctx, &t, &w)
	}
	if err == nil {
		err = tx.writeTopup(ctx, &t)
	}
	if err != nil {
		return Wallet{}, fmt.Errorf("cannot book the refund of top-up %s: %w", t.ID, err)
	}
	return w.Wallet, nil
}

// bookRefund brings the books of a paid top-up to the refund that was seen.
func (tx *Tx) bookRefund(ctx context.Context, t *Topup, w *walletRow) error {
	delta := t.refundSeen - t.Refunded
	if delta == 0 {
		return nil
	}
	var failed int64
	err := tx.row(ctx, "SELECT COUNT(*) FROM refund WHERE topup = $1 AND state = 'failed'", t.ID).Scan(&failed)
	if err != nil {
		return err
	}
	head := txnHead{id: fmt.Sprintf("%s/refund/%d", t.source(), t.refundSeen/nanoPerCent), kind: KindRefund, reference: t.ID}
	if failed > 0 { // the same sum may be refunded again after a refund that failed
		head.id += fmt.Sprintf("/%d", failed)
	}
	t.Refunded = t.refundSeen
	return tx.takePurchase(ctx, t, w, delta, head, accountClearing)
}

// takePurchase takes paid money of a top-up back to an account, with the
// bonus that is then no longer deserved.
func (tx *Tx) takePurchase(ctx context.Context, t *Topup, w *walletRow, paid money.Nano, head txnHead, to string) error {
	bonus := t.bonusGone() - t.BonusBack
	t.BonusBack += bonus
	others := []posting{head.against(to, paid)}
	if bonus != 0 {
		others = append(others, head.against(accountPromo, bonus))
	}
	if t.Kind == TopupSubscription { // what was paid is not in the wallet
		others, paid = append(others, head.against(accountPlans, -paid)), 0
	}
	return tx.takeBack(ctx, w, t, paid, bonus, head, others...)
}

// bonusGone is how much of the bonus goes with what was refunded and lost.
func (t *Topup) bonusGone() money.Nano {
	gone := t.Refunded + t.Lost
	if gone >= t.Amount {
		return t.Bonus
	}
	return portion(t.Bonus, gone, t.Amount)
}

// portion is total × part ÷ whole, rounded half away from zero; part < whole.
func portion(total, part, whole money.Nano) money.Nano {
	hi, lo := bits.Mul64(uint64(total), uint64(part))
	lo, carry := bits.Add64(lo, uint64(whole)/2, 0)
	q, _ := bits.Div64(hi+carry, lo, uint64(whole))
	return money.Nano(q)
}

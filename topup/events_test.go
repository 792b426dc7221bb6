package topup

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/topup/stripefake"
)

// story makes most kinds of events: two purchases, one of them refunded in two
// parts, a dispute that is lost and one that is won.
func (r *rig) story() {
	r.Helper()
	for _, key := range []string{"refunded", "lost", "won"} {
		r.pay(r.buy(key), visa)
	}
	charges := r.charges(3)
	for _, cents := range []int64{300, 200} {
		_, err := r.fake.Refund(charges[0].ID, cents)
		r.must(err)
	}
	for i, won := range []bool{false, true} {
		dispute, err := r.fake.OpenDispute(charges[1+i].ID, "fraudulent")
		r.must(err)
		r.must(r.fake.CloseDispute(dispute, won))
	}
}

// storyBonus is what of its bonuses is left: half of the first, none of the
// second, all of the third.
const storyBonus = 1*dollar + 2*dollar

func TestEventsInAnyOrderAnyNumber(t *testing.T) {
	for seed := range uint64(6) {
		r := newRig(t)
		r.story()
		random := rand.New(rand.NewPCG(seed, 0))
		var ids []string
		for _, e := range r.fake.Pending() {
			for range 5 {
				ids = append(ids, e.ID)
			}
		}
		if len(ids) < 5*15 {
			t.Fatalf("the story has %d events only", len(ids)/5)
		}
		random.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		for _, id := range ids {
			if status, err := r.fake.Resend(id); err != nil || status != http.StatusOK {
				t.Fatalf("resent: %d, %v", status, err)
			}
			if random.IntN(4) == 0 {
				r.top.Step(r.ctx)
			}
		}
		r.settle()
		r.audit(storyBonus)
		if w, err := r.db.Wallet(r.ctx, "acme"); err != nil || w.Status != ledger.Active {
			t.Errorf("seed %d: after its disputes the wallet is %s, %v", seed, w.Status, err)
		}
	}
}

func TestEventsThatNeverCome(t *testing.T) {
	r := newRig(t)
	r.story()
	for _, e := range r.fake.Pending() {
		r.must(r.fake.Drop(e.ID))
	}
	r.must(r.top.Poll(r.ctx))
	r.settle()
	r.audit(storyBonus)
}

// TestNoEventAtAll: not even the list of events has them; the pages are looked at.
func TestNoEventAtAll(t *testing.T) {
	r := newRig(t)
	r.fake.SetWebhook("", "", "")
	row := r.buy("k")
	r.pay(row, visa)
	r.must(r.top.Step(r.ctx))
	r.state(row, ledger.TopupSubmitted, "")
	r.clock.advance(sessionPoll)
	r.must(r.top.Step(r.ctx))
	r.state(row, ledger.TopupSucceeded, "")
	r.audit(2 * dollar)
}

func TestForgedEvents(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	body := `{"id":"evt_1","object":"event","type":"checkout.session.completed","livemode":false,"data":{"object":{"id":"` + row.Session + `","payment_status":"paid"}}}`
	live := strings.Replace(body, `"livemode":false`, `"livemode":true`, 1)
	now := time.Now()
	f := func(name, body, signature string, status int) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, r.hook.URL, strings.NewReader(body))
		r.must(err)
		if signature != "" {
			req.Header.Set("Stripe-Signature", signature)
		}
		resp, err := http.DefaultClient.Do(req)
		r.must(err)
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: status %d %s, want %d", name, resp.StatusCode, answer, status)
		}
	}
	sign := func(body string, at time.Time, secrets ...string) string {
		return stripefake.Signature([]byte(body), at, secrets...)
	}
	f("no signature", body, "", 400)
	f("another secret", body, sign(body, now, "whsec_other"), 400)
	f("the empty secret", body, sign(body, now, ""), 400)
	f("another body", body+" ", sign(body, now, webhookSecret), 400)
	f("a replay", body, sign(body, now.Add(-6*time.Minute), webhookSecret), 400)
	f("live mode", live, sign(live, now, webhookSecret), 400)
	f("no JSON", "x", sign("x", now, webhookSecret), 400)
	large := `{"id":"` + strings.Repeat("x", eventBytesMax) + `"}`
	f("too large", large, sign(large, now, webhookSecret), 413)
	if waiting, _, err := r.db.StripeInbox(r.ctx); err != nil || waiting != 0 {
		t.Errorf("%d events are kept, %v", waiting, err)
	}
	other := strings.Replace(body, "checkout.session.completed", "customer.created", 1)
	f("of no interest", other, sign(other, now, webhookSecret), 200)
	// Signed, but a lie: the page is not paid, so nothing is credited.
	f("true secret", body, sign(body, now, webhookSecret), 200)
	r.must(r.top.Step(r.ctx))
	r.audit(0)
	r.state(row, ledger.TopupSubmitted, "")
	// While the secret is replaced both are good.
	r.top.WebhookSecrets = []string{"whsec_new", webhookSecret}
	f("the secret before", body, sign(body, now, webhookSecret), 200)
	f("the new secret", body, sign(body, now, "whsec_new"), 200)
	f("none of them", body, sign(body, now, "whsec_other"), 400)
}

// TestForeignPayments: the account has payments that are not of this wallet,
// though they say so.
func TestForeignPayments(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	r.write(func(tx *ledger.Tx) error {
		_, err := tx.CreateCustomer(r.ctx, ledger.Customer{ID: "other"})
		return err
	})
	other, err := r.top.payer(r.ctx, "other")
	r.must(err)
	own, err := r.db.Payer(r.ctx, "acme")
	r.must(err)
	pay := func(customer, currency string) {
		t.Helper()
		card, err := r.fake.SavedCard(customer, "pm_card_visa")
		r.must(err)
		_, err = r.top.stripe.PaymentIntents.New(&stripe.PaymentIntentParams{Params: asking(r.ctx), Amount: stripe.Int64(1000), Currency: stripe.String(currency),
			Customer: stripe.String(customer), PaymentMethod: stripe.String(card), PaymentMethodTypes: []*string{stripe.String("card")},
			Confirm: stripe.Bool(true), Metadata: map[string]string{topupKey: row.ID}})
		r.must(err)
	}
	pay(other.StripeCustomer, "usd")
	pay(own.StripeCustomer, "eur")
	_, err = r.fake.OpenDispute(r.charges(2)[0].ID, "fraudulent")
	r.must(err)
	r.settle()
	r.state(row, ledger.TopupSubmitted, "")
	for _, id := range []string{"acme", "other"} {
		if w, err := r.db.Wallet(r.ctx, id); err != nil || w.Balance() != 0 || w.Receivable != 0 || w.Status != ledger.Active {
			t.Errorf("%s has %s, owes %s, is %s, %v", id, w.Balance(), w.Receivable, w.Status, err)
		}
	}
	if err := r.top.lookAtPayment(r.ctx, "pi_unknown"); !errors.Is(err, errNotOurs) {
		t.Errorf("a payment that Stripe does not know: %v", err)
	}
}

// TestLiveKeyOnTestObjects: a process with a live key believes no object of
// test mode.
func TestLiveKeyOnTestObjects(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	r.pay(row, visa)
	r.top.live = true
	if err := r.top.lookAtSession(r.ctx, row.Session); !errors.Is(err, errNotOurs) {
		t.Errorf("looked at: %v", err)
	}
	r.state(row, ledger.TopupSubmitted, "")
}

// TestPaidTwice: two payments of one top-up are money that came twice.
func TestPaidTwice(t *testing.T) {
	r := newRig(t)
	row := r.bought("k")
	own, err := r.db.Payer(r.ctx, "acme")
	r.must(err)
	_, err = r.top.stripe.PaymentIntents.New(&stripe.PaymentIntentParams{Params: asking(r.ctx), Amount: stripe.Int64(700), Currency: stripe.String("usd"),
		Customer: stripe.String(own.StripeCustomer), PaymentMethod: stripe.String(own.PaymentMethod), PaymentMethodTypes: []*string{stripe.String("card")},
		Confirm: stripe.Bool(true), Metadata: map[string]string{topupKey: row.ID}})
	r.must(err)
	r.settle()
	charges := r.charges(2)
	for _, c := range charges {
		if c.Amount == 700 {
			_, err := r.fake.Refund(c.ID, 200)
			r.must(err)
		}
	}
	r.settle()
	w, err := r.db.Wallet(r.ctx, "acme")
	if err != nil || w.Balance() != 12*dollar+5*dollar {
		t.Errorf("balance %s, %v; log:\n%s", w.Balance(), err, r.log)
	}
}

func TestFeeIsLearned(t *testing.T) {
	r := newRig(t)
	row := r.bought("k")
	if fee := nano(stripefake.Fee(1000)); !row.FeeKnown || row.Fee != fee {
		t.Errorf("fee %s known %t, want %s", row.Fee, row.FeeKnown, fee)
	}
	var none *money.Nano
	if got := feeOf(nil); got != none {
		t.Errorf("a fee of nothing: %v", got)
	}
}

// TestEventIsTriedAgain: an event that could not be worked on is not struck off.
func TestEventIsTriedAgain(t *testing.T) {
	r := newRig(t)
	row := r.buy("k")
	r.pay(row, visa)
	r.fake.Flush()
	r.fake.Inject(stripefake.Fault{Match: "GET /v1/", Count: 50, Status: 503})
	if err := r.top.Step(r.ctx); err == nil {
		t.Fatal("the fault did not bite")
	}
	r.fake.ClearFaults()
	r.clock.advance(2 * eventRetryFirst) // far before the page is looked at by itself
	r.must(r.top.Step(r.ctx))
	r.state(row, ledger.TopupSucceeded, "")
	r.audit(2 * dollar)
}

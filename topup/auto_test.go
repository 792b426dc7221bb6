package topup

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/topup/stripefake"
)

func TestAutoTopup(t *testing.T) {
	r := newRig(t)
	r.bought("k")
	r.auto(ledger.AutoTopup{Threshold: 5 * dollar, Amount: 15 * dollar})
	r.settle()
	r.charges(1)
	r.spend(7 * dollar) // 5.00 is not below
	r.settle()
	r.charges(1)
	r.spend(1)
	r.settle()
	r.charges(2)
	r.state(r.latest(), ledger.TopupSucceeded, "")
	r.audit(2*dollar - 7*dollar - 1)
}

func TestRechargeTo(t *testing.T) {
	for _, want := range []struct {
		to, spent money.Nano
		cents     int64
	}{{20 * dollar, 11 * dollar, 1900}, {20 * dollar, 11*dollar + 1, 1901}, {5*dollar + 1, 8 * dollar, 101}, {5*dollar + 1, 7*dollar + 1, 50}} {
		r := newRig(t)
		r.bought("k")
		r.auto(ledger.AutoTopup{Threshold: 5 * dollar, RechargeTo: want.to})
		r.spend(want.spent)
		r.settle()
		if c := r.charges(2)[1]; c.Amount != want.cents {
			t.Errorf("to %s from %s: %d cents, want %d", want.to, 12*dollar-want.spent, c.Amount, want.cents)
		}
		r.audit(2*dollar - want.spent)
	}
}

func TestCaps(t *testing.T) {
	r := newRig(t)
	r.clock.at = time.Date(r.clock.at.Year()+1, 3, 10, 9, 0, 0, 0, time.UTC)
	r.bought("k")
	r.auto(ledger.AutoTopup{Threshold: 5 * dollar, Amount: 10 * dollar, CapPerDay: 25 * dollar, CapPerMonth: 45 * dollar})
	spent := money.Nano(0)
	use := func(charges int) {
		t.Helper()
		for range 4 {
			w, err := r.db.Wallet(r.ctx, "acme")
			r.must(err)
			if w.Balance() > 0 {
				r.spend(w.Balance())
			}
			spent += w.Balance()
			r.settle()
		}
		r.charges(charges)
		r.audit(2*dollar - spent)
	}
	use(1 + 2) // 20 of the day's 25
	r.clock.at = time.Date(r.clock.at.Year(), 3, 11, 0, 0, 0, 0, time.UTC)
	use(1 + 4) // 40 of the month's 45
	r.clock.at = time.Date(r.clock.at.Year(), 3, 12, 0, 0, 0, 0, time.UTC)
	use(1 + 4)
	if at := r.autoNow().NextTryAt.UTC(); at.Month() != time.April || at.Day() != 1 {
		t.Errorf("tried again at %s", at)
	}
	r.clock.at = time.Date(r.clock.at.Year(), 4, 1, 0, 0, 0, 0, time.UTC)
	use(1 + 6)
}

func TestMinInterval(t *testing.T) {
	r := newRig(t)
	r.bought("k")
	r.auto(ledger.AutoTopup{Threshold: 50 * dollar, Amount: 10 * dollar, MinInterval: 10 * time.Minute})
	r.settle()
	r.charges(2)
	r.later(9 * time.Minute)
	r.charges(2)
	r.later(time.Minute)
	r.charges(3)
	r.audit(2 * dollar)
}

// declines makes the saved card refuse, and the wallet due.
func (r *rig) declines(card string) {
	r.Helper()
	r.bought("k")
	payer, err := r.db.Payer(r.ctx, "acme")
	r.must(err)
	r.must(r.fake.SetCard(payer.PaymentMethod, card))
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
}

func TestDeclines(t *testing.T) {
	for card, reason := range map[string]string{"pm_card_chargeDeclined": ReasonDeclined, "pm_card_chargeDeclinedInsufficientFunds": ReasonNoFunds,
		"pm_card_chargeDeclinedExpiredCard": ReasonExpiredCard, "pm_card_chargeDeclinedProcessingError": ReasonProcessing,
		"pm_card_chargeDeclinedLostCard": ReasonDeclined} {
		t.Run(card, func(t *testing.T) {
			r := newRig(t)
			r.declines(card)
			tries := func(n int) {
				t.Helper()
				list := r.topups(ledger.TopupAuto)
				if len(list) != n {
					t.Fatalf("tried %d times, want %d; log:\n%s", len(list), n, r.log)
				}
				for _, row := range list { // also once the canceled payment was told of
					r.state(row, ledger.TopupFailed, reason)
				}
			}
			r.settle()
			tries(1)
			r.later(58 * time.Minute)
			tries(1)
			r.later(2 * time.Minute)
			tries(2)
			r.later(23*time.Hour + 58*time.Minute)
			tries(2)
			r.later(2 * time.Minute)
			tries(3)
			if a := r.autoNow(); a.Enabled || a.OffReason != reason || a.Failures != failuresMax {
				t.Errorf("after three: %+v", a)
			}
			r.later(72 * time.Hour)
			tries(3)
			r.charges(1)
			r.audit(2 * dollar)
		})
	}
}

// TestDeclineThenSuccess: a top-up that works clears what declines left.
func TestDeclineThenSuccess(t *testing.T) {
	r := newRig(t)
	r.declines("pm_card_chargeDeclined")
	r.settle()
	failed := r.latest()
	payments := r.top.stripe.PaymentIntents.List(&stripe.PaymentIntentListParams{})
	for payments.Next() { // nobody can complete what was declined
		if p := payments.PaymentIntent(); p.Metadata[topupKey] == failed.ID && p.Status != stripe.PaymentIntentStatusCanceled {
			t.Errorf("the declined payment is %s", p.Status)
		}
	}
	payer, err := r.db.Payer(r.ctx, "acme")
	r.must(err)
	r.must(r.fake.SetCard(payer.PaymentMethod, "pm_card_visa"))
	r.later(time.Hour)
	r.charges(2)
	if a := r.autoNow(); a.Failures != 0 || !a.Enabled || a.NextTryAt.After(r.clock.now()) {
		t.Errorf("%+v", a)
	}
	r.audit(2 * dollar)
}

func TestNoCard(t *testing.T) {
	r := newRig(t)
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	r.settle()
	if a := r.autoNow(); a.Enabled || a.OffReason != ReasonNoCard {
		t.Fatalf("%+v", a)
	}
	// Once a card is saved it goes on.
	r.bought("k")
	if a := r.autoNow(); !a.Enabled || a.OffReason != "" {
		t.Errorf("%+v", a)
	}
	r.charges(2)
	r.audit(2 * dollar)
}

// TestAuthentication: the bank wants to see the customer, who gets a page.
func TestAuthentication(t *testing.T) {
	for _, end := range []string{"paid", "left", "refused by the bank"} {
		t.Run(end, func(t *testing.T) {
			r := newRig(t)
			r.declines("pm_card_authenticationRequired")
			r.settle()
			row := r.state(r.latest(), ledger.TopupAction, "")
			if row.URL == "" || row.Session == "" {
				t.Fatalf("no page: %+v", row)
			}
			r.charges(1)
			switch end {
			case "paid":
				if status := r.pay(row, visa); status != "succeeded" {
					t.Fatal(status)
				}
				r.settle()
				r.state(row, ledger.TopupSucceeded, "")
				r.charges(2)
			case "left":
				r.later(sessionLife + time.Minute)
				r.state(row, ledger.TopupFailed, ReasonExpired)
				r.charges(1)
			case "refused by the bank":
				if _, err := r.fake.Pay(row.Session, "pm_card_chargeDeclined"); err == nil {
					t.Fatal("paid by a card that declines")
				}
				r.settle()
				r.state(row, ledger.TopupAction, "") // he may try another
				r.pay(row, visa)
				r.settle()
				r.charges(2)
			}
			r.audit(2 * dollar)
		})
	}
}

// TestThreeDSecurePage: the first page asks for authentication.
func TestThreeDSecurePage(t *testing.T) {
	for _, ok := range []bool{true, false} {
		r := newRig(t)
		row := r.buy("k")
		if status := r.pay(row, "pm_card_threeDSecure2Required"); status != "requires_action" {
			t.Fatal(status)
		}
		r.settle()
		r.audit(0)
		session, err := r.top.stripe.CheckoutSessions.Get(row.Session, nil)
		r.must(err)
		r.must(r.fake.Authenticate(session.PaymentIntent.ID, ok))
		r.settle()
		if ok {
			r.state(row, ledger.TopupSucceeded, "")
			r.audit(2 * dollar)
			continue
		}
		r.state(row, ledger.TopupSubmitted, "")
		r.later(sessionLife + time.Minute)
		r.state(row, ledger.TopupCanceled, ReasonExpired)
		r.audit(0)
	}
}

// TestProcessing: a bank debit takes days, and may fail then.
func TestProcessing(t *testing.T) {
	for _, ok := range []bool{true, false} {
		r := newRig(t)
		row := r.buy("k")
		if status := r.pay(row, "pm_usBankAccount_processing"); status != "processing" {
			t.Fatal(status)
		}
		r.settle()
		now := r.state(row, ledger.TopupProcessing, "")
		r.audit(0)
		r.later(72 * time.Hour)
		r.state(row, ledger.TopupProcessing, "")
		r.must(r.fake.FinishProcessing(now.PaymentIntent, ok))
		r.settle()
		if ok {
			r.state(row, ledger.TopupSucceeded, "")
			r.audit(2 * dollar)
		} else {
			r.state(row, ledger.TopupFailed, ReasonProcessing)
			r.audit(0)
		}
	}
}

// TestTwoWorkers race for one wallet on one ledger.
func TestTwoWorkers(t *testing.T) {
	r := newRig(t)
	r.bought("k")
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	other := r.process(r.top.APIBase)
	var wait sync.WaitGroup
	for _, top := range []*Topup{r.top, other, r.top, other} {
		wait.Go(func() {
			for range 5 {
				top.Step(r.ctx)
				r.clock.advance(20 * time.Second)
			}
		})
	}
	wait.Wait()
	r.settle()
	r.charges(2)
	r.audit(2 * dollar)
}

// TestStripeIsAway: nothing is lost and nothing charged twice while Stripe
// answers with errors, or not at all.
func TestStripeIsAway(t *testing.T) {
	for name, fault := range map[string]stripefake.Fault{"no answer": {}, "answer lost": {After: true}, "busy": {Status: 429}, "broken": {Status: 500},
		"broken after": {Status: 500, After: true}, "away": {Status: 503}, "in use": {Status: 409}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.bought("k")
			fault.Match, fault.Count = "POST /v1/payment_intents", 3
			r.fake.Inject(fault)
			r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
			r.settle()
			r.later(20 * time.Minute)
			r.state(r.latest(), ledger.TopupSucceeded, "")
			r.charges(2)
			r.audit(2 * dollar)
		})
	}
}

// loseCharge begins an automatic top-up whose charge gets no answer, although
// it has reached Stripe or because it has not.
func (r *rig) loseCharge(reached bool) {
	r.Helper()
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	const chargeStep = 3 // the row, its move to submitted, the request
	if r.gate.arm(chargeStep, dies); reached {
		r.gate.arm(chargeStep, loses)
	}
	err := r.top.Step(r.ctx)
	r.restart()
	if row := r.latest(); err == nil || row.State != ledger.TopupSubmitted {
		r.Fatalf("the fault did not bite: %v, %+v", err, row)
	}
}

// TestOffMeansOff: a top-up whose outcome is unknown is not asked for again
// once the operator has turned it off; what was charged is credited.
func TestOffMeansOff(t *testing.T) {
	for _, reached := range []bool{false, true} {
		r := newRig(t)
		r.bought("k")
		r.fake.SetWebhook("", "", "") // and no event tells
		r.loseCharge(reached)
		a := r.autoNow()
		a.Enabled = false
		r.write(func(tx *ledger.Tx) error { return tx.SetAutoTopup(r.ctx, a) })
		r.later(time.Hour)
		if reached {
			r.charges(2)
		} else {
			r.charges(1)
			r.state(r.latest(), ledger.TopupCanceled, ReasonCanceled)
		}
		r.audit(2 * dollar)
	}
}

// TestAskedTwice: two workers may ask for the same charge at the same time.
func TestAskedTwice(t *testing.T) {
	r := newRig(t)
	r.bought("k")
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	row, begun, err := r.top.begin(r.ctx, "acme")
	if err != nil || !begun {
		t.Fatal(begun, err)
	}
	row, err = r.top.move(r.ctx, row, ledger.TopupSubmitted, nil) // both see it so
	r.must(err)
	var asked, done sync.WaitGroup
	asked.Add(2)
	handler := r.gate.Handler
	r.gate.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost && req.URL.Path == "/v1/payment_intents" {
			asked.Done()
			asked.Wait()
		}
		handler.ServeHTTP(w, req)
	})
	for range 2 {
		done.Go(func() { r.top.charge(r.ctx, row) })
	}
	done.Wait()
	r.gate.Handler = handler
	r.settle()
	r.charges(2)
	r.audit(2 * dollar)
}

// TestCardIsReplaced while the outcome of a charge is unknown: one of the two
// cards is charged.
func TestCardIsReplaced(t *testing.T) {
	for _, reached := range []bool{false, true} {
		r := newRig(t)
		r.bought("k")
		r.loseCharge(reached)
		payer, err := r.db.Payer(r.ctx, "acme")
		r.must(err)
		payer.PaymentMethod, err = r.fake.SavedCard(payer.StripeCustomer, "pm_card_visa")
		r.must(err)
		r.write(func(tx *ledger.Tx) error { return tx.SetPayer(r.ctx, payer) })
		r.settle()
		r.later(time.Hour)
		r.charges(2)
		r.audit(2 * dollar)
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	r := newRig(t)
	r.declines("pm_card_chargeDeclined")
	r.fake.Inject(stripefake.Fault{Status: 500, Count: 1})
	r.settle()
	for _, secret := range []string{apiKey, webhookSecret, "client_secret"} {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("%s is in the log:\n%s", secret, r.log)
		}
	}
	if n := strings.Count(r.log.String(), "top-up failed"); n != 1 {
		t.Errorf("%d lines for one outcome:\n%s", n, r.log)
	}
}

// TestRun: what the worker does by itself, from the real clock.
func TestRun(t *testing.T) {
	r := newRig(t)
	ctx, stop := context.WithCancel(r.ctx)
	var running sync.WaitGroup
	running.Go(func() { r.top.Run(ctx) })
	r.fake.Release()
	row := r.buy("k")
	r.pay(row, visa)
	for deadline := time.Now().Add(10 * time.Second); r.topup(row.ID).State != ledger.TopupSucceeded; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not credited; log:\n%s", r.log)
		}
	}
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	for deadline := time.Now().Add(10 * time.Second); len(r.fake.Log().Charges) < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not charged; log:\n%s", r.log)
		}
	}
	stop()
	running.Wait()
	r.fake.Hold()
	r.must(r.fake.Wait(r.ctx))
	r.settle()
	r.audit(2 * dollar)
}

// TestSlowCustomers: what Stripe takes its time for does not hold the others up.
func TestSlowCustomers(t *testing.T) {
	r := newRig(t)
	r.bought("k")
	const customers = 3
	for i := range customers {
		id := string(rune('a' + i))
		r.write(func(tx *ledger.Tx) error { _, err := tx.CreateCustomer(r.ctx, ledger.Customer{ID: id}); return err })
		own, err := r.top.payer(r.ctx, id)
		r.must(err)
		own.PaymentMethod, err = r.fake.SavedCard(own.StripeCustomer, "pm_card_visa")
		r.must(err)
		r.write(func(tx *ledger.Tx) error {
			if err := tx.SetPayer(r.ctx, own); err != nil {
				return err
			}
			return tx.SetAutoTopup(r.ctx, ledger.AutoTopup{Customer: id, Enabled: true, Threshold: dollar, Amount: 5 * dollar})
		})
	}
	// All charges must be under way before the first is answered.
	var asked sync.WaitGroup
	asked.Add(customers)
	handler := r.gate.Handler
	r.gate.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost && req.URL.Path == "/v1/payment_intents" {
			asked.Done()
			asked.Wait()
		}
		handler.ServeHTTP(w, req)
	})
	r.must(r.top.workDue(r.ctx))
	r.charges(1 + customers)
}

// TestPlatformIsTold of what needs somebody: once each time.
func TestPlatformIsTold(t *testing.T) {
	r := newRig(t)
	r.write(func(tx *ledger.Tx) error {
		_, err := tx.AddEndpoint(r.ctx, ledger.Endpoint{ID: "platform", URL: "https://platform.example/", Secret: []byte("x"),
			Events: []string{ledger.EventTopupFailed, ledger.EventTopupAction, ledger.EventTopupSucceeded}})
		return err
	})
	seen := map[string]bool{}
	told := func(want ...string) {
		t.Helper()
		list, _, err := r.db.Deliveries(r.ctx, "platform", ledger.Page{})
		r.must(err)
		var got []string
		for _, d := range list {
			if seen[d.Event.ID] {
				continue
			}
			seen[d.Event.ID] = true
			var news ledger.TopupNews
			r.must(json.Unmarshal(d.Event.Data.(json.RawMessage), &news))
			got = append(got, d.Event.Type+" "+news.Reason)
			if d.Event.Type == ledger.EventTopupAction && news.URL == "" {
				t.Error("no page is told")
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	r.settle()
	told("topup.failed missing_payment_method")
	r.bought("k")
	told("topup.succeeded ", "topup.succeeded ") // the purchase, and with its card the top-up
	payer, err := r.db.Payer(r.ctx, "acme")
	r.must(err)
	r.must(r.fake.SetCard(payer.PaymentMethod, "pm_card_chargeDeclined"))
	r.spend(20 * dollar)
	r.later(2 * time.Minute)
	told("topup.failed card_declined")
	r.must(r.fake.SetCard(payer.PaymentMethod, "pm_card_authenticationRequired"))
	r.later(time.Hour)
	told("topup.requires_action ")
	r.pay(r.latest(), visa)
	r.settle()
	told("topup.succeeded ")
	a := r.autoNow()
	a.CapPerDay = 1 * dollar
	r.auto(a)
	r.spend(20 * dollar)
	r.later(3 * time.Minute)
	told("topup.failed cap_reached")
}

// TestNoLongerDue: a process ended before it asked for the charge, and by the
// time another goes on the wallet has money.
func TestNoLongerDue(t *testing.T) {
	r := newRig(t)
	r.bought("k")
	r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	row, begun, err := r.top.begin(r.ctx, "acme")
	if err != nil || !begun {
		t.Fatal(begun, err)
	}
	r.write(func(tx *ledger.Tx) error {
		_, _, err := tx.Credit(r.ctx, ledger.Credit{Customer: "acme", Amount: 10 * dollar, Reason: "wire"})
		return err
	})
	r.later(takenOver)
	r.state(row, ledger.TopupCanceled, ReasonCanceled)
	r.charges(1)
	r.audit(12 * dollar)
}

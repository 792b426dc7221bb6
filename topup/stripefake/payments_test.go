package stripefake

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

func TestOffSessionPayment(t *testing.T) {
	f := start(t)
	customer := f.customer()
	pm := must(f.SavedCard(customer, "pm_card_visa"))(t)
	n := len(f.Events())
	pi := must(f.api.PaymentIntents.New(offSession(customer, pm, 2500)))(t)
	equal(t, "status", string(pi.Status), "succeeded")
	equal(t, "received", pi.AmountReceived, 2500)
	equal(t, "metadata", pi.Metadata["topup_id"], "tup_1")
	f.wantTypes(n, "payment_intent.created", "charge.succeeded", "payment_intent.succeeded")
	log := f.Log()
	if len(log.Charges) != 1 || log.Charges[0].Amount != 2500 || log.Charges[0].Fee != 103 || log.Charges[0].Customer != customer || log.Charges[0].Metadata["topup_id"] != "tup_1" {
		t.Errorf("log: %+v", log)
	}
}

func TestDeclines(t *testing.T) {
	for card, want := range map[string][2]string{
		"pm_card_chargeCustomerFail":                       {"card_declined", "generic_decline"},
		"pm_card_chargeDeclined":                           {"card_declined", "generic_decline"},
		"pm_card_visa_chargeDeclinedInsufficientFunds":     {"card_declined", "insufficient_funds"},
		"pm_card_chargeDeclinedLostCard":                   {"card_declined", "lost_card"},
		"pm_card_visa_chargeDeclinedStolenCard":            {"card_declined", "stolen_card"},
		"pm_card_visa_chargeDeclinedVelocityLimitExceeded": {"card_declined", "card_velocity_exceeded"},
		"pm_card_chargeDeclinedExpiredCard":                {"expired_card", "expired_card"},
		"pm_card_chargeDeclinedIncorrectCvc":               {"incorrect_cvc", "incorrect_cvc"},
		"pm_card_chargeDeclinedProcessingError":            {"processing_error", "processing_error"},
		"4000000000000069":                                 {"expired_card", "expired_card"},
	} {
		t.Run(card, func(t *testing.T) {
			f := start(t)
			customer := f.customer()
			pm := must(f.SavedCard(customer, "pm_card_visa"))(t)
			ok(t, f.SetCard(pm, card))
			n := len(f.Events())
			_, err := f.api.PaymentIntents.New(offSession(customer, pm, 1000))
			e := refused(t, err, 402, "card_error", want[0], want[1])
			equal(t, "payment's status", string(e.PaymentIntent.Status), "requires_payment_method")
			equal(t, "its error", string(e.PaymentIntent.LastPaymentError.DeclineCode), want[1])
			equal(t, "method of the error", e.PaymentMethod.ID, pm)
			f.wantTypes(n, "payment_intent.created", "charge.failed", "payment_intent.payment_failed")
			ch := must(f.api.Charges.Get(e.ChargeID, nil))(t)
			equal(t, "charge", string(ch.Status), "failed")
			equal(t, "its reason", ch.Outcome.Reason, want[1])
			equal(t, "charges that moved money", len(f.Log().Charges), 0)
		})
	}
}

func TestAuthentication(t *testing.T) {
	for _, c := range []struct {
		card         string
		off, on      string // status, off and on session, of a card not set up
		offWhenSetUp string
	}{
		{"pm_card_visa", "succeeded", "succeeded", "succeeded"},
		{"pm_card_authenticationRequired", "declined", "requires_action", "declined"},
		{"pm_card_threeDSecure2Required", "declined", "requires_action", "declined"},
		{"pm_card_authenticationRequiredOnSetup", "declined", "requires_action", "succeeded"},
		{"pm_card_authenticationRequiredSetupForOffSession", "succeeded", "requires_action", "succeeded"},
	} {
		t.Run(c.card, func(t *testing.T) {
			f := start(t)
			customer := f.customer()
			fresh := must(f.api.PaymentMethods.Attach(c.card, &stripe.PaymentMethodAttachParams{Customer: stripe.String(customer)}))(t).ID
			saved := must(f.SavedCard(customer, c.card))(t)
			pay := func(method string, off bool) string {
				p := offSession(customer, method, 1000)
				if !off {
					p.OffSession = nil
				}
				pi, err := f.api.PaymentIntents.New(p)
				if err == nil {
					return string(pi.Status)
				}
				e := refused(t, err, 402, "card_error", "authentication_required", "authentication_required")
				equal(t, "status", string(e.PaymentIntent.Status), "requires_payment_method")
				return "declined"
			}
			equal(t, "off session", pay(fresh, true), c.off)
			equal(t, "on session", pay(fresh, false), c.on)
			equal(t, "off session, set up", pay(saved, true), c.offWhenSetUp)
		})
	}
}

func TestThreeDSecure(t *testing.T) {
	f := start(t)
	customer := f.customer()
	pm := must(f.SavedCard(customer, "pm_card_threeDSecure2Required"))(t)
	p := offSession(customer, pm, 1000)
	p.OffSession, p.ReturnURL = nil, stripe.String("https://example.com/back")
	n := len(f.Events())
	pi := must(f.api.PaymentIntents.New(p))(t)
	equal(t, "status", string(pi.Status), "requires_action")
	equal(t, "return", pi.NextAction.RedirectToURL.ReturnURL, "https://example.com/back")
	ok(t, f.Authenticate(pi.ID, false))
	pi = must(f.api.PaymentIntents.Get(pi.ID, nil))(t)
	equal(t, "status after a failure", string(pi.Status), "requires_payment_method")
	equal(t, "error", string(pi.LastPaymentError.Code), "payment_intent_authentication_failure")
	equal(t, "charges", len(f.Log().Charges), 0)

	again := must(f.api.PaymentIntents.Confirm(pi.ID, &stripe.PaymentIntentConfirmParams{PaymentMethod: stripe.String(pm)}))(t)
	equal(t, "status", string(again.Status), "requires_action")
	ok(t, f.Authenticate(pi.ID, true))
	equal(t, "status", string(must(f.api.PaymentIntents.Get(pi.ID, nil))(t).Status), "succeeded")
	f.wantTypes(n, "payment_intent.created", "payment_intent.requires_action", "payment_intent.payment_failed", "payment_intent.requires_action",
		"charge.succeeded", "payment_intent.succeeded")
	if f.Authenticate(pi.ID, true) == nil {
		t.Error("a payment was authenticated twice")
	}
	_, err := f.api.PaymentIntents.Confirm(pi.ID, &stripe.PaymentIntentConfirmParams{PaymentMethod: stripe.String(pm)})
	refused(t, err, 400, "invalid_request_error", "payment_intent_unexpected_state", "")

	ok(t, f.SetCard(pm, "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds"))
	pi = must(f.api.PaymentIntents.New(p))(t)
	ok(t, f.Authenticate(pi.ID, true))
	pi = must(f.api.PaymentIntents.Get(pi.ID, nil))(t)
	equal(t, "declined after authentication", string(pi.LastPaymentError.DeclineCode), "insufficient_funds")
	equal(t, "charges", len(f.Log().Charges), 1)

	p.ErrorOnRequiresAction = stripe.Bool(true)
	_, err = f.api.PaymentIntents.New(p)
	refused(t, err, 402, "card_error", "authentication_required", "authentication_required")
}

func TestProcessing(t *testing.T) {
	for _, good := range []bool{true, false} {
		t.Run(fmt.Sprint(good), func(t *testing.T) {
			f := start(t)
			customer := f.customer()
			pm := must(f.SavedCard(customer, "pm_usBankAccount_success"))(t)
			p := offSession(customer, pm, 5000)
			_, err := f.api.PaymentIntents.New(p)
			refused(t, err, 400, "invalid_request_error", "", "") // only cards were allowed
			p.PaymentMethodTypes = stripe.StringSlice([]string{"us_bank_account"})
			n := len(f.Events())
			pi := must(f.api.PaymentIntents.New(p))(t)
			equal(t, "status", string(pi.Status), "processing")
			equal(t, "charges", len(f.Log().Charges), 0)
			ok(t, f.FinishProcessing(pi.ID, good))
			pi = must(f.api.PaymentIntents.Get(pi.ID, nil))(t)
			if good {
				f.wantTypes(n, "payment_intent.created", "charge.pending", "payment_intent.processing", "charge.succeeded", "payment_intent.succeeded")
				equal(t, "status", string(pi.Status), "succeeded")
				equal(t, "charges", len(f.Log().Charges), 1)
				return
			}
			f.wantTypes(n, "payment_intent.created", "charge.pending", "payment_intent.processing", "charge.failed", "payment_intent.payment_failed")
			equal(t, "status", string(pi.Status), "requires_payment_method")
			equal(t, "charges", len(f.Log().Charges), 0)
			n = 0
			for i := f.api.Charges.List(&stripe.ChargeListParams{PaymentIntent: stripe.String(pi.ID)}); i.Next(); n++ {
			}
			equal(t, "attempts", n, 1)
		})
	}
}

func TestPaymentSteps(t *testing.T) {
	f := start(t)
	customer := f.customer()
	made := must(f.api.PaymentIntents.New(&stripe.PaymentIntentParams{Amount: stripe.Int64(700), Currency: stripe.String("usd"), Customer: stripe.String(customer),
		AutomaticPaymentMethods: &stripe.PaymentIntentAutomaticPaymentMethodsParams{Enabled: stripe.Bool(true), AllowRedirects: stripe.String("never")}}))(t)
	equal(t, "status", string(made.Status), "requires_payment_method")
	up := must(f.api.PaymentIntents.Update(made.ID, &stripe.PaymentIntentParams{Amount: stripe.Int64(800), PaymentMethod: stripe.String("pm_card_visa"), SetupFutureUsage: stripe.String("off_session")}))(t)
	equal(t, "status", string(up.Status), "requires_confirmation")
	done := must(f.api.PaymentIntents.Confirm(made.ID, nil))(t)
	equal(t, "received", done.AmountReceived, 800)
	equal(t, "the card is saved now", must(f.api.PaymentMethods.Get(done.PaymentMethod.ID, nil))(t).Customer.ID, customer)
	_, err := f.api.PaymentIntents.Update(made.ID, &stripe.PaymentIntentParams{Amount: stripe.Int64(900)})
	refused(t, err, 400, "invalid_request_error", "payment_intent_unexpected_state", "")
	_, err = f.api.PaymentIntents.Cancel(made.ID, nil)
	refused(t, err, 400, "invalid_request_error", "payment_intent_unexpected_state", "")

	open := must(f.api.PaymentIntents.New(&stripe.PaymentIntentParams{Amount: stripe.Int64(700), Currency: stripe.String("usd"), PaymentMethodTypes: stripe.StringSlice([]string{"card"})}))(t)
	_, err = f.api.PaymentIntents.Confirm(open.ID, nil)
	refused(t, err, 400, "invalid_request_error", "payment_intent_unexpected_state", "")
	gone := must(f.api.PaymentIntents.Cancel(open.ID, &stripe.PaymentIntentCancelParams{CancellationReason: stripe.String("abandoned")}))(t)
	equal(t, "status", string(gone.Status), "canceled")
	equal(t, "reason", string(gone.CancellationReason), "abandoned")
	_, err = f.api.PaymentIntents.New(offSession(customer, must(f.SavedCard(f.customer(), "pm_card_visa"))(t), 1000))
	refused(t, err, 400, "invalid_request_error", "", "") // another customer's card
}

func TestSearch(t *testing.T) {
	f := start(t, func(o *Options) { o.SearchLag = time.Minute })
	pi := f.charged("pm_card_visa", 1234)
	find := func(query string) (ids []string) {
		i := f.api.PaymentIntents.Search(&stripe.PaymentIntentSearchParams{SearchParams: stripe.SearchParams{Query: query}})
		for i.Next() {
			ids = append(ids, i.PaymentIntent().ID)
		}
		ok(t, i.Err())
		return ids
	}
	equal(t, "found at once", len(find("metadata['topup_id']:'tup_1'")), 0)
	f.pass(61 * time.Second)
	for query, want := range map[string]int{
		`metadata['topup_id']:'tup_1'`: 1, `metadata["topup_id"]:"tup_1" AND status:"succeeded"`: 1, `metadata['topup_id']:'tup_2'`: 0,
		`amount>1233 AND amount<=1234`: 1, `amount<1234`: 0, `customer:'` + pi.Customer.ID + `'`: 1, `status:'canceled'`: 0,
	} {
		equal(t, query, len(find(query)), want)
	}
	i := f.api.PaymentIntents.Search(&stripe.PaymentIntentSearchParams{SearchParams: stripe.SearchParams{Query: "topup"}})
	if i.Next() || i.Err() == nil {
		t.Error("a query that is none was answered")
	}
}

func TestRefunds(t *testing.T) {
	f := start(t)
	pi := f.charged("pm_card_visa", 1000)
	charge := pi.LatestCharge.ID
	n := len(f.Events())
	first := must(f.api.Refunds.New(&stripe.RefundParams{Charge: stripe.String(charge), Amount: stripe.Int64(300), Reason: stripe.String("requested_by_customer"),
		Metadata: map[string]string{"a": "1"}}))(t)
	equal(t, "status", string(first.Status), "succeeded")
	equal(t, "books", must(f.api.BalanceTransactions.Get(first.BalanceTransaction.ID, nil))(t).Net, -300)
	f.wantTypes(n, "charge.refunded", "refund.created")
	_, err := f.api.Refunds.New(&stripe.RefundParams{PaymentIntent: stripe.String(pi.ID), Amount: stripe.Int64(701)})
	refused(t, err, 400, "invalid_request_error", "", "")
	rest := must(f.api.Refunds.New(&stripe.RefundParams{PaymentIntent: stripe.String(pi.ID)}))(t)
	equal(t, "rest", rest.Amount, 700)
	ch := must(f.api.Charges.Get(charge, nil))(t)
	if ch.AmountRefunded != 1000 || !ch.Refunded {
		t.Errorf("refunded %d, all %t", ch.AmountRefunded, ch.Refunded)
	}
	_, err = f.api.Refunds.New(&stripe.RefundParams{Charge: stripe.String(charge)})
	refused(t, err, 400, "invalid_request_error", "charge_already_refunded", "")
	_, err = f.api.Refunds.New(&stripe.RefundParams{})
	refused(t, err, 400, "invalid_request_error", "parameter_missing", "")

	n = len(f.Events())
	_, err = f.api.Refunds.Update(rest.ID, &stripe.RefundParams{Metadata: map[string]string{"b": "2"}})
	ok(t, err)
	ok(t, f.FailRefund(rest.ID))
	f.wantTypes(n, "charge.refund.updated", "refund.updated", "charge.refund.updated", "refund.updated")
	equal(t, "status", string(must(f.api.Refunds.Get(rest.ID, nil))(t).Status), "failed")
	equal(t, "refunded after the failure", must(f.api.Charges.Get(charge, nil))(t).AmountRefunded, 300)
	if f.FailRefund(rest.ID) == nil {
		t.Error("a refund failed twice")
	}
	n = 0
	for i := f.api.Refunds.List(&stripe.RefundListParams{Charge: stripe.String(charge)}); i.Next(); n++ {
	}
	equal(t, "refunds", n, 2)
	if _, body := f.raw("GET", "/v1/charges/"+charge+"/refunds", nil); !strings.Contains(body, first.ID) || !strings.Contains(body, rest.ID) {
		t.Errorf("refunds of the charge: %s", body)
	}

	late := f.charged("pm_card_pendingRefund", 400)
	id := must(f.Refund(late.LatestCharge.ID, 0))(t)
	equal(t, "pending", string(must(f.api.Refunds.Get(id, nil))(t).Status), "pending")
	ok(t, f.SettleRefund(id))
	equal(t, "settled", string(must(f.api.Refunds.Get(id, nil))(t).Status), "succeeded")
	log := f.Log()
	if len(log.Refunds) != 3 || log.Refunds[1].Status != "failed" || log.Refunds[2].Amount != 400 || log.Charges[0].Refunded != 300 {
		t.Errorf("log: %+v", log)
	}
}

func TestDisputes(t *testing.T) {
	f := start(t)
	n := len(f.Events())
	pi := f.charged("pm_card_createDispute", 1000)
	f.wantTypes(n, "customer.created", "payment_method.attached", "payment_intent.created", "charge.succeeded", "payment_intent.succeeded",
		"charge.dispute.created", "charge.dispute.funds_withdrawn")
	var d *stripe.Dispute
	for i := f.api.Disputes.List(&stripe.DisputeListParams{PaymentIntent: stripe.String(pi.ID)}); i.Next(); {
		d = i.Dispute()
	}
	equal(t, "reason", string(d.Reason), "fraudulent")
	equal(t, "withdrawn", d.BalanceTransactions[0].Net, -2500) // 10.00 and the fee of 15.00
	equal(t, "disputed", must(f.api.Charges.Get(pi.LatestCharge.ID, nil))(t).Disputed, true)
	_, err := f.api.Refunds.New(&stripe.RefundParams{Charge: stripe.String(pi.LatestCharge.ID)})
	refused(t, err, 400, "invalid_request_error", "charge_disputed", "")
	n = len(f.Events())
	ok(t, f.CloseDispute(d.ID, true))
	f.wantTypes(n, "charge.dispute.closed", "charge.dispute.funds_reinstated")
	d = must(f.api.Disputes.Get(d.ID, nil))(t)
	equal(t, "status", string(d.Status), "won")
	equal(t, "reinstated", d.BalanceTransactions[1].Net, 1000)
	if f.CloseDispute(d.ID, false) == nil {
		t.Error("a dispute was closed twice")
	}

	lost := must(f.OpenDispute(f.charged("pm_card_visa", 500).LatestCharge.ID, "product_not_received"))(t)
	n = len(f.Events())
	_, err = f.api.Disputes.Close(lost, nil)
	ok(t, err)
	f.wantTypes(n, "charge.dispute.closed")
	equal(t, "log", f.Log().Charges[1].DisputeStatus, "lost")

	n = len(f.Events())
	asked := f.charged("pm_card_createDisputeInquiry", 600)
	equal(t, "an inquiry moves nothing", len(f.types(n)), 6)
	must(f.Refund(asked.LatestCharge.ID, 0))(t)
	for i := f.api.Disputes.List(&stripe.DisputeListParams{Charge: stripe.String(asked.LatestCharge.ID)}); i.Next(); {
		n = len(f.Events())
		ok(t, f.CloseDispute(i.Dispute().ID, true))
		f.wantTypes(n, "charge.dispute.closed")
	}

	warned := f.charged("pm_card_createIssuerFraudRecord", 700)
	n = 0
	for i := f.api.RadarEarlyFraudWarnings.List(&stripe.RadarEarlyFraudWarningListParams{Charge: stripe.String(warned.LatestCharge.ID)}); i.Next(); n++ {
		w := must(f.api.RadarEarlyFraudWarnings.Get(i.RadarEarlyFraudWarning().ID, nil))(t)
		equal(t, "payment", w.PaymentIntent.ID, warned.ID)
	}
	equal(t, "warnings", n, 1)
	must(f.WarnOfFraud(pi.LatestCharge.ID))(t)
	equal(t, "event", f.types(len(f.Events()) - 1)[0], "radar.early_fraud_warning.created")
}

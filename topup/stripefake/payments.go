package stripefake

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// amountMin is Stripe's least payment in dollars, amountMax its largest, in cents.
	amountMin = 50
	amountMax = 99_999_999
)

// currencies known here; all have cents.
var currencies = []string{"usd", "eur", "gbp"}

const paymentSpec = "customer payment_method description metadata.* receipt_email setup_future_usage:off_session|on_session " +
	"statement_descriptor statement_descriptor_suffix "

const confirmSpec = "off_session:bool error_on_requires_action:bool return_url "

var paymentEndpoints = []endpoint{
	{"POST /v1/payment_intents", paymentSpec + confirmSpec + "amount:int! currency! confirm:bool payment_method_types automatic_payment_methods.enabled:bool " +
		"automatic_payment_methods.allow_redirects:always|never capture_method:automatic|automatic_async confirmation_method:automatic", (*Server).createPayment},
	{"GET /v1/payment_intents/search", "query! limit:int page", func(s *Server, c *call) (object, error) { return s.search(c, "payment_intent") }},
	read("payment_intents", "payment_intent"),
	list("payment_intents", "payment_intent", "customer"),
	{"POST /v1/payment_intents/{id}", paymentSpec + "amount:int", (*Server).updatePayment},
	{"POST /v1/payment_intents/{id}/confirm", confirmSpec + "payment_method receipt_email setup_future_usage:off_session|on_session", (*Server).confirmPayment},
	{"POST /v1/payment_intents/{id}/cancel", "cancellation_reason:duplicate|fraudulent|requested_by_customer|abandoned", (*Server).cancelPayment},
}

func (s *Server) createPayment(c *call) (object, error) {
	if err := checkAmount(c.num("amount", 0), c.str("currency")); err != nil {
		return nil, err
	}
	if c.flag("off_session") && !c.flag("confirm") {
		return nil, invalid("", "off_session", "You cannot set off_session unless confirm is true.")
	}
	if c.flag("confirm") && c.str("payment_method") == "" {
		return nil, invalid("", "", "You cannot confirm this PaymentIntent because it's missing a payment method.")
	}
	automatic := automaticMethods(c.params)
	if automatic != nil && automatic.str("allow_redirects") == "always" && c.flag("confirm") && c.str("return_url") == "" {
		return nil, invalid("", "", "This PaymentIntent is configured to accept payment methods that might redirect your customer off of your page: "+
			"you must provide a `return_url`, or set `automatic_payment_methods[allow_redirects]` to `never`, or name `payment_method_types`.")
	}
	pm, err := s.usableMethod(c.str("payment_method"), c.str("customer"))
	if err != nil {
		return nil, err
	}
	types := c.strs("payment_method_types")
	if len(types) == 0 {
		types = []string{"card"}
	}
	if automatic != nil {
		types = []string{"card", "us_bank_account"}
	}
	if pm != nil && !slices.Contains(types, pm.str("type")) {
		return nil, invalid("", "", "The PaymentMethod provided (%s) is not allowed for this PaymentIntent.", pm.str("type"))
	}
	pi := s.newPayment(object{"amount": c.num("amount", 0), "currency": c.str("currency"), "customer": c.orNull("customer"), "payment_method_types": texts(types)})
	if automatic != nil {
		pi["automatic_payment_methods"] = automatic
	}
	c.copyTexts(pi, "description", "receipt_email", "setup_future_usage", "statement_descriptor", "statement_descriptor_suffix", "capture_method")
	c.merge(pi, "metadata")
	if pm != nil {
		pi.set(object{"payment_method": pm.str("id"), "status": "requires_confirmation"})
	}
	s.emit("payment_intent.created", pi, nil)
	if !c.flag("confirm") {
		return pi, nil
	}
	if refused := s.confirm(pi, confirmationOf(c.params)); refused != nil {
		return nil, refused
	}
	return pi, nil
}

// automaticMethods is the hash to show; nil if the request names its types. They
// are the default since version 2023-08-16.
func automaticMethods(p params) object {
	if p.has("payment_method_types") || p.str("automatic_payment_methods.enabled") == "false" {
		return nil
	}
	redirects := p.str("automatic_payment_methods.allow_redirects")
	if redirects == "" {
		redirects = "always"
	}
	return object{"enabled": true, "allow_redirects": redirects}
}

func (s *Server) newPayment(fields object) object {
	pi := s.create("payment_intent", fields)
	pi["client_secret"] = pi.str("id") + "_secret_" + s.newID("")[1:]
	return pi
}

func checkAmount(amount int64, currency string) error {
	switch {
	case !slices.Contains(currencies, currency):
		return invalid("", "currency", "Invalid currency: %s. Known here: %s.", currency, strings.Join(currencies, ", "))
	case amount < amountMin:
		return invalid("amount_too_small", "amount", "Amount must be at least %s.", dollars(amountMin, currency))
	case amount > amountMax:
		return invalid("amount_too_large", "amount", "Amount must be no more than %s.", dollars(amountMax, currency))
	}
	return nil
}

func dollars(cents int64, currency string) string {
	return fmt.Sprintf("%d.%02d %s", cents/100, cents%100, currency)
}

// usableMethod is the payment method asked for, if this customer may pay with
// it; nil if none is asked for.
func (s *Server) usableMethod(given, customer string) (object, error) {
	if customer != "" {
		if _, err := s.find("customer", customer, "customer"); err != nil {
			return nil, err
		}
	}
	if given == "" {
		return nil, nil
	}
	pm, err := s.method(given, "payment_method")
	if err != nil {
		return nil, err
	}
	if holder := pm.str("customer"); holder != "" && holder != customer {
		return nil, invalid("", "payment_method", "The payment method %s belongs to the Customer %s. Please include the Customer in the `customer` parameter on the PaymentIntent.",
			pm.str("id"), holder)
	}
	return pm, nil
}

// confirmation is how a payment is confirmed.
type confirmation struct {
	offSession bool
	strict     bool // an action asked for is an error
	returnURL  string
}

func confirmationOf(p params) confirmation {
	return confirmation{offSession: p.flag("off_session"), strict: p.flag("error_on_requires_action"), returnURL: p.str("return_url")}
}

// confirm tries to take the payment with its method. A refusal is Stripe's 402.
func (s *Server) confirm(pi object, how confirmation) error {
	k := s.cards[pi.str("payment_method")]
	if k.needsHolder(how.offSession) {
		if how.offSession || how.strict {
			return s.decline(pi, "authentication_required", "authentication_required")
		}
		before := pi.copy()
		pi["next_action"] = object{"type": "use_stripe_sdk", "use_stripe_sdk": object{"type": "three_d_secure_redirect", "stripe_js": "/authenticate/" + pi.str("id")}}
		if how.returnURL != "" {
			pi["next_action"] = object{"type": "redirect_to_url", "redirect_to_url": object{"return_url": how.returnURL, "url": "/authenticate/" + pi.str("id")}}
		}
		pi["status"] = "requires_action"
		s.emit("payment_intent.requires_action", pi, before)
		return nil
	}
	return s.take(pi)
}

// take asks the issuer, after all authentication.
func (s *Server) take(pi object) error {
	k := s.cards[pi.str("payment_method")]
	pi.set(object{"next_action": nil, "last_payment_error": nil})
	switch {
	case k.slow:
		ch := s.newCharge(pi)
		pi.set(object{"status": "processing", "latest_charge": ch.str("id"), "processing": nil})
		s.emit("charge.pending", ch, nil)
		s.emit("payment_intent.processing", pi, nil)
		s.sessionProcessing(pi)
	case k.code != "":
		return s.decline(pi, k.code, k.decline)
	default:
		s.succeed(pi, s.newCharge(pi))
	}
	return nil
}

// succeed moves the money of the charge and ends the payment.
func (s *Server) succeed(pi, ch object) {
	pm := s.objects[pi.str("payment_method")]
	k := s.cards[pm.str("id")]
	s.paid(ch)
	pi.set(object{"status": "succeeded", "amount_received": pi["amount"], "latest_charge": ch.str("id"), "processing": nil, "next_action": nil})
	if pi.str("setup_future_usage") == "off_session" && pi.str("customer") != "" {
		s.attach(pm, pi.str("customer"))
		k.ready = true
		s.cards[pm.str("id")] = k
	}
	s.emit("charge.succeeded", ch, nil)
	s.emit("payment_intent.succeeded", pi, nil)
	s.invoicePaid(pi)
	s.sessionPaid(pi)
	if k.dispute != "" {
		s.openDispute(ch, k.dispute, k.inquiry)
	}
	if k.warned {
		s.warn(ch)
	}
}

// decline fails the payment's charge and returns the error that its caller sees.
func (s *Server) decline(pi object, code, decline string) error {
	ch := s.objects[pi.str("latest_charge")]
	if ch.str("status") != "pending" {
		ch = s.newCharge(pi)
	}
	ch.set(object{"status": "failed", "failure_code": code, "failure_message": declineMessage(decline),
		"outcome": object{"network_status": "declined_by_network", "reason": decline, "risk_level": "normal", "risk_score": int64(20),
			"seller_message": "The bank declined the payment.", "type": "issuer_declined"}})
	e := &apiError{status: 402, kind: "card_error", code: code, declined: decline, message: declineMessage(decline),
		charge: ch.str("id"), method: s.objects[pi.str("payment_method")], kept: true}
	s.emit("charge.failed", ch, nil)
	s.refusePayment(pi, e, ch.str("id"))
	e.payment = pi
	return e
}

// refusePayment puts the payment back to where it wants another method.
func (s *Server) refusePayment(pi object, e *apiError, charge string) {
	pi.set(object{"status": "requires_payment_method", "payment_method": nil, "next_action": nil, "processing": nil, "last_payment_error": e.body("")})
	if charge != "" {
		pi["latest_charge"] = charge
	}
	s.emit("payment_intent.payment_failed", pi, nil)
	s.invoiceRefused(pi)
}

func (s *Server) updatePayment(c *call) (object, error) {
	pi, err := s.find("payment_intent", c.id, "intent")
	if err != nil {
		return nil, err
	}
	open := strings.HasPrefix(pi.str("status"), "requires_")
	if (c.has("amount") || c.has("payment_method") || c.has("customer")) && !open {
		return nil, unexpectedState(pi, "update")
	}
	if c.has("amount") {
		if err := checkAmount(c.num("amount", 0), pi.str("currency")); err != nil {
			return nil, err
		}
	}
	customer := pi.str("customer")
	if c.has("customer") {
		customer = c.str("customer")
	}
	pm, err := s.usableMethod(c.str("payment_method"), customer)
	if err != nil {
		return nil, err
	}
	pi["amount"] = c.num("amount", pi.num("amount"))
	c.copyTexts(pi, "customer", "description", "receipt_email", "setup_future_usage", "statement_descriptor", "statement_descriptor_suffix")
	c.merge(pi, "metadata")
	if pm != nil {
		pi.set(object{"payment_method": pm.str("id"), "status": "requires_confirmation"})
	}
	return pi, nil
}

func (s *Server) confirmPayment(c *call) (object, error) {
	pi, err := s.find("payment_intent", c.id, "intent")
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(pi.str("status"), "requires_") {
		return nil, unexpectedState(pi, "confirm")
	}
	pm, err := s.usableMethod(c.str("payment_method"), pi.str("customer"))
	if err != nil {
		return nil, err
	}
	if pm == nil && pi.str("payment_method") == "" {
		e := unexpectedState(pi, "confirm")
		e.message = "You cannot confirm this PaymentIntent because it's missing a payment method."
		return nil, e
	}
	if pm != nil {
		pi["payment_method"] = pm.str("id")
	}
	c.copyTexts(pi, "receipt_email", "setup_future_usage")
	if err := s.confirm(pi, confirmationOf(c.params)); err != nil {
		return nil, err
	}
	return pi, nil
}

func (s *Server) cancelPayment(c *call) (object, error) {
	pi, err := s.find("payment_intent", c.id, "intent")
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(pi.str("status"), "requires_") {
		return nil, unexpectedState(pi, "cancel")
	}
	if s.owners[c.id] != "" {
		e := unexpectedState(pi, "cancel")
		e.message = "You cannot cancel a PaymentIntent that was created by a Checkout Session. Expire the Session instead."
		return nil, e
	}
	s.cancel(pi, c.orNull("cancellation_reason"))
	return pi, nil
}

func (s *Server) cancel(pi object, reason any) {
	pi.set(object{"status": "canceled", "canceled_at": s.unix(), "cancellation_reason": reason, "next_action": nil})
	s.emit("payment_intent.canceled", pi, nil)
}

func unexpectedState(pi object, verb string) *apiError {
	e := invalid("payment_intent_unexpected_state", "", "You cannot %s this PaymentIntent because it has a status of %s.", verb, pi.str("status"))
	e.payment = pi
	return e
}

// Authenticate ends the 3-D Secure step of a payment intent or setup intent in
// requires_action. A refusal that follows is no error of this call: the intent
// says it.
func (s *Server) Authenticate(intent string, ok bool) error {
	return s.world(func() error {
		o := s.objects[intent]
		if o.str("status") != "requires_action" {
			return fmt.Errorf("cannot authenticate %s: it is no intent in requires_action", intent)
		}
		_ = s.authenticate(o, ok)
		return nil
	})
}

func (s *Server) authenticate(intent object, ok bool) error {
	if intent.str("object") == "setup_intent" {
		_, err := s.finishSetup(intent, ok)
		return err
	}
	if ok {
		return s.take(intent)
	}
	e := &apiError{kind: "invalid_request_error", code: "payment_intent_authentication_failure", method: s.objects[intent.str("payment_method")],
		message: "We are unable to authenticate your payment method. Please choose a different payment method and try again."}
	s.refusePayment(intent, e, "")
	return e
}

// FinishProcessing ends a payment in processing: the bank's money came, or not.
func (s *Server) FinishProcessing(paymentIntent string, ok bool) error {
	return s.world(func() error {
		pi, err := s.find("payment_intent", paymentIntent, "intent")
		if err != nil {
			return err
		}
		if pi.str("status") != "processing" {
			return fmt.Errorf("cannot finish %s: it is %s", paymentIntent, pi.str("status"))
		}
		if ok {
			s.succeed(pi, s.objects[pi.str("latest_charge")])
			return nil
		}
		_ = s.decline(pi, "payment_method_provider_decline", "insufficient_funds") // nobody waits for the answer
		s.sessionFailed(pi)
		return nil
	})
}

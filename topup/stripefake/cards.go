package stripefake

import (
	"fmt"
	"slices"
	"strings"
)

// card is how a payment method behaves. Test numbers and tokens are Stripe's
// documented ones.
type card struct {
	number, name  string // name is the token without "pm_"
	code, decline string // what the issuer answers; empty approves
	attaches      bool   // a declining card that can be saved all the same
	asks          asking
	ready         bool   // set up with its holder's consent: matters to asksUntilSetUp
	dispute       string // reason of the dispute that follows a payment
	inquiry       bool   // the dispute is an inquiry: no funds move
	warned        bool   // an early fraud warning follows a payment
	slow          bool   // a bank debit: processing until it is finished
	refunds       string // status of its refunds: "" succeeded at once, "pending"
}

// asking says when authentication (3-D Secure) is asked for.
type asking int

const (
	asksNever      asking = iota
	asksAlways            // on and off session
	asksOnSession         // set up already: off session passes
	asksUntilSetUp        // on session always; off session unless set up
)

// needsHolder says whether the card's holder must authenticate.
func (k card) needsHolder(offSession bool) bool {
	switch k.asks {
	case asksAlways:
		return true
	case asksOnSession:
		return !offSession
	case asksUntilSetUp:
		return !offSession || !k.ready
	}
	return false
}

var testCards = []card{
	{number: "4242424242424242", name: "card_visa"},
	{number: "5555555555554444", name: "card_mastercard"},
	{number: "378282246310005", name: "card_amex"},
	{number: "4000000000000002", name: "card_visa_chargeDeclined", code: "card_declined", decline: "generic_decline"},
	{number: "4000000000009995", name: "card_visa_chargeDeclinedInsufficientFunds", code: "card_declined", decline: "insufficient_funds"},
	{number: "4000000000009987", name: "card_visa_chargeDeclinedLostCard", code: "card_declined", decline: "lost_card"},
	{number: "4000000000009979", name: "card_visa_chargeDeclinedStolenCard", code: "card_declined", decline: "stolen_card"},
	{number: "4000000000006975", name: "card_visa_chargeDeclinedVelocityLimitExceeded", code: "card_declined", decline: "card_velocity_exceeded"},
	{number: "4000000000000069", name: "card_chargeDeclinedExpiredCard", code: "expired_card", decline: "expired_card"},
	{number: "4000000000000127", name: "card_chargeDeclinedIncorrectCvc", code: "incorrect_cvc", decline: "incorrect_cvc"},
	{number: "4000000000000119", name: "card_chargeDeclinedProcessingError", code: "processing_error", decline: "processing_error"},
	{number: "4100000000000019", name: "card_radarBlock", code: "card_declined", decline: "fraudulent"},
	{number: "4000000000000341", name: "card_chargeCustomerFail", code: "card_declined", decline: "generic_decline", attaches: true},
	{number: "4000002760003184", name: "card_authenticationRequired", asks: asksAlways},
	{number: "4000002500003155", name: "card_authenticationRequiredOnSetup", asks: asksUntilSetUp},
	{number: "4000003800000446", name: "card_authenticationRequiredSetupForOffSession", asks: asksOnSession},
	{number: "4000000000003220", name: "card_threeDSecure2Required", asks: asksAlways},
	{number: "4000000000003063", name: "card_threeDSecureRequired", asks: asksAlways},
	{number: "4000008260003178", name: "card_authenticationRequiredChargeDeclinedInsufficientFunds", asks: asksAlways,
		code: "card_declined", decline: "insufficient_funds", attaches: true},
	{number: "4000008400001629", name: "card_threeDSecureRequiredChargeDeclined", asks: asksAlways,
		code: "card_declined", decline: "generic_decline", attaches: true},
	{number: "4000000000000259", name: "card_createDispute", dispute: "fraudulent"},
	{number: "4000000000002685", name: "card_createDisputeProductNotReceived", dispute: "product_not_received"},
	{number: "4000000000001976", name: "card_createDisputeInquiry", dispute: "general", inquiry: true},
	{number: "4000000000005423", name: "card_createIssuerFraudRecord", warned: true},
	{number: "4000000000007726", name: "card_pendingRefund", refunds: "pending"},
	{number: "4000000000005126", name: "card_refundFail"}, // the refund succeeds, and fails when FailRefund says so
	{number: "000123456789", name: "usBankAccount_success", slow: true},
	{number: "000888888885", name: "usBankAccount_processing", slow: true},
}

// otherNames are the tokens that Stripe documents twice.
var otherNames = map[string]string{
	"card_chargeDeclined":                      "card_visa_chargeDeclined",
	"card_chargeDeclinedInsufficientFunds":     "card_visa_chargeDeclinedInsufficientFunds",
	"card_chargeDeclinedLostCard":              "card_visa_chargeDeclinedLostCard",
	"card_chargeDeclinedStolenCard":            "card_visa_chargeDeclinedStolenCard",
	"card_chargeDeclinedVelocityLimitExceeded": "card_visa_chargeDeclinedVelocityLimitExceeded",
	"card_chargeDeclinedFraudulent":            "card_radarBlock",
	"usBankAccount":                            "usBankAccount_success",
}

// testCard is the card of a test number or a pm_… token.
func testCard(given string) (card, bool) {
	name := strings.TrimPrefix(given, "pm_")
	if other, ok := otherNames[name]; ok {
		name = other
	}
	i := slices.IndexFunc(testCards, func(k card) bool { return given == k.number || strings.HasPrefix(given, "pm_") && name == k.name })
	if i < 0 {
		return card{}, false
	}
	return testCards[i], true
}

// messages are what a card's holder is told, by decline code.
var messages = map[string]string{
	"insufficient_funds":      "Your card has insufficient funds.",
	"expired_card":            "Your card has expired.",
	"incorrect_cvc":           "Your card's security code is incorrect.",
	"processing_error":        "An error occurred while processing your card. Try again in a little bit.",
	"authentication_required": "Your card was declined. This transaction requires authentication.",
}

func declineMessage(decline string) string {
	if m, ok := messages[decline]; ok {
		return m
	}
	return "Your card was declined."
}

// brands of the test numbers by their first digit.
var brands = map[byte]string{'4': "visa", '5': "mastercard", '3': "amex"}

// newMethod makes a payment method that behaves like k.
func (s *Server) newMethod(k card) object {
	kind := "card"
	details := object{"brand": brands[k.number[0]], "checks": object{"address_line1_check": nil, "address_postal_code_check": nil, "cvc_check": "pass"},
		"country": "US", "display_brand": brands[k.number[0]], "exp_month": int64(12), "exp_year": int64(s.now().Year() + 2),
		"fingerprint": fmt.Sprintf("fp%s", k.number), "funding": "credit", "generated_from": nil, "last4": k.number[len(k.number)-4:],
		"networks": object{"available": []any{brands[k.number[0]]}, "preferred": nil}, "three_d_secure_usage": object{"supported": true}, "wallet": nil}
	if k.slow {
		kind = "us_bank_account"
		details = object{"account_holder_type": "individual", "account_type": "checking", "bank_name": "STRIPE TEST BANK", "financial_connections_account": nil,
			"fingerprint": fmt.Sprintf("fp%s", k.number), "last4": k.number[len(k.number)-4:], "networks": object{"preferred": "ach", "supported": []any{"ach"}},
			"routing_number": "110000000", "status_details": object{}}
	}
	pm := s.create("payment_method", object{"type": kind, kind: details})
	s.cards[pm.str("id")] = k
	return pm
}

// method is the payment method of an id or a test token; a token makes a new one.
func (s *Server) method(given, param string) (object, error) {
	if k, ok := testCard(given); ok && given != k.number {
		return s.newMethod(k), nil
	}
	return s.find("payment_method", given, param)
}

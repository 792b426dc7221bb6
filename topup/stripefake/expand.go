package stripefake

import (
	"fmt"
	"strings"
)

// expandDepthMax is how deep Stripe expands.
const expandDepthMax = 4

// resources name the kind that a path's segment stands for.
var resources = map[string]string{
	"customers": "customer", "payment_methods": "payment_method", "sessions": "checkout.session", "line_items": "item", "payment_intents": "payment_intent",
	"setup_intents": "setup_intent", "charges": "charge", "refunds": "refund", "disputes": "dispute", "early_fraud_warnings": "radar.early_fraud_warning",
	"balance_transactions": "balance_transaction", "products": "product", "prices": "price", "subscriptions": "subscription", "invoices": "invoice",
}

// expandable are the fields of each kind that hold an id, and the kind it is of;
// names with a dot in front are hashes and lists inside an object.
var expandable = map[string]map[string]string{
	"customer":                  {"invoice_settings": ".invoice_settings"},
	".invoice_settings":         {"default_payment_method": "payment_method"},
	"payment_method":            {"customer": "customer"},
	"checkout.session":          {"customer": "customer", "payment_intent": "payment_intent", "setup_intent": "setup_intent", "subscription": "subscription", "invoice": "invoice", "line_items": ".line_items"},
	".line_items":               {"data": "item"},
	"item":                      {"price": "price"},
	"payment_intent":            {"customer": "customer", "latest_charge": "charge", "payment_method": "payment_method", "invoice": "invoice"},
	"setup_intent":              {"customer": "customer", "payment_method": "payment_method"},
	"charge":                    {"customer": "customer", "payment_intent": "payment_intent", "balance_transaction": "balance_transaction", "invoice": "invoice", "refunds": ".refunds"},
	".refunds":                  {"data": "refund"},
	"refund":                    {"charge": "charge", "payment_intent": "payment_intent", "balance_transaction": "balance_transaction", "failure_balance_transaction": "balance_transaction"},
	"dispute":                   {"charge": "charge", "payment_intent": "payment_intent"},
	"radar.early_fraud_warning": {"charge": "charge", "payment_intent": "payment_intent"},
	"balance_transaction":       {"source": ".source"}, // a charge, refund or dispute: not expanded deeper
	"price":                     {"product": "product"},
	"subscription":              {"customer": "customer", "latest_invoice": "invoice", "default_payment_method": "payment_method", "items": ".items"},
	".items":                    {"data": "subscription_item"},
	"subscription_item":         {"price": "price"},
	"invoice":                   {"customer": "customer", "charge": "charge", "payment_intent": "payment_intent", "subscription": "subscription", "lines": ".lines"},
	".lines":                    {"data": "line_item"},
	"line_item":                 {"price": "price"},
}

// checkExpand refuses what cannot be expanded in the answer of the endpoint,
// before anything is done.
func checkExpand(pattern string, paths []string) error {
	method, path, _ := strings.Cut(pattern, " ")
	segments := strings.Split(path, "/")
	kind := ""
	for i := len(segments) - 1; kind == "" && i > 0; i-- {
		kind = resources[segments[i]]
	}
	isList := method == "GET" && !strings.HasSuffix(path, "{id}")
	for _, p := range paths {
		steps := strings.Split(p, ".")
		if len(steps) > expandDepthMax {
			return invalid("", "expand", "You cannot expand more than %d levels of a property.", expandDepthMax)
		}
		if isList {
			if steps[0] != "data" {
				return unexpandable(p)
			}
			steps = steps[1:]
		}
		at := kind
		for _, step := range steps {
			if at = expandable[at][step]; at == "" {
				return unexpandable(p)
			}
		}
	}
	return nil
}

func unexpandable(path string) error {
	return &apiError{status: 400, kind: "invalid_request_error", param: "expand", message: fmt.Sprintf("This property cannot be expanded (%s).", path)}
}

// expand replaces the ids at path, which checkExpand has seen, with copies of the
// objects they name. answer is a copy itself.
func (s *Server) expand(answer object, path []string) {
	if len(path) == 0 {
		return
	}
	key := path[0]
	if key == "refunds" && answer.str("object") == "charge" {
		answer[key] = s.refundsOf(answer.str("id"))
	}
	if key == "line_items" && answer.str("object") == "checkout.session" {
		answer[key] = wholeList(s.sessions[answer.str("id")].lines, "/v1/checkout/sessions/"+answer.str("id")+"/line_items")
	}
	switch v := answer[key].(type) {
	case string:
		answer[key] = s.objects[v].copy()
	case []any:
		for _, x := range v {
			s.expand(x.(object), path[1:])
		}
		return
	case nil:
		return
	}
	s.expand(answer.sub(key), path[1:])
}

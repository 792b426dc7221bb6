package stripefake

import "fmt"

// apiError is an error in Stripe's shape. kept says that Stripe's endpoint had
// begun to act, so the answer stays under the idempotency key.
type apiError struct {
	status                               int
	kind, code, param, message, declined string
	charge                               string
	payment, method                      object // the payment intent or setup intent; the payment method
	kept                                 bool
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%d %s %s: %s", e.status, e.kind, e.code, e.message)
}

// body is the JSON under "error".
func (e *apiError) body(requestID string) object {
	o := object{"type": e.kind, "message": e.message}
	for k, v := range map[string]string{"code": e.code, "param": e.param, "decline_code": e.declined, "charge": e.charge} {
		if v != "" {
			o[k] = v
		}
	}
	if e.code != "" {
		o["doc_url"] = "https://stripe.com/docs/error-codes/" + hyphenated(e.code)
	}
	if requestID != "" {
		o["request_log_url"] = "https://dashboard.stripe.com/test/logs/" + requestID
	}
	if e.payment != nil {
		o[e.payment.str("object")] = e.payment.copy()
	}
	if e.method != nil {
		o["payment_method"] = e.method.copy()
	}
	return o
}

func hyphenated(code string) string {
	b := []byte(code)
	for i := range b {
		if b[i] == '_' {
			b[i] = '-'
		}
	}
	return string(b)
}

// invalid is a refused request: nothing happened.
func invalid(code, param, format string, args ...any) *apiError {
	return &apiError{status: 400, kind: "invalid_request_error", code: code, param: param, message: fmt.Sprintf(format, args...)}
}

package provider

import (
	"encoding/json"
	"net/http"
	"time"

	"weir/schemas/money"
)

// Shape is the form in which the clients of a provider expect errors.
type Shape uint8

// The shapes.
const (
	OpenAI Shape = iota
	Anthropic
)

// ErrorBody is an error of the gateway's own.
type ErrorBody struct {
	Status    int       // of the HTTP answer
	Code      string    // "insufficient_funds"
	Message   string    // a sentence for people
	Reason    string    // why, where one code has several reasons; "" is left out
	Funds     *Funds    // for errors that are about money, else nil
	ResetsAt  time.Time // when a limit's period ends; zero is left out
	RequestID string
}

// Funds says how much is needed and how much is there.
type Funds struct {
	Available, Held, Required money.Nano
	Currency                  string
	TopUpURL                  string // "" is left out
}

// metadata is what the error shapes have in common. Amounts are decimal strings
// in dollars.
type metadata struct {
	Reason    string      `json:"reason,omitempty"`
	Available *money.Nano `json:"available,omitempty"`
	Held      *money.Nano `json:"held,omitempty"`
	Required  *money.Nano `json:"required,omitempty"`
	Currency  string      `json:"currency,omitempty"`
	TopUpURL  string      `json:"top_up_url,omitempty"`
	ResetsAt  *time.Time  `json:"resets_at,omitempty"`
	RequestID string      `json:"request_id"`
}

type openaiError struct {
	Message  string   `json:"message"`
	Type     string   `json:"type"`
	Param    *string  `json:"param"` // always null: the message names the member
	Code     string   `json:"code"`
	Metadata metadata `json:"metadata"`
}

type anthropicError struct {
	Type     string   `json:"type"`
	Message  string   `json:"message"`
	Code     string   `json:"code"`
	Metadata metadata `json:"metadata"`
}

// errorTypes name the kind of an error to the SDKs, by status; what is not
// named is the provider's word for a server's fault from 500 on, else
// invalid_request_error. Sources: both providers' pages on API errors.
var errorTypes = map[Shape]map[int]string{
	OpenAI: {
		http.StatusUnauthorized:    "authentication_error",
		http.StatusPaymentRequired: "insufficient_funds",
		http.StatusForbidden:       "permission_error",
		http.StatusTooManyRequests: "rate_limit_error",
	},
	Anthropic: {
		http.StatusUnauthorized:    "authentication_error",
		http.StatusPaymentRequired: "billing_error",
		http.StatusForbidden:       "permission_error",
		http.StatusNotFound:        "not_found_error",
		http.StatusTooManyRequests: "rate_limit_error",
	},
}

func (s Shape) errorType(status int) string {
	if t := errorTypes[s][status]; t != "" {
		return t
	}
	switch {
	case status < 500:
		return "invalid_request_error"
	case s == Anthropic:
		return "api_error"
	}
	return "server_error"
}

// AppendError appends the JSON body of e in the shape that the caller's SDK
// understands.
func AppendError(dst []byte, shape Shape, e ErrorBody) []byte {
	m := metadata{Reason: e.Reason, RequestID: e.RequestID}
	if !e.ResetsAt.IsZero() {
		at := e.ResetsAt.UTC()
		m.ResetsAt = &at
	}
	if f := e.Funds; f != nil {
		m.Available, m.Held, m.Required = &f.Available, &f.Held, &f.Required
		m.Currency, m.TopUpURL = f.Currency, f.TopUpURL
	}
	var body any
	switch kind := shape.errorType(e.Status); shape {
	case Anthropic:
		body = struct {
			Type      string         `json:"type"`
			Error     anthropicError `json:"error"`
			RequestID string         `json:"request_id"`
		}{"error", anthropicError{Type: kind, Message: e.Message, Code: e.Code, Metadata: m}, e.RequestID}
	default:
		body = struct {
			Error openaiError `json:"error"`
		}{openaiError{Message: e.Message, Type: kind, Code: e.Code, Metadata: m}}
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: cannot write an error body: " + err.Error()) // strings and integers alone
	}
	return append(dst, text...)
}

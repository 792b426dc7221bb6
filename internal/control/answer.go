package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"weir/internal/ledger"
	"weir/schemas/ratecard"
	"weir/topup"
)

// handler answers a request, or returns an error for the one place that turns
// errors into answers.
type handler func(w http.ResponseWriter, r *http.Request) error

// refusal is an error that the client caused and is told of.
type refusal struct {
	status        int
	code, message string
	line          int // of a rate card; 0 = none
}

func (e *refusal) Error() string { return e.message }

func refuse(status int, code, format string, args ...any) error {
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// invalid refuses a request that does not have the documented form.
func invalid(format string, args ...any) error {
	return refuse(http.StatusBadRequest, "invalid_request", format, args...)
}

func (p *plane) answering(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			p.fail(w, r, err)
		}
	})
}

// fail turns an error into its answer. What is not known as a refusal means
// that the ledger could not be asked; its text stays in the log.
func (p *plane) fail(w http.ResponseWriter, r *http.Request, err error) {
	var known *refusal
	var card *ratecard.CardError
	var funds *ledger.InsufficientError
	switch {
	case errors.As(err, &known):
	case errors.As(err, &card):
		known = &refusal{http.StatusUnprocessableEntity, "invalid_card", card.Message, card.Line}
	case errors.As(err, &funds):
		known = &refusal{http.StatusConflict, "insufficient_funds", funds.Error(), 0}
	case errors.Is(err, ledger.ErrNotFound):
		known = &refusal{http.StatusNotFound, "not_found", err.Error(), 0}
	case errors.Is(err, ledger.ErrExists):
		known = &refusal{http.StatusConflict, "exists", err.Error(), 0}
	case errors.Is(err, ledger.ErrConflict):
		known = &refusal{http.StatusConflict, "idempotency_conflict", "this Idempotency-Key was used with another body", 0}
	case errors.Is(err, ledger.ErrCursor):
		known = &refusal{http.StatusBadRequest, "invalid_request", "cursor: " + err.Error(), 0}
	case errors.Is(err, topup.ErrEnded):
		known = &refusal{http.StatusConflict, "topup_ended", "the purchase of this Idempotency-Key was given up before it had a page: send another key", 0}
	case errors.Is(err, topup.ErrNotAccepted):
		known = &refusal{http.StatusUnprocessableEntity, "stripe_refused", err.Error(), 0}
	case errors.Is(err, topup.ErrUnavailable):
		p.Log.Warn("stripe did not answer", "request_id", RequestID(r), "path", r.URL.Path, "err", err)
		w.Header().Set("Retry-After", "5")
		known = &refusal{http.StatusServiceUnavailable, "stripe_unavailable", "Stripe cannot be asked now; try again with the same Idempotency-Key", 0}
	default:
		if r.Context().Err() == nil { // else the client left
			p.Log.Error("control request failed", "request_id", RequestID(r), "method", r.Method, "path", r.URL.Path, "error", err)
		}
		w.Header().Set("Retry-After", "1")
		known = &refusal{http.StatusServiceUnavailable, "ledger_unavailable", "the ledger cannot be reached; try again with the same Idempotency-Key", 0}
	}
	writeError(w, r, known)
}

// WriteError answers in the control plane's error shape.
func WriteError(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	writeError(w, r, &refusal{status, code, message, 0})
}

func writeError(w http.ResponseWriter, r *http.Request, e *refusal) {
	type body struct {
		Code      string `json:"code"`
		Message   string `json:"message"`
		Line      int    `json:"line,omitempty"`
		RequestID string `json:"request_id"`
	}
	WriteJSON(w, e.status, map[string]body{"error": {e.code, e.message, e.line, RequestID(r)}})
}

// WriteJSON answers with v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("BUG: an answer that is no JSON: " + err.Error())
	}
	writeBody(w, status, body)
}

func writeBody(w http.ResponseWriter, status int, body []byte) {
	if status != http.StatusNoContent {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	w.Write(body) // the client may have left, which is nobody's error
}

// page reads ?limit= and ?cursor= of a list.
func page(query url.Values) (ledger.Page, error) {
	const limitDefault, limitMax = 100, 1000 // what the ledger takes too
	p := ledger.Page{Limit: limitDefault, Cursor: query.Get("cursor")}
	for name := range query {
		if name != "limit" && name != "cursor" {
			return p, invalid("unknown parameter %q (known: limit, cursor)", name)
		}
	}
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > limitMax {
			return p, invalid("limit: %q is not a number from 1 to %d", text, limitMax)
		}
		p.Limit = n
	}
	return p, nil
}

// writeList answers one page: rows as show makes them, and the next cursor.
func writeList[T any](w http.ResponseWriter, rows []T, next string, show func(T) any) {
	answer := struct {
		Data       []any   `json:"data"`
		NextCursor *string `json:"next_cursor"`
	}{Data: make([]any, len(rows))}
	for i, row := range rows {
		answer.Data[i] = show(row)
	}
	if next != "" {
		answer.NextCursor = &next
	}
	WriteJSON(w, http.StatusOK, answer)
}

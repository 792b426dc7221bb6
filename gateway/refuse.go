package gateway

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"weir/gateway/provider"
	"weir/schemas/money"
)

// refusal is an answer of weir itself: one code of the contract, a status, a
// sentence that says what to do.
type refusal struct {
	status     int
	code       string
	message    string
	reason     string
	retryAfter int       // seconds; 0 = no header
	resetsAt   time.Time // when a limit's period ends; zero = not told
	cause      error
	funds      *provider.Funds
}

// refuse answers in the shape of the caller's API. What the operator must know
// of (causes) is logged here, once.
func (g *Gateway) refuse(ctx *fasthttp.RequestCtx, c *call, r *refusal) {
	if r.cause != nil {
		g.Log.Warn("request refused", "request_id", c.id, "code", r.code, "err", r.cause)
	}
	g.Metrics.Refused.WithLabelValues(r.code).Inc()
	h := &ctx.Response.Header
	if r.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(r.retryAfter))
	}
	switch r.status {
	case http.StatusPaymentRequired, http.StatusForbidden, http.StatusUnprocessableEntity:
		h.Set("X-Should-Retry", "false")
	}
	h.Del(headerReserved)
	h.Set(requestIDOf[c.shape], c.id)
	body := provider.ErrorBody{Status: r.status, Code: r.code, Message: r.message, Reason: r.reason, ResetsAt: r.resetsAt, RequestID: c.id}
	if body.Funds = r.funds; body.Funds != nil {
		body.Funds.Currency, body.Funds.TopUpURL = Currency, g.topUpURL(c.who.customer.ID)
	}
	ctx.SetStatusCode(r.status)
	ctx.SetContentType("application/json")
	ctx.Response.SetBodyRaw(provider.AppendError(nil, c.shape, body))
}

// topUpURL is where a customer can pay, "" where the platform tells no place.
func (g *Gateway) topUpURL(customer string) string {
	return strings.ReplaceAll(g.TopUpURL, "{customer}", url.QueryEscape(customer))
}

// requestIDOf is where the SDKs of a provider look for the id of a request.
// Answers of the provider carry its own there, refusals of weir weir's.
var requestIDOf = map[provider.Shape]string{provider.OpenAI: "X-Request-Id", provider.Anthropic: "Request-Id"}

// answerBroken answers requests that fasthttp could not read: headers too
// large, too slow or not HTTP. The connection is closed after it.
func answerBroken(ctx *fasthttp.RequestCtx, err error) {
	id := newRequestID()
	body := provider.ErrorBody{Status: http.StatusBadRequest, Code: "invalid_request", Message: "The request is not valid HTTP.", RequestID: id}
	var small *fasthttp.ErrSmallBuffer
	var netErr net.Error
	switch {
	case errors.As(err, &small):
		body.Status, body.Code, body.Message = http.StatusRequestHeaderFieldsTooLarge, "headers_too_large", "The request's headers are larger than 16 KiB."
	case errors.As(err, &netErr) && netErr.Timeout():
		body.Status, body.Message = http.StatusRequestTimeout, "The request did not arrive in time."
	}
	ctx.Response.Reset()
	ctx.SetConnectionClose()
	ctx.Response.Header.Set(headerRequestID, id)
	ctx.SetStatusCode(body.Status)
	ctx.SetContentType("application/json")
	ctx.SetBody(provider.AppendError(nil, provider.OpenAI, body))
}

func stopping() *refusal {
	return &refusal{status: http.StatusServiceUnavailable, code: "stopping", retryAfter: 2,
		message: "This gateway is shutting down. Try again; another one will answer."}
}

// clientGone is for the metrics: nobody is there to read it.
func clientGone() *refusal {
	const status = 499 // what proxies log for it; there is no registered one
	return &refusal{status: status, code: "client_gone", message: "The client left before the answer."}
}

// setAmount sets a header to an amount in dollars.
func setAmount(ctx *fasthttp.RequestCtx, name string, n money.Nano) {
	var buf [32]byte
	ctx.Response.Header.SetBytesV(name, n.Append(buf[:0]))
}

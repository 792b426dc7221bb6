package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"

	"github.com/valyala/fasthttp"
)

// requestHeaders are what a client may say to a provider, beside the body.
// Everything else stays here: keys, cookies, forwarding and hop-by-hop headers.
var requestHeaders = [...]string{"Anthropic-Version", "Anthropic-Beta", "Openai-Beta", "User-Agent", "X-Stainless-Lang",
	"X-Stainless-Package-Version", "X-Stainless-Os", "X-Stainless-Arch", "X-Stainless-Runtime", "X-Stainless-Runtime-Version",
	"X-Stainless-Retry-Count", "X-Stainless-Timeout"}

// answerHeaders are what a provider may say to a client; entries ending in `-`
// are prefixes.
var answerHeaders = [...]string{"Content-Type", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "X-Request-Id", "Request-Id",
	"X-Ratelimit-", "Anthropic-Ratelimit-", "Openai-Model", "Openai-Processing-Ms", "Openai-Version", "Cache-Control"}

// forward makes the upstream call. It returns a 2xx answer, whose body must be
// read and the call ended, or nil when the call has ended: then the record is
// written and the client answered.
func (g *Gateway) forward(ctx *fasthttp.RequestCtx, c *call) *http.Response {
	c.life, c.end = g.lives.share(c.start), func() {}
	if c.scan.Stream {
		c.life, c.end = context.WithCancel(c.life)
		c.stopWatch = watch(ctx.Conn(), c.leave)
	}
	var connected bool
	req := g.upstreamRequest(ctx, c, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }})
	resp, err := c.route.upstream.client.RoundTrip(req)
	if err != nil {
		g.failed(ctx, c, connected, err)
		return nil
	}
	if decode(resp); resp.StatusCode < 200 || resp.StatusCode > 299 {
		g.passError(ctx, c, resp)
		return nil
	}
	c.rec.HTTPStatus = uint32(resp.StatusCode)
	return resp
}

// failed ends a call that got no answer. Only without a connection is it
// certain that the upstream did not serve.
func (g *Gateway) failed(ctx *fasthttp.RequestCtx, c *call, connected bool, err error) {
	aborted := c.aborted()
	c.end()
	r := &refusal{status: http.StatusBadGateway, code: "upstream_unreachable", cause: withoutContent(err), retryAfter: 2,
		message: "The provider cannot be reached. Nothing was charged."}
	switch {
	case !connected:
		c.recordError(0)
	case aborted:
		c.recordAborted()
		r = clientGone()
	case g.abort.Err() != nil:
		_, _ = c.recordUnknown() // nobody waits: the client gets no answer
		r = stopping()
	case errors.Is(err, context.DeadlineExceeded):
		r.status, r.code, r.message = http.StatusGatewayTimeout, "upstream_timeout", "The provider did not answer in time. Nothing was charged."
		_, _ = c.recordUnknown()
	default:
		r.code, r.message = "upstream_broke_off", "The provider broke the connection off. Nothing was charged."
		_, _ = c.recordUnknown()
	}
	g.refuse(ctx, c, r)
}

// withoutContent keeps what a provider sent out of the log: net/http quotes an
// answer that it cannot read in its error. Errors of the network and of weir's
// own are as they are, of others only the kind is left.
func withoutContent(err error) error {
	for _, plain := range [...]error{io.EOF, io.ErrUnexpectedEOF, context.Canceled, errAnswerTooLarge, errNotJSON, errEncoding, errDecodedTooLong} {
		if errors.Is(err, plain) {
			return err
		}
	}
	var network net.Error
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &network) || errors.As(err, &certificate) {
		return err
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return fmt.Errorf("an answer that cannot be read: %T", err)
}

// ownHeaders are those that the gateway sends to a provider itself. They fill in
// what the client left out of requestHeaders, which names no other of them.
func (u *Upstream) ownHeaders() http.Header {
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"weir"}, "Accept-Encoding": {"identity"}} // what cannot be read cannot be measured
	switch {
	case u.Kind == "anthropic":
		h["X-Api-Key"], h["Anthropic-Version"] = []string{u.Key}, []string{"2023-06-01"}
	case u.Key != "":
		h["Authorization"] = []string{"Bearer " + u.Key}
	}
	return h
}

func (g *Gateway) upstreamRequest(ctx *fasthttp.RequestCtx, c *call, trace *httptrace.ClientTrace) *http.Request {
	up, target := c.route.upstream, c.route.url
	body := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.body)), nil }
	req := (&http.Request{Method: http.MethodPost, URL: target, Host: target.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header, 8), ContentLength: int64(len(c.body)), GetBody: body}).WithContext(httptrace.WithClientTrace(c.life, trace))
	req.Body, _ = body() // has no error
	for _, name := range requestHeaders {
		for _, v := range ctx.Request.Header.PeekAll(name) {
			if len(v) > 0 && (req.Header[name] == nil || strings.EqualFold(name, c.route.api.Features)) { // every line of features has been judged
				req.Header[name] = append(req.Header[name], string(v))
			}
		}
	}
	for name, values := range up.headers {
		if req.Header[name] == nil {
			req.Header[name] = values
		}
	}
	req.Header["X-Request-Id"] = []string{c.id}
	return req
}

// passError hands an answer that is no success on as it is. It is not billed.
func (g *Gateway) passError(ctx *fasthttp.RequestCtx, c *call, resp *http.Response) {
	var body bytes.Buffer
	err := readBody(&body, resp.Body)
	c.end()
	c.recordError(resp.StatusCode)
	if err != nil {
		g.refuse(ctx, c, &refusal{status: http.StatusBadGateway, code: "upstream_broke_off", cause: withoutContent(err),
			message: fmt.Sprintf("The provider answered %d and broke off. Nothing was charged.", resp.StatusCode)})
		return
	}
	ctx.Response.Header.Del(headerReserved)
	passHeaders(ctx, resp.Header)
	ctx.SetStatusCode(resp.StatusCode)
	ctx.Response.SetBodyRaw(body.Bytes())
}

func passHeaders(ctx *fasthttp.RequestCtx, from http.Header) {
	for name, values := range from {
		for _, pass := range answerHeaders {
			if name == pass || pass[len(pass)-1] == '-' && strings.HasPrefix(name, pass) {
				for _, v := range values {
					ctx.Response.Header.Add(name, v)
				}
			}
		}
	}
}

// isEventStream: one that cannot be decoded is none, so that its client is told
// before it is given a status of success.
func isEventStream(a *http.Response) bool {
	return strings.HasPrefix(a.Header.Get("Content-Type"), "text/event-stream") && a.Header["Content-Encoding"] == nil
}

package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"

	"github.com/valyala/fasthttp"
)

const (
	// maxAnswerBytes bounds a JSON answer, which is held whole until recorded.
	maxAnswerBytes = 64 << 20
	// maxErrorBytes bounds an error answer, which is passed on unchanged.
	maxErrorBytes = 1 << 20
	// keepBuffer is the largest buffer worth keeping for the next answer.
	keepBuffer = 256 << 10
)

// upstreamAnswer is a 2xx answer whose body is still to be read.
type upstreamAnswer struct {
	*http.Response
	end context.CancelFunc // ends the call; must run once the body is read or given up
}

// requestHeaders are what a client may say to a provider, beside the body.
// Everything else stays here: keys, cookies, forwarding and hop-by-hop headers.
var requestHeaders = [...]string{"Anthropic-Version", "Anthropic-Beta", "Openai-Beta", "User-Agent", "X-Stainless-Lang",
	"X-Stainless-Package-Version", "X-Stainless-Os", "X-Stainless-Arch", "X-Stainless-Runtime", "X-Stainless-Runtime-Version",
	"X-Stainless-Retry-Count", "X-Stainless-Timeout"}

// answerHeaders are what a provider may say to a client; entries ending in `-`
// are prefixes.
var answerHeaders = [...]string{"Content-Type", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "X-Request-Id", "Request-Id",
	"X-Ratelimit-", "Anthropic-Ratelimit-", "Openai-Model", "Openai-Processing-Ms", "Openai-Version", "Cache-Control"}

// forward makes the upstream call. It returns a 2xx answer, or nil when the
// call has ended: then the record is written and the client answered.
func (g *Gateway) forward(ctx *fasthttp.RequestCtx, c *call) *upstreamAnswer {
	life, end := c.context()
	var connected bool
	traced := httptrace.WithClientTrace(life, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }})
	req, err := g.upstreamRequest(traced, ctx, c)
	if err == nil {
		var resp *http.Response
		if resp, err = c.route.upstream.client.Do(req); err == nil {
			if resp.StatusCode >= 200 && resp.StatusCode < 300 {
				c.rec.HTTPStatus = uint32(resp.StatusCode)
				return &upstreamAnswer{resp, end}
			}
			g.passError(ctx, c, resp)
			end()
			return nil
		}
	}
	defer end()
	g.failed(ctx, c, connected, err)
	return nil
}

// failed ends a call that got no answer. Only without a connection is it
// certain that the upstream did not serve.
func (g *Gateway) failed(ctx *fasthttp.RequestCtx, c *call, connected bool, err error) {
	r := &refusal{status: http.StatusBadGateway, code: "upstream_unreachable", cause: err, retryAfter: 2,
		message: "The provider cannot be reached. Nothing was charged."}
	var timeout net.Error
	switch {
	case !connected:
		c.recordError(0)
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		r.status, r.code, r.message = http.StatusGatewayTimeout, "upstream_timeout", "The provider did not answer in time. Nothing was charged."
		c.recordUnknown()
	default:
		r.code, r.message = "upstream_broke_off", "The provider broke the connection off. Nothing was charged."
		c.recordUnknown()
	}
	g.refuse(ctx, c, r)
}

func (g *Gateway) upstreamRequest(life context.Context, ctx *fasthttp.RequestCtx, c *call) (*http.Request, error) {
	up := c.route.upstream
	req, err := http.NewRequestWithContext(life, http.MethodPost, c.route.url, bytes.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	for _, name := range requestHeaders {
		if v := ctx.Request.Header.Peek(name); len(v) > 0 {
			req.Header[name] = []string{string(v)}
		}
	}
	if req.Header["User-Agent"] == nil {
		req.Header["User-Agent"] = []string{"weir"}
	}
	req.Header["Content-Type"] = []string{"application/json"}
	req.Header["Accept-Encoding"] = []string{"identity"} // what cannot be read cannot be measured
	req.Header["X-Request-Id"] = []string{c.id}
	if up.Kind == "anthropic" {
		req.Header["X-Api-Key"] = []string{up.Key}
		if req.Header["Anthropic-Version"] == nil {
			req.Header["Anthropic-Version"] = []string{"2023-06-01"}
		}
	} else if up.Key != "" {
		req.Header["Authorization"] = []string{"Bearer " + up.Key}
	}
	return req, nil
}

// passError hands an answer that is no success on as it is. It is not billed.
func (g *Gateway) passError(ctx *fasthttp.RequestCtx, c *call, resp *http.Response) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	_ = resp.Body.Close() // it has been read; an error of closing changes nothing
	c.recordError(resp.StatusCode)
	ctx.Response.Header.Del(headerReserved)
	if err != nil && len(body) == 0 && resp.ContentLength != 0 {
		g.refuse(ctx, c, &refusal{status: http.StatusBadGateway, code: "upstream_broke_off", cause: err,
			message: fmt.Sprintf("The provider answered %d and broke off. Nothing was charged.", resp.StatusCode)})
		return
	}
	passHeaders(ctx, resp.Header)
	ctx.SetStatusCode(resp.StatusCode)
	ctx.Response.SetBodyRaw(body)
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

func isEventStream(a *upstreamAnswer) bool {
	return strings.HasPrefix(a.Header.Get("Content-Type"), "text/event-stream")
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func keep(b *bytes.Buffer) {
	if b.Cap() <= keepBuffer {
		b.Reset()
		buffers.Put(b)
	}
}

// errAnswerTooLarge says that a JSON answer passed maxAnswerBytes.
var errAnswerTooLarge = errors.New("the answer is larger than " + strconv.Itoa(maxAnswerBytes>>20) + " MiB")

// readAnswer reads a JSON answer whole.
func readAnswer(into *bytes.Buffer, a *upstreamAnswer) error {
	defer a.end()
	n, err := into.ReadFrom(io.LimitReader(a.Body, maxAnswerBytes+1))
	if cerr := a.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && n > maxAnswerBytes {
		err = errAnswerTooLarge
	}
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

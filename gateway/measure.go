package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"weir/gateway/provider"
	"weir/internal/stream"
	"weir/schemas/usage"
)

const (
	// maxAnswerBytes bounds a JSON answer, which is held whole until recorded.
	maxAnswerBytes = 64 << 20
	// keepBuffer is the largest buffer worth keeping for the next answer.
	keepBuffer = 256 << 10
)

// measureJSON reads an answer whole, bills it and answers once the record is
// durable.
func (g *Gateway) measureJSON(ctx *fasthttp.RequestCtx, c *call, a *http.Response) {
	buf := buffers.Get().(*bytes.Buffer)
	defer keep(buf)
	err := readBody(buf, a.Body)
	var measured provider.Answer
	if err == nil {
		if c.route.api.ReadJSON(buf.Bytes(), &measured); !measured.Terminated {
			err = errNotJSON
		}
	}
	if err != nil {
		g.brokeOff(ctx, c, err)
		return
	}
	c.end()
	if err := g.settleJSON(ctx, c, &measured); err != nil {
		g.refuse(ctx, c, spoolFull(err))
		return
	}
	passHeaders(ctx, a.Header)
	ctx.SetStatusCode(a.StatusCode)
	ctx.SetBody(buf.Bytes())
}

// settleJSON bills and records a whole answer, waits until that is durable,
// and tells the client in headers.
func (g *Gateway) settleJSON(ctx *fasthttp.RequestCtx, c *call, a *provider.Answer) error {
	pos, err := c.recordWhole(a, hasLeft(ctx.Conn()))
	if err == nil {
		err = g.Spool.WaitDurable(pos)
	}
	if err != nil {
		return err
	}
	setAmount(ctx, headerPrice, c.rec.Price)
	setAmount(ctx, headerBalance, g.Book.Known(c.reservation))
	if c.who.operator() {
		setAmount(ctx, headerCost, c.rec.Cost)
	}
	c.tellLimit(ctx)
	return nil
}

// recordWhole bills an answer that came whole. One of neither usage nor output
// is an error that came with a status of success: leakage, since it may have
// cost.
func (c *call) recordWhole(a *provider.Answer, left bool) (stream.Pos, error) {
	if !a.HasUsage && !a.HasOutput {
		return c.recordUnknown()
	}
	status := usage.StatusOK
	switch {
	case left:
		status = usage.StatusClientGone
	case a.Failed:
		status = usage.StatusPartial
	}
	c.bill(a)
	return c.record(status, usage.RowUsage)
}

// brokeOff ends a call whose answer began and did not come whole.
func (g *Gateway) brokeOff(ctx *fasthttp.RequestCtx, c *call, err error) {
	aborted := c.aborted()
	c.end()
	if aborted {
		c.recordAborted()
		g.refuse(ctx, c, clientGone())
		return
	}
	_, _ = c.recordUnknown() // nobody waits: the client gets no answer
	r := &refusal{status: http.StatusBadGateway, code: "upstream_broke_off", cause: withoutContent(err),
		message: "The provider broke its answer off. Nothing was charged."}
	if errors.Is(err, context.DeadlineExceeded) {
		r.status, r.code, r.message = http.StatusGatewayTimeout, "upstream_timeout", "The provider did not answer in time. Nothing was charged."
	}
	g.refuse(ctx, c, r)
}

// tellLimit tells the client of an output limit that it did not set itself.
func (c *call) tellLimit(ctx *fasthttp.RequestCtx) {
	if c.limit > 0 {
		ctx.Response.Header.Set(headerMaxTokens, strconv.FormatInt(c.limit, 10))
	}
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func keep(b *bytes.Buffer) {
	if b.Cap() <= keepBuffer {
		b.Reset()
		buffers.Put(b)
	}
}

var (
	errAnswerTooLarge = errors.New("the answer is larger than " + strconv.Itoa(maxAnswerBytes>>20) + " MiB")
	errNotJSON        = errors.New("the answer is not one whole JSON object")
)

// readBody reads an answer's body whole and closes it.
func readBody(into *bytes.Buffer, body io.ReadCloser) error {
	n, err := into.ReadFrom(io.LimitReader(body, maxAnswerBytes+1))
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if err == nil && n > maxAnswerBytes {
		err = errAnswerTooLarge
	}
	return err
}

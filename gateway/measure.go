package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"weir/gateway/provider"
	"weir/schemas/usage"
)

// measureJSON reads an answer whole, bills it and answers once the record is
// durable.
func (g *Gateway) measureJSON(ctx *fasthttp.RequestCtx, c *call, a *upstreamAnswer) {
	buf := buffers.Get().(*bytes.Buffer)
	defer keep(buf)
	if err := readAnswer(buf, a); err != nil {
		c.recordUnknown()
		status, code := http.StatusBadGateway, "upstream_broke_off"
		if errors.Is(err, context.DeadlineExceeded) {
			status, code = http.StatusGatewayTimeout, "upstream_timeout"
		}
		g.refuse(ctx, c, &refusal{status: status, code: code, cause: err, message: "The provider broke its answer off. Nothing was charged."})
		return
	}
	var measured provider.Answer
	c.route.api.ReadJSON(buf.Bytes(), &measured)
	c.bill(&measured)
	pos, err := c.record(usage.StatusOK, usage.RowUsage)
	if err == nil {
		err = g.Spool.WaitDurable(pos)
	}
	if err != nil {
		g.refuse(ctx, c, spoolFull(err))
		return
	}
	passHeaders(ctx, a.Header)
	setAmount(ctx, headerPrice, c.rec.Price)
	setAmount(ctx, headerBalance, g.Book.Known(c.reservation))
	if c.who.operator() {
		setAmount(ctx, headerCost, c.rec.Cost)
	}
	c.setLimit(ctx)
	ctx.SetStatusCode(a.StatusCode)
	ctx.SetBody(buf.Bytes())
}

func (c *call) setLimit(ctx *fasthttp.RequestCtx) {
	if c.limit > 0 {
		ctx.Response.Header.Set(headerMaxTokens, strconv.FormatInt(c.limit, 10))
	}
}

// measureStream makes the answer's body a reader that fasthttp pulls: every
// whole event goes to the client as it comes, the terminator once the record
// is durable.
func (g *Gateway) measureStream(ctx *fasthttp.RequestCtx, c *call, a *upstreamAnswer) {
	passHeaders(ctx, a.Header)
	c.setLimit(ctx)
	ctx.SetStatusCode(a.StatusCode)
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(&streamBody{c: c, a: a, conn: ctx.Conn(), filter: c.route.api.NewStream(&c.scan), in: make([]byte, streamBuffer)}, -1)
}

// streamBuffer is how much of a stream is read at a time: several events of a
// busy stream, little enough for thousands of open streams.
const streamBuffer = 8 << 10

// streamBody is one stream on its way. fasthttp reads it on the connection's
// goroutine and closes it when the client has everything or has left.
type streamBody struct {
	c      *call
	a      *upstreamAnswer
	conn   net.Conn
	filter *provider.Stream
	in     []byte
	out    []byte // may be forwarded; out[sent:] has not been
	sent   int
	err    error // how the body ends; set once recorded
}

// Read gives what may be forwarded now. It blocks on the upstream.
func (s *streamBody) Read(p []byte) (int, error) {
	for s.sent == len(s.out) {
		if s.err != nil {
			return 0, s.err
		}
		s.out, s.sent = s.out[:0], 0
		if done, broken := s.pull(); done {
			s.finish(usage.StatusOK, broken)
		}
	}
	n := copy(p, s.out[s.sent:])
	s.sent += n
	return n, s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
}

// pull reads once from the upstream. done: the terminator came, or the body
// ended; broken: it ended by an error.
func (s *streamBody) pull() (done bool, broken error) {
	n, err := s.a.Body.Read(s.in)
	if n > 0 {
		if s.c.rec.TTFTMs == 0 {
			s.c.rec.TTFTMs = uint32(max(time.Since(s.c.start).Milliseconds(), 1))
		}
		s.out = s.filter.Feed(s.out, s.in[:n])
	}
	switch {
	case s.filter.Ended():
		return true, nil
	case err == io.EOF:
		return true, nil
	case err != nil:
		return true, err
	}
	return false, nil
}

// finish bills and records the stream; when the record is durable the
// terminator may follow.
func (s *streamBody) finish(status usage.Status, broken error) {
	s.a.end()
	s.filter.Close()
	c, a := s.c, s.filter.Answer()
	_ = s.a.Body.Close() // ended either way
	if status == usage.StatusOK && (a.Failed || !a.Terminated) {
		status = usage.StatusPartial
	}
	s.err = io.EOF
	if broken != nil {
		s.err = io.ErrUnexpectedEOF // the client sees the break as the upstream made it
	}
	if nothing := !a.HasUsage && !a.HasOutput; nothing && status != usage.StatusClientGone {
		c.recordUnknown() // the client got nothing it could use, by no doing of its own
		s.out = s.filter.Release(s.out)
		return
	}
	c.bill(a)
	pos, err := c.record(status, usage.RowUsage)
	if err == nil {
		err = c.g.Spool.WaitDurable(pos)
	}
	if err != nil {
		s.err = err // the terminator is withheld: the record is not durable
		return
	}
	s.out = s.filter.Release(s.out)
}

// Close is called once the client has the whole body, or has left. A client
// that leaves does not stop metering: the upstream is drained to its usage, in
// bounds, or aborted and billed by what it sent.
func (s *streamBody) Close() error {
	if s.err != nil {
		return nil
	}
	g := s.c.g
	if !g.Drain || !g.drainSlot() {
		s.a.end()
		s.finish(usage.StatusClientGone, nil)
		return nil
	}
	g.drains.Add(1)
	go func() {
		defer g.drains.Done()
		defer g.freeDrainSlot()
		defer s.recovered()
		stop := time.AfterFunc(g.DrainMax, s.a.end)
		defer stop.Stop()
		for done := false; !done; {
			s.out = s.out[:0]
			done, _ = s.pull()
		}
		s.finish(usage.StatusClientGone, nil)
	}()
	return nil
}

func (s *streamBody) recovered() {
	if p := recover(); p != nil {
		s.c.g.Log.Error("BUG: a drain panicked", "request_id", s.c.id, "panic", p)
		if s.c.intended {
			s.c.recordUnknown()
		}
	}
}

// drainsMax bounds the upstream calls that are read on after their client has
// left; past it they are aborted and billed by what they sent.
const drainsMax = 4096

func (g *Gateway) drainSlot() bool {
	if g.draining.Add(1) > drainsMax {
		g.draining.Add(-1)
		return false
	}
	return true
}

func (g *Gateway) freeDrainSlot() { g.draining.Add(-1) }

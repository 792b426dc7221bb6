package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"weir/gateway/provider"
	"weir/schemas/usage"
)

const (
	// streamBuffer is how much of a stream is read at a time: several events of
	// a busy stream, little enough for thousands of open streams.
	streamBuffer = 8 << 10
	// drainsMax bounds the upstream calls that are read on after their client has
	// left; past it they are aborted and billed by what they sent.
	drainsMax = 4096
)

// measureStream makes the answer's body a reader that fasthttp pulls: every
// whole event goes to the client as it comes, the terminator once the record
// is durable.
func (g *Gateway) measureStream(ctx *fasthttp.RequestCtx, c *call, a *http.Response) {
	passHeaders(ctx, a.Header)
	c.tellLimit(ctx)
	ctx.SetStatusCode(a.StatusCode)
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(&streamBody{c: c, upstream: a.Body, conn: ctx.Conn(), filter: c.route.api.NewStream(&c.scan), in: make([]byte, streamBuffer)}, -1)
}

// streamBody is one stream on its way. fasthttp reads it on the connection's
// goroutine and closes it when the client has everything or has left.
type streamBody struct {
	c        *call
	upstream io.ReadCloser
	conn     net.Conn
	filter   *provider.Stream
	in       []byte
	out      []byte // may be forwarded; out[sent:] has not been
	sent     int
	done     bool  // the terminator has come, or the body has ended
	broken   error // by this error
	err      error // how the body ends here; set once the record is written
}

// Read gives what may be forwarded now. It blocks on the upstream.
func (s *streamBody) Read(p []byte) (n int, err error) {
	defer s.contain(&err)
	for s.sent == len(s.out) {
		if s.err != nil {
			return 0, s.err
		}
		s.out, s.sent = s.out[:0], 0
		if s.done { // the client has all that came before the terminator: that need not wait for the disk
			s.finish()
		} else {
			s.pull()
		}
	}
	n = copy(p, s.out[s.sent:])
	s.sent += n
	return n, s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
}

// pull reads once from the upstream.
func (s *streamBody) pull() {
	n, err := s.upstream.Read(s.in)
	if n > 0 {
		if s.c.rec.TTFTMs == 0 {
			s.c.rec.TTFTMs = uint32(max(time.Since(s.c.start).Milliseconds(), 1))
		}
		s.out = s.filter.Feed(s.out, s.in[:n])
	}
	s.done = err != nil || s.filter.Ended()
	if !s.filter.Ended() && err != io.EOF {
		s.broken = err
	}
}

// finish bills and records the stream; when the record is durable the
// terminator may follow.
func (s *streamBody) finish() {
	c := s.c
	aborted := c.aborted() // before the call is ended here
	c.end()
	_ = s.upstream.Close() // ended either way
	s.filter.Close()
	a := s.filter.Answer()
	s.err = io.EOF
	if s.broken != nil {
		s.err = io.ErrUnexpectedEOF // the client sees the break as the upstream made it
	}
	if !a.HasUsage && !a.HasOutput && !aborted {
		c.recordUnknown() // nothing the client could use, by no doing of its own
		s.out = s.filter.Release(s.out)
		return
	}
	status := usage.StatusOK
	switch {
	case c.left.Load():
		status = usage.StatusClientGone
	case a.Failed || !a.Terminated:
		status = usage.StatusPartial
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
	s.c.unwatch()
	s.c.leave()
	go func() {
		var err error
		defer s.contain(&err)
		for !s.done {
			s.out = s.out[:0]
			s.pull()
		}
		s.finish()
	}()
	return nil
}

// contain keeps a panic from leaving its stream.
func (s *streamBody) contain(err *error) {
	p := recover()
	if p == nil {
		return
	}
	s.c.g.Log.Error("BUG: a stream panicked", "request_id", s.c.id, "panic", p, "stack", string(debug.Stack()))
	s.c.end()
	s.c.abandon()
	s.err = errPanicked
	*err = s.err
}

var errPanicked = errors.New("the stream failed inside the gateway")

// leave notes that the client has left its stream. What the upstream still
// sends is read on for a while, so that it is billed by what it used; where
// that is not wanted the call ends now.
func (c *call) leave() {
	if !c.left.CompareAndSwap(false, true) {
		return
	}
	if !c.g.Drain || c.g.draining.Add(1) > drainsMax {
		if c.g.Drain {
			c.g.draining.Add(-1)
		}
		c.end()
		return
	}
	c.drain = time.AfterFunc(c.g.DrainMax, c.end)
}

// unwatch ends the watching of the client's connection; it can be repeated.
func (c *call) unwatch() {
	if c.stopWatch != nil {
		c.stopWatch()
		c.stopWatch = nil
	}
}

// aborted tells whether the call was cut short because its client had left.
func (c *call) aborted() bool { return c.left.Load() && errors.Is(c.life.Err(), context.Canceled) }

package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"weir/gateway/provider"
	"weir/internal/stream"
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
	b := streamBufferPool.Get().(*streamBuffers)
	b.out = b.out[:0] // another customer's answer ended in it
	ctx.Response.SetBodyStream(&streamBody{c: c, upstream: a.Body, conn: ctx.Conn(), filter: c.route.api.NewStream(&c.scan), streamBuffers: b}, -1)
}

// streamBuffers are used by one stream after another.
type streamBuffers struct {
	in  [streamBuffer]byte
	out []byte // may be forwarded
}

var streamBufferPool = sync.Pool{New: func() any { return &streamBuffers{out: make([]byte, 0, streamBuffer)} }}

// streamBody is one stream on its way. fasthttp reads it on the connection's
// goroutine and closes it when the client has everything or has left.
type streamBody struct {
	c        *call
	upstream io.ReadCloser
	conn     net.Conn
	filter   *provider.Stream
	*streamBuffers
	sent   int   // bytes of out that the client has been given
	done   bool  // the terminator has come, or the body has ended
	broken error // by this error
	err    error // how the body ends here; set once the record is written
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
	n, err := s.upstream.Read(s.in[:])
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
	pos, err := s.record(a, aborted)
	if err == nil {
		err = c.g.Spool.WaitDurable(pos)
	}
	if err != nil {
		s.err = err // the terminator is withheld: the record is not durable
		return
	}
	s.out = s.filter.Release(s.out)
}

// record bills what the stream was. Without usage and output there is nothing
// the client could use: that is leakage, unless the client's leaving cut it short.
func (s *streamBody) record(a *provider.Answer, aborted bool) (stream.Pos, error) {
	c := s.c
	if !a.HasUsage && !a.HasOutput && !aborted {
		return c.recordUnknown()
	}
	status := usage.StatusOK
	switch {
	case c.left.Load():
		status = usage.StatusClientGone
	case a.Failed || !a.Terminated:
		status = usage.StatusPartial
	}
	c.bill(a)
	return c.record(status, usage.RowUsage)
}

// Close is called once the client has the whole body, or has left. A client
// that leaves does not stop metering: the upstream is drained to its usage, in
// bounds, or aborted and billed by what it sent.
func (s *streamBody) Close() error {
	if s.err != nil {
		s.freeBuffers()
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
		s.freeBuffers()
	}()
	return nil
}

// freeBuffers ends the use of the buffers: the stream has been read.
func (s *streamBody) freeBuffers() {
	if s.streamBuffers != nil && cap(s.out) <= keepBuffer {
		streamBufferPool.Put(s.streamBuffers)
	}
	s.streamBuffers = nil
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
	switch {
	case !c.g.Drain:
		c.end()
	case c.g.draining.Add(1) > drainsMax:
		c.g.draining.Add(-1)
		c.end()
	default:
		c.drain = time.AfterFunc(c.g.DrainMax, c.end)
	}
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

package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// maxRequestBytes bounds a request's body: larger than the largest context
	// window's text, and what one request may cost in memory.
	maxRequestBytes = 32 << 20
	// readAhead is how much of a body fasthttp reads before the handler runs: as
	// little as it lets itself be told. All else is read here, once it is known
	// whose it is.
	readAhead = 1
	// slowestLink, in bytes a second, is how slowly a body may come beyond the
	// first readTimeout: half of what bad mobile links do, while a client that
	// sends drop by drop to hold connections and memory is cut off.
	slowestLink = 16 << 10
	// keyAge is how old the answer may be that a key and its wallet are good when
	// the body has come: what took longer to arrive is asked again.
	keyAge = beatEvery
)

// receive reads the body of a request whose key is known into a buffer that
// goes back by keep. A slow link may take its time, as long as something comes.
func (g *Gateway) receive(ctx *fasthttp.RequestCtx, c *call) (*bytes.Buffer, *refusal) {
	body := buffers.Get().(*bytes.Buffer)
	stream := ctx.Request.BodyStream()
	if stream == nil {
		return body, nil // the request has none
	}
	no := g.readBody(ctx, stream, body)
	if no == nil && time.Since(c.start) > keyAge {
		no = g.authenticate(ctx, c)
	}
	if no != nil {
		keep(body)
		return nil, no
	}
	return body, nil
}

func (g *Gateway) readBody(ctx *fasthttp.RequestCtx, stream io.Reader, into *bytes.Buffer) *refusal {
	length := ctx.Request.Header.ContentLength() // below 0: the body tells its end
	if length > maxRequestBytes {
		return tooLarge(ctx)
	}
	paced := pacedBody{Reader: stream, conn: ctx.Conn(), pause: g.server.ReadTimeout, start: time.Now(), stopping: &g.stopping}
	_, err := into.ReadFrom(io.LimitReader(&paced, maxRequestBytes+1))
	var netErr net.Error
	switch {
	case errors.Is(err, errStopping):
		ctx.SetConnectionClose()
		return stopping()
	case errors.As(err, &netErr) && netErr.Timeout():
		ctx.SetConnectionClose()
		return &refusal{status: http.StatusRequestTimeout, code: "invalid_request", message: "The request did not arrive in time."}
	case into.Len() > maxRequestBytes:
		return tooLarge(ctx)
	case err != nil, length >= 0 && into.Len() < length: // fasthttp takes a body that ends early for whole
		ctx.SetConnectionClose()
		return malformed("The request's body is not valid HTTP.")
	case len(ctx.Request.Header.PeekTrailerKeys()) > 0: // fasthttp puts them beside the headers: a key, or who pays
		ctx.SetConnectionClose()
		return malformed("A trailer after the body is not taken.")
	}
	return nil
}

// tooLarge also ends the connection: what comes is not read to its end.
func tooLarge(ctx *fasthttp.RequestCtx) *refusal {
	ctx.SetConnectionClose()
	return &refusal{status: http.StatusRequestEntityTooLarge, code: "body_too_large",
		message: fmt.Sprintf("The request's body is larger than %d MiB.", maxRequestBytes>>20)}
}

// skipBody reads on to the end of a body that nobody wants, and keeps nothing of
// it: a client that sends before it reads gets its answer, and may go on. It has
// the time of a whole request from its first byte on, however much is still to
// come then.
func skipBody(ctx *fasthttp.RequestCtx) {
	stream := ctx.Request.BodyStream()
	if stream == nil || ctx.Request.Header.ContentLength() > maxRequestBytes {
		return // there is none, or the connection ends before it does
	}
	n, err := io.Copy(io.Discard, io.LimitReader(stream, maxRequestBytes+1))
	if err != nil || n > maxRequestBytes {
		ctx.SetConnectionClose()
	}
}

// pacedBody reads a body under a deadline that moves on with what has come.
// It ends early when the gateway stops.
type pacedBody struct {
	io.Reader
	conn     net.Conn
	pause    time.Duration // the longest that nothing may come
	start    time.Time
	got      int64
	stopping *atomic.Bool
}

var errStopping = errors.New("the gateway is stopping")

func (b *pacedBody) Read(p []byte) (int, error) {
	if b.got > 0 && b.stopping.Load() {
		return 0, errStopping
	}
	now := time.Now()
	until := b.start.Add(b.pause + time.Duration(b.got)*time.Second/slowestLink)
	if longest := now.Add(b.pause); longest.Before(until) {
		until = longest
	}
	if err := b.conn.SetReadDeadline(until); err != nil {
		return 0, err
	}
	n, err := b.Reader.Read(p)
	b.got += int64(n)
	return n, err
}

package standin

import (
	"net"
	"net/http"
	"strconv"
)

// frames are the parts of a stream. done is the terminator: nothing follows it.
type frames struct {
	open   []byte
	delta  func(b []byte, i int) []byte
	finish []byte
	broken []byte // the provider's error event
	done   []byte
}

// serve gives the planned answer, or the planned fault.
func (c *call) serve() {
	if c.plan.status != 0 {
		c.fail(failure{status: c.plan.status, message: "an error that the prompt asked for"})
		return
	}
	c.dialect.headers(c.w.Header(), requestID(c.id), failure{})
	switch c.plan.fault {
	case faultRefuse:
		c.reset()
	case faultTimeout:
		<-c.r.Context().Done()
		c.endFault(0)
	case faultBreakHeaders:
		c.w.Header()["Content-Type"] = []string{c.contentType()}
		c.w.WriteHeader(http.StatusOK)
		c.flush()
		c.breakOff(0)
	default:
		if c.ask.Stream && c.dialect.frames != nil {
			c.stream()
		} else {
			c.json()
		}
	}
}

// reset ends the connection with RST, as a machine does that will not serve.
func (c *call) reset() {
	c.plan.meters = Meters{}
	c.endFault(0)
	conn, _, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // without it the end is a FIN; either way the caller gets no answer
	}
	_ = conn.Close()
}

func (c *call) contentType() string {
	if c.ask.Stream && c.dialect.frames != nil {
		return "text/event-stream; charset=utf-8"
	}
	return "application/json"
}

// json sends a whole answer, logged as served before its last byte leaves.
func (c *call) json() {
	switch c.plan.fault {
	case faultGarbage:
		c.endFault(0)
		c.send(http.StatusOK, []byte("<html>not what the API promises</html>"))
	case faultBreakBody:
		c.half()
		c.breakOff(c.plan.chunks)
	case faultStall:
		rest := c.half()
		c.wait(c.plan.stall)
		c.endFault(c.plan.chunks)
		_, _ = c.w.Write(rest) // logged as served already
	default:
		c.buf = c.dialect.answer(c, c.buf)
		c.end(c.whole(), c.plan.chunks)
		c.send(http.StatusOK, c.buf)
	}
}

// half sends the first half of a JSON answer and returns the other.
func (c *call) half() (rest []byte) {
	c.buf = c.dialect.answer(c, c.buf)
	h := c.w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(c.buf))}
	c.w.WriteHeader(http.StatusOK)
	c.push(c.buf[:len(c.buf)/2]) // what comes next is a fault, whether the caller took this or not
	return c.buf[len(c.buf)/2:]
}

// whole is the outcome of an answer that was served to its end.
func (c *call) whole() string {
	if c.plan.fault == faultNoUsage || c.plan.fault == faultStall {
		return "fault:" + c.plan.fault
	}
	return OutcomeComplete
}

// stream sends one frame at a time, each flushed: a caller sees deltas as a provider sends them.
func (c *call) stream() {
	f := c.dialect.frames(c)
	h := c.w.Header()
	h["Content-Type"] = []string{c.contentType()}
	h["Cache-Control"] = []string{"no-cache"}
	c.w.WriteHeader(http.StatusOK)
	if c.plan.fault == faultGarbage {
		c.endFault(0)
		_, _ = c.w.Write([]byte("data: {not what the API promises\n\n")) // nothing is logged after this
		return
	}
	if !c.push(f.open) {
		c.end(OutcomeClientGone, 0)
		return
	}
	for i := range c.plan.chunks + 1 {
		if i == c.plan.after && c.faulted(&f, i) {
			return
		}
		if i == c.plan.chunks {
			break
		}
		if !c.wait(c.plan.interval) {
			c.end(OutcomeClientGone, i)
			return
		}
		c.buf = f.delta(c.buf[:0], i)
		if !c.push(c.buf) {
			c.end(OutcomeClientGone, i)
			return
		}
	}
	if !c.push(f.finish) {
		c.end(OutcomeClientGone, c.plan.chunks)
		return
	}
	c.end(c.whole(), c.plan.chunks)
	_, _ = c.w.Write(f.done) // served and logged: whether the caller is still there changes nothing
}

// faulted does a stream's planned fault after so many deltas, and tells whether that was its end.
func (c *call) faulted(f *frames, deltas int) bool {
	switch c.plan.fault {
	case faultBreakStream:
		c.breakOff(deltas)
	case faultNoTerminator:
		c.endFault(deltas)
	case faultErrorEvent:
		c.endFault(deltas)
		_, _ = c.w.Write(f.broken) // logged already, and the last thing sent
	case faultStall:
		if c.wait(c.plan.stall) {
			return false
		}
		c.end(OutcomeClientGone, deltas)
	default:
		return false
	}
	return true
}

// push sends one frame and tells whether the caller still takes it.
func (c *call) push(frame []byte) bool {
	if _, err := c.w.Write(frame); err != nil {
		return false
	}
	return c.flush()
}

func (c *call) flush() bool {
	return http.NewResponseController(c.w).Flush() == nil
}

func (c *call) endFault(deltas int) { c.end("fault:"+c.plan.fault, deltas) }

// breakOff logs and cuts the connection in the middle of the answer; it does not return.
func (c *call) breakOff(deltas int) {
	c.endFault(deltas)
	panic(http.ErrAbortHandler)
}

package provider

import "bytes"

const (
	// eventMax is the largest event that is read. Larger ones are forwarded
	// unread as they come, so a stream never holds more than this.
	eventMax = 1 << 20
	// heldMax bounds what is held, and holds any one event. What a server may
	// send after its terminator is no part of the answer; beyond this it is
	// dropped.
	heldMax = eventMax
)

// Stream meters one answer that comes as server-sent events, and decides which
// bytes may go on: whole events, as soon as they are whole. The terminator and
// what follows it are held until Release, so that no answer ends before its
// usage record is durable. How the stream is cut into pieces changes nothing.
type Stream struct {
	api    *API
	answer Answer
	strip  bool // take out the usage chunk that the client did not ask for

	buf       []byte // what came of the event that is not whole yet
	scanned   int    // bytes of it that were searched for its end
	filled    bool   // the line being searched is not empty
	cr        bool   // the byte before the next one is the CR of a line's end
	oversized bool   // the event is too large and its beginning is forwarded
	started   bool   // the first event has been read
	fate      fate   // of the last event, and of the LF that may complete its CR
	ended     bool   // the terminator was seen
	closed    bool
	held      []byte
	joined    []byte // data of an event that has several lines of it
}

// fate is what becomes of an event.
type fate uint8

const (
	forward fate = iota
	hold
	drop
)

// NewStream begins to read the answer to the request that Scan read into s and
// Rewrite wrote.
func (api *API) NewStream(s *Scan) *Stream {
	return &Stream{api: api, strip: s.asked}
}

// Feed takes the next bytes of the upstream and appends to dst what may be
// forwarded now.
func (st *Stream) Feed(dst, in []byte) []byte {
	st.buf = append(st.buf, in...)
	rest := st.buf
	for {
		if st.cr && st.scanned == 0 && len(rest) > 0 && rest[0] == '\n' {
			dst, rest, st.cr = st.put(dst, rest[:1]), rest[1:], false
		}
		n := st.eventLen(rest)
		if n == 0 {
			break
		}
		st.fate = st.judge(rest[:n])
		dst, rest = st.put(dst, rest[:n]), rest[n:]
	}
	if st.oversized || len(rest) > eventMax {
		st.oversized, st.scanned = true, 0
		if st.fate = forward; st.ended {
			st.fate = hold
		}
		dst, rest = st.put(dst, rest), nil
	}
	st.buf = st.buf[:copy(st.buf, rest)]
	return dst
}

// eventLen returns the length of the event at the start of b, up to and with
// the empty line that ends it, 0 while it is not whole. A line ends with LF, CR
// or CRLF; an LF that follows the last CR is not counted, for it may not have
// come yet.
func (st *Stream) eventLen(b []byte) int {
	for i := st.scanned; i < len(b); {
		switch b[i] {
		case '\n', '\r':
			second := b[i] == '\n' && st.cr
			st.cr = b[i] == '\r'
			i++
			if second {
				continue
			}
			if !st.filled {
				st.scanned = 0
				return i
			}
			st.filled = false
		default:
			st.cr, st.filled = false, true
			i += lineLen(b[i:])
		}
	}
	st.scanned = len(b)
	return 0
}

// lineLen is how many bytes of b stand before its first CR or LF.
func lineLen(b []byte) int {
	if n := bytes.IndexByte(b, '\n'); n >= 0 {
		b = b[:n]
	}
	if n := bytes.IndexByte(b, '\r'); n >= 0 {
		b = b[:n]
	}
	return len(b)
}

// put sends bytes where the last event went.
func (st *Stream) put(dst, b []byte) []byte {
	switch st.fate {
	case forward:
		return append(dst, b...)
	case hold:
		st.held = append(st.held, b[:min(len(b), heldMax-len(st.held))]...)
	}
	return dst
}

// judge reads a whole event and says what becomes of it.
func (st *Stream) judge(event []byte) fate {
	switch {
	case st.ended:
		return hold
	case st.oversized || len(event) > eventMax:
		st.oversized = false
		st.answer.Deltas++ // its content is not known, but nothing else is this large
		st.answer.HasOutput = true
		return forward
	}
	data := st.data(event)
	if len(data) == 0 {
		return forward
	}
	if st.api.Done != "" && string(bytes.TrimSpace(data)) == st.api.Done {
		st.ended, st.answer.Terminated = true, true
		return hold
	}
	next := st.answer
	r := reader{api: st.api, a: &next}
	if !r.read(data, st.api.Event) {
		return forward // nothing of what is no JSON object counts
	}
	if st.answer = next; r.text > 0 {
		st.answer.Deltas += max(1, r.parts)
		st.answer.DeltaBytes += r.text
		st.answer.HasOutput = true
	}
	switch {
	case r.ended:
		st.ended, st.answer.Terminated = true, true
		return hold
	case st.strip && r.used && r.listed && r.empty:
		return drop
	}
	return forward
}

// data returns an event's data, its lines joined by LF. The space that may stand
// before each of them stays: to JSON it is nothing.
func (st *Stream) data(event []byte) (data []byte) {
	if !st.started {
		st.started = true
		event = bytes.TrimPrefix(event, []byte("\uFEFF"))
	}
	lines := 0
	for len(event) > 0 {
		n := lineLen(event)
		line := event[:n]
		event = event[min(n+1, len(event)):]
		value, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue // another field, a comment, or the LF of a CRLF
		}
		if lines++; lines == 1 {
			data = value
			continue
		}
		if lines == 2 {
			st.joined = append(st.joined[:0], data...)
		}
		st.joined = append(append(st.joined, '\n'), value...)
		data = st.joined
	}
	return data
}

// Ended tells whether the terminator was seen. It is held then.
func (st *Stream) Ended() bool { return st.ended }

// Close says that the upstream has ended, however it did. What came of an
// unfinished event is read as if it were whole, and held. It can be repeated.
func (st *Stream) Close() {
	if st.closed {
		return
	}
	st.closed = true
	if len(st.buf) > 0 {
		st.fate = max(hold, st.judge(st.buf))
		st.put(nil, st.buf)
		st.buf = nil
	}
}

// Release closes the stream and appends what was held: the terminator with what
// followed it, or an unfinished event.
func (st *Stream) Release(dst []byte) []byte {
	st.Close()
	dst = append(dst, st.held...)
	st.held = nil
	return dst
}

// Answer is what was read so far: after Close, or once Ended, all of it.
func (st *Stream) Answer() *Answer {
	st.api.settle(&st.answer)
	return &st.answer
}

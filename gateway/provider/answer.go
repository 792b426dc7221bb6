package provider

import (
	"strings"

	"weir/schemas/usage"
)

// unknownNameMax bounds the name of an unknown meter, which goes into logs.
const unknownNameMax = 64

// Answer is what was read of one upstream answer.
type Answer struct {
	Model string // that the answer names, "" if none
	// Meters holds what was reported. Without InputSeen or OutputSeen that
	// side of it is zero, because missing, not because it was zero.
	Meters                usage.Quantities
	InputSeen, OutputSeen bool
	// HasUsage: both sides were reported and every count could be read. A
	// reported zero is a report.
	HasUsage bool
	// UnknownMeter: the answer counts something that has no meter, or its
	// counts contradict each other. UnknownField is its name.
	UnknownMeter bool
	UnknownField string
	Deltas       int64 // deltas with generated content, one of each choice of an event (a whole answer with some: 1)
	DeltaBytes   int64 // bytes of that content, as written between its quotes
	Terminated   bool  // a stream reached its terminator, a body is one whole JSON object
	Failed       bool  // the answer holds an error
	HasOutput    bool  // something of use was generated

	counts Counts
}

// estimateBytesPerToken makes tokens of bytes where no usage was reported. It
// is twice what is usual for prose, so an estimate stays below a reservation.
const estimateBytesPerToken = 8

// Estimate is what to bill an answer without usage: what was reported, the
// missing input by the request's bytes and at least 1, the missing output by
// its content, every delta of it at least one token.
func (a *Answer) Estimate(inlineBytes int64) usage.Quantities {
	q := a.Meters
	if !a.InputSeen {
		q[usage.Input] = uint64(max(1, inlineBytes/estimateBytesPerToken))
	}
	if !a.OutputSeen {
		q[usage.Output] = uint64(max(a.Deltas, a.DeltaBytes/estimateBytesPerToken))
	}
	return q
}

// Part takes n out of *rest, a total that contains it, and returns what it
// took. More than is left is a contradiction: clamped, never wrapped.
func (a *Answer) Part(rest *uint64, n uint64, name string) uint64 {
	if n > *rest {
		a.Unknown(name)
		n = *rest
	}
	*rest -= n
	return n
}

// Unknown notes the first meter that cannot be understood.
func (a *Answer) Unknown(name string) {
	if !a.UnknownMeter {
		a.UnknownMeter, a.UnknownField = true, name
	}
}

// countSlots is how many counts the richest usage object has.
const countSlots = 10

// Counts holds the numbers of a usage object by the slots of its table.
type Counts [countSlots]Count

// Count is one number of a usage object.
type Count struct {
	N      uint64
	Seen   bool // reported; false is missing, which is not zero
	broken bool // reported, and no count at all
}

// ReadJSON reads a whole JSON answer of status 2xx into *a. A body that is not
// one JSON object leaves Terminated false.
func (api *API) ReadJSON(body []byte, a *Answer) {
	*a = Answer{}
	r := reader{api: api, a: a}
	if !r.read(body, api.Answer) {
		*a = Answer{}
		return
	}
	a.Terminated = true
	a.HasOutput = r.text > 0 || r.listed && !r.empty
	if r.text > 0 {
		a.Deltas, a.DeltaBytes = 1, r.text
	}
	api.settle(a)
}

// settle turns the counts that were read into meters. It can be repeated as
// more is read.
func (api *API) settle(a *Answer) {
	clear(a.Meters[:])
	a.InputSeen, a.OutputSeen, a.HasUsage = false, false, false
	for i := range a.counts {
		if a.counts[i].broken {
			return // nothing beside such a number can be trusted
		}
	}
	api.Meter(&a.counts, a)
	a.HasUsage = a.InputSeen && a.OutputSeen
}

// reader reads an answer, or one event of one.
type reader struct {
	cursor
	api    *API
	a      *Answer
	text   int64 // bytes of generated content
	parts  int64 // results in the list that have some
	listed bool  // there is a list of results
	empty  bool  // and it is empty
	used   bool  // there is a usage object, and it is not null
	ended  bool  // the event is of a kind that ends the stream
}

// read reads one JSON object by its table and tells whether it was one.
func (r *reader) read(body []byte, t Table) bool {
	r.b, r.depthMax = body, answerDepthMax
	if r.next() != '{' {
		return false
	}
	r.object(t, false)
	return r.end()
}

// object reads the object at the cursor. In a usage object everything matters.
func (r *reader) object(t Table, usage bool) {
	for ok := r.open(); ok; ok = r.more('}') {
		name, plain := r.key()
		at, exact := t.find(name, plain)
		switch {
		case at >= 0 && exact:
			r.member(&t[at], usage)
		case usage:
			if r.counts() {
				r.a.Unknown(strings.ToValidUTF8(string(name[:min(len(name), unknownNameMax)]), ""))
			}
		default:
			r.skip()
		}
	}
}

func (r *reader) member(m *Member, usage bool) {
	ch := r.next()
	if ch == 'n' {
		r.skip() // null: not reported
		return
	}
	switch m.Rule {
	case Nested:
		r.nested(m, usage)
		return
	case List:
		r.listed = true
		r.empty = r.nested(m, false) == 0
		return
	case Usage:
		if ch == '{' {
			r.used = true
			if !r.api.Cumulative {
				r.a.counts = Counts{}
			}
			r.object(m.Inside, true)
			return
		}
	case Number:
		r.number(m)
		return
	case Text:
		from := r.at
		if r.skip(); ch == '"' {
			from += len(`""`)
		}
		r.text += int64(r.at - from)
		return
	case Model, Kind, Words:
		if ch == '"' {
			r.string(m)
			return
		}
	case Failure:
		r.a.Failed = true
	}
	r.skip()
}

// nested reads an object, or every object of an array, and returns how many
// elements there were.
func (r *reader) nested(m *Member, usage bool) (n int) {
	switch r.next() {
	case '{':
		r.object(m.Inside, usage)
		return 1
	case '[':
		for ok := r.open(); ok; ok = r.more(']') {
			before := r.text
			r.nested(m, usage)
			if n++; m.Rule == List && r.text > before {
				r.parts++
			}
		}
		return n
	}
	r.skip()
	return 1
}

// string reads a string that matters.
func (r *reader) string(m *Member) {
	raw, plain := r.str()
	switch m.Rule {
	case Model:
		if !equal(raw, plain, r.a.Model) && len(raw) <= modelBytesMax {
			r.a.Model = string(unescape(nil, raw))
		}
	case Kind:
		r.ended = r.ended || m.allows(raw, plain)
	case Words:
		if !m.allows(raw, plain) {
			r.a.Unknown(m.Name)
		}
	}
}

// number reads a count. What is no whole number up to quantityMax makes the
// whole usage useless: it is reported as unknown, and estimated.
func (r *reader) number(m *Member) {
	to := &r.a.counts[m.Slot]
	*to = Count{Seen: true, broken: true}
	if ch := r.next(); ch == '-' || ch-'0' <= 9 {
		n, ok := quantity(r.cursor.number())
		*to = Count{N: n, Seen: true, broken: !ok}
	} else {
		r.skip()
	}
	if to.broken {
		r.a.Unknown(m.Name)
	}
}

// counts passes a value that no table knows and tells whether it holds a number
// other than zero.
func (r *reader) counts() (found bool) {
	switch ch := r.next(); {
	case ch == '{':
		for ok := r.open(); ok; ok = r.more('}') {
			r.key()
			found = r.counts() || found
		}
	case ch == '[':
		for ok := r.open(); ok; ok = r.more(']') {
			found = r.counts() || found
		}
	case ch == '-' || ch-'0' <= 9:
		n, ok := quantity(r.cursor.number())
		return n != 0 || !ok
	default:
		r.skip()
	}
	return found
}

package provider

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

const (
	// limitMax bounds a limit on output tokens, so that limit × choices stays
	// far inside int64. No model comes near it.
	limitMax = quantityMax
	// choicesMax bounds the answers asked for in one request, likewise; the
	// largest that a provider takes is 128.
	choicesMax = 1 << 16
	// modelBytesMax bounds a model's name, which travels in every event.
	modelBytesMax = 256
)

// Scan is what one pass over a request's body found.
type Scan struct {
	Model    string // as asked
	Stream   bool   // a stream of events is asked for
	Limit    int64  // output tokens of one answer, the largest of the limits; 0 without HasLimit
	HasLimit bool
	N        int64 // answers asked for, at least 1
	// InlineBytes are those of the body but for the space between its tokens.
	// An estimate counts them.
	InlineBytes int64
	// TextBytes bounds the tokens of the inline input: InlineBytes, and the bytes
	// by which its strings and numbers may grow when the provider writes them
	// anew. Decoding an escape yields no more bytes than were written, and no
	// tokenizer makes more tokens than bytes.
	TextBytes int64
	Messages  int64 // messages, for a model's overhead per message
	Tools     int64 // tools and functions defined
	// UsageAsked: the client itself asked for usage in its stream.
	UsageAsked bool
	// CacheWrite5m and CacheWrite1h: input may be billed as such a write.
	CacheWrite5m, CacheWrite1h bool

	top        int  // where a member can be put into the body's object
	canAsk     bool // the API has stream options at all
	asked      bool // Rewrite asked for usage that the client did not ask for
	options    span // the value of the stream options
	optionsTop int  // where a member can be put into them, 0 if they are no object
	wish       span // the value of the wish for usage
	nulls      [limitsMax]nullLimit
	nullCount  int
}

// limitsMax is how many names one API has for the limit of the output.
const limitsMax = 2

// span is a stretch of the body; its end is 0 where there is none.
type span struct{ from, to int }

// nullLimit is a limit that is there and null.
type nullLimit struct {
	name  string
	value span
}

// Scan reads a request's body in one strict pass and fills *s. What it refuses
// is a *Refusal: no JSON object or anything after it; a limit that is no plain
// number; a member that matters and is there twice, or in a spelling that only
// some parsers take for it; an option that no rate card prices.
func (a *API) Scan(body []byte, s *Scan) error {
	*s = Scan{N: 1}
	r := scanner{s: s}
	r.b, r.depthMax, r.bounding = body, requestDepthMax, true
	if r.next() != '{' {
		return invalid("", "the body is not a JSON object")
	}
	s.top = r.at + 1
	f := r.object(a.Request)
	if f == nil {
		r.end()
	}
	switch {
	case r.fault != "":
		return invalid("", fmt.Sprintf("the body is not valid JSON: %s, at byte %d", r.fault, r.faultAt))
	case f != nil:
		f.Message = f.Field + ": " + f.Message
		return f
	case s.Model == "":
		return invalid("model", "model: the name of a model is missing")
	}
	if s.HasLimit {
		s.Limit = max(s.Limit, r.budget)
	}
	s.canAsk = a.Request.has(StreamOptions)
	s.InlineBytes = int64(len(body) - r.space)
	s.TextBytes = s.InlineBytes + int64(r.growth)
	return nil
}

func (t Table) has(rule Rule) bool {
	for i := range t {
		if t[i].Rule == rule {
			return true
		}
	}
	return false
}

func invalid(field, message string) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Code: "invalid_request", Message: message, Field: field}
}

func unpriced(m *Member) *Refusal {
	message := "this option is not priced, so it is not served"
	if len(m.Allow) > 0 {
		message += `; served are "` + strings.Join(m.Allow, `", "`) + `"`
	}
	return &Refusal{Status: http.StatusUnprocessableEntity, Code: "unpriced_option", Message: message}
}

// within puts a step before the path of a refusal: a name, or an index.
func (r *Refusal) within(step string) *Refusal {
	if r.Field != "" && r.Field[0] != '[' {
		step += "."
	}
	r.Field = step + r.Field
	return r
}

// scanner reads a request. A fault in the JSON shows in the cursor alone and
// goes before any refusal, since nothing read at a fault means anything.
type scanner struct {
	cursor
	s      *Scan
	budget int64
	hour   bool // the last cache control asks for CacheHour
}

// object reads the object at the cursor by its table. The path of a refusal
// grows on the way out.
func (r *scanner) object(t Table) *Refusal {
	var seen uint64
	for ok := r.open(); ok; ok = r.more('}') {
		name, plain := r.key()
		at, exact := t.find(name, plain)
		if at < 0 {
			r.skip()
			continue
		}
		if !exact || seen&(1<<at) != 0 {
			return &Refusal{Status: http.StatusUnprocessableEntity, Code: "ambiguous_request", Field: t[at].Name,
				Message: "this member is there twice, or in a spelling that not all parsers read alike"}
		}
		seen |= 1 << at
		if f := r.member(&t[at]); f != nil {
			return f.within(t[at].Name)
		}
	}
	return nil
}

// member reads the value of a member that matters.
func (r *scanner) member(m *Member) *Refusal {
	null := r.next() == 'n'
	from := r.at
	if null && r.word("null") {
		r.null(m, span{from, r.at})
		return nil
	}
	switch m.Rule {
	case Nested, Messages, Tools:
		return r.nested(m)
	case Model:
		return r.model()
	case Streaming:
		return r.flag(&r.s.Stream)
	case Limit:
		n, f := r.integer(limitMax)
		if f == nil && n < m.Least {
			f = invalid("", fmt.Sprintf("only a whole number from %d on is taken here", m.Least))
		}
		r.s.Limit, r.s.HasLimit = max(r.s.Limit, n), true
		return f
	case Budget:
		n, f := r.integer(limitMax)
		r.budget = n
		return f
	case Choices:
		n, f := r.integer(choicesMax)
		r.s.N = max(1, n)
		return f
	case StreamOptions:
		return r.streamOptions(m)
	case IncludeUsage:
		f := r.flag(&r.s.UsageAsked)
		r.s.wish = span{from, r.at}
		return f
	case CacheControl:
		return r.cacheControl(m)
	case Words, CacheTTL:
		return r.words(m)
	case Refused:
		return r.refused(m)
	}
	panic(fmt.Sprintf("BUG: the rule %d of %q is not for requests", m.Rule, m.Name))
}

// null keeps the place of a null that Rewrite may have to write over.
func (r *scanner) null(m *Member, value span) {
	switch m.Rule {
	case StreamOptions:
		r.s.options = value
	case IncludeUsage:
		r.s.wish = value
	case Limit:
		r.s.nulls[r.s.nullCount] = nullLimit{m.Name, value}
		r.s.nullCount++
	}
}

// nested reads what matters in an object, or in every object of an array.
func (r *scanner) nested(m *Member) *Refusal {
	switch r.next() {
	case '{':
		switch m.Rule {
		case Messages:
			r.s.Messages++
		case Tools:
			r.s.Tools++
		}
		return r.object(m.Inside)
	case '[':
		i := 0
		for ok := r.open(); ok; ok = r.more(']') {
			if f := r.nested(m); f != nil {
				return f.within("[" + strconv.Itoa(i) + "]")
			}
			i++
		}
	default:
		r.skip()
	}
	return nil
}

func (r *scanner) model() *Refusal {
	if r.next() != '"' {
		r.skip()
		return invalid("", "the name of a model is a string")
	}
	raw, plain := r.str()
	if len(raw) > modelBytesMax {
		return invalid("", "the name of the model is too long")
	}
	if r.s.Model = string(raw); !plain {
		r.s.Model = string(unescape(nil, raw))
	}
	return nil
}

func (r *scanner) flag(to *bool) *Refusal {
	if r.word("true") {
		*to = true
	} else if !r.word("false") {
		r.skip()
		return invalid("", "only true and false are taken here")
	}
	return nil
}

// integer reads a number up to most that is written in digits alone.
func (r *scanner) integer(most int64) (int64, *Refusal) {
	var raw []byte
	if ch := r.next(); ch == '-' || ch-'0' <= 9 {
		raw = r.number()
	} else {
		r.skip()
	}
	n, err := strconv.ParseUint(string(raw), 10, 63)
	if err != nil || int64(n) > most {
		return 0, invalid("", fmt.Sprintf("only a whole number from 0 to %d is taken here, in plain digits", most))
	}
	return int64(n), nil
}

func (r *scanner) streamOptions(m *Member) *Refusal {
	if r.next() != '{' {
		r.skip()
		return invalid("", "only an object is taken here")
	}
	from := r.at
	f := r.object(m.Inside)
	r.s.options, r.s.optionsTop = span{from, r.at}, from+1
	return f
}

// cacheControl notes which kind of cache write is asked for. Five minutes are
// the default of the life that its object may name.
func (r *scanner) cacheControl(m *Member) *Refusal {
	if r.next() != '{' {
		r.skip()
		return unpriced(m)
	}
	r.hour = false
	f := r.object(m.Inside)
	if r.hour {
		r.s.CacheWrite1h = true
	} else {
		r.s.CacheWrite5m = true
	}
	return f
}

// words takes strings of m.Allow, alone or in an array.
func (r *scanner) words(m *Member) *Refusal {
	switch r.next() {
	case '"':
		raw, plain := r.str()
		if m.allows(raw, plain) {
			r.hour = r.hour || m.Rule == CacheTTL && equal(raw, plain, CacheHour)
			return nil
		}
	case '[':
		for ok := r.open(); ok; ok = r.more(']') {
			if f := r.words(m); f != nil {
				return f
			}
		}
		return nil
	}
	return unpriced(m)
}

// refused takes what is as good as absent.
func (r *scanner) refused(m *Member) *Refusal {
	if r.next() == '[' && !r.open() || r.word("false") {
		return nil
	}
	return unpriced(m)
}

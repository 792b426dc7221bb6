// Package provider is what the gateway knows of the AI providers' APIs: what a
// request may cost at most, what an answer did cost, and which bytes may be
// forwarded when. One API is one table (package openai, package anthropic);
// this package reads bodies and streams by such a table, byte by byte, without
// decoding them into values.
package provider

import "weir/schemas/usage"

// API is one metered route: the tables by which its requests and answers are
// read. It is made once and never changed, so it may be used by all requests
// at once.
type API struct {
	Name     string // as in usage events: "openai.chat"
	Provider string // the kind of provider it belongs to: "openai"
	Errors   Shape  // how its clients expect errors

	// Features is the header that switches features on, "" if there is none.
	// Only FreeFeatures, named without their dates, are priced.
	Features     string
	FreeFeatures []string

	Request Table // the members of a request that matter
	Answer  Table // the members of a whole JSON answer that matter
	Event   Table // the members of one event of a stream that matter

	// Done is the data of the event that ends a stream, where that is no JSON.
	Done string
	// Cumulative: the usage objects of one stream complete each other, member
	// by member. Otherwise the last one stands for all.
	Cumulative bool
	// Meter turns reported counts into exclusive meters: it sets Meters,
	// InputSeen and OutputSeen, and splits totals with Answer.Part.
	Meter func(n *Counts, a *Answer)
}

// Table lists the members of a JSON object that matter. All others pass.
type Table []Member

// Member is one row of a table.
type Member struct {
	Name   string   // exact spelling; no row differs from another only in case
	Rule   Rule     // what its value means
	Allow  []string // Words: the strings that change no price
	Inside Table    // the object it holds, or each object of the array it holds
	Slot   int      // Number: where its count goes
}

// Rule says what the value of a member means.
type Rule uint8

// The rules. In a request a member of any rule may be null, which is as good
// as absent.
const (
	// Nested: what matters is inside. Strings and numbers pass.
	Nested Rule = iota
	// Model names the model, in a request and in an answer.
	Model

	// Streaming asks for a stream of events. Request only, down to Refused.
	Streaming
	// Limit bounds the output tokens of one answer. The largest counts.
	Limit
	// Budget bounds a part of the output that, with some features, need not
	// be within the limit: what is larger counts.
	Budget
	// Choices is how many answers are asked for.
	Choices
	// StreamOptions is the object that may ask for usage in a stream.
	StreamOptions
	// IncludeUsage is that wish.
	IncludeUsage
	// Messages and Tools are Nested, and their objects are counted.
	Messages
	Tools
	// CacheControl asks that input be written to a cache, for money, and
	// CacheTTL inside it says for how long: one of Allow.
	CacheControl
	CacheTTL
	// Refused can cost what no rate card prices. Null, false and [] pass.
	Refused

	// Words: strings, alone or in an array, that may change the price. In a
	// request others than Allow are refused; in an answer they are reported
	// as an unknown meter.
	Words

	// Text is generated output, a string or an object. Answer only, as all
	// that follow.
	Text
	// List is the array of results. One that is not empty is output.
	List
	// Kind is an event's type; one in Allow ends the stream.
	Kind
	// Failure tells of an error if it is not null.
	Failure
	// Usage is the usage object. What its Table does not name and is not
	// zero is an unknown meter, at every depth of it.
	Usage
	// Number is a count inside a usage object.
	Number
	// Known is inside a usage object and says nothing new.
	Known
)

// find looks a member's name up as it stands between its quotes. exact is false
// for an escaped or case-variant spelling: some parsers would take it for the
// member, others would not. at is -1 for what the table does not name.
func (t Table) find(name []byte, plain bool) (at int, exact bool) {
	if plain {
		for i := range t {
			if n := t[i].Name; len(n) == len(name) && (string(name) == n || foldEqual(name, n)) {
				return i, string(name) == n
			}
		}
		return -1, false
	}
	var space [6 * nameMax]byte
	if len(name) > len(space) {
		return -1, false
	}
	decoded := unescape(space[:0], name)
	for i := range t {
		if foldEqual(decoded, t[i].Name) {
			return i, false
		}
	}
	return -1, false
}

// allows tells whether a string as str returned it is one of m.Allow.
func (m *Member) allows(raw []byte, plain bool) bool {
	for _, w := range m.Allow {
		if equal(raw, plain, w) {
			return true
		}
	}
	return false
}

// CacheHour is the word by which CacheTTL tells the dearer cache write.
const CacheHour = "1h"

// nameMax is longer than any name in a table. Six bytes are the most that one
// of its characters takes, as an escape.
const nameMax = 32

// Scan is what one pass over a request's body found.
type Scan struct {
	Model    string // as asked
	Stream   bool   // a stream of events is asked for
	Limit    int64  // output tokens of one answer, the largest of the limits; 0 without HasLimit
	HasLimit bool
	N        int64 // answers asked for, at least 1
	// TextBytes bounds the tokens of the inline input: the bytes of the body
	// but for the space between its tokens. Decoding an escape yields no more
	// bytes than were written, and no tokenizer makes more tokens than bytes.
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

// InputBound is the largest number of input tokens the request can be billed
// for: its bytes at bytesPerTokenMin bytes per token (below 1: 1), and a
// model's overhead in tokens for every message and every tool.
func (s *Scan) InputBound(bytesPerTokenMin, messageOverhead, toolOverhead int64) int64 {
	per := max(1, bytesPerTokenMin)
	return (s.TextBytes+per-1)/per + s.Messages*messageOverhead + s.Tools*toolOverhead
}

// Refusal is the error of a request that is not served, in the gateway's own
// terms: Status and Code are those of the error answer, Field is the path of
// the member it is about, "" for the body as a whole.
type Refusal struct {
	Status  int
	Code    string
	Message string
	Field   string
}

// Error is the code and the sentence for people.
func (r *Refusal) Error() string { return r.Code + ": " + r.Message }

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
	Deltas       int64 // events with generated content (a whole answer with some: 1)
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
func (a *Answer) Estimate(textBytes int64) usage.Quantities {
	q := a.Meters
	if !a.InputSeen {
		q[usage.Input] = uint64(max(1, textBytes/estimateBytesPerToken))
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

package provider

import "unicode/utf8"

// Table lists the members of a JSON object that matter. All others pass.
type Table []Member

// Member is one row of a table.
type Member struct {
	Name   string   // exact spelling; no row differs from another only in case
	Rule   Rule     // what its value means
	Allow  []string // Words: the strings that change no price. CacheTTL, Kind: see there
	Inside Table    // the object it holds, or each object of the array it holds
	Slot   int      // Number: where its count goes
	Least  int64    // Limit: the smallest that is taken
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
	// Messages and Tools are Nested, and their objects are counted. Whatever
	// makes the provider add a prompt of its own is counted as a tool.
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

// CacheHour is the word by which CacheTTL tells the dearer cache write.
const CacheHour = "1h"

// nameMax is longer than any name in a table. Six bytes are the most that one
// of its characters takes, as an escape.
const nameMax = 32

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
	letters := utf8.RuneCount(decoded)
	for i := range t {
		if n := t[i].Name; len(n) == letters && foldEqual(decoded, n) {
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

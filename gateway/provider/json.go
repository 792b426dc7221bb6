package provider

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	// requestDepthMax is deeper than any honest request and shallow enough
	// that reading by recursion needs a few kilobytes of stack.
	requestDepthMax = 64
	// answerDepthMax is larger, because a model may nest the input of a tool
	// as its schema lets it, and an answer that was served must be read.
	answerDepthMax = 512
	// numberBytesMax is the longest way in which writers of JSON write a number
	// that came with an exponent: a sign, 21 digits and a fraction.
	numberBytesMax = 25
)

// cursor reads one JSON text (RFC 8259) from front to back and copies nothing.
// Strings must be valid UTF-8. After a fault it stands at the end of the text
// and reads nothing more, so callers check for it once.
type cursor struct {
	b        []byte
	at       int
	depth    int
	depthMax int
	space    int    // bytes of space passed between tokens
	bounding bool   // growth is wanted
	growth   int    // bytes by which what was read may get longer before it is counted
	decoded  []byte // space for one string
	fault    string // what is wrong, "" while nothing is
	faultAt  int
}

func (c *cursor) fail(fault string) bool {
	if c.fault == "" {
		c.fault, c.faultAt = fault, c.at
		c.at = len(c.b)
	}
	return false
}

// next passes space and returns the byte the next token begins with, 0 at the
// end of the text.
func (c *cursor) next() byte {
	if c.at < len(c.b) && c.b[c.at] > ' ' {
		return c.b[c.at]
	}
	return c.pass()
}

func (c *cursor) pass() byte {
	for start := c.at; ; c.at++ {
		if c.at < len(c.b) {
			switch c.b[c.at] {
			case ' ', '\n', '\r', '\t':
				continue
			}
		}
		c.space += c.at - start
		if c.at < len(c.b) {
			return c.b[c.at]
		}
		return 0
	}
}

// open enters the object or array that next saw, and tells whether anything is
// in it. The loop is: for ok := c.open(); ok; ok = c.more('}') { … }.
func (c *cursor) open() bool {
	end := c.b[c.at] + 2 // in ASCII, of both kinds of brackets
	c.at++
	if c.depth++; c.depth > c.depthMax {
		return c.fail("nested too deeply")
	}
	if c.next() == end {
		c.at++
		c.depth--
		return false
	}
	return true
}

// more goes on to the next element, or leaves at end.
func (c *cursor) more(end byte) bool {
	switch c.next() {
	case ',':
		c.at++
		return true
	case end:
		c.at++
		c.depth--
		return false
	}
	return c.fail("a comma or a closing bracket is missing")
}

// key reads a member's name, as it stands between its quotes, and its colon.
// A plain name is ASCII without escapes.
func (c *cursor) key() (name []byte, plain bool) {
	name, plain = c.str()
	if c.next() != ':' {
		c.fail("a colon is missing")
		return nil, true
	}
	c.at++
	return name, plain
}

// str reads a string and returns what stands between its quotes.
func (c *cursor) str() (raw []byte, plain bool) {
	if c.next() != '"' {
		c.fail("a string is missing")
		return nil, true
	}
	b, start := c.b, c.at+1
	plain = true
	beyond := false // there may be characters beyond ASCII
	for i := start; ; {
		for i+8 <= len(b) {
			if m := special(binary.LittleEndian.Uint64(b[i:])); m != 0 {
				i += bits.TrailingZeros64(m) / 8
				break
			}
			i += 8
		}
		if i == len(b) {
			c.fail("a string does not end")
			return nil, true
		}
		switch ch := b[i]; {
		case ch == '"':
			c.at = i + 1
			if beyond && c.bounding {
				c.grow(b[start:i])
			}
			return b[start:i], plain
		case ch == '\\':
			n := escapeLen(b[i:])
			if n == 0 {
				c.at = i
				c.fail("not an escape sequence")
				return nil, true
			}
			beyond = beyond || b[i+1] == 'u'
			i += n
			plain = false
		case ch < ' ':
			c.at = i
			c.fail("a control character in a string")
			return nil, true
		case ch < utf8.RuneSelf:
			i++
		default:
			n := runesLen(b[i:])
			if n == 0 {
				c.at = i
				c.fail("not UTF-8")
				return nil, true
			}
			i += n
			plain, beyond = false, true
		}
	}
}

// grow adds the bytes by which a string may get longer before its tokens are
// counted. Some models read text in the form NFKC, in which a character may
// have eleven times its bytes; all others read it as it is. From where the text
// is not plainly in that form its characters count decomposed: composing them
// again makes no more bytes, and would take a hundred times as long.
func (c *cursor) grow(raw []byte) {
	text := raw
	if bytes.IndexByte(raw, '\\') >= 0 {
		c.decoded = unescape(slices.Grow(c.decoded[:0], len(raw)), raw)
		text = c.decoded
	}
	n := norm.NFKC.QuickSpan(text)
	grown := n
	for n < len(text) {
		size, grows := 1, 1
		if text[n] >= utf8.RuneSelf {
			p := norm.NFKC.Properties(text[n:])
			size, grows = p.Size(), max(p.Size(), len(p.Decomposition()))
		}
		n, grown = n+size, grown+grows
	}
	c.growth += max(0, grown-len(raw))
}

// special marks the bytes of w that need a look: quotes, backslashes, control
// characters, and all beyond ASCII. Its lowest mark is exact; a borrow can make
// false ones only above it.
func special(w uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, back := w^(ones*'"'), w^(ones*'\\')
	return (w | (w-ones*' ')&^w | (quote-ones)&^quote | (back-ones)&^back) & highs
}

// escapeLen is the length of the escape sequence at the start of b, 0 if it is
// none.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if _, ok := hex4(b[2:]); ok {
			return 6
		}
	}
	return 0
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, ch := range b[:4] {
		switch {
		case '0' <= ch && ch <= '9':
			ch -= '0'
		case 'a' <= ch|0x20 && ch|0x20 <= 'f':
			ch = ch | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(ch)
	}
	return r, true
}

// runesLen is the length of the characters beyond ASCII at the start of b, 0 if
// one of them is not UTF-8.
func runesLen(b []byte) int {
	n := 0
	for n < len(b) && b[n] >= utf8.RuneSelf {
		r, size := utf8.DecodeRune(b[n:])
		if r == utf8.RuneError && size == 1 {
			return 0
		}
		n += size
	}
	return n
}

// number reads a number as it is written.
func (c *cursor) number() []byte {
	first := c.next()
	start := c.at
	if first == '-' {
		c.at++
	}
	if c.at < len(c.b) && c.b[c.at] == '0' {
		c.at++
	} else if !c.digits() {
		return nil
	}
	if c.at < len(c.b) && c.b[c.at] == '.' {
		c.at++
		if !c.digits() {
			return nil
		}
	}
	if c.at < len(c.b) && c.b[c.at]|0x20 == 'e' {
		c.at++
		if c.at < len(c.b) && (c.b[c.at] == '+' || c.b[c.at] == '-') {
			c.at++
		}
		if !c.digits() {
			return nil
		}
		if c.bounding {
			c.growth += max(0, numberBytesMax-(c.at-start))
		}
	}
	return c.b[start:c.at]
}

// digits passes at least one digit.
func (c *cursor) digits() bool {
	start := c.at
	for c.at < len(c.b) && c.b[c.at]-'0' <= 9 {
		c.at++
	}
	if c.at == start {
		return c.fail("not a number")
	}
	return true
}

// word passes the literal w and tells whether it was there. What follows it is
// judged with the next token.
func (c *cursor) word(w string) bool {
	c.next()
	if !bytes.HasPrefix(c.b[c.at:], []byte(w)) {
		return false
	}
	c.at += len(w)
	return true
}

// skip passes one value of any kind.
func (c *cursor) skip() {
	switch ch := c.next(); ch {
	case '"':
		c.str()
	case '{':
		for ok := c.open(); ok; ok = c.more('}') {
			c.key()
			c.skip()
		}
	case '[':
		for ok := c.open(); ok; ok = c.more(']') {
			c.skip()
		}
	case 't', 'f', 'n':
		if !c.word("true") && !c.word("false") && !c.word("null") {
			c.fail("not a value")
		}
	default:
		if ch != '-' && ch-'0' > 9 {
			c.fail("a value is missing")
			return
		}
		c.number()
	}
}

// end tells whether the text was whole and nothing follows its value.
func (c *cursor) end() bool {
	if c.next() != 0 || c.at < len(c.b) {
		c.fail("bytes follow the value")
	}
	return c.fault == ""
}

// equal tells whether a string as str returned it is s.
func equal(raw []byte, plain bool, s string) bool {
	if plain {
		return string(raw) == s
	}
	var space [64]byte
	return len(raw) <= 6*len(s) && string(unescape(space[:0], raw)) == s
}

// unescape appends the characters of a string that str has read. A surrogate
// without its other half becomes U+FFFD.
func unescape(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 >= len(raw) {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:i]...)
		raw = raw[i:]
		n := 2
		switch raw[1] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, _ := hex4(raw[2:])
			n = min(6, len(raw))
			if utf16.IsSurrogate(r) {
				low, _ := hex4(raw[min(8, len(raw)):])
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError && raw[6] == '\\' && raw[7] == 'u' {
					n = 12
				} else {
					r = utf8.RuneError
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, raw[1])
		}
		raw = raw[n:]
	}
}

// foldEqual tells whether name is s in any case, as parsers that ignore case
// understand it (among them some that fold the long s and the Kelvin sign).
func foldEqual(name []byte, s string) bool {
	return bytes.EqualFold(name, []byte(s))
}

// quantityMax is the largest count an event can carry.
const quantityMax = 1 << 40

// quantity reads a number that may be written as a fraction or with an exponent
// and is a whole count all the same: 12, 12.0, 1.2e1. No float is involved.
func quantity(raw []byte) (n uint64, ok bool) {
	exponent, i := 0, 0
	negative, fraction := false, false
	for ; i < len(raw) && raw[i]|0x20 != 'e'; i++ {
		switch {
		case raw[i] == '.':
			fraction = true
			continue
		case raw[i] == '-':
			negative = true
			continue
		case n > quantityMax: // a digit more than can be held: what is lost must be noughts
			if raw[i] != '0' {
				return 0, false
			}
			exponent++
		default:
			n = n*10 + uint64(raw[i]-'0')
		}
		if fraction {
			exponent--
		}
	}
	if n == 0 {
		return 0, true
	}
	exponent += exponentOf(raw[i:])
	for ; exponent > 0 && n <= quantityMax; exponent-- {
		n *= 10
	}
	for ; exponent < 0 && n%10 == 0; exponent++ {
		n /= 10
	}
	return n, exponent == 0 && n <= quantityMax && !negative
}

// exponentOf reads "", "e3", "E-2"; beyond ±1,000 it stands still, which is
// beyond any count.
func exponentOf(raw []byte) int {
	e, sign := 0, 1
	for _, ch := range raw {
		switch {
		case ch == '-':
			sign = -1
		case ch-'0' <= 9 && e < 1000:
			e = e*10 + int(ch-'0')
		}
	}
	return sign * e
}

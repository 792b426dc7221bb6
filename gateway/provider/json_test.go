package provider

import (
	"bytes"
	"encoding/json"
	"io"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"
)

// nesting is how deep a valid JSON text nests, by the standard library.
func nesting(t *testing.T, text []byte) (deepest int) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	depth := 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return deepest
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			depth++
			deepest = max(deepest, depth)
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

// FuzzCursor: a text is read to its end exactly if the standard library calls
// it valid, it is UTF-8, and it nests no deeper than allowed.
func FuzzCursor(f *testing.F) {
	for _, s := range []string{
		``, ` `, `{}`, `[]`, `[[]]`, `{"a":1}`, `{"a":1,}`, `[1,]`, `{,}`, `{"a"}`, `{"a":}`, `{"a":1}x`, `{"a":1} `, "\ufeff{}",
		`0`, `-0`, `01`, `1.`, `.5`, `1.5e+3`, `1e`, `-`, `+1`, `1E-7`, `tru`, `true`, `truex`, `null`, `nulL`, `NaN`,
		`"`, `"\"`, `"\u12g4"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\x41"`, "\"\x01\"", "\"\x7f\"", "\"\xff\"", `"é"`, "\"\xc3\"", `"0123456é89abcdef"`, `"01234567\n"`,
		"\"01234567\x1f\"", strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 65) + strings.Repeat("]", 65), `{"a":{"b":[1,{"c":"d"}]}}`,
		"[1\x00]", "[1]\x00", "{\"a\"\t:\r\n1}", "\v1",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c := cursor{b: text, depthMax: requestDepthMax}
		c.skip()
		got := c.end()
		want := json.Valid(text) && utf8.Valid(text) && nesting(t, text) <= requestDepthMax
		if got != want {
			t.Fatalf("read %q: %v (%s at %d), want %v", text, got, c.fault, c.faultAt, want)
		}
		if !got {
			return
		}
		var small bytes.Buffer
		if err := json.Compact(&small, text); err != nil || len(text)-c.space != small.Len() {
			t.Fatalf("%q: %d bytes of it are space, want %d", text, c.space, len(text)-small.Len())
		}
	})
}

// FuzzUnescape: a string is decoded as the standard library decodes it.
func FuzzUnescape(f *testing.F) {
	for _, s := range []string{`plain`, `a\nb\tc\r\b\f\/\\\"`, `\u00e9`, `\ud83d\ude00!`, `\ud83d`, `\ud83dx`, `\ud83d\n`, `\ude00\ud83d`, `\ud83d\ud83d\ude00`, `ſ`, `\u0000`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		quoted := append(append([]byte{'"'}, raw...), '"')
		c := cursor{b: quoted, depthMax: 1}
		if inside, _ := c.str(); c.end() {
			var want string
			if err := json.Unmarshal(quoted, &want); err != nil {
				t.Fatal(err)
			}
			if got := unescape(nil, inside); string(got) != want {
				t.Fatalf("%q decodes to %q, want %q", raw, got, want)
			}
			if len(want) > len(raw) {
				t.Fatalf("%q grew to %d bytes: no bound for tokens", raw, len(want))
			}
		}
	})
}

// FuzzQuantity: a number is a count exactly if it is whole, not negative and at
// most 2^40, by exact arithmetic.
func FuzzQuantity(f *testing.F) {
	for _, s := range []string{"0", "-0", "-0.0", "12", "12.0", "1e2", "1.2e1", "1.25e1", "-1", "0.5", "1099511627776", "1099511627777", "1099511627776.000",
		"10995116277760e-1", "10995116277770e-1", "1e-1", "100e-2", "0e999999999", "1e400", "1e-400", "0.00000000000000000000000000012e29", "1200000000000000000000000000000e-28",
		"123456789012345678901234567890", "1E+3", "5.0000000000000000000000000000000000001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := cursor{b: []byte(s), depthMax: 1}
		if ch := c.next(); ch != '-' && ch-'0' > 9 || len(s) > 300 {
			return
		}
		raw := c.number()
		if !c.end() {
			return
		}
		if _, e, ok := strings.Cut(strings.ToLower(string(raw)), "e"); ok && len(strings.TrimLeft(e, "+-0")) > 3 {
			if n, ok := quantity(raw); ok && n != 0 {
				t.Fatalf("%s is taken for %d", raw, n)
			}
			return // exact arithmetic would need gigabytes
		}
		want, ok := new(big.Rat).SetString(string(raw))
		if !ok {
			t.Fatalf("cannot compute %q", raw)
		}
		wantOK := want.IsInt() && want.Sign() >= 0 && want.Num().Cmp(big.NewInt(quantityMax)) <= 0
		n, ok := quantity(raw)
		if ok != wantOK || ok && want.Num().Uint64() != n {
			t.Fatalf("%s is taken for %d, %v, want %s, %v", raw, n, ok, want, wantOK)
		}
	})
}

package boundtest

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textBytesMax is the length of the longest texts. What a bound does wrong
// shows in texts of a few tokens or in their rate, so longer ones add nothing.
const textBytesMax = 600

// kinds are the kinds of text, by name. Each makes up to about n bytes.
var kinds = map[string]func(r *rand.Rand, n int) string{
	"prose":       joined(" ", "the", "of", "and", "to", "in", "is", "you", "that", "it", "was", "for", "on", "are", "with", "as", "river", "measures", "gateway", "unbelievable,", "Customers", "don't", "ledger.", "However,", "nevertheless", "7", "o'clock", "e-mail;", "\n\n"),
	"code":        joined("", "func ", "if err != nil {\n\t\t", "return ", "x[i]", " := ", "}\n", "for ", "(ctx)", "\t", "\"\\n\"", "==", "//", " TODO", "async ", "=> {", "</div>", "0x7f", "::", "std", "->", "_", "camelCase", "SELECT * ", "\r\n", "&&", "@"),
	"emoji":       joined("", "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽", "❤️", "1️⃣", "🧑🏿‍🚀", "✨", "🫠", "☠", "🏴\U000E0067\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F"),
	"chinese":     runes(0x4e00, 0x9fff, 0x3001, 0x3002, 0x3400, 0x4dbf, 0x20000, 0x2a6df),
	"japanese":    runes(0x3041, 0x3096, 0x30a1, 0x30fa, 0x4e00, 0x9fff),
	"korean":      joined(" ", "안녕하세요", "한국어", "게이트웨이", "뷁", "쀏", "각하", "\u1112\u1161\u11ab", "값"),
	"arabic":      joined(" ", "السلام", "عليكم", "مُحَمَّدٌ", "اللغة", "العربية", "ولا", "٣٤٥", "؟", "إِنَّ"),
	"hebrew":      joined(" ", "שלום", "עולם", "בְּרֵאשִׁית", "הַמַּיִם", "של", "״", "ירושלים"),
	"thai":        joined("", "สวัสดี", "ครับ", "กรุงเทพ", "ที่", "น้ำ", "ก็", "๑๒๓", "ฯ"),
	"devanagari":  joined(" ", "नमस्ते", "दुनिया", "क्षत्रिय", "हिन्दी", "ज़िन्दगी", "कृपया", "।", "१२३"),
	"base64":      func(r *rand.Rand, n int) string { return base64.StdEncoding.EncodeToString(noise(r, n*3/4)) },
	"hex":         func(r *rand.Rand, n int) string { return hex.EncodeToString(noise(r, n/2)) },
	"digits":      runes('0', '9'),
	"spaces":      joined("", " ", "  ", "\n", "\t", "\r\n", "        ", "\n\n\n", "\u00a0", "\u3000", "\u2003", "\u200b", "x"),
	"controls":    joined("", "\x00", "\x01", "\x08", "\x0c", "\x1b[0m", "\x1f", "\x7f", "\u0080", "\u2028", "\ufeff", "\ufffd", "\U0010ffff", "a"),
	"marks":       joined("", "e\u0301", "a\u0323\u0302", "Z͑̓", "ͫ", "o\u0308\u0304", "\u0344", "À\u0323", "q\u0307\u0323", "\u0345"),
	"symbols":     runes(0x2190, 0x23ff, 0x2500, 0x25ff, 0x2800, 0x28ff, 0x1d400, 0x1d7ff),
	"any rune":    runes(0x20, 0x10ffff),
	"specials":    joined("", "<|endoftext|>", "<|im_start|>", "<|im_sep|>", "\n\nHuman:", "\n\nAssistant:", "<EOT>", "<META>", "<SOS>", "<|fim_prefix|>", "[INST]"),
	"punctuation": runes('!', '/', ':', '@', '[', '`', '{', '~'),
	// Characters that the form NFKC writes with more bytes than they had.
	"expanding": joined("", "ﷺ", "㍿", "½", "ﬃ", "ﷻ", "㌕", "⑳", "㎯", "…", "⁗", "ŉ", "\u0958", "\U0001d160", "Ａ", "ﾊﾞ", "㋿", "℆"),
}

// pick takes one of a list.
func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// joined makes texts of words and what is between them.
func joined(between string, words ...string) func(*rand.Rand, int) string {
	return func(r *rand.Rand, n int) string {
		var b strings.Builder
		for b.Len() < n {
			b.WriteString(pick(r, words...) + between)
			for r.IntN(8) == 0 && b.Len() < n { // runs of the same
				b.WriteString(pick(r, words...))
			}
		}
		return b.String()
	}
}

// runes makes texts of characters between pairs of bounds.
func runes(bounds ...rune) func(*rand.Rand, int) string {
	return func(r *rand.Rand, n int) string {
		var b strings.Builder
		for b.Len() < n {
			i := 2 * r.IntN(len(bounds)/2)
			c := bounds[i] + r.Int32N(bounds[i+1]-bounds[i]+1)
			if utf8.ValidRune(c) && (unicode.IsPrint(c) || r.IntN(4) == 0) {
				b.WriteRune(c)
			}
		}
		return b.String()
	}
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// size is a length in bytes: short ones are as frequent as long ones.
func size(r *rand.Rand, most int) int { return r.IntN(1 + most>>r.IntN(8)) }

// spelling is a way to write a string in JSON.
type spelling uint8

const (
	raw     spelling = iota // escaped only where it must be
	ascii                   // \u for everything beyond ASCII
	escaped                 // \u for everything
)

// quote writes a string in JSON.
func (s spelling) quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range text {
		switch {
		case c > 0xffff && s != raw:
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(c-0x10000)>>10, 0xdc00+(c-0x10000)&0x3ff)
		case s == escaped, s == ascii && c >= 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		case c == '"' || c == '\\':
			b.WriteString(`\` + string(c))
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ':
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

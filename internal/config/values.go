package config

import (
	"fmt"
	"io"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const redacted = "***"

// Secret is a text that prints as *** however it is printed: by fmt with any
// verb, in JSON, in YAML and in logs. Reveal is the only way to it.
type Secret struct{ text string }

// NewSecret wraps a text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal is the text itself.
func (s Secret) Reveal() string { return s.text }

// IsZero tells whether no secret is set.
func (s Secret) IsZero() bool { return s.text == "" }

// String is "***", or "" if no secret is set.
func (s Secret) String() string {
	if s.text == "" {
		return ""
	}
	return redacted
}

// Format writes String whatever the verb: %#v and %x would show the text.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText writes String; JSON, YAML and slog use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes any text.
func (s *Secret) UnmarshalText(b []byte) error { s.text = string(b); return nil }

// URL is the address of a server that may hold a password: it prints with the
// password, and any secret-looking query parameter, as ***.
type URL struct{ text string }

// NewURL wraps a text, which need not be a valid URL.
func NewURL(text string) URL { return URL{text} }

// Reveal is the whole URL.
func (u URL) Reveal() string { return u.text }

// String is the URL without its secrets.
func (u URL) String() string {
	if !strings.Contains(u.text, "://") {
		if u.text == "" || u.text == NoClickHouse {
			return u.text
		}
		return redacted // not a URL: no telling where the secret is
	}
	parsed, err := url.Parse(u.text)
	if err != nil {
		return redacted
	}
	_, secret := parsed.User.Password()
	if secret {
		parsed.User = url.User(parsed.User.Username())
	}
	pairs := strings.Split(parsed.RawQuery, "&")
	for i, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if lower := strings.ToLower(name); value != "" &&
			(strings.Contains(lower, "pass") || strings.Contains(lower, "secret") || strings.Contains(lower, "token")) {
			pairs[i] = name + "=" + redacted
		}
	}
	parsed.RawQuery = strings.Join(pairs, "&")
	text := parsed.String()
	if secret { // an @ of the user's name is escaped, so the first one ends the user
		text = strings.Replace(text, "@", ":"+redacted+"@", 1)
	}
	return text
}

// Format writes String whatever the verb.
func (u URL) Format(f fmt.State, _ rune) { io.WriteString(f, u.String()) }

// MarshalText writes String; JSON, YAML and slog use it.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText takes any text; Load checks it.
func (u *URL) UnmarshalText(b []byte) error { u.text = string(b); return nil }

// Bytes is a size: "4GiB", "512MiB", "1000000", "2GB".
type Bytes int64

// byteUnits holds both families, larger first so that String finds the largest.
var byteUnits = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1}, {"", 1},
}

// String is the size in the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if strings.HasSuffix(u.name, "iB") && b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText writes String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads a whole number and a unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	digits := strings.TrimRight(string(text), "TGMKkiB ")
	unit := strings.TrimSpace(string(text[len(digits):]))
	n, err := strconv.ParseInt(digits, 10, 64)
	for _, u := range byteUnits {
		if u.name == unit && err == nil && n >= 0 && n <= math.MaxInt64/u.size {
			*b = Bytes(n * u.size)
			return nil
		}
	}
	return fmt.Errorf("%q is not a size (want a whole number and a unit, such as 4GiB)", text)
}

// Days is a whole number of days: "400d".
type Days int

// String is the number with its unit.
func (d Days) String() string { return strconv.Itoa(int(d)) + "d" }

// Duration is that many times 24 hours.
func (d Days) Duration() time.Duration { return time.Duration(d) * 24 * time.Hour }

// MarshalText writes String.
func (d Days) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what String writes.
func (d *Days) UnmarshalText(text []byte) error {
	digits, found := strings.CutSuffix(string(text), "d")
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || !found {
		return fmt.Errorf("%q is not a number of days (want one such as 400d)", text)
	}
	*d = Days(n)
	return nil
}

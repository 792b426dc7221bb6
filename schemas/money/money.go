// Package money holds the exact integer units in which weir counts dollars.
//
// Balances and amounts are int64 nano-dollars (1 USD = 1e9 nano), prices of a
// unit of usage are int64 pico-dollars (one pico-dollar per token is one
// micro-dollar per million tokens), multipliers are ten-thousandths. Nothing
// here, and nothing that counts money elsewhere, uses floating point.
package money

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// Nano is an amount in nano-dollars: 1 USD = 1,000,000,000. An int64 of them
// reaches 9.22 billion dollars.
type Nano int64

// Pico is the price of one unit of a meter in pico-dollars: $1 per million
// tokens is 1,000,000 pico-dollars per token.
type Pico int64

// Multiplier is a factor in ten-thousandths: 30,000 is "3 ×".
type Multiplier int64

const (
	// Dollar is one US dollar in nano-dollars.
	Dollar Nano = 1_000_000_000
	// One is the multiplier that changes nothing.
	One Multiplier = 10_000

	nanoPlaces       = 9
	picoPlaces       = 12
	perMillion       = 6 // decimal places that "per million units" takes away
	multiplierPlaces = 4
)

// ErrSyntax is wrapped by every parse failure of this package.
var ErrSyntax = errors.New("not a decimal amount")

// ParseNano reads dollars such as "10", "10.00", "-0.015": at most nine
// decimal places, no exponent, no plus sign, no spaces.
func ParseNano(s string) (Nano, error) {
	v, err := parseFixed(s, nanoPlaces)
	return Nano(v), err
}

// ParsePerUnit reads a price in dollars per unit (a search, an image) with at
// most twelve decimal places.
func ParsePerUnit(s string) (Pico, error) {
	v, err := parseFixed(s, picoPlaces)
	return Pico(v), err
}

// ParsePerMillion reads a price in dollars per million units (tokens) with at
// most six decimal places.
func ParsePerMillion(s string) (Pico, error) {
	v, err := parseFixed(s, picoPlaces-perMillion)
	return Pico(v), err
}

// ParseMultiplier reads a factor such as "3" or "1.25" with at most four
// decimal places.
func ParseMultiplier(s string) (Multiplier, error) {
	v, err := parseFixed(s, multiplierPlaces)
	return Multiplier(v), err
}

// String writes dollars with two to nine decimal places: "10.00", "0.015".
func (n Nano) String() string { return string(n.Append(nil)) }

// Append appends the text of String to b without allocating.
func (n Nano) Append(b []byte) []byte { return appendFixed(b, int64(n), nanoPlaces, 2) }

// MarshalText makes a Nano a decimal string in JSON.
func (n Nano) MarshalText() ([]byte, error) { return n.Append(nil), nil }

// UnmarshalText reads what MarshalText wrote.
func (n *Nano) UnmarshalText(b []byte) error {
	v, err := ParseNano(string(b))
	if err != nil {
		return err
	}
	*n = v
	return nil
}

// PerMillion writes the price in dollars per million units, two to six places.
func (p Pico) PerMillion() string {
	return string(appendFixed(nil, int64(p), picoPlaces-perMillion, 2))
}

// PerUnit writes the price in dollars per unit, two to twelve places.
func (p Pico) PerUnit() string { return string(appendFixed(nil, int64(p), picoPlaces, 2)) }

// String writes the factor with as many places as it needs: "3", "1.25".
func (m Multiplier) String() string {
	return string(appendFixed(nil, int64(m), multiplierPlaces, 0))
}

// Add returns n + m and false when the sum leaves int64.
func (n Nano) Add(m Nano) (Nano, bool) {
	s := n + m
	return s, (s > n) == (m > 0)
}

// parseFixed reads [-]digits[.digits] as an integer scaled by 10^places.
func parseFixed(s string, places int) (int64, error) {
	digits := strings.TrimPrefix(s, "-")
	whole, frac, dotted := strings.Cut(digits, ".")
	switch {
	case whole == "" || (dotted && frac == ""):
		return 0, fmt.Errorf("%q: %w (want digits such as 10 or 10.50)", s, ErrSyntax)
	case len(frac) > places:
		return 0, fmt.Errorf("%q: %w (at most %d decimal places)", s, ErrSyntax, places)
	}
	var v uint64
	for _, part := range [2]string{whole, frac + strings.Repeat("0", places-len(frac))} {
		for i := range len(part) {
			d := part[i] - '0'
			if d > 9 {
				return 0, fmt.Errorf("%q: %w (want digits such as 10 or 10.50)", s, ErrSyntax)
			}
			if v > (math.MaxInt64-uint64(d))/10 {
				return 0, fmt.Errorf("%q: %w (too large)", s, ErrSyntax)
			}
			v = v*10 + uint64(d)
		}
	}
	if digits != s {
		return -int64(v), nil
	}
	return int64(v), nil
}

// appendFixed is the inverse of parseFixed; it keeps at least minPlaces places.
func appendFixed(b []byte, v int64, places, minPlaces int) []byte {
	u := uint64(v)
	if v < 0 {
		b = append(b, '-')
		u = -u
	}
	var tmp [24]byte
	i := len(tmp)
	for n := 0; n < places || u > 0 || n == places; n++ {
		if n == places && places > 0 {
			i--
			tmp[i] = '.'
		}
		i--
		tmp[i] = byte('0' + u%10)
		u /= 10
	}
	text := tmp[i:]
	cut := len(text)
	for keep := places; keep > minPlaces && text[cut-1] == '0'; keep-- {
		cut--
	}
	if text[cut-1] == '.' {
		cut--
	}
	return append(b, text[:cut]...)
}

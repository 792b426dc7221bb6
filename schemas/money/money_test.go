package money

import (
	"math"
	"math/big"
	"testing"
)

func TestParseNano(t *testing.T) {
	ok := func(in string, want Nano, out string) {
		t.Helper()
		got, err := ParseNano(in)
		if err != nil || got != want {
			t.Errorf("ParseNano(%q) = %d, %v; want %d", in, got, err, want)
		}
		if got.String() != out {
			t.Errorf("ParseNano(%q).String() = %q, want %q", in, got, out)
		}
	}
	ok("10", 10*Dollar, "10.00")
	ok("0.045", 45_000_000, "0.045")
	ok("-0.000000001", -1, "-0.000000001")
	ok("0", 0, "0.00")
	ok("10.50", 10_500_000_000, "10.50")
	ok("9223372036.854775807", math.MaxInt64, "9223372036.854775807")
	ok("00012.3", 12_300_000_000, "12.30")
	for _, bad := range []string{"", "-", ".", "1.", ".5", "+1", "1e3", " 1", "1 ", "1,000", "0x10", "1.0000000001", "--1",
		"9223372036.854775808", "99999999999999999999", "NaN", "１"} {
		if v, err := ParseNano(bad); err == nil {
			t.Errorf("ParseNano(%q) = %d, want an error", bad, v)
		}
	}
}

func TestPrices(t *testing.T) {
	if p, err := ParsePerMillion("2.50"); err != nil || p != 2_500_000 || p.PerMillion() != "2.50" {
		t.Errorf("per million: %d %v", p, err)
	}
	if p, err := ParsePerMillion("0.075"); err != nil || p != 75_000 {
		t.Errorf("per million: %d %v", p, err)
	}
	if p, err := ParsePerUnit("0.01"); err != nil || p != 10_000_000_000 || p.PerUnit() != "0.01" {
		t.Errorf("per unit: %d %v", p, err)
	}
	if m, err := ParseMultiplier("1.25"); err != nil || m != 12_500 || m.String() != "1.25" {
		t.Errorf("multiplier: %d %v", m, err)
	}
	if s := (3 * One).String(); s != "3" {
		t.Errorf("multiplier 3 = %q", s)
	}
	if s := (10 * One).String(); s != "10" {
		t.Errorf("multiplier 10 = %q", s)
	}
}

func TestAdd(t *testing.T) {
	if _, ok := Nano(math.MaxInt64).Add(1); ok {
		t.Error("overflow was not told")
	}
	if _, ok := Nano(math.MinInt64).Add(-1); ok {
		t.Error("underflow was not told")
	}
	if v, ok := Nano(5).Add(0); !ok || v != 5 {
		t.Error("5 + 0")
	}
	if v, ok := Nano(5).Add(-7); !ok || v != -2 {
		t.Error("5 - 7")
	}
}

// FuzzNano holds text and value to what exact rational arithmetic says.
func FuzzNano(f *testing.F) {
	for _, v := range []int64{0, 1, -1, 999_999_999, 1_000_000_000, math.MaxInt64, math.MinInt64} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v int64) {
		text := Nano(v).String()
		r, ok := new(big.Rat).SetString(text)
		if !ok || r.Mul(r, big.NewRat(1_000_000_000, 1)).Cmp(new(big.Rat).SetInt64(v)) != 0 {
			t.Fatalf("%d is written %q", v, text)
		}
		if v == math.MinInt64 {
			return // its absolute value has no int64; never an amount
		}
		if back, err := ParseNano(text); err != nil || int64(back) != v {
			t.Fatalf("%q reads back %d, %v", text, back, err)
		}
	})
}

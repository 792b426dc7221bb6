package ratecard

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"weir/schemas/money"
	"weir/schemas/usage"
)

type counts map[usage.Meter]uint64

func (c counts) quantities() (q usage.Quantities) {
	for m, n := range c {
		q[m] = n
	}
	return q
}

func TestRate(t *testing.T) {
	c := mustCompile(t, `
models:
  x/a: {cost: {input: "2.50", output: "10"}}
  x/a-2026-01-31: {cost: {input: "5", cached_input: "0", cache_write_5m: "6", output: "20", reasoning: "30"}}
  x/tiny: {cost: {input: "0.0005", output: "0.000499", audio_input: "0.001", images: "0.04", requests: "0.000000000001"}}
  x/dear: {cost: {seconds: "1000000", images: "1000000"}}
  y/a-2026-02-28: {cost: {input: "1"}}
rules:
  - {customer: three, multiplier: "3"}
  - {customer: half, multiplier: "0.5", unlimited: true}
  - {customer: free, multiplier: "0", unlimited: true}
  - {customer: fee, multiplier: "1.25", fee: "0.001"}
  - {customer: own, model: "x/a*", price: {input: "7", output: "40"}, fee: "1", unlimited: true}`)
	f := func(model, answered, rule string, meters counts, wantBilled, wantCost, wantPrice string) {
		t.Helper()
		got, err := Rate(c, Rating{Provider: "x", Model: model, Answered: answered, Rule: rule, Meters: meters.quantities()})
		if err != nil {
			t.Errorf("Rate(%s, %s, %v): %v", model, rule, meters, err)
		} else if got.ModelBilled != wantBilled || got.Cost.String() != wantCost || got.Price.String() != wantPrice {
			t.Errorf("Rate(%s, %s, %v) = %s %s %s, want %s %s %s", model, rule, meters,
				got.ModelBilled, got.Cost, got.Price, wantBilled, wantCost, wantPrice)
		}
	}
	// 2,000 × $2.50 + 1,000 × $10 per million = $0.015.
	both := counts{usage.Input: 2000, usage.Output: 1000}
	f("a", "", "default", both, "a", "0.015", "0.015")
	f("a", "", "customer=three", both, "a", "0.015", "0.045")
	f("a", "", "customer=free", both, "a", "0.015", "0.00")
	f("a", "", "customer=fee", both, "a", "0.015", "0.01975") // 0.015 × 1.25 + 0.001
	f("a", "", "customer=fee", counts{}, "a", "0.00", "0.001")

	// Fallbacks: cached input as input, reasoning as output, cache writes as twice the input.
	f("a", "", "default", counts{usage.CachedInput: 1000, usage.Reasoning: 1000}, "a", "0.0125", "0.0125")
	f("a", "", "default", counts{usage.CacheWrite5m: 1000, usage.CacheWrite1h: 1000}, "a", "0.01", "0.01")

	// The answered model prices if it is the asked one with a date, and on the card.
	f("a", "a-2026-01-31", "default", both, "a-2026-01-31", "0.03", "0.03")
	f("a", "a-2026-02-28", "default", both, "a", "0.015", "0.015") // on the card of another provider only
	f("a", "tiny", "default", both, "a", "0.015", "0.015")
	f("a-2026-01-31", "a", "default", both, "a-2026-01-31", "0.03", "0.03")
	// There a stated zero is a price, and stated cache writes and reasoning differ.
	f("a", "a-2026-01-31", "default", counts{usage.CachedInput: 1000, usage.CacheWrite5m: 1000, usage.CacheWrite1h: 1000, usage.Reasoning: 1000},
		"a-2026-01-31", "0.046", "0.046") // 0 + 0.006 + 2 × 0.005 + 0.030

	// Own prices replace the cost and fall back within their own table.
	f("a", "a-2026-01-31", "customer=own,model=x/a*", counts{usage.Input: 1000, usage.CachedInput: 1000, usage.CacheWrite1h: 1000, usage.Reasoning: 1000},
		"a-2026-01-31", "0.045", "1.068") // cost 5 + 0 + 10 + 30; price 7 + 7 + 14 + 40 thousandths, fee 1

	// One rounding for each amount, half away from zero, from the exact sum.
	f("tiny", "", "default", counts{usage.Input: 1}, "tiny", "0.000000001", "0.000000001") // 0.5 nano
	f("tiny", "", "default", counts{usage.Output: 1}, "tiny", "0.00", "0.00")              // 0.499
	f("tiny", "", "customer=three", counts{usage.Input: 1}, "tiny", "0.000000001", "0.000000002")
	f("tiny", "", "customer=half", counts{usage.AudioInput: 1}, "tiny", "0.000000001", "0.000000001")
	f("tiny", "", "default", counts{usage.Input: 1, usage.Output: 1}, "tiny", "0.000000001", "0.000000001") // 0.999
	f("tiny", "", "default", counts{usage.Images: 3, usage.Requests: 1}, "tiny", "0.12", "0.12")
	f("dear", "", "default", counts{usage.Seconds: 12, usage.Images: 12}, "dear", "24000000.00", "24000000.00") // past 2^64 pico
	f("tiny", "", "default", counts{usage.Output: QuantityMax}, "tiny", "548.65630226", "548.65630226")         // 2^40 × 499 pico
}

func TestRateErrors(t *testing.T) {
	c := mustCompile(t, `
models:
  x/a: {cost: {input: "2.50"}}
  x/dear: {cost: {seconds: "1000000", images: "9223.372036854775"}}
rules:
  - {multiplier: "1000", fee: "1000000"}`)
	f := func(model, rule string, meters counts, want error, names string) {
		t.Helper()
		for _, rate := range []func(*Card, Rating) (Rated, error){Rate, RateBound} {
			got, err := rate(c, Rating{Provider: "x", Model: model, Rule: rule, Meters: meters.quantities()})
			if !errors.Is(err, want) || !strings.Contains(err.Error(), names) {
				t.Errorf("%s %s %v = %+v, %v; want %v naming %s", model, rule, meters, got, err, want, names)
			}
		}
	}
	f("b", "default", counts{}, ErrUnpricedModel, "x/b")
	f("a", "customer=acme", counts{}, ErrUnknownRule, "customer=acme")
	f("a", "default", counts{usage.Output: 1}, ErrUnpricedMeter, "output")
	f("a", "default", counts{usage.Input: 1, usage.WebSearches: 1}, ErrUnpricedMeter, "web_searches")
	f("a", "default", counts{usage.Input: QuantityMax + 1}, ErrTooLarge, "input")
	f("a", "default", counts{usage.Input: 1 << 63}, ErrTooLarge, "input")
	f("a", "default", counts{usage.Input: 1 << 63, usage.CachedInput: 1 << 63}, ErrTooLarge, "input") // wraps to 0 if added
	f("dear", "default", counts{usage.Seconds: QuantityMax}, ErrTooLarge, "x/dear")
	f("dear", "default", counts{usage.Images: 1_000_000}, ErrTooLarge, "default") // the cost fits, a thousandfold does not
	f("dear", "default", counts{usage.Images: 1_000}, ErrTooLarge, "default")     // only the fee does not fit
}

// TestUint128 compares the arithmetic at its edges with math/big.
func TestUint128(t *testing.T) {
	toBig := func(u uint128) *big.Int {
		b := new(big.Int).SetUint64(u.hi)
		return b.Lsh(b, 64).Or(b, new(big.Int).SetUint64(u.lo))
	}
	edges := []uint64{0, 1, 499, 500, 501, 999, 1000, 9_999_999, 1<<63 - 1, 1 << 63, 1<<64 - 1}
	for _, hi := range edges {
		for _, lo := range edges {
			u := uint128{hi, lo}
			for _, divisor := range []uint64{picoPerNano, picoPerNano * uint64(money.One)} {
				want := roundHalfAway(new(big.Rat).SetFrac(toBig(u), new(big.Int).SetUint64(divisor)))
				got, ok := u.roundNano(divisor)
				if ok != want.IsInt64() || ok && want.Cmp(big.NewInt(int64(got))) != 0 {
					t.Errorf("%v / %d = %d, %v; want %s", u, divisor, got, ok, want)
				}
			}
			for _, m := range []money.Multiplier{0, 1, money.One, multiplierMax} {
				want := new(big.Int).Mul(toBig(u), big.NewInt(int64(m)))
				if want.BitLen() > 128 {
					want = toBig(uint128{1<<64 - 1, 1<<64 - 1})
				}
				if got := toBig(u.times(m)); got.Cmp(want) != 0 {
					t.Errorf("%v × %d = %s, want %s", u, m, got, want)
				}
			}
		}
	}
}

// TestBuiltin holds a handful of figures typed from the providers' price pages.
func TestBuiltin(t *testing.T) {
	c, err := Compose(Builtin(), mustParse(t, `rules: [{customer: marked, multiplier: "3"}]`))
	if err != nil {
		t.Fatal(err)
	}
	f := func(provider, model, answered string, meters counts, wantCost, wantMarked string) {
		t.Helper()
		for rule, want := range map[string]string{"default": wantCost, "customer=marked": wantMarked} {
			got, err := Rate(c, Rating{Provider: provider, Model: model, Answered: answered, Rule: rule, Meters: meters.quantities()})
			if err != nil || got.Cost.String() != wantCost || got.Price.String() != want {
				t.Errorf("%s %s %v = %s, %s, %v; want %s, %s", model, rule, meters, got.Cost, got.Price, err, wantCost, want)
			}
		}
	}
	both := counts{usage.Input: 2000, usage.Output: 1000}
	f("openai", "gpt-4o", "gpt-4o-2024-08-06", both, "0.015", "0.045")
	f("openai", "gpt-4o", "gpt-4o-2024-05-13", both, "0.025", "0.075")
	f("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", both, "0.0009", "0.0027")
	f("openai", "gpt-4.1-nano", "", counts{usage.CachedInput: 1_000_000}, "0.025", "0.075")
	f("openai", "o3", "", counts{usage.Reasoning: 1_000_000}, "8.00", "24.00")
	f("openai", "gpt-5", "gpt-5-2025-08-07", counts{usage.Input: 1_000_000, usage.CachedInput: 1_000_000, usage.Output: 1_000_000}, "11.375", "34.125")
	f("openai", "text-embedding-3-small", "", counts{usage.Input: 1_000_000}, "0.02", "0.06")
	f("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929", counts{usage.Input: 1_000_000, usage.CachedInput: 1_000_000,
		usage.CacheWrite5m: 1_000_000, usage.CacheWrite1h: 1_000_000, usage.Output: 1_000_000}, "28.05", "84.15")
	f("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20251001", both, "0.007", "0.021")
	f("anthropic", "claude-opus-4-1", "", both, "0.105", "0.315")

	for _, provider := range []string{"openai", "anthropic"} {
		for i, m := range c.Models(provider) {
			if i > 0 && c.Models(provider)[i-1].Name >= m.Name {
				t.Errorf("models of %s are not sorted at %s", provider, m.Name)
			}
			generates := m.States(usage.Output)
			if m.Context == 0 || generates != (m.MaxOutput > 0) || generates != (m.LimitField != "") {
				t.Errorf("%s has no context, or an output without its limits: %+v", m.FullName(), m)
			}
			if base := c.Model(provider, strings.TrimSuffix(m.Name, "-latest")); strings.HasSuffix(m.Name, "-latest") && base != nil {
				t.Errorf("%s beside %s", m.FullName(), base.FullName())
			}
		}
	}
	if m := c.Model("openai", "gpt-5"); m.LimitField != "max_completion_tokens" || m.Context != 400_000 {
		t.Errorf("gpt-5 is %+v", m)
	}
	if m := c.Model("openai", "gpt-4o-2024-05-13"); m.States(usage.CachedInput) || m.MaxOutput != 4096 {
		t.Errorf("gpt-4o-2024-05-13 is %+v", m)
	}
}

func mustParse(t testing.TB, src string) *File {
	t.Helper()
	f, err := Parse("card.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestInputTokensMax(t *testing.T) {
	f := func(perToken money.Multiplier, textBytes, want uint64) {
		t.Helper()
		m := Model{BytesPerTokenMin: perToken}
		if got := m.InputTokensMax(textBytes); got != want {
			t.Errorf("InputTokensMax(%d) at %s bytes = %d, want %d", textBytes, perToken, got, want)
		}
	}
	f(money.One, 0, 0)
	f(money.One, 7, 7)
	f(25_000, 5, 2)
	f(25_000, 6, 3)
	f(30_000, 1, 1)
	f(money.One, 1<<64-1, 1<<64-1)
}

// FuzzRate checks, on a random card and random usage, what must hold of every
// one: the amounts are those of rational arithmetic, more usage never costs
// less, and no split of tokens and no snapshot passes the bound.
func FuzzRate(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c := mustCompile(t, randomCard(rng))
		for range 8 {
			in := Rating{Provider: "x", Model: "m", Answered: pick(rng, "", "m", "m-2026-01-31", "m-0613", "other"),
				Rule: pick(rng, "default", "customer=c", "plan=p"), CacheWrites: rng.IntN(2) == 0}
			for i := range in.Meters {
				if _, ok := c.Model("x", "m").Cost(usage.Meter(i)); ok && rng.IntN(2) == 0 {
					in.Meters[i] = randomCount(rng, usage.Meter(i))
				}
			}
			if !in.CacheWrites {
				in.Meters[usage.CacheWrite5m], in.Meters[usage.CacheWrite1h] = 0, 0
			}
			got, err := Rate(c, in)
			if err != nil {
				t.Fatalf("Rate(%+v): %v", in, err)
			}
			checkExact(t, c, in, got)
			checkMonotone(t, c, in, got)
			checkBound(t, c, in, got)
		}
	})
}

// checkExact rates again in rational numbers, with the fallbacks written anew.
func checkExact(t *testing.T, c *Card, in Rating, got Rated) {
	t.Helper()
	m, r := c.Model("x", got.ModelBilled), c.Rule(in.Rule)
	cost := exactSum(&m.cost, &in.Meters)
	price := new(big.Rat).Mul(cost, big.NewRat(int64(r.Multiplier), 10_000))
	if r.Absolute() {
		price = exactSum(&r.price, &in.Meters)
	}
	wantPrice := new(big.Int).Add(roundHalfAway(price), big.NewInt(int64(r.Fee)))
	if want := roundHalfAway(cost); want.Cmp(big.NewInt(int64(got.Cost))) != 0 || wantPrice.Cmp(big.NewInt(int64(got.Price))) != 0 {
		t.Fatalf("Rate(%+v) = %+v, want cost %s price %s", in, got, want, wantPrice)
	}
}

// exactSum is Σ quantity × price in nano-dollars.
func exactSum(t *priceTable, q *usage.Quantities) *big.Rat {
	base := map[usage.Meter]struct {
		meter usage.Meter
		times int64
	}{usage.CachedInput: {usage.Input, 1}, usage.CacheWrite5m: {usage.Input, 2}, usage.CacheWrite1h: {usage.Input, 2}, usage.Reasoning: {usage.Output, 1}}
	sum := new(big.Int)
	for i, n := range q {
		m, times := usage.Meter(i), int64(1)
		if b, ok := base[m]; ok && !t.stated.has(m) {
			m, times = b.meter, b.times
		}
		part := new(big.Int).Mul(new(big.Int).SetUint64(n), big.NewInt(int64(t.pico[m])))
		sum.Add(sum, part.Mul(part, big.NewInt(times)))
	}
	return new(big.Rat).SetFrac(sum, big.NewInt(1000))
}

// roundHalfAway is floor(x + 1/2) of a non-negative x.
func roundHalfAway(x *big.Rat) *big.Int {
	x = new(big.Rat).Add(x, big.NewRat(1, 2))
	return new(big.Int).Div(x.Num(), x.Denom())
}

func checkMonotone(t *testing.T, c *Card, in Rating, got Rated) {
	t.Helper()
	for i := range in.Meters {
		more := in
		more.Meters[i]++
		r, err := Rate(c, more)
		if errors.Is(err, ErrUnpricedMeter) {
			continue
		}
		if err != nil || r.Cost < got.Cost || r.Price < got.Price {
			t.Fatalf("one more %s of %+v: %+v, %v; less was %+v", usage.Meter(i), in, r, err, got)
		}
	}
}

// checkBound gives RateBound only the totals of what Rate saw in classes.
func checkBound(t *testing.T, c *Card, in Rating, got Rated) {
	t.Helper()
	total, q := in, &in.Meters
	total.Answered = ""
	total.Meters[usage.Input] = q[usage.Input] + q[usage.CachedInput] + q[usage.CacheWrite5m] + q[usage.CacheWrite1h]
	total.Meters[usage.Output] = q[usage.Output] + q[usage.Reasoning]
	for _, m := range []usage.Meter{usage.CachedInput, usage.CacheWrite5m, usage.CacheWrite1h, usage.Reasoning} {
		total.Meters[m] = 0
	}
	bound, err := RateBound(c, total)
	if err != nil || bound.Cost < got.Cost || bound.Price < got.Price {
		t.Fatalf("RateBound(%+v) = %+v, %v; Rate of %+v is %+v", total, bound, err, in, got)
	}
}

// TestRateBoundTight: the bound is not merely high, it is reached.
func TestRateBoundTight(t *testing.T) {
	c := mustCompile(t, `
models:
  x/m: {cost: {input: "1", cached_input: "0.5", output: "10", reasoning: "12"}}
  x/m-2026-01-31: {cost: {input: "3", output: "9"}}
rules: [{customer: own, price: {input: "4", cache_write_1h: "9", output: "12"}}]`)
	f := func(rule string, cacheWrites bool, meters counts, want Rated) {
		t.Helper()
		got, err := RateBound(c, Rating{Provider: "x", Model: "m", Rule: rule, Meters: meters.quantities(), CacheWrites: cacheWrites})
		if err != nil || got != want {
			t.Errorf("RateBound(%s, %v, %v) = %+v, %v; want %+v", rule, cacheWrites, meters, got, err, want)
		}
	}
	f("default", false, counts{usage.Input: 1000}, Rated{"m-2026-01-31", 3_000_000, 3_000_000})
	f("default", true, counts{usage.Input: 1000}, Rated{"m-2026-01-31", 6_000_000, 6_000_000})
	f("default", false, counts{usage.CacheWrite5m: 1000}, Rated{"m-2026-01-31", 6_000_000, 6_000_000})
	f("default", false, counts{usage.Output: 1000}, Rated{"m", 12_000_000, 12_000_000})
	f("customer=own", true, counts{usage.Input: 1000}, Rated{"m", 6_000_000, 9_000_000})
	f("customer=own", false, counts{usage.Input: 1000}, Rated{"m", 3_000_000, 4_000_000})
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

// randomCount stays below the billions of dollars that an amount can hold.
func randomCount(rng *rand.Rand, m usage.Meter) uint64 {
	if m.Tokens() {
		return rng.Uint64N(1 << rng.IntN(38))
	}
	return rng.Uint64N(1 << rng.IntN(20))
}

// randomCard has a model, two snapshots of it that may be dearer or cheaper, a
// rule with a multiplier and one with prices of its own. Every model states
// input and output; the rest is left to chance.
func randomCard(rng *rand.Rand) string {
	price := func(places int) string {
		return fmt.Sprintf("%d.%0*d", rng.IntN(100)*rng.IntN(2), places, rng.IntN(1_000_000))
	}
	units := []string{"audio_input", "image_output", "images", "web_searches"}
	table := func(chance int) string {
		out := fmt.Sprintf("{input: %q, output: %q", price(6), price(6))
		for _, m := range []string{"cached_input", "cache_write_5m", "cache_write_1h", "reasoning"} {
			if rng.IntN(2) == 0 {
				out += fmt.Sprintf(", %s: %q", m, pick(rng, "0", price(6)))
			}
		}
		for _, m := range units {
			if rng.IntN(chance) == 0 {
				out += fmt.Sprintf(", %s: %q", m, price(6))
			}
		}
		return out + "}"
	}
	units = units[:rng.IntN(len(units)+1)]
	return fmt.Sprintf(`
models:
  x/m: {cost: %s}
  x/m-2026-01-31: {cost: %s}
  x/m-0613: {cost: %s}
rules:
  - {multiplier: "%d.%04d", unlimited: true}
  - {customer: c, fee: "0.%09d"}
  - {plan: p, price: %s, unlimited: true, fee: "1"}`,
		table(2), table(1), table(1), rng.IntN(5), rng.IntN(10_000), rng.IntN(1_000_000_000), table(1))
}

// The request path rates and resolves rules without allocating.
func TestAllocations(t *testing.T) {
	c, in := benchmarkCard(t)
	if n := testing.AllocsPerRun(100, func() { Rate(c, in) }); n != 0 {
		t.Errorf("Rate allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { RateBound(c, in) }); n != 0 {
		t.Errorf("RateBound allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { resolve(c) }); n != 0 {
		t.Errorf("Rules allocates %v times", n)
	}
}

func resolve(c *Card) (last string) {
	for _, r := range c.Rules("acme", "free", "openai", "gpt-4o") {
		last = r.Name()
	}
	return last
}

func benchmarkCard(tb testing.TB) (*Card, Rating) {
	src := "rules:\n  - {multiplier: \"3\"}\n  - {model: \"gpt-*\", multiplier: \"2\"}\n  - {plan: free, model: \"openai/*\", multiplier: \"2\"}\n"
	for i := range 1000 {
		src += fmt.Sprintf("  - {customer: c%d, multiplier: \"2\"}\n", i)
	}
	c, err := Compose(Builtin(), mustParse(tb, src+"  - {customer: acme, model: gpt-4o, multiplier: \"2\"}\n"))
	if err != nil {
		tb.Fatal(err)
	}
	return c, Rating{Provider: "openai", Model: "gpt-4o", Answered: "gpt-4o-2024-08-06", Rule: "customer=acme,model=gpt-4o",
		Meters: counts{usage.Input: 1234, usage.CachedInput: 567, usage.Output: 89, usage.Reasoning: 10}.quantities()}
}

func BenchmarkRate(b *testing.B) {
	c, in := benchmarkCard(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Rate(c, in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRateBound(b *testing.B) {
	c, in := benchmarkCard(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := RateBound(c, in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRules(b *testing.B) {
	c, _ := benchmarkCard(b)
	b.ReportAllocs()
	for b.Loop() {
		resolve(c)
	}
}

package ratecard

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestCards runs testdata: a card file, then its error with the line to change,
// or what it compiles to.
func TestCards(t *testing.T) {
	datadriven.RunTest(t, "testdata/cards", func(t *testing.T, d *datadriven.TestData) string {
		c, err := compile(d.Input)
		if err != nil {
			var card *CardError
			if !errors.As(err, &card) || card.Line == 0 {
				t.Errorf("%s: error %v names no line", d.Pos, err)
			}
			return err.Error() + "\n"
		}
		var out strings.Builder
		fmt.Fprintf(&out, "%q from %s\n%s\n%s\n", c.Label(), c.EffectiveFrom(), c.ModelsJSON(), c.RulesJSON())
		return out.String()
	})
}

func compile(files ...string) (*Card, error) {
	var parsed []*File
	for i, src := range files {
		f, err := Parse(fmt.Sprintf("card%d.yaml", i+1), []byte(src))
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, f)
	}
	return Compose(parsed...)
}

func mustCompile(t testing.TB, files ...string) *Card {
	t.Helper()
	c, err := compile(files...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCanonical(t *testing.T) {
	// Written and hashed by hand (sha256sum), not by this package: a change here
	// changes the identity of every published card.
	const (
		models = `{"x/a":{"bytes_per_token_min":"1","context":100,"cost":{"input":"2.50","seconds":"0.01"},` +
			`"limit_field":"max_tokens","max_output":10,"message_overhead":16,"tool_overhead":1024}}`
		rules     = `[{"multiplier":"1"},{"model":"x/a","multiplier":"1.25"}]`
		costHash  = "a3174c147e753dfe7a6668ce74c75397f3479fc42f4ac61e2b889f860cc02e79"
		priceHash = "c1498f301c8d7016b5ca0193726edd9caa774c893878022b062ee2e72beaf613"
		id        = "5c2b429f2ddc4343a3e50d984319ef2e34a667c8e88a9463c602bc42d7a4d8e4"
	)
	same := func(why, src string) {
		t.Helper()
		c := mustCompile(t, src)
		if string(c.ModelsJSON()) != models || string(c.RulesJSON()) != rules {
			t.Errorf("%s: canonical JSON is\n%s\n%s", why, c.ModelsJSON(), c.RulesJSON())
		}
		if c.CostHash() != costHash || c.PriceHash() != priceHash || c.ID() != id {
			t.Errorf("%s: hashes are %s, %s, %s", why, c.CostHash(), c.PriceHash(), c.ID())
		}
	}
	same("short", `
models: {x/a: {context: 100, max_output: 10, limit_field: max_tokens, cost: {input: "2.5", seconds: "0.01"}}}
rules: [{model: x/a, multiplier: "1.25"}]`)
	same("defaults spelled out, another order, other digits", `
rules: [{multiplier: 1}, {multiplier: 1.2500, model: x/a, unlimited: false}]
models: {x/a: {tool_overhead: 1024, message_overhead: 16, bytes_per_token_min: 1.0, max_output: 10, context: 100,
  limit_field: max_tokens, cost: {seconds: 0.010, input: 2.500000}}}`)
	if at := mustCompile(t, "effective_from: 2030-01-01T00:00:00+02:00").EffectiveFrom().String(); at != "2029-12-31 22:00:00 +0000 UTC" {
		t.Errorf("effective_from in another zone is %s", at)
	}
	same("label and date are no part of the identity", `
version: other
effective_from: 2030-01-01T00:00:00+02:00
models: {x/a: {context: 100, max_output: 10, limit_field: max_tokens, cost: {input: "2.5", seconds: "0.01"}}}
rules: [{model: x/a, multiplier: "1.25"}]`)
}

func TestFromCanonical(t *testing.T) {
	published := mustCompile(t, `
models:
  x/a: {context: 9, priced_input: 5, limit_field: max_tokens, bytes_per_token_min: "1.5", cost: {input: "1", output: "2"}}
  x/b: {cost: {requests: "0.5"}}
rules:
  - {plan: free, model: "x/*", price: {input: "0", output: "0", requests: "0"}, budget_per_day: "5", fee: "0.01"}
  - {customer: acme, multiplier: "0.2", unlimited: true}`)
	again, err := FromCanonical(published.ModelsJSON(), published.RulesJSON())
	if err != nil {
		t.Fatal(err)
	}
	if again.ID() != published.ID() || again.CostHash() != published.CostHash() || again.PriceHash() != published.PriceHash() {
		t.Errorf("read back as %s, published as %s", again.ID(), published.ID())
	}
	if m := again.Model("x", "a"); m.Context != 9 || m.PricedInput != 5 || m.LimitField != "max_tokens" || m.InputTokensMax(4) != 3 {
		t.Errorf("model read back as %+v", m)
	}
	r := again.Rule("plan=free,model=x/*")
	if r == nil || !r.Absolute() || r.BudgetPerDay != 5_000_000_000 || r.Fee != 10_000_000 || r.Unlimited {
		t.Errorf("rule read back as %+v", r)
	}
	for _, bad := range [][2]string{
		{`{"x/a": {"cost":{"input":"1.00"}}}`, `[{"multiplier":"1"}]`}, // defaults are not written
		{string(published.ModelsJSON()), string(published.RulesJSON()) + " "},
		{string(published.ModelsJSON()), `[]`},
		{`{}`, `[{"multiplier":"1"}],"models":{}`},
		{``, ``},
	} {
		if c, err := FromCanonical([]byte(bad[0]), []byte(bad[1])); err == nil {
			t.Errorf("FromCanonical(%q, %q) = card %s, want an error", bad[0], bad[1], c.ID())
		}
	}
}

func TestLimits(t *testing.T) {
	list := func(head, item string, n int) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range n {
			fmt.Fprintf(&b, item, i)
		}
		return b.String()
	}
	const model, rule = "  x/m%d: {cost: {input: 1}}\n", "  - {customer: c%d, multiplier: 2}\n"
	for _, tooMuch := range []string{list("models:\n", model, modelsMax+1), list("rules:\n", rule, rulesMax+1), strings.Repeat("#", sourceBytesMax+1)} {
		if _, err := compile(tooMuch); err == nil {
			t.Errorf("%.30q… was read", tooMuch)
		}
	}
	// What two files and the default make together must still read back.
	c := mustCompile(t, "models: {x/a: {cost: {input: 1}}}", list("models:\n", model, modelsMax)+list("rules:\n", rule, rulesMax))
	if again, err := FromCanonical(c.ModelsJSON(), c.RulesJSON()); err != nil || again.ID() != c.ID() {
		t.Errorf("the largest card does not read back: %v", err)
	}
}

func TestCompose(t *testing.T) {
	base := `
version: base
effective_from: 2026-01-01T00:00:00Z
models:
  x/a: {context: 100, cost: {input: "1", output: "2"}}
  x/b: {cost: {input: "1"}}
rules: [{multiplier: "2"}]`

	c := mustCompile(t, base, `models: {x/a: {cost: {input: "3"}}}`)
	if m := c.Model("x", "a"); m.Context != 0 || m.States(3) {
		t.Errorf("the later entry was merged into the earlier one: %+v", m)
	}
	if p, ok := c.Model("x", "a").Cost(0); !ok || p != 3_000_000 {
		t.Errorf("input costs %d, %v; want the later 3,000,000", p, ok)
	}
	if c.Model("x", "b") == nil || c.Rule("default").Multiplier != 20_000 {
		t.Error("what the later file does not name was lost")
	}
	if c.Label() != "base" || c.EffectiveFrom().Year() != 2026 {
		t.Errorf("label %q from %s", c.Label(), c.EffectiveFrom())
	}

	c = mustCompile(t, base, `rules: [{customer: acme, multiplier: "5"}]`)
	if c.Rule("default").Multiplier != 10_000 || c.Rule("customer=acme") == nil {
		t.Error("the last rules did not replace all earlier ones")
	}
	c = mustCompile(t, base, `rules: []`)
	if c.Rule("default").Multiplier != 10_000 {
		t.Error("an empty list of rules did not take the earlier ones away")
	}
	// A rule is judged by the models of the whole card, wherever they stand.
	_, err := compile(`rules: [{price: {input: "1"}}]`, `models: {x/c: {cost: {input: "0", output: "1"}}}`)
	if err == nil || !strings.HasPrefix(err.Error(), "card1.yaml:1: ") {
		t.Errorf("a price that covers no output: %v", err)
	}
}

func TestRulesOrder(t *testing.T) {
	c := mustCompile(t, `
rules:
  - {multiplier: "1"}
  - {model: "openai/*", multiplier: "1"}
  - {model: "gpt-*", multiplier: "1"}
  - {model: "openai/gpt-4*", multiplier: "1"}
  - {model: "gpt-4*", multiplier: "1"}
  - {model: "gpt-4o*", multiplier: "1"}
  - {model: gpt-4o, multiplier: "1"}
  - {model: openai/gpt-4o, multiplier: "1"}
  - {plan: pro, multiplier: "1"}
  - {plan: pro, model: gpt-4o, multiplier: "1"}
  - {customer: acme, multiplier: "1"}
  - {customer: acme, model: "openai/*", multiplier: "1"}
  - {customer: acme, model: "openai/gpt-4o*", multiplier: "1"}`)
	f := func(customer, plan, provider, model string, want ...string) {
		t.Helper()
		var got []string
		for _, r := range c.Rules(customer, plan, provider, model) {
			got = append(got, r.Name())
			if c.Rule(r.Name()) != r {
				t.Errorf("Rule(%q) is another rule", r.Name())
			}
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("Rules(%q, %q, %q, %q) =\n%s, want\n%s", customer, plan, provider, model,
				strings.Join(got, " "), strings.Join(want, " "))
		}
	}
	f("acme", "pro", "openai", "gpt-4o",
		"customer=acme,model=openai/gpt-4o*", "customer=acme,model=openai/*", "customer=acme",
		"plan=pro,model=gpt-4o", "plan=pro",
		"model=openai/gpt-4o", "model=gpt-4o", "model=gpt-4o*", "model=openai/gpt-4*", "model=gpt-4*", "model=gpt-*", "model=openai/*", "default")
	f("", "", "azure", "gpt-4o-mini", "model=gpt-4o*", "model=gpt-4*", "model=gpt-*", "default")
	f("pro", "acme", "anthropic", "claude", "default")
	f("acme", "none", "anthropic", "claude", "customer=acme", "default")
	f("other", "pro", "openai", "o3", "plan=pro", "model=openai/*", "default")

	if rules := mustCompile(t, `models: {}`).Rules("acme", "pro", "x", "y"); len(rules) != 1 || rules[0].Name() != "default" ||
		rules[0].Multiplier != 10_000 {
		t.Errorf("without rules: %+v", rules)
	}
}

func TestTrimDate(t *testing.T) {
	f := func(name, want string, ok bool) {
		t.Helper()
		if got, found := trimDate(name); got != want || found != ok {
			t.Errorf("trimDate(%q) = %q, %v; want %q, %v", name, got, found, want, ok)
		}
	}
	f("gpt-4o-2024-05-13", "gpt-4o", true)
	f("claude-sonnet-4-5-20250929", "claude-sonnet-4-5", true)
	f("gpt-4-0613", "gpt-4", true)
	f("gpt-3.5-turbo-0125", "gpt-3.5-turbo", true)
	f("gpt-4-1106-preview", "", false)
	f("gpt-4o-mini", "", false)
	f("foo-4096", "", false)
	f("foo-2024-13-01", "", false)
	f("foo-20240230", "", false)
	f("foo-2024", "", false)
	f("-2024-05-13", "", false)
	f("claude-opus-4-1", "", false)
	f("0613", "", false)
}

// FuzzParse: whatever is uploaded either fails with a *CardError or composes to
// a card that its canonical JSON reproduces.
func FuzzParse(f *testing.F) {
	for _, src := range []string{
		"", "#", "---", "models:", "!!binary x", "&a [*a]", "models: {x/a: {cost: {input: \"1\"}}}\n", "? [a]\n: b", "\x00", "a: b: c",
		"rules: [{customer: a, model: \"x/*\", price: {requests: 1}, fee: 2, budget_per_day: 3}]", "version: \"\\u0000\"", "{{}: 1}",
	} {
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src string) {
		c, err := compile(src)
		if err != nil {
			var card *CardError
			if !errors.As(err, &card) || card.Line < 1 {
				t.Fatalf("error %v of %q names no line", err, src)
			}
			return
		}
		again, err := FromCanonical(c.ModelsJSON(), c.RulesJSON())
		if err != nil || again.ID() != c.ID() {
			t.Fatalf("card of %q does not read back: %v", src, err)
		}
	})
}

package ratecard

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// The canonical form of a card is two JSON texts with the keys and values of the
// card file: models by name, rules by name, keys in alphabetical order, no white
// space, amounts as decimal strings. What the file may leave out is written with
// the value it then has, the default rule included, so that a published card
// keeps its meaning when a default of the program changes. A member with no
// value (a limit_field that was not stated) is left out, which lets later
// versions add members without changing the hashes of older cards.

type canonicalModel struct {
	BytesPerTokenMin string            `json:"bytes_per_token_min"`
	Context          uint64            `json:"context"`
	Cost             map[string]string `json:"cost"`
	LimitField       string            `json:"limit_field,omitempty"`
	MaxOutput        uint64            `json:"max_output"`
	MessageOverhead  uint64            `json:"message_overhead"`
	PricedInput      uint64            `json:"priced_input,omitempty"`
	ToolOverhead     uint64            `json:"tool_overhead"`
}

type canonicalRule struct {
	BudgetPerDay string            `json:"budget_per_day,omitempty"`
	Customer     string            `json:"customer,omitempty"`
	Fee          string            `json:"fee,omitempty"`
	Model        string            `json:"model,omitempty"`
	Multiplier   string            `json:"multiplier,omitempty"`
	Plan         string            `json:"plan,omitempty"`
	Price        map[string]string `json:"price,omitempty"`
	Unlimited    bool              `json:"unlimited,omitempty"`
}

// seal writes the canonical JSON and its hashes.
func (c *Card) seal() (err error) {
	models := make(map[string]canonicalModel, len(c.models))
	for _, m := range c.models {
		models[m.FullName()] = canonicalModel{
			BytesPerTokenMin: m.BytesPerTokenMin.String(), Context: m.Context, Cost: m.cost.canonical(), LimitField: m.LimitField,
			MaxOutput: m.MaxOutput, MessageOverhead: m.MessageOverhead, PricedInput: m.PricedInput, ToolOverhead: m.ToolOverhead}
	}
	rules := make([]canonicalRule, 0, len(c.rules))
	for _, r := range slices.SortedFunc(maps.Values(c.rules), func(a, b *Rule) int { return strings.Compare(a.name, b.name) }) {
		rules = append(rules, r.canonical())
	}
	if c.modelsJSON, err = json.Marshal(models); err != nil {
		return fmt.Errorf("cannot write the card's models: %w", err)
	}
	if c.rulesJSON, err = json.Marshal(rules); err != nil {
		return fmt.Errorf("cannot write the card's rules: %w", err)
	}
	c.costHash, c.priceHash = hash(c.modelsJSON), hash(c.rulesJSON)
	c.id = hash(slices.Concat(c.modelsJSON, []byte("\n"), c.rulesJSON))
	return nil
}

func (r *Rule) canonical() canonicalRule {
	out := canonicalRule{Customer: r.Customer, Plan: r.Plan, Model: r.Model, Unlimited: r.Unlimited,
		Fee: amountText(r.Fee), BudgetPerDay: amountText(r.BudgetPerDay)}
	if r.absolute {
		out.Price = r.price.canonical()
	} else {
		out.Multiplier = r.Multiplier.String()
	}
	return out
}

func (t *priceTable) canonical() map[string]string {
	out := map[string]string{}
	for m := range usage.Meter(usage.NumMeters) {
		if t.stated.has(m) {
			out[m.String()] = priceText(m, t.pico[m])
		}
	}
	return out
}

// FromCanonical compiles a published card from its canonical JSON. It refuses
// what is not exactly what this package writes, because the hashes of a card
// that is read must be those under which it was published.
func FromCanonical(models, rules []byte) (*Card, error) {
	src := slices.Concat([]byte(`{"models":`), models, []byte(`,"rules":`), rules, []byte(`}`))
	f, err := parse("published card", src) // JSON is YAML, and the keys are those of a file
	if err != nil {
		return nil, fmt.Errorf("cannot read the published card: %w", err)
	}
	c, err := Compose(f)
	if err != nil {
		return nil, fmt.Errorf("cannot compile the published card: %w", err)
	}
	if !bytes.Equal(models, c.modelsJSON) || !bytes.Equal(rules, c.rulesJSON) {
		return nil, fmt.Errorf("cannot use the published card: its JSON is not canonical")
	}
	return c, nil
}

func priceText(m usage.Meter, p money.Pico) string {
	if m.Tokens() {
		return p.PerMillion()
	}
	return p.PerUnit()
}

// amountText is "" for no amount.
func amountText(n money.Nano) string {
	if n == 0 {
		return ""
	}
	return n.String()
}

func hash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

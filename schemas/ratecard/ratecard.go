// Package ratecard says what usage costs and what it is sold for.
//
// A Card is compiled once from files (Parse, Compose) or from the canonical
// JSON of a published card (FromCanonical) and never changes afterwards, so any
// number of goroutines may read it. Rate and RateBound are pure: the same card
// and the same usage give the same two amounts wherever they are computed, which
// is what lets the settling side check the promise of the serving side.
package ratecard

import (
	"slices"
	"strings"
	"time"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// Card is an immutable set of models with their costs and of rules with their
// prices.
type Card struct {
	models     map[modelKey]*Model
	byProvider map[string][]*Model // each sorted by name
	rules      map[string]*Rule    // by Name

	customers map[string]*selectors
	plans     map[string]*selectors
	everyone  *selectors // ends with a default, always

	label         string
	effectiveFrom time.Time

	modelsJSON, rulesJSON   []byte
	costHash, priceHash, id string
}

type modelKey struct{ provider, name string }

// Model is one entry of a card: a provider's model, its limits and its costs.
// Token counts are 0 where the card does not state them.
type Model struct {
	Provider string
	Name     string // without provider

	Context   uint64 // tokens of input and output the model accepts together
	MaxOutput uint64 // tokens one answer can have
	// PricedInput is the most input tokens the stated costs hold for; beyond it
	// the provider charges another tier. A request whose input may pass it must
	// be refused. 0: the costs hold for the whole context.
	PricedInput uint64

	// BytesPerTokenMin is the fewest bytes of text a token stands for, in
	// ten-thousandths. A byte-level tokenizer never makes more than one token of
	// one byte, so 1 is always right.
	BytesPerTokenMin money.Multiplier
	MessageOverhead  uint64 // tokens a message adds to its text, at most
	ToolOverhead     uint64 // tokens a tool definition adds to its text, at most
	LimitField       string // request field that limits output tokens; "" if not stated

	cost      priceTable
	snapshots []*Model // the entries whose name is this one plus a date
}

// FullName is "provider/model", the model's key on the card.
func (m *Model) FullName() string { return m.Provider + "/" + m.Name }

// Cost is what the provider charges for one unit of a meter, after fallback,
// and false if the card has no price for it.
func (m *Model) Cost(meter usage.Meter) (money.Pico, bool) { return m.cost.price(meter) }

// States tells whether the card itself names a cost for the meter, where Cost
// would also answer with the one it falls back to.
func (m *Model) States(meter usage.Meter) bool { return m.cost.stated.has(meter) }

// InputTokensMax is the most tokens that so many bytes of text can make.
func (m *Model) InputTokensMax(textBytes uint64) uint64 {
	return mulDivCeil(textBytes, uint64(money.One), uint64(m.BytesPerTokenMin))
}

// Model finds an entry by its exact name, nil if the model is not priced.
func (c *Card) Model(provider, name string) *Model { return c.models[modelKey{provider, name}] }

// Models lists a provider's entries by name. The caller does not change the list.
func (c *Card) Models(provider string) []*Model { return c.byProvider[provider] }

// Rule finds a rule by its Name, nil if the card has none of it.
func (c *Card) Rule(name string) *Rule { return c.rules[name] }

// Label is the version a file gave to the card, for people only.
func (c *Card) Label() string { return c.label }

// EffectiveFrom is when the card comes into force; zero means at once. It is no
// part of the card's identity.
func (c *Card) EffectiveFrom() time.Time { return c.effectiveFrom }

// ModelsJSON is the canonical JSON of the models. The caller does not change it.
func (c *Card) ModelsJSON() []byte { return c.modelsJSON }

// RulesJSON is the canonical JSON of the rules. The caller does not change it.
func (c *Card) RulesJSON() []byte { return c.rulesJSON }

// CostHash is the SHA-256 of ModelsJSON in 64 hex digits.
func (c *Card) CostHash() string { return c.costHash }

// PriceHash is the SHA-256 of RulesJSON in 64 hex digits.
func (c *Card) PriceHash() string { return c.priceHash }

// ID is the card's identity: the SHA-256, in 64 hex digits, of ModelsJSON, a
// newline and RulesJSON.
func (c *Card) ID() string { return c.id }

// Rule says what one selection of requests pays.
type Rule struct {
	Customer string // "" = any; a rule never names both customer and plan
	Plan     string // "" = any
	Model    string // as on the card: provider/model or model, a * at the end; "" = any

	Multiplier   money.Multiplier // of the cost; One if the rule has its own prices
	Fee          money.Nano       // added once to every answered request
	BudgetPerDay money.Nano       // most Σ max(0, cost − price) of a UTC day; 0 = none stated
	Unlimited    bool             // may price below cost without a budget

	name     string
	selector selector
	absolute bool // price replaces cost × Multiplier
	price    priceTable
}

// defaultName is the name of the rule that has no selectors.
const defaultName = "default"

// Name is the rule's selectors in one stable string such as
// "customer=acme,model=openai/gpt-4o", or "default".
func (r *Rule) Name() string { return r.name }

// Absolute tells whether the rule has prices of its own instead of a multiplier.
func (r *Rule) Absolute() bool { return r.absolute }

// Price is what an Absolute rule asks for one unit of a meter, after fallback,
// and false if it has none.
func (r *Rule) Price(meter usage.Meter) (money.Pico, bool) { return r.price.price(meter) }

func (r *Rule) setName() {
	var parts []string
	for _, part := range [...]struct{ key, value string }{
		{"customer", r.Customer}, {"plan", r.Plan}, {"model", r.Model}} {
		if part.value != "" {
			parts = append(parts, part.key+"="+part.value)
		}
	}
	r.name = defaultName
	if len(parts) > 0 {
		r.name = strings.Join(parts, ",")
	}
}

// priceTable is one price for each meter in pico-dollars per unit.
type priceTable struct {
	stated  meterSet // named by the card
	covered meterSet // stated, or falling back to a stated one
	pico    [usage.NumMeters]money.Pico
}

type meterSet uint32

func (s meterSet) has(m usage.Meter) bool { return m < usage.NumMeters && s&(1<<m) != 0 }

func (t *priceTable) price(m usage.Meter) (money.Pico, bool) {
	if !t.covered.has(m) {
		return 0, false
	}
	return t.pico[m], true
}

func (t *priceTable) state(m usage.Meter, p money.Pico) {
	t.stated |= 1 << m
	t.covered |= 1 << m
	t.pico[m] = p
}

// fallbacks names for each meter that has a default the dearer meter it is
// priced by and how many times. No other meter has a default: usage of it
// without a stated price cannot be rated.
var fallbacks = [...]struct {
	meter, base usage.Meter
	times       money.Pico
}{
	{usage.CachedInput, usage.Input, 1},
	{usage.CacheWrite5m, usage.Input, 2},
	{usage.CacheWrite1h, usage.Input, 2},
	{usage.Reasoning, usage.Output, 1},
}

// fallBack fills in what is not stated. A stated zero is a price.
func (t *priceTable) fallBack() {
	for _, f := range fallbacks {
		if t.stated.has(f.base) && !t.stated.has(f.meter) {
			t.covered |= 1 << f.meter
			t.pico[f.meter] = f.times * t.pico[f.base]
		}
	}
}

// dateSuffixes are the forms in which providers date the snapshots of a model.
var dateSuffixes = [...]string{"-2006-01-02", "-20060102", "-0102"}

// trimDate takes the date off a snapshot's name: "gpt-4o-2024-08-06",
// "claude-sonnet-4-20250514" and "gpt-4-0613" have one, "gpt-4-1106-preview" and
// "foo-4096" have none.
func trimDate(name string) (base string, ok bool) {
	for _, suffix := range dateSuffixes {
		if cut := len(name) - len(suffix); cut > 0 {
			if _, err := time.Parse(suffix, name[cut:]); err == nil {
				return name[:cut], true
			}
		}
	}
	return "", false
}

// linkSnapshots gives every model its dated snapshots, by name.
func (c *Card) linkSnapshots() {
	for key, m := range c.models {
		base, ok := trimDate(key.name)
		if !ok {
			continue
		}
		if alias := c.Model(key.provider, base); alias != nil {
			alias.snapshots = append(alias.snapshots, m)
		}
	}
	for _, m := range c.models {
		slices.SortFunc(m.snapshots, byName)
	}
}

func byName(a, b *Model) int { return strings.Compare(a.Name, b.Name) }

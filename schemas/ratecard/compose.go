package ratecard

import (
	"fmt"
	"maps"
	"slices"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// Compose compiles files into one card. A later file's entry of a model replaces
// the whole entry; the last file that has rules gives all of them; without rules
// everything sells at cost. Label and EffectiveFrom are those of the last file
// that states them. Callers pass Builtin first.
//
// Every error is a *CardError that names the file and line to change.
func Compose(files ...*File) (*Card, error) {
	c := &Card{models: map[modelKey]*Model{}, byProvider: map[string][]*Model{}}
	var entries []ruleEntry
	for _, f := range files {
		for _, e := range f.models {
			m := e.model // a copy: the card links its own snapshots
			c.models[modelKey{m.Provider, m.Name}] = &m
		}
		if f.hasRules {
			entries = f.rules
		}
		if f.label != "" {
			c.label = f.label
		}
		if !f.effectiveFrom.IsZero() {
			c.effectiveFrom = f.effectiveFrom
		}
	}
	for _, m := range c.models {
		c.byProvider[m.Provider] = append(c.byProvider[m.Provider], m)
	}
	for _, list := range c.byProvider {
		slices.SortFunc(list, byName)
	}
	c.linkSnapshots()
	for _, e := range entries {
		if err := c.checkPrices(e); err != nil {
			return nil, err
		}
	}
	c.indexRules(withDefault(entries))
	return c, c.seal()
}

// withDefault adds the rule that ends every resolution, if it is not stated.
func withDefault(entries []ruleEntry) []*Rule {
	var rules []*Rule
	stated := false
	for _, e := range entries {
		rules = append(rules, e.rule)
		stated = stated || e.rule.name == defaultName
	}
	if !stated {
		rules = append(rules, &Rule{name: defaultName, Multiplier: money.One, selector: everyModel})
	}
	return rules
}

// checkPrices makes sure that an absolute rule can price whatever a model it
// selects is billed for, snapshots that may answer included, and that it does
// not sell a model it selects below cost unless it may.
func (c *Card) checkPrices(e ruleEntry) error {
	if !e.rule.absolute {
		return nil
	}
	for _, provider := range slices.Sorted(maps.Keys(c.byProvider)) {
		for _, m := range c.byProvider[provider] {
			if !e.rule.selector.matches(m.Provider, m.Name) {
				continue
			}
			if err := e.checkPricesOf(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e ruleEntry) checkPricesOf(m *Model) error {
	for _, billed := range append([]*Model{m}, m.snapshots...) {
		for meter := range usage.Meter(usage.NumMeters) {
			cost, costs := billed.Cost(meter)
			price, priced := e.rule.Price(meter)
			switch {
			case costs && !priced:
				return e.errorf("the price of rule %s has no %s, which %s costs; add it (\"0\" is a price)",
					e.rule.name, meter, billed.FullName())
			case costs && price < cost && billed == m && !e.rule.mayLose():
				return e.errorf("rule %s prices %s of %s at %s, below its cost of %s; raise it, or add budget_per_day or unlimited: true",
					e.rule.name, meter, m.FullName(), priceText(meter, price), priceText(meter, cost))
			}
		}
	}
	return nil
}

func (e ruleEntry) errorf(format string, args ...any) error {
	return &CardError{File: e.file, Line: e.line, Message: fmt.Sprintf(format, args...)}
}

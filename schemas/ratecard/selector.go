package ratecard

import (
	"cmp"
	"slices"
	"strings"
)

// selector is a rule's model selector: provider/model or a bare model, exact or
// a prefix. A provider selector (openai/*) is a prefix of length 0.
type selector struct {
	provider string // "" = any
	model    string
	prefix   bool
}

// everyModel is the selector of a rule that names no model.
var everyModel = selector{prefix: true}

func (s selector) matches(provider, model string) bool {
	if s.provider != "" && s.provider != provider {
		return false
	}
	return model == s.model || s.prefix && strings.HasPrefix(model, s.model)
}

// selectors holds the rules of one customer, of one plan or of everyone.
type selectors struct {
	exact    map[modelKey]*Rule // provider "" for a bare model
	prefixes []*Rule            // most specific first
	any      *Rule              // the one without a model, or nil
}

func (s *selectors) add(r *Rule) {
	switch {
	case r.Model == "":
		s.any = r
	case r.selector.prefix:
		s.prefixes = append(s.prefixes, r)
	default:
		if s.exact == nil {
			s.exact = map[modelKey]*Rule{}
		}
		s.exact[modelKey{r.selector.provider, r.selector.model}] = r
	}
}

// sort puts the longest prefix first; of two equally long ones that match the
// same model, the one that names its provider.
func (s *selectors) sort() {
	slices.SortFunc(s.prefixes, func(a, b *Rule) int {
		return cmp.Or(
			cmp.Compare(len(b.selector.model), len(a.selector.model)),
			cmp.Compare(len(b.selector.provider), len(a.selector.provider)),
			cmp.Compare(a.name, b.name))
	})
}

// appendMatches appends the rules that match, most specific first.
func (s *selectors) appendMatches(dst []*Rule, provider, model string) []*Rule {
	if len(s.exact) > 0 {
		if r := s.exact[modelKey{provider, model}]; r != nil {
			dst = append(dst, r)
		}
		if r := s.exact[modelKey{"", model}]; r != nil {
			dst = append(dst, r)
		}
	}
	for _, r := range s.prefixes {
		if r.selector.matches(provider, model) {
			dst = append(dst, r)
		}
	}
	if s.any != nil {
		dst = append(dst, s.any)
	}
	return dst
}

// rulesInline is how many matching rules cost no allocation: more than three
// scopes of exact, bare, provider and any need.
const rulesInline = 12

// Rules lists the rules that match a request, most specific first: those of the
// customer, then of the plan, then of everyone; among them the exact
// provider/model, the bare model, the longest prefix, the provider, the one
// without a model. The last is always a default. customer and plan may be "".
//
// It is small enough to be inlined, which keeps the list on the caller's stack.
func (c *Card) Rules(customer, plan, provider, model string) []*Rule {
	var buf [rulesInline]*Rule
	return c.appendRules(buf[:0], customer, plan, modelKey{provider, model})
}

func (c *Card) appendRules(dst []*Rule, customer, plan string, key modelKey) []*Rule {
	if s := c.customers[customer]; s != nil {
		dst = s.appendMatches(dst, key.provider, key.name)
	}
	if s := c.plans[plan]; s != nil {
		dst = s.appendMatches(dst, key.provider, key.name)
	}
	return c.everyone.appendMatches(dst, key.provider, key.name)
}

// indexRules sorts the rules into their scopes. Their names are unique.
func (c *Card) indexRules(rules []*Rule) {
	c.rules = make(map[string]*Rule, len(rules))
	c.customers, c.plans, c.everyone = map[string]*selectors{}, map[string]*selectors{}, &selectors{}
	for _, r := range rules {
		c.rules[r.name] = r
		c.scopeOf(r).add(r)
	}
	c.everyone.sort()
	for _, scopes := range [...]map[string]*selectors{c.customers, c.plans} {
		for _, s := range scopes {
			s.sort()
		}
	}
}

func (c *Card) scopeOf(r *Rule) *selectors {
	scopes, key := c.customers, r.Customer
	if r.Plan != "" {
		scopes, key = c.plans, r.Plan
	}
	if key == "" {
		return c.everyone
	}
	if scopes[key] == nil {
		scopes[key] = &selectors{}
	}
	return scopes[key]
}

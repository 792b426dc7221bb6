package demo

import (
	_ "embed"
	"fmt"
	"math/big"

	"go.yaml.in/yaml/v3"

	"weir/internal/standin"
	"weir/schemas/money"
)

// cardText is the rate card that weir gets and that the comparison reads for itself.
//
//go:embed rates.yaml
var cardText []byte

// card is the rate card as the comparison understands it. Nothing of weir's own rating is used:
// the same mistake made twice would not show.
type card struct {
	Models map[string]struct {
		Cost prices `yaml:"cost"`
	} `yaml:"models"`
	Rules []rule `yaml:"rules"`
}

// prices are dollars per million tokens, by meter.
type prices map[string]string

// rule says what some requests pay: a multiple of the cost, or prices of its own.
type rule struct {
	Customer     string `yaml:"customer"`
	Model        string `yaml:"model"`
	Multiplier   string `yaml:"multiplier"`
	Price        prices `yaml:"price"`
	BudgetPerDay string `yaml:"budget_per_day"`
}

func readCard() (*card, error) {
	var c card
	if err := yaml.Unmarshal(cardText, &c); err != nil {
		return nil, fmt.Errorf("cannot read the demo's rate card: %w", err)
	}
	return &c, nil
}

// name is how weir names the rule on an event: its selectors.
func (r *rule) name() string {
	switch {
	case r.Customer == "" && r.Model == "":
		return "default"
	case r.Customer == "":
		return "model=" + r.Model
	case r.Model == "":
		return "customer=" + r.Customer
	}
	return "customer=" + r.Customer + ",model=" + r.Model
}

// rules are those a request may be priced by. The first is the most specific; a later one may
// price it only where all before it have budgets, which may be spent.
func (c *card) rules(customer, model string) []*rule {
	var bySpecificity [4][]*rule
	for i := range c.Rules {
		r := &c.Rules[i]
		if r.Customer != "" && r.Customer != customer || r.Model != "" && r.Model != model {
			continue
		}
		rank := 0
		if r.Customer == "" {
			rank += 2
		}
		if r.Model == "" {
			rank++
		}
		bySpecificity[rank] = append(bySpecificity[rank], r)
	}
	var list []*rule
	for _, matching := range bySpecificity {
		for _, r := range matching {
			if list = append(list, r); r.BudgetPerDay == "" {
				return list
			}
		}
	}
	return list
}

// amounts are what the provider charges for a request and what its customer pays.
func (c *card) amounts(model string, r *rule, served standin.Meters) (cost, price money.Nano, err error) {
	entry, known := c.Models[model]
	if !known {
		return 0, 0, fmt.Errorf("the demo's rate card has no model %s", model)
	}
	exactCost, err := entry.Cost.total(served)
	if err != nil {
		return 0, 0, err
	}
	exactPrice := new(big.Rat)
	if r.Price != nil {
		exactPrice, err = r.Price.total(served)
	} else if _, ok := exactPrice.SetString(r.Multiplier); ok {
		exactPrice.Mul(exactPrice, exactCost)
	} else {
		err = fmt.Errorf("the multiplier %q of rule %s is no number", r.Multiplier, r.name())
	}
	return nano(exactCost), nano(exactPrice), err
}

// total is the exact sum of all meters, in dollars.
func (p prices) total(served standin.Meters) (*big.Rat, error) {
	sum := new(big.Rat)
	for _, part := range []struct {
		meter, dearer string // what prices the meter if it has no price of its own
		tokens        int
	}{
		{"input", "", served.Input}, {"cached_input", "input", served.CachedInput},
		{"cache_write_5m", "", served.CacheWrite5m}, {"cache_write_1h", "", served.CacheWrite1h},
		{"output", "", served.Output}, {"reasoning", "output", served.Reasoning},
	} {
		if part.tokens == 0 {
			continue
		}
		text, stated := p[part.meter]
		if !stated {
			text = p[part.dearer]
		}
		perMillion, ok := new(big.Rat).SetString(text)
		if !ok {
			return nil, fmt.Errorf("the demo's rate card has no price for %s", part.meter)
		}
		sum.Add(sum, perMillion.Mul(perMillion, big.NewRat(int64(part.tokens), 1_000_000)))
	}
	return sum, nil
}

// nano rounds dollars to nano-dollars, half away from zero. No amount here is negative.
func nano(dollars *big.Rat) money.Nano {
	scaled := new(big.Rat).Mul(dollars, big.NewRat(int64(money.Dollar), 1))
	half := new(big.Rat).Add(scaled, big.NewRat(1, 2))
	return money.Nano(new(big.Int).Quo(half.Num(), half.Denom()).Int64())
}

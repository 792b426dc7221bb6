package ratecard

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"weir/schemas/money"
)

var (
	// customerID is the form of customer ids, and of plans and providers.
	customerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	// modelName is the form of a model's name without provider. Comma and equals
	// sign stay out, so that a rule's name can be read back by eye.
	modelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,199}$`)
)

func (p *parser) rules(n *yaml.Node) error {
	if err := p.kind(n, yaml.SequenceNode, "rules", "a list"); err != nil {
		return err
	}
	p.file.hasRules = true
	lines := map[string]int{}
	for _, item := range n.Content {
		r, err := p.rule(item)
		if err != nil {
			return err
		}
		if line := lines[r.name]; line != 0 {
			return p.errorf(item, "the rule of line %d has the same selectors (%s); keep one of them", line, r.name)
		}
		lines[r.name] = item.Line
		p.file.rules = append(p.file.rules, ruleEntry{file: p.file.name, line: item.Line, rule: r})
	}
	return nil
}

func (p *parser) rule(n *yaml.Node) (*Rule, error) {
	r := &Rule{Multiplier: money.One, selector: everyModel}
	var multiplied, fee bool
	err := p.mapping(n, "a rule", keys{
		"customer":       func(v *yaml.Node) error { return p.id(v, "customer", &r.Customer) },
		"plan":           func(v *yaml.Node) error { return p.id(v, "plan", &r.Plan) },
		"model":          func(v *yaml.Node) error { return p.modelSelector(v, r) },
		"multiplier":     func(v *yaml.Node) error { multiplied = true; return p.multiplier(v, r) },
		"price":          func(v *yaml.Node) error { r.absolute = true; return p.prices(v, "price", &r.price) },
		"fee":            func(v *yaml.Node) error { fee = true; return p.amount(v, "fee", &r.Fee) },
		"budget_per_day": func(v *yaml.Node) error { return p.budget(v, r) },
		"unlimited":      func(v *yaml.Node) error { return p.boolean(v, "unlimited", &r.Unlimited) },
	})
	if err != nil {
		return nil, err
	}
	r.setName()
	switch {
	case r.Customer != "" && r.Plan != "":
		return nil, p.errorf(n, "a rule is for a customer or for a plan; take one of them out")
	case r.absolute && multiplied:
		return nil, p.errorf(n, "rule %s has both price and multiplier; take one of them out", r.name)
	case r.absolute && r.price.stated == 0:
		return nil, p.errorf(n, "the price of rule %s is empty; state the meters, \"0\" for what is free", r.name)
	case !r.absolute && !multiplied && !fee:
		return nil, p.errorf(n, "rule %s says nothing; give it multiplier, price or fee", r.name)
	case r.Unlimited && r.BudgetPerDay > 0:
		return nil, p.errorf(n, "rule %s has both budget_per_day and unlimited; take one of them out", r.name)
	case r.Multiplier < money.One && !r.mayLose():
		return nil, p.errorf(n, "rule %s prices below cost; add budget_per_day (dollars) or unlimited: true", r.name)
	}
	return r, nil
}

// mayLose tells whether the rule may price below cost.
func (r *Rule) mayLose() bool { return r.Unlimited || r.BudgetPerDay > 0 }

func (p *parser) id(n *yaml.Node, what string, dst *string) error {
	text, err := p.text(n, what)
	if err == nil && !customerID.MatchString(text) {
		return p.errorf(n, "%s %q is no name; use letters, digits, dot, dash and underscore, at most 64", what, text)
	}
	*dst = text
	return err
}

// modelSelector reads provider/model or a bare model, with * at its end allowed.
func (p *parser) modelSelector(n *yaml.Node, r *Rule) error {
	text, err := p.text(n, "model")
	if err != nil {
		return err
	}
	body, prefix := strings.CutSuffix(text, "*")
	provider, model, qualified := strings.Cut(body, "/")
	if !qualified {
		provider, model = "", body
	}
	switch {
	case body == "":
		return p.errorf(n, "model %q selects everything; leave it out instead", text)
	case qualified && !customerID.MatchString(provider),
		!modelName.MatchString(model) && !(qualified && prefix && model == ""):
		return p.errorf(n, "model %q is no selector; write provider/model, model, either with a * at the end, or provider/*", text)
	}
	r.Model, r.selector = text, selector{provider: provider, model: model, prefix: prefix}
	return nil
}

func (p *parser) multiplier(n *yaml.Node, r *Rule) error {
	text, err := p.text(n, "multiplier")
	if err != nil {
		return err
	}
	r.Multiplier, err = money.ParseMultiplier(text)
	switch {
	case err != nil:
		return p.errorf(n, "multiplier cannot be read: %v", err)
	case strings.HasPrefix(text, "-"):
		return p.errorf(n, "multiplier is %s; it is 0 (free) or more", text)
	case r.Multiplier > multiplierMax:
		return p.errorf(n, "multiplier is %s; the most is %s", text, multiplierMax)
	}
	return nil
}

// budget refuses zero, which would read as no budget stated.
func (p *parser) budget(n *yaml.Node, r *Rule) error {
	err := p.amount(n, "budget_per_day", &r.BudgetPerDay)
	if err == nil && r.BudgetPerDay == 0 {
		return p.errorf(n, "budget_per_day is 0, so the rule could never be used; take the rule out")
	}
	return err
}

// amount reads dollars.
func (p *parser) amount(n *yaml.Node, what string, dst *money.Nano) error {
	text, err := p.text(n, what)
	if err != nil {
		return err
	}
	*dst, err = money.ParseNano(text)
	switch {
	case err != nil:
		return p.errorf(n, "%s (dollars) cannot be read: %v", what, err)
	case strings.HasPrefix(text, "-"):
		return p.errorf(n, "%s is %s; it is 0 or more", what, text)
	case *dst > amountMax:
		return p.errorf(n, "%s is %s; the most is %s dollars", what, text, amountMax)
	}
	return nil
}

package ratecard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// Limits of a card file. They are far above any real card and keep an upload from
// costing more than seconds.
const (
	sourceBytesMax = 4 << 20
	modelsMax      = 2_000
	rulesMax       = 10_000
	labelBytesMax  = 64

	// tokensMax bounds every token count on a card: a thousand times the largest
	// context of today.
	tokensMax = 1_000_000_000
	// multiplierMax keeps uint128 products exact; a dearer markup is a slip.
	multiplierMax = 1_000 * money.One
	// amountMax bounds fees and budgets, in dollars.
	amountMax = 1_000_000 * money.Dollar

	// messageOverhead covers the role, separators and priming tokens a chat
	// template puts round a message: 3 to 7 with the templates that are published.
	messageOverhead = 16
	// toolOverhead covers the hidden system prompt that the first tool brings
	// (up to about 800 tokens) and the wrapping of a definition.
	toolOverhead = 1_024
)

// CardError is what is wrong with a card file and what to do about it.
type CardError struct {
	File    string
	Line    int // from 1; 0 if no line is to blame
	Message string
}

// Error is "file:line: message".
func (e *CardError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Message)
}

// File is one parsed card file. Whether its rules cover the models they match
// is known only when files are composed.
type File struct {
	name          string
	label         string
	effectiveFrom time.Time
	models        []modelEntry
	rules         []ruleEntry
	hasRules      bool // also when the list is empty: it then takes all rules away
}

type modelEntry struct {
	line  int
	model Model
}

type ruleEntry struct {
	file string
	line int
	rule *Rule
}

// Parse reads a card file. Every error is a *CardError with a line.
func Parse(name string, src []byte) (*File, error) {
	tooMuch := func(have int, what string, most int) error {
		return &CardError{File: name, Line: 1, Message: fmt.Sprintf("the file has %d %s; at most %d are read", have, what, most)}
	}
	if len(src) > sourceBytesMax {
		return nil, tooMuch(len(src), "bytes", sourceBytesMax)
	}
	f, err := parse(name, src)
	switch {
	case err != nil:
		return nil, err
	case len(f.models) > modelsMax:
		return nil, tooMuch(len(f.models), "models", modelsMax)
	case len(f.rules) > rulesMax:
		return nil, tooMuch(len(f.rules), "rules", rulesMax)
	}
	return f, nil
}

// parse is Parse without limits: a published card may join several files.
func parse(name string, src []byte) (*File, error) {
	p := parser{file: &File{name: name}}
	root, err := p.document(src)
	if err != nil {
		return nil, err
	}
	err = p.mapping(root, "a card", keys{
		"version": p.version, "effective_from": p.effectiveFrom, "models": p.models, "rules": p.rules})
	if err != nil {
		return nil, err
	}
	return p.file, nil
}

type parser struct{ file *File }

func (p *parser) errorf(n *yaml.Node, format string, args ...any) error {
	return &CardError{File: p.file.name, Line: n.Line, Message: fmt.Sprintf(format, args...)}
}

// document decodes the one YAML document of a file.
func (p *parser) document(src []byte) (*yaml.Node, error) {
	whole := &yaml.Node{Line: 1}
	var doc, next yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(src))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, p.errorf(whole, "the file is empty; a card has models, rules or both")
	case err != nil:
		return nil, p.syntaxError(err)
	}
	if err := dec.Decode(&next); err == nil {
		return nil, p.errorf(&next, "a second document begins here; put everything into one")
	} else if !errors.Is(err, io.EOF) {
		return nil, p.syntaxError(err)
	}
	return doc.Content[0], nil
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// syntaxError takes the line out of the text of a YAML error: it is nowhere else.
func (p *parser) syntaxError(err error) error {
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if found := yamlLine.FindStringSubmatch(err.Error()); found != nil {
		text = err.Error()[len(found[0]):]
		line, _ = strconv.Atoi(found[1])
	}
	return p.errorf(&yaml.Node{Line: line}, "this is not YAML: %s", text)
}

func (p *parser) version(n *yaml.Node) (err error) {
	p.file.label, err = p.text(n, "version")
	if err == nil && (len(p.file.label) > labelBytesMax || strings.ContainsFunc(p.file.label, notPrintable)) {
		return p.errorf(n, "version is a label of at most %d printable characters", labelBytesMax)
	}
	return err
}

func (p *parser) effectiveFrom(n *yaml.Node) error {
	t, err := time.Parse(time.RFC3339, n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return p.errorf(n, "effective_from is not a time; write it as 2026-11-01T00:00:00Z")
	}
	p.file.effectiveFrom = t.UTC()
	return nil
}

func (p *parser) models(n *yaml.Node) error {
	if err := p.kind(n, yaml.MappingNode, "models", "a mapping from provider/model to its entry"); err != nil {
		return err
	}
	return p.pairs(n, "models", func(key, value *yaml.Node) error {
		provider, name, slash := strings.Cut(key.Value, "/")
		if !slash || !customerID.MatchString(provider) || !modelName.MatchString(name) {
			return p.errorf(key, "%q is no model; write provider/model, such as openai/gpt-4o", key.Value)
		}
		m := Model{Provider: provider, Name: name, BytesPerTokenMin: money.One,
			MessageOverhead: messageOverhead, ToolOverhead: toolOverhead}
		if err := p.model(value, &m); err != nil {
			return err
		}
		p.file.models = append(p.file.models, modelEntry{line: key.Line, model: m})
		return nil
	})
}

func (p *parser) model(n *yaml.Node, m *Model) error {
	err := p.mapping(n, "model "+m.FullName(), keys{
		"context":             p.tokens("context", &m.Context),
		"max_output":          p.tokens("max_output", &m.MaxOutput),
		"priced_input":        p.tokens("priced_input", &m.PricedInput),
		"message_overhead":    p.tokens("message_overhead", &m.MessageOverhead),
		"tool_overhead":       p.tokens("tool_overhead", &m.ToolOverhead),
		"bytes_per_token_min": func(v *yaml.Node) error { return p.bytesPerToken(v, &m.BytesPerTokenMin) },
		"limit_field":         func(v *yaml.Node) error { return p.limitField(v, &m.LimitField) },
		"cost":                func(v *yaml.Node) error { return p.prices(v, "cost", &m.cost) },
	})
	switch {
	case err != nil:
		return err
	case m.cost.stated == 0:
		return p.errorf(n, "model %s has no cost; state one price at least, \"0\" if it is free", m.FullName())
	case m.Context > 0 && max(m.MaxOutput, m.PricedInput) > m.Context:
		return p.errorf(n, "max_output and priced_input of %s cannot pass its context of %d tokens", m.FullName(), m.Context)
	}
	return nil
}

func (p *parser) bytesPerToken(n *yaml.Node, dst *money.Multiplier) error {
	text, err := p.text(n, "bytes_per_token_min")
	if err != nil {
		return err
	}
	if *dst, err = money.ParseMultiplier(text); err != nil {
		return p.errorf(n, "bytes_per_token_min cannot be read: %v", err)
	}
	if *dst < money.One || *dst > multiplierMax {
		return p.errorf(n, "bytes_per_token_min is %s; a token stands for 1 to %s bytes", text, multiplierMax)
	}
	return nil
}

var fieldName = regexp.MustCompile(`^[A-Za-z][A-Za-z_]{0,63}$`)

func (p *parser) limitField(n *yaml.Node, dst *string) error {
	text, err := p.text(n, "limit_field")
	if err == nil && !fieldName.MatchString(text) {
		return p.errorf(n, "limit_field %q is no field of a request; write max_tokens or max_completion_tokens", text)
	}
	*dst = text
	return err
}

// prices reads a table of prices by meter and completes it by fallback.
func (p *parser) prices(n *yaml.Node, what string, t *priceTable) error {
	if err := p.kind(n, yaml.MappingNode, what, "a mapping from meters to prices"); err != nil {
		return err
	}
	err := p.pairs(n, what, func(key, value *yaml.Node) error {
		meter, ok := usage.MeterNamed(key.Value)
		if !ok {
			return p.errorf(key, "%q is no meter; the meters are %s", key.Value, meterList())
		}
		price, err := p.price(value, meter)
		if err != nil {
			return err
		}
		t.state(meter, price)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range fallbacks {
		if t.stated.has(f.meter) && !t.stated.has(f.base) {
			return p.errorf(n, "%s has %s but no %s; state both", what, f.meter, f.base)
		}
	}
	t.fallBack()
	return nil
}

func (p *parser) price(n *yaml.Node, meter usage.Meter) (money.Pico, error) {
	text, err := p.text(n, meter.String())
	if err != nil {
		return 0, err
	}
	parse, per := money.ParsePerUnit, "unit"
	if meter.Tokens() {
		parse, per = money.ParsePerMillion, "million tokens"
	}
	price, err := parse(text)
	switch {
	case err != nil:
		return 0, p.errorf(n, "the price of %s (dollars per %s) cannot be read: %v", meter, per, err)
	case strings.HasPrefix(text, "-"):
		return 0, p.errorf(n, "the price of %s is %s; a price is 0 or more", meter, text)
	case price > UnitPriceMax:
		return 0, p.errorf(n, "the price of %s is %s dollars per %s; one unit costs at most a million dollars", meter, text, per)
	}
	return price, nil
}

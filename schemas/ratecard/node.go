package ratecard

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"weir/schemas/usage"
)

// keys says what reads the value of each key that a mapping may have.
type keys map[string]func(value *yaml.Node) error

// mapping reads a mapping whose keys are known.
func (p *parser) mapping(n *yaml.Node, what string, known keys) error {
	if err := p.kind(n, yaml.MappingNode, what, "a mapping"); err != nil {
		return err
	}
	return p.pairs(n, what, func(key, value *yaml.Node) error {
		read := known[key.Value]
		if read == nil {
			return p.errorf(key, "%s has no key %q; the keys are %s", what, key.Value,
				strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		return read(value)
	})
}

// pairs reads the entries of a mapping node in order and refuses a key that
// comes twice, where YAML readers differ on which one counts.
func (p *parser) pairs(n *yaml.Node, what string, read func(key, value *yaml.Node) error) error {
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			return p.errorf(key, "a key of %s is plain text; aliases and merges are not read", what)
		}
		if line := lines[key.Value]; line != 0 {
			return p.errorf(key, "%s has %q in line %d already; keep one of them", what, key.Value, line)
		}
		lines[key.Value] = key.Line
		if err := read(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) kind(n *yaml.Node, want yaml.Kind, what, form string) error {
	if n.Kind != want {
		return p.errorf(n, "%s must be %s", what, form)
	}
	return nil
}

// text is a scalar as it was written: a number never passes through a float.
func (p *parser) text(n *yaml.Node, what string) (string, error) {
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" && tag != "!!float" && tag != "!!timestamp" {
		return "", p.errorf(n, "%s must be a text or a number; write it in quotes", what)
	}
	if tag == "!!int" && len(n.Value) > 1 && n.Value[0] == '0' {
		return "", p.errorf(n, "%s is %s, which YAML may read as octal; write it without the leading zero", what, n.Value)
	}
	return n.Value, nil
}

func (p *parser) boolean(n *yaml.Node, what string, dst *bool) error {
	if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" {
		return p.errorf(n, "%s must be true or false", what)
	}
	*dst = n.Value == "true"
	return nil
}

func (p *parser) tokens(what string, dst *uint64) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		text, err := p.text(n, what)
		if err != nil {
			return err
		}
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil || v > tokensMax {
			return p.errorf(n, "%s is %q; write a number of tokens from 0 to %d", what, text, tokensMax)
		}
		*dst = v
		return nil
	}
}

func notPrintable(r rune) bool { return !unicode.IsPrint(r) }

func meterList() string {
	var names []string
	for m := range usage.Meter(usage.NumMeters) {
		names = append(names, m.String())
	}
	return strings.Join(names, ", ")
}

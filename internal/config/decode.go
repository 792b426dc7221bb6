package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder writes one layer over a Config. It is our own walk, and not the YAML
// library's, because the three layers share it and because an error must name
// the key by its path and the place it came from.
type decoder struct {
	source string            // a file name, "environment variable WEIR_X", "flag --x"
	lines  bool              // the source has lines
	expand expander          // nil: ${NAME} is plain text
	where  map[string]string // path of a key → where it was last set
}

// expander resolves ${NAME} in the value of the key at path.
type expander func(path, text string) (string, error)

func (d *decoder) at(n *yaml.Node) string {
	if d.lines {
		return fmt.Sprintf("%s:%d", d.source, n.Line)
	}
	return d.source
}

func (d *decoder) fail(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf(d.at(n)+": "+format, args...)
}

// value writes node n into v. A null leaves what is there.
func (d *decoder) value(path string, n *yaml.Node, v reflect.Value) error {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	_, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch {
	case isText:
		return d.scalar(path, n, v)
	case v.Kind() == reflect.Struct:
		return d.object(path, n, v)
	case v.Kind() == reflect.Map:
		return d.providers(path, n, v)
	case v.Kind() == reflect.Slice:
		return d.list(path, n, v)
	}
	return d.scalar(path, n, v)
}

func (d *decoder) object(path string, n *yaml.Node, v reflect.Value) error {
	if n.Kind != yaml.MappingNode {
		return d.fail(n, "%s: want keys and values (%s)", path, strings.Join(keysOf(v.Type()), ", "))
	}
	return d.members(path, n, func(key string, child *yaml.Node) error {
		i := fieldOf(v.Type(), key)
		if i < 0 {
			return d.fail(child, "unknown key %q (known: %s)", join(path, key), strings.Join(keysOf(v.Type()), ", "))
		}
		return d.value(join(path, key), child, v.Field(i))
	})
}

// providers merges by name: a file that sets only openai's key keeps the rest.
func (d *decoder) providers(path string, n *yaml.Node, v reflect.Value) error {
	if n.Kind != yaml.MappingNode {
		return d.fail(n, "%s: want provider names and their settings", path)
	}
	return d.members(path, n, func(key string, child *yaml.Node) error {
		entry := Provider{StreamUsage: true}
		if old := v.MapIndex(reflect.ValueOf(key)); old.IsValid() {
			entry = old.Interface().(Provider)
		}
		d.where[join(path, key)] = d.at(child)
		if err := d.value(join(path, key), child, reflect.ValueOf(&entry).Elem()); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(entry))
		return nil
	})
}

func (d *decoder) members(path string, n *yaml.Node, each func(string, *yaml.Node) error) error {
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, child := n.Content[i], n.Content[i+1]
		if seen[key.Value] {
			return d.fail(key, "key %q is there twice", join(path, key.Value))
		}
		seen[key.Value] = true
		if child.Line == 0 { // made from a flag or variable
			child.Line = key.Line
		}
		if err := each(key.Value, child); err != nil {
			return err
		}
	}
	return nil
}

// list reads a sequence, or one text of items between commas.
func (d *decoder) list(path string, n *yaml.Node, v reflect.Value) error {
	items := []string{}
	switch n.Kind {
	case yaml.ScalarNode:
		text, err := d.text(path, n)
		if err != nil {
			return err
		}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	case yaml.SequenceNode:
		for _, child := range n.Content {
			text, err := d.text(path, child)
			if err != nil {
				return err
			}
			items = append(items, text)
		}
	default:
		return d.fail(n, "%s: want a list", path)
	}
	d.where[path] = d.at(n)
	v.Set(reflect.ValueOf(items))
	return nil
}

// text is the expanded text of a scalar.
func (d *decoder) text(path string, n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", d.fail(n, "%s: want a single value", path)
	}
	if d.expand == nil {
		return n.Value, nil
	}
	text, err := d.expand(path, n.Value)
	if err != nil {
		return "", d.fail(n, "%s: %w", path, err)
	}
	return text, nil
}

func (d *decoder) scalar(path string, n *yaml.Node, v reflect.Value) error {
	text, err := d.text(path, n)
	if err != nil {
		return err
	}
	d.where[path] = d.at(n)
	switch to := v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		err = to.UnmarshalText([]byte(text))
	case *string:
		*to = text
	case *bool:
		if text != "true" && text != "false" {
			err = fmt.Errorf("%q is neither true nor false", text)
		}
		*to = text == "true"
	case *int:
		if *to, err = strconv.Atoi(text); err != nil {
			err = fmt.Errorf("%q is not a whole number", text)
		}
	case *time.Duration:
		if *to, err = time.ParseDuration(text); err != nil {
			err = fmt.Errorf("%q is not a duration (want 30s, 15m, 1h30m)", text)
		}
	default:
		panic("BUG: no decoder for " + v.Type().String())
	}
	if err != nil {
		return d.fail(n, "%s: %w", path, err)
	}
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func keysOf(t reflect.Type) []string {
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i] = t.Field(i).Tag.Get("yaml")
	}
	return keys
}

func fieldOf(t reflect.Type, key string) int {
	for i, k := range keysOf(t) {
		if k == key {
			return i
		}
	}
	return -1
}

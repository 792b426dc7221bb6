package stripefake

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// params are the form fields of a request, nested as Stripe nests them:
// values are string, params or []any of these.
type params map[string]any

const (
	// parametersMax and parameterDepthMax bound a form; Stripe's own requests
	// stay far below.
	parametersMax     = 1000
	parameterDepthMax = 8
)

// parseParams builds the tree of a form and checks each field against the
// endpoint's specification.
func parseParams(form url.Values, spec string) (params, error) {
	if len(form) > parametersMax {
		return nil, invalid("", "", "Too many parameters.")
	}
	allowed := parseSpec(spec)
	root := params{}
	for _, name := range slices.SortedFunc(maps.Keys(form), byPath) {
		path := splitName(name)
		if len(path) > parameterDepthMax {
			return nil, invalid("", name, "Parameters nest too deep.")
		}
		for _, value := range form[name] {
			if err := allowed.check(name, path, value); err != nil {
				return nil, err
			}
			root.put(path, value)
		}
	}
	for _, name := range allowed.required {
		switch v := root[name].(type) {
		case nil:
			return nil, invalid("parameter_missing", name, "Missing required param: %s.", name)
		case string:
			if v == "" {
				return nil, invalid("parameter_invalid_empty", name, "You passed an empty string for '%s'.", name)
			}
		}
	}
	return root, nil
}

// byPath orders field names so that the places of a list come in their order.
func byPath(a, b string) int {
	return slices.CompareFunc(splitName(a), splitName(b), func(x, y string) int {
		i, iList := listIndex(x)
		j, jList := listIndex(y)
		if iList && jList {
			return i - j
		}
		return strings.Compare(x, y)
	})
}

// splitName turns a[b][0][c] into a, b, 0, c.
func splitName(name string) []string {
	head, rest, nested := strings.Cut(name, "[")
	if !nested {
		return []string{name}
	}
	return append([]string{head}, strings.Split(strings.TrimSuffix(rest, "]"), "][")...)
}

// put stores value at path; a number or an empty bracket is a place in a list.
func (p params) put(path []string, value string) {
	if len(path) == 1 {
		p[path[0]] = value
		return
	}
	key := path[0]
	if index, isList := listIndex(path[1]); isList {
		list, _ := p[key].([]any)
		if index < 0 || index > len(list) {
			index = len(list)
		}
		if index == len(list) {
			list = append(list, params{})
		}
		if len(path) == 2 {
			list[index] = value
		} else if item, ok := list[index].(params); ok {
			item.put(path[2:], value)
		}
		p[key] = list
		return
	}
	child, ok := p[key].(params)
	if !ok {
		child = params{}
		p[key] = child
	}
	child.put(path[1:], value)
}

func listIndex(s string) (int, bool) {
	if s == "" {
		return -1, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// spec says which parameters an endpoint takes.
type spec struct {
	types    map[string]string
	required []string
}

// parseSpec reads "amount:int! currency! metadata.* items.price": dotted names
// without list places, a type after the colon (int, bool, or the words allowed,
// with bars), ! for required ones, * for any name below.
func parseSpec(text string) spec {
	out := spec{types: map[string]string{"expand": ""}}
	for _, word := range strings.Fields(text) {
		word, required := strings.CutSuffix(word, "!")
		name, kind, _ := strings.Cut(word, ":")
		out.types[name] = kind
		if required {
			out.required = append(out.required, name)
		}
	}
	return out
}

func (s spec) check(name string, path []string, value string) error {
	var plain []string
	for i, part := range path {
		if _, isList := listIndex(part); i == 0 || !isList {
			plain = append(plain, part)
		}
	}
	dotted := strings.Join(plain, ".")
	kind, ok := s.types[dotted]
	if parent := strings.LastIndexByte(dotted, '.'); !ok && parent > 0 {
		if _, ok = s.types[dotted[:parent]+".*"]; ok {
			return checkMetadata(name, dotted[parent+1:], value)
		}
	}
	if _, isHash := s.types[dotted+".*"]; isHash && value == "" {
		return nil // an empty string unsets the whole hash
	}
	if !ok {
		return invalid("parameter_unknown", name, "Received unknown parameter: %s", name)
	}
	return checkValue(kind, name, value)
}

const (
	// metadataKeyMax and metadataValueMax are Stripe's, in characters.
	metadataKeyMax   = 40
	metadataValueMax = 500
)

func checkMetadata(name, key, value string) error {
	if len([]rune(key)) > metadataKeyMax {
		return invalid("", name, "Metadata keys have at most %d characters.", metadataKeyMax)
	}
	if len([]rune(value)) > metadataValueMax {
		return invalid("", name, "Metadata values have at most %d characters.", metadataValueMax)
	}
	return nil
}

func checkValue(kind, name, value string) error {
	switch {
	case kind == "" || value == "":
		return nil
	case kind == "int":
		if _, err := strconv.ParseInt(value, 10, 64); err != nil {
			return invalid("parameter_invalid_integer", name, "Invalid integer: %s", value)
		}
	case kind == "bool":
		if value != "true" && value != "false" {
			return invalid("", name, "Invalid boolean: %s", value)
		}
	case !slices.Contains(strings.Split(kind, "|"), value):
		return invalid("", name, "Invalid %s: must be one of %s", name, strings.ReplaceAll(kind, "|", ", "))
	}
	return nil
}

// at follows a dotted path of hashes; nil if it ends early.
func (p params) at(path string) any {
	var here any = p
	for _, key := range strings.Split(path, ".") {
		inner, ok := here.(params)
		if !ok {
			return nil
		}
		here = inner[key]
	}
	return here
}

func (p params) has(path string) bool { return p.at(path) != nil }

func (p params) str(path string) string {
	s, _ := p.at(path).(string)
	return s
}

// num is the number at path, or without if absent. The specification has
// checked that it is one.
func (p params) num(path string, without int64) int64 {
	n, err := strconv.ParseInt(p.str(path), 10, 64)
	if err != nil {
		return without
	}
	return n
}

func (p params) flag(path string) bool { return p.str(path) == "true" }

// strs is the list of texts at path.
func (p params) strs(path string) (out []string) {
	list, _ := p.at(path).([]any)
	for _, v := range list {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// items is the list of hashes at path.
func (p params) items(path string) (out []params) {
	list, _ := p.at(path).([]any)
	for _, v := range list {
		if h, ok := v.(params); ok {
			out = append(out, h)
		}
	}
	return out
}

// orNull is the text at path as Stripe shows it: null for absent and empty.
func (p params) orNull(path string) any {
	if s := p.str(path); s != "" {
		return s
	}
	return nil
}

// merge writes the metadata at path over what o has: an empty value removes its
// key, an empty string in place of the hash removes all.
func (p params) merge(o object, path string) {
	if s, ok := p.at(path).(string); ok && s == "" {
		o["metadata"] = object{}
		return
	}
	hash, _ := p.at(path).(params)
	held := o.sub("metadata")
	for k, v := range hash {
		if text := fmt.Sprint(v); text == "" {
			delete(held, k)
		} else {
			held[k] = text
		}
	}
}

// copyTexts writes the named texts that the request has into o.
func (p params) copyTexts(o object, names ...string) {
	for _, n := range names {
		if p.has(n) {
			o[n] = p.orNull(n)
		}
	}
}

package boundtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"weir/schemas/usage"
)

// prompt is a request as its sender means it: it can be written as a body, and
// rendered as the text that a model reads.
type prompt struct {
	api      string // chat, messages or embeddings
	model    string
	system   []string
	messages []message
	tools    []tool
	inputs   []string // embeddings; the numbers of tokens instead if none
	numbers  []int
	limit    int         // output tokens, 0 if left out
	n        int         // answers
	cache    usage.Meter // the meter of input: a cache write where one is asked for
	features string      // switched on by a header
	choice   string      // of a tool; Anthropic only
	spelling spelling
	indent   bool
}

type message struct {
	role, name string
	array      bool // the content is an array of parts
	result     bool // the parts are a tool's result, where that is a part itself
	search     bool // each part is a result of a search; Anthropic only
	parts      []string
	call       *schema // arguments of a tool call
}

type tool struct {
	name, description string
	schema            schema
}

// schema is a JSON Schema: an object with properties, a choice of strings or a
// plain type.
type schema struct {
	description string
	kind        string
	choices     []string
	names       []string
	properties  []schema
}

// body writes the request.
func (p *prompt) body() string {
	members := []string{`"model":` + p.spelling.quote(p.model)}
	add := func(name, value string) { members = append(members, `"`+name+`":`+value) }
	switch p.api {
	case "embeddings":
		if len(p.inputs) > 0 {
			add("input", array(p.inputs, p.spelling.quote))
		} else {
			add("input", array(p.numbers, func(n int) string { return fmt.Sprint(n) }))
		}
	case "messages":
		if len(p.system) > 0 {
			add("system", array(p.system, p.block))
		}
		add("messages", array(p.messages, p.message))
		if p.choice != "" {
			add("tool_choice", p.choice)
		}
		if len(p.tools) > 0 {
			add("tools", array(p.tools, func(t tool) string {
				return `{"name":` + p.spelling.quote(t.name) + `,"description":` + p.spelling.quote(t.description) + `,"input_schema":` + t.schema.json(p.spelling, ",", ":") + `}`
			}))
		}
	default:
		add("messages", array(p.messages, p.message))
		if len(p.tools) > 0 {
			add("tools", array(p.tools, func(t tool) string {
				return `{"type":"function","function":{"name":` + p.spelling.quote(t.name) + `,"description":` + p.spelling.quote(t.description) + `,"parameters":` + t.schema.json(p.spelling, ",", ":") + `}}`
			}))
		}
		if p.n > 1 {
			add("n", fmt.Sprint(p.n))
		}
	}
	if p.limit > 0 {
		add("max_tokens", fmt.Sprint(p.limit))
	}
	if p.cache != usage.Input && !p.blocks() {
		add("cache_control", cacheControl[p.cache])
	}
	text := "{" + strings.Join(members, ",") + "}"
	if !p.indent {
		return text
	}
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "    "); err != nil {
		panic(err) // the bodies made here are JSON
	}
	return b.String()
}

func array[T any](list []T, write func(T) string) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = write(v)
	}
	return "[" + strings.Join(texts, ",") + "]"
}

// blocks tells whether there are any that can carry the cache control; else the
// request carries it.
func (p *prompt) blocks() bool {
	return len(p.system) > 0 || slices.ContainsFunc(p.messages, func(m message) bool { return m.array })
}

var cacheControl = map[usage.Meter]string{usage.CacheWrite5m: `{"type":"ephemeral"}`, usage.CacheWrite1h: `{"type":"ephemeral","ttl":"1h"}`}

// block is a part of a message's content.
func (p *prompt) block(text string) string {
	cache := ""
	if p.cache != usage.Input {
		cache = `,"cache_control":` + cacheControl[p.cache]
	}
	return `{"type":"text","text":` + p.spelling.quote(text) + cache + `}`
}

func (p *prompt) message(m message) string {
	content := p.spelling.quote(strings.Join(m.parts, ""))
	if m.array {
		content = array(m.parts, p.block)
		if m.search {
			content = array(m.parts, func(text string) string {
				return `{"type":"search_result","source":"s","title":"t","content":[` + p.block(text) + `]}`
			})
		}
		if m.result && p.api == "messages" {
			content = `[{"type":"tool_result","tool_use_id":"t","content":` + content + "}]"
		}
	}
	more := ""
	if m.name != "" {
		more = `,"name":` + p.spelling.quote(m.name)
	}
	if m.call != nil && p.api == "messages" {
		content = `[{"type":"tool_use","id":"t","name":"f","input":` + m.call.json(p.spelling, ",", ":") + `}]`
	} else if m.call != nil {
		more += `,"tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":` + p.spelling.quote(m.call.json(raw, ",", ":")) + `}}]`
	}
	return `{"role":"` + m.role + `","content":` + content + more + `}`
}

// json writes a schema, with what stands between its elements and after names.
func (s *schema) json(sp spelling, comma, colon string) string {
	members := []string{`"type"` + colon + sp.quote(s.kind)}
	if s.description != "" {
		members = append(members, `"description"`+colon+sp.quote(s.description))
	}
	if len(s.choices) > 0 {
		texts := make([]string, len(s.choices))
		for i, c := range s.choices {
			texts[i] = sp.quote(c)
		}
		members = append(members, `"enum"`+colon+"["+strings.Join(texts, comma)+"]")
	}
	if s.kind == "object" {
		texts := make([]string, len(s.names))
		for i, name := range s.names {
			texts[i] = sp.quote(name) + colon + s.properties[i].json(sp, comma, colon)
		}
		members = append(members, `"properties"`+colon+"{"+strings.Join(texts, comma)+"}")
	}
	return "{" + strings.Join(members, comma) + "}"
}

// typescript is how OpenAI's models are known to read a schema.
func (s *schema) typescript(indent string) string {
	switch {
	case len(s.choices) > 0:
		return strings.Join(apply(s.choices, raw.quote), " | ")
	case s.kind == "integer":
		return "number"
	case s.kind != "object":
		return s.kind
	}
	var b strings.Builder
	b.WriteString("{\n")
	for i, name := range s.names {
		p := &s.properties[i]
		if p.description != "" {
			fmt.Fprintf(&b, "%s// %s\n", indent, p.description)
		}
		fmt.Fprintf(&b, "%s%s?: %s,\n", indent, name, p.typescript(indent+"  "))
	}
	return b.String() + indent + "}"
}

func apply[T, U any](list []T, f func(T) U) []U {
	out := make([]U, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}

const (
	// messageFraming and replyFraming are the tokens that OpenAI's guide to
	// counting adds for every message, with one more for a name, and for the
	// reply that is begun.
	messageFraming, nameFraming, replyFraming = 3, 1, 3
	// toolPrompt is more tokens than any length that Anthropic publishes of the
	// system prompt by which its models are told of tools.
	toolPrompt = 900
)

// tokens is how many input tokens a provider bills. Every text is counted
// alone: side by side, texts can only merge.
func (p *prompt) tokens(v *vocabulary) int {
	sum := 0
	for _, text := range p.inputs {
		sum += v.most(text)
	}
	if p.api == "embeddings" {
		return sum + len(p.numbers)
	}
	sum += replyFraming
	for _, text := range p.system {
		sum += messageFraming + v.most(text)
	}
	for _, m := range p.messages {
		sum += messageFraming + v.most(m.role)
		for _, text := range m.parts {
			sum += v.most(text)
		}
		if m.search {
			sum += len(m.parts) * v.most(`<search_result><source>s</source><title>t</title></search_result>`)
		}
		if m.name != "" {
			sum += nameFraming + v.most(m.name)
		}
		if m.call != nil {
			sum += v.most("to=functions.f" + m.call.json(raw, ", ", ": "))
		}
	}
	return sum + p.toolTokens(v)
}

func (p *prompt) toolTokens(v *vocabulary) int {
	if len(p.tools) == 0 {
		return 0
	}
	sum := toolPrompt
	if p.api == "chat" {
		sum = messageFraming + v.most("system# Tools\n\n## functions\n\nnamespace functions {\n\n} // namespace functions")
	}
	for _, t := range p.tools {
		if p.api == "chat" {
			sum += v.most("// " + t.description + "\ntype " + t.name + " = (_: " + t.schema.typescript("") + ") => any;\n\n")
			continue
		}
		sum += v.most(`<function>{"description": ` + raw.quote(t.description) + `, "name": ` + raw.quote(t.name) + `, "parameters": ` + t.schema.json(raw, ", ", ": ") + "}</function>\n")
	}
	return sum
}

// newSchema makes an object whose texts are of a kind, nested up to depth.
func newSchema(r *rand.Rand, text func() string, depth int) schema {
	s := schema{kind: "object"}
	for range 1 + r.IntN(4) {
		p := schema{kind: pick(r, "string", "integer", "boolean", "number"), description: text()}
		switch {
		case depth > 0 && r.IntN(2) == 0:
			p = newSchema(r, text, depth-1)
		case r.IntN(3) == 0:
			p.kind, p.choices = "string", []string{text(), text(), text()}
		}
		s.names, s.properties = append(s.names, pick(r, "a", "city", "unit", "maximum_results")+fmt.Sprint(len(s.names))), append(s.properties, p)
	}
	return s
}

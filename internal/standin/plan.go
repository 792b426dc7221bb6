package standin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultOutputTokens bounds an answer whose request names no limit and no count.
	defaultOutputTokens = 64
	// unlimitedOutputTokens bounds a count asked for by marker when the request names no limit.
	unlimitedOutputTokens = 16384
	// randomOutputTokens is the spread of answers' lengths: 1 to this many.
	randomOutputTokens = 256
	// defaultChunks is how many deltas a stream has at most when no marker says.
	defaultChunks = 20
	// defaultStall outlasts every test that waits for something else.
	defaultStall = time.Minute
	// choicesMax is the largest n the chat API takes.
	choicesMax = 128
)

// Faults a marker can ask for by fault=NAME.
const (
	faultRefuse       = "refuse"        // the connection is reset before any byte
	faultTimeout      = "timeout"       // nothing is ever answered
	faultBreakHeaders = "break-headers" // status and headers, then the connection breaks
	faultBreakBody    = "break-body"    // half of a JSON body, then the connection breaks
	faultBreakStream  = "break-stream"  // after= deltas, then the connection breaks
	faultNoTerminator = "no-terminator" // after= deltas, then a clean end without terminator
	faultErrorEvent   = "error-event"   // after= deltas, then the provider's error event
	faultStall        = "stall"         // after= deltas, a silence of stall=, then the rest
	faultNoUsage      = "no-usage"      // a whole answer that carries no usage
	faultGarbage      = "garbage"       // status 200 and bytes that are not the API's
)

var faults = map[string]bool{
	faultRefuse: true, faultTimeout: true, faultBreakHeaders: true, faultBreakBody: true, faultBreakStream: true,
	faultNoTerminator: true, faultErrorEvent: true, faultStall: true, faultNoUsage: true, faultGarbage: true,
}

// snapshots are the dated models that answer for an undated name, as the providers do it.
var snapshots = map[string]string{
	"gpt-4o":            "gpt-4o-2024-08-06",
	"gpt-4o-mini":       "gpt-4o-mini-2024-07-18",
	"gpt-4.1":           "gpt-4.1-2025-04-14",
	"gpt-4.1-mini":      "gpt-4.1-mini-2025-04-14",
	"gpt-4.1-nano":      "gpt-4.1-nano-2025-04-14",
	"gpt-5":             "gpt-5-2025-08-07",
	"gpt-5-mini":        "gpt-5-mini-2025-08-07",
	"o3":                "o3-2025-04-16",
	"o4-mini":           "o4-mini-2025-04-16",
	"claude-opus-4-1":   "claude-opus-4-1-20250805",
	"claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
	"claude-haiku-4-5":  "claude-haiku-4-5-20251001",
}

// ask is the part of a request body that decides the answer. Of a repeated key the last
// counts, as with the providers.
type ask struct {
	Model               string          `json:"model"`
	Messages            json.RawMessage `json:"messages"`
	System              json.RawMessage `json:"system"`
	Tools               json.RawMessage `json:"tools"`
	Input               json.RawMessage `json:"input"`
	Stream              bool            `json:"stream"`
	StreamOptions       streamOptions   `json:"stream_options"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	N                   int             `json:"n"`
	Dimensions          int             `json:"dimensions"`
	EncodingFormat      string          `json:"encoding_format"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// plan is all that will be done for one request, decided before a byte is sent. It depends on
// the prompt, the controls and the seed alone, not on what a proxy adds to the body.
type plan struct {
	model    string // as answered, a JSON string with its quotes
	meters   Meters // of the whole answer
	unknown  int    // reported in a usage member that no API documents; 0 = no such member
	choices  int
	chunks   int    // deltas in a stream, never more than visible output tokens
	after    int    // deltas before a fault
	usage    bool   // an OpenAI stream ends with a usage chunk
	limited  bool   // the output ends at the request's limit
	tool     string // the output is a call of it; "" = text
	delay    time.Duration
	interval time.Duration
	stall    time.Duration
	fault    string
	status   int // of an error to answer, else 0
}

// limit is the smallest output limit the request names; ok is false when it names none.
func (a *ask) limit() (tokens int, ok bool) {
	for _, named := range []*int{a.MaxTokens, a.MaxCompletionTokens} {
		if named != nil && (!ok || *named < tokens) {
			tokens, ok = *named, true
		}
	}
	return tokens, ok
}

// controls are the members of a marker such as [[standin in=2000 out=10 fault=stall]] in the
// prompt. The first four are -1 where the marker is silent.
type controls struct {
	in, out, chunks, after                         int
	cached, cw5m, cw1h, reasoning, unknown, status int
	delay, interval, stall                         time.Duration
	fault, tool                                    string
}

// toolName is what may be called: a name that needs no escaping in JSON.
var toolName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// readControls returns what the first marker in the prompt asks for.
func readControls(prompt []byte, opts *Options) (controls, error) {
	c := controls{in: -1, out: -1, chunks: -1, after: -1, delay: opts.Latency, interval: opts.TokenInterval, stall: defaultStall}
	_, rest, found := bytes.Cut(prompt, []byte("[[standin"))
	if !found {
		return c, nil
	}
	text, _, closed := bytes.Cut(rest, []byte("]]"))
	if !closed {
		return c, errors.New("a stand-in marker must end with ]]")
	}
	numbers := map[string]*int{"in": &c.in, "out": &c.out, "cached": &c.cached, "cw5m": &c.cw5m, "cw1h": &c.cw1h,
		"reasoning": &c.reasoning, "unknown": &c.unknown, "chunks": &c.chunks, "after": &c.after, "status": &c.status}
	spans := map[string]*time.Duration{"delay": &c.delay, "interval": &c.interval, "stall": &c.stall}
	for _, member := range strings.Fields(string(text)) {
		name, value, _ := strings.Cut(member, "=")
		var err error
		if to := numbers[name]; to != nil {
			var v uint64
			v, err = strconv.ParseUint(value, 10, 31)
			*to = int(v)
		} else if to := spans[name]; to != nil {
			*to, err = time.ParseDuration(value)
		} else if name == "fault" && faults[value] {
			c.fault = value
		} else if name == "tool" && toolName.MatchString(value) {
			c.tool = value
		} else {
			err = errors.New("unknown control")
		}
		if err != nil {
			return c, fmt.Errorf("cannot read %q in a stand-in marker: %w", member, err)
		}
	}
	if c.status != 0 && (c.status < 400 || c.status > 599) {
		return c, fmt.Errorf("status=%d in a stand-in marker must be an error", c.status)
	}
	return c, nil
}

// newPlan decides the answer of an API. The marker's counts are as the provider reports them:
// cached input is beside the input at Anthropic and within it at OpenAI.
func newPlan(a *ask, opts *Options, api string) (plan, error) {
	prompt := a.Messages // its bytes bound the prompt's tokens: no proxy changes them
	if api == apiEmbeddings {
		prompt = a.Input
	}
	c, err := readControls(prompt, opts)
	if err != nil {
		return plan{}, err
	}
	p := plan{choices: 1, usage: a.StreamOptions.IncludeUsage && c.fault != faultNoUsage,
		unknown: c.unknown, delay: c.delay, interval: c.interval, stall: c.stall, fault: c.fault, tool: c.tool, status: c.status}
	model := a.Model
	if dated, ok := snapshots[model]; ok {
		model = dated
	}
	quoted, err := json.Marshal(model)
	if err != nil {
		return plan{}, err
	}
	p.model = string(quoted)
	switch api {
	case apiChat:
		p.choices = min(max(a.N, 1), choicesMax)
	case apiMessages:
		c.reasoning = 0 // this API counts thinking as output and does not tell it apart
	case apiEmbeddings:
		c.cached = 0 // this API caches nothing
	}
	p.planInput(&c, prompt, len(a.System)+len(a.Tools), api == apiMessages)
	if api != apiEmbeddings {
		p.planOutput(&c, a, prompt, opts.Seed)
	}
	return p, nil
}

// planInput keeps the sum of all prompt meters within the bytes of the prompt: no tokenizer
// makes more tokens than bytes, and a caller's bound on the input rests on that. beside tells
// where cached tokens are counted: beside the input or within it.
func (p *plan) planInput(c *controls, prompt []byte, moreBytes int, beside bool) {
	left := len(prompt) + moreBytes
	take := func(want int) int {
		got := min(want, left)
		left -= got
		return got
	}
	in := c.in
	if in < 0 {
		in = max(1, left/4)
	}
	if beside {
		p.meters.Input = take(in)
		p.meters.CachedInput = take(c.cached)
		p.meters.CacheWrite5m = take(c.cw5m)
		p.meters.CacheWrite1h = take(c.cw1h)
		return
	}
	total := take(in)
	p.meters.CachedInput = min(c.cached, total)
	p.meters.Input = total - p.meters.CachedInput
}

func (p *plan) planOutput(c *controls, a *ask, prompt []byte, seed uint64) {
	limit, named := a.limit()
	out := c.out
	if out < 0 {
		sum := crc32.Update(uint32(seed)^uint32(seed>>32), castagnoli, prompt)
		out = 1 + int(sum%randomOutputTokens)
		if !named {
			limit = defaultOutputTokens
		}
	} else if !named {
		limit = unlimitedOutputTokens
	}
	p.limited = out >= limit
	out = min(out, limit) * p.choices
	p.meters.Reasoning = min(c.reasoning, out)
	p.meters.Output = out - p.meters.Reasoning
	p.chunks = min(defaultChunks, p.meters.Output)
	if c.chunks >= 0 {
		p.chunks = min(c.chunks, p.meters.Output)
	}
	p.after = p.chunks / 2
	if c.after >= 0 {
		p.after = min(c.after, p.chunks)
	}
}

// argument is the text around an argument that a tool is called with: what
// stands before it in the delta i of the call, and what behind. Choices take
// turns, so each has its first delta among the first and its last among the last.
func (p *plan) argument(i int) (before, behind string) {
	if i < p.choices {
		before = argumentBefore
	}
	if i >= p.chunks-p.choices {
		behind = argumentBehind
	}
	return before, behind
}

// The arguments of a call are an object with one text.
const argumentBefore, argumentBehind = `{"text":"`, `"}`

// served are the meters of an answer cut after so many deltas: the thinking came first, and
// the visible output is spread evenly over the deltas, at least one token in each.
func (p *plan) served(deltas int) Meters {
	m := p.meters
	if deltas < p.chunks {
		m.Output = int(int64(m.Output) * int64(deltas) / int64(p.chunks))
	}
	return m
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

package provider_test

// The oracle says what a transcript must be read as and what it must cost, from
// the providers' documents and the transcript alone. It is written to be
// checked by eye: whole values in maps, exact fractions, no regard to speed. It
// shares no code with the gateway: its files import nothing of this module and
// use no name that is declared outside them, and a test says so.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"
)

// transcript is one request with its answer, as they went over the wire, and
// the prices that hold for it.
type transcript struct {
	name              string
	api               string // openai.chat, openai.embeddings, anthropic.messages
	request, response []byte
	stream            bool
	tariff            tariff
}

// verdict is all that a transcript says.
type verdict struct {
	ask              ask
	model            string
	terminated       bool // the stream reached its terminator, the body is one whole JSON object
	failed           bool // there is an error in the answer
	output           bool // something of use was generated
	inputSeen        bool // that side was reported: zero is a report, null is none
	outputSeen       bool
	meters           map[string]int64 // exclusive, as reported
	deltas, bytes    int64            // deltas with generated content, and its bytes as they are written in JSON
	unknown          []string         // counted by the provider, without a meter here
	odd              bool             // a member has a type that no document gives it
	forwarded        []byte           // what the client receives
	terminatorEnd    int              // how much of it there is with the terminator
	withheld         int              // bytes of the answer that are weir's alone
	counts           map[string]count // of the usage object, by path
	estimate         map[string]int64 // what is billed, where usage is missing
	status, row      string
	billed           map[string]int64
	modelBilled      string
	cost, price      *big.Int // nano-dollars
	unpriced         bool     // the tariff lacks a meter that was reported
	generated        int64    // bytes of content in the object being read
	parts            int64    // choices in it that have content
	reported, listed bool     // the object being read has usage; has a list of results
	empty            bool     // which is empty
}

// count is one number of a usage object. Without a whole number from 0 to 2^40
// it is broken.
type count struct {
	n      int64
	broken bool
}

type object = map[string]json.RawMessage

// members decodes an object. An absent or null value has none.
func members(raw []byte) (object, bool) {
	var o object
	if !utf8.Valid(raw) || json.Unmarshal(raw, &o) != nil {
		return nil, false
	}
	return o, o != nil
}

func elements(raw []byte) (list []json.RawMessage, ok bool) {
	return list, json.Unmarshal(raw, &list) == nil && list != nil
}

func null(raw []byte) bool { return len(raw) == 0 || string(raw) == "null" }

func text(raw []byte) (string, bool) {
	var s *string
	if json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

// judge reads a transcript.
func judge(t transcript) *verdict {
	v := &verdict{counts: map[string]count{}, meters: map[string]int64{}, ask: readAsk(t.api, t.request)}
	if t.stream {
		v.readStream(t)
	} else {
		v.readBody(t)
	}
	v.count(t.api)
	v.estimateMissing()
	v.decide(t.stream)
	v.bill(t.tariff)
	return v
}

// readBody reads a whole answer.
func (v *verdict) readBody(t transcript) {
	v.forwarded, v.terminatorEnd = t.response, len(t.response)
	o, ok := members(t.response)
	if !ok {
		return
	}
	v.terminated = true
	v.answer(t.api, o)
	if v.generated > 0 {
		v.deltas, v.bytes = 1, v.generated
	}
	v.output = v.generated > 0 || v.listed && !v.empty
}

// readStream reads the events up to the terminator. Of a chat, a chunk with
// usage and without choices is for whoever asked for it: weir did if the client
// did not.
func (v *verdict) readStream(t transcript) {
	for _, e := range serverSentEvents(t.response) {
		raw := t.response[e.from:e.to]
		if v.terminated {
			v.forwarded = append(v.forwarded, raw...)
			continue
		}
		v.generated, v.parts, v.reported, v.listed, v.empty = 0, 0, false, false, false
		if t.api == "openai.chat" && strings.TrimSpace(e.data) == "[DONE]" {
			v.terminated = true
		} else if o, ok := members([]byte(e.data)); ok {
			v.event(t.api, o)
		}
		if v.generated > 0 {
			v.deltas += max(1, v.parts) // a chunk may carry a delta of every choice
			v.bytes += v.generated
			v.output = true
		}
		if t.api == "openai.chat" && !v.ask.usage && v.reported && v.listed && v.empty {
			v.withheld += len(raw)
			continue
		}
		v.forwarded = append(v.forwarded, raw...)
		v.terminatorEnd = len(v.forwarded)
	}
}

func (v *verdict) answer(api string, o object) {
	v.failure(o)
	v.named(o)
	switch api {
	case "openai.chat":
		v.chat(o, "message")
	case "openai.embeddings":
		v.results(o["data"])
		if usage, ok := members(o["usage"]); ok {
			v.usage("", usage, embeddingsUsage)
		} else if !null(o["usage"]) {
			v.odd = true
		}
	case "anthropic.messages":
		for _, block := range v.results(o["content"]) {
			v.block(block)
		}
		v.messageUsage(o["usage"], false)
	}
}

func (v *verdict) event(api string, o object) {
	v.failure(o)
	if api == "openai.chat" {
		v.named(o)
		v.chat(o, "delta")
		return
	}
	if kind, _ := text(o["type"]); kind == "message_stop" {
		v.terminated = true
	}
	if start, ok := members(o["message"]); ok { // of message_start
		v.named(start)
		v.messageUsage(start["usage"], true)
	} else if !null(o["message"]) {
		v.odd = true
	}
	if delta, ok := members(o["delta"]); ok {
		v.block(delta)
	} else if !null(o["delta"]) {
		v.odd = true
	}
	v.messageUsage(o["usage"], false) // of message_delta
}

func (v *verdict) failure(o object) { v.failed = v.failed || !null(o["error"]) }

func (v *verdict) named(o object) {
	if name, ok := text(o["model"]); ok {
		v.model = name
	} else if !null(o["model"]) {
		v.odd = true
	}
}

// results reads the list of results, which tells whether there is any output.
func (v *verdict) results(raw []byte) (objects []object) {
	list, ok := elements(raw)
	v.odd = v.odd || !ok && !null(raw)
	v.listed, v.empty = ok, len(list) == 0
	for _, raw := range list {
		o, ok := members(raw)
		v.odd = v.odd || !ok
		objects = append(objects, o)
	}
	return objects
}

// chat reads an answer of chat completions, or a chunk of one. The last usage
// object stands for all before it.
func (v *verdict) chat(o object, content string) {
	for _, choice := range v.results(o["choices"]) {
		m, ok := members(choice[content])
		v.odd = v.odd || !ok && !null(choice[content])
		before := v.generated
		v.content(m, "content", "refusal", "reasoning_content", "reasoning")
		v.function(m["function_call"])
		calls, ok := elements(m["tool_calls"])
		v.odd = v.odd || !ok && !null(m["tool_calls"])
		for _, raw := range calls {
			call, ok := members(raw)
			v.odd = v.odd || !ok
			v.function(call["function"])
			v.function(call["custom"])
		}
		if v.generated > before {
			v.parts++
		}
	}
	v.word("service_tier", o["service_tier"], "default", "auto", "")
	if usage, ok := members(o["usage"]); ok {
		v.reported = true
		v.counts = map[string]count{}
		v.usage("", usage, chatUsage)
	} else if !null(o["usage"]) {
		v.odd = true
	}
}

func (v *verdict) function(raw []byte) {
	f, ok := members(raw)
	v.odd = v.odd || !ok && !null(raw)
	v.content(f, "name", "arguments", "input")
}

// block reads a block of content of a message, or a delta of one. Signatures
// and citations are not generated tokens, the input of a tool is.
func (v *verdict) block(o object) { v.content(o, "text", "thinking", "partial_json", "input") }

// content counts generated content: of a string what stands between its quotes.
func (v *verdict) content(o object, names ...string) {
	for _, name := range names {
		raw := o[name]
		if null(raw) {
			continue
		}
		v.generated += int64(len(raw))
		if raw[0] == '"' {
			v.generated -= 2
		}
	}
}

// messageUsage reads a usage object of a message. They complete each other
// member by member, the last figure of each stands. What message_start says of
// the output is only its beginning.
func (v *verdict) messageUsage(raw []byte, begun bool) {
	usage, ok := members(raw)
	if !ok {
		v.odd = v.odd || !null(raw)
		return
	}
	known := messageUsage
	if begun {
		known = messageStartUsage
	}
	v.usage("", usage, known)
	v.word("service_tier", usage["service_tier"], "standard")
	v.word("speed", usage["speed"], "standard")
	v.word("inference_geo", usage["inference_geo"], "global", "not_available", "")
}

// word notes a word that has a price of its own.
func (v *verdict) word(name string, raw []byte, free ...string) {
	w, ok := text(raw)
	if !ok {
		v.odd = v.odd || !null(raw)
		return
	}
	for _, f := range free {
		if w == f {
			return
		}
	}
	v.unknown = append(v.unknown, name)
}

// The members of usage objects by their paths: counts, groups of members, and
// what says nothing that is not said elsewhere.
var (
	chatUsage = map[string]string{
		"prompt_tokens": "count", "completion_tokens": "count", "total_tokens": "nothing",
		"prompt_tokens_details":                                "group",
		"prompt_tokens_details.cached_tokens":                  "count",
		"prompt_tokens_details.audio_tokens":                   "count",
		"prompt_tokens_details.text_tokens":                    "nothing",
		"completion_tokens_details":                            "group",
		"completion_tokens_details.reasoning_tokens":           "count",
		"completion_tokens_details.audio_tokens":               "count",
		"completion_tokens_details.text_tokens":                "nothing",
		"completion_tokens_details.accepted_prediction_tokens": "nothing",
		"completion_tokens_details.rejected_prediction_tokens": "nothing",
	}
	embeddingsUsage = map[string]string{"prompt_tokens": "count", "total_tokens": "nothing"}
	messageUsage    = messageUsageOf("count")
	// messageStartUsage is that of a message that has only begun.
	messageStartUsage = messageUsageOf("nothing")
)

func messageUsageOf(output string) map[string]string {
	return map[string]string{
		"input_tokens": "count", "cache_read_input_tokens": "count", "cache_creation_input_tokens": "count", "output_tokens": output,
		"cache_creation": "group", "cache_creation.ephemeral_5m_input_tokens": "count", "cache_creation.ephemeral_1h_input_tokens": "count",
		"output_tokens_details": "group", "output_tokens_details.thinking_tokens": "nothing",
		"server_tool_use": "group", "server_tool_use.web_search_requests": "count", "server_tool_use.web_fetch_requests": "nothing",
		"service_tier": "nothing", "speed": "nothing", "inference_geo": "nothing", // words
	}
}

// usage reads a usage object. Null is no report. A number that is not zero
// under a name that is not known is an unknown meter.
func (v *verdict) usage(path string, o object, known map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(o)) { // want.txt names the first one that is unknown
		at, raw := path+name, o[name]
		switch {
		case null(raw):
		case known[at] == "count":
			n, ok := wholeNumber(raw)
			v.counts[at] = count{n, !ok}
			if !ok {
				v.unknown = append(v.unknown, name)
			}
		case known[at] == "group":
			group, ok := members(raw)
			v.odd = v.odd || !ok
			v.usage(at+".", group, known)
		case known[at] == "" && counts(raw):
			v.unknown = append(v.unknown, name)
		}
	}
}

// counts tells whether a value holds a number that is not zero.
func counts(raw []byte) bool {
	if list, ok := elements(raw); ok {
		for _, e := range list {
			if counts(e) {
				return true
			}
		}
		return false
	}
	if o, ok := members(raw); ok {
		for _, e := range o {
			if counts(e) {
				return true
			}
		}
		return false
	}
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return false
	}
	n, ok := wholeNumber(raw)
	return !ok || n != 0
}

// wholeNumber reads a number, however it is written, that is a whole one from 0
// to 2^40.
func wholeNumber(raw []byte) (int64, bool) {
	mantissa, exponent, _ := bytes.Cut(bytes.ToLower(raw), []byte("e"))
	if len(mantissa) > 0 && len(bytes.Trim(mantissa, "-0.")) == 0 {
		return 0, true
	}
	if len(bytes.TrimLeft(exponent, "+-0")) > 3 {
		return 0, false // beyond any count, and beyond what is worth to write out
	}
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false
	}
	r, ok := new(big.Rat).SetString(string(raw))
	if !ok || !r.IsInt() || r.Sign() < 0 || r.Num().Cmp(big.NewInt(1<<40)) > 0 {
		return 0, false
	}
	return r.Num().Int64(), true
}

// count makes exclusive meters of the counts. One that is no count makes all
// that stands beside it untrustworthy.
func (v *verdict) count(api string) {
	for _, c := range v.counts {
		if c.broken {
			return
		}
	}
	n := func(path string) int64 { return v.counts[path].n }
	seen := func(path string) bool { _, ok := v.counts[path]; return ok }
	if api == "anthropic.messages" {
		v.inputSeen, v.outputSeen = seen("input_tokens"), seen("output_tokens")
		v.meters["input"], v.meters["cached_input"], v.meters["output"] = n("input_tokens"), n("cache_read_input_tokens"), n("output_tokens")
		v.meters["web_searches"] = n("server_tool_use.web_search_requests")
		// The sum of the writes and its parts. What no part claims lives five
		// minutes, the default; parts that contradict their sum are billed as
		// they are and reported.
		sum, short, long := n("cache_creation_input_tokens"), n("cache_creation.ephemeral_5m_input_tokens"), n("cache_creation.ephemeral_1h_input_tokens")
		split := seen("cache_creation.ephemeral_5m_input_tokens") || seen("cache_creation.ephemeral_1h_input_tokens")
		if split && seen("cache_creation_input_tokens") && sum != short+long {
			v.unknown = append(v.unknown, "cache_creation_input_tokens")
		}
		v.meters["cache_write_1h"], v.meters["cache_write_5m"] = long, max(short, sum-long)
		return
	}
	v.inputSeen, v.outputSeen = seen("prompt_tokens"), seen("completion_tokens")
	if api == "openai.embeddings" {
		v.outputSeen = v.inputSeen // vectors are not counted
	}
	// Details are parts of their total, which they never make negative.
	part := func(rest *int64, path, name string) int64 {
		took := min(*rest, n(path))
		if took < n(path) {
			v.unknown = append(v.unknown, name)
		}
		*rest -= took
		return took
	}
	in, out := n("prompt_tokens"), n("completion_tokens")
	v.meters["cached_input"] = part(&in, "prompt_tokens_details.cached_tokens", "cached_tokens")
	v.meters["audio_input"] = part(&in, "prompt_tokens_details.audio_tokens", "prompt audio_tokens")
	v.meters["reasoning"] = part(&out, "completion_tokens_details.reasoning_tokens", "reasoning_tokens")
	v.meters["audio_output"] = part(&out, "completion_tokens_details.audio_tokens", "completion audio_tokens")
	v.meters["input"], v.meters["output"] = in, out
}

// estimateMissing fills in what was not reported: input by the inline bytes of
// the request, eight a token and at least one; output by the content, eight
// bytes a token and at least one a delta.
func (v *verdict) estimateMissing() {
	v.estimate = map[string]int64{}
	for m, n := range v.meters {
		v.estimate[m] = n
	}
	if !v.inputSeen {
		v.estimate["input"] = max(1, v.ask.inlineBytes/8)
	}
	if !v.outputSeen {
		v.estimate["output"] = max(v.deltas, v.bytes/8)
	}
}

func (v *verdict) usageComplete() bool { return v.inputSeen && v.outputSeen }

// decide says what kind of event comes of it. Without usage and without output
// the client got nothing of use: that is leakage and not billed.
func (v *verdict) decide(stream bool) {
	v.row, v.status = "usage", "ok"
	if v.failed || stream && !v.terminated {
		v.status = "partial"
	}
	if !v.usageComplete() && !v.output || !stream && !v.terminated {
		v.row, v.status = "leakage", "unknown"
	}
}

// event is one server-sent event: its data, and where it lies in the stream.
type event struct {
	data     string
	from, to int
}

// serverSentEvents splits a stream by the rules of the HTML standard. An event
// that the end of the stream leaves without its empty line is one all the same:
// it may hold the usage.
func serverSentEvents(b []byte) (events []event) {
	at, from := 0, 0
	if bytes.HasPrefix(b, []byte("\uFEFF")) {
		at = len("\uFEFF")
	}
	data := ""
	for at < len(b) {
		end := at
		for end < len(b) && b[end] != '\n' && b[end] != '\r' {
			end++
		}
		line, next := string(b[at:end]), end
		if next < len(b) {
			next++
			if b[end] == '\r' && next < len(b) && b[next] == '\n' {
				next++
			}
		}
		at = next
		if line == "" {
			events = append(events, event{strings.TrimSuffix(data, "\n"), from, at})
			data, from = "", at
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		if field == "data" {
			data += strings.TrimPrefix(value, " ") + "\n"
		}
	}
	if from < len(b) {
		events = append(events, event{strings.TrimSuffix(data, "\n"), from, len(b)})
	}
	return events
}

// String writes the verdict as it stands in want.txt.
func (v *verdict) String() string {
	var b strings.Builder
	b.WriteString(v.ask.String())
	fmt.Fprintf(&b, "\nanswer: model=%s%s\n", v.model, words("terminated", v.terminated, "failed", v.failed, "output", v.output, "usage", v.usageComplete()))
	fmt.Fprintf(&b, "meters:%s\ndeltas: %d of %d bytes\n", quantities(v.meters), v.deltas, v.bytes)
	if len(v.unknown) > 0 {
		fmt.Fprintf(&b, "unknown: %s\n", v.unknown[0])
	}
	if !v.usageComplete() {
		fmt.Fprintf(&b, "estimate:%s\n", quantities(v.estimate))
	}
	if v.withheld > 0 {
		fmt.Fprintf(&b, "withheld: %d bytes\n", v.withheld)
	}
	return b.String()
}

// words lists the names that are followed by true.
func words(pairs ...any) string {
	s := ""
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == true {
			s += " " + pairs[i].(string)
		}
	}
	return s
}

// quantities lists the meters that count something, in their order in the
// contract.
func quantities(q map[string]int64) string {
	s := ""
	for _, m := range []string{"input", "cached_input", "cache_write_5m", "cache_write_1h", "output", "reasoning", "audio_input", "audio_output", "web_searches"} {
		if q[m] != 0 {
			s += fmt.Sprintf(" %s=%d", m, q[m])
		}
	}
	if s == "" {
		return " none"
	}
	return s
}

package sdk

import (
	"cmp"
	"fmt"
	"maps"
)

// sdkCase is one call and what its SDK must make of it.
type sdkCase struct {
	Case    string `json:"case"`
	How     string `json:"how"` // see hows
	Key     string `json:"key"` // of rig.keys, or its value once it is on its way
	Request object `json:"request"`

	want     object // members of the observation; others are free
	refused  string // code of weir's own refusal; "" = the provider answers, and so straight and through weir must be alike
	attempts int    // how often the SDK tries
	rewrites bool   // weir changes the request on its way
}

type object = map[string]any

// The ways to call; every SDK's driver knows them:
//
//	create    the plain call of the API
//	headers   the same, with the answer's X-Weir headers
//	stream    the API's events one by one
//	helper    the SDK's own accumulator over a stream, or its nearest
//	parallel  32 calls at once by the SDK's asynchronous means, every other one a stream; the n-th asks for n tokens
//	embed     OpenAI's embeddings
//	beta      Anthropic's beta of its API, with a beta feature that is free
//	models    the list of models, all its pages
//	unmetered an API of the SDK that weir does not serve
//	retrieve  one model by its name, which is not served
//	count     Anthropic's counting of tokens, likewise
//	bearer    create, with the key where Anthropic's SDK puts ANTHROPIC_AUTH_TOKEN
const parallelCalls = 32

// filler is how every text of the stand-in begins.
const filler = "the river runs over the weir and nothing passes it unmeasured; "

// provider is what differs between the two in the cases.
type provider struct {
	name         string
	small, other string // models; keys named "limited" may use the first only
	stop         string // the word for an answer that ended by itself
	callStop     string // for one that ended by calling a tool
	price        string // of 20 tokens in and 40 out at the small model, by the provider's public price list
	options      object // documented options that cost nothing
	dear         object // a documented option that costs and has no price here
	tools        []any
	history      []any // messages with a call of the tool and its result
}

// At $0.15 and $0.60 per million: 20 × 0.15 + 40 × 0.60 = 27 millionths.
var openaiProvider = provider{
	name: "openai", small: "gpt-4o-mini", other: "gpt-4o", stop: "stop", callStop: "tool_calls", price: "0.000027",
	options: object{"temperature": 0.25, "top_p": 0.5, "seed": 7, "user": "u-1", "stop": []any{"\n\n"}, "store": false, "n": 1,
		"presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": object{"50256": -100}, "logprobs": false, "service_tier": "auto",
		"response_format": object{"type": "json_object"}, "parallel_tool_calls": false, "tool_choice": "auto", "modalities": []any{"text"}},
	dear: object{"service_tier": "flex"},
	tools: []any{object{"type": "function", "function": object{"name": "gauge", "description": "Reads a river's level.",
		"parameters": object{"type": "object", "properties": object{"river": object{"type": "string"}}, "required": []any{"river"}}}}},
	history: []any{
		object{"role": "assistant", "tool_calls": []any{object{"id": "call_1", "type": "function",
			"function": object{"name": "gauge", "arguments": `{"river":"Elbe"}`}}}},
		object{"role": "tool", "tool_call_id": "call_1", "content": "2.41 m"},
	},
}

// At $1 and $5 per million: 20 × 1 + 40 × 5 = 220 millionths.
var anthropicProvider = provider{
	name: "anthropic", small: "claude-haiku-4-5", other: "claude-sonnet-4-5", stop: "end_turn", callStop: "tool_use", price: "0.00022",
	options: object{"stop_sequences": []any{"\n\n"}, "metadata": object{"user_id": "u-1"}, "service_tier": "standard_only",
		"thinking": object{"type": "disabled"}, "tool_choice": object{"type": "auto", "disable_parallel_tool_use": true},
		"system": []any{object{"type": "text", "text": "You know rivers. Ä €", "cache_control": object{"type": "ephemeral"}}}},
	dear: object{"tools": []any{object{"type": "web_search_20250305", "name": "web_search"}}},
	tools: []any{object{"name": "gauge", "description": "Reads a river's level.",
		"input_schema": object{"type": "object", "properties": object{"river": object{"type": "string"}}, "required": []any{"river"}}}},
	history: []any{
		object{"role": "assistant", "content": []any{object{"type": "tool_use", "id": "toolu_1", "name": "gauge", "input": object{"river": "Elbe"}}}},
		object{"role": "user", "content": []any{object{"type": "tool_result", "tool_use_id": "toolu_1", "content": "2.41 m"}}},
	},
}

// ask is a request whose answer is known: the marker tells the stand-in what to
// do, the case's name tells the recorder whose it is.
func (p *provider) ask(name, marker string, more ...object) object {
	r := object{"model": p.small, "max_tokens": 100,
		"messages": []any{object{"role": "user", "content": fmt.Sprintf("[[standin in=20 out=40 chunks=40 %s]] case:%s", marker, name)}}}
	for _, m := range more {
		maps.Copy(r, m)
	}
	return r
}

// cases are all that is asked of a provider's SDK.
func (p *provider) cases() []sdkCase {
	list := append(p.served(), p.failing()...)
	if p.name == "openai" {
		list = append(list, p.onlyOpenAI()...)
	} else {
		list = append(list, p.onlyAnthropic()...)
	}
	list = append(list, p.refused()...)
	for i := range list {
		c := &list[i]
		c.Key = cmp.Or(c.Key, "rich")
		c.attempts = max(c.attempts, 1)
	}
	return list
}

// served are calls that the provider answers well.
func (p *provider) served() []sdkCase {
	answer := object{"text": text(40), "stop": p.stop, "in": 20, "out": 40}
	talk := p.ask("tools", "", object{"tools": p.tools})
	talk["messages"] = append(talk["messages"].([]any), p.history...)
	outputs := make([]any, parallelCalls)
	for i := range outputs {
		outputs[i] = i + 1
	}
	streamed := object{"text": text(40), "stop": p.stop}
	if p.name == "anthropic" { // its streams always tell the usage
		streamed = answer
	}
	call := object{"call": `gauge {"text":"` + text(40) + `"}`, "stop": p.callStop}
	return []sdkCase{
		{Case: "tool-call", How: "create", Request: p.ask("tool-call", "tool=gauge", object{"tools": p.tools}), want: call},
		{Case: "tool-call-stream", How: "stream", Request: p.ask("tool-call-stream", "tool=gauge", object{"tools": p.tools, "stream": true}),
			want: call, rewrites: p.name == "openai"},
		{Case: "tool-call-helper", How: "helper", Request: p.ask("tool-call-helper", "tool=gauge"), want: call, rewrites: p.name == "openai"},
		{Case: "plain", How: "create", Request: p.ask("plain", ""), want: answer},
		{Case: "stream", How: "stream", Request: p.ask("stream", "", object{"stream": true}), want: streamed, rewrites: p.name == "openai"},
		{Case: "helper", How: "helper", Request: p.ask("helper", ""), want: streamed, rewrites: p.name == "openai"},
		{Case: "tools", How: "create", Request: talk, want: answer},
		{Case: "options", How: "create", Request: p.ask("options", "", object{"tools": p.tools}, p.options), want: answer},
		{Case: "parallel", How: "parallel", Request: p.ask("parallel", ""), want: object{"out": outputs}, attempts: parallelCalls, rewrites: true},
		{Case: caseRecovers, How: "create", Request: p.ask(caseRecovers, ""), want: answer, attempts: 2},
	}
}

// text is the stand-in's text of so many tokens, four bytes each.
func text(tokens int) string {
	t := ""
	for len(t) < 4*tokens {
		t += filler
	}
	return t[:4*tokens]
}

// failing are errors of the provider, which pass through weir.
func (p *provider) failing() []sdkCase {
	var list []sdkCase
	for status, attempts := range map[int]int{400: 1, 401: 1, 404: 1, 413: 1, 429: 3, 500: 3, 503: 3, 529: 3} {
		name := fmt.Sprint("upstream-", status)
		list = append(list, sdkCase{Case: name, How: "create", Request: p.ask(name, fmt.Sprint("status=", status)), attempts: attempts,
			want: object{"status": status, "message": "an error that the prompt asked for"}})
	}
	stream := object{"stream": true}
	return append(list,
		sdkCase{Case: "stream-refused", How: "stream", Request: p.ask("stream-refused", "status=400", stream),
			want: object{"status": 400, "message": "an error that the prompt asked for"}, rewrites: p.name == "openai"},
		sdkCase{Case: "stream-fails", How: "stream", Request: p.ask("stream-fails", "fault=error-event after=3", stream),
			want: object{"text": text(3), "failed": true}, rewrites: p.name == "openai"},
		sdkCase{Case: "stream-breaks", How: "stream", Request: p.ask("stream-breaks", "fault=break-stream after=3", stream),
			want: object{"text": text(3), "failed": true}, rewrites: p.name == "openai"},
	)
}

func (p *provider) onlyOpenAI() []sdkCase {
	asked := object{"stream": true, "stream_options": object{"include_usage": true}}
	embed := func(name string, more object) object {
		r := object{"model": "text-embedding-3-small", "input": []any{"case:" + name, "and one more text"}}
		maps.Copy(r, more)
		return r
	}
	unlimited := p.ask("no-limit", "")
	delete(unlimited, "max_tokens")
	return []sdkCase{
		{Case: "no-limit", How: "create", Request: unlimited, want: object{"text": text(40), "in": 20, "out": 40}, rewrites: true},
		{Case: "stream-usage", How: "stream", Request: p.ask("stream-usage", "", asked),
			want: object{"text": text(40), "stop": "stop", "in": 20, "out": 40, "empty": 1}},
		{Case: "stream-no-usage", How: "stream", Request: p.ask("stream-no-usage", "", object{"stream": true, "stream_options": object{"include_usage": false}}),
			want: object{"text": text(40), "in": nil, "empty": 0}, rewrites: true},
		{Case: "embed", How: "embed", Request: embed("embed", nil), want: object{"vectors": 2, "dimensions": 1536, "first": "0.025516"}},
		{Case: "embed-floats", How: "embed", Request: embed("embed-floats", object{"encoding_format": "float", "dimensions": 8}),
			want: object{"vectors": 2, "dimensions": 8, "first": "0.025516"}},
	}
}

func (p *provider) onlyAnthropic() []sdkCase {
	answer := object{"text": text(40), "in": 20, "out": 40}
	return []sdkCase{
		{Case: "beta", How: "beta", Request: p.ask("beta", ""), want: answer},
		{Case: "bearer", How: "bearer", Request: p.ask("bearer", ""), want: answer},
	}
}

// anthropicTypes are the provider's documented words for the kinds of errors,
// which its SDKs know.
var anthropicTypes = map[int]string{400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
	404: "not_found_error", 422: "invalid_request_error", 429: "rate_limit_error", 502: "api_error"}

// refused are calls that weir answers itself, and its own additions.
func (p *provider) refused() []sdkCase {
	no := func(name, key string, status int, code string, request object) sdkCase {
		want := object{"status": status, "code": code, "request_id": true}
		if p.name == "anthropic" {
			want["type"] = anthropicTypes[status]
		}
		return sdkCase{Case: name, How: "create", Key: key, Request: request, refused: code, want: want}
	}
	list := []sdkCase{
		no("bad-request", "rich", 400, "invalid_request", p.ask("bad-request", "", object{"max_tokens": -1})),
		no("wrong-key", "wrong", 401, "invalid_key", p.ask("wrong-key", "")),
		no("no-money", "poor", 402, "insufficient_funds", p.ask("no-money", "")),
		no("no-money-stream", "poor", 402, "insufficient_funds", p.ask("no-money-stream", "", object{"stream": true})),
		no("model-forbidden", "limited", 403, "model_not_allowed", p.ask("model-forbidden", "", object{"model": p.other})),
		no("frozen", "frozen", 403, "wallet_frozen", p.ask("frozen", "")),
		no("unmetered", "rich", 404, "unmetered_path", nil),
		no("retrieve", "rich", 404, "unmetered_path", object{"model": p.small}),
		no("unpriced-model", "rich", 422, "unpriced_model", p.ask("unpriced-model", "", object{"model": "no-such-model"})),
		no("unpriced-option", "rich", 422, "unpriced_option", p.ask("unpriced-option", "", p.dear)),
		no("money-held", "held", 429, "funds_held", p.ask("money-held", "", object{"model": p.other, "max_tokens": 1400})),
		no("upstream-breaks-off", "rich", 502, "upstream_broke_off", p.ask("upstream-breaks-off", "fault=refuse")),
		{Case: "headers", How: "headers", Request: p.ask("headers", ""), want: object{"text": text(40), "price": p.price}},
		{Case: "models", How: "models", want: object{"has": p.other}},
		{Case: "models-limited", How: "models", Key: "limited", want: object{"ids": []any{p.small}}},
	}
	if p.name == "anthropic" {
		list = append(list, no("count", "rich", 404, "unmetered_path", p.ask("count", "")))
	}
	for i := range list {
		switch c := &list[i]; c.Case {
		case "no-money-stream":
			c.How = "stream"
		case "unmetered", "retrieve", "count":
			c.How = c.Case
		case "money-held", "upstream-breaks-off":
			c.attempts = 3
		}
	}
	return list
}

// Package anthropic holds the tables of Anthropic's Messages API: what in a
// request can cost money, and where an answer says what it did cost. Sources
// are the API reference, the pages on pricing, prompt caching and service tiers
// of the provider's documentation, and the types of its SDK for Python, as of
// August 2026.
package anthropic

import (
	"weir/gateway/provider"
	"weir/schemas/usage"
)

// The counts of a usage object. They are beside each other but for cacheWrite,
// which is the sum of the two below it.
const (
	input = iota
	cacheRead
	cacheWrite
	cacheWrite5m
	cacheWrite1h
	output
	webSearches
)

// Messages is POST /v1/messages.
var Messages = &provider.API{
	Name: "anthropic.messages", Provider: "anthropic", Errors: provider.Anthropic,
	Features: "anthropic-beta", FreeFeatures: freeFeatures,
	Request: request,
	Answer: provider.Table{
		{Name: "model", Rule: provider.Model},
		{Name: "content", Rule: provider.List, Inside: generated},
		{Name: "usage", Rule: provider.Usage, Inside: usageTable(provider.Number)},
		{Name: "error", Rule: provider.Failure},
	},
	Event: provider.Table{
		{Name: "type", Rule: provider.Kind, Allow: []string{"message_stop"}},
		{Name: "message", Rule: provider.Nested, Inside: provider.Table{ // of message_start
			{Name: "model", Rule: provider.Model},
			// Output has only begun; message_delta tells how much it became.
			{Name: "usage", Rule: provider.Usage, Inside: usageTable(provider.Known)},
		}},
		{Name: "delta", Rule: provider.Nested, Inside: generated},
		{Name: "usage", Rule: provider.Usage, Inside: usageTable(provider.Number)}, // of message_delta
		{Name: "error", Rule: provider.Failure},
	},
	Cumulative: true,
	Meter:      meter,
}

// freeFeatures change no price, or only by what is read in the body or in the
// answer. Others have prices of their own: a longer context, a faster mode,
// files, tools that the provider runs.
var freeFeatures = []string{
	"prompt-caching", "extended-cache-ttl", // what is written, the body's cache_control says
	"interleaved-thinking", "thinking-token-count",
	"output-128k", "output-300k", "model-context-window-exceeded",
	"token-efficient-tools", "fine-grained-tool-streaming", "structured-outputs", "effort", "claude-code",
}

func meter(n *provider.Counts, a *provider.Answer) {
	a.InputSeen, a.OutputSeen = n[input].Seen, n[output].Seen
	a.Meters[usage.Input] = n[input].N
	a.Meters[usage.CachedInput] = n[cacheRead].N
	a.Meters[usage.Output] = n[output].N // thinking is inside
	a.Meters[usage.WebSearches] = n[webSearches].N
	short, long := n[cacheWrite5m].N, n[cacheWrite1h].N
	a.Meters[usage.CacheWrite1h] = long
	switch rest := n[cacheWrite].N; {
	case !n[cacheWrite5m].Seen && !n[cacheWrite1h].Seen:
		a.Meters[usage.CacheWrite5m] = rest // the default life, where none is told
	case !n[cacheWrite].Seen:
		a.Meters[usage.CacheWrite5m] = short
	default:
		// Where the parts do not make the sum, the larger figure is billed and reported.
		a.Part(&rest, long, "cache_creation_input_tokens")
		a.Part(&rest, short, "cache_creation_input_tokens")
		if rest > 0 {
			a.Unknown("cache_creation_input_tokens")
		}
		a.Meters[usage.CacheWrite5m] = short + rest
	}
}

// generated is a block of content, or a delta of one.
var generated = provider.Table{
	{Name: "text", Rule: provider.Text},
	{Name: "thinking", Rule: provider.Text},
	{Name: "partial_json", Rule: provider.Text},
	{Name: "input", Rule: provider.Text}, // of a tool, in a whole answer
}

// usageTable is the usage object; its output_tokens are read by the given rule.
// Not in it, so unknown where not zero: iterations, whose tokens the totals do
// not contain.
func usageTable(outputRule provider.Rule) provider.Table {
	return provider.Table{
		{Name: "input_tokens", Rule: provider.Number, Slot: input},
		{Name: "cache_read_input_tokens", Rule: provider.Number, Slot: cacheRead},
		{Name: "cache_creation_input_tokens", Rule: provider.Number, Slot: cacheWrite},
		{Name: "cache_creation", Rule: provider.Nested, Inside: provider.Table{
			{Name: "ephemeral_5m_input_tokens", Rule: provider.Number, Slot: cacheWrite5m},
			{Name: "ephemeral_1h_input_tokens", Rule: provider.Number, Slot: cacheWrite1h},
		}},
		{Name: "output_tokens", Rule: outputRule, Slot: output},
		{Name: "output_tokens_details", Rule: provider.Nested, Inside: provider.Table{
			{Name: "thinking_tokens", Rule: provider.Known}, // within output_tokens
		}},
		{Name: "server_tool_use", Rule: provider.Nested, Inside: provider.Table{
			{Name: "web_search_requests", Rule: provider.Number, Slot: webSearches},
			{Name: "web_fetch_requests", Rule: provider.Known}, // free but for the tokens
		}},
		// Each of these has a price of its own beyond the words listed.
		{Name: "service_tier", Rule: provider.Words, Allow: []string{"standard"}},
		{Name: "speed", Rule: provider.Words, Allow: []string{"standard"}},
		{Name: "inference_geo", Rule: provider.Words, Allow: []string{"global", "not_available", ""}},
	}
}

var request = provider.Table{
	{Name: "model", Rule: provider.Model},
	{Name: "stream", Rule: provider.Streaming},
	{Name: "max_tokens", Rule: provider.Limit}, // 0 only fills the cache
	{Name: "messages", Rule: provider.Messages, Inside: provider.Table{
		{Name: "content", Rule: provider.Nested, Inside: block},
	}},
	{Name: "system", Rule: provider.Nested, Inside: leaf},
	{Name: "thinking", Rule: provider.Nested, Inside: provider.Table{
		{Name: "budget_tokens", Rule: provider.Budget}, // above max_tokens when thinking is interleaved
	}},
	{Name: "tools", Rule: provider.Tools, Inside: provider.Table{
		// Tools of other types are run by the provider, or bring a prompt of its own.
		{Name: "type", Rule: provider.Words, Allow: []string{"custom"}},
		cacheControl,
	}},
	cacheControl,
	{Name: "output_config", Rule: provider.Nested, Inside: provider.Table{
		{Name: "format", Rule: provider.Tools},
	}},
	{Name: "output_format", Rule: provider.Tools}, // its older name
	// auto may be served by capacity that was bought beforehand; the answer says so.
	{Name: "service_tier", Rule: provider.Words, Allow: []string{"auto", "standard_only"}},
	{Name: "speed", Rule: provider.Words, Allow: []string{"standard"}},
	{Name: "inference_geo", Rule: provider.Words, Allow: []string{"global"}},
	{Name: "mcp_servers", Rule: provider.Refused},
	{Name: "container", Rule: provider.Refused},
	{Name: "context_management", Rule: provider.Refused}, // may run the model beside the totals
	{Name: "fallbacks", Rule: provider.Refused},          // models that were not asked for
	{Name: "fallback_credit_token", Rule: provider.Refused},
}

// cacheControl makes input dearer once: 1.25 times for five minutes, twice for
// an hour.
var cacheControl = provider.Member{Name: "cache_control", Rule: provider.CacheControl, Inside: provider.Table{
	{Name: "type", Rule: provider.Words, Allow: []string{"ephemeral"}},
	{Name: "ttl", Rule: provider.CacheTTL, Allow: []string{"5m", provider.CacheHour}},
}}

// Content blocks by how deep they stand. Those not listed are pictures and
// documents, whose tokens their bytes do not bound, and what the provider's own
// tools left behind. Inside input and input_schema nothing matters: there the
// names are the client's.
var (
	block = blocks(inner, "text", "thinking", "redacted_thinking", "tool_use", "tool_result", "search_result", "mid_conv_system")
	inner = blocks(leaf, "text", "search_result")
	leaf  = blocks(nil, "text")
)

func blocks(content provider.Table, types ...string) provider.Table {
	return provider.Table{
		{Name: "type", Rule: provider.Words, Allow: types},
		{Name: "content", Rule: provider.Nested, Inside: content},
		// Asked for on what is searched, they bring a prompt of the provider's whose
		// length is not published. On text they are a list: what was cited before.
		{Name: "citations", Rule: provider.Nested, Inside: provider.Table{{Name: "enabled", Rule: provider.Refused}}},
		cacheControl,
	}
}

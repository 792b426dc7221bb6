// Package openai holds the tables of OpenAI's APIs: what in a request can cost
// money, and where an answer says what it did cost. Sources are the reference
// and guides on the provider's platform site and the types that its SDK for
// Python 2.x is generated with, as of August 2026.
package openai

import (
	"weir/gateway/provider"
	"weir/schemas/usage"
)

// The counts of a usage object. Details are parts of their total.
const (
	prompt = iota
	cached
	audioIn
	completion
	reasoning
	audioOut
)

// Chat is POST /v1/chat/completions.
var Chat = &provider.API{
	Name: "openai.chat", Provider: "openai", Errors: provider.OpenAI,
	Request: chatRequest, Answer: chatAnswer("message"), Event: chatAnswer("delta"),
	Done: "[DONE]",
	Meter: func(n *provider.Counts, a *provider.Answer) {
		a.InputSeen, a.OutputSeen = n[prompt].Seen, n[completion].Seen
		in, out := n[prompt].N, n[completion].N
		a.Meters[usage.CachedInput] = a.Part(&in, n[cached].N, "cached_tokens")
		a.Meters[usage.AudioInput] = a.Part(&in, n[audioIn].N, "prompt audio_tokens")
		a.Meters[usage.Input] = in
		a.Meters[usage.Reasoning] = a.Part(&out, n[reasoning].N, "reasoning_tokens")
		a.Meters[usage.AudioOutput] = a.Part(&out, n[audioOut].N, "completion audio_tokens")
		a.Meters[usage.Output] = out
	},
}

// Embeddings is POST /v1/embeddings. Its input may be given as numbers of
// tokens; each of them takes at least a digit and a comma of the body.
var Embeddings = &provider.API{
	Name: "openai.embeddings", Provider: "openai", Errors: provider.OpenAI,
	Request: provider.Table{
		{Name: "model", Rule: provider.Model},
		{Name: "input", Rule: provider.Nested},
		serviceTier,
	},
	Answer: provider.Table{
		{Name: "model", Rule: provider.Model},
		{Name: "data", Rule: provider.List},
		{Name: "error", Rule: provider.Failure},
		{Name: "usage", Rule: provider.Usage, Inside: provider.Table{
			{Name: "prompt_tokens", Rule: provider.Number, Slot: prompt},
			{Name: "total_tokens", Rule: provider.Known},
		}},
	},
	Meter: func(n *provider.Counts, a *provider.Answer) {
		a.InputSeen = n[prompt].Seen
		a.OutputSeen = a.InputSeen // there is no other output than numbers, which are free
		a.Meters[usage.Input] = n[prompt].N
	},
}

// serviceTier: flex, scale, priority and fast have prices of their own. auto is
// what an absent tier means: the project's setting, which is the operator's.
var serviceTier = provider.Member{Name: "service_tier", Rule: provider.Words, Allow: []string{"auto", "default"}}

var chatRequest = provider.Table{
	{Name: "model", Rule: provider.Model},
	{Name: "stream", Rule: provider.Streaming},
	{Name: "stream_options", Rule: provider.StreamOptions, Inside: provider.Table{
		{Name: "include_usage", Rule: provider.IncludeUsage},
	}},
	// OpenAI takes no limit of 0, and compatible servers take it for none.
	{Name: "max_completion_tokens", Rule: provider.Limit, Least: 1},
	{Name: "max_tokens", Rule: provider.Limit, Least: 1},
	{Name: "n", Rule: provider.Choices},
	{Name: "messages", Rule: provider.Messages, Inside: provider.Table{
		{Name: "content", Rule: provider.Nested, Inside: chatPart},
		{Name: "audio", Rule: provider.Refused}, // an earlier answer's, by its id
	}},
	{Name: "tools", Rule: provider.Tools, Inside: provider.Table{
		// Both kinds are run by the client. Whatever the provider runs costs by the call.
		{Name: "type", Rule: provider.Words, Allow: []string{"function", "custom"}},
	}},
	{Name: "functions", Rule: provider.Tools},
	serviceTier,
	{Name: "modalities", Rule: provider.Words, Allow: []string{"text"}}, // audio tokens are dearer
	{Name: "audio", Rule: provider.Refused},
	{Name: "prediction", Rule: provider.Refused}, // what is rejected of it is billed beside the limit
	{Name: "web_search_options", Rule: provider.Refused},
	{Name: "moderation", Rule: provider.Refused},           // runs a second model
	{Name: "prompt_cache_options", Rule: provider.Refused}, // models that take it bill cache writes
	// By reference: input that is not in the body, or output kept for that.
	{Name: "store", Rule: provider.Refused},
	{Name: "previous_response_id", Rule: provider.Refused},
	{Name: "conversation", Rule: provider.Refused},
	{Name: "background", Rule: provider.Refused},
	{Name: "best_of", Rule: provider.Refused},       // compatible servers generate as many answers
	{Name: "chat_template", Rule: provider.Refused}, // compatible servers render the input by it
}

// chatPart is a part of a message's content. Pictures, sound and files cost
// tokens that their bytes do not bound.
var chatPart = provider.Table{
	{Name: "type", Rule: provider.Words, Allow: []string{"text", "refusal"}},
	{Name: "image_url", Rule: provider.Refused},
	{Name: "input_audio", Rule: provider.Refused},
	{Name: "file", Rule: provider.Refused},
	{Name: "prompt_cache_breakpoint", Rule: provider.Refused},
}

// chatAnswer is the table of an answer, whose generated content stands under
// content, or of a chunk. The reasoning of models behind compatible servers
// stands under one of two names.
func chatAnswer(content string) provider.Table {
	function := provider.Table{
		{Name: "name", Rule: provider.Text},
		{Name: "arguments", Rule: provider.Text},
		{Name: "input", Rule: provider.Text}, // of a custom tool
	}
	return provider.Table{
		{Name: "model", Rule: provider.Model},
		{Name: "choices", Rule: provider.List, Inside: provider.Table{
			{Name: content, Rule: provider.Nested, Inside: provider.Table{
				{Name: "content", Rule: provider.Text},
				{Name: "refusal", Rule: provider.Text},
				{Name: "reasoning_content", Rule: provider.Text},
				{Name: "reasoning", Rule: provider.Text},
				{Name: "function_call", Rule: provider.Nested, Inside: function},
				{Name: "tool_calls", Rule: provider.Nested, Inside: provider.Table{
					{Name: "function", Rule: provider.Nested, Inside: function},
					{Name: "custom", Rule: provider.Nested, Inside: function},
				}},
			}},
		}},
		{Name: "error", Rule: provider.Failure},
		// The tier that served is the tier that is billed, whatever was asked.
		{Name: "service_tier", Rule: provider.Words, Allow: []string{"default", "auto", ""}},
		{Name: "usage", Rule: provider.Usage, Inside: chatUsage},
	}
}

// chatUsage is the usage object. Not in it, so unknown where not zero:
// prompt_tokens_details.cache_write_tokens, which newer models bill above the
// price of input and older ones not, and image_tokens of both sides.
var chatUsage = provider.Table{
	{Name: "prompt_tokens", Rule: provider.Number, Slot: prompt},
	{Name: "completion_tokens", Rule: provider.Number, Slot: completion},
	{Name: "total_tokens", Rule: provider.Known},
	{Name: "prompt_tokens_details", Rule: provider.Nested, Inside: provider.Table{
		{Name: "cached_tokens", Rule: provider.Number, Slot: cached},
		{Name: "audio_tokens", Rule: provider.Number, Slot: audioIn},
		{Name: "text_tokens", Rule: provider.Known},
	}},
	{Name: "completion_tokens_details", Rule: provider.Nested, Inside: provider.Table{
		{Name: "reasoning_tokens", Rule: provider.Number, Slot: reasoning},
		{Name: "audio_tokens", Rule: provider.Number, Slot: audioOut},
		{Name: "text_tokens", Rule: provider.Known},
		// Both are within completion_tokens and at their price.
		{Name: "accepted_prediction_tokens", Rule: provider.Known},
		{Name: "rejected_prediction_tokens", Rule: provider.Known},
	}},
}

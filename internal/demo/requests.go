package demo

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	"weir/schemas/money"
)

// customer is one of the platform's, made for the demo.
type customer struct {
	id, name    string
	paid, promo money.Nano // credit at the start
	byCard      bool       // pays it himself on a page of Stripe's; else the operator credits it
	auto        *recharge  // of a wallet that tops itself up from the card
	overdraft   money.Nano // how far below zero its balance may go
	runsDry     bool       // is meant to be refused for want of money
	key         string     // to the data plane, once made
}

// given is the customer's credit at the start.
func (c *customer) given() money.Nano { return c.paid + c.promo }

// newCustomers are the demo's, busiest first. The first soon runs low, and tops itself up; the last
// has credit for a handful of requests.
func newCustomers() []customer {
	return []customer{
		{id: "acme", name: "Acme Robotics", paid: 10 * money.Dollar, byCard: true, auto: &recharge{below: 980 * cent, by: 10 * money.Dollar}},
		{id: "birch", name: "Birch & Sons", paid: 500 * money.Dollar, byCard: true},
		{id: "cobalt", name: "Cobalt Labs", paid: 250 * money.Dollar, promo: 25 * money.Dollar, byCard: true},
		{id: "dune", name: "Dune Travel", paid: 250 * money.Dollar},
		{id: "ember", name: "Ember Games", paid: 250 * money.Dollar},
		{id: "fjord", name: "Fjord (trial)", paid: 5 * cent, runsDry: true},
	}
}

// request is one to be sent.
type request struct {
	customer int    // its place in the list of customers
	provider string // the first segment of the path
	path     string // the rest
	model    string
	stream   bool
	feature  string // a tag
	body     []byte

	providerError int // the status that the provider is to answer; 0 = it serves
}

// full names the model with its provider.
func (r *request) full() string { return r.provider + "/" + r.model }

// kinds are the kinds of traffic by their share in percent.
var kinds = []struct {
	share int
	make  func(*traffic) request
}{
	{30, func(t *traffic) request { return t.chat("gpt-4o-mini", "max_tokens", false) }},
	{15, func(t *traffic) request { return t.chat("gpt-4o", "max_tokens", false) }},
	{8, func(t *traffic) request { return t.chat("o4-mini", "max_completion_tokens", true) }},
	{20, func(t *traffic) request { return t.message("claude-sonnet-4-5") }},
	{15, func(t *traffic) request { return t.message("claude-haiku-4-5") }},
	{12, (*traffic).embedding},
}

const (
	errorPercent   = 1  // requests that the provider answers with an error
	cachedPercent  = 25 // prompts whose beginning the provider has cached
	writesPercent  = 10 // messages that write to the provider's cache
	unlimited      = 15 // percent of chats that name no output limit
	bytesPerToken  = 4  // of English text, and of the stand-in's
	promptTokens   = 40 // of the shortest prompt
	promptDoubling = 6  // prompts are up to 2^5 times as long, each length as likely
)

const sentence = "How much water passes the weir when the river is high, and who pays for it? "

// providerErrors are what providers answer on bad days.
var providerErrors = []int{429, 500, 503}

// traffic makes requests. The same seed makes the same ones.
type traffic struct {
	random    *rand.Rand
	customers int
}

func makeRequests(n int, seed uint64, customers int) []request {
	t := &traffic{random: rand.New(rand.NewPCG(seed, 0)), customers: customers}
	list := make([]request, n)
	for i := range list {
		list[i] = t.next()
	}
	return list
}

func (t *traffic) next() request {
	drawn := t.random.IntN(100)
	for _, kind := range kinds {
		if drawn < kind.share {
			return kind.make(t)
		}
		drawn -= kind.share
	}
	panic("BUG: the shares of traffic do not add up to 100 percent")
}

func (t *traffic) percent(n int) bool { return t.random.IntN(100) < n }

// who draws a customer by Zipf's law: the second has half the requests of the first, the third a
// third.
func (t *traffic) who() int {
	const whole = 5040 // divisible by every number up to ten
	sum := 0
	for i := range t.customers {
		sum += whole / (i + 1)
	}
	drawn := t.random.IntN(sum)
	for i := range t.customers {
		if drawn < whole/(i+1) {
			return i
		}
		drawn -= whole / (i + 1)
	}
	panic("BUG: the shares of customers do not add up")
}

// start is what all requests have.
func (t *traffic) start(provider, path, model string) request {
	features := []string{"assistant", "search", "summaries"}
	r := request{customer: t.who(), provider: provider, path: path, model: model, feature: features[t.random.IntN(len(features))]}
	if t.percent(errorPercent) {
		r.providerError = providerErrors[t.random.IntN(len(providerErrors))]
	}
	return r
}

// prompt is text of some length, and that length in tokens.
func (t *traffic) prompt() (text string, tokens int) {
	tokens = promptTokens << t.random.IntN(promptDoubling)
	tokens += t.random.IntN(tokens)
	return strings.Repeat(sentence, tokens*bytesPerToken/len(sentence)+1)[:tokens*bytesPerToken], tokens
}

// marker tells the stand-in what to answer; it reads it in the prompt.
func (r *request) marker(controls string) string {
	if r.providerError != 0 {
		controls += fmt.Sprintf(" status=%d", r.providerError)
	}
	return "[[standin " + controls + "]]"
}

// chat is a request to OpenAI's chat API, whose cached tokens are among those of the input.
func (t *traffic) chat(model, limitField string, reasons bool) request {
	r := t.start("openai", "/v1/chat/completions", model)
	text, tokens := t.prompt()
	out := 20 + t.random.IntN(400)
	controls := fmt.Sprintf("in=%d out=%d", tokens, out)
	if t.percent(cachedPercent) {
		controls += fmt.Sprintf(" cached=%d", tokens/2)
	}
	if reasons {
		controls += fmt.Sprintf(" reasoning=%d", out*2/3)
	}
	body := map[string]any{"model": model, "messages": []map[string]string{
		{"role": "system", "content": "Answer in one paragraph."}, {"role": "user", "content": text + r.marker(controls)}}}
	if !t.percent(unlimited) {
		body[limitField] = 512
	}
	if r.stream = t.percent(50); r.stream {
		body["stream"] = true
		if t.percent(50) { // else weir asks for usage itself
			body["stream_options"] = map[string]bool{"include_usage": true}
		}
	}
	r.body = encode(body)
	return r
}

// message is a request to Anthropic's messages API, whose cached tokens stand beside the input.
func (t *traffic) message(model string) request {
	r := t.start("anthropic", "/v1/messages", model)
	text, tokens := t.prompt()
	in, cached, written := tokens, 0, 0
	if t.percent(cachedPercent) {
		in, cached = tokens/5, tokens-tokens/5
	}
	part := map[string]any{"type": "text"}
	if cached == 0 && t.percent(writesPercent) {
		in, written = tokens/5, tokens-tokens/5
		part["cache_control"] = map[string]string{"type": "ephemeral"}
	}
	part["text"] = text + r.marker(fmt.Sprintf("in=%d cached=%d cw5m=%d out=%d", in, cached, written, 20+t.random.IntN(400)))
	body := map[string]any{"model": model, "max_tokens": 512, "system": "Answer in one paragraph.",
		"messages": []map[string]any{{"role": "user", "content": []any{part}}}}
	if r.stream = t.percent(50); r.stream {
		body["stream"] = true
	}
	r.body = encode(body)
	return r
}

func (t *traffic) embedding() request {
	r := t.start("openai", "/v1/embeddings", "text-embedding-3-small")
	text, tokens := t.prompt()
	r.body = encode(map[string]any{"model": r.model, "input": text + r.marker(fmt.Sprintf("in=%d", tokens)), "encoding_format": "base64"})
	return r
}

func encode(body map[string]any) []byte {
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: a request of plain values cannot be encoded: " + err.Error())
	}
	return text
}

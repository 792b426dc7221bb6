// Package boundtest holds the gateway to its promise that a reservation is an
// upper bound: generated requests go through a real gateway over HTTP, and what
// it reserved is compared with the price of the tokens that tokenizers which
// weir has no part in count in them. It has tests only.
package boundtest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"weir/schemas/money"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	// seed and the number of a request decide the request.
	seed = 20261124
	// workers send at the same time, so that they share the spool's fsyncs.
	workers = 16
	// failuresMax keeps a bound that is wrong everywhere readable.
	failuresMax = 20
)

// shapes are the ways in which texts become a request, by name.
var shapes = map[string]func(r *rand.Rand, text func() string) prompt{
	"one message": func(r *rand.Rand, text func() string) prompt {
		return conversation(r, message{role: "user", parts: []string{text()}})
	},
	"tiny messages": func(r *rand.Rand, text func() string) prompt {
		p := conversation(r)
		for i := range 1 + r.IntN(60) {
			p.messages = append(p.messages, message{role: []string{"user", "assistant"}[i%2], name: pick(r, "", "x"), parts: []string{pick(r, "", "a", "1", "é", "?")}})
		}
		return p
	},
	"parts": func(r *rand.Rand, text func() string) prompt {
		m := message{role: "user", array: true, result: r.IntN(2) == 0}
		for range 1 + r.IntN(12) {
			m.parts = append(m.parts, cut(text(), 60))
		}
		return conversation(r, m, message{role: "assistant", array: true, parts: []string{"", ""}})
	},
	"tools": func(r *rand.Rand, text func() string) prompt {
		p := conversation(r, message{role: "user", parts: []string{"x"}})
		short := func() string { return cut(text(), 40) }
		for i := range 1 + r.IntN(4) {
			p.tools = append(p.tools, tool{name: fmt.Sprintf("f%d", i), description: short(), schema: newSchema(r, short, r.IntN(5))})
		}
		if p.api == "messages" {
			p.choice = pick(r, "", `{"type":"auto"}`, `{"type":"any","disable_parallel_tool_use":true}`, `{"type":"none"}`, `{"type":"tool","name":"f0"}`)
		}
		return p
	},
	"search results": func(r *rand.Rand, text func() string) prompt {
		m := message{role: "user", array: true, search: true}
		for range 1 + r.IntN(12) {
			m.parts = append(m.parts, cut(text(), 60))
		}
		p := conversation(r, m)
		p.api, p.model, p.n = "messages", "claude-sonnet-4-5", 1
		return p
	},
	"tool call": func(r *rand.Rand, text func() string) prompt {
		arguments := newSchema(r, func() string { return cut(text(), 60) }, 2)
		return conversation(r, message{role: "user", parts: []string{"x"}}, message{role: "assistant", call: &arguments})
	},
	"system": func(r *rand.Rand, text func() string) prompt {
		p := conversation(r, message{role: "user", parts: []string{"x"}})
		if p.api == "messages" {
			p.system = []string{text(), cut(text(), 20)}
		} else {
			p.messages = append([]message{{role: pick(r, "system", "developer"), parts: []string{text()}}}, p.messages...)
		}
		return p
	},
	"embeddings": func(r *rand.Rand, text func() string) prompt {
		p := embeddings(r)
		for range 1 + r.IntN(8) {
			p.inputs = append(p.inputs, "a"+text())
		}
		return p
	},
	"token numbers": func(r *rand.Rand, text func() string) prompt {
		p := embeddings(r)
		for range 1 + r.IntN(200) {
			p.numbers = append(p.numbers, r.IntN(100_000)>>r.IntN(17))
		}
		return p
	},
}

// conversation is a request for a chat model, with or without an output limit,
// for one answer or for several, in any spelling.
func conversation(r *rand.Rand, messages ...message) prompt {
	p := prompt{api: "messages", messages: messages, n: 1, cache: usage.Input, spelling: pick(r, raw, raw, ascii, escaped), indent: r.IntN(4) == 0,
		limit: pick(r, 0, 1, 1, 1, 16, 1000)}
	if r.IntN(2) == 0 {
		p.model = pick(r, "claude-sonnet-4-5", "claude-3-5-haiku-latest", "claude-opus-4-8")
		p.cache = pick(r, usage.Input, usage.Input, usage.CacheWrite5m, usage.CacheWrite1h)
		return p
	}
	p.api, p.model, p.n = "chat", pick(r, "gpt-4o", "gpt-4", "gpt-3.5-turbo", "gpt-5", "o3"), pick(r, 1, 1, 3)
	return p
}

func embeddings(r *rand.Rand) prompt {
	return prompt{api: "embeddings", model: pick(r, "text-embedding-3-small", "text-embedding-3-large"), n: 1, cache: usage.Input, spelling: pick(r, raw, ascii, escaped)}
}

// cut shortens a text to about n bytes, between characters.
func cut(text string, n int) string {
	for i := range text {
		if i >= n {
			return text[:i]
		}
	}
	return text
}

var paths = map[string]string{"chat": "/openai/v1/chat/completions", "messages": "/anthropic/v1/messages", "embeddings": "/openai/v1/embeddings"}

// scales weigh reservations against prices.
type scales struct {
	*front
	*vocabularies
}

// ratios are those of one request: reservation by price, and the same of what
// is left without the price of the output at its limit.
type ratios struct{ whole, input float64 }

// compare sends a request and compares with the tokens of its texts. A
// reservation below the price is an error.
func (s *scales) compare(ctx context.Context, p *prompt) (ratios, error) {
	return s.compareBody(ctx, p, p.body(), p.tokens(s.vocabulary(p)))
}

// compareBody does so with a body and its tokens; the rest of p says how to
// send and price it.
func (s *scales) compareBody(ctx context.Context, p *prompt, body string, tokens int) (ratios, error) {
	a, err := s.post(ctx, paths[p.api], body, p.features)
	if err != nil {
		return ratios{}, fmt.Errorf("%w: %.300q", err, body)
	}
	var meters usage.Quantities
	meters[usage.Output] = uint64((p.limit + a.limit) * p.n)
	output, err := s.price(p, meters)
	if err != nil {
		return ratios{}, err
	}
	meters[p.cache] = uint64(tokens)
	price, err := s.price(p, meters)
	if err != nil {
		return ratios{}, err
	}
	if price > a.reserved {
		return ratios{}, fmt.Errorf("reserved %s, but %d input and %d output tokens at most, asked for in %d bytes, make the price %s: %.300q",
			a.reserved, tokens, meters[usage.Output], len(body), price, body)
	}
	return ratios{float64(a.reserved) / float64(price), float64(a.reserved-output) / float64(price-output)}, nil
}

func (s *scales) vocabulary(p *prompt) *vocabulary {
	switch {
	case p.api == "messages":
		return s.claude
	case p.model == "gpt-4", p.model == "gpt-3.5-turbo", p.api == "embeddings":
		return s.cl100k
	}
	return s.o200k
}

// price is the dearest for which any snapshot of the asked model may answer.
func (s *scales) price(p *prompt, meters usage.Quantities) (dearest money.Nano, err error) {
	provider, _, _ := strings.Cut(paths[p.api][1:], "/")
	for _, m := range s.card.Models(provider) {
		if !strings.HasPrefix(m.Name, p.model) {
			continue
		}
		rated, err := ratecard.Rate(s.card, ratecard.Rating{Provider: provider, Model: p.model, Answered: m.Name, Rule: "default", Meters: meters})
		if err != nil {
			return 0, err
		}
		dearest = max(dearest, rated.Price)
	}
	return dearest, nil
}

func TestReservationCoversPrice(t *testing.T) {
	s := &scales{newFront(t), loadVocabularies(t)}
	t.Run("counting", s.counting)
	t.Run("generated", s.generated)
	t.Run("written to cost more", s.attacks)
}

// generated are texts of every kind in every shape.
func (s *scales) generated(t *testing.T) {
	kindNames, shapeNames := slices.Sorted(maps.Keys(kinds)), slices.Sorted(maps.Keys(shapes))
	var mu sync.Mutex
	byClass, failures := map[string][]ratios{}, 0
	var next atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < requests; i = int(next.Add(1)) - 1 {
				kind, shape := kindNames[i%len(kindNames)], shapeNames[i/len(kindNames)%len(shapeNames)]
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				p := shapes[shape](r, func() string { return kinds[kind](r, size(r, textBytesMax)) })
				got, err := s.compare(t.Context(), &p)
				mu.Lock()
				if err == nil {
					byClass[kind], byClass[shape] = append(byClass[kind], got), append(byClass[shape], got)
				} else if failures++; failures <= failuresMax {
					t.Errorf("%s, %s, %d: %v", kind, shape, i, err)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%d requests, %d failures; reservation ÷ price as median and 90th percentile, and the same of the input alone", requests, failures)
	for _, class := range slices.Concat(kindNames, shapeNames) {
		list := byClass[class]
		t.Logf("%-14s %5d  %s  %s", class, len(list), spread(list, func(r ratios) float64 { return r.whole }), spread(list, func(r ratios) float64 { return r.input }))
	}
}

func spread(list []ratios, of func(ratios) float64) string {
	values := apply(list, of)
	slices.Sort(values)
	if len(values) == 0 {
		return "none"
	}
	return fmt.Sprintf("%6.2f %6.2f", values[len(values)/2], values[len(values)*9/10])
}

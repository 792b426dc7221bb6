package provider_test

// The second half of the oracle: what was asked for, and what is to be paid.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// tariff is what a case file says of prices, in dollars: per million of tokens,
// per unit of anything else.
type tariff struct {
	models     map[string]map[string]string // by model, by meter
	multiplier string                       // of the asked model's rule, "" is 1
	fee        string                       // of that rule, "" is none
}

// ask is what a request asks for, as far as it matters here.
type ask struct {
	model        string
	stream       bool
	limit, n     int64
	messages     int
	tools        int
	usage        bool // the client asked for usage in its stream
	short, long  bool // cache writes for five minutes, for an hour
	inlineBytes  int64
	notAnObject  bool
	unreadNumber bool // a limit that is no whole number
}

// readAsk reads a request.
func readAsk(api string, body []byte) ask {
	a := ask{n: 1}
	o, ok := members(body)
	if !ok {
		a.notAnObject = true
		return a
	}
	a.model, _ = text(o["model"])
	limits := map[string][]string{"openai.chat": {"max_tokens", "max_completion_tokens"}, "anthropic.messages": {"max_tokens"}}
	limited := false
	for _, name := range limits[api] {
		a.limit = max(a.limit, a.whole(o[name]))
		limited = limited || !null(o[name])
	}
	switch api {
	case "openai.chat":
		options, _ := members(o["stream_options"])
		a.usage = string(options["include_usage"]) == "true"
		a.n = max(a.n, a.whole(o["n"]))
	case "anthropic.messages":
		if thinking, _ := members(o["thinking"]); limited {
			a.limit = max(a.limit, a.whole(thinking["budget_tokens"]))
		}
	}
	if api != "openai.embeddings" {
		a.stream = string(o["stream"]) == "true"
		a.messages, a.tools = len(a.objects(o["messages"])), len(a.objects(o["tools"]))
	}
	if api == "openai.chat" {
		a.tools += len(a.objects(o["functions"]))
	}
	if api == "anthropic.messages" {
		a.caches(o)
		for _, list := range [][]object{a.objects(o["tools"]), a.objects(o["system"])} {
			a.caches(list...)
		}
		for _, m := range a.objects(o["messages"]) {
			for _, block := range a.objects(m["content"]) {
				a.caches(block)
				a.caches(a.objects(block["content"])...)
			}
		}
	}
	var compact bytes.Buffer // space between tokens is no text
	if err := json.Compact(&compact, body); err == nil {
		a.inlineBytes = int64(compact.Len())
	}
	return a
}

func (a *ask) whole(raw []byte) int64 {
	if null(raw) {
		return 0
	}
	n, ok := wholeNumber(raw)
	a.unreadNumber = a.unreadNumber || !ok
	return n
}

func (a *ask) objects(raw []byte) (objects []object) {
	list, _ := elements(raw)
	for _, e := range list {
		if o, ok := members(e); ok {
			objects = append(objects, o)
		}
	}
	return objects
}

func (a *ask) caches(objects ...object) {
	for _, o := range objects {
		if control, ok := members(o["cache_control"]); ok {
			ttl, _ := text(control["ttl"])
			a.long = a.long || ttl == "1h"
			a.short = a.short || ttl != "1h"
		}
	}
}

// String is the first line of want.txt.
func (a *ask) String() string {
	s := "request: model=" + a.model + words("stream", a.stream)
	for _, f := range []struct {
		name string
		n    int64
	}{{"limit", a.limit}, {"n", a.n}, {"messages", int64(a.messages)}, {"tools", int64(a.tools)}} {
		if f.n != 0 {
			s += fmt.Sprintf(" %s=%d", f.name, f.n)
		}
	}
	return s + words("asked", a.usage, "cache=5m", a.short, "cache=1h", a.long)
}

// dated is a model's name with the date of a snapshot behind it.
var dated = regexp.MustCompile(`^(.+)-(\d{8}|\d{4}-\d{2}-\d{2})$`)

// bill prices what was used. Cost and price are each summed exactly and rounded
// once, half away from zero; the fee is added to the price of what is answered.
func (v *verdict) bill(t tariff) {
	v.cost, v.price = new(big.Int), new(big.Int)
	v.billed = map[string]int64{}
	if v.row != "usage" {
		return
	}
	v.modelBilled = v.ask.model
	if m := dated.FindStringSubmatch(v.model); m != nil && m[1] == v.ask.model && t.models[v.model] != nil {
		v.modelBilled = v.model
	}
	used := v.meters
	if !v.usageComplete() {
		used = v.estimate
	}
	sum := new(big.Rat)
	for meter, n := range used {
		price, ok := t.unit(v.modelBilled, meter)
		if !ok && n > 0 {
			v.unpriced = true
			continue
		}
		v.billed[meter] = n
		sum.Add(sum, price.Mul(price, big.NewRat(n, 1)))
	}
	v.cost = nano(sum)
	if t.multiplier != "" {
		sum.Mul(sum, decimal(t.multiplier))
	}
	v.price = nano(sum)
	if t.fee != "" {
		v.price.Add(v.price, nano(decimal(t.fee)))
	}
}

// unit is the price of one unit in dollars. An absent one falls back to a dearer
// one where there is one.
func (t tariff) unit(model, meter string) (*big.Rat, bool) {
	prices, times := t.models[model], big.NewRat(1, 1)
	if prices[meter] == "" {
		switch meter {
		case "cached_input":
			meter = "input"
		case "cache_write_5m", "cache_write_1h":
			meter, times = "input", big.NewRat(2, 1)
		case "reasoning":
			meter = "output"
		}
	}
	if prices[meter] == "" {
		return new(big.Rat), false
	}
	if meter != "web_searches" {
		times.Mul(times, big.NewRat(1, 1_000_000))
	}
	return times.Mul(times, decimal(prices[meter])), true
}

func decimal(s string) *big.Rat {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		panic("no decimal: " + s)
	}
	return r
}

// nano rounds dollars that are not negative to nano-dollars, halves up.
func nano(dollars *big.Rat) *big.Int {
	r := new(big.Rat).Mul(dollars, big.NewRat(1_000_000_000, 1))
	r.Add(r, big.NewRat(1, 2))
	return new(big.Int).Quo(r.Num(), r.Denom())
}

// Bill is the end of want.txt: the event that is settled.
func (v *verdict) Bill() string {
	if v.row != "usage" {
		return "event: " + v.row + " " + v.status + "\n"
	}
	dollars := func(n *big.Int) string { return new(big.Rat).SetFrac(n, big.NewInt(1_000_000_000)).FloatString(9) }
	return fmt.Sprintf("event: %s %s%s\nbilled: model=%s%s\ncost: %s\nprice: %s\n", v.row, v.status,
		words("estimated", !v.usageComplete(), "unknown_meter", len(v.unknown) > 0 || v.unpriced),
		v.modelBilled, strings.Replace(quantities(v.billed), " none", "", 1), dollars(v.cost), dollars(v.price))
}

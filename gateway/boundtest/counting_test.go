package boundtest

import "testing"

// counting holds the way of counting to figures that the providers' own
// documents show with requests: too low a count would prove nothing.
func (s *scales) counting(t *testing.T) {
	location := schema{kind: "string", description: "The city and state, e.g. San Francisco, CA"}
	place := schema{kind: "object", names: []string{"location"}, properties: []schema{location}}
	weather := schema{kind: "object", names: []string{"location", "unit"}, properties: []schema{location, {kind: "string", choices: []string{"celsius", "fahrenheit"}}}}
	ask := func(api, text string, tools ...tool) prompt {
		return prompt{api: api, messages: []message{{role: "user", parts: []string{text}}}, tools: tools}
	}
	hello := ask("chat", "Hello!")
	hello.messages = append([]message{{role: "system", parts: []string{"You are a helpful assistant."}}}, hello.messages...)
	scientist := ask("messages", "Hello, Claude")
	scientist.system = []string{"You are a scientist"}
	const description = "Get the current weather in a given location"
	for _, known := range []struct {
		p      prompt
		of     *vocabulary
		billed int
	}{
		{hello, s.cl100k, 19},
		{ask("chat", "What is the weather like in Boston today?", tool{"get_current_weather", description, weather}), s.cl100k, 82},
		{scientist, s.claude, 14},
		{ask("messages", "What's the weather like in San Francisco?", tool{"get_weather", description, place}), s.claude, 403},
	} {
		if got := known.p.tokens(known.of); got < known.billed {
			t.Errorf("%d tokens are counted where %d were billed: %s", got, known.billed, known.p.body())
		} else {
			t.Logf("%d for %d", got, known.billed)
		}
	}
}

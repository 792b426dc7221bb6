package boundtest

import (
	"fmt"
	"strings"
	"testing"
)

// attacks are requests written to be billed for more than their bytes seem to
// allow.
func (s *scales) attacks(t *testing.T) {
	check := func(name string, p prompt, body string, tokens int) {
		t.Run(name, func(t *testing.T) {
			p.n = max(1, p.n)
			got, err := s.compareBody(t.Context(), &p, body, tokens)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("reservation ÷ price %.2f, of the input alone %.2f", got.whole, got.input)
		})
	}

	// Each of these characters has three bytes, 18 characters when normalized,
	// and many tokens then.
	for _, sp := range []spelling{raw, ascii} {
		p := prompt{api: "messages", model: "claude-sonnet-4-5", limit: 1, spelling: sp,
			messages: []message{{role: "user", parts: []string{strings.Repeat("ﷺ", 500)}}}}
		check("expanding text, "+[]string{"raw", "ascii"}[sp], p, p.body(), p.tokens(s.claude))
	}

	// Numbers of four bytes that some writers of JSON write out in full.
	short := strings.TrimSuffix(strings.Repeat("1e20,", 500), ",")
	long := strings.ReplaceAll(short, "1e20", "100000000000000000000")
	body := `{"model":"gpt-4o","max_tokens":1,"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"enum":[%s]}}}]}`
	check("short numbers", prompt{api: "chat", model: "gpt-4o", limit: 1}, fmt.Sprintf(body, short), s.o200k.count(long))
	body = `{"model":"claude-sonnet-4-5","max_tokens":1,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"a":[%s]}}]}]}`
	check("short numbers in a tool's input", prompt{api: "messages", model: "claude-sonnet-4-5", limit: 1}, fmt.Sprintf(body, short), s.claude.count(long))

	// The context of an embedding model is that of one input of many.
	p := prompt{api: "embeddings", model: "text-embedding-3-small"}
	for range 100 {
		p.inputs = append(p.inputs, strings.Repeat("river ", 200))
	}
	check("many inputs to embed", p, p.body(), p.tokens(s.cl100k))

	// A feature, by a header, that makes an answer longer than the model's own
	// limit.
	p = prompt{api: "messages", model: "claude-3-7-sonnet-latest", limit: 128_000, features: "output-128k-2025-02-19",
		messages: []message{{role: "user", parts: []string{"x"}}}}
	check("longer output by a feature", p, p.body(), p.tokens(s.claude))
}

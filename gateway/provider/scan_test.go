package provider_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"weir/gateway/provider"
	"weir/gateway/provider/anthropic"
	"weir/gateway/provider/openai"
)

// scan reads a body that must be served.
func scan(t *testing.T, api *provider.API, body string) *provider.Scan {
	t.Helper()
	var s provider.Scan
	if err := api.Scan([]byte(body), &s); err != nil {
		t.Fatalf("%s\nrefused: %v", body, err)
	}
	return &s
}

// refuses wants a body refused with a code, naming a field.
func refuses(t *testing.T, api *provider.API, body, code, field string) {
	t.Helper()
	var s provider.Scan
	err := api.Scan([]byte(body), &s)
	var r *provider.Refusal
	if !errors.As(err, &r) {
		t.Errorf("%s\nis served, want %s of %q", body, code, field)
		return
	}
	status := 422
	if code == "invalid_request" {
		status = 400
	}
	if r.Status != status || r.Code != code || r.Field != field || !strings.Contains(r.Message, field) {
		t.Errorf("%s\n%+v, want %d %s of %q", body, *r, status, code, field)
	}
}

func TestScanRefusesInvalid(t *testing.T) {
	chat, messages := openai.Chat, anthropic.Messages
	invalid := func(api *provider.API, body, field string) {
		t.Helper()
		refuses(t, api, body, "invalid_request", field)
	}
	for _, body := range []string{``, `[]`, `"x"`, `null`, `{`, `{"model":"m"} x`, `{"model":"m"}{}`, `{"model":"m",}`, `{"model":"m" "n":1}`,
		"\ufeff{\"model\":\"m\"}", "{\"model\":\"\xff\"}", `{"model":"m","messages":[{"content":"\q"}]}`,
		`{"model":"m","x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`} {
		invalid(chat, body, "")
	}
	scan(t, chat, `{"model":"m","x":`+strings.Repeat("[", 63)+strings.Repeat("]", 63)+`}`)
	for _, body := range []string{`{}`, `{"messages":[]}`, `{"model":null}`, `{"model":""}`, `{"model":7}`, `{"model":["m"]}`, `{"model":"` + strings.Repeat("m", 257) + `"}`} {
		invalid(chat, body, "model")
	}
	for _, v := range []string{`-1`, `1.0`, `1e3`, `"5"`, `true`, `[5]`, `{}`, `-0`, `1099511627777`, `99999999999999999999`} {
		invalid(chat, `{"model":"m","max_tokens":`+v+`}`, "max_tokens")
		invalid(chat, `{"model":"m","max_completion_tokens":`+v+`}`, "max_completion_tokens")
		invalid(chat, `{"model":"m","n":`+v+`}`, "n")
		invalid(messages, `{"model":"m","max_tokens":`+v+`}`, "max_tokens")
		invalid(messages, `{"model":"m","max_tokens":9,"thinking":{"budget_tokens":`+v+`}}`, "thinking.budget_tokens")
	}
	invalid(chat, `{"model":"m","max_tokens":0}`, "max_tokens") // compatible servers take it for no limit
	invalid(chat, `{"model":"m","max_completion_tokens":0,"max_tokens":5}`, "max_completion_tokens")
	invalid(chat, `{"model":"m","stream":"true"}`, "stream")
	invalid(chat, `{"model":"m","stream":1}`, "stream")
	invalid(chat, `{"model":"m","stream_options":true}`, "stream_options")
	invalid(chat, `{"model":"m","stream_options":[]}`, "stream_options")
	invalid(chat, `{"model":"m","stream_options":{"include_usage":1}}`, "stream_options.include_usage")
}

func TestScanRefusesAmbiguous(t *testing.T) {
	chat, messages := openai.Chat, anthropic.Messages
	ambiguous := func(api *provider.API, members, field string) {
		t.Helper()
		refuses(t, api, `{"model":"m",`+members+`}`, "ambiguous_request", field)
	}
	for _, key := range []string{"stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "messages", "tools", "functions", "service_tier", "audio", "store"} {
		ambiguous(chat, fmt.Sprintf(`%q:null,%q:null`, key, key), key)
		ambiguous(chat, fmt.Sprintf(`%q:null`, strings.ToUpper(key)), key)
		ambiguous(chat, fmt.Sprintf(`"\u%04x%s":null`, key[0], key[1:]), key)
	}
	ambiguous(chat, `"model":"n"`, "model")
	ambiguous(chat, `"MODEL":"n"`, "model")
	ambiguous(chat, `"mode\u006C":"n"`, "model")
	ambiguous(chat, `"ſtream":true`, "stream")                     // the long s, which some parsers fold
	ambiguous(chat, `"max_toKens":9`, "max_tokens")                // the Kelvin sign, likewise
	ambiguous(chat, `"max_to\u212aens":9`, "max_tokens")           // both at once
	ambiguous(chat, `"max_tokens":1,"max_tokens":1`, "max_tokens") // even if alike
	ambiguous(chat, `"stream_options":{"include_usage":false,"include_usage":true}`, "stream_options.include_usage")
	ambiguous(chat, `"stream_options":{"Include_Usage":true}`, "stream_options.include_usage")
	ambiguous(chat, `"messages":[{"content":"x"},{"content":[{"type":"text","t\u0079pe":"image_url"}]}]`, "messages[1].content[0].type")
	ambiguous(chat, `"messages":[{"content":"x","content":[{"type":"image_url"}]}]`, "messages[0].content")
	ambiguous(messages, `"system":[{"type":"text","cache_control":null,"Cache_Control":{"type":"ephemeral"}}]`, "system[0].cache_control")
	ambiguous(messages, `"messages":[{"content":[{"type":"text","cache_control":{"ttl":"5m","ttl":"1h"}}]}]`, "messages[0].content[0].cache_control.ttl")
}

func TestScanRefusesUnpriced(t *testing.T) {
	chat, messages := openai.Chat, anthropic.Messages
	unpriced := func(api *provider.API, members, field string) {
		t.Helper()
		refuses(t, api, `{"model":"m",`+members+`}`, "unpriced_option", field)
	}
	for _, m := range []string{`"service_tier":"flex"`, `"service_tier":"priority"`, `"service_tier":"scale"`, `"service_tier":"fast"`, `"service_tier":7`,
		`"audio":{"voice":"x"}`, `"prediction":{"type":"content"}`, `"web_search_options":{}`, `"store":true`, `"previous_response_id":"r"`, `"conversation":"c"`,
		`"modalities":["text","audio"]`, `"moderation":{"model":"x"}`, `"prompt_cache_options":{"ttl":"30m"}`} {
		name, _, _ := strings.Cut(m[1:], `"`)
		unpriced(chat, m, name)
	}
	unpriced(openai.Embeddings, `"service_tier":"priority"`, "service_tier")
	unpriced(chat, `"tools":[{"type":"function"},{"type":"web_search"}]`, "tools[1].type")
	unpriced(chat, `"tools":{"type":"web_search"}`, "tools.type")
	for _, p := range []string{"image_url", "input_audio", "file", "video", `im\u0061ge_url`} {
		unpriced(chat, `"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"`+p+`"}]}]`, "messages[0].content[1].type")
	}
	unpriced(chat, `"messages":[{"content":[{"image_url":{"url":"data:image/png;base64,AAAA"}}]}]`, "messages[0].content[0].image_url")
	unpriced(chat, `"messages":[[{"content":[[{"file":{"file_id":"f"}}]]}]]`, "messages[0][0].content[0][0].file")
	unpriced(chat, `"messages":[{"role":"assistant","audio":{"id":"a"}}]`, "messages[0].audio")
	for _, m := range []string{`"service_tier":"priority"`, `"speed":"fast"`, `"inference_geo":"us"`, `"mcp_servers":[{"url":"u"}]`, `"container":"c"`,
		`"context_management":{}`, `"fallbacks":[{"model":"n"}]`} {
		name, _, _ := strings.Cut(m[1:], `"`)
		unpriced(messages, m, name)
	}
	for _, kind := range []string{"web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "computer_20250124", "bash_20250124", "text_editor_20250728", "tool_search_tool_bm25_20251119"} {
		unpriced(messages, `"tools":[{"type":"`+kind+`","name":"x"}]`, "tools[0].type")
	}
	for _, kind := range []string{"image", "document", "container_upload", "server_tool_use", "web_search_tool_result"} {
		unpriced(messages, `"messages":[{"content":[{"type":"`+kind+`"}]}]`, "messages[0].content[0].type")
	}
	unpriced(messages, `"messages":[{"content":[{"type":"tool_result","content":[{"type":"text","text":"a"},{"type":"image"}]}]}]`, "messages[0].content[0].content[1].type")
	unpriced(messages, `"messages":[{"content":[{"type":"search_result","citations":{"enabled":true}}]}]`, "messages[0].content[0].citations.enabled")
	unpriced(messages, `"messages":[{"content":[{"type":"tool_result","content":[{"type":"search_result","citations":{"enabled":true}}]}]}]`, "messages[0].content[0].content[0].citations.enabled")
	unpriced(messages, `"cache_control":{"type":"ephemeral","ttl":"24h"}`, "cache_control.ttl")
	unpriced(messages, `"cache_control":true`, "cache_control")
}

func TestScanReads(t *testing.T) {
	s := scan(t, openai.Chat, `{ "model" : "ft:gpt-4o\/x\u0041", "messages":[{"role":"system","content":"é"},{"role":"user","content":[{"type":"text","text":"a"}]}],
		"stream":true, "max_tokens":10, "max_completion_tokens":250, "n":3, "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","model":1,"model":2}}}],
		"functions":[{"name":"g"},{"name":"h"}], "stream_options":{"include_usage":true}, "service_tier":"auto", "store":false, "modalities":["text"], "audio":null, "new_option":{"stream":1,"stream":2} }`)
	if s.Model != "ft:gpt-4o/xA" || !s.Stream || s.Limit != 250 || !s.HasLimit || s.N != 3 || s.Messages != 2 || s.Tools != 3 || !s.UsageAsked {
		t.Errorf("%+v", *s)
	}
	// By hand: {"model":"m","a":"\u00e9 b"} is 28 bytes; the space within the string counts.
	if s := scan(t, openai.Chat, " {\"model\" : \"m\",\n\t\"a\": \"\\u00e9 b\" }\r\n"); s.TextBytes != 28 || s.N != 1 || s.HasLimit {
		t.Errorf("%+v", *s)
	}
	if s := scan(t, openai.Chat, `{"model":"m","max_completion_tokens":70,"max_tokens":8}`); s.Limit != 70 {
		t.Errorf("%+v", *s)
	}
	if s := scan(t, anthropic.Messages, `{"model":"m","max_tokens":0,"stream":null}`); !s.HasLimit || s.Limit != 0 || s.Stream {
		t.Errorf("%+v", *s)
	}
	if s := scan(t, openai.Embeddings, `{"model":"m","input":[[1,2,3],[4]],"dimensions":8}`); s.Model != "m" || s.TextBytes != 50 {
		t.Errorf("%+v", *s)
	}
	s = scan(t, anthropic.Messages, `{"model":"m","max_tokens":100,"thinking":{"type":"enabled","budget_tokens":4000},"system":"x","mcp_servers":[],"container":null,
		"tools":[{"name":"f","input_schema":{"type":"image","properties":{"cache_control":{"ttl":"9"}}}}],
		"messages":[{"role":"assistant","content":[{"type":"tool_use","input":{"type":"image","Type":"document","source":{}}}]},{"role":"user","content":[{"type":"tool_result","content":"ok"}]}]}`)
	scan(t, anthropic.Messages, `{"model":"m","messages":[{"role":"assistant","content":[{"type":"text","text":"a","citations":[{"type":"char_location","cited_text":"b"}]}]},
		{"role":"user","content":[{"type":"search_result","source":"s","title":"t","citations":{"enabled":false},"content":[{"type":"text","text":"c"}]}]}]}`)
	if s.Limit != 4000 || s.Messages != 2 || s.Tools != 1 || s.CacheWrite5m || s.CacheWrite1h {
		t.Errorf("%+v", *s)
	}
}

func TestScanCacheControl(t *testing.T) {
	f := func(members string, short, long bool) {
		t.Helper()
		s := scan(t, anthropic.Messages, `{"model":"m",`+members+`}`)
		if s.CacheWrite5m != short || s.CacheWrite1h != long {
			t.Errorf("%s: 5m %v, 1h %v", members, s.CacheWrite5m, s.CacheWrite1h)
		}
	}
	f(`"cache_control":{"type":"ephemeral"}`, true, false)
	f(`"cache_control":{"ttl":"1h","type":"ephemeral"}`, false, true)
	f(`"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"\u0031h"}}]`, false, true)
	f(`"tools":[{"name":"f","cache_control":{"type":"ephemeral","ttl":"5m"}}]`, true, false)
	f(`"messages":[{"content":[{"type":"tool_result","content":[{"type":"text","cache_control":{"ttl":"1h"}}],"cache_control":{}}]}]`, true, true)
	f(`"messages":[{"content":[{"type":"search_result","content":[{"type":"text","cache_control":{"ttl":"1h"}}]}]}]`, false, true)
	f(`"messages":[{"content":[{"type":"text","cache_control":null}]}]`, false, false)
}

// TestTextBytesGrow: what a provider may write anew, and longer, counts by its
// longest form. By hand: ﷺ is 3 bytes and 33 as NFKC, 18 letters and spaces; ½
// is 2 and 5; U+00C0 before U+0323 is 4 and, reordered, 5.
func TestTextBytesGrow(t *testing.T) {
	f := func(value string, growth int) {
		t.Helper()
		body := `{"model":"m","a":` + value + `}`
		if s := scan(t, openai.Chat, body); s.TextBytes != int64(len(body)+growth) {
			t.Errorf("%s: %d bytes count as %d, want %d more", value, len(body), s.TextBytes, growth)
		}
	}
	f(`"plain é 漢 한 😀 \n \u00e9 \u0000"`, 0)
	f(`"ﷺ"`, 30)
	f(`"\ufdfa"`, 27)
	f(`"½ ½"`, 6)
	f(`"\u00bd"`, 0) // the escape is longer already
	f("\"À\u0323\"", 1)
	f(`{"ﷺ":["ﷺ"]}`, 60)
	f(`1e20`, 21)
	f(`[-1.5E-3,7]`, 18)
	f(`123456789012345678901234567890`, 0)
}

// TestPromptsOfTheProviderCount: what makes the provider add a prompt of its
// own counts as a tool.
func TestPromptsOfTheProviderCount(t *testing.T) {
	for _, members := range []string{`"output_config":{"effort":"low","format":{"type":"json_schema"}}`, `"output_format":{"type":"json_schema"}`} {
		if s := scan(t, anthropic.Messages, `{"model":"m",`+members+`}`); s.Tools != 1 {
			t.Errorf("%s: %d", members, s.Tools)
		}
	}
}

func TestRewrite(t *testing.T) {
	f := func(body string, limit int64, ask bool, want string) {
		t.Helper()
		s := scan(t, openai.Chat, body)
		if got := string(s.Rewrite([]byte("kept "), []byte(body), "max_completion_tokens", limit, ask)); got != "kept "+want {
			t.Errorf("%s\nbecomes %s\nwant    %s", body, got, want)
		}
	}
	plain := ` {"model":"m", "stream": true}`
	f(plain, 0, false, plain)
	f(plain, 0, true, ` {"stream_options":{"include_usage":true},"model":"m", "stream": true}`)
	f(plain, 50, false, ` {"max_completion_tokens":50,"model":"m", "stream": true}`)
	f(plain, 50, true, ` {"stream_options":{"include_usage":true},"max_completion_tokens":50,"model":"m", "stream": true}`)
	f(`{"model":"m"}`, 0, true, `{"model":"m"}`)
	f(`{"model":"m","stream":false,"max_tokens":7}`, 50, true, `{"model":"m","stream":false,"max_tokens":7}`)
	f(`{"model":"m","stream":true,"stream_options":{"include_usage":true}}`, 0, true, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`)
	f(`{"model":"m","stream":true,"stream_options":{"include_usage": false }}`, 0, true, `{"model":"m","stream":true,"stream_options":{"include_usage": true }}`)
	f(`{"stream_options":{"x":1,"include_usage":null},"model":"m","stream":true}`, 9, true, `{"max_completion_tokens":9,"stream_options":{"x":1,"include_usage":true},"model":"m","stream":true}`)
	f(`{"model":"m","stream":true,"stream_options": { } }`, 0, true, `{"model":"m","stream":true,"stream_options": {"include_usage":true } }`)
	f(`{"model":"m","stream":true,"stream_options":{ "x":1}}`, 0, true, `{"model":"m","stream":true,"stream_options":{"include_usage":true, "x":1}}`)
	f(`{"model":"m","stream":true,"stream_options":null,"max_completion_tokens":null}`, 9, true, `{"model":"m","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":9}`)
	f(`{"max_completion_tokens":null,"model":"m","stream":true}`, 9, true, `{"stream_options":{"include_usage":true},"max_completion_tokens":9,"model":"m","stream":true}`)
	f(`{"model":"m","max_tokens":null}`, 9, false, `{"max_completion_tokens":9,"model":"m","max_tokens":null}`)

	// An API without stream options gets none.
	body := `{"model":"m","stream":true,"max_tokens":5}`
	s := scan(t, anthropic.Messages, body)
	if got := string(s.Rewrite(nil, []byte(body), "max_tokens", 9, true)); got != body {
		t.Errorf("becomes %s", got)
	}
}

// FuzzRewrite: what is served decodes, after rewriting, to what it decoded to
// before but for the two members, and nothing is changed where nothing is asked.
func FuzzRewrite(f *testing.F) {
	for _, s := range []string{`{"model":"m"}`, `{"model":"m","stream":true}`, `{"stream":true,"stream_options":{},"model":"m"}`, `{"stream":true,"stream_options":null,"max_tokens":null,"model":"m"}`,
		`{"stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false},"model":"m","max_completion_tokens":null}`, `{"model":"m","max_tokens":3,"messages":[{"content":[{"type":"text"}]}]}`} {
		f.Add([]byte(s), int64(7), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, limit int64, ask bool) {
		var s provider.Scan
		if openai.Chat.Scan(body, &s) != nil {
			return
		}
		if got := s.Rewrite(nil, body, "max_tokens", 0, false); !bytes.Equal(got, body) {
			t.Fatalf("%q becomes %q for no reason", body, got)
		}
		got := s.Rewrite(nil, body, "max_tokens", limit, ask)
		var again provider.Scan
		if err := openai.Chat.Scan(got, &again); err != nil {
			t.Fatalf("%q becomes %q: %v", body, got, err)
		}
		var before, after map[string]any
		if err := errors.Join(json.Unmarshal(body, &before), json.Unmarshal(got, &after)); err != nil {
			t.Fatal(err)
		}
		want := maps.Clone(before)
		if ask && s.Stream {
			options, _ := before["stream_options"].(map[string]any)
			options = maps.Clone(options)
			if options == nil {
				options = map[string]any{}
			}
			options["include_usage"] = true
			want["stream_options"] = options
		}
		if limit > 0 && !s.HasLimit {
			want["max_tokens"] = float64(limit)
		}
		if !reflect.DeepEqual(after, want) {
			t.Fatalf("%q becomes %q", body, got)
		}
	})
}

func TestRefuseHeader(t *testing.T) {
	f := func(api *provider.API, name, value string, refused bool) {
		t.Helper()
		if err := api.RefuseHeader(name, value); (err != nil) != refused {
			t.Errorf("%s: %s: %v", name, value, err)
		}
	}
	f(anthropic.Messages, "anthropic-beta", "prompt-caching-2024-07-31, interleaved-thinking-2025-05-14,,output-128k-2025-02-19", false)
	f(anthropic.Messages, "Anthropic-Beta", "claude-code-20250219,context-1m-2025-08-07", true)
	f(anthropic.Messages, "anthropic-beta", "fast-mode-2026-02-01", true)
	f(anthropic.Messages, "anthropic-beta", "output-128k-x", true)
	f(anthropic.Messages, "anthropic-version", "2023-06-01", false)
	f(openai.Chat, "anthropic-beta", "context-1m-2025-08-07", false)
}

// body makes a chat request of about n bytes, as agents send them.
func body(n int) []byte {
	const message = `{"role":"user","content":[{"type":"text","text":"The quick \"brown\" fox jumps over the lazy dog.\nIt does so again and again, pour ainsi dire, sans arrêt ni répit."}]}`
	b := []byte(`{"model":"gpt-4o","stream":true,"max_tokens":500,"temperature":0.7,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"number"}}}}}],"messages":[` + message)
	for len(b) < n {
		b = append(append(b, ','), message...)
	}
	return append(b, `]}`...)
}

func BenchmarkScan(b *testing.B) {
	for _, n := range []int{4 << 10, 100 << 10} {
		b.Run(fmt.Sprintf("%dKB", n>>10), func(b *testing.B) {
			text := body(n)
			var s provider.Scan
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if err := openai.Chat.Scan(text, &s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestScanAllocatesNothingThatGrows(t *testing.T) {
	text := body(100 << 10)
	var s provider.Scan
	if n := testing.AllocsPerRun(10, func() {
		if err := openai.Chat.Scan(text, &s); err != nil {
			t.Fatal(err)
		}
	}); n > 3 { // the model's name, the scanner, and space to decode the longest string
		t.Errorf("%v allocations", n)
	}
}

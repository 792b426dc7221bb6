package standin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testKey = "provider-key"

// station is a stand-in under test with its log.
type station struct {
	t    *testing.T
	url  string
	path string
	sent uint64 // requests so far, one after the other
}

func newStation(t *testing.T) *station {
	t.Helper()
	path := filepath.Join(t.TempDir(), "standin.log")
	s, err := New(Options{LogPath: path, Key: testKey, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &station{t: t, url: "http://" + addr, path: path}
}

const (
	chatPath       = "/v1/chat/completions"
	messagesPath   = "/v1/messages"
	embeddingsPath = "/v1/embeddings"
)

// post sends a body as the provider's SDK would.
func (s *station) post(path, body string) (*http.Response, error) {
	s.t.Helper()
	s.sent++
	r, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-Request-Id", "caller-1")
	if path == messagesPath {
		r.Header.Set("X-Api-Key", testKey)
		r.Header.Set("Anthropic-Version", "2023-06-01")
	} else {
		r.Header.Set("Authorization", "Bearer "+testKey)
	}
	return http.DefaultClient.Do(r)
}

// whole posts and returns the status and the body, both of which must arrive.
func (s *station) whole(path, body string) (*http.Response, string) {
	s.t.Helper()
	resp, err := s.post(path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(text)
}

// last waits for the end line of the latest request: a broken answer may reach the caller first.
func (s *station) last() Line {
	s.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		lines, err := ReadLog(s.path)
		if err != nil {
			s.t.Fatal(err)
		}
		if n := len(lines); n > 0 && lines[n-1].Event == EventEnd && lines[n-1].N == s.sent {
			return lines[n-1]
		}
	}
	s.t.Fatal("no end line")
	return Line{}
}

func prompt(marker string) string {
	filler := strings.Repeat("word ", 100)
	return `"messages":[{"role":"user","content":"[[standin ` + marker + `]] ` + filler + `"}]`
}

func chat(marker, more string) string {
	return `{"model":"gpt-4o-mini",` + prompt(marker) + more + `}`
}

func message(marker, more string) string {
	return `{"model":"claude-sonnet-4-5","max_tokens":1000,` + prompt(marker) + more + `}`
}

// at returns the value at a path such as "usage.prompt_tokens" as text; "absent" if there is none.
func at(t *testing.T, doc, path string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		t.Fatalf("not JSON: %v: %.200s", err, doc)
	}
	for _, name := range strings.Split(path, ".") {
		switch parent := v.(type) {
		case map[string]any:
			member, ok := parent[name]
			if !ok {
				return "absent"
			}
			v = member
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil || i >= len(parent) {
				return "absent"
			}
			v = parent[i]
		default:
			return "absent"
		}
	}
	return fmt.Sprint(v)
}

func wantAt(t *testing.T, doc string, want map[string]string) {
	t.Helper()
	for path, value := range want {
		if got := at(t, doc, path); got != value {
			t.Errorf("%s = %s, want %s in %.300s", path, got, value, doc)
		}
	}
}

// events are the data of a stream's events, and their names where it has them.
func events(stream string) (data, names []string) {
	scanner := bufio.NewScanner(strings.NewReader(stream))
	for scanner.Scan() {
		if text, ok := strings.CutPrefix(scanner.Text(), "data: "); ok {
			data = append(data, text)
		} else if name, ok := strings.CutPrefix(scanner.Text(), "event: "); ok {
			names = append(names, name)
		}
	}
	return data, names
}

func TestChatAnswer(t *testing.T) {
	s := newStation(t)
	resp, body := s.whole(chatPath, chat("in=300 cached=100 out=50 reasoning=20", ""))
	wantAt(t, body, map[string]string{
		"object": "chat.completion", "model": "gpt-4o-mini-2024-07-18",
		"choices.0.message.role": "assistant", "choices.0.finish_reason": "stop",
		"usage.prompt_tokens": "300", "usage.prompt_tokens_details.cached_tokens": "100",
		"usage.completion_tokens": "50", "usage.completion_tokens_details.reasoning_tokens": "20",
		"usage.total_tokens": "350",
	})
	if resp.Header.Get("X-Request-Id") == "" {
		t.Error("no x-request-id header")
	}
	line := s.last()
	if want := (Meters{Input: 200, CachedInput: 100, Output: 30, Reasoning: 20}); line.Meters != want {
		t.Errorf("logged %+v, want %+v", line.Meters, want)
	}
	if line.Outcome != OutcomeComplete || line.RequestID != "caller-1" || line.API != "openai.chat" ||
		line.Model != "gpt-4o-mini" || line.UpstreamRequestID != at(t, body, "id") {
		t.Errorf("logged %+v", line)
	}
}

func TestChatStream(t *testing.T) {
	s := newStation(t)
	for _, usage := range []bool{true, false} {
		more := `,"stream":true`
		if usage {
			more += `,"stream_options":{"include_usage":true}`
		}
		resp, body := s.whole(chatPath, chat("in=300 cached=100 out=50 reasoning=20 chunks=7", more))
		if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
			t.Errorf("content type %q", got)
		}
		data, _ := events(body)
		if data[len(data)-1] != "[DONE]" {
			t.Fatalf("terminator %q", data[len(data)-1])
		}
		data = data[:len(data)-1]
		wantAt(t, data[0], map[string]string{"object": "chat.completion.chunk", "choices.0.delta.role": "assistant"})
		if usage {
			wantAt(t, data[0], map[string]string{"usage": "<nil>"})
			wantAt(t, data[len(data)-1], map[string]string{"choices": "[]", "usage.prompt_tokens": "300",
				"usage.completion_tokens": "50", "usage.prompt_tokens_details.cached_tokens": "100"})
			data = data[:len(data)-1]
		}
		if len(data) != 9 { // role, 7 deltas, finish
			t.Errorf("%d chunks with usage=%v", len(data), usage)
		}
		if !usage {
			wantAt(t, data[0], map[string]string{"usage": "absent"})
		}
		wantAt(t, data[8], map[string]string{"choices.0.finish_reason": "stop", "choices.0.delta": "map[]"})
		if line := s.last(); line.DeltasSent != 7 || line.Outcome != OutcomeComplete || !line.Stream || line.Meters.Output != 30 {
			t.Errorf("logged %+v", line)
		}
	}
}

func TestChatChoices(t *testing.T) {
	s := newStation(t)
	_, body := s.whole(chatPath, chat("out=10", `,"n":3,"max_tokens":8`))
	wantAt(t, body, map[string]string{"choices.2.index": "2", "choices.3": "absent", "choices.0.finish_reason": "length",
		"usage.completion_tokens": "24"})
}

func TestMessageAnswer(t *testing.T) {
	s := newStation(t)
	resp, body := s.whole(messagesPath, message("in=100 cached=40 cw5m=30 cw1h=20 out=50 reasoning=9", ""))
	wantAt(t, body, map[string]string{
		"type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929", "content.0.type": "text",
		"stop_reason": "end_turn", "usage.input_tokens": "100", "usage.cache_read_input_tokens": "40",
		"usage.cache_creation_input_tokens":              "50",
		"usage.cache_creation.ephemeral_5m_input_tokens": "30", "usage.cache_creation.ephemeral_1h_input_tokens": "20",
		"usage.output_tokens": "50",
	})
	if !strings.HasPrefix(resp.Header.Get("Request-Id"), "req_") || !strings.HasPrefix(at(t, body, "id"), "msg_") {
		t.Errorf("ids %q, %q", resp.Header.Get("Request-Id"), at(t, body, "id"))
	}
	want := Meters{Input: 100, CachedInput: 40, CacheWrite5m: 30, CacheWrite1h: 20, Output: 50}
	if line := s.last(); line.Meters != want || line.API != "anthropic.messages" {
		t.Errorf("logged %+v", line)
	}
}

func TestMessageStream(t *testing.T) {
	s := newStation(t)
	_, body := s.whole(messagesPath, message("in=100 cached=40 cw5m=30 out=50 chunks=3", `,"stream":true`))
	data, names := events(body)
	want := "message_start content_block_start ping content_block_delta content_block_delta content_block_delta " +
		"content_block_stop message_delta message_stop"
	if got := strings.Join(names, " "); got != want {
		t.Fatalf("events %s, want %s", got, want)
	}
	for i, name := range names {
		wantAt(t, data[i], map[string]string{"type": name})
	}
	wantAt(t, data[0], map[string]string{"message.usage.input_tokens": "100", "message.usage.output_tokens": "1",
		"message.usage.cache_read_input_tokens": "40", "message.usage.cache_creation.ephemeral_5m_input_tokens": "30"})
	wantAt(t, data[7], map[string]string{"delta.stop_reason": "end_turn", "usage.output_tokens": "50", "usage.input_tokens": "100",
		"usage.cache_read_input_tokens": "40", "usage.cache_creation_input_tokens": "30"})
}

func TestEmbeddings(t *testing.T) {
	s := newStation(t)
	for _, c := range []struct {
		more    string
		vectors string // the index of the last
		first   string // component, or text
	}{
		{`"input":"some text to embed"`, "0", "0.02551551"},
		{`"input":["one","two"],"dimensions":2`, "1", "0.02551551"},
		{`"input":[1,2,3]`, "0", "0.02551551"},
		{`"input":[[1,2],[3]],"dimensions":1,"encoding_format":"base64"`, "1", "absent"},
	} {
		_, body := s.whole(embeddingsPath, `{"model":"text-embedding-3-small",`+c.more+`}`)
		wantAt(t, body, map[string]string{"object": "list", "data." + c.vectors + ".index": c.vectors,
			"data.0.embedding.0": c.first, "model": "text-embedding-3-small"})
		if line := s.last(); at(t, body, "usage.prompt_tokens") != fmt.Sprint(line.Meters.Input) || line.Meters.Output != 0 {
			t.Errorf("usage %s, logged %+v", at(t, body, "usage"), line.Meters)
		}
	}
}

func TestModels(t *testing.T) {
	s := newStation(t)
	for _, c := range []struct{ key, value, member string }{
		{"Authorization", "Bearer " + testKey, "object"},
		{"X-Api-Key", testKey, "has_more"},
	} {
		r, _ := http.NewRequest(http.MethodGet, s.url+"/v1/models", nil)
		r.Header.Set(c.key, c.value)
		if c.key == "X-Api-Key" {
			r.Header.Set("Anthropic-Version", "2023-06-01")
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || at(t, string(body), c.member) == "absent" || at(t, string(body), "data.0.id") == "absent" {
			t.Errorf("%s: %d %s", c.key, resp.StatusCode, body)
		}
	}
}

// A count that no proxy knows is reported at its place in every form.
func TestUnknownUsage(t *testing.T) {
	s := newStation(t)
	_, answer := s.whole(chatPath, chat("unknown=5", ""))
	wantAt(t, answer, map[string]string{"usage.experimental_tokens": "5"})
	_, stream := s.whole(messagesPath, message("unknown=5", `,"stream":true`))
	data, _ := events(stream)
	wantAt(t, data[0], map[string]string{"message.usage.experimental_tokens": "5"})
	wantAt(t, data[len(data)-2], map[string]string{"type": "message_delta", "usage.experimental_tokens": "5"})
}

// The output's limit and the prompt's bytes hold whatever a marker asks for.
func TestLimits(t *testing.T) {
	s := newStation(t)
	for _, c := range []struct {
		more   string
		output string
	}{
		{`,"max_tokens":5`, "5"},
		{`,"max_completion_tokens":6`, "6"},
		{`,"max_tokens":9,"max_completion_tokens":7`, "7"},
	} {
		_, body := s.whole(chatPath, chat("in=1000000 out=5000 chunks=3000", c.more))
		wantAt(t, body, map[string]string{"usage.completion_tokens": c.output, "choices.0.finish_reason": "length"})
		if line := s.last(); line.Meters.Input > len(chat("in=1000000 out=5000 chunks=3000", c.more)) {
			t.Errorf("%d prompt tokens are more than the body's bytes", line.Meters.Input)
		}
	}
	body := message("in=400 cached=400 cw5m=400 cw1h=400", "")
	s.whole(messagesPath, body)
	if m := s.last().Meters; m.Input+m.CachedInput+m.CacheWrite5m+m.CacheWrite1h > len(body) {
		t.Errorf("%+v are more prompt tokens than the body's %d bytes", m, len(body))
	}
	_, zero := s.whole(chatPath, chat("in=0 out=0", ""))
	wantAt(t, zero, map[string]string{"usage.prompt_tokens": "0", "usage.completion_tokens": "0"})
}

// Without a marker the figures follow from the prompt, not from what a proxy adds.
func TestDeterministic(t *testing.T) {
	s := newStation(t)
	const ask = `"messages":[{"role":"user","content":"why is the sky blue, and why not always?"}]`
	s.whole(chatPath, `{"model":"gpt-4o",`+ask+`,"max_tokens":500}`)
	first := s.last().Meters
	s.whole(chatPath, `{"model":"gpt-4o",`+ask+`,"max_tokens":500,"stream":true,"stream_options":{"include_usage":true}}`)
	if second := s.last().Meters; second != first || first.Input < 1 || first.Output < 1 || first.Output > randomOutputTokens {
		t.Errorf("%+v, then %+v", first, second)
	}
	s.whole(chatPath, `{"model":"gpt-4o",`+ask+`}`)
	if m := s.last().Meters; m.Output > defaultOutputTokens {
		t.Errorf("%d tokens without a limit", m.Output)
	}
}

func TestErrors(t *testing.T) {
	s := newStation(t)
	for _, c := range []struct {
		path, body string
		status     int
		want       map[string]string
	}{
		{chatPath, chat("status=429", ""), 429, map[string]string{"error.code": "rate_limit_exceeded"}},
		{chatPath, chat("status=500", ""), 500, map[string]string{"error.type": "server_error", "error.param": "<nil>"}},
		{chatPath, `{"model":"gpt-4o"}`, 400, map[string]string{"error.type": "invalid_request_error", "error.param": "messages"}},
		{chatPath, `{`, 400, map[string]string{"error.type": "invalid_request_error"}},
		{chatPath, chat("fault=nonsense", ""), 400, nil},
		{"/v1/nothing", `{}`, 404, map[string]string{"error.code": "unknown_url"}},
		{messagesPath, message("status=429", ""), 429, map[string]string{"type": "error", "error.type": "rate_limit_error"}},
		{messagesPath, message("status=529", ""), 529, map[string]string{"error.type": "overloaded_error"}},
		{messagesPath, `{"model":"x",` + prompt("") + `}`, 400, map[string]string{"error.type": "invalid_request_error"}},
	} {
		resp, body := s.whole(c.path, c.body)
		if resp.StatusCode != c.status {
			t.Errorf("%s %.40s: status %d, want %d: %s", c.path, c.body, resp.StatusCode, c.status, body)
		}
		wantAt(t, body, c.want)
		if c.status == 429 && resp.Header.Get("Retry-After") != "2" {
			t.Error("429 without retry-after")
		}
		if line := s.last(); line.Outcome != fmt.Sprintf("error:%d", c.status) || line.Meters != (Meters{}) {
			t.Errorf("logged %+v", line)
		}
	}
}

func TestProviderKey(t *testing.T) {
	s := newStation(t)
	for path, kind := range map[string]string{chatPath: "error.code", messagesPath: "error.type"} {
		r, _ := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer other")
		r.Header.Set("X-Api-Key", "other")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := map[string]string{"error.code": "invalid_api_key", "error.type": "authentication_error"}[kind]
		if resp.StatusCode != 401 || at(t, string(body), kind) != want {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

// The line is in the log when the terminator arrives: a caller that has the whole answer can
// rely on it.
func TestLoggedBeforeTheEnd(t *testing.T) {
	s := newStation(t)
	for n := range 50 {
		more := []string{"", `,"stream":true`}[n%2]
		resp, err := s.post(chatPath, chat("out=3", more))
		if err != nil {
			t.Fatal(err)
		}
		if more == "" {
			_, err = io.ReadFull(resp.Body, make([]byte, resp.ContentLength))
		} else {
			for reader := bufio.NewReader(resp.Body); err == nil; {
				var line string
				if line, err = reader.ReadString('\n'); line == "data: [DONE]\n" {
					break
				}
			}
		}
		lines, logErr := ReadLog(s.path)
		if err != nil || logErr != nil {
			t.Fatal(err, logErr)
		}
		if len(lines) != 2*(n+1) || lines[2*n].Event != EventStart || lines[2*n+1].Event != EventEnd {
			t.Fatalf("after %d answers the log has %d lines", n+1, len(lines))
		}
		resp.Body.Close()
	}
}

func BenchmarkChatAnswer(b *testing.B) {
	s, err := New(Options{LogPath: filepath.Join(b.TempDir(), "log")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	body := chat("out=200", "")
	b.ReportAllocs()
	for b.Loop() {
		r, _ := http.NewRequest(http.MethodPost, chatPath, strings.NewReader(body))
		s.ServeHTTP(&discard{header: http.Header{}}, r)
	}
}

// discard takes an answer without a connection.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

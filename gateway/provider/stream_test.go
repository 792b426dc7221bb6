package provider_test

import (
	"bytes"
	"strings"
	"testing"

	"weir/gateway/provider"
	"weir/gateway/provider/anthropic"
	"weir/gateway/provider/openai"
)

const (
	hello      = `data: {"model":"m","choices":[{"delta":{"content":"hello"}}]}` + "\n\n"
	usageChunk = `data: {"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}` + "\n\n"
	done       = "data: [DONE]\n\n"
)

// asked is the scan of a streamed chat request; weir tells whether usage is
// asked for on the client's behalf.
func asked(t testing.TB, members string, weir bool) *provider.Scan {
	t.Helper()
	var s provider.Scan
	body := []byte(`{"model":"m","stream":true` + members + `}`)
	if err := openai.Chat.Scan(body, &s); err != nil {
		t.Fatal(err)
	}
	s.Rewrite(nil, body, "max_tokens", 0, weir)
	return &s
}

func TestStreamTakesOutItsOwnUsageChunkAlone(t *testing.T) {
	f := func(s *provider.Scan, text, want string) {
		t.Helper()
		_, out, a := run(t, openai.Chat, s, []byte(text))
		if string(out) != want || !a.HasUsage {
			t.Errorf("forwarded %q, want %q; %+v", out, want, *a)
		}
	}
	f(asked(t, ``, true), hello+usageChunk+done, hello+done)
	f(asked(t, `,"stream_options":{"include_usage":false}`, true), hello+usageChunk+done, hello+done)
	f(asked(t, `,"stream_options":{"include_usage":true}`, true), hello+usageChunk+done, hello+usageChunk+done)
	f(asked(t, ``, false), hello+usageChunk+done, hello+usageChunk+done) // the upstream volunteered it
	beside := strings.Replace(usageChunk, `[]`, `[{"delta":{}}]`, 1)
	f(asked(t, ``, true), hello+beside+done, hello+beside+done)
}

func TestStreamForwardsWholeEventsAtOnce(t *testing.T) {
	st := openai.Chat.NewStream(asked(t, ``, true))
	f := func(in, want string) {
		t.Helper()
		if got := string(st.Feed(nil, []byte(in))); got != want {
			t.Errorf("fed %q, forwarded %q, want %q", in, got, want)
		}
	}
	f(hello[:20], "")
	f(hello[20:len(hello)-1], "")
	f("\n", hello)
	windows := strings.ReplaceAll(hello, "\n", "\r\n")
	f(windows, windows) // to its last LF, without which some clients see no end
	f(strings.ReplaceAll(usageChunk, "\n", "\r\n"), "")
	f(hello+hello[:9], hello)
	f(hello[9:]+": comment\n\n"+usageChunk+done[:4], hello+": comment\n\n")
	if st.Ended() {
		t.Error("ended before the terminator")
	}
	f(done[4:]+hello, "")
	if !st.Ended() {
		t.Error("not ended")
	}
	f("late", "")
	if got := string(st.Release(nil)); got != done+hello+"late" {
		t.Errorf("released %q", got)
	}
	if got := st.Release(nil); len(got) > 0 {
		t.Errorf("released again: %q", got)
	}
}

// TestStreamForwardsWhatIsTooLargeUnread: an event over 1 MiB passes as it
// comes and counts as output, nothing inside it is read, and memory is bounded.
func TestStreamForwardsWhatIsTooLargeUnread(t *testing.T) {
	const limit = 1 << 20
	event := func(n int) []byte { // of n bytes, with usage inside
		head := `data: {"choices":[{"delta":{"content":"`
		tail := `"}}],"usage":{"prompt_tokens":9,"completion_tokens":9}}` + "\n\n"
		return []byte(head + strings.Repeat("x", n-len(head)-len(tail)) + tail)
	}
	s := asked(t, ``, true)
	for _, piece := range []int{1000, 1 << 16, limit - 1, 3 * limit} {
		for _, n := range []int{limit, limit + 1, 2*limit + 17} {
			text := append(append([]byte(hello), event(n)...), done...)
			st := openai.Chat.NewStream(s)
			var out []byte
			for rest := text; len(rest) > 0; {
				now := min(piece, len(rest))
				out = st.Feed(out, rest[:now])
				if rest = rest[now:]; len(text)-len(rest)-len(out) > limit+len(done) {
					t.Fatalf("%d bytes are kept", len(text)-len(rest)-len(out))
				}
			}
			out = st.Release(out)
			if a := st.Answer(); !bytes.Equal(out, text) || a.Deltas != 2 || a.HasUsage != (n <= limit) || !a.Terminated {
				t.Errorf("an event of %d in pieces of %d: same bytes %v, %+v", n, piece, bytes.Equal(out, text), *a)
			}
		}
	}
	st := openai.Chat.NewStream(s)
	st.Feed(nil, []byte(done))
	for range 5 {
		if out := st.Feed(nil, make([]byte, limit)); len(out) > 0 {
			t.Errorf("%d bytes are forwarded after the terminator", len(out))
		}
	}
	if n := len(st.Release(nil)); n > limit {
		t.Errorf("%d bytes are held after the terminator", n)
	}
}

// TestStreamAnswerGrows: what was read can be asked at any time, and asking
// changes nothing.
func TestStreamAnswerGrows(t *testing.T) {
	st := anthropic.Messages.NewStream(&provider.Scan{})
	f := func(in string, inputSeen, output, usage bool) {
		t.Helper()
		st.Feed(nil, []byte("data: "+in+"\n\n"))
		for range 2 {
			if a := st.Answer(); a.InputSeen != inputSeen || a.HasOutput != output || a.HasUsage != usage {
				t.Errorf("after %s: %+v", in, *a)
			}
		}
	}
	f(`{"type":"ping"}`, false, false, false)
	f(`{"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}`, true, false, false)
	f(`{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}`, true, true, false)
	f(`{"type":"message_delta","usage":{"output_tokens":7}}`, true, true, true)
}

// FuzzStream: bytes are forwarded in order, all but whole usage chunks; cutting
// changes nothing; nothing panics.
func FuzzStream(f *testing.F) {
	for _, c := range transcripts(f) {
		if c.stream {
			f.Add(c.response, uint16(len(c.response)/3), uint16(len(c.response)/2), strings.HasPrefix(c.name, "openai"))
		}
	}
	f.Add([]byte("data\rdata:\r\ndata: 1\n\r\r\n\n\ufeffdata: [DONE]\r\n\r\n\n"), uint16(5), uint16(14), true)
	f.Fuzz(func(t *testing.T, text []byte, cut1, cut2 uint16, chat bool) {
		api, s := anthropic.Messages, &provider.Scan{}
		if chat {
			api, s = openai.Chat, asked(t, ``, true)
		}
		feed := func(pieces ...[]byte) ([]byte, provider.Answer) {
			st := api.NewStream(s)
			var out []byte
			for _, p := range pieces {
				out = st.Feed(out, p)
			}
			out = st.Release(out)
			return out, *st.Answer()
		}
		one := min(int(cut1), len(text))
		two := min(max(one, int(cut2)), len(text))
		out, whole := feed(text)
		again, parts := feed(text[:one], text[one:two], text[two:])
		if !bytes.Equal(out, again) || whole != parts {
			t.Fatalf("cut at %d and %d of %q:\n%+v\n%q\nwant\n%+v\n%q", one, two, text, parts, again, whole, out)
		}
		if !chat && !bytes.Equal(out, text) {
			t.Fatalf("%q became %q", text, out)
		}
		rest := out // must be what is left of text
		for _, b := range text {
			if len(rest) > 0 && rest[0] == b {
				rest = rest[1:]
			}
		}
		if len(rest) > 0 || len(out) < len(text) && !bytes.Contains(text, []byte("usage")) {
			t.Fatalf("%q became %q", text, out)
		}
	})
}

// FuzzReadJSON: no answer panics, and no count wraps.
func FuzzReadJSON(f *testing.F) {
	for _, c := range transcripts(f) {
		if !c.stream {
			f.Add(c.response, uint8(0))
			f.Add(c.response, uint8(1))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		var a provider.Answer
		[]*provider.API{openai.Chat, openai.Embeddings, anthropic.Messages}[which%3].ReadJSON(body, &a)
		for m, n := range a.Meters {
			if n > 3<<40 {
				t.Fatalf("%q: meter %d is %d", body, m, n)
			}
		}
	})
}

func BenchmarkStream(b *testing.B) {
	s := asked(b, ``, true)
	event := []byte(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-2024-08-06","service_tier":"default",` +
		`"system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" weir"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"kQ7x"}` + "\n\n")
	st := openai.Chat.NewStream(s)
	var out []byte
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		out = st.Feed(out[:0], event)
	}
}

package provider_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"weir/gateway/provider"
	"weir/schemas/usage"
)

// plain tells whether a text is one JSON document that all parsers read alike:
// no name twice in one object, none written with escapes, and not so deep that
// a reader may give up.
func plain(text []byte) bool {
	if !json.Valid(text) || !utf8.Valid(text) {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return plainValue(dec, text, 0)
}

func plainValue(dec *json.Decoder, text []byte, depth int) bool {
	token, err := dec.Token()
	if err != nil || depth > 500 {
		return false
	}
	opened, _ := token.(json.Delim)
	if opened == 0 {
		return true
	}
	names := map[string]bool{}
	for dec.More() {
		if opened == '{' {
			from := dec.InputOffset()
			name, err := dec.Token()
			if err != nil {
				return false
			}
			key, _ := name.(string)
			if names[key] || bytes.IndexByte(text[from:dec.InputOffset()], '\\') >= 0 {
				return false
			}
			names[key] = true
		}
		if !plainValue(dec, text, depth+1) {
			return false
		}
	}
	_, err = dec.Token()
	return err == nil
}

// agree compares what was read with the verdict.
func agree(t *testing.T, text []byte, a *provider.Answer, v *verdict) {
	t.Helper()
	meters := map[string]int64{}
	for m, n := range a.Meters {
		if n > 0 {
			meters[usage.Meter(m).String()] = int64(n)
		}
	}
	for m, n := range v.meters {
		if n == 0 {
			delete(v.meters, m)
		}
	}
	type reading struct {
		Model                                                       string
		Terminated, Failed, Output, InputSeen, OutputSeen, Complete bool
		Unknown                                                     bool
		Meters                                                      map[string]int64
		Deltas, Bytes                                               int64
	}
	got := reading{a.Model, a.Terminated, a.Failed, a.HasOutput, a.InputSeen, a.OutputSeen, a.HasUsage, a.UnknownMeter, meters, a.Deltas, a.DeltaBytes}
	want := reading{v.model, v.terminated, v.failed, v.output, v.inputSeen, v.outputSeen, v.usageComplete(), len(v.unknown) > 0, v.meters, v.deltas, v.bytes}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%q is read as\n%+v, want\n%+v", text, got, want)
	}
}

var apiNames = []string{"openai.chat", "openai.embeddings", "anthropic.messages"}

// modelMax is the longest name of a model that is kept.
const modelMax = 256

// FuzzMeters: no answer panics, no count wraps, and one that every parser reads
// alike is read as the oracle reads it.
func FuzzMeters(f *testing.F) {
	for _, c := range transcripts(f) {
		if !c.stream {
			for i := range apiNames {
				f.Add(c.response, uint8(i))
			}
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		name := apiNames[int(which)%len(apiNames)]
		var a provider.Answer
		apis[name].ReadJSON(body, &a)
		for m, n := range a.Meters {
			if n > 3<<40 {
				t.Fatalf("%q: meter %d is %d", body, m, n)
			}
		}
		if !plain(body) {
			return
		}
		if v := judge(transcript{api: name, request: []byte(`{}`), response: body}); !v.odd && len(v.model) <= modelMax {
			agree(t, body, &a, v)
		}
	})
}

// FuzzEvents: no stream panics, and one whose data every parser reads alike is
// read and forwarded as the oracle says, whatever its framing is.
func FuzzEvents(f *testing.F) {
	for _, c := range transcripts(f) {
		if c.stream {
			f.Add(c.response, c.api == "openai.chat")
		}
	}
	f.Add([]byte("data\rdata:\r\ndata: 1\n\r\r\n\n\ufeffdata: [DONE]\r\n\r\n\n"), true)
	f.Fuzz(func(t *testing.T, text []byte, chat bool) {
		tr := transcript{api: "anthropic.messages", request: []byte(`{"model":"m","stream":true}`), response: text, stream: true}
		if chat {
			tr.api = "openai.chat"
		}
		c := recorded{transcript: tr}
		_, out, a := run(t, apis[tr.api], c.ask(t), text)
		for _, e := range serverSentEvents(text) {
			if json.Valid([]byte(e.data)) && strings.HasPrefix(strings.TrimSpace(e.data), "{") && !plain([]byte(e.data)) {
				return
			}
		}
		v := judge(tr)
		if v.odd || len(v.model) > modelMax {
			return
		}
		agree(t, text, a, v)
		if !bytes.Equal(out, v.forwarded) {
			t.Fatalf("%q is forwarded as\n%q, want\n%q", text, out, v.forwarded)
		}
	})
}

// FuzzScan: no request panics, and what is served asks for what the oracle
// reads in it.
func FuzzScan(f *testing.F) {
	for _, c := range transcripts(f) {
		for i := range apiNames {
			f.Add(c.request, uint8(i))
		}
	}
	f.Add([]byte(`{"model":"m","max_tokens":5,"thinking":{"budget_tokens":9},"stream":false,"n":3,"stream_options":{"include_usage":true}}`), uint8(0))
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		name := apiNames[int(which)%len(apiNames)]
		var s provider.Scan
		if apis[name].Scan(body, &s) != nil {
			return
		}
		want := readAsk(name, body)
		got := ask{model: s.Model, stream: s.Stream, limit: s.Limit, n: s.N, usage: s.UsageAsked, inlineBytes: s.InlineBytes,
			messages: want.messages, tools: want.tools, short: want.short, long: want.long} // their lists may be malformed
		if got != want {
			t.Fatalf("%q asks for\n%+v, want\n%+v", body, got, want)
		}
		if s.TextBytes < s.InlineBytes || int(s.Messages) < want.messages || int(s.Tools) < want.tools ||
			want.short && !s.CacheWrite5m || want.long && !s.CacheWrite1h {
			t.Fatalf("%q: less is reserved for than is asked: %+v, %+v", body, s, want)
		}
	})
}

package provider_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weir/gateway/provider"
	"weir/gateway/provider/anthropic"
	"weir/gateway/provider/openai"
	"weir/schemas/usage"
)

// transcript is one case of the corpus: a request, its answer, and what both
// must be read as. Its source.txt says where the form of the answer is from.
type transcript struct {
	name              string
	api               *provider.API
	request, response []byte
	stream            bool
	want              string
}

// transcripts reads the corpus.
func transcripts(t testing.TB) (all []transcript) {
	dirs, err := filepath.Glob("*/testdata/*_*")
	plain, err2 := filepath.Glob("*/testdata/embeddings")
	if err != nil || err2 != nil || len(dirs) == 0 {
		t.Fatal("no corpus", err, err2)
	}
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, dir := range append(dirs, plain...) {
		c := transcript{name: dir, api: openai.Chat, request: read(dir + "/request.json"), want: string(read(dir + "/want.txt"))}
		switch {
		case strings.HasPrefix(dir, "anthropic"):
			c.api = anthropic.Messages
		case strings.Contains(dir, "embeddings"):
			c.api = openai.Embeddings
		}
		if c.response, err = os.ReadFile(dir + "/response.sse"); err == nil {
			c.stream = true
		} else {
			c.response = read(dir + "/response.json")
		}
		if len(read(dir+"/source.txt")) == 0 {
			t.Errorf("%s names no source", dir)
		}
		all = append(all, c)
	}
	return all
}

// describe writes what was read, in the words of want.txt.
func describe(s *provider.Scan, a *provider.Answer, withheld int) string {
	var b strings.Builder
	word := func(is bool, w string) {
		if is {
			b.WriteString(" " + w)
		}
	}
	number := func(name string, n int64) { word(n != 0, fmt.Sprintf("%s=%d", name, n)) }
	fmt.Fprintf(&b, "request: model=%s", s.Model)
	word(s.Stream, "stream")
	number("limit", s.Limit)
	number("n", s.N)
	number("messages", s.Messages)
	number("tools", s.Tools)
	word(s.UsageAsked, "asked")
	word(s.CacheWrite5m, "cache=5m")
	word(s.CacheWrite1h, "cache=1h")
	fmt.Fprintf(&b, "\nanswer: model=%s", a.Model)
	word(a.Terminated, "terminated")
	word(a.Failed, "failed")
	word(a.HasOutput, "output")
	word(a.HasUsage, "usage")
	meters := func(title string, q usage.Quantities) {
		b.WriteString("\n" + title + ":")
		for m, n := range q {
			number(usage.Meter(m).String(), int64(n))
		}
		word(q == usage.Quantities{}, "none")
	}
	meters("meters", a.Meters)
	fmt.Fprintf(&b, "\ndeltas: %d of %d bytes", a.Deltas, a.DeltaBytes)
	if a.UnknownMeter {
		b.WriteString("\nunknown: " + a.UnknownField)
	}
	if !a.HasUsage {
		meters("estimate", a.Estimate(s.TextBytes))
	}
	if withheld > 0 {
		fmt.Fprintf(&b, "\nwithheld: %d bytes", withheld)
	}
	return b.String() + "\n"
}

// ask scans a request and rewrites it, as it is done before an answer is read.
func (c *transcript) ask(t testing.TB) *provider.Scan {
	t.Helper()
	var s provider.Scan
	if err := c.api.Scan(c.request, &s); err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	s.Rewrite(nil, c.request, "max_tokens", 0, true)
	return &s
}

// terminator is how the streams of the corpus end; nothing of it may be
// forwarded before it is released.
var terminator = regexp.MustCompile(`(?m)(^|\r)data: ?(\[DONE\]|\{"type":"message_stop"\})`)

// run feeds a stream in pieces. It returns what was forwarded before and with
// the release of what is held.
func run(t testing.TB, api *provider.API, s *provider.Scan, pieces ...[]byte) (before, out []byte, a *provider.Answer) {
	t.Helper()
	st := api.NewStream(s)
	for _, p := range pieces {
		before = st.Feed(before, p)
	}
	st.Close()
	a = st.Answer()
	if a.Terminated != st.Ended() {
		t.Fatalf("terminated %v, ended %v", a.Terminated, st.Ended())
	}
	return before, st.Release(before), a
}

func TestCorpus(t *testing.T) {
	for _, c := range transcripts(t) {
		s := c.ask(t)
		got := ""
		if c.stream {
			before, out, a := run(t, c.api, s, c.response)
			if terminator.Match(before) {
				t.Errorf("%s: the terminator was forwarded before it was released:\n%s", c.name, before)
			}
			got = describe(s, a, len(c.response)-len(out))
		} else {
			var a provider.Answer
			c.api.ReadJSON(c.response, &a)
			got = describe(s, &a, 0)
		}
		if got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.name, got, c.want)
		}
	}
}

// TestEstimate: an answer of which nothing is known is not free.
func TestEstimate(t *testing.T) {
	if q := (&provider.Answer{}).Estimate(0); q != (usage.Quantities{usage.Input: 1}) {
		t.Errorf("%v", q)
	}
	if q := (&provider.Answer{Deltas: 806, DeltaBytes: 900}).Estimate(800); q != (usage.Quantities{usage.Input: 100, usage.Output: 806}) {
		t.Errorf("%v", q)
	}
}

// TestStreamSplits: however a stream is cut in two, and byte by byte, and with
// every kind of line end, the same is read and the same bytes are forwarded.
func TestStreamSplits(t *testing.T) {
	for _, c := range transcripts(t) {
		if !c.stream {
			continue
		}
		s := c.ask(t)
		forms := [][]byte{c.response, append([]byte("\ufeff"), c.response...)}
		if !bytes.Contains(c.response, []byte("\r")) {
			for _, end := range []string{"\r", "\r\n"} {
				forms = append(forms, bytes.ReplaceAll(c.response, []byte("\n"), []byte(end)))
			}
		}
		_, _, want := run(t, c.api, s, c.response)
		for i, text := range forms {
			before, out, _ := run(t, c.api, s, text)
			check := func(at int, pieces ...[]byte) {
				first, again, a := run(t, c.api, s, pieces...)
				if !bytes.Equal(first, before) || !bytes.Equal(again, out) || *a != *want {
					t.Fatalf("%s cut at %d of %q:\n%s\n%q, %q\nwant\n%s\n%q, %q", c.name, at, text, describe(s, a, 0), first, again, describe(s, want, 0), before, out)
				}
			}
			var single [][]byte
			for at := range text {
				single = append(single, text[at:at+1])
				// The other forms differ at their ends of lines only.
				if i == 0 || bytes.ContainsAny(text[max(0, at-2):min(len(text), at+2)], "\r\n\ufeff") {
					check(at, text[:at], text[at:])
				}
			}
			check(-1, single...)
		}
	}
}

package provider_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"weir/gateway/provider"
	"weir/gateway/provider/anthropic"
	"weir/gateway/provider/openai"
	"weir/schemas/usage"
)

// updateOracle lets the oracle write want.txt anew; what it wrote is then to be
// read by eye, as any change of a document is.
var updateOracle = flag.Bool("update-oracle", false, "let the oracle write the want.txt of every case")

// recorded is one case of the corpus on disk. Its case.txt names where the form
// of the answer is from, which reported bugs of other gateways it reproduces,
// and what decides the expectation; want.txt is that expectation for people.
type recorded struct {
	transcript
	dir        string // "" for one that is made by the test
	want       string
	reproduces []string
	judged     *verdict
}

// verdict is what the oracle says.
func (c *recorded) verdict() *verdict {
	if c.judged == nil {
		c.judged = judge(c.transcript)
	}
	return c.judged
}

const (
	// casesMin and bugsMin keep the corpus from melting away.
	casesMin = 75
	bugsMin  = 12
)

// transcripts reads the corpus.
func transcripts(t testing.TB) (all []*recorded) {
	dirs, err := filepath.Glob("*/testdata/*")
	if err != nil || len(dirs) < casesMin {
		t.Fatalf("the corpus has %d cases: %v", len(dirs), err)
	}
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, dir := range dirs {
		c := &recorded{dir: dir, transcript: transcript{name: dir, api: "openai.chat", request: read(dir + "/request.json")}}
		switch {
		case strings.HasPrefix(dir, "anthropic"):
			c.api = "anthropic.messages"
		case strings.Contains(dir, "embeddings"):
			c.api = "openai.embeddings"
		}
		if c.response, err = os.ReadFile(dir + "/response.sse"); err == nil {
			c.stream = true
		} else {
			c.response = read(dir + "/response.json")
		}
		if want, err := os.ReadFile(dir + "/want.txt"); err == nil {
			c.want = string(want)
		}
		c.readCase(t, string(read(dir+"/case.txt")))
		all = append(all, c)
	}
	return all
}

// readCase reads lines of the form "key: value".
//
//	source: where the form of the answer is from
//	reproduces: a reported bug, by repository and number
//	decides: the rule by which the expectation follows
//	card: the names of models, and their prices as meter=dollars
//	rule: multiplier=M fee=F, of the asked model
func (c *recorded) readCase(t testing.TB, text string) {
	t.Helper()
	seen := map[string]bool{}
	c.tariff.models = map[string]map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || value == "" {
			t.Fatalf("%s/case.txt: %q", c.dir, line)
		}
		seen[key] = true
		switch key {
		case "source", "decides":
		case "reproduces":
			c.reproduces = append(c.reproduces, value)
		case "card":
			var models []string
			prices := map[string]string{}
			for _, field := range strings.Fields(value) {
				if meter, price, ok := strings.Cut(field, "="); ok {
					prices[meter] = price
				} else {
					models = append(models, field)
				}
			}
			for _, m := range models {
				c.tariff.models[m] = prices
			}
		case "rule":
			for _, field := range strings.Fields(value) {
				switch name, v, _ := strings.Cut(field, "="); name {
				case "multiplier":
					c.tariff.multiplier = v
				case "fee":
					c.tariff.fee = v
				default:
					t.Fatalf("%s/case.txt: %q", c.dir, line)
				}
			}
		default:
			t.Fatalf("%s/case.txt: %q", c.dir, line)
		}
	}
	if !(seen["source"] || seen["reproduces"]) || !seen["decides"] || !seen["card"] {
		t.Errorf("%s/case.txt lacks a source, what decides, or prices", c.dir)
	}
}

// apis are the code under test, by the names of the contract.
var apis = map[string]*provider.API{"openai.chat": openai.Chat, "openai.embeddings": openai.Embeddings, "anthropic.messages": anthropic.Messages}

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
		meters("estimate", a.Estimate(s.InlineBytes))
	}
	if withheld > 0 {
		fmt.Fprintf(&b, "\nwithheld: %d bytes", withheld)
	}
	return b.String() + "\n"
}

// ask scans a request and rewrites it, as it is done before an answer is read.
func (c *recorded) ask(t testing.TB) *provider.Scan {
	t.Helper()
	var s provider.Scan
	if err := apis[c.api].Scan(c.request, &s); err != nil {
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

// read is what the code under test reads in a case, and the bytes it forwards.
func (c *recorded) read(t testing.TB) (text string, forwarded []byte) {
	s := c.ask(t)
	if !c.stream {
		var a provider.Answer
		apis[c.api].ReadJSON(c.response, &a)
		return describe(s, &a, 0), c.response
	}
	before, out, a := run(t, apis[c.api], s, c.response)
	if terminator.Match(before) {
		t.Errorf("%s: the terminator was forwarded before it was released:\n%s", c.name, before)
	}
	return describe(s, a, len(c.response)-len(out)), out
}

// TestCorpus: want.txt is what the oracle says, and the gateway does as the
// oracle says: its tables read the same, and a gateway that serves the
// transcript over HTTP forwards the same bytes and writes the same event.
func TestCorpus(t *testing.T) {
	cases := append(transcripts(t), generated()...)
	served := serveAll(t, cases)
	bugs := map[string]bool{}
	for _, c := range cases {
		for _, bug := range c.reproduces {
			bugs[bug] = true
		}
		v := c.verdict()
		want := v.String() + v.Bill()
		if c.dir != "" && c.want != want {
			if *updateOracle {
				if err := os.WriteFile(c.dir+"/want.txt", []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
			} else {
				t.Errorf("%s: want.txt:\n%sthe oracle:\n%s", c.name, c.want, want)
			}
		}
		text, out := c.read(t)
		if !bytes.Equal(out, v.forwarded) {
			t.Errorf("%s: %d bytes are forwarded, want %d", c.name, len(out), len(v.forwarded))
		}
		if len(served[c]) < 2 {
			t.Errorf("%s was served %d times", c.name, len(served[c]))
		}
		for _, got := range served[c] {
			if text+got.bill != want {
				t.Errorf("%s, %s:\n%s%swant\n%s", c.name, got.how, text, got.bill, want)
			}
			if got.fault != "" {
				t.Errorf("%s, %s: %s", c.name, got.how, got.fault)
			}
		}
	}
	if len(bugs) < bugsMin {
		t.Errorf("%d reported bugs are reproduced, at least %d must be", len(bugs), bugsMin)
	}
}

// TestOracleStandsAlone: the files of the oracle import the standard library
// alone and use no name that is declared outside them.
func TestOracleStandsAlone(t *testing.T) {
	fset := token.NewFileSet()
	names, err := filepath.Glob("oracle*_test.go")
	if err != nil || len(names) < 2 {
		t.Fatal(names, err)
	}
	var files []*ast.File
	known := map[string]bool{}
	for _, name := range names {
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		for name := range file.Scope.Objects {
			known[name] = true
		}
	}
	for i, file := range files {
		imported := map[string]bool{}
		for _, spec := range file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if strings.Contains(path, ".") || strings.HasPrefix(path, "weir") {
				t.Errorf("%s imports %s", names[i], path)
			}
			imported[filepath.Base(path)] = true
		}
		for _, id := range file.Unresolved {
			if !known[id.Name] && !imported[id.Name] && types.Universe.Lookup(id.Name) == nil {
				t.Errorf("%s uses %s", fset.Position(id.Pos()), id.Name)
			}
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
		forms := [][]byte{c.response}
		if !bytes.HasPrefix(c.response, []byte("\ufeff")) { // a second one would be text
			forms = append(forms, append([]byte("\ufeff"), c.response...))
		}
		if !bytes.Contains(c.response, []byte("\r")) {
			for _, end := range []string{"\r", "\r\n"} {
				forms = append(forms, bytes.ReplaceAll(c.response, []byte("\n"), []byte(end)))
			}
		}
		_, _, want := run(t, apis[c.api], s, c.response)
		for i, text := range forms {
			before, out, _ := run(t, apis[c.api], s, text)
			check := func(at int, pieces ...[]byte) {
				first, again, a := run(t, apis[c.api], s, pieces...)
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

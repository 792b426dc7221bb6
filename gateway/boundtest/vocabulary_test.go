package boundtest

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/pkoukk/tiktoken-go"
	loader "github.com/pkoukk/tiktoken-go-loader"
	"golang.org/x/text/unicode/norm"
)

// vocabulary is a byte-level tokenizer with the vocabulary of one family of
// models.
type vocabulary struct {
	*tiktoken.Tiktoken
	// normalizes: text is brought into the form NFKC first, which can make it
	// up to eleven times as long.
	normalizes bool
}

// count is how many tokens a text has, alone.
func (v *vocabulary) count(text string) int {
	if v.normalizes {
		text = norm.NFKC.String(text)
	}
	return len(v.EncodeOrdinary(text))
}

// most is the larger count of with and without normalizing: what newer models
// of the family do is not published.
func (v *vocabulary) most(text string) int {
	return max(v.count(text), len(v.EncodeOrdinary(text)))
}

// The vocabularies: of OpenAI's older and newer models, both shipped with a Go
// module, and of Claude 2, the only one that Anthropic has published.
type vocabularies struct{ cl100k, o200k, claude *vocabulary }

func loadVocabularies(t testing.TB) *vocabularies {
	t.Helper()
	tiktoken.SetBpeLoader(loader.NewOfflineLoader())
	open := func(name string) *vocabulary {
		encoding, err := tiktoken.GetEncoding(name)
		must(t, err)
		return &vocabulary{Tiktoken: encoding}
	}
	v := &vocabularies{cl100k: open(tiktoken.MODEL_CL100K_BASE), o200k: open(tiktoken.MODEL_O200K_BASE), claude: loadClaude(t)}
	// Figures that the makers of the vocabularies publish with them.
	for _, known := range []struct {
		of   *vocabulary
		text string
		want int
	}{{v.cl100k, "tiktoken is great!", 6}, {v.o200k, "tiktoken is great!", 6}, {v.cl100k, "antidisestablishmentarianism", 6},
		{v.claude, "hello world!", 3}, {v.claude, "™", 1}, {v.claude, "ϰ", 1}} {
		if got := known.of.count(known.text); got != known.want {
			t.Fatalf("%q has %d tokens here, %d are published: the vocabulary is not read rightly", known.text, got, known.want)
		}
	}
	return v
}

// loadClaude reads the file as the npm package @anthropic-ai/tokenizer 0.0.4
// ships it: tokens in Base64 by rank, counted from a first one.
func loadClaude(t testing.TB) *vocabulary {
	t.Helper()
	text, err := os.ReadFile("testdata/claude2/claude.json")
	must(t, err)
	var file struct {
		Pattern string         `json:"pat_str"`
		Special map[string]int `json:"special_tokens"`
		Ranks   string         `json:"bpe_ranks"`
	}
	must(t, json.Unmarshal(text, &file))
	ranks := make(map[string]int)
	for i, word := range strings.Fields(file.Ranks)[2:] {
		token, err := base64.StdEncoding.DecodeString(word)
		must(t, err)
		ranks[string(token)] = len(file.Special) + i
	}
	core, err := tiktoken.NewCoreBPE(ranks, file.Special, file.Pattern)
	must(t, err)
	encoding := &tiktoken.Encoding{Name: "claude", PatStr: file.Pattern, MergeableRanks: ranks, SpecialTokens: file.Special}
	return &vocabulary{Tiktoken: tiktoken.NewTiktoken(core, encoding, nil), normalizes: true}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

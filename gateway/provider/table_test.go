package provider_test

import (
	"testing"

	"weir/gateway/provider"
	"weir/gateway/provider/anthropic"
	"weir/gateway/provider/openai"
)

// TestTables: every table keeps to what its readers rely on. A request's rules
// stand in requests only and an answer's in answers only; names are short
// lower-case ASCII; a set of members fits 64 bits; counts have their slots; an
// API has at most two names for its limit, and one for everything else.
func TestTables(t *testing.T) {
	inRequest := func(r provider.Rule) bool { return r <= provider.Words }
	inAnswer := func(r provider.Rule) bool {
		return r == provider.Nested || r == provider.Model || r >= provider.Words
	}
	var walk func(path string, table provider.Table, allowed func(provider.Rule) bool)
	walk = func(path string, table provider.Table, allowed func(provider.Rule) bool) {
		if len(table) > 64 {
			t.Errorf("%s has %d members", path, len(table))
		}
		names, limits := map[string]bool{}, 0
		for _, m := range table {
			at := path + "." + m.Name
			if !allowed(m.Rule) {
				t.Errorf("%s: the rule %d has no place here", at, m.Rule)
			}
			if len(m.Name) > 31 || names[m.Name] {
				t.Errorf("%s is too long, or there twice", at)
			}
			names[m.Name] = true
			for _, ch := range m.Name {
				if ch != '_' && (ch < 'a' || ch > 'z') && (ch < '0' || ch > '9') {
					t.Errorf("%s: %q in a name", at, ch)
				}
			}
			if m.Slot < 0 || m.Slot >= len(provider.Counts{}) {
				t.Errorf("%s has no slot", at)
			}
			if m.Rule == provider.Limit {
				limits++
			}
			walk(at, m.Inside, allowed)
		}
		if limits > 2 {
			t.Errorf("%s has %d limits", path, limits)
		}
	}
	for _, api := range []*provider.API{openai.Chat, openai.Embeddings, anthropic.Messages} {
		walk(api.Name+" request", api.Request, inRequest)
		walk(api.Name+" answer", api.Answer, inAnswer)
		walk(api.Name+" event", api.Event, inAnswer)
	}
}

package sdk

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// plan is what a driver is to do.
type plan struct {
	BaseURL string    `json:"base_url"`
	Calls   []sdkCase `json:"calls"`
}

// observation is what an SDK made of one call, in the words of all drivers.
type observation struct {
	Case string `json:"case"`
	Seen object `json:"seen"`
}

// driver runs a plan with one provider's SDK of one language.
type driver func(ctx context.Context, p plan) ([]observation, error)

// errorNames are the exceptions of an SDK by status; 0 is for all others.
type errorNames map[int]string

func (n errorNames) of(status int) string {
	if name, ok := n[status]; ok {
		return name
	}
	return n[0]
}

// sdkHeaders are what an SDK tells a provider about itself and its request,
// which weir must pass on.
var sdkHeaders = []string{"User-Agent", "Anthropic-Version", "Anthropic-Beta", "X-Stainless-Lang", "X-Stainless-Package-Version", "X-Stainless-Os",
	"X-Stainless-Arch", "X-Stainless-Runtime", "X-Stainless-Runtime-Version", "X-Stainless-Retry-Count", "X-Stainless-Timeout"}

// TestMain takes away what the environment could tell the SDKs for Go: those of
// the scripts get none.
func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OPENAI_") || strings.HasPrefix(name, "ANTHROPIC_") {
			os.Unsetenv(name)
		}
	}
	os.Exit(m.Run())
}

// check runs all cases of a provider with a driver, straight and through weir.
func check(t *testing.T, p *provider, drive driver, names errorNames) {
	t.Parallel()
	r, straight := newRig(t), newUpstream(t, "")
	r.holdMoney()
	cases := p.cases()
	viaWeir, direct := r.runBoth(p, cases, straight, drive)
	for _, c := range cases {
		t.Run(c.Case, func(t *testing.T) {
			seen := viaWeir[c.Case]
			if seen == nil {
				t.Fatal("the driver did not report it")
			}
			checkWant(t, c, seen, names)
			if c.refused != "" || c.How == "headers" || c.How == "models" {
				return
			}
			if !reflect.DeepEqual(seen, direct[c.Case]) {
				t.Errorf("through weir %v\nstraight     %v", seen, direct[c.Case])
			}
			checkArrivals(t, c, r.behind.arrivals(c.Case), straight.arrivals(c.Case))
		})
	}
	r.checkRefused(cases)
	r.releaseMoney()
	// The tie-out waits until all is settled. Every attempt that reached the provider is an event.
	if out := r.tieOut(); !out.OK || out.Events.Count != r.behind.count() {
		t.Errorf("the provider got %d requests, the books have %d; breaks: %s", r.behind.count(), out.Events.Count, out.Breaks)
	}
}

// runBoth gives what the SDK made of every case through weir, and of those that
// the provider answers also straight.
func (r *rig) runBoth(p *provider, cases []sdkCase, straight *upstream, drive driver) (viaWeir, direct map[string]object) {
	through := plan{BaseURL: r.data + "/" + p.name}
	past := plan{BaseURL: straight.url}
	if p.name == "openai" { // the two SDKs differ in whether the version is in the base URL
		through.BaseURL += "/v1"
		past.BaseURL += "/v1"
	}
	for _, c := range cases {
		if c.refused == "" && c.How != "headers" && c.How != "models" {
			known := c
			known.Key = "any-key"
			past.Calls = append(past.Calls, known)
		}
		c.Key = r.keys[c.Key]
		through.Calls = append(through.Calls, c)
	}
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		direct, failed = run(r.t.Context(), drive, past)
	}()
	viaWeir, err := run(r.t.Context(), drive, through)
	<-done
	must(r.t, err)
	must(r.t, failed)
	return viaWeir, direct
}

// providerID is an id of the provider's inside an error's text; no two are alike.
var providerID = regexp.MustCompile(`req_[A-Za-z0-9]{24}`)

// run returns the driver's observations by case, numbers and lists as JSON
// gives them.
func run(ctx context.Context, drive driver, p plan) (map[string]object, error) {
	observed, err := drive(ctx, p)
	if err != nil {
		return nil, err
	}
	seen := map[string]object{}
	for _, o := range observed {
		plain, err := plainJSON(o.Seen)
		if err != nil {
			return nil, fmt.Errorf("cannot read what the driver saw of %s: %w", o.Case, err)
		}
		seen[o.Case] = plain.(object)
		if message, ok := seen[o.Case]["message"].(string); ok {
			seen[o.Case]["message"] = providerID.ReplaceAllString(message, "req_")
		}
	}
	return seen, nil
}

func plainJSON(v any) (plain any, err error) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &plain)
	}
	return plain, err
}

// checkWant holds an observation to the case's own expectation.
func checkWant(t *testing.T, c sdkCase, seen object, names errorNames) {
	t.Helper()
	want := maps.Clone(c.want)
	if status, failed := want["status"].(int); failed {
		want["error"] = names.of(status)
	}
	for name, w := range want {
		w, err := plainJSON(w)
		must(t, err)
		got := seen[name]
		var ok bool
		switch name {
		case "message":
			text, _ := got.(string)
			ok = strings.Contains(text, w.(string))
		case "has":
			ids, _ := seen["ids"].([]any)
			ok = slices.Contains(ids, w)
		default:
			ok = reflect.DeepEqual(got, w)
		}
		if !ok {
			t.Errorf("%s is %v, want %v; all of it: %v", name, got, w, seen)
		}
	}
	if message, _ := seen["message"].(string); c.refused != "" && !strings.Contains(message, sentences[c.refused]) {
		t.Errorf("the exception says %q, want weir's words: %q", message, sentences[c.refused])
	}
}

// sentences are words of weir's messages that a person must find in an exception.
var sentences = map[string]string{
	"invalid_request":    "max_tokens",
	"invalid_key":        "API key is unknown",
	"insufficient_funds": "Insufficient balance",
	"model_not_allowed":  "model",
	"wallet_frozen":      "wallet is frozen",
	"unmetered_path":     "path is not metered",
	"unpriced_model":     "no-such-model",
	"unpriced_option":    "not priced",
	"funds_held":         "held by requests in flight",
	"upstream_broke_off": "provider broke the connection off",
}

// checkArrivals compares what reached the provider through weir and straight.
func checkArrivals(t *testing.T, c sdkCase, through, straight []arrival) {
	t.Helper()
	if len(through) != c.attempts || len(straight) != c.attempts {
		t.Errorf("%d attempts through weir and %d straight, want %d", len(through), len(straight), c.attempts)
		return
	}
	if c.How == "parallel" {
		return // in any order
	}
	for i, a := range through {
		if a.target != straight[i].target {
			t.Errorf("attempt %d: target %s, straight %s", i+1, a.target, straight[i].target)
		}
		for _, h := range sdkHeaders {
			if got, want := a.header.Get(h), straight[i].header.Get(h); got != want {
				t.Errorf("attempt %d: header %s is %q, straight %q", i+1, h, got, want)
			}
		}
		if !c.rewrites && a.body != straight[i].body {
			t.Errorf("attempt %d: body through weir %s\nstraight %s", i+1, a.body, straight[i].body)
		}
	}
}

// checkRefused compares weir's own count of refusals with what the SDKs should
// have tried: once where trying again is useless, three times where it helps.
func (r *rig) checkRefused(cases []sdkCase) {
	r.t.Helper()
	want := map[string]int{}
	for _, c := range cases {
		if c.refused != "" {
			want[c.refused] += c.attempts
		}
	}
	if got := r.refused(); !maps.Equal(got, want) {
		r.t.Errorf("refusals by code: %v, want %v", got, want)
	}
}

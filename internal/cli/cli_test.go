package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/internal/config"
)

// show runs `show` against a server and returns the exit code and both outputs.
func show(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Chdir(t.TempDir())
	var out, errs strings.Builder
	code = Main(context.Background(), args, Clients(), Call{Stdout: &out, Stderr: &errs})
	return code, out.String(), errs.String()
}

// TestRedirectKeepsTheToken: whatever answers on the control address cannot
// send the token on to another host.
func TestRedirectKeepsTheToken(t *testing.T) {
	var got []string
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.Header.Get("Authorization")) }))
	defer thief.Close()
	door := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer door.Close()
	code, _, stderr := show(t, "wallet", "show", "acme", "--control", door.URL, "--token", "hush")
	if code != ExitFailure || len(got) > 0 || !strings.Contains(stderr, "does not answer like weir: status 307") {
		t.Errorf("exit code %d, sent on: %q, %s", code, got, stderr)
	}
}

func TestStrangeAnswers(t *testing.T) {
	f := func(status int, body, want string) {
		t.Helper()
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}))
		defer s.Close()
		code, _, stderr := show(t, "wallet", "show", "acme", "--control", s.URL, "--token", "x")
		if code != ExitFailure || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%d %q: exit code %d, %s", status, body, code, stderr)
		}
	}
	f(200, "<html>", "cannot read weir's answer")
	f(502, "<html>", "does not answer like weir: status 502")
	f(503, `{"error":{"code":"ledger_unavailable","message":"the ledger is away"}}`, "weir: the ledger is away")
}

func TestRunFile(t *testing.T) {
	dir := t.TempDir()
	f := func(text, want string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, config.RunFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, stderr := show(t, "customer", "list", "--data_dir", dir); code != ExitFailure || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, %s", text, code, stderr)
		}
	}
	f(`{"control":""}`, "has no control listener")
	f(`{"control":`, "cannot read")
	f(`{"control":"127.0.0.1:1"}`, "no admin token")
}

func TestParse(t *testing.T) {
	var got *Call
	verbs := []Verb{{Name: "do", Args: "A [B]", Settings: true, Flags: []Flag{{"value", "V", ""}, {"switch", "", ""}},
		Run: func(_ context.Context, c *Call) error { got = c; return nil }}}
	f := func(line, args, settings, value, on string) {
		t.Helper()
		var errs strings.Builder
		if code := Main(context.Background(), strings.Fields(line), verbs, Call{Stderr: &errs}); code != 0 {
			t.Errorf("%s: exit code %d, %s", line, code, errs.String())
			return
		}
		if !slices.Equal(got.Args, strings.Fields(args)) || !slices.Equal(got.Settings, strings.Fields(settings)) ||
			got.Flag("value") != value || got.Flag("switch") != on {
			t.Errorf("%s: %+v", line, got)
		}
	}
	f("do a", "a", "", "", "")
	f("do --value v a --switch b", "a b", "", "v", "true")
	f("do a --value=v=w b", "a b", "", "v=w", "")
	f("do a --value --switch", "a", "", "--switch", "") // what follows is the value
	f("do a --listen.data x:1 --switch", "a", "--listen.data x:1", "", "true")
	f("do a --listen.data=x:1 b", "a b", "--listen.data=x:1", "", "")
	f("do a --clickhouse.unconfined --value v", "a", "--clickhouse.unconfined", "v", "")
	f("do -- --value -b", "--value -b", "", "", "")
	f("do -a-b_c/0/0 -", "-a-b_c/0/0 -", "", "", "")
}

func TestExitCodes(t *testing.T) {
	f := func(err error, code int, words string) {
		t.Helper()
		var errs strings.Builder
		verbs := []Verb{{Name: "do", Run: func(context.Context, *Call) error { return err }}}
		if got := Main(context.Background(), []string{"do"}, verbs, Call{Stderr: &errs}); got != code || errs.String() != words {
			t.Errorf("%v: exit code %d, %q", err, got, errs.String())
		}
	}
	f(nil, 0, "")
	f(errors.New("broken pipe"), ExitFailure, "weir: broken pipe\n")
	f(errors.Join(errors.New("one"), errors.New("two")), ExitFailure, "weir: one; two\n")
	f(fmt.Errorf("start: %w", Usage(errors.New("bad key"))), ExitUsage, "weir: start: bad key\n")
	f(fmt.Errorf("demo: %w", ErrBroken), ExitBroken, "weir: demo: the tie-out is broken\n")
	f(Usage(nil), 0, "")
}

// TestLimitFlags: the flags become the members of a body; none is null.
func TestLimitFlags(t *testing.T) {
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.Path + " " + string(body)
		fmt.Fprint(w, `{"id":"x","key":"sk","status":"active","plan":"","limits":{"requests_per_minute":60}}`)
	}))
	defer s.Close()
	f := func(want, output string, args ...string) {
		t.Helper()
		if code, stdout, stderr := show(t, append(args, "--control", s.URL, "--token", "x")...); code != 0 || got != want || stdout != output {
			t.Errorf("exit code %d %s: sent %s, printed %s", code, stderr, got, stdout)
		}
	}
	f(`POST /api/v1/customers/acme/keys {"limits":{"requests_per_minute":60,"spend_per_day":"5.00","spend_per_month":"50","tokens_per_minute":1000}}`, "sk\n",
		"key", "create", "acme", "--rpm", "60", "--tpm", "1000", "--spend-per-day", "5.00", "--spend-per-month", "50")
	f(`POST /api/v1/customers {"id":"acme","limits":{"tokens_per_minute":1}}`, "customer acme is created\n", "customer", "create", "acme", "--tpm", "1")
	f(`PATCH /api/v1/customers/acme {"limits":{"spend_per_day":null},"status":"active"}`, "customer acme is active, plan \"\"\n",
		"customer", "update", "acme", "--status", "active", "--spend-per-day", "none")
	f(`PATCH /api/v1/keys/k {"limits":{"requests_per_minute":60}}`, "key k has the limits {\"requests_per_minute\":60}\n", "key", "update", "k", "--rpm", "60")
	for _, args := range [][]string{{"key", "update", "k"}, {"key", "update", "k", "--rpm", "many"}} {
		if code, _, stderr := show(t, args...); code != ExitUsage || !strings.Contains(stderr, "--rpm") {
			t.Errorf("exit code %d, %s", code, stderr)
		}
	}
}

package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weir/internal/cli"
	"weir/internal/warehouse"
)

// TestMain is also the engine's process and the program that the printed commands call.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case warehouse.ChildVerb:
			os.Exit(warehouse.RunChild(os.Args[2:]))
		case "report", "tieout", "wallet":
			os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Clients(), cli.Call{Env: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}))
		}
	}
	os.Exit(m.Run())
}

// library is where libchdb is, "" for the usual places, seen from the repository's root. Without
// it the test is skipped, unless the environment says that it must be there.
func library(t *testing.T) string {
	t.Helper()
	t.Chdir("../..")
	named := os.Getenv("WEIR_CLICKHOUSE_LIBRARY")
	found, err := filepath.Glob(filepath.Join("node_modules", "@chdb", "*", "libchdb.so"))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case named != "" || len(found) > 0:
		return named
	case strings.Contains(os.Getenv("WEIR_REQUIRE"), "chdb"):
		t.Fatal("libchdb.so is not there")
	}
	t.Skip("libchdb.so is not there: make fetches it, WEIR_REQUIRE=chdb insists on it")
	return ""
}

var directory = regexp.MustCompile(`files +(\S+) `)

// removed requires that the demo's directory, which it named, is no more.
func removed(t *testing.T, output string) {
	t.Helper()
	named := directory.FindStringSubmatch(output)
	if named == nil {
		t.Fatalf("no directory is named:\n%s", output)
	}
	if _, err := os.Stat(named[1]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", named[1], err)
	}
}

// TestTiesOut: more events than one page of the API, and not a nano-dollar of difference.
func TestTiesOut(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Options{Requests: 1200, Seed: 1, Exit: true, Library: library(t), Out: &out}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"1,200 requests of 6 customers", "gpt-4o-mini", "-100.00\n", "Tie-out: ", "no leakage",
		"Paid by card, through a stand-in for Stripe: $770.00 in 4 charges.", "acme's wallet ran low, below $9.80, and topped itself up from the saved card, charged once $10.00:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output has no %q:\n%s", want, out.String())
		}
	}
	if refused := regexp.MustCompile(`, ([1-9]\d*) refused for want of money`); !refused.MatchString(out.String()) {
		t.Errorf("nobody ran dry:\n%s", out.String())
	}
	removed(t, out.String())
}

// TestWithoutLibrary: the demo goes on without SQL, says so, and does not call that a success.
func TestWithoutLibrary(t *testing.T) {
	var out bytes.Buffer
	err := Run(t.Context(), Options{Requests: 200, Seed: 1, Exit: true, Library: filepath.Join(t.TempDir(), "libchdb.so"), Out: &out})
	if !errors.Is(err, ErrIncomplete) {
		t.Fatalf("want ErrIncomplete, got %v\n%s", err, out.String())
	}
	for _, want := range []string{"SQL and reports are off", "Tie-out, incomplete", "topped itself up"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output has no %q:\n%s", want, out.String())
		}
	}
	removed(t, out.String())
}

// payPage pays as a browser does.
func payPage(t *testing.T, page string) {
	t.Helper()
	resp, err := http.PostForm(page, url.Values{"card": {"4242 4242 4242 4242"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "what was paid is in the wallet") {
		t.Errorf("%s leads to %s %v: %s", page, resp.Request.URL, err, text)
	}
}

// TestTryNext runs every command that the demo prints, as a shell would, while it serves.
func TestTryNext(t *testing.T) {
	place := library(t)
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the commands that the demo prints need curl: ", err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	read, write := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := Run(ctx, Options{Requests: 200, Seed: 1, Library: place, Program: program, Out: write})
		_ = write.Close() // never fails
		ended <- err
	}()
	wants := []string{"X-Weir-Price: 0.", `"customer":"acme"`, "search", "claude-sonnet-4-5", "NET", "the books tie out", "/pay/cs_", "25.00"}
	var output strings.Builder
	for lines := bufio.NewScanner(read); lines.Scan(); {
		line := lines.Text()
		output.WriteString(line + "\n")
		if strings.HasPrefix(line, "Serving until") {
			stop() // Ctrl-C
		}
		if !strings.HasPrefix(line, "curl ") && !strings.HasPrefix(line, program) {
			continue
		}
		if len(wants) == 0 {
			t.Fatalf("one command too many: %s", line)
		}
		answer, err := exec.Command("sh", "-c", line).CombinedOutput()
		if err != nil || !strings.Contains(string(answer), wants[0]) {
			t.Errorf("%s\n%v, want %q in:\n%s", line, err, wants[0], answer)
		}
		if wants[0] == "/pay/cs_" {
			payPage(t, strings.TrimSpace(string(answer)))
		}
		wants = wants[1:]
	}
	if err := <-ended; err != nil || len(wants) > 0 {
		t.Errorf("ended with %v; commands that were not printed: %q\n%s", err, wants, output.String())
	}
	removed(t, output.String())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"weir/internal/cards"
	"weir/internal/control"
	"weir/internal/ledger"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weir": main})
}

// TestScripts runs the program as an operator does. Each script has a control
// plane of its own over a real ledger, found through ./weir-data as that of a
// serving weir is.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits}, Setup: func(env *testscript.Env) error {
		dir := filepath.Join(env.WorkDir, "weir-data")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		ctx := context.Background()
		db, err := ledger.Open(ctx, ledger.Config{Dir: dir})
		if err != nil {
			return err
		}
		env.Defer(func() { db.Close() })
		if _, err := cards.PublishFiles(ctx, db, nil); err != nil {
			return err
		}
		token, err := control.Token(dir, "")
		if err != nil {
			return err
		}
		server := httptest.NewServer(control.New(control.Options{Ledger: db, Cards: cards.New(db), Token: token,
			Pepper: []byte("pepper"), Log: slog.New(slog.DiscardHandler), Extra: canned(env.WorkDir)}))
		env.Defer(server.Close)
		env.Setenv("CONTROL", server.URL)
		env.Setenv("TOKEN", token)
		run := fmt.Sprintf(`{"msg":"ready","pid":1,"data":"","control":%q,"clickhouse":""}`, strings.TrimPrefix(server.URL, "http://"))
		return os.WriteFile(filepath.Join(dir, "run.json"), []byte(run), 0o600)
	}})
}

// exits N runs a command that must end with exit code N.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("want exit code %s, got %v", args[0], err)
	}
}

// canned answers the routes that need a warehouse from files of the script, in
// the documented form: what is tested here is how the program shows them.
func canned(dir string) map[string]http.Handler {
	routes := map[string]http.Handler{}
	for pattern, file := range map[string]string{
		"GET /api/v1/tieout": "tieout.json", "GET /api/v1/events": "events.json", "GET /api/v1/reports/{name}": "report.json"} {
		routes[pattern] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			os.WriteFile(filepath.Join(dir, "asked"), []byte(r.URL.RequestURI()+"\n"), 0o600)
			http.ServeFile(w, r, filepath.Join(dir, file))
		})
	}
	return routes
}

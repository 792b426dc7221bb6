package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"weir/internal/cards"
	"weir/internal/config"
	"weir/internal/control"
	"weir/internal/ledger"
	"weir/internal/standin"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weir": main})
}

// TestScripts runs the program as an operator does. Each script has a stand-in
// of the providers, and a control plane of its own over a real ledger, found
// through ./weir-data as that of a serving weir is.
func TestScripts(t *testing.T) {
	libraries, err := filepath.Glob("../../node_modules/@chdb/*/libchdb.so")
	if err == nil && len(libraries) > 0 {
		libraries[0], err = filepath.Abs(libraries[0])
	}
	if err != nil || len(libraries) == 0 && strings.Contains(os.Getenv("WEIR_REQUIRE"), "chdb") {
		t.Fatal("the embedded engine's library is required and not there", err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "ready": ready, "terminate": terminate,
			"keepkey": keepkey, "post": post, "told": told, "keepid": keepid, "delivered": delivered,
			"stripe": stripe, "pays": pays, "killed": killed, "until": until},
		Condition: func(name string) (bool, error) {
			return name == "chdb" && len(libraries) > 0, nil
		},
		Setup: func(env *testscript.Env) error {
			if len(libraries) > 0 {
				env.Setenv("LIBRARY", libraries[0])
			}
			provider, err := standin.New(standin.Options{Key: "provider-key"})
			if err != nil {
				return err
			}
			server := httptest.NewServer(provider)
			env.Defer(server.Close)
			env.Setenv("STANDIN", server.URL)
			platform(env)
			stripeAccount(env)
			return operate(env)
		},
	})
}

// operate sets up the control plane of a script.
func operate(env *testscript.Env) error {
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
	return os.WriteFile(filepath.Join(dir, config.RunFile), []byte(run), 0o600)
}

// exits N runs a command that must end with exit code N.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("want exit code %s, got %v", args[0], err)
	}
}

// startTime bounds how long a weir may take to become ready; it is not measured.
const startTime = time.Minute

// ready DIR waits until the weir on a data directory admits requests, and sets
// DATA, CONTROL and CLICKHOUSE to where it listens.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(startTime); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(ts.MkAbs(args[0]), config.RunFile))
		var run struct{ Data, Control, ClickHouse string }
		if err == nil && json.Unmarshal(text, &run) == nil {
			resp, err := http.Get("http://" + run.Control + "/readyz")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					ts.Setenv("DATA", run.Data)
					ts.Setenv("CONTROL", run.Control)
					ts.Setenv("CLICKHOUSE", run.ClickHouse)
					return
				}
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no weir is ready on %s", args[0])
		}
	}
}

// terminate sends SIGTERM to what runs in the background.
func terminate(ts *testscript.TestScript, _ bool, _ []string) {
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(syscall.SIGTERM))
	}
}

// keepkey sets KEY to the API key that the last command printed, and KEYID to
// its id.
func keepkey(ts *testscript.TestScript, _ bool, _ []string) {
	key := strings.TrimSpace(ts.ReadFile("stdout"))
	ts.Setenv("KEY", key)
	ts.Setenv("KEYID", strings.Split(key, "-")[2])
}

// spreadTime is how long a freeze or a revocation may take to reach a gateway.
const spreadTime = 5 * time.Second

// post STATUS URL FILE sends a file with the key $KEY, writes the answer's body
// to the file "answer" and its X-Weir-Request-Id to $REQUEST. The status is
// waited for, as long as a change may take to come about.
func post(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(spreadTime); ; time.Sleep(50 * time.Millisecond) {
		status := postOnce(ts, args[1], ts.ReadFile(args[2]))
		if status == args[0] {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("want status %s, got %s: %s", args[0], status, ts.ReadFile("answer"))
		}
	}
}

func postOnce(ts *testscript.TestScript, url, body string) (status string) {
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+ts.Getenv("KEY"))
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("answer"), answer, 0o600))
	ts.Setenv("REQUEST", resp.Header.Get("X-Weir-Request-Id"))
	return strconv.Itoa(resp.StatusCode)
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

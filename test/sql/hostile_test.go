// Package sql asks the SQL interface as outsiders do: hostile readers, and
// clients in other languages.
package sql

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/warehouse"
	"weir/internal/warehouse/warehousetest"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// What no answer may hold.
const (
	canaryText  = "canary-2f7c91"
	providerKey = "sk-provider-canary"
)

// attack is one line of hostile.sql.
type attack struct {
	line      int
	rawQuery  string
	statement string
	harmless  bool
}

// nesting is what the braces of deep nesting become; deeper than any stack.
var nesting = map[string]string{
	"{(}": strings.Repeat("(", 50_000), "{)}": strings.Repeat(")", 50_000), "{[}": strings.Repeat("[", 50_000), "{]}": strings.Repeat("]", 50_000),
	"{not}": strings.Repeat("NOT ", 50_000), "{plus}": strings.Repeat("1+", 50_000), "{type(}": strings.Repeat("Array(", 40_000),
	"{from(}": strings.Repeat("(SELECT * FROM ", 10_000),
}

// attacks reads the file; every name in braces is replaced.
func attacks(t *testing.T, names map[string]string) []attack {
	t.Helper()
	file, err := os.Open("testdata/hostile.sql")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var pairs []string
	for _, some := range []map[string]string{names, nesting} {
		for name, value := range some {
			pairs = append(pairs, name, value)
		}
	}
	fill := strings.NewReplacer(pairs...)
	var list []attack
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		text := lines.Text()
		if text == "" || strings.HasPrefix(text, "-- ") {
			continue
		}
		at := strings.LastIndex(text, " -- ")
		if at < 0 {
			t.Fatalf("line %d does not say what it tries", n)
		}
		a := attack{line: n, statement: text[:at], harmless: strings.HasPrefix(text[at:], " -- ok")}
		if strings.HasPrefix(text, "?") {
			a.rawQuery, a.statement, _ = strings.Cut(a.statement[1:], " ")
		}
		a.rawQuery, a.statement = fill.Replace(a.rawQuery), fill.Replace(a.statement)
		list = append(list, a)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// send asks as the reader and returns status and body.
func send(s warehousetest.Served, rawQuery, statement string) (int, string, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+s.Address+"/?"+rawQuery, strings.NewReader(statement))
	if err != nil {
		return 0, "", err
	}
	req.SetBasicAuth(warehouse.ReaderUser, s.Password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// answer is send of a statement that must succeed.
func answer(t *testing.T, s warehousetest.Served, statement string) string {
	t.Helper()
	status, body, err := send(s, "", statement)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d %q, %v", statement, status, body, err)
	}
	return strings.TrimSpace(body)
}

// files lists what lies below a directory but for the tables' own files, which
// merges change at any time, each with its size and its time of change.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "store" || d.Name() == "tmp") {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			list = append(list, fmt.Sprint(path, " ", info.Size(), " ", info.ModTime().UnixNano()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

var code = regexp.MustCompile(`Code: \d+\. DB::`)

// wrong judges an answer to an attack; "" is as it should be.
func wrong(a attack, status int, body string, secrets []string) string {
	for _, secret := range secrets {
		if strings.Contains(body, secret) && !strings.Contains(a.statement, secret) {
			return "tells " + strconv.Quote(secret)
		}
	}
	failed := code.MatchString(body) && (status >= 400 || strings.Contains(body, "__exception__"))
	switch {
	case status == http.StatusServiceUnavailable:
		return "the engine is gone"
	case a.harmless && (status != http.StatusOK || failed):
		return "is harmless and was refused"
	case !a.harmless && !failed:
		return "was not refused with a code"
	}
	return ""
}

// TestHostileReader sends every line of the file, some at a time. None may do
// what it tries, and the engine lives on.
func TestHostileReader(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", providerKey)
	port, reached := trap(t)
	outside := t.TempDir()
	canary := filepath.Join(outside, "canary")
	if err := os.WriteFile(canary, []byte(canaryText), 0o600); err != nil {
		t.Fatal(err)
	}
	list := attacks(t, map[string]string{"{canary}": canary, "{outside}": outside, "{port}": strconv.Itoa(port), "{pid}": strconv.Itoa(os.Getpid()),
		"{engine}": "ENGINE", "{data}": "DATA"})
	if len(list) < 60 {
		t.Fatalf("only %d attacks", len(list))
	}
	s := warehousetest.Serve(t)
	place := strings.NewReplacer("ENGINE", filepath.Join(s.Dir, "clickhouse"), "DATA", s.Dir)
	secrets := []string{canaryText, providerKey, s.Password, "root:x:0:"}
	tables, born := "SELECT groupArray((database, name, uuid)) FROM (SELECT * FROM system.tables WHERE database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema') ORDER BY ALL)",
		"SELECT toUnixTimestamp(now()) - uptime()"
	before := [][]string{files(t, s.Dir), files(t, outside), {answer(t, s, tables)}}
	bornBefore, _ := strconv.Atoi(answer(t, s, born))

	work := make(chan attack)
	var attacking sync.WaitGroup
	for range 6 {
		attacking.Go(func() {
			for a := range work {
				a.statement, a.rawQuery = place.Replace(a.statement), place.Replace(a.rawQuery)
				began := time.Now()
				status, body, err := send(s, a.rawQuery, a.statement)
				if why := wrong(a, status, body, secrets); err != nil || why != "" {
					t.Errorf("line %d: %.150s: %s: %d %.300q, %v (%s)", a.line, a.statement, why, status, body, err, time.Since(began))
				}
			}
		})
	}
	for _, a := range list {
		work <- a
	}
	close(work)
	attacking.Wait()

	after := [][]string{files(t, s.Dir), files(t, outside), {answer(t, s, tables)}}
	for i := range before {
		if !slices.Equal(before[i], after[i]) {
			t.Errorf("changed\n from %q\n to %q", before[i], after[i])
		}
	}
	if bornAfter, err := strconv.Atoi(answer(t, s, born)); err != nil || bornAfter > bornBefore+1 {
		t.Errorf("the engine was born at %d and then at %d, %v", bornBefore, bornAfter, err)
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("the test's server was reached %d times", n)
	}
}

// trap listens and counts who connects.
func trap(t *testing.T) (port int, reached *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	reached = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, reached
}

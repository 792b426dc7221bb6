package sql

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"weir/internal/warehouse/warehousetest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// filled is a served warehouse with some events: 100 of acme, which cost 10
// cents and were sold for 30, and one that was free of charge.
func filled(t *testing.T) warehousetest.Served {
	t.Helper()
	s := warehousetest.Serve(t)
	var recs []usage.Record
	for i := range 101 {
		r := usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "L", Seq: uint64(i + 1), Customer: "acme", Currency: "usd",
			Provider: "openai", Model: "gpt-4o", TimeMs: 1_793_000_000_123, Cost: money.Dollar / 1000, Price: 3 * money.Dollar / 1000,
			Tags: []usage.Tag{{Key: "team", Value: "a'b"}}}
		if i == 100 {
			r.Customer, r.Cost, r.Price = "free", 1, 0
		}
		recs = append(recs, r)
	}
	if err := s.Append(t.Context(), "T/0/0", recs); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestClickHouseConnect asks through Python's client, as it is published.
func TestClickHouseConnect(t *testing.T) {
	packages := need(t, "sql", "python", []string{"python/requirements.txt"}, func(dir string) [][]string {
		return [][]string{
			{"python3", "-m", "venv", dir},
			{filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet", "--retries", "2", "-r", filepath.Join(dir, "requirements.txt")},
		}
	})
	script := read(t, "python/client.py") // before the warehouse's test changes the directory
	s := filled(t)
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"version": "26", "command": "weir", "map": `{'team': "a'b"}`, "null": "None", "empty": "[]", "json": `{"a":1}`, "stream": "100000",
		"parameters": `("a'\\\t", None, ['x', "y'"], datetime.datetime(2026, 11, 24, 1, 2, 3))`, "unknown table": "60", "late": "395",
		"insert": "164", "command that writes": "164", "wrong password": "516", "ping": "True",
	}
	for _, compress := range []string{"False", "True", "lz4", "zstd", "gzip"} {
		want["sums "+compress] = "101 0.100000001 0.300000000 2026-10-26 07:33:20.123000"
		want["rows "+compress] = "200000 (199999, '199999')"
	}
	compare(t, want, run(t, script, filepath.Join(packages, "bin", "python"), "-", host, port, s.Password))
}

// TestJDBC asks through ClickHouse's JDBC driver, as it is published.
func TestJDBC(t *testing.T) {
	packages := need(t, "jdbc", "java", []string{"java/pom.xml"}, func(dir string) [][]string {
		return [][]string{{"mvn", "--quiet", "--batch-mode", "--file", filepath.Join(dir, "pom.xml"), "dependency:copy-dependencies", "-DoutputDirectory=" + filepath.Join(dir, "lib")}}
	})
	source := filepath.Join(t.TempDir(), "Client.java")
	if err := os.WriteFile(source, read(t, "java/Client.java"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := filled(t)
	got := run(t, nil, "java", "-cp", filepath.Join(packages, "lib", "*"), source, s.Address, s.Password)
	compare(t, map[string]string{
		"version": "26", "valid": "true", "columns": "37", "tables": "1", "sums": "101 0.100000001 0.300000000 2026-10-26T07:33:20.123Z",
		"rows": "200000", "empty": "0", "most": "7", "unknown": "47", "write": "164",
	}, got)
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// run executes a program and returns its lines, all of a name if they differ.
func run(t *testing.T, stdin []byte, name string, args ...string) map[string]string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &stderr
	// Nothing of the caller's environment may lead the client elsewhere.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NO_PROXY=*", "TZ=UTC"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", name, err, out, stderr.Bytes())
	}
	said := map[string]string{}
	for line := range strings.Lines(string(out)) {
		what, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			t.Fatalf("%s said %q", name, line)
		}
		if before, again := said[what]; again && before != value {
			value = before + " and " + value
		}
		said[what] = value
	}
	return said
}

func compare(t *testing.T, want, got map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: got %q, want %q", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d observations, want %d: %v", len(got), len(want), got)
	}
}

// need returns a folder with a language's packages, installed once for each
// state of the lists that name them, or skips the test where they cannot be
// had; if WEIR_REQUIRE names them, that is a failure.
func need(t *testing.T, required, language string, lists []string, commands func(dir string) [][]string) string {
	t.Helper()
	dir, err := install(language, lists, commands)
	if err != nil && slices.Contains(strings.Split(os.Getenv("WEIR_REQUIRE"), ","), required) {
		t.Fatalf("%s's packages are required and cannot be had: %v", language, err)
	}
	if err != nil {
		t.Skipf("%s's packages cannot be had here: %v", language, err)
	}
	return dir
}

// install runs commands in a folder of the user's cache that has copies of the
// lists and is named for their content. A mark says that it is complete; a lock
// keeps two test processes apart.
func install(language string, lists []string, commands func(dir string) [][]string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	texts, sum := map[string][]byte{}, sha256.New()
	for _, name := range lists {
		if texts[name], err = os.ReadFile(name); err != nil {
			return "", err
		}
		sum.Write(texts[name])
	}
	dir := filepath.Join(cache, "weir-test", fmt.Sprintf("sql-%s-%s", language, hex.EncodeToString(sum.Sum(nil)[:6])))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close() // which unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	mark := filepath.Join(dir, "complete")
	if _, err := os.Stat(mark); err == nil {
		return dir, nil
	}
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), text, 0o600); err != nil {
			return "", err
		}
	}
	for _, c := range commands(dir) {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot run %s: %w: %.300s", strings.Join(c[:2], " "), err, out)
		}
	}
	return dir, os.WriteFile(mark, nil, 0o600)
}

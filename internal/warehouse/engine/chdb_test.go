package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// testLibrary loads libchdb into the test's own process, or skips.
func testLibrary(t *testing.T) *library {
	t.Helper()
	paths, _ := filepath.Glob("../../../node_modules/@chdb/*/libchdb.so") // the pattern is well-formed
	if path := os.Getenv("WEIR_CLICKHOUSE_LIBRARY"); path != "" {
		paths = []string{path}
	}
	if len(paths) == 0 {
		if strings.Contains(os.Getenv("WEIR_REQUIRE"), "chdb") {
			t.Fatal("no libchdb.so: run npm ci")
		}
		t.Skip("no libchdb.so: run npm ci")
	}
	lib, err := load(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

// TestLibraryInProcess is one test, because a process can open one engine.
func TestLibraryInProcess(t *testing.T) {
	lib := testLibrary(t)
	args := []string{"--path=" + t.TempDir()}
	boot, err := lib.open(args)
	if err != nil {
		t.Fatal(err)
	}
	defer boot.close()

	t.Run("a nil dereference stays a panic", func(t *testing.T) {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		var nothing *question
		nothing.statement = "x" // with the library's handlers this ends the process
	})
	t.Run("texts are judged by the engine's parser", func(t *testing.T) {
		for sql, want := range map[string]bool{
			"SELECT 1": true, "SELECT ';'": true, "SELECT 1;": true, "SHOW TABLES": true, "EXPLAIN SELECT 1": true, "DESCRIBE system.one": true,
			"DESC `system`.`one` FORMAT CSV": true, "DESCRIBE (SELECT 1)": true, "SELECT 1 AS a ORDER BY a DESC": true,
			"DESCRIBE numbers(1)": false, "desc/**/`numbers`(1)": false, "DESCRIBE TABLE url('http://127.0.0.1:1/', 'CSV') SETTINGS max_threads = 1": false,
			"SELECT 1; SELECT 2": false, "SYSTEM STOP MERGES": false, "KILL QUERY WHERE 1": false, "SET readonly = 0": false,
			"SELECT 1 INTO/**/OUTFILE 'x'": false, "EXPLAIN SELECT 1 INTO OUTFILE 'x'": false, "SELECT 1 PARALLEL WITH SELECT 2": false,
			"INSERT INTO t VALUES (1)": false, "": false, "SELECT (1": false, "/**/": false, "SELECT 1 -- \x00": true,
		} {
			if got := boot.mustOnlyRead(&question{statement: sql}) == nil; got != want {
				t.Errorf("%q passes: %t", sql, got)
			}
		}
	})
	t.Run("an error of the receiver stops the statement", func(t *testing.T) {
		s, err := lib.open(args)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		full := errors.New("full")
		if err := s.stream("SELECT * FROM system.numbers", "Native", func([]byte) error { return full }); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		if got, err := s.query("SELECT 1", "TSV"); err != nil || string(got) != "1\n" {
			t.Errorf("the session afterwards: %q, %v", got, err)
		}
	})
	t.Run("statements hold any byte", func(t *testing.T) {
		text := "a\x00b'\\\n\n"
		got, err := boot.query("SELECT hex("+quote(text)+")", "TSV")
		if err != nil || string(got) != "610062275C0A0A\n" {
			t.Errorf("%q, %v", got, err)
		}
	}) // A function over one block of rows is deaf to every limit until it ends;
	// the watch is what ends the process then.
	t.Run("overtime is noticed", func(t *testing.T) {
		s, err := lib.open(append(args, "--readonly=1"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		var noticed atomic.Int32
		s.callMax, s.giveUp = time.Millisecond, func() { noticed.Add(1) }
		const costly = "SELECT editDistance(repeat('a', 9000), repeat('b', 9000))"
		if _, err := s.query(costly, "Null"); err != nil || noticed.Swap(0) == 0 {
			t.Errorf("query: %v, or nobody noticed", err)
		}
		if err := s.stream(costly, "Native", func([]byte) error { return nil }); err != nil || noticed.Swap(0) == 0 {
			t.Errorf("stream: %v, or nobody noticed", err)
		}
		s.callMax = time.Minute
		if _, err := s.query("SELECT 1", "Null"); err != nil || noticed.Load() > 0 {
			t.Errorf("a quick statement: %v, noticed %d times", err, noticed.Load())
		}
	})
}

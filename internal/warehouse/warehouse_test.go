package warehouse

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// patience is how long a test waits for what must happen soon.
const patience = 60 * time.Second

// root is the repository's root.
var root = func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildVerb {
		os.Exit(RunChild(os.Args[2:]))
	}
	if dir := os.Getenv(parentEnv); dir != "" {
		os.Exit(runParent(dir))
	}
	os.Exit(m.Run())
}

// needLibrary returns the path of libchdb, or skips the test; where the
// environment says that it must be there, its absence is a failure.
func needLibrary(t testing.TB) string {
	t.Helper()
	t.Chdir(root) // where npm puts it
	path, err := findLibrary(os.Getenv("WEIR_CLICKHOUSE_LIBRARY"))
	switch {
	case err == nil:
		return path
	case strings.Contains(os.Getenv("WEIR_REQUIRE"), "chdb"):
		t.Fatal(err)
	}
	t.Skip(err)
	return ""
}

// openEmbedded opens a warehouse of its own for the test.
func openEmbedded(t testing.TB) *DB {
	t.Helper()
	return openAt(t, t.TempDir())
}

func openAt(t testing.TB, dir string) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := Open(ctx, Config{Library: needLibrary(t), DataDir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// query runs a statement whose result is one value.
func query[T any](t testing.TB, d *DB, sql string, args ...any) T {
	t.Helper()
	var value T
	if err := d.Conn().QueryRow(context.Background(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// until waits for a condition.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen within %s", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// records makes n usage events of one lease, at random but the same for a seed.
func records(seed uint64, n int) []usage.Record {
	r := rand.New(rand.NewPCG(seed, 1))
	recs := make([]usage.Record, n)
	for i := range recs {
		cost := money.Nano(r.Int64N(int64(money.Dollar)))
		recs[i] = usage.Record{
			Kind: usage.KindUsage, Row: usage.RowUsage, Status: usage.StatusOK,
			LeaseID: fmt.Sprintf("lease%d", seed), Seq: uint64(i + 1),
			Customer: fmt.Sprintf("customer%d", r.IntN(5)), Gateway: "gw",
			TimeMs:    time.Date(2026, 11, 1+r.IntN(3), r.IntN(24), 0, 0, 0, time.UTC).UnixMilli(),
			RequestID: fmt.Sprintf("req%d", i), KeyID: "key", Provider: "openai", API: "openai.chat",
			Model: fmt.Sprintf("model%d", r.IntN(3)), Currency: "usd", HTTPStatus: 200,
			Cost: cost, Price: 3 * cost, Reserved: 5 * cost,
			// Several, so that Go's order of maps makes other bytes of the same
			// rows: only the token tells that a block is a repetition.
			Tags: []usage.Tag{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}, {Key: "c", Value: "3"}},
		}
		recs[i].Meters[usage.Input] = r.Uint64N(1000)
	}
	return recs
}

// append1 appends a batch that must succeed.
func append1(t testing.TB, d *DB, id string, recs []usage.Record) {
	t.Helper()
	if err := d.Append(context.Background(), id, recs); err != nil {
		t.Fatal(err)
	}
}

// relay passes connections on to a unix socket until l is closed.
func relay(l net.Listener, socket string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("unix", socket)
		if err != nil {
			from.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
			go func() {
				_, _ = io.Copy(way[1], way[0])
				way[0].Close()
				way[1].Close()
			}()
		}
	}
}

// Package warehousetest gives tests a warehouse on the real engine.
package warehousetest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/warehouse"
)

// patience is how long the engine may take to start on a busy machine.
const patience = 60 * time.Second

// Main runs a package's tests; it goes into TestMain. The engine's process is
// the test's own program, executed again.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == warehouse.ChildVerb {
		os.Exit(warehouse.RunChild(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// Open opens an embedded warehouse in a directory of its own, or skips the
// test where the engine's library is not there; with WEIR_REQUIRE=chdb that is
// a failure.
func Open(t testing.TB) *warehouse.DB {
	t.Helper()
	return open(t, t.TempDir())
}

// Served is an embedded warehouse whose SQL interface is up.
type Served struct {
	*warehouse.DB
	Dir      string // its data directory
	Address  string // of the SQL interface, host:port
	Password string // of warehouse.ReaderUser
}

// Serve is Open and the SQL interface on a port of its own.
func Serve(t testing.TB) Served {
	t.Helper()
	s := Served{Dir: t.TempDir()}
	s.DB = open(t, s.Dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Address = l.Addr().String()
	ended := make(chan error, 1)
	go func() { ended <- s.DB.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the SQL interface ended with %v", err)
		}
	})
	for deadline := time.Now().Add(patience); s.Password == ""; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(s.Dir, "clickhouse-password"))
		if err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
		s.Password = string(text)
	}
	return s
}

func open(t testing.TB, dir string) *warehouse.DB {
	t.Helper()
	t.Chdir(root(t)) // where npm puts the library
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	db, err := warehouse.Open(ctx, warehouse.Config{Library: os.Getenv("WEIR_CLICKHOUSE_LIBRARY"), DataDir: dir,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if errors.Is(err, warehouse.ErrNoLibrary) && !strings.Contains(os.Getenv("WEIR_REQUIRE"), "chdb") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// root is the module's directory, found upwards from the test's.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test's directory")
		}
	}
}

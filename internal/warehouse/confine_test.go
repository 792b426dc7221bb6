package warehouse

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"weir/internal/warehouse/engine"
)

// escapes are statements that would leave the engine's directory, tried
// through the socket that may do anything.
func escapes(outside string, port int) map[string]string {
	return map[string]string{
		"read":               "SELECT length(file('/etc/passwd'))",
		"programs":           "SELECT length(file('/usr/bin/env'))",
		"parent environment": fmt.Sprintf("SELECT length(file('/proc/%d/environ'))", os.Getpid()),
		"own root":           "SELECT length(file('/proc/self/root/etc/passwd'))",
		"table function":     "SELECT * FROM file('/etc/passwd', 'LineAsString')",
		"outfile":            "SELECT 1 INTO OUTFILE '" + outside + "/new' FORMAT TSV",
		"truncate":           "SELECT 1 INTO OUTFILE '" + outside + "/precious' TRUNCATE FORMAT TSV",
		"write function":     "INSERT INTO FUNCTION file('" + outside + "/new.tsv', 'TSV', 'a Int8') VALUES (1)",
		"network":            fmt.Sprintf("SELECT * FROM url('http://127.0.0.1:%d/', 'LineAsString') SETTINGS http_max_tries = 1", port),
	}
}

// netServer accepts connections, answers as a web server and counts.
func netServer(t *testing.T) (port int, reached *atomic.Int32) {
	t.Helper()
	reached = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		fmt.Fprintln(w, "reached")
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port, reached
}

func TestEngineCannotLeaveItsDirectory(t *testing.T) {
	abi := engine.LandlockABI()
	if abi < 1 {
		t.Skip("this kernel has no Landlock")
	}
	port, reached := netServer(t)
	outside := t.TempDir()
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openEmbedded(t)
	for name, sql := range escapes(outside, port) {
		var exception *clickhouse.Exception
		if err := d.Conn().Exec(context.Background(), sql); !errors.As(err, &exception) && (name != "network" || abi >= 4) {
			t.Errorf("%s: %s: got %v, want the engine's refusal", name, sql, err)
		}
	}
	if reached.Load() != 0 && abi >= 4 {
		t.Error("the engine reached a server")
	}
	entries, err := os.ReadDir(outside)
	if text, _ := os.ReadFile(precious); err != nil || len(entries) != 1 || string(text) != "keep" {
		t.Errorf("outside directory: %v, %q, %v", entries, text, err)
	}
	// Inside, everything works: tables, inserts, merges, mutations.
	append1(t, d, "T/0/0", records(1, 100))
	append1(t, d, "T/0/100", records(2, 100))
	for _, sql := range []string{
		"OPTIMIZE TABLE usage_events FINAL", "OPTIMIZE TABLE usage_hourly FINAL",
		"ALTER TABLE usage_events DELETE WHERE seq > 50 SETTINGS mutations_sync = 2",
		"CREATE TABLE scratch (a UInt64) ENGINE = MergeTree ORDER BY a", "RENAME TABLE scratch TO scratch2", "DROP TABLE scratch2 SYNC",
	} {
		if err := d.Conn().Exec(context.Background(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if n := query[uint64](t, d, "SELECT count() FROM usage_events"); n != 100 {
		t.Errorf("%d rows left, want 100", n)
	}
}

// TestUnconfinedEngineCanLeave shows that what the test above refuses is
// refused by the confinement, and that without one the interface stays off.
func TestUnconfinedEngineCanLeave(t *testing.T) {
	kernel := canConfine
	canConfine = func() bool { return false }
	defer func() { canConfine = kernel }()
	d := openEmbedded(t)
	port, reached := netServer(t)
	for name, sql := range escapes(t.TempDir(), port) {
		if name == "truncate" || name == "own root" {
			continue
		}
		if err := d.Conn().Exec(context.Background(), sql); err != nil {
			t.Errorf("%s: %v: the test of the confinement proves nothing", name, err)
		}
	}
	if reached.Load() == 0 {
		t.Error("the unconfined engine reached no server: the test of the confinement proves nothing")
	}
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", d.enginePID())); err != nil || len(env) != 0 {
		t.Errorf("its environment is %q, %v", env, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := d.Serve(l); !errors.Is(err, ErrUnconfined) {
		t.Errorf("got %v, want ErrUnconfined", err)
	}
	d.cfg.Unconfined = true
	l.Close()
	if err := d.Serve(l); err == nil || strings.Contains(err.Error(), "Landlock") {
		t.Errorf("got %v, want the closed listener's error", err)
	}
}

package warehouse

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"weir/internal/warehouse/engine"
)

// escapes are statements that would leave the engine's directory, tried
// through the socket that may do anything.
func escapes(outside string, port int) map[string]string {
	return map[string]string{
		"read":               "SELECT length(file('/etc/passwd'))",
		"parent environment": fmt.Sprintf("SELECT length(file('/proc/%d/environ'))", os.Getpid()),
		"own root":           "SELECT length(file('/proc/self/root/etc/passwd'))",
		"table function":     "SELECT * FROM file('/etc/passwd', 'LineAsString')",
		"outfile":            "SELECT 1 INTO OUTFILE '" + outside + "/new' FORMAT TSV",
		"truncate":           "SELECT 1 INTO OUTFILE '" + outside + "/precious' TRUNCATE FORMAT TSV",
		"write function":     "INSERT INTO FUNCTION file('" + outside + "/new.tsv', 'TSV', 'a Int8') VALUES (1)",
		"network":            fmt.Sprintf("SELECT * FROM url('http://127.0.0.1:%d/', 'LineAsString') SETTINGS http_max_tries = 1", port),
	}
}

func TestEngineCannotLeaveItsDirectory(t *testing.T) {
	if !engine.CanConfine() {
		t.Skip("this kernel has no Landlock")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nreached\n")
			c.Close()
		}
	}()
	outside := t.TempDir()
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openEmbedded(t)
	for name, sql := range escapes(outside, l.Addr().(*net.TCPAddr).Port) {
		var exception *clickhouse.Exception
		if err := d.Conn().Exec(context.Background(), sql); !errors.As(err, &exception) {
			t.Errorf("%s: %s: got %v, want the engine's refusal", name, sql, err)
		}
	}
	entries, err := os.ReadDir(outside)
	if text, _ := os.ReadFile(precious); err != nil || len(entries) != 1 || string(text) != "keep" {
		t.Errorf("outside directory: %v, %q, %v", entries, text, err)
	}
	// Inside, everything works: tables, inserts, merges, mutations.
	append1(t, d, "T/0/0", records(1, 100))
	append1(t, d, "T/0/100", records(2, 100))
	for _, sql := range []string{
		"OPTIMIZE TABLE usage_events FINAL", "OPTIMIZE TABLE usage_daily FINAL",
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
	canConfine = func() bool { return false }
	defer func() { canConfine = engine.CanConfine }()
	d := openEmbedded(t)
	if n := query[uint64](t, d, "SELECT length(file('/etc/passwd'))"); n == 0 {
		t.Error("the unconfined engine cannot read: the test of the confinement proves nothing")
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

// Package ledgertest runs a test on every database a ledger can run on: SQLite,
// a PostgreSQL server, and the server WEIR_TEST_LEDGER_URL names.
//
// PostgreSQL is the one at WEIR_TEST_POSTGRES_URL, or a private one that lives as
// long as the test process. Where there is none those tests are skipped, or
// fail if WEIR_REQUIRE contains "postgres".
package ledgertest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/ledger"
)

// Each runs fn once per backend. open opens the test's own database; opening
// it again gives a second handle on the same one.
func Each(t *testing.T, fn func(t *testing.T, open func() *ledger.DB)) {
	EachConfig(t, func(t *testing.T, c ledger.Config) {
		fn(t, func() *ledger.DB { return Open(t, c) })
	})
}

// Open opens a ledger and closes it when the test ends.
func Open(t testing.TB, c ledger.Config) *ledger.DB {
	t.Helper()
	db, err := ledger.Open(context.Background(), c)
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

// EachConfig runs fn once per backend with the address of an empty database of
// its own; fn may add a clock.
func EachConfig(t *testing.T, fn func(t *testing.T, c ledger.Config)) {
	t.Run("sqlite", func(t *testing.T) { fn(t, ledger.Config{Dir: t.TempDir()}) })
	t.Run("postgres", func(t *testing.T) {
		address := Database(t, Postgres(t))
		if u, err := url.Parse(address); err == nil && u.Host != "" && u.User != nil {
			if _, secret := u.User.Password(); !secret {
				_, address = NewProxy(t, address, 0, false) // whose record is kept
			}
		}
		fn(t, ledger.Config{URL: address})
	})
	if server := os.Getenv("WEIR_TEST_LEDGER_URL"); server != "" {
		t.Run("server", func(t *testing.T) { fn(t, ledger.Config{URL: Database(t, server)}) })
	}
}

// Postgres is the URL of a PostgreSQL server, or the end of the test.
func Postgres(t testing.TB) string {
	t.Helper()
	if server := os.Getenv("WEIR_TEST_POSTGRES_URL"); server != "" {
		return server
	}
	server, err := private()
	if err != nil && strings.Contains(os.Getenv("WEIR_REQUIRE"), "postgres") {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip("there is no PostgreSQL here, WEIR_REQUIRE=postgres insists on it: ", err)
	}
	return server
}

// held is the pipe whose end stops the private server. As a global it is not
// collected, and so not closed, before the process ends.
var held atomic.Pointer[io.WriteCloser]

// private starts this process's own server. Its script stops it when the pipe
// to it breaks: at the end of this process, however that comes.
var private = sync.OnceValues(func() (string, error) {
	script, err := find(filepath.Join("scripts", "postgres"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command(script, "hold")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	held.Store(&stdin)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return "", errors.Join(errors.New(strings.TrimSpace(stderr.String())), cmd.Wait())
	}
	return strings.TrimSpace(line), nil
})

// find looks for a file of the module from the test's directory upwards.
func find(name string) (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.Join(fmt.Errorf("there is no %s above the test", name), err)
}

// Database creates a database for one test and drops it when it ends.
func Database(t testing.TB, server string) string {
	t.Helper()
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	name := "weir_test_" + strings.ToLower(rand.Text())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := db.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // runs after the ledgers that the test opened are closed
		_, err := db.Exec("DROP DATABASE " + name)
		for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			_, err = db.Exec("DROP DATABASE " + name) // the server ends closed connections a little later
		}
		if err != nil {
			t.Error(err)
		}
		db.Close()
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

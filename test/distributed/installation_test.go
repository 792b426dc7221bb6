// Package distributed runs weir as an operator of several machines does:
// gateways, processors and analytics as processes of their own, on Kafka,
// PostgreSQL and a ClickHouse behind HTTP, against the provider stand-in.
package distributed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"weir/internal/ledger/ledgertest"
	"weir/internal/standin"
)

const (
	adminToken  = "admin-token-of-the-test"
	providerKey = "sk-provider-of-the-test"
	// embedded is a configuration without addresses: one process has it all.
	embedded = false
	remote   = true
)

// programs are built once for all tests.
type programs struct{ weir, chserver string }

var builtIn string // the directory of the programs, once they are built

var build = sync.OnceValues(func() (programs, error) {
	dir, err := os.MkdirTemp("", "weir-distributed-")
	if err != nil {
		return programs{}, err
	}
	builtIn = dir
	p := programs{filepath.Join(dir, "weir"), filepath.Join(dir, "chserver")}
	for path, pkg := range map[string]string{p.weir: "weir/cmd/weir", p.chserver: "weir/test/distributed/chserver"} {
		if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
			return p, fmt.Errorf("cannot build %s: %w\n%s", pkg, err, out)
		}
	}
	return p, nil
})

func binaries(t *testing.T) programs {
	t.Helper()
	p, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestMain stops and removes what the tests share.
func TestMain(m *testing.M) {
	code := m.Run()
	if c := runningCluster; c != nil {
		if err := c.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// installation is what the processes of one test share.
type installation struct {
	*testing.T
	dir        string
	remote     bool
	kafka      *cluster
	topic      string
	ledgerURL  string // past the wire
	wire       *wire  // to PostgreSQL
	clickhouse *clickhouse
	upstream   string // the stand-in's address
	weirs      int
	books      *books // of the process that serves the control plane
}

// install prepares everything but the processes. Remote, a test is skipped
// unless it is asked for: it needs Java, PostgreSQL and the engine's library.
func install(t *testing.T, isRemote bool) *installation {
	t.Helper()
	in := &installation{T: t, dir: t.TempDir(), remote: isRemote}
	if isRemote {
		in.kafka = kafka(t)
		in.topic = "weir.test." + rand.Text()[:8]
	}
	s, err := standin.New(standin.Options{LogPath: in.served(), Key: providerKey, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		in.upstream, err = s.Listen("127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if isRemote {
		in.reachServers()
	}
	return in
}

func (in *installation) reachServers() {
	in.Helper()
	in.ledgerURL = ledgertest.Database(in.T, ledgertest.Postgres(in.T))
	u, err := url.Parse(in.ledgerURL)
	if err != nil {
		in.Fatal(err)
	}
	in.wire = newWire(in.T, in.freePort(), u.Host)
	in.clickhouse = &clickhouse{in: in, dir: filepath.Join(in.dir, "clickhouse"), at: in.freePort()}
	if err := os.Mkdir(in.clickhouse.dir, 0o700); err != nil {
		in.Fatal(err)
	}
	in.clickhouse.start()
}

// served is the stand-in's own log.
func (in *installation) served() string { return filepath.Join(in.dir, "served.jsonl") }

// configuration is one process' weir.yaml.
func (in *installation) configuration(w *weir) string {
	text := fmt.Sprintf(`data_dir: %[1]q
listen: {data: %[2]q, control: %[3]q, clickhouse: "127.0.0.1:0"}
admin: {token: %[4]q}
providers:
  openai: {kind: openai, base_url: "http://%[5]s", api_key: %[6]q, allow_private: true}
  anthropic: {kind: anthropic, base_url: "http://%[5]s", api_key: %[6]q, allow_private: true}
`, filepath.Join(w.dir, "data"), w.data, w.control, adminToken, in.upstream, providerKey)
	if !in.remote {
		return text + fmt.Sprintf("clickhouse: {library: %q}\n", library(in.T))
	}
	u, err := url.Parse(in.ledgerURL)
	if err != nil {
		in.Fatal(err)
	}
	u.Host = in.wire.at
	return text + fmt.Sprintf("ledger: {url: %q}\nkafka: {brokers: [%s], topic: %q, partitions: 6}\nclickhouse: {url: %q}\n",
		u, strings.Join(in.kafka.brokers, ", "), in.topic, in.clickhouse.url())
}

// migrate runs the verb as an operator does before the first start, and again.
func (in *installation) migrate() string {
	in.Helper()
	w := &weir{in: in, dir: filepath.Join(in.dir, "migrate")}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		in.Fatal(err)
	}
	name := filepath.Join(w.dir, "weir.yaml")
	if err := os.WriteFile(name, []byte(in.configuration(w)), 0o600); err != nil {
		in.Fatal(err)
	}
	var first string
	for range 2 {
		ctx, cancel := context.WithTimeout(in.Context(), startPatience)
		defer cancel()
		out, err := exec.CommandContext(ctx, binaries(in.T).weir, "migrate", "--config", name).CombinedOutput()
		if err != nil {
			in.Fatalf("migrate: %v\n%s", err, out)
		}
		if first == "" {
			first = string(out)
		}
	}
	return first
}

// freePort is an address that nothing listens on, below the ports that the
// kernel gives to connections: a process that is started again finds it free.
func (in *installation) freePort() string {
	in.Helper()
	var seed [2]byte
	for range 100 {
		rand.Read(seed[:])
		at := fmt.Sprintf("127.0.0.1:%d", 20000+(int(seed[0])<<8|int(seed[1]))%10000)
		if l, err := net.Listen("tcp", at); err == nil {
			l.Close()
			return at
		}
	}
	in.Fatal("no port is free")
	return ""
}

// library is the path of the embedded engine's.
func library(t *testing.T) string {
	t.Helper()
	if named := os.Getenv("WEIR_CLICKHOUSE_LIBRARY"); named != "" {
		return named
	}
	found, err := filepath.Glob("../../node_modules/@chdb/*/libchdb.so")
	if err == nil && len(found) > 0 {
		found[0], err = filepath.Abs(found[0])
	}
	if err == nil && len(found) == 0 {
		err = errors.New("the engine's library is not in node_modules")
	}
	if err != nil {
		absent(t, "chdb", err)
	}
	return found[0]
}

// absent skips the test for lack of something, unless that is required.
func absent(t *testing.T, what string, why error) {
	t.Helper()
	if strings.Contains(os.Getenv("WEIR_REQUIRE"), what) {
		t.Fatal(why)
	}
	t.Skip(why)
}

// clickhouse is the server's process, which can be stopped and started again.
type clickhouse struct {
	*process
	in      *installation
	dir, at string
}

func (c *clickhouse) start() {
	c.in.Helper()
	c.process = spawn(c.in.T, filepath.Join(c.in.dir, "clickhouse.stderr"), binaries(c.in.T).chserver,
		"-dir", c.dir, "-library", library(c.in.T), "-listen", c.at)
	c.firstLine()
}

func (c *clickhouse) url() string { return "http://weir:secret@" + c.at + "/weir" }

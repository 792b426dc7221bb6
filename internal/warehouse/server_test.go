package warehouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	warehousesql "weir/schemas/sql/warehouse"
	"weir/schemas/usage"
)

// These name a ClickHouse server to test on: its URL without a database
// (clickhouse://user:password@host:9000 or http://…:8123) and, for replicated
// tables, its cluster. Every test makes a database of its own and drops it.
// Without them the embedded engine, reached through a URL, is the server.
const (
	serverEnv  = "WEIR_TEST_CLICKHOUSE_URL"
	clusterEnv = "WEIR_TEST_CLICKHOUSE_CLUSTER"
)

// newServer returns where a server is, with a new database's name, and the
// embedded engine where that is the server, else nil.
func newServer(t *testing.T) (Config, *DB) {
	t.Helper()
	base, engine := os.Getenv(serverEnv), (*DB)(nil)
	if base == "" {
		engine = openEmbedded(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go relay(l, engine.child.writerSocket())
		base = "http://default:any@" + l.Addr().String()
	}
	cfg := Config{URL: fmt.Sprintf("%s/weir_test_%08x", strings.TrimRight(base, "/"), rand.Uint32()), Cluster: os.Getenv(clusterEnv),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	t.Cleanup(func() { dropDatabase(t, cfg) })
	return cfg, engine
}

func dropDatabase(t *testing.T, cfg Config) {
	d, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.conn.Close()
	conn, err := clickhouse.Open(d.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	statement := "DROP DATABASE IF EXISTS " + warehousesql.Identifier(d.name)
	if cfg.Cluster != "" {
		statement += " ON CLUSTER " + warehousesql.Identifier(cfg.Cluster)
	}
	if err := conn.Exec(context.Background(), statement+" SYNC"); err != nil {
		t.Error(err)
	}
}

// openServer opens a server whose schema is there.
func openServer(t *testing.T, cfg Config) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := Open(ctx, cfg)
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

// onEveryStore runs a test on the embedded engine and on a server.
func onEveryStore(t *testing.T, test func(t *testing.T, d *DB)) {
	t.Run("embedded", func(t *testing.T) { test(t, openEmbedded(t)) })
	t.Run("server", func(t *testing.T) {
		cfg, _ := newServer(t)
		if err := Migrate(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		test(t, openServer(t, cfg))
	})
}

func TestServingOnlyLooksAtAServersSchema(t *testing.T) {
	cfg, engine := newServer(t)
	unready := func(want string) {
		t.Helper()
		d, err := Start(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		until(t, "the reason", func() bool { return d.lastErr.Load() != nil })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Wait(ctx); err == nil || !strings.Contains(err.Error(), want) || d.Up() {
			t.Errorf("got %v, up %t, want %q", err, d.Up(), want)
		}
	}
	unready("the warehouse has no schema yet: run `weir migrate`")

	var migrating sync.WaitGroup
	for range 3 { // as several hosts of one installation might
		migrating.Go(func() {
			if err := Migrate(t.Context(), cfg); err != nil {
				t.Error(err)
			}
		})
	}
	migrating.Wait()
	if t.Failed() {
		return
	}
	d := openServer(t, cfg)
	if d.child != nil || !d.Up() {
		t.Error("a migrated server is not up")
	}
	if engine == nil {
		return // what follows spoils the schema
	}
	before := query[uint64](t, d, "SELECT count() FROM schema_migrations")
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Error(err)
	}
	if after := query[uint64](t, d, "SELECT count() FROM schema_migrations"); after != before {
		t.Error("a migration was applied again")
	}
	exec := func(sql string) {
		t.Helper()
		if err := d.Conn().Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER TABLE usage_hourly MODIFY SETTING non_replicated_deduplication_window = 100")
	unready("usage_hourly has non_replicated_deduplication_window = 100, less than 10000")
	exec("ALTER TABLE usage_hourly RESET SETTING non_replicated_deduplication_window")
	unready("usage_hourly has no non_replicated_deduplication_window")
	exec("INSERT INTO schema_migrations (version) VALUES (1000)")
	unready("newer than this weir's")
	exec("TRUNCATE TABLE schema_migrations")
	exec("INSERT INTO schema_migrations (version) VALUES (1)")
	unready("the warehouse's schema is at version 1, this weir needs ")
}

func TestMigrateRefuses(t *testing.T) {
	if err := Migrate(t.Context(), Config{DataDir: t.TempDir()}); err == nil {
		t.Error("the embedded engine was migrated behind the back of who serves it")
	}
	if err := Migrate(t.Context(), Config{URL: "http://h:8123/weir", KeepRaw: 24 * time.Hour}); err == nil || !strings.Contains(err.Error(), "keep_raw") {
		t.Errorf("a day's events: %v", err)
	}
	cfg, engine := newServer(t)
	if engine == nil {
		t.Skip("a server's clusters are its operator's")
	}
	cfg.Cluster = "nosuch"
	if err := Migrate(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `knows no cluster "nosuch"`) {
		t.Errorf("an unknown cluster: %v", err)
	}
}

// What the server makes of the definitions is in its own words here.
func TestTablesThatWouldCountTwiceAreRefused(t *testing.T) {
	const plain = "MergeTree PARTITION BY toYYYYMM(event_time) ORDER BY a TTL x SETTINGS non_replicated_deduplication_window = 10000, index_granularity = 8192"
	const replicated = "ReplicatedMergeTree('/clickhouse/tables/{shard}/a/b', '{replica}') ORDER BY a SETTINGS non_replicated_deduplication_window = 10000, " +
		"replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800"
	for _, c := range []struct {
		definition, cluster string
		ok                  bool
	}{
		{plain, "", true},
		{plain, "main", false},
		{strings.Replace(plain, "10000", "9999", 1), "", false},
		{"MergeTree ORDER BY a SETTINGS index_granularity = 8192", "", false},
		{replicated, "main", true},
		{replicated, "", true},
		{strings.Replace(replicated, "Replicated", "Shared", 1), "", true},
		{strings.Replace(replicated, "604800", "3600", 1), "main", false},
		{strings.Replace(replicated, ", replicated_deduplication_window = 10000", "", 1), "main", false},
		{strings.Replace(replicated, ", replicated_deduplication_window_seconds = 604800", "", 1), "", false},
	} {
		if err := judge("t", c.definition, c.cluster); (err == nil) != c.ok {
			t.Errorf("%s, cluster %q: %v", c.definition, c.cluster, err)
		}
	}
}

// The definitions for a cluster cannot be run without one; that they are what
// ClickHouse takes for such is said by its own parser.
func TestClusterDefinitionsAreClickHouses(t *testing.T) {
	d := openEmbedded(t)
	all, err := warehousesql.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	list := []string{migrationsTable, warehousesql.KeepRaw(60)}
	for _, m := range all {
		list = append(list, m.Statements...)
	}
	for _, statement := range list {
		text := warehousesql.OnCluster(statement, "weir", "main")
		spelled := query[string](t, d, "SELECT formatQuery(?)", text)
		if !strings.Contains(spelled, "ON CLUSTER main") || strings.Contains(statement, "ENGINE") && !strings.Contains(spelled, "ENGINE = Replicated") {
			t.Errorf("not for a cluster:\n%s", spelled)
		}
	}
	// The settings of replicated tables are known by name: plain ones take them too.
	definition, err := d.definition(t.Context(), "usage_hourly")
	if err != nil || judge("usage_hourly", "Replicated"+definition, "main") != nil {
		t.Errorf("%s, %v", definition, err)
	}
}

func TestOldEventsGoAndSumsStay(t *testing.T) {
	onEveryStore(t, func(t *testing.T, d *DB) {
		old, recent := records(1, 100), records(2, 50)
		for i := range old {
			old[i].TimeMs = time.Now().Add(-401 * 24 * time.Hour).UnixMilli()
		}
		for i := range recent {
			recent[i].TimeMs = time.Now().Add(-399 * 24 * time.Hour).UnixMilli()
		}
		append1(t, d, "T/0/0", old)
		append1(t, d, "T/0/100", recent)
		until(t, "the old rows' end", func() bool {
			if err := d.Conn().Exec(t.Context(), "OPTIMIZE TABLE usage_events FINAL"); err != nil {
				t.Fatal(err)
			}
			return query[uint64](t, d, "SELECT count() FROM usage_events") == 50
		})
		if got, want := totals(t, d)[1], expected(old, recent)[1]; got != want {
			t.Errorf("hours\n got %q\nwant %q", got, want)
		}
	})
}

// Two processes append to one server: each its own batches, and after a change
// of partitions some that the other has already sent. In between the server
// dies.
func TestTwoProcessorsAppendSideBySide(t *testing.T) {
	cfg, engine := newServer(t)
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	handles := []*DB{openServer(t, cfg), openServer(t, cfg)}
	const batches = 30
	all := make([][]usage.Record, batches)
	for i := range all {
		all[i] = records(uint64(1000+i), 1+37*i)
	}
	id := func(i int) string { return fmt.Sprintf("T/%d/%d", i%4, i) }
	var appending sync.WaitGroup
	for h, d := range handles {
		appending.Go(func() {
			for i := range batches {
				if i%4/2 != h && i%5 != 0 { // of four partitions two are this one's; every fifth batch is sent by both
					continue
				}
				if i == batches/2 && h == 0 && engine != nil {
					if err := syscall.Kill(engine.enginePID(), syscall.SIGKILL); err != nil {
						t.Error(err)
					}
				}
				until(t, "append of "+id(i), func() bool { return d.Append(t.Context(), id(i), all[i]) == nil })
			}
		})
	}
	appending.Wait()
	if got, want := totals(t, handles[0]), expected(all...); got != want {
		t.Errorf("totals\n got %q\nwant %q", got, want)
	}
	// Other rows under a known id change nothing, so the sums are still those of
	// what was settled.
	before, err := handles[0].BatchSums(t.Context())
	if err != nil || len(before) != batches {
		t.Fatal(len(before), err)
	}
	append1(t, handles[1], id(7), records(9999, 5))
	after, err := handles[1].BatchSums(t.Context())
	if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("sums\n got %v, %v\nwant %v", after, err, before)
	}
}

func TestOptionsOfServers(t *testing.T) {
	for text, want := range map[string]*clickhouse.Options{
		"clickhouse://u:p%40ss@h:9000/weir": {Protocol: clickhouse.Native, Addr: []string{"h:9000"}, Auth: clickhouse.Auth{Database: "weir", Username: "u", Password: "p@ss"}},
		"clickhouse://u:p@a:9000,b:9000/weir": {Protocol: clickhouse.Native, Addr: []string{"a:9000", "b:9000"},
			Auth: clickhouse.Auth{Database: "weir", Username: "u", Password: "p"}},
		"http://u:p@h:8123/weir":               {Protocol: clickhouse.HTTP, Addr: []string{"h:8123"}, Auth: clickhouse.Auth{Database: "weir", Username: "u", Password: "p"}},
		"https://u:p@h:8443/weir":              {Protocol: clickhouse.HTTP, Addr: []string{"h:8443"}, Auth: clickhouse.Auth{Database: "weir", Username: "u", Password: "p"}},
		"clickhouse://h:9440/weir?secure=true": {Protocol: clickhouse.Native, Addr: []string{"h:9440"}, Auth: clickhouse.Auth{Database: "weir"}},
		"clickhouse://h:9000":                  nil,
		"http://h:8123/":                       nil,
		"ftp://h/weir":                         nil,
		"h:9000":                               nil,
		"http://h/a/b":                         nil,
		"http://[":                             nil,
		"http://u:secret@h:8123/weir?dial_timeout=x": nil,
	} {
		o, err := parseURL(text)
		if (err == nil) != (want != nil) {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err != nil {
			if u, _ := url.Parse(text); u != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("an error tells the password: %v", err)
			}
			continue
		}
		secure := strings.HasPrefix(text, "https") || strings.Contains(text, "secure")
		if o.Protocol != want.Protocol || fmt.Sprint(o.Addr) != fmt.Sprint(want.Addr) || o.Auth != want.Auth || (o.TLS != nil) != secure {
			t.Errorf("%s: %+v", text, o)
		}
	}
}

// A server may refuse the credentials; then the reason is told, without them.
func TestUnreachableServerIsTheReason(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = Migrate(t.Context(), Config{URL: "clickhouse://u:secret@" + l.Addr().String() + "/weir", Log: slog.Default()})
	if !errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

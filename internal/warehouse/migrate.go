package warehouse

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	warehousesql "weir/schemas/sql/warehouse"
)

const (
	// migrateTimeout bounds one attempt to bring the schema up to date. Every
	// statement only changes metadata; on a cluster each waits for all servers.
	migrateTimeout = 5 * time.Minute
	// clusterSeconds is how long a statement waits for the servers of a
	// cluster. Shorter than answerTimeout, so that it is the server that says
	// which of them did not answer.
	clusterSeconds = 25
	// DefaultKeepRaw is how long single events are kept where nothing else is
	// said: a year's and a month's, for comparisons with the year before.
	DefaultKeepRaw = 400 * 24 * time.Hour
	// minKeepRaw leaves a month after lateMax, for bills and their disputes.
	minKeepRaw = lateMax + 31*24*time.Hour
	// partsPerMerge is how many parts the embedded engine waits for before it
	// merges. Every batch is a part of its own, some hundred rows; merging five
	// of them at a time, as a server does, took as much processor time as
	// inserting them (measured: 24 ms an insert before, 16 ms after), and the
	// machine is shared with the gateway. Reading a few dozen small parts costs
	// little.
	partsPerMerge = 32
)

// Codes of the server for what is not there.
const (
	unknownTable    = 60
	unknownDatabase = 81
)

// ErrNotMigrated says that a server's schema is missing or too old.
var ErrNotMigrated = errors.New("run `weir migrate`")

// migrationsTable records what was applied. Rows are only added; the insert
// comes after the statements, so that a crash repeats a migration and never
// skips one.
const migrationsTable = `CREATE TABLE IF NOT EXISTS schema_migrations
(
    version    UInt32,
    name       String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1`

// Migrate brings a server's schema up to date, on all servers of cfg.Cluster if
// that is set, and lets single events live for cfg.KeepRaw. It may be repeated,
// also after a failure and by two at once. The embedded engine needs none: Start
// does it.
func Migrate(ctx context.Context, cfg Config) error {
	if cfg.URL == "" {
		return errors.New("the embedded warehouse is brought up to date by serving")
	}
	d, err := prepare(cfg)
	if err != nil {
		return err
	}
	defer d.conn.Close()
	return d.migrate(ctx)
}

// migrate makes the database if it is missing, applies the migrations it does
// not have yet and sets what configuration says.
func (d *DB) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	if d.cfg.Cluster != "" {
		ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"distributed_ddl_task_timeout": clusterSeconds}))
	}
	if err := d.createDatabase(ctx); err != nil {
		return err
	}
	if err := d.define(ctx, migrationsTable); err != nil {
		return fmt.Errorf("cannot prepare the warehouse's migrations: %w", err)
	}
	if err := d.applyMigrations(ctx); err != nil {
		return err
	}
	if err := d.keepRaw(ctx); err != nil {
		return err
	}
	if d.child != nil {
		if err := d.tune(ctx); err != nil {
			return err
		}
	}
	return d.check(ctx)
}

// define runs a statement of the schema, on all servers of the cluster.
func (d *DB) define(ctx context.Context, statement string) error {
	if d.cfg.Cluster != "" {
		statement = warehousesql.OnCluster(statement, d.name, d.cfg.Cluster)
	}
	return d.conn.Exec(ctx, statement)
}

func (d *DB) applyMigrations(ctx context.Context) error {
	applied, all, err := d.version(ctx)
	if err != nil {
		return err
	}
	for _, m := range all[applied:] {
		for _, statement := range m.Statements {
			if err := d.define(ctx, statement); err != nil {
				return fmt.Errorf("cannot apply warehouse migration %s: %w", m.Name, err)
			}
		}
		if err := d.conn.Exec(ctx, "INSERT INTO schema_migrations (version, name) VALUES (?, ?)", m.Version, m.Name); err != nil {
			return fmt.Errorf("cannot record warehouse migration %s: %w", m.Name, err)
		}
	}
	return nil
}

// version reads how many migrations were applied, of how many there are.
func (d *DB) version(ctx context.Context) (applied uint32, all []warehousesql.Migration, err error) {
	if all, err = warehousesql.Migrations(); err != nil {
		return 0, nil, err
	}
	if err := d.conn.QueryRow(ctx, "SELECT max(version) FROM schema_migrations").Scan(&applied); err != nil {
		return 0, nil, fmt.Errorf("cannot read the warehouse's migrations: %w", err)
	}
	if int(applied) > len(all) {
		return 0, nil, fmt.Errorf("the warehouse's schema is at version %d, newer than this weir's %d", applied, len(all))
	}
	return applied, all, nil
}

// check makes sure that the schema is there, current, and such that a repeated
// block counts once.
func (d *DB) check(ctx context.Context) error {
	applied, all, err := d.version(ctx)
	var exception *clickhouse.Exception
	switch {
	case errors.As(err, &exception) && (exception.Code == unknownTable || exception.Code == unknownDatabase):
		return fmt.Errorf("the warehouse has no schema yet: %w", ErrNotMigrated)
	case err != nil:
		return err
	case int(applied) < len(all):
		return fmt.Errorf("the warehouse's schema is at version %d, this weir needs %d: %w", applied, len(all), ErrNotMigrated)
	}
	for _, table := range []string{"usage_events", "usage_hourly"} {
		definition, err := d.definition(ctx, table)
		if err != nil {
			return err
		}
		if err := judge(table, definition, d.cfg.Cluster); err != nil {
			return err
		}
	}
	return nil
}

// definition is the part of a table's definition that begins with the engine's
// name, as the server writes it.
func (d *DB) definition(ctx context.Context, table string) (text string, err error) {
	err = d.conn.QueryRow(ctx, "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = ?", table).Scan(&text)
	if err != nil {
		return "", fmt.Errorf("cannot read how %s is defined: %w", table, err)
	}
	return text, nil
}

// windowOf are the settings that make a table remember insert tokens, with
// their least values: 10,000 blocks, and where time bounds it too, 7 days.
var (
	plainWindow      = map[string]int64{"non_replicated_deduplication_window": 10_000}
	replicatedWindow = map[string]int64{"replicated_deduplication_window": 10_000, "replicated_deduplication_window_seconds": 604_800}
)

// judge refuses a table that would count a repeated block twice, and a plain
// one where a cluster's servers are to share it.
func judge(table, definition, cluster string) error {
	shared := strings.HasPrefix(definition, "Replicated") || strings.HasPrefix(definition, "Shared")
	if cluster != "" && !shared {
		return fmt.Errorf("%s was made for one server and cannot become one of cluster %q (clickhouse.cluster): name an empty database", table, cluster)
	}
	window := plainWindow
	if shared {
		window = replicatedWindow
	}
	for name, least := range window {
		m := regexp.MustCompile(`\b` + name + ` = (\d+)`).FindStringSubmatch(definition)
		if m == nil {
			return fmt.Errorf("%s has no %s: a repeated block would count twice", table, name)
		}
		if n, err := strconv.ParseInt(m[1], 10, 64); err != nil || n < least {
			return fmt.Errorf("%s has %s = %s, less than %d: a repeated block would count twice", table, name, m[1], least)
		}
	}
	return nil
}

// keepRaw sets how long single events live, if that is not what is set.
func (d *DB) keepRaw(ctx context.Context) error {
	seconds := int64(d.cfg.KeepRaw / time.Second)
	definition, err := d.definition(ctx, "usage_events")
	if err != nil || strings.Contains(definition, warehousesql.RawTTL(seconds)) {
		return err
	}
	if err := d.define(ctx, warehousesql.KeepRaw(seconds)); err != nil {
		return fmt.Errorf("cannot set how long events are kept: %w", err)
	}
	return nil
}

// tune sets what suits an engine that shares a small machine. A server keeps
// its own defaults.
func (d *DB) tune(ctx context.Context) error {
	for _, table := range []string{"usage_events", "usage_hourly"} {
		err := d.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s MODIFY SETTING min_parts_to_merge_at_once = %d, merge_selector_base = %d", table, partsPerMerge, partsPerMerge))
		if err != nil {
			return fmt.Errorf("cannot tune %s: %w", table, err)
		}
	}
	return nil
}

// createDatabase uses a connection of its own, outside the database that may
// not exist yet.
func (d *DB) createDatabase(ctx context.Context) error {
	conn, err := clickhouse.Open(d.admin)
	if err != nil {
		return fmt.Errorf("cannot open the warehouse: %w", err)
	}
	defer conn.Close()
	statement := "CREATE DATABASE IF NOT EXISTS " + warehousesql.Identifier(d.name)
	if d.cfg.Cluster != "" {
		if err := oneShard(ctx, conn, d.cfg.Cluster); err != nil {
			return err
		}
		statement += " ON CLUSTER " + warehousesql.Identifier(d.cfg.Cluster)
	}
	if err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("cannot make the warehouse's database: %w", err)
	}
	return nil
}

// oneShard refuses a cluster of several shards: a table there holds a part of
// the rows, and a token is remembered by the shard that it came to.
func oneShard(ctx context.Context, conn Conn, cluster string) error {
	var shards uint64
	if err := conn.QueryRow(ctx, "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = ?", cluster).Scan(&shards); err != nil {
		return fmt.Errorf("cannot look the cluster up: %w", err)
	}
	switch shards {
	case 0:
		return fmt.Errorf("the server knows no cluster %q (clickhouse.cluster)", cluster)
	case 1:
		return nil
	}
	return fmt.Errorf("cluster %q (clickhouse.cluster) has %d shards: weir's tables need one shard with any number of replicas", cluster, shards)
}

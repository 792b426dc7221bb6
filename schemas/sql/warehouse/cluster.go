package warehousesql

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	named  = regexp.MustCompile(`\b(IF NOT EXISTS|ALTER TABLE) (\w+)`)
	read   = regexp.MustCompile(`\b(TO|FROM) (\w+)`)
	engine = regexp.MustCompile(`\bENGINE = (\w*MergeTree)\b`)
)

// replica is where a replicated table keeps its state in Keeper. The servers
// replace the macros: shard and replica are the operator's, from their
// configuration, the others their own.
const replica = `'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'`

// OnCluster rewrites a statement of a migration so that it runs on every server
// of a cluster and its tables are replicated. Names are qualified: the servers
// that run the statement do not know which database the asking connection uses.
func OnCluster(statement, database, cluster string) string {
	database = escaped(Identifier(database)) + "."
	cluster = " ON CLUSTER " + escaped(Identifier(cluster))
	statement = read.ReplaceAllString(statement, "$1 "+database+"$2")
	statement = named.ReplaceAllString(statement, "$1 "+database+"$2"+cluster)
	return engine.ReplaceAllString(statement, "ENGINE = Replicated$1("+replica+")")
}

// escaped makes a text that a replacement takes as it is.
func escaped(text string) string { return strings.ReplaceAll(text, "$", "$$") }

// Identifier quotes a name for use in a statement.
func Identifier(name string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}

// KeepRaw makes single events older than so many seconds go; sums stay. It
// states the whole rule, so that repeating it changes nothing.
func KeepRaw(seconds int64) string {
	return fmt.Sprintf("ALTER TABLE usage_events MODIFY TTL %s", RawTTL(seconds))
}

// RawTTL is the rule of KeepRaw as a server writes it in system.tables.
func RawTTL(seconds int64) string {
	return fmt.Sprintf("toDateTime(event_time) + toIntervalSecond(%d)", seconds)
}

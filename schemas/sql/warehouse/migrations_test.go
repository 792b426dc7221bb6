package warehousesql

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func statements(t *testing.T) []string {
	t.Helper()
	all, err := Migrations()
	if err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	var list []string
	for _, m := range all {
		list = append(list, m.Statements...)
	}
	return list
}

// uncommented drops a statement's comments: what they say is not what it does.
func uncommented(statement string) string {
	return strings.TrimSpace(regexp.MustCompile(`(?m)^--.*\n`).ReplaceAllString(statement, ""))
}

func TestEveryStatementMayRunTwice(t *testing.T) {
	for _, statement := range statements(t) {
		for _, harmless := range []string{"IF NOT EXISTS", "IF EXISTS", "MODIFY SETTING"} {
			if strings.Contains(uncommented(statement), harmless) {
				statement = ""
			}
		}
		if statement != "" {
			t.Errorf("repeated after a crash this would fail:\n%s", statement)
		}
	}
}

// Every table remembers tokens in both ways: a plain one by the first window,
// a replicated one by the others.
func TestEveryTableDropsRepeats(t *testing.T) {
	all := statements(t)
	tables := 0
	for _, statement := range all {
		table := regexp.MustCompile(`(?s)^CREATE TABLE IF NOT EXISTS (\w+).*MergeTree`).FindStringSubmatch(uncommented(statement))
		if table == nil {
			continue
		}
		tables++
		if !strings.Contains(statement, "non_replicated_deduplication_window = 10000") {
			t.Errorf("%s: a repeated block would count twice", table[1])
		}
		replicated := "ALTER TABLE " + table[1] + " MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800"
		if !slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(uncommented(s), replicated) }) {
			t.Errorf("%s: a block repeated on a cluster after an hour would count twice", table[1])
		}
	}
	if tables != 2 {
		t.Errorf("%d tables were looked at, want usage_events and usage_hourly", tables)
	}
}

func TestOnClusterReplicatesAndQualifies(t *testing.T) {
	for from, want := range map[string]string{
		"CREATE TABLE IF NOT EXISTS t (a Int8)\nENGINE = SummingMergeTree\nORDER BY a": "CREATE TABLE IF NOT EXISTS `d$1`.t ON CLUSTER `c\\`x` (a Int8)\n" +
			"ENGINE = ReplicatedSummingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')\nORDER BY a",
		"CREATE MATERIALIZED VIEW IF NOT EXISTS v TO t AS\nSELECT 1 FROM s AS e": "CREATE MATERIALIZED VIEW IF NOT EXISTS `d$1`.v ON CLUSTER `c\\`x` TO `d$1`.t AS\nSELECT 1 FROM `d$1`.s AS e",
		"CREATE VIEW IF NOT EXISTS v AS SELECT * FROM\n(SELECT 1 FROM s)":        "CREATE VIEW IF NOT EXISTS `d$1`.v ON CLUSTER `c\\`x` AS SELECT * FROM\n(SELECT 1 FROM `d$1`.s)",
		"ALTER TABLE t MODIFY SETTING a = 1":                                     "ALTER TABLE `d$1`.t ON CLUSTER `c\\`x` MODIFY SETTING a = 1",
	} {
		if got := OnCluster(from, "d$1", "c`x"); got != want {
			t.Errorf("%s\n got %s\nwant %s", from, got, want)
		}
	}
	for _, statement := range statements(t) {
		got := uncommented(OnCluster(statement, "weir", "main"))
		if strings.Count(got, " ON CLUSTER `main`") != 1 || strings.Contains(got, "= MergeTree") || strings.Contains(got, "= SummingMergeTree") {
			t.Errorf("not for a cluster:\n%s", got)
		}
	}
}

func TestSplitKeepsStatementsWhole(t *testing.T) {
	got := split("-- a; b\nCREATE x\n(\n  ';'\n);\n\n-- c\nDROP y;\n")
	if len(got) != 2 || got[0] != "-- a; b\nCREATE x\n(\n  ';'\n)" || got[1] != "-- c\nDROP y" {
		t.Errorf("%q", got)
	}
}

package warehousesql

import (
	"strings"
	"testing"
)

func TestEveryStatementMayRunTwiceAndEveryTableDropsRepeats(t *testing.T) {
	all, err := Migrations()
	if err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	for _, m := range all {
		for _, statement := range m.Statements {
			if !strings.Contains(statement, "IF NOT EXISTS") && !strings.Contains(statement, "IF EXISTS") {
				t.Errorf("%s: repeated after a crash this would fail:\n%s", m.Name, statement)
			}
			if strings.Contains(statement, "MergeTree") && !strings.Contains(statement, "non_replicated_deduplication_window = 10000") {
				t.Errorf("%s: a repeated block would count twice here:\n%s", m.Name, statement)
			}
		}
	}
}

func TestSplitKeepsStatementsWhole(t *testing.T) {
	got := split("-- a; b\nCREATE x\n(\n  ';'\n);\n\n-- c\nDROP y;\n")
	if len(got) != 2 || got[0] != "-- a; b\nCREATE x\n(\n  ';'\n)" || got[1] != "-- c\nDROP y" {
		t.Errorf("%q", got)
	}
}

package ledger_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wasilibs/go-pgquery/parser"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	ledgersql "weir/schemas/sql/ledger"
)

const (
	statementsFile = "ledgertest/testdata/statements.sql"
	allowedFile    = "ledgertest/testdata/cockroach_allowed.txt"
)

var keepStatements = flag.Bool("statements", false, "add the statements that the tests send to "+statementsFile)

// TestMain asks after the tests that every statement they made a ledger send
// stands in the file of statements, which TestPortable reads.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if err := compareStatements(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func compareStatements() error {
	b, err := os.ReadFile(statementsFile)
	if err != nil && !*keepStatements {
		return err
	}
	known := strings.Split(strings.TrimSuffix(string(b), ";\n"), ";\n")
	fresh := slices.DeleteFunc(ledgertest.Statements(), func(s string) bool { return slices.Contains(known, s) })
	switch {
	case len(fresh) == 0:
		return nil
	case !*keepStatements:
		return fmt.Errorf("statements that %s does not have (go test -statements adds them):\n%s", statementsFile, strings.Join(fresh, "\n"))
	}
	all := slices.DeleteFunc(append(known, fresh...), func(s string) bool { return s == "" })
	slices.Sort(all)
	return os.WriteFile(statementsFile, []byte(strings.Join(all, ";\n")+";\n"), 0o644)
}

// TestPortable: every construct of every statement and migration stands in the
// list of those that CockroachDB documents, with the page that does. A new one
// fails until somebody has looked it up.
func TestPortable(t *testing.T) {
	allowed := map[string]bool{} // → used
	b, err := os.ReadFile(allowedFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if construct, page, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && page != "" && line[0] != '#' {
			allowed[construct] = false
		}
	}
	for _, s := range portableStatements(t) {
		for c := range constructs(t, s) {
			if _, ok := allowed[c]; !ok {
				t.Errorf("%s is not in %s: look it up for CockroachDB\n%.200s", c, allowedFile, s)
			}
			allowed[c] = true
		}
	}
	for _, c := range slices.Sorted(maps.Keys(allowed)) {
		if !allowed[c] {
			t.Errorf("%s is in %s, and nothing uses it", c, allowedFile)
		}
	}
}

// portableStatements are the recorded ones and CockroachDB's migrations, as far
// as PostgreSQL knows them too.
func portableStatements(t *testing.T) []string {
	b, err := os.ReadFile(statementsFile)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(strings.TrimSuffix(string(b), ";\n"), ";\n")
	for _, text := range migrations(t) {
		all = append(all, ledger.MigrationStatements(text, ledger.CockroachDB)...)
	}
	for i := range all {
		// The parts of statements that PostgreSQL's parser does not know.
		all[i] = strings.TrimSuffix(all[i], " USING HASH")
	}
	return all
}

func migrations(t *testing.T) (texts []string) {
	names, err := fs.Glob(ledgersql.Migrations, "*.sql")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		b, err := fs.ReadFile(ledgersql.Migrations, name)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	return texts
}

// constructs are what a statement is made of: node kinds with the clauses that
// are set and the choices made, functions, operators and types by name.
func constructs(t *testing.T, statement string) map[string]bool {
	tree, err := parser.ParseToJSON(statement)
	if err != nil {
		t.Fatalf("%v: %s", err, statement)
	}
	var parsed any
	if err := json.Unmarshal([]byte(tree), &parsed); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	walk(parsed.(map[string]any)["stmts"], "", found)
	return found
}

// quiet fields are on every node of their kind, or hold names, places and
// values, which every engine takes.
var quiet = regexp.MustCompile(`\.(` + strings.Join([]string{
	"alias", "aliascolnames", "aliasname", "arg", "args", "accessMethod", "behavior", "boolval", "cmds", "colname", "cols", "conname",
	"constraints", "ctename", "ctequery", "ctes", "def", "defaction", "defname", "deferrable", "defresult", "expr", "fields", "funcname",
	"fval", "idxname", "indexElems", "indexParams", "infer", "inh", "initially_valid", "is_local", "is_no_inherit", "isnull", "items", "ival",
	"keys", "larg", "lexpr", "location", "name", "names", "node", "number", "objects", "objtype", "pk_attrs", "pktable", "quals", "rarg",
	"raw_expr", "relation", "relname", "relpersistence", "result", "rexpr", "savepoint_name", "schemaname", "selectStmt", "skip_validation",
	"stmt_.*", "str", "subquery", "subselect", "sval", "tableElts", "targetList", "testexpr", "typeName", "typemod", "val", "withClause"}, "|") + `)$`)

// walk notes what a node of the tree, of kind, is made of.
func walk(node any, kind string, found map[string]bool) {
	switch n := node.(type) {
	case []any:
		for _, x := range n {
			walk(x, kind, found)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(n)) {
			value := n[key]
			if key[0] >= 'A' && key[0] <= 'Z' { // a node under the name of its kind
				found[key] = true
				named(key, value, found)
				walk(value, key, found)
				continue
			}
			if name := kind + "." + key; kind != "" && !quiet.MatchString(name) {
				if s, ok := value.(string); ok {
					name += "=" + s
				}
				found[name] = true
			}
			if key == "typeName" {
				named("TypeName", value, found)
			}
			walk(value, kind, found)
		}
	}
}

// named notes the functions, operators and types that a node names.
func named(kind string, value any, found map[string]bool) {
	field := map[string]string{"FuncCall": "funcname", "A_Expr": "name", "TypeName": "names"}[kind]
	node, _ := value.(map[string]any)
	parts, _ := node[field].([]any)
	if len(parts) == 0 {
		return
	}
	last, _ := parts[len(parts)-1].(map[string]any)["String"].(map[string]any)
	found[fmt.Sprintf("%s %v", kind, last["sval"])] = true
}

// TestNotPortable: what CockroachDB lacks is found.
func TestNotPortable(t *testing.T) {
	for statement, want := range map[string]string{
		"SELECT 1 FROM wallet FOR UPDATE SKIP LOCKED":     "LockingClause.waitPolicy=LockWaitSkip",
		"CREATE SEQUENCE s":                               "CreateSeqStmt",
		"SELECT pg_advisory_xact_lock(1)":                 "FuncCall pg_advisory_xact_lock",
		"CREATE TABLE t (a MONEY)":                        "TypeName money",
		"CREATE INDEX CONCURRENTLY i ON wallet (debited)": "IndexStmt.concurrent",
	} {
		allowed, err := os.ReadFile(filepath.FromSlash(allowedFile))
		if err != nil || strings.Contains(string(allowed), want+": ") || !constructs(t, statement)[want] {
			t.Errorf("%s: %s, %v", statement, want, err)
		}
	}
}

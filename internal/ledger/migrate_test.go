package ledger_test

import (
	"context"
	"database/sql"
	"os"
	"regexp"
	"strings"
	"testing"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	ledgersql "weir/schemas/sql/ledger"
)

// TestMigrations: they run once; a ledger that ran others is refused.
func TestMigrations(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		db, ctx := ledgertest.Open(t, c), context.Background()
		ledgertest.Open(t, c)
		for name, change := range map[string]struct{ do, undo, want string }{
			"another text": {"UPDATE schema_migrations SET checksum = 'x' || checksum WHERE name = '0001_ledger.sql'",
				"UPDATE schema_migrations SET checksum = substr(checksum, 2) WHERE name = '0001_ledger.sql'", "another text"},
			"a newer ledger": {"INSERT INTO schema_migrations (name, checksum, applied_at) VALUES ('9999_future.sql', '', 0)",
				"DELETE FROM schema_migrations WHERE name = '9999_future.sql'", "newer than this program"},
			"another currency": {"UPDATE setting SET value = 'eur' WHERE name = 'currency'",
				"UPDATE setting SET value = 'usd' WHERE name = 'currency'", `"eur"`},
		} {
			exec := func(text string) {
				t.Helper()
				if err := db.Tx(ctx, func(tx *ledger.Tx) error { return tx.Exec(ctx, text) }); err != nil {
					t.Fatal(err)
				}
			}
			exec(change.do)
			if other, err := ledger.Open(ctx, c); err == nil || !strings.Contains(err.Error(), change.want) {
				t.Errorf("%s: %v", name, err)
				if err == nil {
					other.Close()
				}
			}
			exec(change.undo)
			ledgertest.Open(t, c)
		}
	})
}

// TestCockroachMigrations: on CockroachDB a migration goes on where it was
// broken off, whichever connection broke, and the schema is PostgreSQL's.
func TestCockroachMigrations(t *testing.T) {
	t.Parallel()
	p, c := fireplaces[2].open(t, 1)
	p.Break(ledgertest.Odds{ledgertest.CutAnywhere: 100})
	tries := 0
	for opened := false; !opened; tries++ {
		if db, err := ledger.Open(context.Background(), c); err == nil {
			opened = true
			db.Close()
		} else if tries == 500 {
			t.Fatal(err)
		}
	}
	p.Break(nil)
	if db := ledgertest.Open(t, c); db.Engine() != ledger.CockroachDB || tries < 5 {
		t.Errorf("%s, %d tries", db.Engine(), tries)
	}
	_, plain := fireplaces[0].open(t, 1)
	if db := ledgertest.Open(t, plain); db.Engine() != ledger.PostgreSQL {
		t.Error(db.Engine())
	}
	if got, want := schema(t, c.URL), schema(t, plain.URL); got != want || want == "" {
		t.Errorf("CockroachDB's schema:\n%s\nPostgreSQL's:\n%s", got, want)
	}
}

// schema is every column, index and constraint of a database, as PostgreSQL
// prints it.
func schema(t *testing.T, address string) string {
	db, err := sql.Open("pgx", address)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`/* a test's */ SELECT table_name || ' ' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '')
		AS line FROM information_schema.columns WHERE table_schema = 'public'
		UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
		UNION ALL SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
		ORDER BY line`)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		out.WriteString(line + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestHashed: on CockroachDB every index that begins with the time its rows
// were made is hash-sharded in the end.
func TestHashed(t *testing.T) {
	create := regexp.MustCompile(`(?s)^CREATE INDEX (\w+) ON \w+ \(created_at\b.*`)
	hashed := map[string]bool{}
	for _, text := range migrations(t) {
		for _, s := range ledger.MigrationStatements(text, ledger.CockroachDB) {
			if m := create.FindStringSubmatch(s); m != nil {
				hashed[m[1]] = strings.HasSuffix(s, " USING HASH")
			}
		}
		for _, s := range ledger.MigrationStatements(text, ledger.PostgreSQL) {
			if strings.Contains(s, "USING HASH") || strings.Contains(s, "DROP") {
				t.Errorf("PostgreSQL runs %q", s)
			}
		}
	}
	for name, ok := range hashed {
		if !ok {
			t.Errorf("index %s has one hot end", name)
		}
	}
	if len(hashed) < 3 {
		t.Error("the expression finds too little: ", hashed)
	}
}

// TestOpenRefuses: an address that is none of the engines is an error that says so.
func TestOpenRefuses(t *testing.T) {
	for address, want := range map[string]string{
		"mysql://root@127.0.0.1/weir":              "postgres://",
		"ledger.db":                                "postgres://",
		"postgres://127.0.0.1:1/x?sslmode=disable": "refused",
	} {
		if _, err := ledger.Open(context.Background(), ledger.Config{URL: address}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := ledger.Open(context.Background(), ledger.Config{Dir: "/nonexistent"}); err == nil {
		t.Error("a directory that is not there was opened")
	}
}

// TestFileMode: the ledger's files are its owner's alone.
func TestFileMode(t *testing.T) {
	dir := t.TempDir()
	ledgertest.Open(t, ledger.Config{Dir: dir})
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 { // at least the database and its log
		t.Fatal(files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

// TestAppendOnly: no statement of the program changes or removes a
// transaction or a posting; corrections are more entries.
func TestAppendOnly(t *testing.T) {
	banned := regexp.MustCompile(`(?is)(update|delete\s+from|truncate(\s+table)?|drop\s+table|alter\s+table)\s+(txn|posting)\b|replace\s+into\s+(txn|posting)\b|"(txn|posting)",\s*"\s*on conflict`)
	if !banned.MatchString("UPDATE posting SET amount = 1") || !banned.MatchString("delete  from txn") {
		t.Fatal("the expression finds nothing")
	}
	texts := map[string]string{}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := f.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			texts[name] = string(b)
		}
	}
	migrations, err := ledgersql.Migrations.ReadDir(".")
	if err != nil || len(migrations) == 0 {
		t.Fatal(err)
	}
	for _, m := range migrations {
		b, err := ledgersql.Migrations.ReadFile(m.Name())
		if err != nil {
			t.Fatal(err)
		}
		texts[m.Name()] = string(b)
	}
	for name, text := range texts {
		if hit := banned.FindString(text); hit != "" {
			t.Errorf("%s changes the books: %q", name, hit)
		}
	}
}

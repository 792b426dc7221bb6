package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	ledgersql "weir/schemas/sql/ledger"
)

// migrate runs each migration that is missing in a transaction of its own and
// refuses a ledger whose migrations are not this program's.
func (db *DB) migrate(ctx context.Context) error {
	names, err := fs.Glob(ledgersql.Migrations, "*.sql")
	if err != nil {
		return err
	}
	err = db.Tx(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, `CREATE TABLE IF NOT EXISTS schema_migrations
			(name TEXT NOT NULL PRIMARY KEY, checksum TEXT NOT NULL, applied_at BIGINT NOT NULL)`)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot create schema_migrations: %w", err)
	}
	for _, name := range names { // Glob sorts
		text, err := fs.ReadFile(ledgersql.Migrations, name)
		if err != nil {
			return err
		}
		if err := db.applyMigration(ctx, name, string(text)); err != nil {
			return fmt.Errorf("cannot apply migration %s: %w", name, err)
		}
	}
	return db.refuseNewer(ctx, names)
}

// applyMigration does nothing when the migration has been applied. Of two
// programs that start at once the second waits at the row it inserts.
func (db *DB) applyMigration(ctx context.Context, name, text string) error {
	sum := sha256.Sum256([]byte(text))
	checksum := hex.EncodeToString(sum[:])
	return db.Tx(ctx, func(tx *Tx) error {
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		fresh, err := tx.exec(ctx, `INSERT INTO schema_migrations (name, checksum, applied_at) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO NOTHING`, name, checksum, now)
		if err != nil {
			return err
		}
		if fresh == 0 {
			var have string
			if err := tx.row(ctx, "SELECT checksum FROM schema_migrations WHERE name = $1", name).Scan(&have); err != nil {
				return err
			}
			if have != checksum {
				return fmt.Errorf("the ledger ran another text of it (checksum %.12s, here %.12s)", have, checksum)
			}
			return nil
		}
		for _, stmt := range statements(text, db.engine) {
			if _, err := tx.exec(ctx, stmt); err != nil {
				return fmt.Errorf("%.60q: %w", stmt, err)
			}
		}
		return nil
	})
}

func (db *DB) refuseNewer(ctx context.Context, names []string) error {
	var last string
	if err := db.read.QueryRowContext(ctx, "SELECT MAX(name) FROM schema_migrations").Scan(&last); err != nil {
		return err
	}
	if last > names[len(names)-1] {
		return fmt.Errorf("the ledger is newer than this program: it has migration %s", last)
	}
	return nil
}

var (
	comment    = regexp.MustCompile(`(?m)^\s*--.*$`)
	sqliteOnly = regexp.MustCompile(`/\*sqlite ([^*]*)\*/`)
)

// statements splits a migration and uncovers what is written for SQLite alone.
func statements(text, engine string) []string {
	text = comment.ReplaceAllString(text, "")
	if engine == SQLite {
		text = sqliteOnly.ReplaceAllString(text, "$1")
	}
	var out []string
	for _, s := range strings.Split(text, ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

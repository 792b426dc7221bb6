package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	ledgersql "weir/schemas/sql/ledger"
)

// migrate runs each migration that is missing in a transaction of its own and
// refuses a ledger whose migrations are not this program's.
func (db *DB) migrate(ctx context.Context) error {
	names, err := fs.Glob(ledgersql.Migrations, "*.sql")
	if err != nil {
		return err
	}
	err = db.again(ctx, func(tx *Tx) error {
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

// checksum identifies the text of a migration.
func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// applyMigration does nothing when the migration has been applied. Of two
// programs that start at once the second waits at the row it inserts.
func (db *DB) applyMigration(ctx context.Context, name, text string) error {
	if db.engine == CockroachDB {
		return db.applySteps(ctx, name, text)
	}
	return db.again(ctx, func(tx *Tx) error {
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		fresh, err := tx.exec(ctx, `INSERT INTO schema_migrations (name, checksum, applied_at) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO NOTHING`, name, checksum(text), now)
		if err != nil {
			return err
		}
		if fresh == 0 {
			_, err := tx.applied(ctx, name, text)
			return err
		}
		for _, stmt := range statements(text, db.engine) {
			if _, err := tx.exec(ctx, stmt); err != nil {
				return fmt.Errorf("%.60q: %w", stmt, err)
			}
		}
		return nil
	})
}

// applied tells whether a migration, or a step of one, is noted; another text
// of it is an error.
func (tx *Tx) applied(ctx context.Context, name, text string) (bool, error) {
	var have string
	err := tx.row(ctx, "SELECT checksum FROM schema_migrations WHERE name = $1", name).Scan(&have)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	case have != checksum(text):
		return false, fmt.Errorf("the ledger ran another text of it (checksum %.12s, here %.12s)", have, checksum(text))
	}
	return true, nil
}

// applySteps is applyMigration on CockroachDB, which does not change schemas
// atomically in a transaction: each statement runs alone and is noted, so that a
// migration that was broken off goes on where it was. The one that was under
// way then, or that a second program runs at the same time, may be done already:
// the server says so.
func (db *DB) applySteps(ctx context.Context, name, text string) error {
	if done, err := db.view().applied(ctx, name, text); done || err != nil {
		return err
	}
	for i, stmt := range statements(text, db.engine) {
		// A step's name sorts before all migrations' names, which begin with a digit.
		err := db.applyStep(ctx, fmt.Sprintf("%s %s %d", stepPrefix, name, i+1), stmt)
		if err != nil {
			return fmt.Errorf("%.60q: %w", stmt, err)
		}
	}
	return db.note(ctx, name, text)
}

const stepPrefix = "#"

func (db *DB) applyStep(ctx context.Context, step, stmt string) error {
	if done, err := db.view().applied(ctx, step, stmt); done || err != nil {
		return err
	}
	if _, err := db.write.ExecContext(ctx, stmt); err != nil && !doneBefore(err) {
		return err
	}
	return db.note(ctx, step, stmt)
}

func (db *DB) note(ctx context.Context, name, text string) error {
	return db.again(ctx, func(tx *Tx) error {
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		_, err = tx.exec(ctx, "INSERT INTO schema_migrations (name, checksum, applied_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
			name, checksum(text), now)
		return err
	})
}

// doneBefore tells whether a statement of a migration failed because its
// table, column, index or row is there.
func doneBefore(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains([]string{"42P07", "42701", "42710", "23505"}, pg.Code)
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
	comment = regexp.MustCompile(`(?m)^\s*--.*$`)
	section = regexp.MustCompile(`/\*(sqlite|cockroachdb) ([^*]*)\*/`)
)

// statements splits a migration and uncovers what is written for the engine alone.
func statements(text, engine string) []string {
	text = comment.ReplaceAllString(text, "")
	text = section.ReplaceAllStringFunc(text, func(s string) string {
		if part := section.FindStringSubmatch(s); part[1] == engine {
			return part[2]
		}
		return ""
	})
	var out []string
	for _, s := range strings.Split(text, ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

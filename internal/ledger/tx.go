package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/cockroach-go/v2/crdb"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// txAttempts bounds how often a transaction is run again after losing to
	// another one; with the waits below it gives up after about ten seconds.
	txAttempts = 25
	// The wait before attempt n is random, up to backoffFirst × 2ⁿ, at most
	// backoffMax: losers of one conflict must not meet again.
	backoffFirst = 2 * time.Millisecond
	backoffMax   = 500 * time.Millisecond
)

// runner is what statements of a transaction run on: a server's transaction,
// or SQLite's writer, which keeps its statements prepared.
type runner interface {
	ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row
}

// Tx is one ledger transaction, good for the one call of the function it was
// handed to.
type Tx struct {
	db *DB
	on runner
	at int64 // the ledger's clock, once asked
}

// Tx runs fn in one transaction and commits it, or rolls it back when fn
// fails. fn may run several times: it must not keep what an earlier run saw.
// It must wrap database errors with %w, and use nothing of the ledger but its
// Tx, which is SQLite's only writer. An error of COMMIT is always returned; one
// whose outcome is unknown may have been committed.
//
// On CockroachDB the retry protocol of crdb.ExecuteTx is used, and only there:
// it takes RELEASE SAVEPOINT for the commit and drops COMMIT's own error, so
// that elsewhere a failed commit would look like success.
func (db *DB) Tx(ctx context.Context, fn func(*Tx) error) error {
	if db.engine == CockroachDB {
		return db.txCockroach(ctx, fn)
	}
	for attempt := 0; ; attempt++ {
		err := db.txOnce(ctx, fn)
		if err == nil || !retryable(err) {
			return err
		}
		if attempt == txAttempts {
			return fmt.Errorf("gave up after %d attempts: %w", attempt+1, err)
		}
		if err := backoff(ctx, attempt); err != nil {
			return err
		}
	}
}

// unansweredAttempts bounds how often a transaction is run again whose COMMIT
// got no answer: each time a connection was lost, so more will not help.
const unansweredAttempts = 4

// again is Tx for a fn that may run after itself, since it then finds what it
// did: it is run again as well when the outcome of COMMIT is unknown.
func (db *DB) again(ctx context.Context, fn func(*Tx) error) error {
	for attempt := 0; ; attempt++ {
		err := db.Tx(ctx, fn)
		if !errors.Is(err, errAmbiguous) || attempt == unansweredAttempts {
			return err
		}
		if err := backoff(ctx, attempt); err != nil {
			return err
		}
	}
}

func (db *DB) txCockroach(ctx context.Context, fn func(*Tx) error) error {
	attempt := 0
	err := crdb.ExecuteTx(crdb.WithMaxRetries(ctx, txAttempts), db.write, nil, func(t *sql.Tx) error {
		if attempt++; attempt > 1 { // ExecuteTx itself does not wait between attempts
			if err := backoff(ctx, attempt-2); err != nil {
				return err
			}
		}
		return fn(&Tx{db: db, on: t})
	})
	var ambiguous *crdb.AmbiguousCommitError
	if errors.As(err, &ambiguous) {
		err = fmt.Errorf("%w: %w", errAmbiguous, err)
	}
	return err
}

// txOnce is one attempt: begin, fn, checked commit.
func (db *DB) txOnce(ctx context.Context, fn func(*Tx) error) error {
	var t *sql.Tx
	var on runner
	var err error
	if db.writer != nil {
		select {
		case db.turn <- struct{}{}:
			defer func() { <-db.turn }()
		case <-ctx.Done():
			return ctx.Err()
		}
		// A cancelled ctx fails the statement it interrupts. It must not also
		// make database/sql roll back in the background, while the next
		// transaction begins on this one connection.
		t, err = db.writer.BeginTx(context.WithoutCancel(ctx), nil)
		on = (*prepared)(db)
	} else {
		t, err = db.write.BeginTx(ctx, nil)
		on = t
	}
	if err != nil {
		return fmt.Errorf("cannot begin: %w", err)
	}
	done := false
	defer func() {
		if !done { // fn failed or panicked
			_ = t.Rollback() // its error adds nothing: the connection is then dropped
		}
	}()
	if err := fn(&Tx{db: db, on: on}); err != nil {
		return err
	}
	done = true
	if err := t.Commit(); err != nil {
		return commitError(err)
	}
	return nil
}

// commitError tells an answer of the database (it did not commit) from a
// connection that broke before the answer.
func commitError(err error) error {
	var pg *pgconn.PgError
	var lite *sqlite.Error
	switch {
	case errors.As(err, &lite):
	case errors.As(err, &pg) && !strings.HasPrefix(pg.Code, "08") && pg.Code != "40003" && pg.Code != "57P01":
	default:
		return fmt.Errorf("cannot commit: %w: %w", errAmbiguous, err)
	}
	return fmt.Errorf("cannot commit: %w", err)
}

// retryable tells whether the transaction lost to another one and did nothing.
func retryable(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "40001" || pg.Code == "40P01"
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code()&0xff == sqlite3.SQLITE_BUSY
}

func backoff(ctx context.Context, attempt int) error {
	limit := min(backoffMax, backoffFirst<<min(attempt, 16))
	timer := time.NewTimer(rand.N(limit) + 1)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// snapshot runs fn on one consistent, read-only view of the ledger.
func (db *DB) snapshot(ctx context.Context, fn func(*Tx) error) error {
	opts := &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}
	switch db.engine {
	case SQLite: // a deferred transaction reads from the commit its first statement saw
		opts = nil
	case CockroachDB:
		opts.Isolation = sql.LevelSerializable
	}
	for attempt := 0; ; attempt++ {
		t, err := db.read.BeginTx(ctx, opts)
		if err != nil {
			return fmt.Errorf("cannot begin: %w", err)
		}
		err = fn(&Tx{db: db, on: t})
		_ = t.Rollback() // nothing was written
		if err == nil || !retryable(err) || attempt == txAttempts {
			return err
		}
		if err := backoff(ctx, attempt); err != nil {
			return err
		}
	}
}

// view reads outside of transactions, each statement for itself.
func (db *DB) view() *Tx { return &Tx{db: db, on: db.read} }

// now is the ledger's clock in Unix microseconds, the same through one run of
// a transaction.
func (tx *Tx) now(ctx context.Context) (int64, error) {
	switch {
	case tx.at != 0:
	case tx.db.now != nil:
		tx.at = tx.db.now().UnixMicro()
	default:
		err := tx.row(ctx, "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)").Scan(&tx.at)
		if err != nil {
			return 0, fmt.Errorf("cannot read the ledger's clock: %w", err)
		}
	}
	return tx.at, nil
}

func (tx *Tx) exec(ctx context.Context, text string, args ...any) (affected int64, err error) {
	r, err := tx.on.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (tx *Tx) row(ctx context.Context, text string, args ...any) *sql.Row {
	return tx.on.QueryRowContext(ctx, text, args...)
}

// each calls scan for every row of a query.
func (tx *Tx) each(ctx context.Context, scan func(*sql.Rows) error, text string, args ...any) error {
	rows, err := tx.on.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// prepared is SQLite's writer as a runner. Its statements stay prepared for
// the life of the ledger; their number is bounded by the program's texts times
// the sizes of a VALUES list. Guarded by DB.turn.
type prepared DB

func (p *prepared) stmt(ctx context.Context, text string) (*sql.Stmt, error) {
	if s := p.stmts[text]; s != nil {
		return s, nil
	}
	s, err := p.writer.PrepareContext(ctx, anonymous(text))
	if err == nil {
		p.stmts[text] = s
	}
	return s, err
}

// ExecContext is sql.Tx's.
func (p *prepared) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	s, err := p.stmt(ctx, text)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, args...)
}

// QueryContext is sql.Tx's.
func (p *prepared) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	s, err := p.stmt(ctx, text)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}

// QueryRowContext is sql.Tx's.
func (p *prepared) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	s, err := p.stmt(ctx, text)
	if err != nil {
		return p.writer.QueryRowContext(ctx, text, args...) // fails in the same way, and keeps the error
	}
	return s.QueryRowContext(ctx, args...)
}

// scanner is a row of sql.Row or sql.Rows.
type scanner interface{ Scan(dest ...any) error }

var placeholder = regexp.MustCompile(`\$\d+`)

// anonymous rewrites $1, $2, … to ? where they stand in this order and once
// each. The driver looks named parameters up one by one, in a time that grows
// with the square of their number; anonymous ones it only counts.
func anonymous(text string) string {
	n := 0
	inOrder := true
	short := placeholder.ReplaceAllStringFunc(text, func(p string) string {
		n++
		inOrder = inOrder && p == "$"+strconv.Itoa(n)
		return "?"
	})
	if inOrder {
		return short
	}
	return text
}

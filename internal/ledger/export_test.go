package ledger

import (
	"context"
	"database/sql"
	"errors"
)

// TxAttempts is how often a transaction is run again.
const TxAttempts = txAttempts

// ErrAmbiguous is a COMMIT without an answer.
var ErrAmbiguous = errAmbiguous

// Engine is the database's.
func (tx *Tx) Engine() string { return tx.db.engine }

// Exec runs one statement of a test in a transaction.
func (tx *Tx) Exec(ctx context.Context, text string, args ...any) error {
	_, err := tx.exec(ctx, "/* a test's */ "+text, args...)
	return err
}

// Count reads one number.
func (tx *Tx) Count(ctx context.Context, text string, args ...any) (n int64, err error) {
	err = tx.row(ctx, "/* a test's */ "+text, args...).Scan(&n)
	return n, err
}

// Accounts sums the postings of every account.
func (tx *Tx) Accounts(ctx context.Context) (map[string]int64, error) {
	sums := map[string]int64{}
	err := tx.each(ctx, func(r *sql.Rows) error {
		var account string
		var sum int64
		err := r.Scan(&account, &sum)
		sums[account] = sum
		return err
	}, "SELECT account, CAST(SUM(amount) AS BIGINT) FROM posting GROUP BY account")
	return sums, err
}

// SettleAndCrash does all of Settle but the COMMIT.
func (db *DB) SettleAndCrash(ctx context.Context, b Batch) error {
	return db.Tx(ctx, func(tx *Tx) error {
		if _, err := tx.settle(ctx, &b); err != nil {
			return err
		}
		return ErrCrash
	})
}

// ErrCrash is the process ending before COMMIT.
var ErrCrash = errors.New("crash")

// MigrationStatements are a migration's statements for an engine.
func MigrationStatements(text, engine string) []string { return statements(text, engine) }

package ledger

import (
	"context"
	"errors"
)

// ErrAmbiguous is a COMMIT without an answer.
var ErrAmbiguous = errAmbiguous

// Engine is the database's.
func (tx *Tx) Engine() string { return tx.db.engine }

// Exec runs one statement of a test in a transaction.
func (tx *Tx) Exec(ctx context.Context, text string, args ...any) error {
	_, err := tx.exec(ctx, text, args...)
	return err
}

// Count reads one number.
func (tx *Tx) Count(ctx context.Context, text string, args ...any) (n int64, err error) {
	err = tx.row(ctx, text, args...).Scan(&n)
	return n, err
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

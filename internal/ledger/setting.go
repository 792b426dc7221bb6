package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"
)

// Setting returns the value stored under name; the first caller's initial
// value becomes it for ever.
func (db *DB) Setting(ctx context.Context, name, initial string) (value string, err error) {
	const text = "SELECT value FROM setting WHERE name = $1"
	if db.view().row(ctx, text, name).Scan(&value) == nil {
		return value, nil
	}
	err = db.again(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, "INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", name, initial)
		if err != nil {
			return err
		}
		return tx.row(ctx, text, name).Scan(&value)
	})
	if err != nil {
		return "", fmt.Errorf("cannot read setting %s: %w", name, err)
	}
	return value, nil
}

// The counters of table epoch.
const (
	epochChange  = "change"  // keys, customers, cards
	epochRecall  = "recall"  // wallets whose slices are wanted back
	epochSession = "session" // starts of sessions, which its lock puts in a row
)

// raise increments a counter. Its row stays locked until COMMIT, so values
// become visible in their order.
func (tx *Tx) raise(ctx context.Context, name string) (value int64, err error) {
	err = tx.row(ctx, "UPDATE epoch SET value = value + 1 WHERE name = $1 RETURNING value", name).Scan(&value)
	if err != nil {
		return 0, fmt.Errorf("cannot raise epoch %s: %w", name, err)
	}
	return value, nil
}

// newID is 128 random bits.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// micros is t in Unix microseconds; the zero time is 0, "never".
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// moment is the inverse of micros.
func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func microsOf(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return micros(*t)
}

func momentOf(us int64) *time.Time {
	if us == 0 {
		return nil
	}
	t := moment(us)
	return &t
}

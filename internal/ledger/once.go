package ledger

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
)

// OnceKey identifies a request that must take effect once: the caller's key
// on one route, and the hash of its body. An empty Key identifies nothing.
type OnceKey struct {
	Key, Route string
	BodyHash   [32]byte
}

// Answer is what a request was answered with.
type Answer struct {
	Status int
	Body   []byte
}

// answerFailed is the first status that is a failure: nothing of it is kept.
const answerFailed = 400

// errRollBack ends a transaction whose answer is a failure.
var errRollBack = errors.New("rolled back")

// Once runs fn in a transaction together with the record of its answer, and
// answers the same request again from that record (replayed). The same key
// with another body is ErrConflict. An error or an answer of 400 and above is
// not stored, and what fn wrote is rolled back. Of two requests at the same
// time the second waits for the first.
//
// When COMMIT gets no answer, the key tells whether it was done. Without a key
// the error says that the outcome is unknown.
func (db *DB) Once(ctx context.Context, key OnceKey, fn func(*Tx) (Answer, error)) (a Answer, replayed bool, err error) {
	run := db.Tx
	if key.Key != "" {
		run = db.again
	}
	err = run(ctx, func(tx *Tx) (err error) {
		a, replayed = Answer{}, false
		if key.Key != "" {
			if a, replayed, err = tx.claim(ctx, key); err != nil || replayed {
				return err
			}
		}
		if a, err = fn(tx); err != nil {
			return err
		}
		if a.Status >= answerFailed {
			return errRollBack
		}
		if key.Key == "" {
			return nil
		}
		_, err = tx.exec(ctx, "UPDATE idempotency SET status = $1, body = $2 WHERE idem_key = $3 AND route = $4",
			a.Status, a.Body, key.Key, key.Route)
		return err
	})
	if errors.Is(err, errRollBack) {
		err = nil
	}
	if err != nil {
		return Answer{}, false, err
	}
	return a, replayed, nil
}

// claim inserts the key's row, or finds the answer that is there.
func (tx *Tx) claim(ctx context.Context, key OnceKey) (a Answer, replayed bool, err error) {
	now, err := tx.now(ctx)
	if err != nil {
		return Answer{}, false, err
	}
	want := hex.EncodeToString(key.BodyHash[:])
	fresh, err := tx.exec(ctx, `INSERT INTO idempotency (idem_key, route, body_hash, status, body, created_at)
		VALUES ($1, $2, $3, 0, $4, $5) ON CONFLICT (idem_key, route) DO NOTHING`, key.Key, key.Route, want, []byte{}, now)
	if err != nil {
		return Answer{}, false, fmt.Errorf("cannot claim idempotency key %q: %w", key.Key, err)
	}
	if fresh > 0 {
		return Answer{}, false, nil
	}
	var have string
	err = tx.row(ctx, "SELECT body_hash, status, body FROM idempotency WHERE idem_key = $1 AND route = $2", key.Key, key.Route).
		Scan(&have, &a.Status, &a.Body)
	if err != nil {
		return Answer{}, false, fmt.Errorf("cannot read idempotency key %q: %w", key.Key, err)
	}
	if have != want {
		return Answer{}, false, fmt.Errorf("idempotency key %q: %w", key.Key, ErrConflict)
	}
	return a, true, nil
}

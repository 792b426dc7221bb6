package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// Key is an API key without its secret. Customer "" is an operator key, which
// may name any wallet. Hash is the keyed hash of the secret; Models, if any,
// are the only ones it may use.
type Key struct {
	ID, Customer, Name, Prefix string
	Hash                       []byte
	Models                     []string
	ExpiresAt, RevokedAt       *time.Time
	CreatedAt                  time.Time
	Limits                     Limits
}

// CreateKey adds a key. ErrNotFound if its customer is not there, ErrExists if
// the id is taken.
func (tx *Tx) CreateKey(ctx context.Context, k Key) error {
	if k.Customer != "" {
		if _, err := tx.customer(ctx, k.Customer); err != nil {
			return err
		}
	}
	models, err := json.Marshal(k.Models)
	if err != nil {
		return err
	}
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	created := micros(k.CreatedAt)
	if created == 0 {
		created = now
	}
	epoch, err := tx.raise(ctx, epochChange)
	if err != nil {
		return err
	}
	fresh, err := tx.exec(ctx, "INSERT INTO api_key (id, customer, name, prefix, hash, models, expires_at, created_at, epoch, "+limitNames+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (id) DO NOTHING`,
		append([]any{k.ID, k.Customer, k.Name, k.Prefix, k.Hash, string(models), microsOf(k.ExpiresAt), created, epoch}, k.Limits.values()...)...)
	if err != nil {
		return fmt.Errorf("cannot create key %s: %w", k.ID, err)
	}
	if fresh == 0 {
		return fmt.Errorf("key %s: %w", k.ID, ErrExists)
	}
	return nil
}

// RevokeKey ends a key for good; revoking again changes nothing. ErrNotFound.
// Gateways learn of it with their next beat.
func (tx *Tx) RevokeKey(ctx context.Context, id string) error {
	k, err := scanKey(tx.row(ctx, keyColumns+"WHERE id = $1", id))
	if err = missing(err, "key", id); err != nil || k.RevokedAt != nil {
		return err
	}
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	epoch, err := tx.raise(ctx, epochChange)
	if err == nil {
		_, err = tx.exec(ctx, "UPDATE api_key SET revoked_at = $1, epoch = $2 WHERE id = $3", now, epoch, id)
	}
	if err != nil {
		return fmt.Errorf("cannot revoke key %s: %w", id, err)
	}
	return nil
}

const keyColumns = "SELECT id, customer, name, prefix, hash, models, expires_at, revoked_at, created_at, " + limitNames + " FROM api_key "

func scanKey(row scanner) (k Key, err error) {
	var models string
	var expires, revoked, created int64
	err = row.Scan(append([]any{&k.ID, &k.Customer, &k.Name, &k.Prefix, &k.Hash, &models, &expires, &revoked, &created}, k.Limits.scan()...)...)
	if err != nil {
		return Key{}, err
	}
	k.ExpiresAt, k.RevokedAt, k.CreatedAt = momentOf(expires), momentOf(revoked), moment(created)
	return k, json.Unmarshal([]byte(models), &k.Models)
}

// Key finds a key by its id, revoked and expired ones too; ErrNotFound.
func (db *DB) Key(ctx context.Context, id string) (Key, error) {
	k, err := scanKey(db.view().row(ctx, keyColumns+"WHERE id = $1", id))
	return k, missing(err, "key", id)
}

// Keys lists the keys of a customer, or the operator keys of "".
func (db *DB) Keys(ctx context.Context, customer string, p Page) (list []Key, next string, err error) {
	from, err := p.after()
	if err != nil {
		return nil, "", err
	}
	err = db.view().each(ctx, func(r *sql.Rows) error {
		k, err := scanKey(r)
		list = append(list, k)
		return err
	}, keyColumns+"WHERE customer = $1 AND (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $4",
		customer, from.at, from.id, p.limit()+1)
	if err != nil {
		return nil, "", fmt.Errorf("cannot list the keys of %q: %w", customer, err)
	}
	list, next = cut(list, p.limit(), func(k Key) place { return place{at: micros(k.CreatedAt), id: k.ID} })
	return list, next, nil
}

package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Card is a published rate card: the canonical JSON of its models and rules,
// immutable under ID, with one publication of it. Hashes are hex SHA-256.
type Card struct {
	ID, Label             string
	ModelsHash, RulesHash string
	Models, Rules         []byte
	// EffectiveFrom is when this publication comes into force; zero is at once.
	// Of those that have come, the greatest is in force, then the latest
	// published.
	EffectiveFrom, PublishedAt time.Time
	// Again publishes a card that was published before once more, so that an
	// older card can return. Without it PublishCard leaves such a card alone.
	Again bool
}

// PublishCard stores a card and publishes it, unless it was published before
// and c.Again is false. A zero PublishedAt is now.
func (tx *Tx) PublishCard(ctx context.Context, c Card) (published bool, err error) {
	now, err := tx.now(ctx)
	if err != nil {
		return false, err
	}
	at := micros(c.PublishedAt)
	if at == 0 {
		at = now
	}
	from := micros(c.EffectiveFrom)
	if from == 0 {
		from = at
	}
	epoch, err := tx.raise(ctx, epochChange)
	if err != nil {
		return false, err
	}
	fresh, err := tx.exec(ctx, `INSERT INTO card (id, label, models_hash, rules_hash, models, rules)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING`, c.ID, c.Label, c.ModelsHash, c.RulesHash, c.Models, c.Rules)
	if err == nil && (fresh > 0 || c.Again) {
		published = true
		_, err = tx.exec(ctx, "INSERT INTO publication (id, card, effective_from, published_at, epoch) VALUES ($1, $2, $3, $4, $5)",
			newID(), c.ID, from, at, epoch)
	}
	if err != nil {
		return false, fmt.Errorf("cannot publish card %.12s: %w", c.ID, err)
	}
	return published, nil
}

const cardColumns = `SELECT c.id, c.label, c.models_hash, c.rules_hash, c.models, c.rules, p.effective_from, p.published_at
	FROM card c JOIN publication p ON p.card = c.id `

func scanCard(row scanner) (c Card, err error) {
	var from, at int64
	err = row.Scan(&c.ID, &c.Label, &c.ModelsHash, &c.RulesHash, &c.Models, &c.Rules, &from, &at)
	c.EffectiveFrom, c.PublishedAt = moment(from), moment(at)
	return c, err
}

// Cards lists the publications after an epoch, oldest first, and the epoch
// they reach. Epoch 0 lists all.
func (db *DB) Cards(ctx context.Context, sinceEpoch int64) (list []Card, epoch int64, err error) {
	// The epoch is read first: what is published in between comes twice, never not at all.
	err = db.view().row(ctx, "SELECT value FROM epoch WHERE name = $1", epochChange).Scan(&epoch)
	if err == nil {
		err = db.view().each(ctx, func(r *sql.Rows) error {
			c, err := scanCard(r)
			list = append(list, c)
			return err
		}, cardColumns+"WHERE p.epoch > $1 ORDER BY p.epoch", sinceEpoch)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot list cards: %w", err)
	}
	return list, epoch, nil
}

// CardByHash finds the card with these hashes of models and rules, with its
// latest publication; ErrNotFound.
func (db *DB) CardByHash(ctx context.Context, modelsHash, rulesHash string) (Card, error) {
	c, err := scanCard(db.view().row(ctx, cardColumns+
		"WHERE c.models_hash = $1 AND c.rules_hash = $2 ORDER BY p.epoch DESC LIMIT 1", modelsHash, rulesHash))
	return c, missing(err, "card", modelsHash+"/"+rulesHash)
}

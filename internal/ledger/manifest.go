package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"weir/schemas/money"
)

// Manifest is what one settled batch put into the books, and what the
// warehouse must hold for it: the number of events, Σ cost, Σ price, and the
// sum mod 2^64 of the xxHash64 of every event's tie text. Leaks are the events
// of kind leakage among them with Σ of their reservations.
type Manifest struct {
	ID, Topic       string
	Part            int32
	From, To, Count int64
	Cost, Price     money.Nano
	Hash            uint64
	Seqs            []SeqRange // its events by identity, ascending
	LeakCount       int64
	LeakReserved    money.Nano
	Appended        bool
}

// SeqRange is a run of a lease's events, both ends included.
type SeqRange struct {
	Lease string `json:"lease"`
	From  uint64 `json:"from"`
	To    uint64 `json:"to"`
}

// HashText is a manifest's hash as the books and the warehouse write it: 16
// hex digits.
func HashText(h uint64) string { return fmt.Sprintf("%016x", h) }

var insertManifest = insertInto("manifest", "", "id", "topic", "part", "off_from", "off_to", "events", "cost", "price", "currency",
	"hash", "seqs", "leak_count", "leak_reserved", "appended", "created_at")

func (tx *Tx) addManifest(ctx context.Context, m *Manifest) error {
	seqs, err := json.Marshal(m.Seqs)
	if err != nil {
		return err
	}
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	_, err = tx.bulk(ctx, insertManifest, []any{m.ID, m.Topic, m.Part, m.From, m.To, m.Count, int64(m.Cost), int64(m.Price),
		tx.db.currency, HashText(m.Hash), string(seqs), m.LeakCount, int64(m.LeakReserved), m.Appended, now})
	if err != nil {
		return fmt.Errorf("cannot add manifest %s: %w", m.ID, err)
	}
	return nil
}

// Unappended lists the batches that the warehouse may not have yet, oldest
// first within their partition.
func (db *DB) Unappended(ctx context.Context) (list []Manifest, err error) {
	err = db.view().each(ctx, func(r *sql.Rows) error {
		var m Manifest
		var hash, seqs string
		err := r.Scan(&m.ID, &m.Topic, &m.Part, &m.From, &m.To, &m.Count, &m.Cost, &m.Price, &hash, &seqs, &m.LeakCount, &m.LeakReserved)
		if err != nil {
			return err
		}
		if m.Hash, err = strconv.ParseUint(hash, 16, 64); err != nil {
			return err
		}
		list = append(list, m)
		return json.Unmarshal([]byte(seqs), &list[len(list)-1].Seqs)
	}, `SELECT id, topic, part, off_from, off_to, events, cost, price, hash, seqs, leak_count, leak_reserved
		FROM manifest WHERE NOT appended ORDER BY topic, part, off_from`)
	if err != nil {
		return nil, fmt.Errorf("cannot list batches to append: %w", err)
	}
	return list, nil
}

// MarkAppended notes that the warehouse has these batches.
func (db *DB) MarkAppended(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	err := db.again(ctx, func(tx *Tx) error {
		for _, id := range ids {
			hit, err := tx.exec(ctx, "UPDATE manifest SET appended = TRUE WHERE id = $1", id)
			if err == nil && hit == 0 {
				err = fmt.Errorf("batch %q: %w", id, ErrNotFound)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot mark batches as appended: %w", err)
	}
	return nil
}

// ManifestSum is a batch as the tie-out compares it with the warehouse's rows.
type ManifestSum struct {
	ID          string
	Count       int64
	Cost, Price money.Nano
	Hash        uint64
	Appended    bool
	SettledAt   time.Time
}

// ManifestSums lists all batches that have events.
func (db *DB) ManifestSums(ctx context.Context) (list []ManifestSum, err error) {
	err = db.view().each(ctx, func(r *sql.Rows) error {
		var m ManifestSum
		var hash string
		var at int64
		if err := r.Scan(&m.ID, &m.Count, &m.Cost, &m.Price, &hash, &m.Appended, &at); err != nil {
			return err
		}
		m.SettledAt = moment(at)
		var err error
		m.Hash, err = strconv.ParseUint(hash, 16, 64)
		list = append(list, m)
		return err
	}, "SELECT id, events, cost, price, hash, appended, created_at FROM manifest WHERE events > 0 ORDER BY id")
	if err != nil {
		return nil, fmt.Errorf("cannot list manifests: %w", err)
	}
	return list, nil
}

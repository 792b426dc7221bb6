package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"
)

// heardWithin is how fresh the last beat of a gateway must be for it to count
// among the live ones: seven beats of two seconds.
const heardWithin = 15 * time.Second

// Session is one life of a gateway's process. Exclusive: its usage log or
// warehouse is its own, so no other gateway may use the ledger beside it.
type Session struct {
	ID, Gateway string
	Exclusive   bool
	TTL         time.Duration // how long leases admit after the last beat
}

// StartSession begins a session, which ends older ones of the same gateway id,
// and returns the gateway's leases that are open or closing. ErrAlone if
// another gateway's session lives and one of the two is exclusive.
//
// Starting the same session again changes nothing: it gives the leases, or
// ErrSuperseded or ErrSessionEnded if it lives no more.
func (db *DB) StartSession(ctx context.Context, s Session) (leases []Lease, err error) {
	err = db.again(ctx, func(tx *Tx) error {
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.raise(ctx, epochSession); err != nil { // starts wait for each other here
			return err
		}
		_, err = tx.liveSession(ctx, s.ID, "")
		if errors.Is(err, ErrNotFound) {
			err = tx.beginSession(ctx, s, now)
		}
		if err != nil {
			return err
		}
		leases, err = tx.leases(ctx, "WHERE gateway = $1 AND state IN ('open', 'closing') ORDER BY created_at, id", s.Gateway)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot start a session of gateway %s: %w", s.Gateway, err)
	}
	return leases, nil
}

// beginSession ends the gateway's other sessions and adds this one.
func (tx *Tx) beginSession(ctx context.Context, s Session, now int64) error {
	var others int64
	err := tx.row(ctx, `SELECT COUNT(*) FROM session
		WHERE ended_at = 0 AND heard_at > $1 AND gateway <> $2 AND (exclusive OR $3 = 1)`,
		now-heardWithin.Microseconds(), s.Gateway, flag(s.Exclusive)).Scan(&others)
	if err != nil {
		return err
	}
	if others > 0 {
		return ErrAlone
	}
	_, err = tx.exec(ctx, "UPDATE session SET ended_at = $1, superseded = TRUE WHERE gateway = $2 AND ended_at = 0", now, s.Gateway)
	if err != nil {
		return err
	}
	_, err = tx.exec(ctx, "INSERT INTO session (id, gateway, exclusive, ttl, started_at, heard_at) VALUES ($1, $2, $3, $4, $5, $5)",
		s.ID, s.Gateway, s.Exclusive, s.TTL.Microseconds(), now)
	return err
}

// flag is a condition as a number, which every engine compares alike.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// EndSession ends a session whose process stops; ending it again, or one that
// was superseded, changes nothing.
func (db *DB) EndSession(ctx context.Context, id string) error {
	err := db.again(ctx, func(tx *Tx) error {
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		_, err = tx.exec(ctx, "UPDATE session SET ended_at = $1 WHERE id = $2 AND ended_at = 0", now, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot end session %s: %w", id, err)
	}
	return nil
}

// Beat is what a gateway reports every two seconds: records the usage log has
// not acknowledged, what is not settled and appended, requests under way; the
// epochs it knows; and the topic it produces to.
type Beat struct {
	Session                 string
	SinceEpoch, SinceRecall int64
	Unacked                 int64
	UnsettledBytes          int64
	OldestUnsettled         time.Time
	InFlight                int64
	Topic                   string
}

// BeatAnswer is what a gateway must know: how many gateways live, what changed
// since the epochs it named, the wallets whose unused slices are wanted back,
// and how far its topic is settled and appended. With SinceEpoch 0 nothing is
// listed, since a gateway that knows nothing has nothing to correct: it must
// beat once before it reads its first key or customer.
type BeatAnswer struct {
	Epoch, Recall int64
	Gateways      int
	Rank          int // how many of the live gateways come before this one, by id
	Keys          []Key
	Customers     []Customer
	CardsChanged  bool
	RecallWallets []string
	Progress      []Progress
	NoNewLeases   string // why no gateway may ask for new leases; "" is no reason
}

// Progress of one partition: offsets below Settled are settled, those below
// Appended also in the warehouse. Appended is 0 while another topic has
// batches that are not: their spool segments are still needed.
type Progress struct {
	Topic             string
	Part              int32
	Settled, Appended int64
}

// Beat renews the session and all its leases at once. ErrSuperseded when a
// newer session of the gateway exists, ErrSessionEnded after EndSession.
func (db *DB) Beat(ctx context.Context, b Beat) (BeatAnswer, error) {
	err := db.again(ctx, func(tx *Tx) error {
		now, err := tx.now(ctx)
		if err != nil {
			return err
		}
		hit, err := tx.exec(ctx, `UPDATE session SET heard_at = $1, unacked = $2, unsettled_bytes = $3, oldest_unsettled = $4, in_flight = $5
			WHERE id = $6 AND ended_at = 0`, now, b.Unacked, b.UnsettledBytes, micros(b.OldestUnsettled), b.InFlight, b.Session)
		if err == nil && hit == 0 {
			_, err = tx.liveSession(ctx, b.Session, "")
		}
		return err
	})
	var a BeatAnswer
	if err == nil {
		err = db.view().news(ctx, b, &a)
	}
	if err == nil && b.Topic != "" {
		a.Progress, err = db.view().progress(ctx, b.Topic)
	}
	if err != nil {
		return BeatAnswer{}, fmt.Errorf("cannot beat: %w", err)
	}
	return a, nil
}

// sessionRow is what a grant needs to know of a session.
type sessionRow struct {
	gateway   string
	expiresAt int64 // unless another beat comes
}

// liveSession reads a session; one that has ended is an error. lock, if not
// empty, makes the SELECT lock the row.
func (tx *Tx) liveSession(ctx context.Context, id, lock string) (s sessionRow, err error) {
	var endedAt int64
	var superseded bool
	err = tx.row(ctx, "SELECT gateway, heard_at + ttl, ended_at, superseded FROM session WHERE id = $1"+lock, id).
		Scan(&s.gateway, &s.expiresAt, &endedAt, &superseded)
	if err = missing(err, "session", id); err != nil {
		return sessionRow{}, err
	}
	switch {
	case superseded:
		err = ErrSuperseded
	case endedAt != 0:
		err = ErrSessionEnded
	}
	return s, err
}

// news fills in what changed. Each epoch is read before its list: a change in
// between is told twice, never not at all.
func (tx *Tx) news(ctx context.Context, b Beat, a *BeatAnswer) error {
	now, err := tx.now(ctx)
	if err != nil {
		return err
	}
	err = tx.row(ctx, `SELECT (SELECT value FROM epoch WHERE name = 'change'), (SELECT value FROM epoch WHERE name = 'recall'),
		(SELECT COUNT(*) FROM session WHERE ended_at = 0 AND heard_at > $1),
		(SELECT COUNT(*) FROM session WHERE ended_at = 0 AND heard_at > $1 AND gateway < (SELECT gateway FROM session WHERE id = $2)),
		COALESCE((SELECT value FROM setting WHERE name = 'no_new_leases'), '')`, now-heardWithin.Microseconds(), b.Session).
		Scan(&a.Epoch, &a.Recall, &a.Gateways, &a.Rank, &a.NoNewLeases)
	if err != nil {
		return err
	}
	if b.SinceEpoch > 0 && b.SinceEpoch < a.Epoch {
		if err := tx.changes(ctx, b.SinceEpoch, a); err != nil {
			return err
		}
	}
	if b.SinceRecall == 0 || b.SinceRecall >= a.Recall {
		return nil
	}
	return tx.each(ctx, func(r *sql.Rows) error {
		var id string
		err := r.Scan(&id)
		a.RecallWallets = append(a.RecallWallets, id)
		return err
	}, "SELECT customer FROM wallet WHERE recall_epoch > $1 AND recall_epoch > 0 ORDER BY customer", b.SinceRecall)
}

func (tx *Tx) changes(ctx context.Context, since int64, a *BeatAnswer) error {
	err := tx.each(ctx, func(r *sql.Rows) error {
		k, err := scanKey(r)
		a.Keys = append(a.Keys, k)
		return err
	}, keyColumns+"WHERE epoch > $1 ORDER BY id", since)
	if err != nil {
		return err
	}
	err = tx.each(ctx, func(r *sql.Rows) error {
		c, err := scanCustomer(r)
		a.Customers = append(a.Customers, c)
		return err
	}, customerColumns+" WHERE c.epoch > $1 ORDER BY c.id", since)
	if err != nil {
		return err
	}
	var cards int64
	err = tx.row(ctx, "SELECT COUNT(*) FROM publication WHERE epoch > $1", since).Scan(&cards)
	a.CardsChanged = cards > 0
	return err
}

// progress reads how far a topic is settled, and below that appended. The
// cursors are read first: a batch settled in between begins at or above them.
func (tx *Tx) progress(ctx context.Context, topic string) (list []Progress, err error) {
	cursors, err := tx.cursors(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range cursors {
		if c.Topic == topic {
			c.Appended = c.Settled
			list = append(list, c)
		}
	}
	var warehouse string
	err = tx.row(ctx, "SELECT COALESCE((SELECT value FROM setting WHERE name = 'warehouse'), '')").Scan(&warehouse)
	if err != nil || warehouse == noWarehouse {
		return list, err // nothing waits to be appended
	}
	err = tx.each(ctx, func(r *sql.Rows) error {
		var of string
		var part int32
		var first int64
		err := r.Scan(&of, &part, &first)
		for i := range list {
			if of != topic {
				list[i].Appended = 0
			} else if list[i].Part == part {
				list[i].Appended = min(list[i].Appended, first)
			}
		}
		return err
	}, "SELECT topic, part, MIN(off_from) FROM manifest WHERE NOT appended GROUP BY topic, part")
	return list, err
}

// RereadTopic names the cursor under which the records below at of a partition
// are settled again, because the log no longer was what had been settled.
func RereadTopic(topic string, at int64) string { return fmt.Sprintf("%s~%d", topic, at) }

// cursors lists how far every partition is settled. While one is settled again
// from its beginning it counts as not settled at all: nothing may forget what
// it still needs.
func (tx *Tx) cursors(ctx context.Context) (list []Progress, err error) {
	err = tx.each(ctx, func(r *sql.Rows) error {
		var c Progress
		err := r.Scan(&c.Topic, &c.Part, &c.Settled)
		list = append(list, c)
		return err
	}, "SELECT topic, part, next_offset FROM settle_cursor ORDER BY topic, part")
	for i := range list {
		c := &list[i]
		again := RereadTopic(c.Topic, c.Settled)
		if slices.ContainsFunc(list, func(r Progress) bool { return r.Topic == again && r.Part == c.Part && r.Settled < c.Settled }) {
			c.Settled = 0
		}
	}
	return list, err
}

// Progress tells how far each partition of a topic is settled and appended.
func (db *DB) Progress(ctx context.Context, topic string) ([]Progress, error) {
	list, err := db.view().progress(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("cannot read how far topic %s is settled: %w", topic, err)
	}
	return list, nil
}

// SetNoNewLeases tells all gateways, with their next beat, to ask for no new
// leases, and why; "" lets them again.
func (db *DB) SetNoNewLeases(ctx context.Context, why string) error {
	return db.set(ctx, "no_new_leases", why)
}

// noWarehouse is the setting of an installation that runs without a warehouse.
const noWarehouse = "none"

// SetWarehouse notes whether the installation has a warehouse. Without one
// nothing waits to be appended, and spools may forget what is settled; events
// settled meanwhile are not in a warehouse that comes later.
func (db *DB) SetWarehouse(ctx context.Context, exists bool) error {
	if exists {
		return db.set(ctx, "warehouse", "")
	}
	return db.set(ctx, "warehouse", noWarehouse)
}

// set replaces a setting.
func (db *DB) set(ctx context.Context, name, value string) error {
	err := db.Tx(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, `INSERT INTO setting (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot set %s: %w", name, err)
	}
	return nil
}

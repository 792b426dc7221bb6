package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"

	"weir/schemas/money"
)

// Sums of events: their number, Σ cost, Σ price.
type Sums struct {
	Count       int64
	Cost, Price money.Nano
}

// Pending is what is on its way into the books, as far as the ledger knows.
type Pending struct {
	Unacked    int64 // records in spools that no log has acknowledged; 1 for a silent gateway that has leases
	InFlight   int64 // requests under way
	Unappended int64 // settled batches the warehouse may lack
	// Heard is the oldest last beat among live gateways: what they said is
	// older than AsOf by that much. Zero when none lives.
	Heard, AsOf time.Time
	Cursors     []Progress // of every partition; Appended is not set
}

// Books is the ledger's half of the tie-out, from one consistent view. Events
// sums the manifests, Ledger the postings; the warehouse is the third.
type Books struct {
	Events, Ledger   Sums
	OpenLeases       int64
	Held, Receivable money.Nano
	LeakCount        int64
	LeakReserved     money.Nano
	Pending          Pending
	Breaks           []Break
}

// Break is a place where two figures that must agree do not. Batch is the
// batch, or "wallet:ID" or "lease:ID" where it is none.
type Break struct{ Batch, Check, Expected, Found string }

// Pending tells what has not arrived yet; it is cheap enough to poll.
func (db *DB) Pending(ctx context.Context) (p Pending, err error) {
	err = db.snapshot(ctx, func(tx *Tx) (err error) {
		p, err = tx.pending(ctx)
		return err
	})
	if err != nil {
		return Pending{}, fmt.Errorf("cannot read what is pending: %w", err)
	}
	return p, nil
}

func (tx *Tx) pending(ctx context.Context) (p Pending, err error) {
	now, err := tx.now(ctx)
	if err != nil {
		return Pending{}, err
	}
	p.AsOf = moment(now)
	since := now - heardWithin.Microseconds()
	var heard, silent int64
	err = tx.row(ctx, `SELECT CAST(COALESCE(SUM(unacked), 0) AS BIGINT), CAST(COALESCE(SUM(in_flight), 0) AS BIGINT), COALESCE(MIN(heard_at), 0)
		FROM session WHERE ended_at = 0 AND heard_at > $1`, since).Scan(&p.Unacked, &p.InFlight, &heard)
	if err == nil {
		err = tx.row(ctx, `SELECT COUNT(DISTINCT gateway) FROM lease WHERE state IN ('open', 'closing')
			AND gateway NOT IN (SELECT gateway FROM session WHERE ended_at = 0 AND heard_at > $1)`, since).Scan(&silent)
	}
	if err == nil {
		err = tx.row(ctx, "SELECT COUNT(*) FROM manifest WHERE NOT appended").Scan(&p.Unappended)
	}
	if err != nil {
		return Pending{}, err
	}
	p.Heard = moment(heard)
	p.Unacked += silent
	err = tx.each(ctx, func(r *sql.Rows) error {
		var c Progress
		err := r.Scan(&c.Topic, &c.Part, &c.Settled)
		p.Cursors = append(p.Cursors, c)
		return err
	}, "SELECT topic, part, next_offset FROM settle_cursor ORDER BY topic, part")
	return p, err
}

// Books sums and audits the whole ledger. On a healthy one Breaks is empty.
func (db *DB) Books(ctx context.Context) (b Books, err error) {
	err = db.snapshot(ctx, func(tx *Tx) error {
		b = Books{}
		if err := tx.sums(ctx, &b); err != nil {
			return err
		}
		var err error
		if b.Pending, err = tx.pending(ctx); err != nil {
			return err
		}
		for _, a := range audits {
			found, err := tx.audit(ctx, a)
			if err != nil {
				return fmt.Errorf("check %s: %w", a.check, err)
			}
			b.Breaks = append(b.Breaks, found...)
		}
		return nil
	})
	if err != nil {
		return Books{}, fmt.Errorf("cannot audit the books: %w", err)
	}
	return b, nil
}

func (tx *Tx) sums(ctx context.Context, b *Books) error {
	err := tx.row(ctx, `SELECT CAST(COALESCE(SUM(events), 0) AS BIGINT), CAST(COALESCE(SUM(cost), 0) AS BIGINT),
		CAST(COALESCE(SUM(price), 0) AS BIGINT), CAST(COALESCE(SUM(leak_count), 0) AS BIGINT), CAST(COALESCE(SUM(leak_reserved), 0) AS BIGINT)
		FROM manifest`).Scan(&b.Events.Count, &b.Events.Cost, &b.Events.Price, &b.LeakCount, &b.LeakReserved)
	if err != nil {
		return err
	}
	err = tx.row(ctx, `SELECT CAST(COALESCE(SUM(CASE WHEN account = 'revenue:usage' THEN events ELSE 0 END), 0) AS BIGINT),
		CAST(COALESCE(SUM(CASE WHEN account LIKE 'provider_payable:%' THEN amount ELSE 0 END), 0) AS BIGINT),
		CAST(COALESCE(SUM(CASE WHEN account = 'revenue:usage' THEN amount ELSE 0 END), 0) AS BIGINT)
		FROM posting WHERE customer = ''`).Scan(&b.Ledger.Count, &b.Ledger.Cost, &b.Ledger.Price)
	if err != nil {
		return err
	}
	err = tx.row(ctx, "SELECT CAST(COALESCE(SUM(held), 0) AS BIGINT), CAST(COALESCE(SUM(receivable), 0) AS BIGINT) FROM wallet").
		Scan(&b.Held, &b.Receivable)
	if err != nil {
		return err
	}
	return tx.row(ctx, "SELECT COUNT(*) FROM lease WHERE state IN ('open', 'closing')").Scan(&b.OpenLeases)
}

// breaksMax bounds the breaks reported of one check: who reads a hundred knows
// what is wrong.
const breaksMax = 100

// audit is a query whose rows are breaks: subject, expected, found, the latter
// two in nano-dollars where amounts is set.
type audit struct {
	check   string
	amounts bool
	text    string
}

// notAccepted leaves out what an operator accepted: facts that cannot be
// undone. Sums that disagree cannot be accepted.
const notAccepted = " NOT IN (SELECT subject FROM accepted)"

var audits = []audit{
	{"postings_sum_to_zero", true, `SELECT txn, CAST(0 AS BIGINT), CAST(SUM(amount) AS BIGINT) FROM posting GROUP BY txn HAVING SUM(amount) <> 0 ORDER BY txn`},
	{"held_is_leases", true, `SELECT 'wallet:' || w.customer, COALESCE(l.rest, 0), w.held FROM wallet w
		LEFT JOIN (SELECT customer, CAST(SUM(granted - settled - returned) AS BIGINT) AS rest FROM lease
			WHERE state IN ('open', 'closing') GROUP BY customer) l ON l.customer = w.customer
		WHERE w.held <> COALESCE(l.rest, 0) ORDER BY w.customer`},
	{"wallet_is_postings", true, `SELECT 'wallet:' || w.customer, COALESCE(p.total, 0), w.credited - w.debited FROM wallet w
		LEFT JOIN (SELECT account, CAST(SUM(amount) AS BIGINT) AS total FROM posting WHERE customer <> '' GROUP BY account) p
			ON p.account = 'wallet:' || w.customer
		WHERE w.credited - w.debited <> COALESCE(p.total, 0) ORDER BY w.customer`},
	{"receivable_is_postings", true, `SELECT 'wallet:' || w.customer, -COALESCE(p.total, 0), w.receivable FROM wallet w
		LEFT JOIN (SELECT account, CAST(SUM(amount) AS BIGINT) AS total FROM posting WHERE customer <> '' GROUP BY account) p
			ON p.account = 'receivable:' || w.customer
		WHERE w.receivable <> -COALESCE(p.total, 0) ORDER BY w.customer`},
	{"lots_are_credits", true, `SELECT 'wallet:' || w.customer, w.credited, COALESCE(l.total, 0) FROM wallet w
		LEFT JOIN (SELECT customer, CAST(SUM(amount) AS BIGINT) AS total FROM lot GROUP BY customer) l ON l.customer = w.customer
		WHERE w.credited <> COALESCE(l.total, 0) ORDER BY w.customer`},
	{"lots_are_attributed", true, `SELECT 'wallet:' || w.customer, w.attributed, COALESCE(l.total, 0) FROM wallet w
		LEFT JOIN (SELECT customer, CAST(SUM(used + expired + refunded) AS BIGINT) AS total FROM lot GROUP BY customer) l ON l.customer = w.customer
		WHERE w.attributed <> COALESCE(l.total, 0) ORDER BY w.customer`},
	{"batch_price", true, batchAudit("m.price", "SUM(CASE WHEN account = 'revenue:usage' THEN amount ELSE 0 END)")},
	{"batch_cost", true, batchAudit("m.cost", "SUM(CASE WHEN account LIKE 'provider_payable:%' THEN amount ELSE 0 END)")},
	{"batch_events", false, batchAudit("m.events", "SUM(CASE WHEN account = 'revenue:usage' THEN events ELSE 0 END)")},
	{"batch_manifest", false, `SELECT t.id, 'a manifest', 'none' FROM txn t
		WHERE t.kind = 'usage' AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.id = t.id) ORDER BY t.id`},
	{"lease_events", false, leaseAudit("events")},
	{"lease_cost", true, leaseAudit("cost")},
	{"lease_price", true, leaseAudit("price")},
	{"offset_chain", false, `SELECT a.id, CAST(c.next_offset AS TEXT), CAST(a.off_to AS TEXT) FROM manifest a
		JOIN settle_cursor c ON c.topic = a.topic AND c.part = a.part
		WHERE a.off_to <> c.next_offset AND NOT EXISTS
			(SELECT 1 FROM manifest b WHERE b.topic = a.topic AND b.part = a.part AND b.off_from = a.off_to) ORDER BY a.id`},
	{"offset_chain", false, `SELECT c.topic || '/' || CAST(c.part AS TEXT) || '/0', CAST(c.next_offset AS TEXT), 'no first batch' FROM settle_cursor c
		WHERE c.next_offset > 0 AND NOT EXISTS
			(SELECT 1 FROM manifest b WHERE b.topic = c.topic AND b.part = c.part AND b.off_from = 0) ORDER BY c.topic, c.part`},
	{"lost_seq", false, `SELECT 'lease:' || g.lease, 'seqs ' || CAST(g.from_seq AS TEXT) || ' to ' || CAST(g.to_seq AS TEXT), 'missing'
		FROM lease_gap g JOIN lease l ON l.id = g.lease
		WHERE l.state IN ('closed', 'reclaimed') AND 'lease:' || g.lease` + notAccepted + ` ORDER BY g.lease, g.from_seq`},
	{"close_events", false, closeAudit("close_events", "events")},
	{"close_cost", true, closeAudit("close_cost", "cost")},
	{"close_price", true, closeAudit("close_price", "price")},
	{"dead_letter", false, `SELECT batch, 'a usage record at offset ' || CAST(off AS TEXT), reason FROM dead_letter
		WHERE batch` + notAccepted + ` ORDER BY topic, part, off`},
	{"rate_mismatch", false, `SELECT batch, event_id, detail FROM rate_mismatch WHERE batch` + notAccepted + ` ORDER BY batch, off`},
}

// batchAudit compares a column of the manifests with what their postings sum to.
func batchAudit(manifest, postings string) string {
	return `SELECT m.id, ` + manifest + `, COALESCE(p.total, 0) FROM manifest m
		LEFT JOIN (SELECT txn, CAST(` + postings + ` AS BIGINT) AS total FROM posting WHERE customer = '' AND kind = 'usage' GROUP BY txn) p
			ON p.txn = m.id
		WHERE ` + manifest + ` <> COALESCE(p.total, 0) ORDER BY m.id`
}

// leaseAudit compares a total of all leases with that of all manifests: two
// countings of the same events.
func leaseAudit(column string) string {
	return `SELECT 'all leases', m.total, l.total FROM (SELECT CAST(COALESCE(SUM(` + column + `), 0) AS BIGINT) AS total FROM manifest) m,
		(SELECT CAST(COALESCE(SUM(` + column + `), 0) AS BIGINT) AS total FROM lease) l WHERE m.total <> l.total`
}

// closeAudit compares what close records announced with what was settled. A
// lease with a dead letter, which is a break already, is left out.
func closeAudit(announced, settled string) string {
	return `SELECT 'lease:' || id, ` + announced + `, ` + settled + ` FROM lease WHERE close_differs AND ` + announced + ` <> ` + settled + `
		AND 'lease:' || id` + notAccepted + ` AND id NOT IN (SELECT lease FROM dead_letter) ORDER BY id`
}

func (tx *Tx) audit(ctx context.Context, a audit) (found []Break, err error) {
	err = tx.each(ctx, func(r *sql.Rows) error {
		b := Break{Check: a.check}
		if err := r.Scan(&b.Batch, &b.Expected, &b.Found); err != nil {
			return err
		}
		if a.amounts {
			for _, s := range []*string{&b.Expected, &b.Found} {
				n, err := strconv.ParseInt(*s, 10, 64)
				if err != nil {
					return err
				}
				*s = money.Nano(n).String()
			}
		}
		found = append(found, b)
		return nil
	}, a.text+" LIMIT "+strconv.Itoa(breaksMax))
	return found, err
}

// AcceptBatch accepts the dead letters and rating differences of a batch, or
// the lost seqs and close totals of "lease:ID", so that they no longer break
// the tie-out. Who accepts says why; the reason is kept. ErrNotFound when there
// is nothing to accept.
func (tx *Tx) AcceptBatch(ctx context.Context, batchID, reason string) error {
	lease, _ := strings.CutPrefix(batchID, "lease:")
	if lease == batchID {
		lease = ""
	}
	var doubts int64
	err := tx.row(ctx, `SELECT (SELECT COUNT(*) FROM dead_letter WHERE batch = $1) + (SELECT COUNT(*) FROM rate_mismatch WHERE batch = $1)
		+ (SELECT COUNT(*) FROM lease WHERE id = $2 AND close_differs)
		+ (SELECT COUNT(*) FROM lease_gap g JOIN lease l ON l.id = g.lease WHERE l.id = $2 AND l.state IN ('closed', 'reclaimed'))`,
		batchID, lease).Scan(&doubts)
	if err == nil && doubts == 0 {
		return fmt.Errorf("a break of %q that can be accepted: %w", batchID, ErrNotFound)
	}
	now, err2 := tx.now(ctx)
	if err == nil {
		err = err2
	}
	if err == nil {
		_, err = tx.exec(ctx, "INSERT INTO accepted (subject, reason, accepted_at) VALUES ($1, $2, $3) ON CONFLICT (subject) DO NOTHING",
			batchID, reason, now)
	}
	if err != nil {
		return fmt.Errorf("cannot accept %s: %w", batchID, err)
	}
	return nil
}

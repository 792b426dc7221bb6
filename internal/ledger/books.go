package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
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
	p.Cursors, err = tx.cursors(ctx)
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
		for _, a := range slices.Concat(audits, fundingAudits) {
			found, err := tx.audit(ctx, a)
			if err != nil {
				return fmt.Errorf("check %s: %w", a.checks[0].name, err)
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
	err := tx.row(ctx, `SELECT `+tableSums+`, CAST(COALESCE(SUM(leak_count), 0) AS BIGINT),
		CAST(COALESCE(SUM(leak_reserved), 0) AS BIGINT) FROM manifest`).Scan(&b.Events.Count, &b.Events.Cost, &b.Events.Price, &b.LeakCount, &b.LeakReserved)
	if err != nil {
		return err
	}
	err = tx.row(ctx, `SELECT `+batchSums+` FROM posting WHERE customer = ''`).Scan(&b.Ledger.Count, &b.Ledger.Cost, &b.Ledger.Price)
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

// audit is a query whose rows name a subject and then, for each check, what is
// expected and what was found. Pairs that are equal are no breaks.
type audit struct {
	checks []check
	text   string
}

// check names one comparison; amounts are nano-dollars, others stay as they are.
type check struct {
	name   string
	amount bool
}

// notAccepted leaves out what an operator accepted: facts that cannot be
// undone. Sums that disagree cannot be accepted.
const notAccepted = " NOT IN (SELECT subject FROM accepted)"

var audits = []audit{
	{[]check{{"postings_sum_to_zero", true}},
		`SELECT txn, CAST(0 AS BIGINT), CAST(SUM(amount) AS BIGINT) FROM posting GROUP BY txn HAVING SUM(amount) <> 0 ORDER BY txn`},
	{[]check{{"held_is_leases", true}}, `SELECT 'wallet:' || w.customer, COALESCE(l.rest, 0), w.held FROM wallet w
		LEFT JOIN (SELECT customer, CAST(SUM(granted - settled - returned) AS BIGINT) AS rest FROM lease
			WHERE state IN ('open', 'closing') GROUP BY customer) l ON l.customer = w.customer
		WHERE w.held <> COALESCE(l.rest, 0) ORDER BY w.customer`},
	{[]check{{"wallet_is_postings", true}, {"receivable_is_postings", true}},
		`SELECT 'wallet:' || w.customer, COALESCE(p.balance, 0), w.credited - w.debited, -COALESCE(p.owed, 0), w.receivable FROM wallet w
		LEFT JOIN (SELECT customer, CAST(SUM(CASE WHEN account = 'wallet:' || customer THEN amount ELSE 0 END) AS BIGINT) AS balance,
			CAST(SUM(CASE WHEN account = 'receivable:' || customer THEN amount ELSE 0 END) AS BIGINT) AS owed
			FROM posting WHERE customer <> '' GROUP BY customer) p ON p.customer = w.customer
		WHERE w.credited - w.debited <> COALESCE(p.balance, 0) OR w.receivable <> -COALESCE(p.owed, 0) ORDER BY w.customer`},
	{[]check{{"lots_are_credits", true}, {"lots_are_attributed", true}},
		`SELECT 'wallet:' || w.customer, w.credited - w.overdraft, COALESCE(l.total, 0), w.attributed, COALESCE(l.gone, 0) FROM wallet w
		LEFT JOIN (SELECT customer, CAST(SUM(amount) AS BIGINT) AS total, CAST(SUM(used + expired + refunded) AS BIGINT) AS gone
			FROM lot GROUP BY customer) l ON l.customer = w.customer
		WHERE w.credited - w.overdraft <> COALESCE(l.total, 0) OR w.attributed <> COALESCE(l.gone, 0) ORDER BY w.customer`},
	{[]check{{"batch_price", true}, {"batch_cost", true}, {"batch_events", false}},
		`SELECT m.id, m.price, COALESCE(p.price, 0), m.cost, COALESCE(p.cost, 0), m.events, COALESCE(p.events, 0) FROM manifest m
		LEFT JOIN (SELECT txn, ` + batchSums + ` FROM posting WHERE customer = '' GROUP BY txn) p ON p.txn = m.id
		WHERE m.price <> COALESCE(p.price, 0) OR m.cost <> COALESCE(p.cost, 0) OR m.events <> COALESCE(p.events, 0) ORDER BY m.id`},
	{[]check{{"batch_manifest", false}}, `SELECT t.id, 'a manifest', 'none' FROM txn t
		WHERE t.kind = 'usage' AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.id = t.id) ORDER BY t.id`},
	// Leases count their events for themselves.
	{[]check{{"lease_events", false}, {"lease_cost", true}, {"lease_price", true}},
		`SELECT 'all leases', m.events, l.events, m.cost, l.cost, m.price, l.price FROM (SELECT ` + tableSums + ` FROM manifest) m,
			(SELECT ` + tableSums + ` FROM lease) l
		WHERE m.events <> l.events OR m.cost <> l.cost OR m.price <> l.price ORDER BY m.events`},
	{[]check{{"offset_chain", false}}, `SELECT a.id, CAST(c.next_offset AS TEXT), CAST(a.off_to AS TEXT) FROM manifest a
		JOIN settle_cursor c ON c.topic = a.topic AND c.part = a.part
		WHERE a.off_to <> c.next_offset AND NOT EXISTS
			(SELECT 1 FROM manifest b WHERE b.topic = a.topic AND b.part = a.part AND b.off_from = a.off_to) ORDER BY a.id`},
	{[]check{{"offset_chain", false}},
		`SELECT c.topic || '/' || CAST(c.part AS TEXT) || '/0', CAST(c.next_offset AS TEXT), 'no first batch' FROM settle_cursor c
		WHERE c.next_offset > 0 AND NOT EXISTS
			(SELECT 1 FROM manifest b WHERE b.topic = c.topic AND b.part = c.part AND b.off_from = 0) ORDER BY c.topic, c.part`},
	{[]check{{"lost_seq", false}}, `SELECT 'lease:' || g.lease, 'seqs ' || CAST(g.from_seq AS TEXT) || ' to ' || CAST(g.to_seq AS TEXT), 'missing'
		FROM lease_gap g JOIN lease l ON l.id = g.lease
		WHERE l.state IN ('closed', 'reclaimed') AND 'lease:' || g.lease` + notAccepted + ` ORDER BY g.lease, g.from_seq`},
	// A lease with a dead letter, which is a break already, is left out.
	{[]check{{"close_events", false}, {"close_cost", true}, {"close_price", true}},
		`SELECT 'lease:' || id, close_events, events, close_cost, cost, close_price, price FROM lease
		WHERE close_differs AND 'lease:' || id` + notAccepted + ` AND id NOT IN (SELECT lease FROM dead_letter) ORDER BY id`},
	{[]check{{"dead_letter", false}}, `SELECT batch, 'a usage record at offset ' || CAST(off AS TEXT), reason FROM dead_letter
		WHERE batch` + notAccepted + ` ORDER BY topic, part, off`},
	{[]check{{"rate_mismatch", false}}, `SELECT batch, event_id, detail FROM rate_mismatch WHERE batch` + notAccepted + ` ORDER BY batch, off`},
}

const (
	// batchSums are the events, cost and price of postings that are no customer's.
	batchSums = `CAST(COALESCE(SUM(CASE WHEN account = 'revenue:usage' THEN events ELSE 0 END), 0) AS BIGINT) AS events,
		CAST(COALESCE(SUM(CASE WHEN account LIKE 'provider_payable:%' THEN amount ELSE 0 END), 0) AS BIGINT) AS cost,
		CAST(COALESCE(SUM(CASE WHEN account = 'revenue:usage' THEN amount ELSE 0 END), 0) AS BIGINT) AS price`
	// tableSums are the same of a table that has them as columns.
	tableSums = `CAST(COALESCE(SUM(events), 0) AS BIGINT) AS events, CAST(COALESCE(SUM(cost), 0) AS BIGINT) AS cost,
		CAST(COALESCE(SUM(price), 0) AS BIGINT) AS price`
)

func (tx *Tx) audit(ctx context.Context, a audit) (found []Break, err error) {
	var subject string
	values := make([]string, 2*len(a.checks))
	dest := []any{&subject}
	for i := range values {
		dest = append(dest, &values[i])
	}
	err = tx.each(ctx, func(r *sql.Rows) error {
		if err := r.Scan(dest...); err != nil {
			return err
		}
		for i, c := range a.checks {
			b := Break{Batch: subject, Check: c.name, Expected: values[2*i], Found: values[2*i+1]}
			if b.Expected == b.Found {
				continue
			}
			if c.amount {
				if b.Expected, err = amount(b.Expected); err == nil {
					b.Found, err = amount(b.Found)
				}
			}
			if err != nil {
				return err
			}
			found = append(found, b)
		}
		return nil
	}, a.text+" LIMIT "+strconv.Itoa(breaksMax))
	return found, err
}

// amount writes nano-dollars as dollars.
func amount(nano string) (string, error) {
	n, err := strconv.ParseInt(nano, 10, 64)
	return money.Nano(n).String(), err
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

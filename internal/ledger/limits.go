package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"weir/schemas/money"
)

// Limits of a key or a customer; 0 is none. A minute is one of the clock, days
// and months are UTC. As JSON those that are none are left out.
type Limits struct {
	RequestsPerMinute int64      `json:"requests_per_minute,omitempty"`
	TokensPerMinute   int64      `json:"tokens_per_minute,omitempty"`
	SpendPerDay       money.Nano `json:"spend_per_day,omitempty"`
	SpendPerMonth     money.Nano `json:"spend_per_month,omitempty"`
}

// limitNames are the columns of Limits, in the order of values and scan.
const limitNames = "requests_per_minute, tokens_per_minute, spend_per_day, spend_per_month"

func (l *Limits) values() []any {
	return []any{l.RequestsPerMinute, l.TokensPerMinute, int64(l.SpendPerDay), int64(l.SpendPerMonth)}
}

func (l *Limits) scan() []any {
	return []any{&l.RequestsPerMinute, &l.TokensPerMinute, &l.SpendPerDay, &l.SpendPerMonth}
}

// LimitKey changes a key's limits and returns the key as it is then;
// ErrNotFound. Gateways learn of it with their next beat.
func (tx *Tx) LimitKey(ctx context.Context, id string, change func(*Limits)) (Key, error) {
	k, err := scanKey(tx.row(ctx, keyColumns+"WHERE id = $1"+tx.db.lock, id))
	if err = missing(err, "key", id); err != nil {
		return Key{}, err
	}
	change(&k.Limits)
	return k, tx.setLimits(ctx, "api_key", id, &k.Limits)
}

// LimitCustomer is LimitKey for a customer.
func (tx *Tx) LimitCustomer(ctx context.Context, id string, change func(*Limits)) (Customer, error) {
	c, err := tx.customer(ctx, id)
	if err != nil {
		return Customer{}, err
	}
	change(&c.Limits)
	return c, tx.setLimits(ctx, "customer", id, &c.Limits)
}

func (tx *Tx) setLimits(ctx context.Context, table, id string, l *Limits) error {
	epoch, err := tx.raise(ctx, epochChange)
	if err == nil {
		_, err = tx.exec(ctx, "UPDATE "+table+` SET requests_per_minute = $1, tokens_per_minute = $2, spend_per_day = $3,
			spend_per_month = $4, epoch = $5 WHERE id = $6`, append(l.values(), epoch, id)...)
	}
	if err != nil {
		return fmt.Errorf("cannot set the limits of %s %s: %w", table, id, err)
	}
	return nil
}

// SpendOf names what a scope ("key:ID", "customer:ID") spent in a UTC period
// ("day:2026-11-24", "month:2026-11", "all").
type SpendOf struct{ Scope, Period string }

// LeaseSpend is how far a lease is settled: all its seqs up to Settled are, and
// the price of the others is at most Rest. Held: it is open or closing.
type LeaseSpend struct {
	Settled uint64
	Rest    money.Nano
	Held    bool
}

// Spends is what scopes spent and how far leases are settled, all at one
// instant: an event is either in the first or behind the second. What is not
// there is zero.
type Spends struct {
	Spent  map[SpendOf]money.Nano
	Leases map[string]LeaseSpend
}

// Spends reads what each scope spent in each period, and how far the leases
// are settled.
func (db *DB) Spends(ctx context.Context, scopes, periods, leases []string) (s Spends, err error) {
	err = db.snapshot(ctx, func(tx *Tx) error {
		s = Spends{Spent: map[SpendOf]money.Nano{}, Leases: map[string]LeaseSpend{}}
		for _, period := range periods {
			if err := tx.spends(ctx, scopes, period, s.Spent); err != nil {
				return err
			}
		}
		return tx.selectIn(ctx, func(r *sql.Rows) error {
			var id, state string
			var l LeaseSpend
			err := r.Scan(&id, &state, &l.Rest, &l.Settled)
			l.Held = state == LeaseOpen || state == LeaseClosing
			s.Leases[id] = l
			return err
		}, `SELECT id, state, granted - settled - returned,
			COALESCE((SELECT MIN(g.from_seq) - 1 FROM lease_gap g WHERE g.lease = lease.id), last_seq) FROM lease WHERE id IN (%s)`, leases)
	})
	if err != nil {
		return Spends{}, fmt.Errorf("cannot read what is spent: %w", err)
	}
	return s, nil
}

func (tx *Tx) spends(ctx context.Context, scopes []string, period string, into map[SpendOf]money.Nano) error {
	for len(scopes) > 0 {
		n := piece(len(scopes), tx.db.chunk)
		args := make([]any, n, n+1)
		for i, scope := range scopes[:n] {
			args[i] = scope
		}
		err := tx.each(ctx, func(r *sql.Rows) error {
			of := SpendOf{Period: period}
			var spent money.Nano
			err := r.Scan(&of.Scope, &spent)
			into[of] = spent
			return err
		}, "SELECT scope, spent FROM spend WHERE scope IN ("+placeholders(n)+") AND period = $"+strconv.Itoa(n+1), append(args, period)...)
		if err != nil {
			return err
		}
		scopes = scopes[n:]
	}
	return nil
}

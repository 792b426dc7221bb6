package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weir/schemas/money"
)

// TakeBudget takes a slice of what is left of a rule's daily budget and
// returns how much it got, 0 when nothing is left. day is "2026-11-24", UTC.
// What is taken is not given back.
func (db *DB) TakeBudget(ctx context.Context, rule, day string, budget, slice money.Nano) (got money.Nano, err error) {
	err = db.Tx(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, "INSERT INTO budget (rule_name, utc_day, taken) VALUES ($1, $2, 0) ON CONFLICT (rule_name, utc_day) DO NOTHING", rule, day)
		if err != nil {
			return err
		}
		var taken money.Nano
		err = tx.row(ctx, "SELECT taken FROM budget WHERE rule_name = $1 AND utc_day = $2"+tx.db.lock, rule, day).Scan(&taken)
		if err != nil {
			return err
		}
		got = max(0, min(slice, budget-taken))
		_, err = tx.exec(ctx, "UPDATE budget SET taken = taken + $1 WHERE rule_name = $2 AND utc_day = $3", int64(got), rule, day)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("cannot take budget of rule %s: %w", rule, err)
	}
	return got, nil
}

// Spend is the settled price of a scope ("key:ID", "customer:ID") in a UTC
// period ("day:2026-11-24", "month:2026-11", "all").
func (db *DB) Spend(ctx context.Context, scope, period string) (spent money.Nano, err error) {
	err = db.view().row(ctx, "SELECT spent FROM spend WHERE scope = $1 AND period = $2", scope, period).Scan(&spent)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("cannot read the spend of %s: %w", scope, err)
	}
	return spent, nil
}

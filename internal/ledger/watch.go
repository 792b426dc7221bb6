package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"

	"weir/schemas/money"
)

// spendSum is what the events of a scope and period come to; cost is that of a
// customer's month, else 0.
type spendSum struct{ price, cost money.Nano }

// watch tells of limits that a batch's spend passed, and of customers whose
// month it made unprofitable. It runs after the spend was added, and reads what it came
// to only for scopes that have a limit or lost money in this batch.
func (tx *Tx) watch(ctx context.Context, added map[spendKey]spendSum) error {
	limits, err := tx.spendLimits(ctx, added)
	if err != nil {
		return err
	}
	var events []Event
	for _, k := range slices.SortedFunc(maps.Keys(added), compareSpends) {
		limit := limits[k]
		loses := added[k].price < added[k].cost
		if limit == 0 && !loses {
			continue
		}
		var now spendSum
		err := tx.row(ctx, "SELECT spent, cost FROM spend WHERE scope = $1 AND period = $2", k.scope, k.period).Scan(&now.price, &now.cost)
		if err != nil {
			return fmt.Errorf("cannot read the spend of %s: %w", k.scope, err)
		}
		if before := now.price - added[k].price; limit > 0 && before < limit && now.price >= limit {
			events = append(events, k.limitReached(limit, now.price))
		}
		if margin := now.price - now.cost; loses && margin < 0 && margin-added[k].price+added[k].cost >= 0 {
			events = append(events, k.marginNegative(now))
		}
	}
	if err := tx.nameKeyOwners(ctx, events); err != nil {
		return err
	}
	return tx.Emit(ctx, events...)
}

func (k spendKey) limitReached(limit, spent money.Nano) Event {
	scope, id, _ := strings.Cut(k.scope, ":")
	e := Event{ID: eventOnce(EventLimitReached, k.scope, k.period, limit.String()), Type: EventLimitReached,
		Data: LimitNews{Scope: scope, ID: id, Period: k.period, Limit: limit, Spent: spent}}
	if k.scope == scopeCustomer+id {
		e.Customer = id
	}
	return e
}

func (k spendKey) marginNegative(s spendSum) Event {
	id, month := strings.TrimPrefix(k.scope, scopeCustomer), strings.TrimPrefix(k.period, periodMonth)
	return Event{ID: eventOnce(EventMarginNegative, id, month), Type: EventMarginNegative, Customer: id,
		Data: MarginNews{Customer: id, Month: month, Price: s.price, Cost: s.cost, Margin: s.price - s.cost}}
}

// nameKeyOwners sets the customer of events that are about a key.
func (tx *Tx) nameKeyOwners(ctx context.Context, events []Event) error {
	for i := range events {
		news, ok := events[i].Data.(LimitNews)
		if !ok || news.Scope+":" != scopeKey {
			continue
		}
		if err := tx.row(ctx, "SELECT customer FROM api_key WHERE id = $1", news.ID).Scan(&events[i].Customer); err != nil {
			return fmt.Errorf("cannot read the customer of key %s: %w", news.ID, err)
		}
	}
	return nil
}

// spendLimits is the limits that apply to what was added. As long as nobody
// has a spend limit it asks one question.
func (tx *Tx) spendLimits(ctx context.Context, added map[spendKey]spendSum) (map[spendKey]money.Nano, error) {
	var some bool
	err := tx.row(ctx, `SELECT EXISTS (SELECT 1 FROM customer WHERE spend_per_day > 0 OR spend_per_month > 0)
		OR EXISTS (SELECT 1 FROM api_key WHERE spend_per_day > 0 OR spend_per_month > 0)`).Scan(&some)
	if err != nil || !some {
		return nil, err
	}
	limits := map[spendKey]money.Nano{}
	for _, table := range []struct{ name, scope string }{{"customer", scopeCustomer}, {"api_key", scopeKey}} {
		ids := map[string]bool{}
		for k := range added {
			if id, ok := strings.CutPrefix(k.scope, table.scope); ok {
				ids[id] = true
			}
		}
		day, month := map[string]money.Nano{}, map[string]money.Nano{}
		err := tx.selectIn(ctx, func(r *sql.Rows) error {
			var id string
			var perDay, perMonth money.Nano
			err := r.Scan(&id, &perDay, &perMonth)
			day[table.scope+id], month[table.scope+id] = perDay, perMonth
			return err
		}, "SELECT id, spend_per_day, spend_per_month FROM "+table.name+" WHERE id IN (%s) AND (spend_per_day > 0 OR spend_per_month > 0)",
			slices.Sorted(maps.Keys(ids)))
		if err != nil {
			return nil, fmt.Errorf("cannot read spend limits: %w", err)
		}
		for k := range added {
			switch {
			case strings.HasPrefix(k.period, periodDay) && day[k.scope] > 0:
				limits[k] = day[k.scope]
			case strings.HasPrefix(k.period, periodMonth) && month[k.scope] > 0:
				limits[k] = month[k.scope]
			}
		}
	}
	return limits, nil
}

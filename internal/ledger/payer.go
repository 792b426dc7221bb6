package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"weir/schemas/money"
)

// Payer is a customer as the payment provider knows him. PaymentMethod is the
// card that he agreed, at ConsentedAt, may be charged without him.
type Payer struct {
	Customer, StripeCustomer, PaymentMethod string
	ConsentedAt                             time.Time
}

// SetPayer writes a payer whole. ErrConflict when another customer is known to
// the payment provider by that name; ErrNotFound without the customer.
func (tx *Tx) SetPayer(ctx context.Context, p Payer) error {
	if _, err := tx.customer(ctx, p.Customer); err != nil {
		return err
	}
	other, err := tx.payer(ctx, "stripe_customer", p.StripeCustomer)
	if err == nil && other.Customer != p.Customer {
		return fmt.Errorf("payer %s is %s already: %w", p.StripeCustomer, other.Customer, ErrConflict)
	}
	_, err = tx.exec(ctx, `INSERT INTO payer (customer, stripe_customer, payment_method, consented_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (customer) DO UPDATE SET stripe_customer = excluded.stripe_customer, payment_method = excluded.payment_method,
			consented_at = excluded.consented_at`, p.Customer, p.StripeCustomer, p.PaymentMethod, micros(p.ConsentedAt))
	if err != nil {
		return fmt.Errorf("cannot set the payer of %s: %w", p.Customer, err)
	}
	return nil
}

// Payer finds a customer's payer; ErrNotFound.
func (db *DB) Payer(ctx context.Context, customer string) (Payer, error) {
	return db.view().payer(ctx, "customer", customer)
}

// Payer is DB.Payer in a transaction.
func (tx *Tx) Payer(ctx context.Context, customer string) (Payer, error) {
	return tx.payer(ctx, "customer", customer)
}

// PayerByStripe finds a payer by the payment provider's id of him; ErrNotFound.
func (db *DB) PayerByStripe(ctx context.Context, id string) (Payer, error) {
	return db.view().payer(ctx, "stripe_customer", id)
}

func (tx *Tx) payer(ctx context.Context, column, value string) (p Payer, err error) {
	var consented int64
	err = tx.row(ctx, "SELECT customer, stripe_customer, payment_method, consented_at FROM payer WHERE "+column+" = $1", value).
		Scan(&p.Customer, &p.StripeCustomer, &p.PaymentMethod, &consented)
	p.ConsentedAt = moment(consented)
	return p, missing(err, "payer", value)
}

// Plan is a plan that is sold by subscription, at the payment provider's
// price; Included is the credit of one period.
type Plan struct {
	ID, StripePrice string
	Included        money.Nano
}

// SetPlan writes a plan whole. ErrConflict when another plan has that price.
func (tx *Tx) SetPlan(ctx context.Context, p Plan) error {
	if p.Included < 0 {
		return errAmount
	}
	other, err := tx.planByPrice(ctx, p.StripePrice)
	if err == nil && other.ID != p.ID {
		return fmt.Errorf("price %s is of plan %s: %w", p.StripePrice, other.ID, ErrConflict)
	}
	now, err := tx.now(ctx)
	if err == nil {
		_, err = tx.exec(ctx, `INSERT INTO plan (id, stripe_price, included, updated_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (id) DO UPDATE SET stripe_price = excluded.stripe_price, included = excluded.included,
				updated_at = excluded.updated_at`, p.ID, p.StripePrice, int64(p.Included), now)
	}
	if err != nil {
		return fmt.Errorf("cannot set plan %s: %w", p.ID, err)
	}
	return nil
}

// Plans lists the plans that are sold, by id.
func (db *DB) Plans(ctx context.Context) (list []Plan, err error) {
	err = db.view().each(ctx, func(r *sql.Rows) error {
		var p Plan
		err := r.Scan(&p.ID, &p.StripePrice, &p.Included)
		list = append(list, p)
		return err
	}, "SELECT id, stripe_price, included FROM plan ORDER BY id")
	if err != nil {
		return nil, fmt.Errorf("cannot list plans: %w", err)
	}
	return list, nil
}

// PlanByPrice finds the plan of a price; ErrNotFound.
func (db *DB) PlanByPrice(ctx context.Context, price string) (Plan, error) {
	return db.view().planByPrice(ctx, price)
}

func (tx *Tx) planByPrice(ctx context.Context, price string) (p Plan, err error) {
	err = tx.row(ctx, "SELECT id, stripe_price, included FROM plan WHERE stripe_price = $1", price).Scan(&p.ID, &p.StripePrice, &p.Included)
	return p, missing(err, "plan of price", price)
}

// Subscription is a customer's subscription of a plan, under the payment
// provider's id and in its words.
type Subscription struct {
	ID, Customer, Plan, Status string
	PeriodEnd, UpdatedAt       time.Time
}

// SetSubscription writes a subscription whole.
func (tx *Tx) SetSubscription(ctx context.Context, s Subscription) error {
	now, err := tx.now(ctx)
	if err == nil {
		_, err = tx.exec(ctx, `INSERT INTO subscription (id, customer, plan, status, period_end, updated_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (id) DO UPDATE SET plan = excluded.plan, status = excluded.status, period_end = excluded.period_end,
				updated_at = excluded.updated_at`, s.ID, s.Customer, s.Plan, s.Status, micros(s.PeriodEnd), now)
	}
	if err != nil {
		return fmt.Errorf("cannot set subscription %s: %w", s.ID, err)
	}
	return nil
}

// Subscription finds a subscription; ErrNotFound.
func (db *DB) Subscription(ctx context.Context, id string) (s Subscription, err error) {
	list, err := db.subscriptions(ctx, "WHERE id = $1", id)
	if err == nil && len(list) == 0 {
		return s, fmt.Errorf("subscription %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return s, err
	}
	return list[0], nil
}

// Subscriptions lists a customer's subscriptions, ended ones too, the latest
// period last.
func (db *DB) Subscriptions(ctx context.Context, customer string) ([]Subscription, error) {
	return db.subscriptions(ctx, "WHERE customer = $1 ORDER BY period_end, id", customer)
}

func (db *DB) subscriptions(ctx context.Context, where string, args ...any) (list []Subscription, err error) {
	err = db.view().each(ctx, func(r *sql.Rows) error {
		var s Subscription
		var end, updated int64
		err := r.Scan(&s.ID, &s.Customer, &s.Plan, &s.Status, &end, &updated)
		s.PeriodEnd, s.UpdatedAt = moment(end), moment(updated)
		list = append(list, s)
		return err
	}, "SELECT id, customer, plan, status, period_end, updated_at FROM subscription "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot list subscriptions: %w", err)
	}
	return list, nil
}

// FundingFees is what a customer's money cost to bring in: Fees that the
// payment provider keeps, and Funded, what all credits came to, without what
// was lent, refunded or disputed away. Fees ÷ Funded is the share of a
// payment that is lost on the way.
type FundingFees struct{ Fees, Funded money.Nano }

// FundingFees sums the fees of customers; without arguments of all that have a
// wallet. Customers without a wallet are left out.
func (db *DB) FundingFees(ctx context.Context, customers ...string) (fees map[string]FundingFees, err error) {
	const text = `SELECT w.customer,
		CAST(COALESCE(t.fee, 0) + COALESCE(d.fee, 0) AS BIGINT), CAST(COALESCE(l.funded, 0) - COALESCE(t.gone, 0) - COALESCE(d.held, 0) AS BIGINT)
		FROM wallet w
		LEFT JOIN (SELECT customer, SUM(amount) AS funded FROM lot WHERE NOT returned GROUP BY customer) l ON l.customer = w.customer
		LEFT JOIN (SELECT customer, SUM(fee) AS fee, SUM(bonus_back + CASE WHEN kind = 'subscription' THEN 0 ELSE refunded + lost END) AS gone
			FROM topup WHERE state = 'succeeded' GROUP BY customer) t ON t.customer = w.customer
		LEFT JOIN (SELECT d.customer, SUM(d.fee) AS fee,
			SUM(CASE WHEN d.booked = 'open' AND t.kind <> 'subscription' THEN d.amount ELSE 0 END) AS held
			FROM dispute d JOIN topup t ON t.id = d.topup GROUP BY d.customer) d ON d.customer = w.customer `
	fees = map[string]FundingFees{}
	scan := func(r *sql.Rows) error {
		var id string
		var f FundingFees
		err := r.Scan(&id, &f.Fees, &f.Funded)
		fees[id] = f
		return err
	}
	err = db.snapshot(ctx, func(tx *Tx) error {
		clear(fees)
		if len(customers) == 0 {
			return tx.each(ctx, scan, text)
		}
		return tx.selectIn(ctx, scan, text+"WHERE w.customer IN (%s)", customers)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot sum funding fees: %w", err)
	}
	return fees, nil
}

package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weir/schemas/money"
)

// The states of a customer's wallet.
const (
	Active = "active"
	Frozen = "frozen" // no grants; what is under way still settles
)

// Customer is one customer of the platform; its wallet has the same id.
// Metadata is the text of a JSON object.
type Customer struct {
	ID, Name, Plan, Status string
	Metadata               string
	CreatedAt              time.Time
	Limits                 Limits
}

// Wallet is the money of a customer: cumulative credits and debits, what
// leases hold, what is owed because it was used and not covered, and up to how
// much the platform lends (Overdraft). A wallet with an open dispute is frozen.
type Wallet struct {
	Customer, Currency, Status string
	Credited, Debited          money.Nano
	Held, Receivable           money.Nano
	Overdraft                  money.Nano
	AsOf                       time.Time
}

// Balance is credited − debited, negative down to −Overdraft.
func (w Wallet) Balance() money.Nano { return w.Credited - w.Debited }

// Spendable is the balance with what is lent: what requests can use, now or
// once leases return what they hold. It is never negative.
func (w Wallet) Spendable() money.Nano { return w.Credited - w.Debited + w.Overdraft }

// Available is what is spendable without what leases hold. It is never negative.
func (w Wallet) Available() money.Nano { return w.Spendable() - w.Held }

// CreateCustomer adds a customer and its empty wallet; ErrExists if the id is
// taken. An empty Status is active, empty Metadata is {}.
func (tx *Tx) CreateCustomer(ctx context.Context, c Customer) (Customer, error) {
	if c.Status == "" {
		c.Status = Active
	}
	if c.Metadata == "" {
		c.Metadata = "{}"
	}
	now, err := tx.now(ctx)
	if err != nil {
		return Customer{}, err
	}
	c.CreatedAt = moment(now)
	epoch, err := tx.raise(ctx, epochChange)
	if err != nil {
		return Customer{}, err
	}
	fresh, err := tx.exec(ctx, "INSERT INTO customer (id, name, plan, metadata, created_at, epoch, "+limitNames+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING`,
		append([]any{c.ID, c.Name, c.Plan, c.Metadata, now, epoch}, c.Limits.values()...)...)
	if err == nil && fresh == 0 {
		return Customer{}, fmt.Errorf("customer %s: %w", c.ID, ErrExists)
	}
	if err == nil {
		_, err = tx.exec(ctx, "INSERT INTO wallet (customer, currency, status) VALUES ($1, $2, $3)", c.ID, tx.db.currency, c.Status)
	}
	if err != nil {
		return Customer{}, fmt.Errorf("cannot create customer %s: %w", c.ID, err)
	}
	return c, nil
}

// UpdateCustomer changes status, plan or both, where not nil; ErrNotFound. A
// wallet that is made active stays frozen as long as a dispute is open. Gateways learn of it with their next beat.
func (tx *Tx) UpdateCustomer(ctx context.Context, id string, status, plan *string) (Customer, error) {
	c, err := tx.customer(ctx, id)
	if err != nil {
		return Customer{}, err
	}
	if plan != nil {
		c.Plan = *plan
	}
	epoch, err := tx.raise(ctx, epochChange)
	if err == nil {
		_, err = tx.exec(ctx, "UPDATE customer SET plan = $1, epoch = $2 WHERE id = $3", c.Plan, epoch, id)
	}
	if err == nil && status != nil {
		_, err = tx.exec(ctx, "UPDATE wallet SET status = $1 WHERE customer = $2", *status, id)
	}
	if err != nil {
		return Customer{}, fmt.Errorf("cannot update customer %s: %w", id, err)
	}
	return tx.customer(ctx, id)
}

// effectiveStatus is a wallet's status as everybody sees it: an open dispute
// freezes it, whatever the operator set.
const effectiveStatus = "CASE WHEN w.disputes > 0 THEN 'frozen' ELSE w.status END"

const customerColumns = "SELECT c.id, c.name, c.plan, " + effectiveStatus + ", c.metadata, c.created_at, " + limitNames + `
	FROM customer c JOIN wallet w ON w.customer = c.id`

func scanCustomer(row scanner) (c Customer, err error) {
	var at int64
	err = row.Scan(append([]any{&c.ID, &c.Name, &c.Plan, &c.Status, &c.Metadata, &at}, c.Limits.scan()...)...)
	c.CreatedAt = moment(at)
	return c, err
}

func (tx *Tx) customer(ctx context.Context, id string) (Customer, error) {
	c, err := scanCustomer(tx.row(ctx, customerColumns+" WHERE c.id = $1", id))
	return c, missing(err, "customer", id)
}

// missing makes a lookup's error say what was looked up.
func missing(err error, what, id string) error {
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s %q: %w", what, id, ErrNotFound)
	case err != nil:
		return fmt.Errorf("cannot read %s %q: %w", what, id, err)
	}
	return nil
}

// Customer finds a customer; ErrNotFound.
func (db *DB) Customer(ctx context.Context, id string) (Customer, error) {
	return db.view().customer(ctx, id)
}

// Customers lists customers; next is "" on the last page.
func (db *DB) Customers(ctx context.Context, p Page) (list []Customer, next string, err error) {
	from, err := p.after()
	if err != nil {
		return nil, "", err
	}
	err = db.view().each(ctx, func(r *sql.Rows) error {
		c, err := scanCustomer(r)
		list = append(list, c)
		return err
	}, customerColumns+` WHERE (c.created_at, c.id) < ($1, $2) ORDER BY c.created_at DESC, c.id DESC LIMIT $3`,
		from.at, from.id, p.limit()+1)
	if err != nil {
		return nil, "", fmt.Errorf("cannot list customers: %w", err)
	}
	list, next = cut(list, p.limit(), func(c Customer) place { return place{at: micros(c.CreatedAt), id: c.ID} })
	return list, next, nil
}

// cut drops the row that was read only to learn whether another page follows.
func cut[T any](list []T, limit int, at func(T) place) ([]T, string) {
	if len(list) <= limit {
		return list, ""
	}
	list = list[:limit]
	return list, at(list[limit-1]).cursor()
}

// Wallet reads a customer's wallet; ErrNotFound.
func (db *DB) Wallet(ctx context.Context, customer string) (Wallet, error) {
	return db.view().wallet(ctx, customer, "")
}

// walletRow is a wallet as a transaction locked it.
type walletRow struct {
	Wallet
	attributed money.Nano // debits that lots account for
	recalledAt int64      // when its slices were last wanted back
	depleted   bool       // the platform was told that nothing is left
	lowBalance string     // the balances it wants to be told of
	topupBelow money.Nano // the balance below which it tops itself up
}

// The column credited includes the overdraft, so that one CHECK bounds both.
const walletColumns = `SELECT customer, currency, ` + effectiveStatus + `, credited - overdraft, debited, held, receivable, overdraft,
	attributed, recalled_at, depleted, low_balance, topup_below FROM wallet w `

func scanWallet(row scanner) (w walletRow, err error) {
	err = row.Scan(&w.Customer, &w.Currency, &w.Status, &w.Credited, &w.Debited, &w.Held, &w.Receivable, &w.Overdraft,
		&w.attributed, &w.recalledAt, &w.depleted, &w.lowBalance, &w.topupBelow)
	return w, err
}

// lockWallet reads a wallet for changing it.
func (tx *Tx) lockWallet(ctx context.Context, customer string) (walletRow, error) {
	w, err := scanWallet(tx.row(ctx, walletColumns+"WHERE customer = $1"+tx.db.lock, customer))
	if err = missing(err, "wallet", customer); err != nil {
		return walletRow{}, err
	}
	now, err := tx.now(ctx)
	w.AsOf = moment(now)
	return w, err
}

func (tx *Tx) wallet(ctx context.Context, customer, lock string) (Wallet, error) {
	w, err := scanWallet(tx.row(ctx, walletColumns+"WHERE customer = $1"+lock, customer))
	if err = missing(err, "wallet", customer); err != nil {
		return Wallet{}, err
	}
	now, err := tx.now(ctx)
	w.AsOf = moment(now)
	return w.Wallet, err
}

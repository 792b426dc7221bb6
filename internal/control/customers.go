package control

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
)

// identifier is the form of customer ids and plans: safe in a path, in a Kafka
// key and in the name of a price rule.
var identifier = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

const nameMax = 200 // characters of a name that people read

type customerView struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Plan      string          `json:"plan"`
	Status    string          `json:"status"`
	CreatedAt time.Time       `json:"created_at"`
	Metadata  json.RawMessage `json:"metadata"`
	Limits    ledger.Limits   `json:"limits,omitzero"`
}

func viewCustomer(c ledger.Customer) any {
	return customerView{c.ID, c.Name, c.Plan, c.Status, c.CreatedAt.UTC(), json.RawMessage(c.Metadata), c.Limits}
}

func (p *plane) createCustomer(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		ID       string          `json:"id"`
		Name     string          `json:"name"`
		Plan     string          `json:"plan"`
		Metadata json.RawMessage `json:"metadata"`
		Limits   json.RawMessage `json:"limits"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	if string(in.Metadata) == "null" {
		in.Metadata = nil
	}
	switch {
	case in.ID == "":
		return invalid("id is missing")
	case !identifier.MatchString(in.ID):
		return refuse(http.StatusUnprocessableEntity, "invalid_id", "id: %q does not match %s", in.ID, identifier)
	case in.Plan != "" && !identifier.MatchString(in.Plan):
		return refuse(http.StatusUnprocessableEntity, "invalid_plan", "plan: %q does not match %s", in.Plan, identifier)
	case len(in.Name) > nameMax:
		return refuse(http.StatusUnprocessableEntity, "invalid_name", "name is longer than %d bytes", nameMax)
	case in.Metadata != nil && in.Metadata[0] != '{':
		return invalid("metadata: want an object")
	}
	limit, err := readLimits(in.Limits)
	if err != nil {
		return err
	}
	made := ledger.Customer{ID: in.ID, Name: in.Name, Plan: in.Plan, Metadata: string(in.Metadata)}
	limit(&made.Limits)
	return p.apply(w, r, change{body: body}, func(tx *ledger.Tx) (int, any, error) {
		c, err := tx.CreateCustomer(r.Context(), made)
		return http.StatusCreated, viewCustomer(c), err
	})
}

func (p *plane) listCustomers(w http.ResponseWriter, r *http.Request) error {
	page, err := page(r.URL.Query())
	if err != nil {
		return err
	}
	list, next, err := p.Ledger.Customers(r.Context(), page)
	if err != nil {
		return err
	}
	writeList(w, list, next, viewCustomer)
	return nil
}

func (p *plane) showCustomer(w http.ResponseWriter, r *http.Request) error {
	c, err := p.Ledger.Customer(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	WriteJSON(w, http.StatusOK, viewCustomer(c))
	return nil
}

func (p *plane) updateCustomer(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Status *string         `json:"status"`
		Plan   *string         `json:"plan"`
		Limits json.RawMessage `json:"limits"`

		Overdraft  json.RawMessage `json:"overdraft"`
		LowBalance json.RawMessage `json:"low_balance"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	switch {
	case in.Status == nil && in.Plan == nil && in.Limits == nil && in.Overdraft == nil && in.LowBalance == nil:
		return invalid("nothing to change: send status, plan, limits, overdraft or low_balance")
	case in.Status != nil && *in.Status != ledger.Active && *in.Status != ledger.Frozen:
		return refuse(http.StatusUnprocessableEntity, "invalid_status", "status: %q is neither active nor frozen", *in.Status)
	case in.Plan != nil && *in.Plan != "" && !identifier.MatchString(*in.Plan):
		return refuse(http.StatusUnprocessableEntity, "invalid_plan", "plan: %q does not match %s", *in.Plan, identifier)
	}
	limit, err := readLimits(in.Limits)
	if err != nil {
		return err
	}
	set, err := readWalletChange(in.Overdraft, in.LowBalance)
	if err != nil {
		return err
	}
	return p.apply(w, r, change{body: body}, func(tx *ledger.Tx) (int, any, error) {
		c, err := tx.UpdateCustomer(r.Context(), r.PathValue("id"), in.Status, in.Plan)
		if err == nil && in.Limits != nil {
			c, err = tx.LimitCustomer(r.Context(), c.ID, limit)
		}
		if err == nil {
			err = set(r.Context(), tx, c.ID)
		}
		return http.StatusOK, viewCustomer(c), err
	})
}

// lowBalanceMax is how many balances of a wallet can be watched.
const lowBalanceMax = 5

// readWalletChange reads what a body sets of a customer's wallet, null being
// none, and returns what does it.
func readWalletChange(lent, watched json.RawMessage) (func(context.Context, *ledger.Tx, string) error, error) {
	var overdraft money.Nano
	var low []money.Nano
	var err error
	if named(lent) {
		if overdraft, err = readDollars("overdraft", lent); err != nil {
			return nil, err
		}
	}
	if named(watched) {
		var list []json.RawMessage
		if err := json.Unmarshal(watched, &list); err != nil || len(list) > lowBalanceMax {
			return nil, refuse(http.StatusUnprocessableEntity, "invalid_amount", "low_balance: want a list of at most %d balances", lowBalanceMax)
		}
		for _, raw := range list {
			balance, err := readDollars("low_balance", raw)
			if err == nil && balance == 0 {
				err = refuse(http.StatusUnprocessableEntity, "invalid_amount", "low_balance: zero is told as wallet.depleted")
			}
			if err != nil {
				return nil, err
			}
			low = append(low, balance)
		}
	}
	return func(ctx context.Context, tx *ledger.Tx, customer string) error {
		if lent != nil {
			if _, err := tx.SetOverdraft(ctx, customer, overdraft); err != nil {
				return err
			}
		}
		if watched == nil {
			return nil
		}
		return tx.SetLowBalance(ctx, customer, low)
	}, nil
}

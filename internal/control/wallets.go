package control

import (
	"encoding/json"
	"net/http"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/topup"
)

const (
	// amountMax bounds one credit or debit. Nine of them fit into the int64
	// of a wallet, and no customer pays a billion dollars at once by hand.
	amountMax = 1_000_000_000 * money.Dollar
	reasonMax = 500 // bytes of a reason
)

type walletView struct {
	Customer   string     `json:"customer"`
	Currency   string     `json:"currency"`
	Credited   money.Nano `json:"credited"`
	Debited    money.Nano `json:"debited"`
	Balance    money.Nano `json:"balance"`
	Held       money.Nano `json:"held"`
	Available  money.Nano `json:"available"`
	Receivable money.Nano `json:"receivable"`
	Status     string     `json:"status"`
	AsOf       time.Time  `json:"as_of"`
	// Overdraft is what the balance may go below zero by; what is available
	// includes it.
	Overdraft money.Nano `json:"overdraft,omitzero"`
	// LowBalance are the balances below which the platform is told.
	LowBalance []money.Nano `json:"low_balance,omitempty"`
}

func viewWallet(w ledger.Wallet) walletView {
	return walletView{Customer: w.Customer, Currency: w.Currency, Credited: w.Credited, Debited: w.Debited, Balance: w.Balance(), Held: w.Held,
		Available: w.Available(), Receivable: w.Receivable, Status: w.Status, AsOf: w.AsOf.UTC(), Overdraft: w.Overdraft}
}

func (p *plane) showWallet(w http.ResponseWriter, r *http.Request) error {
	wallet, err := p.Ledger.Wallet(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	view := viewWallet(wallet)
	if view.LowBalance, err = p.Ledger.LowBalance(r.Context(), wallet.Customer); err != nil {
		return err
	}
	WriteJSON(w, http.StatusOK, view)
	return nil
}

// movement is the body of a credit or a debit.
type movement struct {
	Amount json.RawMessage `json:"amount"` // raw: a JSON number is a malformed amount, not a malformed body
	Reason string          `json:"reason"`
	Kind   string          `json:"kind"`
	// Of credits: which of several is used up first, and when it ends.
	Priority  int    `json:"priority"`
	ExpiresAt string `json:"expires_at"`
}

// priorityMax is the ledger's.
const priorityMax = 100

// lot is what a credit says of how it is used up.
func (in movement) lot() (expires time.Time, err error) {
	if in.Priority < 0 || in.Priority > priorityMax {
		return expires, refuse(http.StatusUnprocessableEntity, "invalid_priority", "priority: %d is not from 0 to %d", in.Priority, priorityMax)
	}
	if in.ExpiresAt == "" {
		return expires, nil
	}
	expires, err = time.Parse(time.RFC3339, in.ExpiresAt)
	if err != nil || !expires.After(time.Now()) {
		return expires, refuse(http.StatusUnprocessableEntity, "invalid_time", "expires_at: %q is not a time to come, such as 2027-01-31T00:00:00Z", in.ExpiresAt)
	}
	return expires, nil
}

type movementView struct {
	EntryID string     `json:"entry_id"`
	Wallet  walletView `json:"wallet"`
}

func readMovement(w http.ResponseWriter, r *http.Request) (in movement, amount money.Nano, body []byte, err error) {
	body, err = readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return in, 0, nil, err
	}
	if amount, err = readAmount(in.Amount); err != nil {
		return in, 0, nil, err
	}
	switch {
	case in.Reason == "":
		return in, 0, nil, invalid("reason is missing: say why, for whoever reads the books")
	case len(in.Reason) > reasonMax:
		return in, 0, nil, refuse(http.StatusUnprocessableEntity, "invalid_reason", "reason is longer than %d bytes", reasonMax)
	case in.Kind != "" && in.Kind != ledger.Paid && in.Kind != ledger.Promo:
		return in, 0, nil, refuse(http.StatusUnprocessableEntity, "invalid_kind", "kind: %q is neither paid nor promo", in.Kind)
	}
	return in, amount, body, nil
}

// readAmount reads an amount above zero.
func readAmount(raw json.RawMessage) (money.Nano, error) {
	amount, err := readDollars("amount", raw)
	if err == nil && amount == 0 {
		err = refuse(http.StatusUnprocessableEntity, "invalid_amount", "amount: %s is not above zero", amount)
	}
	return amount, err
}

// readCharge reads an amount that Stripe can charge.
func readCharge(name string, raw json.RawMessage) (money.Nano, error) {
	amount, err := readDollars(name, raw)
	if err != nil {
		return 0, err
	}
	if wrong := topup.CheckAmount(amount); wrong != "" {
		return 0, refuse(http.StatusUnprocessableEntity, "invalid_amount", "%s: %s", name, wrong)
	}
	return amount, nil
}

// readDollars reads an amount, which may be zero.
func readDollars(name string, raw json.RawMessage) (money.Nano, error) {
	var text string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
		return 0, refuse(http.StatusUnprocessableEntity, "invalid_amount", `%s: want dollars as a decimal string such as "10.00"`, name)
	}
	amount, err := money.ParseNano(text)
	switch {
	case err != nil:
		return 0, refuse(http.StatusUnprocessableEntity, "invalid_amount", "%s: %s", name, err)
	case amount < 0:
		return 0, refuse(http.StatusUnprocessableEntity, "invalid_amount", "%s: %s is not above zero", name, text)
	case amount > amountMax:
		return 0, refuse(http.StatusUnprocessableEntity, "invalid_amount", "%s: %s is more than %s at once", name, text, amountMax)
	}
	return amount, nil
}

func (p *plane) credit(w http.ResponseWriter, r *http.Request) error {
	in, amount, body, err := readMovement(w, r)
	if err != nil {
		return err
	}
	expires, err := in.lot()
	if err != nil {
		return err
	}
	return p.apply(w, r, change{body: body, needsKey: true}, func(tx *ledger.Tx) (int, any, error) {
		id, after, err := tx.Credit(r.Context(), ledger.Credit{Customer: r.PathValue("id"), Amount: amount, Kind: in.Kind, Reason: in.Reason,
			Priority: in.Priority, ExpiresAt: expires})
		return http.StatusCreated, movementView{id, viewWallet(after)}, err
	})
}

// debit takes promotional money before paid money whatever kind says, as usage
// does.
func (p *plane) debit(w http.ResponseWriter, r *http.Request) error {
	in, amount, body, err := readMovement(w, r)
	if err != nil {
		return err
	}
	if in.Priority != 0 || in.ExpiresAt != "" {
		return invalid("priority and expires_at are of credits")
	}
	return p.apply(w, r, change{body: body, needsKey: true}, func(tx *ledger.Tx) (int, any, error) {
		id, after, err := tx.Debit(r.Context(), ledger.Debit{Customer: r.PathValue("id"), Amount: amount, Reason: in.Reason})
		return http.StatusCreated, movementView{id, viewWallet(after)}, err
	})
}

type entryView struct {
	ID        string     `json:"id"`
	Time      time.Time  `json:"time"`
	Kind      string     `json:"kind"`
	Amount    money.Nano `json:"amount"`
	Reference string     `json:"reference"`
	Events    int64      `json:"events"`
}

func (p *plane) listEntries(w http.ResponseWriter, r *http.Request) error {
	page, err := page(r.URL.Query())
	if err != nil {
		return err
	}
	if _, err := p.Ledger.Customer(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	list, next, err := p.Ledger.Entries(r.Context(), r.PathValue("id"), page)
	if err != nil {
		return err
	}
	writeList(w, list, next, func(e ledger.Entry) any {
		return entryView{e.ID, e.Time.UTC(), e.Kind, e.Amount, e.Reference, e.Events}
	})
	return nil
}

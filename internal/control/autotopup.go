package control

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/topup"
)

// intervalMax bounds the time between two automatic top-ups of a wallet.
const intervalMax = 30 * 24 * time.Hour

type autoView struct {
	Customer    string      `json:"customer"`
	Enabled     bool        `json:"enabled"`
	Threshold   money.Nano  `json:"threshold"`
	Amount      *money.Nano `json:"amount"`      // null: recharge_to decides
	RechargeTo  *money.Nano `json:"recharge_to"` // null: amount decides
	CapPerDay   *money.Nano `json:"cap_per_day"` // null: none
	CapPerMonth *money.Nano `json:"cap_per_month"`
	MinInterval int64       `json:"min_interval_seconds"`
	HasCard     bool        `json:"has_card"`
	Failures    int         `json:"failures"`   // declines in a row
	OffReason   string      `json:"off_reason"` // why it was turned off by itself
	NextTryAt   *time.Time  `json:"next_try_at"`
}

func viewAuto(a ledger.AutoTopup, hasCard bool) any {
	return autoView{a.Customer, a.Enabled, a.Threshold, unlessZero(a.Amount), unlessZero(a.RechargeTo), unlessZero(a.CapPerDay),
		unlessZero(a.CapPerMonth), int64(a.MinInterval / time.Second), hasCard, a.Failures, a.OffReason, timeOrNull(a.NextTryAt)}
}

func unlessZero(n money.Nano) *money.Nano {
	if n == 0 {
		return nil
	}
	return &n
}

func (p *plane) hasCard(r *http.Request) (bool, error) {
	payer, err := p.Ledger.Payer(r.Context(), r.PathValue("id"))
	if errors.Is(err, ledger.ErrNotFound) {
		return false, nil
	}
	return payer.PaymentMethod != "", err
}

func (p *plane) showAutoTopup(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if _, err := p.Ledger.Customer(r.Context(), id); err != nil {
		return err
	}
	auto, err := p.Ledger.AutoTopup(r.Context(), id)
	if errors.Is(err, ledger.ErrNotFound) {
		auto, err = ledger.AutoTopup{Customer: id}, nil
	}
	if err != nil {
		return err
	}
	card, err := p.hasCard(r)
	if err != nil {
		return err
	}
	WriteJSON(w, http.StatusOK, viewAuto(auto, card))
	return nil
}

// autoChange is the body that sets an automatic top-up. Turning it off needs no
// more than that, and keeps what is not named.
type autoChange struct {
	Enabled     *bool           `json:"enabled"`
	Threshold   json.RawMessage `json:"threshold"`
	Amount      json.RawMessage `json:"amount"`
	RechargeTo  json.RawMessage `json:"recharge_to"`
	CapPerDay   json.RawMessage `json:"cap_per_day"`
	CapPerMonth json.RawMessage `json:"cap_per_month"`
	MinInterval *int64          `json:"min_interval_seconds"`
}

// read checks a body and returns what it sets.
func (in autoChange) read() (a ledger.AutoTopup, err error) {
	if in.Enabled == nil {
		return a, invalid("enabled is missing: true or false")
	}
	a.Enabled, a.MinInterval = *in.Enabled, topup.IntervalDefault
	for _, m := range []struct {
		name string
		raw  json.RawMessage
		into *money.Nano
	}{{"threshold", in.Threshold, &a.Threshold}, {"amount", in.Amount, &a.Amount}, {"recharge_to", in.RechargeTo, &a.RechargeTo},
		{"cap_per_day", in.CapPerDay, &a.CapPerDay}, {"cap_per_month", in.CapPerMonth, &a.CapPerMonth}} {
		if !named(m.raw) {
			continue
		}
		if *m.into, err = readDollars(m.name, m.raw); err != nil {
			return a, err
		}
	}
	if in.MinInterval != nil {
		if *in.MinInterval < 0 || *in.MinInterval > int64(intervalMax/time.Second) {
			return a, refuse(http.StatusUnprocessableEntity, "invalid_interval", "min_interval_seconds: %d is not from 0 to %d", *in.MinInterval, int64(intervalMax/time.Second))
		}
		a.MinInterval = time.Duration(*in.MinInterval) * time.Second
	}
	if !a.Enabled {
		return a, nil
	}
	return a, checkAuto(a)
}

// checkAuto refuses what could never work.
func checkAuto(a ledger.AutoTopup) error {
	bad := func(format string, args ...any) error {
		return refuse(http.StatusUnprocessableEntity, "invalid_amount", format, args...)
	}
	least := a.Amount
	switch {
	case a.Threshold == 0:
		return bad("threshold: want the balance below which to top up, above zero")
	case (a.Amount == 0) == (a.RechargeTo == 0):
		return bad("name one of amount, what is charged, and recharge_to, the balance to reach")
	case a.RechargeTo != 0 && a.RechargeTo <= a.Threshold:
		return bad("recharge_to: %s is not above the threshold of %s", a.RechargeTo, a.Threshold)
	case a.RechargeTo != 0:
		least = max(a.RechargeTo-a.Threshold, topup.MinAmount)
		if a.RechargeTo > topup.MaxAmount {
			return bad("recharge_to: %s is more than %s", a.RechargeTo, topup.MaxAmount)
		}
	default:
		if wrong := topup.CheckAmount(a.Amount); wrong != "" {
			return bad("amount: %s", wrong)
		}
	}
	switch {
	case a.CapPerDay != 0 && a.CapPerDay < least:
		return bad("cap_per_day: %s is less than one top-up of %s", a.CapPerDay, least)
	case a.CapPerMonth != 0 && a.CapPerMonth < least:
		return bad("cap_per_month: %s is less than one top-up of %s", a.CapPerMonth, least)
	}
	return nil
}

// setAutoTopup replaces how a wallet tops itself up, and forgets what declines
// have left: who sets it wants it tried.
func (p *plane) setAutoTopup(w http.ResponseWriter, r *http.Request) error {
	var in autoChange
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	want, err := in.read()
	if err != nil {
		return err
	}
	want.Customer = r.PathValue("id")
	card, err := p.hasCard(r)
	if err != nil {
		return err
	}
	return p.apply(w, r, change{body: body, then: p.Topup.Wake}, func(tx *ledger.Tx) (int, any, error) {
		set := want
		if kept, err := tx.AutoTopup(r.Context(), want.Customer); err == nil && !want.Enabled && !named(in.Threshold) {
			kept.Enabled, kept.OffReason, kept.Failures, kept.NextTryAt = false, "", 0, time.Time{}
			set = kept
		} else if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			return 0, nil, err
		}
		err := tx.SetAutoTopup(r.Context(), set)
		return http.StatusOK, viewAuto(set, card), err
	})
}

package control

import (
	"encoding/json"
	"net/http"
	"strconv"

	"weir/internal/ledger"
	"weir/schemas/money"
)

const (
	// countMax bounds requests and tokens per minute: past every provider's
	// capacity, and far from where sums could wrap.
	countMax = 1_000_000_000_000
	// spendMax bounds a spend limit: what one wallet can hold is of this order.
	spendMax = 1_000_000_000 * money.Dollar
)

// limitsChange is a body's limits as far as they are named: null is "none", and
// what is not named stays.
type limitsChange struct {
	RequestsPerMinute json.RawMessage `json:"requests_per_minute"`
	TokensPerMinute   json.RawMessage `json:"tokens_per_minute"`
	SpendPerDay       json.RawMessage `json:"spend_per_day"`
	SpendPerMonth     json.RawMessage `json:"spend_per_month"`
}

// readLimits reads the member limits of a body and returns what it changes: an
// object changes the limits it names, null removes all, and a member that is
// not there changes nothing.
func readLimits(raw json.RawMessage) (func(*ledger.Limits), error) {
	switch {
	case raw == nil:
		return func(*ledger.Limits) {}, nil
	case string(raw) == "null":
		return func(l *ledger.Limits) { *l = ledger.Limits{} }, nil
	case raw[0] != '{':
		return nil, invalid("limits: want an object")
	}
	var in limitsChange
	if err := decode(raw, &in); err != nil {
		return nil, err
	}
	var to ledger.Limits
	for _, m := range []struct {
		name string
		raw  json.RawMessage
		into *int64
	}{{"requests_per_minute", in.RequestsPerMinute, &to.RequestsPerMinute}, {"tokens_per_minute", in.TokensPerMinute, &to.TokensPerMinute}} {
		n, err := strconv.ParseInt(string(m.raw), 10, 64)
		if named(m.raw) && (err != nil || n < 1 || n > countMax) {
			return nil, badLimit("limits.%s: want a whole number from 1 to %d, or null for none", m.name, int64(countMax))
		}
		*m.into = n
	}
	for _, m := range []struct {
		name string
		raw  json.RawMessage
		into *money.Nano
	}{{"spend_per_day", in.SpendPerDay, &to.SpendPerDay}, {"spend_per_month", in.SpendPerMonth, &to.SpendPerMonth}} {
		var text string
		if !named(m.raw) {
			continue
		}
		err := json.Unmarshal(m.raw, &text)
		if err == nil {
			*m.into, err = money.ParseNano(text)
		}
		if err != nil || *m.into <= 0 || *m.into > spendMax {
			return nil, badLimit(`limits.%s: want dollars as a decimal string such as "5.00", above zero and at most %s, or null for none`, m.name, spendMax)
		}
	}
	return in.apply(to), nil
}

// named tells whether a limit is given a value.
func named(raw json.RawMessage) bool { return raw != nil && string(raw) != "null" }

func badLimit(format string, args ...any) error {
	return refuse(http.StatusUnprocessableEntity, "invalid_limit", format, args...)
}

// apply sets the limits that the body names to those of to.
func (in limitsChange) apply(to ledger.Limits) func(*ledger.Limits) {
	return func(l *ledger.Limits) {
		if in.RequestsPerMinute != nil {
			l.RequestsPerMinute = to.RequestsPerMinute
		}
		if in.TokensPerMinute != nil {
			l.TokensPerMinute = to.TokensPerMinute
		}
		if in.SpendPerDay != nil {
			l.SpendPerDay = to.SpendPerDay
		}
		if in.SpendPerMonth != nil {
			l.SpendPerMonth = to.SpendPerMonth
		}
	}
}

// updateKey changes a key's limits, which are all of it that can change.
func (p *plane) updateKey(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Limits json.RawMessage `json:"limits"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	if in.Limits == nil {
		return invalid("nothing to change: send limits")
	}
	limit, err := readLimits(in.Limits)
	if err != nil {
		return err
	}
	return p.apply(w, r, change{body: body}, func(tx *ledger.Tx) (int, any, error) {
		k, err := tx.LimitKey(r.Context(), r.PathValue("id"), limit)
		return http.StatusOK, viewKey(k), err
	})
}

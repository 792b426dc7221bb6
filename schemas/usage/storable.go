package usage

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"weir/schemas/money"
)

// reservedMax is the first reservation that the warehouse's Decimal(18, 9)
// cannot hold.
const reservedMax = 1_000_000_000 * money.Dollar

// The times that the warehouse's DateTime64 can hold, and no clock leaves.
var (
	earliestMs = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	latestMs   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
)

// CheckStorable refuses, as ErrMalformed, a record that has no place in the
// log, or that the stores behind it cannot hold: there it would be an error for
// ever and keep its partition back.
func (r *Record) CheckStorable() error {
	why := ""
	switch {
	case r.Kind == KindIntent:
		why = "an intent, which never leaves its spool"
	case r.Reserved >= reservedMax:
		why = fmt.Sprintf("a reservation of %s", r.Reserved)
	case r.TimeMs < earliestMs || r.TimeMs >= latestMs:
		why = fmt.Sprintf("time %d", r.TimeMs)
	}
	for _, text := range []string{r.LeaseID, r.Customer, r.Gateway, r.KeyID, r.Provider, r.Source, r.ExternalID} {
		if text != StorableText(text) {
			why = "a name that is no text"
		}
	}
	if why != "" {
		return fmt.Errorf("%w: %s", ErrMalformed, why)
	}
	return nil
}

// StorableText makes text of what is none: PostgreSQL takes neither broken
// UTF-8 nor a zero byte.
func StorableText(text string) string {
	if utf8.ValidString(text) && strings.IndexByte(text, 0) < 0 {
		return text
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

package analytics

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// query is one SQL statement in the making: text from this package alone, and
// everything a client sent as bound arguments.
type query struct {
	where []string
	args  []any
}

func (q *query) and(condition string, args ...any) {
	q.where = append(q.where, condition)
	q.args = append(q.args, args...)
}

func (q *query) text() string {
	if len(q.where) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(q.where, " AND ")
}

// known refuses parameters that would be ignored.
func known(values url.Values, names ...string) error {
	for name, v := range values {
		if !slices.Contains(names, name) {
			return badRequest{fmt.Sprintf("Unknown parameter %q; this path takes %s.", name, strings.Join(names, ", "))}
		}
		if len(v) > 1 {
			return badRequest{fmt.Sprintf("Parameter %q is given twice.", name)}
		}
	}
	return nil
}

// readBool reads a parameter that is true, false or not there.
func readBool(values url.Values, name string) (bool, error) {
	switch text := values.Get(name); text {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, badRequest{fmt.Sprintf("`%s` is %.40q, neither true nor false.", name, text)}
	}
}

// span is a half-open range of time; a zero end is open.
type span struct{ from, to time.Time }

func readSpan(values url.Values) (s span, err error) {
	if s.from, err = readTime(values, "from"); err != nil {
		return s, err
	}
	if s.to, err = readTime(values, "to"); err != nil {
		return s, err
	}
	if !s.from.IsZero() && !s.to.IsZero() && !s.from.Before(s.to) {
		return s, badRequest{"`from` must be before `to`."}
	}
	return s, nil
}

// readTime takes RFC 3339 times and plain dates, which are midnight UTC.
func readTime(values url.Values, name string) (time.Time, error) {
	text := values.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, badRequest{fmt.Sprintf("`%s` is %q; give a time such as 2026-11-01T00:00:00Z or a date.", name, text)}
}

// hourly tells whether the range falls on whole hours, so that the hourly
// rollup answers it exactly.
func (s span) hourly() bool {
	return s.from.Equal(s.from.Truncate(time.Hour)) && s.to.Equal(s.to.Truncate(time.Hour))
}

func (s span) filter(q *query, column string) {
	if !s.from.IsZero() {
		q.and(column+" >= fromUnixTimestamp64Milli(?, 'UTC')", ceilMilli(s.from))
	}
	if !s.to.IsZero() {
		q.and(column+" < fromUnixTimestamp64Milli(?, 'UTC')", ceilMilli(s.to))
	}
}

// ceilMilli is the first whole millisecond that is not before t: events have
// milliseconds, so comparing with it is comparing with t.
func ceilMilli(t time.Time) int64 {
	return t.Add(time.Millisecond - time.Nanosecond).UnixMilli()
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "cannot encode the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a client that left needs no answer
}

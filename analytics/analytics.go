// Package analytics makes the books readable: margin, usage and leakage per
// customer and model, single events, and the tie-out of ledger and warehouse.
package analytics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"weir/internal/ledger"
	"weir/internal/warehouse"
)

// retryAfterSeconds is when to ask again for what cannot be read right now: a
// restart of the warehouse takes about as long.
const retryAfterSeconds = "2"

// Options is what the reports are made from.
type Options struct {
	Ledger *ledger.DB
	// Warehouse is nil without one; WhyNot then says why, empty when the
	// configuration wants none.
	Warehouse *warehouse.DB
	WhyNot    string
	// LogEnds tells the topic and the end offset of each of its partitions.
	LogEnds func(context.Context) (topic string, ends map[int32]int64, err error)
	// Fail answers in the control plane's error shape.
	Fail func(w http.ResponseWriter, r *http.Request, status int, code, message string)
	Log  *slog.Logger
}

// Analytics answers questions about the books.
type Analytics struct{ Options }

// New makes it.
func New(o Options) *Analytics { return &Analytics{o} }

// Routes are the paths it answers, for a mux that authenticates.
func (a *Analytics) Routes() map[string]http.Handler {
	answer := func(f func(*http.Request) (any, error)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.answer(w, r, f) })
	}
	return map[string]http.Handler{
		"GET /api/v1/events":          answer(a.events),
		"GET /api/v1/reports/margin":  answer(func(r *http.Request) (any, error) { return a.report(r, &marginReport) }),
		"GET /api/v1/reports/usage":   answer(func(r *http.Request) (any, error) { return a.report(r, &usageReport) }),
		"GET /api/v1/reports/leakage": answer(func(r *http.Request) (any, error) { return a.report(r, &leakageReport) }),
		"GET /api/v1/tieout":          answer(a.tieOut),
	}
}

// badRequest is a fault of the question, told to who asked.
type badRequest struct{ message string }

func (e badRequest) Error() string { return e.message }

// errNoWarehouse says that there is nothing to ask; its text is for clients.
var errNoWarehouse = errors.New("no warehouse")

func (a *Analytics) answer(w http.ResponseWriter, r *http.Request, f func(*http.Request) (any, error)) {
	body, err := f(r)
	var bad badRequest
	switch {
	case err == nil:
		writeJSON(w, body)
	case errors.As(err, &bad):
		a.Fail(w, r, http.StatusBadRequest, "invalid_request", bad.message)
	case errors.Is(err, errNoWarehouse):
		w.Header().Set("Retry-After", retryAfterSeconds)
		a.Fail(w, r, http.StatusServiceUnavailable, "warehouse_unavailable", a.why())
	default:
		if r.Context().Err() == nil {
			a.Log.Error("cannot answer", "path", r.URL.Path, "err", err)
		}
		w.Header().Set("Retry-After", retryAfterSeconds)
		a.Fail(w, r, http.StatusServiceUnavailable, "unavailable", "The books cannot be read right now. Try again shortly.")
	}
}

func (a *Analytics) warehouseUp() bool { return a.Warehouse != nil && a.Warehouse.Up() }

// wantsNone tells whether this installation is to run without a warehouse.
func (a *Analytics) wantsNone() bool { return a.Warehouse == nil && a.WhyNot == "" }

// why says what is wrong with the warehouse.
func (a *Analytics) why() string {
	switch {
	case a.WhyNot != "":
		return a.WhyNot
	case a.wantsNone():
		return "This installation runs without a warehouse (clickhouse.url: none)."
	default:
		return "The warehouse is starting or cannot be reached. Nothing is lost: it catches up by itself."
	}
}

// each runs a query and hands every row's Scan to f.
func (a *Analytics) each(ctx context.Context, text string, args []any, f func(scan func(into ...any) error) error) error {
	if !a.warehouseUp() {
		return errNoWarehouse
	}
	rows, err := a.Warehouse.Conn().Query(ctx, text, args...)
	if err != nil {
		return fmt.Errorf("cannot query the warehouse: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return fmt.Errorf("cannot read the warehouse's answer: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("cannot read the warehouse's answer: %w", err)
	}
	return nil
}

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"weir/schemas/money"
)

const (
	// pageRows is the most events that the API gives at once.
	pageRows = 1000
	// sqlRows is one page of SQL rows, far below the limits that readers have.
	sqlRows = 20_000
	// settleWait is how long the books may take to be complete after the last answer; five
	// seconds are promised, and the columnar engine may have to start first.
	settleWait = 30 * time.Second
	// bookTimeout bounds one question, the wait included.
	bookTimeout = settleWait + time.Minute
	settlePoll  = 100 * time.Millisecond
)

// books are weir's, read as any outsider reads them: over HTTP, with the admin token and the SQL
// reader's password.
type books struct {
	control, sql    string // base URLs; sql "" is off
	token, password string
}

// refused is an answer of the control plane that is no success.
type refused struct{ text string }

func (r refused) Error() string { return r.text }

// api asks the control plane. A body makes it a POST that happens once.
func (b *books) api(ctx context.Context, path string, body, out any) error {
	if body != nil {
		return b.ask(ctx, http.MethodPost, path, body, out)
	}
	return b.ask(ctx, http.MethodGet, path, nil, out)
}

func (b *books) ask(ctx context.Context, method, path string, body, out any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, b.control+"/api/v1"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+b.token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", fmt.Sprintf("demo %s %s", path, text))
	}
	answer, err := call(r)
	if err == nil {
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		return fmt.Errorf("cannot %s /api/v1%s: %w", method, path, err)
	}
	return nil
}

// call returns the body of a good answer.
func call(r *http.Request) ([]byte, error) {
	client := http.Client{Timeout: bookTimeout}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 == 2 {
		return body, err
	}
	var failed struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &failed) == nil && failed.Error.Message != "" {
		return nil, refused{failed.Error.Message}
	}
	return nil, refused{fmt.Sprintf("status %d: %s", resp.StatusCode, bytes.TrimSpace(body))}
}

// pages reads a whole list.
func pages[T any](ctx context.Context, b *books, path string) (list []T, err error) {
	var page struct {
		Data []T     `json:"data"`
		Next *string `json:"next_cursor"`
	}
	query := url.Values{"limit": {strconv.Itoa(pageRows)}}
	for {
		page.Data, page.Next = nil, nil
		if err := b.api(ctx, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		if list = append(list, page.Data...); page.Next == nil {
			return list, nil
		}
		query.Set("cursor", *page.Next)
	}
}

// wait asks until it is so. That it does not come to be so is no error: what there is then shows
// as a difference.
func wait(ctx context.Context, so func() (bool, error)) error {
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for deadline := time.Now().Add(settleWait); ; {
		if done, err := so(); err != nil || done || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// enroll makes a customer, its key, and the credit that the operator gives it.
func (b *books) enroll(ctx context.Context, c *customer) error {
	var ignored json.RawMessage
	path := "/customers/" + c.id
	if err := b.api(ctx, "/customers", map[string]string{"id": c.id, "name": c.name}, &ignored); err != nil {
		return err
	}
	for _, credit := range []struct {
		amount money.Nano
		kind   string
	}{{c.paid, "paid"}, {c.promo, "promo"}} {
		if c.byCard || credit.amount == 0 {
			continue
		}
		body := map[string]any{"amount": credit.amount, "reason": "demo", "kind": credit.kind}
		if err := b.api(ctx, path+"/credits", body, &ignored); err != nil {
			return err
		}
	}
	if c.overdraft != 0 {
		if err := b.ask(ctx, http.MethodPatch, path, map[string]any{"overdraft": c.overdraft}, &ignored); err != nil {
			return err
		}
	}
	var made struct {
		Key string `json:"key"`
	}
	if err := b.api(ctx, path+"/keys", map[string]string{"name": "demo"}, &made); err != nil {
		return err
	}
	c.key = made.Key
	return nil
}

// row is one row of usage_events, by the names that API and SQL share.
type row struct {
	EventID      string            `json:"event_id"`
	EntryNo      int               `json:"entry_no"`
	Kind         string            `json:"kind"`
	RequestID    string            `json:"request_id"`
	Customer     string            `json:"customer"`
	Provider     string            `json:"provider"`
	API          string            `json:"api"`
	Model        string            `json:"model"`
	Rule         string            `json:"rule"`
	Status       string            `json:"status"`
	Tags         map[string]string `json:"tags"`
	Stream       bool              `json:"stream"`
	Estimated    bool              `json:"estimated"`
	Input        int               `json:"input_tokens"`
	CachedInput  int               `json:"cached_input_tokens"`
	CacheWrite5m int               `json:"cache_write_5m_tokens"`
	CacheWrite1h int               `json:"cache_write_1h_tokens"`
	Output       int               `json:"output_tokens"`
	Reasoning    int               `json:"reasoning_tokens"`
	Cost         money.Nano        `json:"cost"`
	Price        money.Nano        `json:"price"`
	Margin       money.Nano        `json:"margin"`
}

// events reads all events of a span of time from the API. A full page is asked for again in
// halves, so that nothing depends on the order of pages while rows arrive.
func (b *books) events(ctx context.Context, from, to time.Time) ([]row, error) {
	var page struct {
		Data []row `json:"data"`
	}
	span := url.Values{"from": {from.UTC().Format(time.RFC3339Nano)}, "to": {to.UTC().Format(time.RFC3339Nano)}, "limit": {strconv.Itoa(pageRows)}}
	if err := b.api(ctx, "/events?"+span.Encode(), nil, &page); err != nil {
		return nil, err
	}
	if len(page.Data) < pageRows {
		return page.Data, nil
	}
	middle := from.Add(to.Sub(from) / 2).Truncate(time.Millisecond) // the grain of events' times
	if !middle.After(from) {
		return nil, errors.New("more events in a millisecond than the API can show")
	}
	earlier, err := b.events(ctx, from, middle)
	if err != nil {
		return nil, err
	}
	later, err := b.events(ctx, middle, to)
	return append(earlier, later...), err
}

// rowsQuery casts counts because JSON carries wide integers as strings. A cast that wraps would
// show as a difference.
const rowsQuery = `SELECT event_id, entry_no, kind, request_id, customer, provider, api, model, rule, status, tags,
 toBool(stream) AS stream, toBool(estimated) AS estimated,
 toUInt32(input_tokens) AS input_tokens, toUInt32(cached_input_tokens) AS cached_input_tokens,
 toUInt32(cache_write_5m_tokens) AS cache_write_5m_tokens, toUInt32(cache_write_1h_tokens) AS cache_write_1h_tokens,
 toUInt32(output_tokens) AS output_tokens, toUInt32(reasoning_tokens) AS reasoning_tokens,
 toString(cost) AS cost, toString(price) AS price, toString(margin) AS margin
 FROM weir.usage_events ORDER BY event_id, entry_no LIMIT %d OFFSET %d FORMAT JSONEachRow`

// rows reads all of usage_events by SQL.
func (b *books) rows(ctx context.Context) ([]row, error) {
	var all []row
	for {
		page, err := query[row](ctx, b, fmt.Sprintf(rowsQuery, sqlRows, len(all)))
		all = append(all, page...)
		if err != nil || len(page) < sqlRows {
			return all, err
		}
	}
}

// query runs one SQL statement and decodes its rows.
func query[T any](ctx context.Context, b *books, statement string) ([]T, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.sql+"/", bytes.NewReader([]byte(statement)))
	if err != nil {
		return nil, err
	}
	r.SetBasicAuth("weir_reader", b.password)
	answer, err := call(r)
	if err != nil {
		return nil, fmt.Errorf("cannot ask by SQL: %w", err)
	}
	var list []T
	for decoder := json.NewDecoder(bytes.NewReader(answer)); decoder.More(); {
		var one T
		if err := decoder.Decode(&one); err != nil {
			return nil, fmt.Errorf("cannot read the answer to SQL: %w", err)
		}
		list = append(list, one)
	}
	return list, nil
}

// margin is one row of a margin report or view.
type margin struct {
	Customer string      `json:"customer"`
	Provider string      `json:"provider"`
	Model    string      `json:"model"`
	Requests int         `json:"requests"`
	Cost     money.Nano  `json:"cost"`
	Price    money.Nano  `json:"price"`
	Margin   money.Nano  `json:"margin"`
	Percent  json.Number `json:"margin_percent"` // the API's; "" where the price is 0
	Fees     money.Nano  `json:"fees"`           // of payments, in the net report alone
	Net      money.Nano  `json:"net"`
}

// name is what the row is about.
func (m *margin) name() string {
	if m.Model != "" {
		return m.Provider + "/" + m.Model
	}
	return m.Customer
}

// report is the API's margin report.
type report struct {
	Rows   []margin `json:"rows"`
	Totals margin   `json:"totals"`
}

// viewQuery reads a margin view, whose keys are given.
const viewQuery = `SELECT %s, toUInt32(requests) AS requests, toString(cost) AS cost, toString(price) AS price, toString(margin) AS margin
 FROM weir.%s FORMAT JSONEachRow`

// wallet is a customer's money as the ledger has it.
type wallet struct {
	Customer   string     `json:"customer"`
	Credited   money.Nano `json:"credited"`
	Balance    money.Nano `json:"balance"`
	Receivable money.Nano `json:"receivable"`
}

// tieOut is the tie-out as weir says it.
type tieOut struct {
	OK         bool           `json:"ok"`
	Pending    map[string]int `json:"pending"`
	Events     sums           `json:"events"`
	Ledger     sums           `json:"ledger"`
	ClickHouse *sums          `json:"clickhouse"`
	Leakage    struct {
		Count int `json:"count"`
	} `json:"leakage"`
	Breaks []broken `json:"breaks"`
}

// broken is one thing that weir itself found wrong.
type broken struct {
	Batch    string `json:"batch"`
	Check    string `json:"check"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

type sums struct {
	Count int        `json:"count"`
	Cost  money.Nano `json:"cost"`
	Price money.Nano `json:"price"`
}

// tieOut asks once the books are complete. Without a warehouse something is always pending, so
// that then the events are waited for.
func (b *books) tieOut(ctx context.Context, events int) (tied tieOut, err error) {
	if b.sql != "" {
		return tied, b.api(ctx, "/tieout?wait="+settleWait.String(), nil, &tied)
	}
	err = wait(ctx, func() (bool, error) {
		err := b.api(ctx, "/tieout", nil, &tied)
		return tied.Events.Count >= events, err
	})
	return tied, err
}

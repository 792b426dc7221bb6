package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// queryRows bounds one page of SQL rows, below the limits that readers have.
	queryRows = 5000
	// pageRows is the most the API gives at once.
	pageRows = 1000
	// callTimeout bounds one call to weir.
	callTimeout = 30 * time.Second
	// nanoDigits are the places of an amount after the point.
	nanoDigits = 9
)

// credits fund the customers, in dollars; the last is to run dry under load, so that refusals
// and requests at the end of a wallet take part.
var credits = []string{"1000", "1000", "1000", "1000", "0.05"}

func customerID(i int) string { return fmt.Sprintf("crash-%d", i) }

// nano reads a decimal amount in dollars.
func nano(text string) (int64, error) {
	digits, negative := strings.CutPrefix(text, "-")
	whole, part, _ := strings.Cut(digits, ".")
	if whole == "" || len(part) > nanoDigits {
		return 0, fmt.Errorf("%q is no amount", text)
	}
	n, err := strconv.ParseUint(whole+part+strings.Repeat("0", nanoDigits-len(part)), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no amount: %w", text, err)
	}
	if negative {
		return -int64(n), nil
	}
	return int64(n), nil
}

// amount is a nano-dollar amount that JSON carries as a decimal string or, in ClickHouse's rows,
// as a number.
type amount int64

// UnmarshalJSON reads both forms without a float in between.
func (a *amount) UnmarshalJSON(text []byte) error {
	n, err := nano(strings.Trim(string(text), `"`))
	*a = amount(n)
	return err
}

// books are weir's, as an outsider reads them.
type books struct {
	dataDir string
	at      ready
	keys    string // of the customers, separated by commas
}

// secret reads a generated one from the data directory.
func (b *books) secret(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(b.dataDir, name))
	if err != nil {
		return "", fmt.Errorf("cannot read a secret: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// api calls the control plane and reads the answer into out.
func (b *books) api(ctx context.Context, method, path string, body any, out any) error {
	token, err := b.secret("admin-token")
	if err != nil {
		return err
	}
	var text io.Reader
	if body != nil {
		whole, err := json.Marshal(body)
		if err != nil {
			return err
		}
		text = bytes.NewReader(whole)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+b.at.Control+"/api/v1"+path, text)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", rand.Text())
	}
	answer, err := call(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("cannot read %s %s: %w", method, path, err)
	}
	return nil
}

// call sends a request and returns the body of a good answer.
func call(r *http.Request) ([]byte, error) {
	client := http.Client{Timeout: callTimeout}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot %s %s: %w", r.Method, r.URL.Path, err)
	}
	return body, nil
}

// fund makes the customers, their credits and keys.
func (b *books) fund(ctx context.Context) error {
	var keys []string
	for i, credit := range credits {
		path := "/customers/" + customerID(i)
		var ignored json.RawMessage
		var key struct {
			Key string `json:"key"`
		}
		err := errors.Join(
			b.api(ctx, http.MethodPost, "/customers", map[string]string{"id": customerID(i)}, &ignored),
			b.api(ctx, http.MethodPost, path+"/credits", map[string]string{"amount": credit, "reason": "crash", "kind": "paid"}, &ignored),
			b.api(ctx, http.MethodPost, path+"/keys", struct{}{}, &key))
		if err != nil {
			return err
		}
		keys = append(keys, key.Key)
	}
	b.keys = strings.Join(keys, ",")
	return nil
}

// tiedOut is the tie-out as weir says it.
type tiedOut struct {
	text    []byte
	OK      bool             `json:"ok"`
	Pending map[string]int64 `json:"pending"`
	Events  sums             `json:"events"`
	Leases  struct {
		Held amount `json:"held"`
	} `json:"leases"`
	Leakage struct {
		Count int `json:"count"`
	} `json:"leakage"`
}

type sums struct {
	Count int    `json:"count"`
	Cost  amount `json:"cost"`
	Price amount `json:"price"`
}

func (b *books) tieOut(ctx context.Context) (tiedOut, error) {
	var text json.RawMessage
	if err := b.api(ctx, http.MethodGet, "/tieout", nil, &text); err != nil {
		return tiedOut{}, err
	}
	t := tiedOut{text: text}
	if err := json.Unmarshal(text, &t); err != nil {
		return t, fmt.Errorf("cannot read the tie-out: %w", err)
	}
	return t, nil
}

// closed tells whether nothing is under way and nothing is held.
func (t *tiedOut) closed() bool {
	for _, n := range t.Pending {
		if n != 0 {
			return false
		}
	}
	return t.OK && len(t.Pending) >= 3 && t.Leases.Held == 0
}

// row is one row of usage_events, by the names that SQL and the API share.
type row struct {
	EventID   string `json:"event_id"`
	EntryNo   int    `json:"entry_no"`
	Kind      string `json:"kind"`
	RequestID string `json:"request_id"`
	Customer  string `json:"customer"`
	Status    string `json:"status"`
	Price     amount `json:"price"`
	Cost      amount `json:"cost"`
	Input     int64  `json:"input_tokens"`
	Cached    int64  `json:"cached_input_tokens"`
	Write5m   int64  `json:"cache_write_5m_tokens"`
	Write1h   int64  `json:"cache_write_1h_tokens"`
	Output    int64  `json:"output_tokens"`
	Reasoning int64  `json:"reasoning_tokens"`
}

func (r *row) meters() meters {
	return meters{r.Input, r.Cached, r.Write5m, r.Write1h, r.Output, r.Reasoning}
}

// rowsQuery casts the tokens because JSON carries wider integers as strings on some servers, and a
// read-only user may not change the setting. A cast that wraps would show as a difference.
const rowsQuery = `SELECT event_id, entry_no, kind, request_id, customer, status, toString(price) AS price, toString(cost) AS cost,
 toUInt32(input_tokens) AS input_tokens, toUInt32(cached_input_tokens) AS cached_input_tokens,
 toUInt32(cache_write_5m_tokens) AS cache_write_5m_tokens, toUInt32(cache_write_1h_tokens) AS cache_write_1h_tokens,
 toUInt32(output_tokens) AS output_tokens, toUInt32(reasoning_tokens) AS reasoning_tokens
 FROM weir.usage_events ORDER BY event_id, entry_no LIMIT %d OFFSET %d FORMAT JSONEachRow`

// rows reads all of usage_events by SQL, without FINAL: a duplicate stays one.
func (b *books) rows(ctx context.Context) ([]row, error) {
	password, err := b.secret("clickhouse-password")
	if err != nil {
		return nil, err
	}
	var all []row
	for {
		query := url.Values{"query": {fmt.Sprintf(rowsQuery, queryRows, len(all))}}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.at.ClickHouse+"/?"+query.Encode(), nil)
		if err != nil {
			return nil, err
		}
		r.SetBasicAuth("weir_reader", password)
		answer, err := call(r)
		if err != nil {
			return nil, err
		}
		before := len(all)
		for decoder := json.NewDecoder(bytes.NewReader(answer)); decoder.More(); {
			var one row
			if err := decoder.Decode(&one); err != nil {
				return nil, fmt.Errorf("cannot read usage_events: %w", err)
			}
			all = append(all, one)
		}
		if len(all)-before < queryRows {
			return all, nil
		}
	}
}

// events reads one customer's events from the API.
func (b *books) events(ctx context.Context, customer string) ([]row, error) {
	var all []row
	query := url.Values{"customer": {customer}, "limit": {strconv.Itoa(pageRows)}}
	for {
		var page struct {
			Data []row   `json:"data"`
			Next *string `json:"next_cursor"`
		}
		if err := b.api(ctx, http.MethodGet, "/events?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Data...)
		if page.Next == nil {
			return all, nil
		}
		query.Set("cursor", *page.Next)
	}
}

// wallet is a customer's money as the ledger has it.
type wallet struct {
	Customer   string `json:"customer"`
	Credited   amount `json:"credited"`
	Balance    amount `json:"balance"`
	Held       amount `json:"held"`
	Receivable amount `json:"receivable"`
}

// read adds weir's side to the facts.
func (b *books) read(ctx context.Context, f *facts) error {
	var err error
	if f.tied, err = b.tieOut(ctx); err != nil {
		return err
	}
	if f.rows, err = b.rows(ctx); err != nil {
		return err
	}
	for i := range credits {
		var w wallet
		if err := b.api(ctx, http.MethodGet, "/customers/"+customerID(i)+"/wallet", nil, &w); err != nil {
			return err
		}
		f.wallets = append(f.wallets, w)
		events, err := b.events(ctx, customerID(i))
		if err != nil {
			return err
		}
		f.events = append(f.events, events...)
	}
	return nil
}

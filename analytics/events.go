package analytics

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
)

const (
	// eventsDefault and eventsMax bound one page of events.
	eventsDefault = 100
	eventsMax     = 1000
)

// event is one row of usage_events.
type event struct {
	EventID            string            `json:"event_id"`
	EntryNo            uint16            `json:"entry_no"`
	Kind               string            `json:"kind"`
	RequestID          string            `json:"request_id"`
	EventTime          time.Time         `json:"event_time"`
	Customer           string            `json:"customer"`
	KeyID              string            `json:"key_id"`
	Provider           string            `json:"provider"`
	API                string            `json:"api"`
	Model              string            `json:"model"`
	ModelBilled        string            `json:"model_billed"`
	Rule               string            `json:"rule"`
	Tags               map[string]string `json:"tags"`
	Status             string            `json:"status"`
	Stream             bool              `json:"stream"`
	Estimated          bool              `json:"estimated"`
	InputTokens        uint64            `json:"input_tokens"`
	CachedInputTokens  uint64            `json:"cached_input_tokens"`
	CacheWrite5mTokens uint64            `json:"cache_write_5m_tokens"`
	CacheWrite1hTokens uint64            `json:"cache_write_1h_tokens"`
	OutputTokens       uint64            `json:"output_tokens"`
	ReasoningTokens    uint64            `json:"reasoning_tokens"`
	Units              map[string]uint64 `json:"units"`
	Reserved           amount            `json:"reserved"`
	Cost               amount            `json:"cost"`
	Price              amount            `json:"price"`
	Margin             amount            `json:"margin"`
	Currency           string            `json:"currency"`
	CostCard           string            `json:"cost_card"`
	PriceCard          string            `json:"price_card"`
	HTTPStatus         uint16            `json:"http_status"`
	LatencyMs          uint32            `json:"latency_ms"`
	TTFTMs             uint32            `json:"ttft_ms"`
	Gateway            string            `json:"gateway"`
	LeaseID            string            `json:"lease_id"`
	Seq                uint64            `json:"seq"`
	BatchID            string            `json:"batch_id"`
}

const eventColumns = `event_id, entry_no, kind, request_id, event_time, customer, key_id, provider, api, model, model_billed, rule, tags, status,
	toBool(stream), toBool(estimated), input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, units,
	toString(reserved), toString(cost), toString(price), toString(margin), currency, cost_card, price_card, http_status, latency_ms, ttft_ms,
	gateway, lease_id, seq, batch_id`

func (e *event) fields() []any {
	return []any{&e.EventID, &e.EntryNo, &e.Kind, &e.RequestID, &e.EventTime, &e.Customer, &e.KeyID, &e.Provider, &e.API, &e.Model, &e.ModelBilled,
		&e.Rule, &e.Tags, &e.Status, &e.Stream, &e.Estimated, &e.InputTokens, &e.CachedInputTokens, &e.CacheWrite5mTokens, &e.CacheWrite1hTokens,
		&e.OutputTokens, &e.ReasoningTokens, &e.Units, &e.Reserved, &e.Cost, &e.Price, &e.Margin, &e.Currency, &e.CostCard, &e.PriceCard,
		&e.HTTPStatus, &e.LatencyMs, &e.TTFTMs, &e.Gateway, &e.LeaseID, &e.Seq, &e.BatchID}
}

// amount is a decimal of the warehouse, written as dollars everywhere else.
type amount struct{ money.Nano }

// Scan reads the text of a decimal.
func (a *amount) Scan(src any) (err error) {
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("BUG: an amount comes as %T", src)
	}
	a.Nano, err = money.ParseNano(text)
	return err
}

// events lists single events, newest first.
func (a *Analytics) events(r *http.Request) (any, error) {
	values := r.URL.Query()
	if err := known(values, "customer", "request_id", "from", "to", "limit", "cursor"); err != nil {
		return nil, err
	}
	limit := eventsDefault
	if text := values.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > eventsMax {
			return nil, badRequest{"`limit` must be a whole number from 1 to " + strconv.Itoa(eventsMax) + "."}
		}
		limit = n
	}
	when, err := readSpan(values)
	if err != nil {
		return nil, err
	}
	var q query
	if v := values.Get("customer"); v != "" {
		q.and("customer = ?", v)
	}
	if v := values.Get("request_id"); v != "" {
		q.and("request_id = ?", v)
	}
	when.filter(&q, "event_time")
	if text := values.Get("cursor"); text != "" {
		if err := after(&q, text); err != nil {
			return nil, err
		}
	}
	rows, err := a.readEvents(r.Context(), q, limit+1) // one more tells whether there is a next page
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"data": rows, "next_cursor": nil}
	if len(rows) > limit {
		answer["data"], answer["next_cursor"] = rows[:limit], rows[limit-1].cursor()
	}
	return answer, nil
}

// cursor names the row as the last one of a page.
func (e *event) cursor() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %d %s", e.EventTime.UnixMilli(), e.EntryNo, e.EventID))
}

// after goes on behind the row that a cursor names.
func after(q *query, text string) error {
	var ms int64
	var entryNo uint16
	var id string
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		_, err = fmt.Sscanf(string(raw), "%d %d %s", &ms, &entryNo, &id)
	}
	if err != nil {
		return badRequest{"`cursor` is none that this list gave."}
	}
	q.and("(event_time, event_id, entry_no) < (fromUnixTimestamp64Milli(?, 'UTC'), ?, ?)", ms, id, entryNo)
	return nil
}

func (a *Analytics) readEvents(ctx context.Context, q query, limit int) ([]event, error) {
	list := []event{}
	err := a.each(ctx, "SELECT "+eventColumns+" FROM usage_events"+q.text()+
		" ORDER BY event_time DESC, event_id DESC, entry_no DESC LIMIT "+strconv.Itoa(limit), q.args, func(scan func(...any) error) error {
		var e event
		err := scan(e.fields()...)
		list = append(list, e)
		return err
	})
	return list, err
}

// Generation tells a customer of one request of his own: what it used and what
// he paid, never what it cost. ledger.ErrNotFound where there is none.
func (a *Analytics) Generation(ctx context.Context, customer, requestID string) ([]byte, error) {
	var q query
	q.and("customer = ?", customer)
	q.and("request_id = ?", requestID)
	rows, err := a.readEvents(ctx, q, eventsMax)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, ledger.ErrNotFound
	}
	first := rows[len(rows)-1]
	var price money.Nano
	for _, e := range rows {
		price += e.Price.Nano // a correction is one more row
	}
	used := map[string]uint64{"input": first.InputTokens, "cached_input": first.CachedInputTokens, "cache_write_5m": first.CacheWrite5mTokens,
		"cache_write_1h": first.CacheWrite1hTokens, "output": first.OutputTokens, "reasoning": first.ReasoningTokens}
	for name, n := range first.Units {
		used[name] = n
	}
	return json.Marshal(map[string]any{"data": map[string]any{"id": first.RequestID, "model": first.Model, "status": first.Status, "price": price,
		"usage": used, "created_at": first.EventTime.UTC().Format(time.RFC3339Nano)}})
}

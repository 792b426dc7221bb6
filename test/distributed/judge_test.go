package distributed

import (
	"encoding/json"

	"weir/internal/standin"
	"weir/schemas/money"
)

// row is what the judge needs of usage_events.
type row struct {
	RequestID string     `json:"request_id"`
	Customer  string     `json:"customer"`
	Kind      string     `json:"kind"`
	Status    string     `json:"status"`
	Price     money.Nano `json:"price"`
	Input     int        `json:"input"`
	Output    int        `json:"output"`
}

// verdict counts what was compared.
type verdict struct{ whole, served, billed, leaked, errors int }

// judge compares what clients have, what the provider served by its own log,
// and what ClickHouse holds. Who has a whole answer is billed for it once, at
// the price he was told; what was served is billed, or reported as leakage; and
// nothing else is billed.
func (in *installation) judge(answers []answer) (v verdict) {
	in.Helper()
	byRequest := in.rows(&v)
	for _, a := range answers {
		if !a.ok() {
			continue
		}
		v.whole++
		r, found := byRequest[a.id]
		told, err := money.ParseNano(a.price)
		switch {
		case !found:
			in.Errorf("request %s was answered whole and is in no row", a.id)
		case r.Kind != "usage" || r.Status != "ok":
			in.Errorf("request %s was answered whole and is booked as %s, %s", a.id, r.Kind, r.Status)
		case !a.stream && (err != nil || told != r.Price):
			in.Errorf("request %s: told %q, billed %s", a.id, a.price, r.Price)
		}
	}
	lines, err := standin.ReadLog(in.served())
	if err != nil {
		in.Fatal(err)
	}
	reached := map[string]bool{}
	for _, l := range lines {
		r, found := byRequest[l.RequestID]
		if !reached[l.RequestID] {
			v.served++
		}
		reached[l.RequestID] = true
		switch {
		case !found:
			in.Errorf("request %s reached the provider and is in no row", l.RequestID)
		case l.Outcome == standin.OutcomeComplete && r.Kind == "usage" && (r.Input != l.Meters.Input || r.Output != l.Meters.Output):
			in.Errorf("request %s: served %+v, billed %+v", l.RequestID, l.Meters, r)
		}
	}
	for id, r := range byRequest {
		if r.Kind == "usage" && !reached[id] {
			in.Errorf("request %s is billed and never reached the provider", id)
		}
	}
	return v
}

// rows reads the first entry of every event, and finds what is there twice.
func (in *installation) rows(v *verdict) map[string]row {
	in.Helper()
	byRequest := map[string]row{}
	for _, text := range in.sql(`SELECT request_id, customer, kind, status, toString(price) AS price,
		toUInt32(input_tokens) AS input, toUInt32(output_tokens) AS output FROM weir.usage_events WHERE entry_no = 0`) {
		if text == "" {
			continue
		}
		var r row
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			in.Fatal(err)
		}
		if old, twice := byRequest[r.RequestID]; twice {
			in.Errorf("request %s has two rows: %+v and %+v", r.RequestID, old, r)
		}
		byRequest[r.RequestID] = r
		switch r.Kind {
		case "usage":
			v.billed++
		case "leakage":
			v.leaked++
		case "error":
			v.errors++
		}
	}
	return byRequest
}

// sql asks the installation's ClickHouse server.
func (in *installation) sql(text string) []string {
	in.Helper()
	return query(in.T, "http://"+in.clickhouse.at, "weir", "secret", text)
}

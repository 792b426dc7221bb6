package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// tell sends a request to the routes for usage from outside. Their
// authentication is the control plane's.
func (r *rig) tell(method, path, body string, headers ...string) (int, map[string]any) {
	r.t.Helper()
	mux := http.NewServeMux()
	for pattern, h := range r.OutsideRoutes() {
		mux.Handle(pattern, h)
	}
	req := httptest.NewRequest(method, "/api/v1"+path, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, req)
	answer := map[string]any{}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		r.t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return w.Code, answer
}

// told checks a refusal and returns its message.
func (r *rig) told(status int, answer map[string]any, wantStatus int, wantCode string) string {
	r.t.Helper()
	e, _ := answer["error"].(map[string]any)
	if status != wantStatus || e["code"] != wantCode {
		r.t.Fatalf("%d %v, expected %d %s", status, answer, wantStatus, wantCode)
	}
	return e["message"].(string)
}

// 2,000 in and 1,000 out of gpt-4o-mini cost 2,000 × 150 + 1,000 × 600 =
// 900,000 nano-dollars; the card asks three times that.
const (
	usedMeters = `{"input":2000,"output":1000}`
	usedCost   = money.Nano(900_000)
	usedPrice  = 3 * usedCost
)

func event(id, customer string) string {
	return fmt.Sprintf(`{"id":%q,"customer":%q,"model":"openai/gpt-4o-mini","meters":%s,"tags":{"team":"blue"}}`, id, customer, usedMeters)
}

func TestReportedUsage(t *testing.T) {
	for name, send := range map[string]func(r *rig) (int, map[string]any){
		"plain": func(r *rig) (int, map[string]any) { return r.tell("POST", "/events", event("e1", "acme")) },
		"array": func(r *rig) (int, map[string]any) { return r.tell("POST", "/events", "["+event("e1", "acme")+"]") },
		"structured": func(r *rig) (int, map[string]any) {
			return r.tell("POST", "/events", `{"specversion":"1.0","id":"e1","source":"api","type":"weir.usage","subject":"acme","extra":"x",
				"data":{"provider":"openai","model":"gpt-4o-mini","meters":`+usedMeters+`,"tags":{"team":"blue"}}}`, "Content-Type: application/cloudevents+json; charset=utf-8")
		},
		"batch": func(r *rig) (int, map[string]any) {
			return r.tell("POST", "/events", `[{"specversion":"1.0","id":"e1","source":"api","type":"weir.usage","subject":"acme","time":"`+time.Now().UTC().Format(time.RFC3339Nano)+`",
				"data":{"model":"openai/gpt-4o-mini","meters":`+usedMeters+`,"tags":{"team":"blue"}}}]`, "Content-Type: application/cloudevents-batch+json")
		},
		"binary": func(r *rig) (int, map[string]any) {
			return r.tell("POST", "/events", `{"model":"openai/gpt-4o-mini","meters":`+usedMeters+`,"tags":{"team":"blue"}}`, "Content-Type: application/json",
				"ce-specversion: 1.0", "ce-id: e1", "ce-source: api", "ce-type: weir.usage", "ce-subject: acme")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			status, answer := send(r)
			if status != http.StatusAccepted || answer["accepted"] != 1.0 {
				t.Fatal(status, answer)
			}
			rec := r.result()
			if rec.Customer != "acme" || rec.Source != "api" || rec.ExternalID != "e1" || rec.API != apiOutside || rec.Provider != "openai" ||
				rec.Cost != usedCost || rec.Price != usedPrice || rec.Status != usage.StatusOK || rec.Row != usage.RowUsage ||
				len(rec.Tags) != 1 || rec.Tags[0] != (usage.Tag{Key: "team", Value: "blue"}) || rec.Seq != 1 {
				t.Errorf("%+v", rec)
			}
			if e := answer["events"].([]any)[0].(map[string]any); e["price"] != usedPrice.String() || e["request_id"] != rec.RequestID {
				t.Errorf("%v", e)
			}
			// The same again, and in another request: answered, not recorded.
			status, answer = r.tell("POST", "/events", event("e1", "acme"))
			if status != http.StatusAccepted || answer["duplicates"] != 1.0 || answer["accepted"] != 0.0 {
				t.Error(status, answer)
			}
			r.result()
		})
	}
}

// TestReportedUsageIsNeverRefusedForMoney: it has happened, so that it is
// recorded under a lease of nothing, which closes with it.
func TestReportedUsageIsNeverRefusedForMoney(t *testing.T) {
	r := newRig(t)
	r.customer("poor", usedPrice-1)
	r.customer("cold", money.Dollar)
	must(t, r.Ledger.Tx(t.Context(), func(tx *ledger.Tx) error {
		frozen := ledger.Frozen
		_, err := tx.UpdateCustomer(t.Context(), "cold", &frozen, nil)
		return err
	}))
	for i, customer := range []string{"poor", "cold"} {
		if status, answer := r.tell("POST", "/events", event("e", customer)); status != http.StatusAccepted {
			t.Fatal(customer, status, answer)
		}
		var closed *usage.Record
		for _, rec := range r.records(usage.KindClose) {
			if rec.Customer == customer {
				closed = &rec
			}
		}
		if events := r.records(usage.KindUsage); len(events) != i+1 || closed == nil || closed.LeaseID != events[i].LeaseID ||
			closed.Seq != 2 || closed.Count != 1 || closed.PriceSum != usedPrice {
			t.Errorf("%s: %+v closed by %+v", customer, events, closed)
		}
	}
	if n, held := r.Book.InFlight(); held != 0 || n > 1 {
		t.Errorf("%d leases hold %s", n, held)
	}
}

func TestReportsThatAreWrong(t *testing.T) {
	r := newRig(t)
	good := event("good", "acme")
	for body, want := range map[string]struct {
		status     int
		code, says string
	}{
		`[` + good + `,{"id":"b","customer":"acme","model":"openai/gpt-9","meters":{"input":1}}]`:                      {422, "unpriced_model", "event 1:"},
		`[` + good + `,{"id":"b","customer":"acme","model":"openai/gpt-4o-mini","meters":{"inputs":1}}]`:               {422, "invalid_meters", `event 1: there is no meter "inputs"`},
		`[` + good + `,{"id":"b","customer":"acme","model":"openai/gpt-4o-mini","meters":{"input":-1}}]`:               {422, "invalid_meters", "-1"},
		`[` + good + `,{"id":"b","customer":"acme","model":"openai/gpt-4o-mini","meters":{"input":1.5}}]`:              {422, "invalid_meters", "1.5"},
		`[` + good + `,{"id":"b","customer":"acme","model":"openai/gpt-4o-mini","meters":{"input":1e18}}]`:             {422, "invalid_meters", "1e18"},
		`[` + good + `,{"id":"b","customer":"acme","model":"openai/gpt-4o-mini","meters":{"images":1}}]`:               {422, "unpriced_option", "images"},
		`[` + good + `,{"id":"b","customer":"nobody","model":"openai/gpt-4o-mini","meters":{"input":1}}]`:              {404, "unknown_customer", "nobody"},
		`[` + good + `,{"id":"b","model":"openai/gpt-4o-mini","meters":{"input":1}}]`:                                  {400, "invalid_request", "customer"},
		`[` + good + `,{"customer":"acme","model":"openai/gpt-4o-mini","meters":{"input":1}}]`:                         {400, "invalid_request", "id is missing"},
		`[` + good + `,{"id":"b","customer":"acme","price":"1","model":"openai/gpt-4o-mini","meters":{"input":1}}]`:    {400, "invalid_request", `unknown field "price"`},
		`{"id":"b","customer":"acme","time":"2020-01-01T00:00:00Z","model":"openai/gpt-4o-mini","meters":{"input":1}}`: {422, "invalid_time", "2020"},
		`{"id":"b","customer":"acme","model":"openai/gpt-4o-mini","meters":{"input":1},"tags":{"Team":"x"}}`:           {400, "invalid_tag", "Team"},
		`{"id":"b","customer":"acme","model":"openai/gpt-4o-mini"}`:                                                    {422, "invalid_meters", "missing"},
		`[]`:   {400, "invalid_request", "0 events"},
		`nope`: {400, "invalid_request", "JSON"},
	} {
		status, answer := r.tell("POST", "/events", body)
		if says := r.told(status, answer, want.status, want.code); !strings.Contains(says, want.says) {
			t.Errorf("%s: %q does not say %q", body, says, want.says)
		}
	}
	if got := r.records(usage.KindUsage); len(got) != 0 {
		t.Errorf("part of a bad request was taken: %+v", got)
	}
}

// reserve makes a reservation and returns its id.
func (r *rig) holds(key, customer string) string {
	r.t.Helper()
	status, answer := r.tell("POST", "/reservations", fmt.Sprintf(`{"customer":%q,"model":"openai/gpt-4o-mini","meters":%s}`, customer, usedMeters), "Idempotency-Key: "+key)
	if status != http.StatusCreated || answer["status"] != "open" || answer["reserved"] != usedPrice.String() {
		r.t.Fatal(status, answer)
	}
	return answer["id"].(string)
}

func TestReservationIsSettledOnce(t *testing.T) {
	r := newRig(t)
	id := r.holds("k", "acme")
	if again := r.holds("k", "acme"); again != id {
		t.Errorf("the same request made %s and %s", id, again)
	}
	if _, held := r.Book.InFlight(); held != usedPrice {
		t.Errorf("%s is held", held)
	}
	status, answer := r.tell("POST", "/reservations", `{"customer":"acme","model":"openai/gpt-4o-mini","meters":{"input":1}}`, "Idempotency-Key: k")
	r.told(status, answer, 409, "idempotency_conflict")

	for range 3 { // 1,000 in and 500 out: half of it
		status, answer = r.tell("POST", "/reservations/"+id+"/settle", `{"meters":{"input":1000,"output":500}}`)
		if status != 200 || answer["price"] != (usedPrice/2).String() || answer["released"] != (usedPrice/2).String() || answer["overrun"] != "0.00" {
			t.Fatal(status, answer)
		}
	}
	rec := r.result()
	if rec.Cost != usedCost/2 || rec.Price != usedPrice/2 || rec.Reserved != usedPrice || rec.RequestID != id {
		t.Errorf("%+v", rec)
	}
	if _, held := r.Book.InFlight(); held != 0 || r.InFlight() != 0 {
		t.Errorf("%s is held, %d in flight", held, r.InFlight())
	}
	status, answer = r.tell("POST", "/reservations/"+id+"/settle", `{"meters":{"input":1}}`)
	r.told(status, answer, 409, "reservation_settled")
	status, answer = r.tell("POST", "/reservations/"+id+"/void", ``)
	r.told(status, answer, 409, "reservation_settled")
	status, answer = r.tell("POST", "/reservations/unknown/void", ``)
	r.told(status, answer, 404, "not_found")
}

func TestReservationVoidedExpiredOrLost(t *testing.T) {
	r := newRig(t)
	voided, expired, lost := r.holds("a", "acme"), r.holds("b", "acme"), r.holds("c", "acme")
	for range 2 {
		if status, answer := r.tell("POST", "/reservations/"+voided+"/void", ``); status != 200 || answer["status"] != "voided" {
			t.Fatal(status, answer)
		}
	}
	r.outside.held[expired].view.ExpiresAt = time.Now().Add(-time.Second)
	r.outside.sweep(time.Now())
	status, answer := r.tell("POST", "/reservations/"+expired+"/settle", `{"meters":{"input":1}}`)
	r.told(status, answer, 409, "reservation_expired")
	r.stop(waitMax)
	rows := map[string]usage.Row{}
	for _, rec := range r.records(usage.KindUsage, usage.KindUnknown) {
		rows[rec.RequestID] = rec.Row
		if rec.Cost != 0 || rec.Price != 0 {
			t.Errorf("%+v", rec)
		}
	}
	if rows[voided] != usage.RowError || rows[expired] != usage.RowError || rows[lost] != usage.RowLeakage || len(rows) != 3 {
		t.Errorf("%v", rows)
	}
}

func TestReservationsThatAreRefused(t *testing.T) {
	r := newRig(t)
	r.customer("poor", usedPrice-1)
	r.customer("exact", usedPrice)
	body := func(customer, more string) string {
		return fmt.Sprintf(`{"customer":%q,"model":"openai/gpt-4o-mini","meters":%s%s}`, customer, usedMeters, more)
	}
	status, answer := r.tell("POST", "/reservations", body("poor", ""), "Idempotency-Key: 1")
	r.told(status, answer, 402, "insufficient_funds")
	if m := answer["error"].(map[string]any)["metadata"].(map[string]any); m["required"] != usedPrice.String() || m["available"] != (usedPrice-1).String() {
		t.Errorf("%v", m)
	}
	r.holds("2", "exact")
	status, answer = r.tell("POST", "/reservations", body("exact", ""), "Idempotency-Key: 3")
	r.told(status, answer, 429, "funds_held")
	status, answer = r.tell("POST", "/reservations", body("acme", ""))
	r.told(status, answer, 400, "idempotency_key_required")
	status, answer = r.tell("POST", "/reservations", body("acme", `,"ttl_seconds":0`), "Idempotency-Key: 4")
	r.told(status, answer, 422, "invalid_ttl")
	status, answer = r.tell("POST", "/reservations", body("acme", `,"ttl_seconds":31`), "Idempotency-Key: 4") // the rig's longest request is 30 s
	r.told(status, answer, 422, "invalid_ttl")
	// What was refused under a key can be asked for again under it.
	must(t, r.Ledger.Tx(t.Context(), func(tx *ledger.Tx) error {
		_, _, err := tx.Credit(t.Context(), ledger.Credit{Customer: "poor", Amount: 1})
		return err
	}))
	r.holds("1", "poor")
}

package control

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"weir/internal/ledger"
	"weir/internal/notify"
)

// endOfTime is after every event.
var endOfTime = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

type newWebhookView struct {
	ID     string   `json:"id"`
	URL    string   `json:"url"`
	Events []string `json:"events"`
	Secret string   `json:"secret"`
}

type webhookView struct {
	ID         string        `json:"id"`
	URL        string        `json:"url"`
	Events     []string      `json:"events"` // none = all
	CreatedAt  time.Time     `json:"created_at"`
	DisabledAt *time.Time    `json:"disabled_at"`
	Last       *deliveryView `json:"last_delivery"` // null before the first event
}

type deliveryView struct {
	Event     string          `json:"event"`
	Type      string          `json:"type"`
	Customer  string          `json:"customer,omitempty"`
	State     string          `json:"state"` // pending, delivered, failed
	Tries     int             `json:"tries"`
	Status    int             `json:"last_status"` // of the last answer, 0 = none
	Error     string          `json:"last_error"`
	LastTryAt *time.Time      `json:"last_try_at"`
	NextTryAt *time.Time      `json:"next_try_at"` // null unless pending
	CreatedAt time.Time       `json:"created_at"`
	Data      json.RawMessage `json:"data"`
}

func viewDelivery(d ledger.Delivery) *deliveryView {
	data, _ := d.Event.Data.(json.RawMessage) // as the ledger reads it
	v := &deliveryView{Event: d.Event.ID, Type: d.Event.Type, Customer: d.Event.Customer, State: d.State, Tries: d.Tries, Status: d.LastStatus,
		Error: d.LastError, LastTryAt: timeOrNull(d.LastTry), CreatedAt: d.Event.CreatedAt, Data: data}
	if d.State == ledger.DeliveryPending {
		v.NextTryAt = timeOrNull(d.NextTryAt)
	}
	return v
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (p *plane) createWebhook(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		URL    string   `json:"url"`
		Events []string `json:"events"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	if wrong := notify.CheckURL(in.URL, p.PrivateWebhooks); wrong != "" {
		return refuse(http.StatusUnprocessableEntity, "invalid_url", "url: %s", wrong)
	}
	events := slices.Compact(slices.Sorted(slices.Values(in.Events)))
	for _, kind := range events {
		if err := knownEvent(kind, ledger.EventTypes); err != nil {
			return err
		}
	}
	sealer, err := notify.NewSealer(p.Pepper)
	if err != nil {
		return err
	}
	have, err := p.Ledger.Endpoints(r.Context())
	if err != nil {
		return err
	}
	return p.apply(w, r, change{body: body, secret: true}, func(tx *ledger.Tx) (int, any, error) {
		if len(have) >= notify.EndpointsMax {
			return 0, nil, refuse(http.StatusConflict, "too_many_webhooks", "there are %d webhooks, and can be no more: delete one first", len(have))
		}
		secret := notify.NewSecret()
		e, err := tx.AddEndpoint(r.Context(), ledger.Endpoint{ID: "wh_" + rand.Text(), URL: in.URL, Secret: sealer.Seal(secret, in.URL), Events: events})
		return http.StatusCreated, newWebhookView{e.ID, e.URL, orEmpty(e.Events), secret}, err
	})
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func knownEvent(kind string, known []string) error {
	if slices.Contains(known, kind) {
		return nil
	}
	return refuse(http.StatusUnprocessableEntity, "invalid_event", "there is no event %q (known: %s)", kind, strings.Join(known, ", "))
}

// listWebhooks pages through a list that is short enough to be read whole.
func (p *plane) listWebhooks(w http.ResponseWriter, r *http.Request) error {
	page, err := page(r.URL.Query())
	if err != nil {
		return err
	}
	all, err := p.Ledger.Endpoints(r.Context())
	if err != nil {
		return err
	}
	slices.Reverse(all) // newest first
	if page.Cursor != "" {
		i := slices.IndexFunc(all, func(e ledger.Endpoint) bool { return e.ID == page.Cursor })
		if i < 0 {
			return ledger.ErrCursor
		}
		all = all[i+1:]
	}
	next := ""
	if len(all) > page.Limit {
		all = all[:page.Limit]
		next = all[page.Limit-1].ID
	}
	last := make(map[string]*deliveryView, len(all))
	for _, e := range all {
		if last[e.ID], err = p.lastDelivery(r, e.ID); err != nil {
			return err
		}
	}
	writeList(w, all, next, func(e ledger.Endpoint) any {
		return webhookView{e.ID, e.URL, orEmpty(e.Events), e.CreatedAt, timeOrNull(e.DisabledAt), last[e.ID]}
	})
	return nil
}

// lastDelivery is that of the newest events which was tried last, else of the
// newest one; nil if there is none.
func (p *plane) lastDelivery(r *http.Request, webhook string) (*deliveryView, error) {
	const newest = 20 // a dead receiver's latest try is among these, as long as it is sent anything
	list, _, err := p.Ledger.Deliveries(r.Context(), webhook, ledger.Page{Limit: newest})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	last := list[0]
	for _, d := range list {
		if d.LastTry.After(last.LastTry) {
			last = d
		}
	}
	return viewDelivery(last), nil
}

func (p *plane) deleteWebhook(w http.ResponseWriter, r *http.Request) error {
	err := p.Ledger.Tx(r.Context(), func(tx *ledger.Tx) error { return tx.RemoveEndpoint(r.Context(), r.PathValue("id")) })
	if err != nil {
		return err
	}
	writeBody(w, http.StatusNoContent, nil)
	return nil
}

func (p *plane) listDeliveries(w http.ResponseWriter, r *http.Request) error {
	page, err := page(r.URL.Query())
	if err != nil {
		return err
	}
	if _, err := p.Ledger.Endpoint(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	list, next, err := p.Ledger.Deliveries(r.Context(), r.PathValue("id"), page)
	if err != nil {
		return err
	}
	writeList(w, list, next, func(d ledger.Delivery) any { return viewDelivery(d) })
	return nil
}

func (p *plane) replayWebhook(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		From  string `json:"from"`
		To    string `json:"to"`
		Event string `json:"event"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	if in.From == "" {
		return invalid("from is missing: say since when, such as 2026-11-24T00:00:00Z")
	}
	from, err := parseTime("from", in.From, time.Time{})
	if err != nil {
		return err
	}
	to, err := parseTime("to", in.To, endOfTime)
	if err != nil {
		return err
	}
	if !from.Before(to) {
		return refuse(http.StatusUnprocessableEntity, "invalid_time", "to: %s is not after from", in.To)
	}
	if in.Event != "" {
		if err := knownEvent(in.Event, ledger.EventTypes); err != nil {
			return err
		}
	}
	if err := p.enabledWebhook(r); err != nil {
		return err
	}
	return p.apply(w, r, change{body: body}, func(tx *ledger.Tx) (int, any, error) {
		n, err := tx.Replay(r.Context(), r.PathValue("id"), in.Event, from, to)
		return http.StatusOK, map[string]int{"queued": n}, err
	})
}

func parseTime(name, text string, absent time.Time) (time.Time, error) {
	if text == "" {
		return absent, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, refuse(http.StatusUnprocessableEntity, "invalid_time", "%s: %q is not a time such as 2027-01-31T00:00:00Z", name, text)
	}
	return at, nil
}

// enabledWebhook refuses to queue what would never be sent.
func (p *plane) enabledWebhook(r *http.Request) error {
	e, err := p.Ledger.Endpoint(r.Context(), r.PathValue("id"))
	if err == nil && !e.DisabledAt.IsZero() {
		err = refuse(http.StatusConflict, "webhook_disabled", "its receiver answered 410 Gone, and is told nothing more: delete the webhook and make it again")
	}
	return err
}

// testWebhook sends an event to one endpoint alone, to see whether it works.
func (p *plane) testWebhook(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &struct{}{})
	}
	if err != nil {
		return err
	}
	if err := p.enabledWebhook(r); err != nil {
		return err
	}
	id := r.PathValue("id")
	return p.apply(w, r, change{body: body}, func(tx *ledger.Tx) (int, any, error) {
		e, err := tx.EmitTo(r.Context(), id, ledger.Event{Type: notify.EventTest, Data: notify.TestNews{Webhook: id}})
		return http.StatusOK, map[string]string{"event": e.ID, "type": e.Type}, err
	})
}

package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"weir/internal/strictjson"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	// reportBytesMax and reportsMax bound one request of reports: a thousand
	// events of a few hundred bytes, one fsync.
	reportBytesMax = 1 << 20
	reportsMax     = 1000
	// outsideNameMax bounds the names that a reporter gives an event.
	outsideNameMax = 128
	// sourceDefault is the source of plain events that name none.
	sourceDefault = "api"
	// typeUsage is the CloudEvents type that is understood.
	typeUsage = "weir.usage"

	mediaEvent  = "application/cloudevents+json"
	mediaEvents = "application/cloudevents-batch+json"
)

// usageBody is what was used: counts by the names of meters on the rate card.
type usageBody struct {
	Provider string                 `json:"provider"`
	Model    string                 `json:"model"`
	Meters   map[string]json.Number `json:"meters"`
	Tags     map[string]string      `json:"tags"`
}

// meters reads the counts.
func (u *usageBody) meters() (q usage.Quantities, no *refusal) {
	if len(u.Meters) == 0 {
		return q, unprocessable("invalid_meters", `meters are missing: say what was used, such as {"input": 2000, "output": 1000}`)
	}
	for name, count := range u.Meters {
		m, ok := usage.MeterNamed(name)
		if !ok {
			return q, unprocessable("invalid_meters", "there is no meter %.64q", name)
		}
		n, err := count.Int64()
		if err != nil || n < 0 || n > ratecard.QuantityMax {
			return q, unprocessable("invalid_meters", "%s: %.40s is no whole number from 0 to %d", name, count, int64(ratecard.QuantityMax))
		}
		q[m] = uint64(n)
	}
	return q, nil
}

// reported is one event as it was sent, whatever its envelope.
type reported struct {
	ID, Source, Customer string
	Time                 *time.Time
	usage                usageBody
}

// plainEvent is an event without an envelope.
type plainEvent struct {
	ID       string                 `json:"id"`
	Source   string                 `json:"source"`
	Customer string                 `json:"customer"`
	Time     *time.Time             `json:"time"`
	Provider string                 `json:"provider"`
	Model    string                 `json:"model"`
	Meters   map[string]json.Number `json:"meters"`
	Tags     map[string]string      `json:"tags"`
}

// cloudEvent is an event in the structured form of CloudEvents 1.0; extension
// attributes are allowed and not read.
type cloudEvent struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject"`
	Time        *time.Time      `json:"time"`
	ContentType string          `json:"datacontenttype"`
	Schema      string          `json:"dataschema"`
	Data        json.RawMessage `json:"data"`
}

// readReports reads a request's events: plain JSON (one or an array), or
// CloudEvents in structured, batched or binary form.
func readReports(r *http.Request) ([]reported, *refusal) {
	body, no := readOutside(r, reportBytesMax)
	if no != nil {
		return nil, no
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil && r.Header.Get("Content-Type") != "" {
		return nil, badReport("the Content-Type cannot be read")
	}
	read := readPlain
	texts := []json.RawMessage{body}
	switch {
	case media == mediaEvent:
		read = readCloud
	case media == mediaEvents:
		read = readCloud
		texts, no = readArray(body)
	case r.Header.Get("Ce-Specversion") != "":
		e, no := readBinary(r.Header, body)
		return []reported{e}, no
	case bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")):
		texts, no = readArray(body)
	}
	if no != nil {
		return nil, no
	}
	events := make([]reported, len(texts))
	for i, text := range texts {
		err := read(text, &events[i])
		if err == nil {
			err = events[i].check()
		}
		if err != nil {
			return nil, badReport("event %d: %s", i, err)
		}
	}
	return events, nil
}

func badReport(format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", message: fmt.Sprintf(format, args...)}
}

// readOutside reads at most limit bytes of a body.
func readOutside(r *http.Request, limit int64) ([]byte, *refusal) {
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case err != nil:
		return nil, badReport("the body ends early")
	case int64(len(body)) > limit:
		return nil, &refusal{status: http.StatusRequestEntityTooLarge, code: "body_too_large", message: fmt.Sprintf("the body is larger than %d bytes", limit)}
	}
	return body, nil
}

func readArray(body []byte) (texts []json.RawMessage, no *refusal) {
	if err := json.Unmarshal(body, &texts); err != nil {
		return nil, badReport("the body is no JSON array of events: %s", err)
	}
	if len(texts) == 0 || len(texts) > reportsMax {
		return nil, badReport("%d events in one request; send 1 to %d", len(texts), reportsMax)
	}
	return texts, nil
}

func readPlain(text json.RawMessage, e *reported) error {
	var p plainEvent
	if err := strictjson.Decode(text, &p); err != nil {
		return err
	}
	if p.Source == "" {
		p.Source = sourceDefault
	}
	*e = reported{p.ID, p.Source, p.Customer, p.Time, usageBody{p.Provider, p.Model, p.Meters, p.Tags}}
	return nil
}

func readCloud(text json.RawMessage, e *reported) error {
	var c cloudEvent
	if err := strictjson.DecodeOpen(text, &c); err != nil {
		return err
	}
	return c.read(e)
}

// readBinary reads an event whose attributes are ce- headers.
func readBinary(h http.Header, body []byte) (e reported, no *refusal) {
	c := cloudEvent{SpecVersion: h.Get("Ce-Specversion"), ID: h.Get("Ce-Id"), Source: h.Get("Ce-Source"), Type: h.Get("Ce-Type"),
		Subject: h.Get("Ce-Subject"), ContentType: h.Get("Content-Type"), Data: body}
	var err error
	if text := h.Get("Ce-Time"); text != "" {
		var at time.Time
		if at, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return e, badReport("ce-time is no RFC 3339 time")
		}
		c.Time = &at
	}
	if err = c.read(&e); err == nil {
		err = e.check()
	}
	if err != nil {
		return e, badReport("%s", err)
	}
	return e, nil
}

// read takes an event out of its envelope: the subject is the customer, the
// data is what was used.
func (c *cloudEvent) read(e *reported) error {
	media, _, _ := strings.Cut(c.ContentType, ";")
	switch {
	case c.SpecVersion != "1.0":
		return fmt.Errorf("specversion %.16q is not 1.0", c.SpecVersion)
	case c.Type != typeUsage:
		return fmt.Errorf("type %.64q is not %s", c.Type, typeUsage)
	case c.Source == "":
		return errors.New("source is missing")
	case media != "" && strings.TrimSpace(media) != "application/json":
		return fmt.Errorf("datacontenttype %.64q is not application/json", c.ContentType)
	}
	*e = reported{ID: c.ID, Source: c.Source, Customer: c.Subject, Time: c.Time}
	if err := strictjson.Decode(c.Data, &e.usage); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	return nil
}

// check refuses identities that the ledger could not hold.
func (e *reported) check() error {
	for name, text := range map[string]string{"id": e.ID, "source": e.Source} {
		switch {
		case text == "":
			return errors.New(name + " is missing: it makes sending the event again harmless")
		case len(text) > outsideNameMax:
			return fmt.Errorf("%s is longer than %d bytes", name, outsideNameMax)
		case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return errors.New(name + " has control characters")
		}
	}
	if e.Customer == "" {
		return errors.New("the customer is missing")
	}
	return nil
}

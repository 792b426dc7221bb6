package stripefake

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

var eventEndpoints = []endpoint{
	read("events", "event"),
	{"GET /v1/events", paging + "type types delivery_success:bool", (*Server).listEvents},
}

// Event is one event and what became of it.
type Event struct {
	ID, Type, Object string // Object is the id of what it is about
	Created          time.Time
	// Delivered says that the endpoint answered 2xx, Dropped that the delivery
	// was lost on the way; neither: held, queued, or refused by the endpoint.
	Delivered, Dropped bool
}

// emit makes an event about o as it is now. before, if given, is o as it was:
// the fields that changed are told as previous_attributes.
func (s *Server) emit(kind string, o, before object) {
	data := object{"object": o.copy()}
	if before != nil {
		previous := object{}
		for k, v := range before {
			if !reflect.DeepEqual(v, o[k]) {
				previous[k] = clone(v)
			}
		}
		data["previous_attributes"] = previous
	}
	e := s.create("event", object{"type": kind, "data": data})
	if s.cause.requestID != "" {
		e.sub("request")["id"] = s.cause.requestID
	}
	if s.cause.key != "" {
		e.sub("request")["idempotency_key"] = s.cause.key
	}
	s.enqueue(e)
}

func (s *Server) listEvents(c *call) (object, error) {
	wanted := c.strs("types")
	if one := c.str("type"); one != "" {
		wanted = append(wanted, one)
	}
	return s.page(c, s.order["event"], func(e object) bool {
		if c.has("delivery_success") && c.flag("delivery_success") != (e.num("pending_webhooks") == 0) {
			return false
		}
		return len(wanted) == 0 || anyMatches(wanted, e.str("type"))
	})
}

// anyMatches compares with types as Stripe takes them: charge.* is a group.
func anyMatches(wanted []string, kind string) bool {
	for _, w := range wanted {
		group, isGroup := strings.CutSuffix(w, "*")
		if w == kind || isGroup && strings.HasPrefix(kind, group) {
			return true
		}
	}
	return false
}

// Events lists all events made so far, oldest first.
func (s *Server) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Event, len(s.order["event"]))
	for i, e := range s.order["event"] {
		out[i] = s.seen(e)
	}
	return out
}

func (s *Server) seen(e object) Event {
	id := e.str("id")
	return Event{ID: id, Type: e.str("type"), Object: e.sub("data").sub("object").str("id"), Created: time.Unix(e.num("created"), 0).UTC(),
		Delivered: s.outbox.delivered[id], Dropped: s.outbox.dropped[id]}
}

func (s *Server) event(id string) (object, error) {
	e, err := s.find("event", id, "id")
	if err != nil {
		return nil, fmt.Errorf("cannot deliver: %w", err)
	}
	return e, nil
}

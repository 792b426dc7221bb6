package stripefake

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Delivery says how events travel, for SetDelivery. The zero value is: at once,
// once each, in order.
type Delivery struct {
	// Delay comes before each delivery.
	Delay time.Duration
	// Copies is how often each event is sent; 0 counts as 1.
	Copies int
	// Shuffle takes the next event at random from those that wait.
	Shuffle bool
	// DropNext loses so many events on the way. They count as undelivered.
	DropNext int
	// Forge signs with a wrong secret.
	Forge bool
}

// outbox holds the events that wait; Server.mu guards it.
type outbox struct {
	url       string
	secrets   []string
	rules     Delivery
	queue     []string // event ids in the order they were made
	held      bool
	running   bool // a worker empties the queue
	delivered map[string]bool
	dropped   map[string]bool
	idle      chan struct{} // closed when the worker ends; nil if none waits
}

const (
	// answerTimeMax is how long the endpoint may take.
	answerTimeMax = 10 * time.Second
	// answerBytesMax is read of an endpoint's answer.
	answerBytesMax = 64 << 10
)

// signers are the secrets that sign: a second one during a rotation.
func signers(secret, second string) []string {
	if second == "" {
		return []string{secret}
	}
	return []string{secret, second}
}

// SetWebhook sets the endpoint and its secrets; an empty url ends deliveries.
func (s *Server) SetWebhook(url, secret, secondSecret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox.url, s.outbox.secrets = url, signers(secret, secondSecret)
}

// SetDelivery sets how events travel from now on, queued ones included.
func (s *Server) SetDelivery(d Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox.rules = d
}

// enqueue sends e on its way if there is an endpoint.
func (s *Server) enqueue(e object) {
	if s.outbox.url == "" {
		return
	}
	e["pending_webhooks"] = int64(1)
	s.outbox.queue = append(s.outbox.queue, e.str("id"))
	s.startWorker()
}

func (s *Server) startWorker() {
	if s.outbox.held || s.outbox.running || len(s.outbox.queue) == 0 || s.ctx.Err() != nil {
		return
	}
	s.outbox.running = true
	s.workers.Add(1)
	go s.work()
}

// work delivers until nothing waits.
func (s *Server) work() {
	defer s.workers.Done()
	for {
		s.mu.Lock()
		id, ok := s.next()
		if !ok {
			s.outbox.running = false
			if s.outbox.idle != nil {
				close(s.outbox.idle)
				s.outbox.idle = nil
			}
			s.mu.Unlock()
			return
		}
		rules := s.outbox.rules
		s.mu.Unlock()
		select {
		case <-time.After(rules.Delay):
		case <-s.ctx.Done():
			continue
		}
		for range max(rules.Copies, 1) {
			_, _ = s.deliver(id, rules.Forge) // the event shows what became of it
		}
	}
}

// next takes the event to deliver from the queue, losing those to be lost.
func (s *Server) next() (string, bool) {
	for len(s.outbox.queue) > 0 && !s.outbox.held && s.ctx.Err() == nil {
		i := 0
		if s.outbox.rules.Shuffle {
			i = s.random.IntN(len(s.outbox.queue))
		}
		id := s.unqueue(i)
		if s.outbox.rules.DropNext == 0 {
			return id, true
		}
		s.outbox.rules.DropNext--
		s.markDropped(id)
	}
	return "", false
}

func (s *Server) unqueue(i int) string {
	id := s.outbox.queue[i]
	s.outbox.queue = append(s.outbox.queue[:i:i], s.outbox.queue[i+1:]...)
	return id
}

func (s *Server) markDropped(id string) {
	if s.outbox.dropped == nil {
		s.outbox.dropped = map[string]bool{}
	}
	s.outbox.dropped[id] = true
}

// deliver posts the event, signed, and returns the endpoint's status.
func (s *Server) deliver(id string, forge bool) (int, error) {
	s.mu.Lock()
	e, err := s.event(id)
	if err != nil {
		s.mu.Unlock()
		return 0, err
	}
	body, url, secrets, now := encode(e), s.outbox.url, s.outbox.secrets, s.now()
	s.mu.Unlock()
	if url == "" {
		return 0, fmt.Errorf("cannot deliver %s: no endpoint", id)
	}
	if forge {
		secrets = []string{"whsec_of_somebody_else"}
	}
	status, err := post(s.ctx, url, Signature(body, now, secrets...), body)
	if err != nil {
		return 0, fmt.Errorf("cannot deliver %s: %w", id, err)
	}
	if status/100 == 2 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.outbox.delivered == nil {
			s.outbox.delivered = map[string]bool{}
		}
		s.outbox.delivered[id] = true
		delete(s.outbox.dropped, id)
		e["pending_webhooks"] = int64(0)
	}
	return status, nil
}

func post(ctx context.Context, url, signature string, body []byte) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeMax)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	r.Header.Set("Stripe-Signature", signature)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, answerBytesMax))
	return resp.StatusCode, err
}

// Signature is the Stripe-Signature header of a body sent at the given time: the
// v1 scheme, one signature for each secret.
func Signature(body []byte, at time.Time, secrets ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "t=%d", at.Unix())
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(mac, "%d.%s", at.Unix(), body)
		b.WriteString(",v1=" + hex.EncodeToString(mac.Sum(nil)))
	}
	return b.String()
}

// Hold stops deliveries by themselves: events wait for Deliver, Drop, Flush or
// Release. One that is under way still arrives.
func (s *Server) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox.held = true
}

// Release delivers by itself again, those that wait first.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox.held = false
	s.startWorker()
}

// Pending lists the events that wait, oldest first.
func (s *Server) Pending() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Event, len(s.outbox.queue))
	for i, id := range s.outbox.queue {
		out[i] = s.seen(s.objects[id])
	}
	return out
}

// takeQueued removes the event from the queue if it waits there.
func (s *Server) takeQueued(id string) {
	for i, waiting := range s.outbox.queue {
		if waiting == id {
			s.unqueue(i)
			return
		}
	}
}

// Deliver sends one event now, waiting or not, and returns the endpoint's status.
func (s *Server) Deliver(id string) (status int, err error) {
	s.mu.Lock()
	s.takeQueued(id)
	forge := s.outbox.rules.Forge
	s.mu.Unlock()
	return s.deliver(id, forge)
}

// Resend sends an event again, as the dashboard's button does.
func (s *Server) Resend(id string) (status int, err error) { return s.Deliver(id) }

// Drop loses a waiting event on the way.
func (s *Server) Drop(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.event(id); err != nil {
		return err
	}
	s.takeQueued(id)
	s.markDropped(id)
	return nil
}

// Flush delivers all that wait, in order, and returns how many arrived (2xx).
// Those that come meanwhile wait, if Hold was called.
func (s *Server) Flush() (arrived int) {
	for _, e := range s.Pending() {
		if status, err := s.Deliver(e.ID); err == nil && status/100 == 2 {
			arrived++
		}
	}
	return arrived
}

// RetryFailed sends again all events that did not arrive and do not wait, and
// returns how many arrived now.
func (s *Server) RetryFailed() (arrived int) {
	waiting := map[string]bool{}
	for _, e := range s.Pending() {
		waiting[e.ID] = true
	}
	for _, e := range s.Events() {
		if e.Delivered || waiting[e.ID] {
			continue
		}
		if status, err := s.Deliver(e.ID); err == nil && status/100 == 2 {
			arrived++
		}
	}
	return arrived
}

// Wait returns when no delivery is under way or queued, held ones aside.
func (s *Server) Wait(ctx context.Context) error {
	s.mu.Lock()
	if !s.outbox.running {
		s.mu.Unlock()
		return nil
	}
	if s.outbox.idle == nil {
		s.outbox.idle = make(chan struct{})
	}
	idle := s.outbox.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for deliveries: %w", ctx.Err())
	}
}

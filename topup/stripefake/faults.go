package stripefake

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// Fault is a trouble of the API's requests, see Inject.
type Fault struct {
	// Match is the beginning of "METHOD /path"; empty matches all.
	Match string
	// Count is how many requests it strikes; 0 counts as 1.
	Count int
	// After acts first: the client loses the answer of something done. With
	// Status 0 the idempotency key keeps the true answer; with another status
	// it keeps that failure, as Stripe keeps its own 500s.
	After bool
	// Status of the failing answer; 0 closes the connection without one.
	Status int
	// Delay comes before acting, while the idempotency key is in use.
	Delay time.Duration
	// Slow only delays: the request is then answered as ever.
	Slow bool
}

// Inject adds a fault; the first one that matches a request strikes.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Count = max(f.Count, 1)
	s.faults = append(s.faults, &f)
}

// ClearFaults ends all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// takeFault is the fault that strikes this request, nil if none.
func (s *Server) takeFault(request string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if f.Count > 0 && strings.HasPrefix(request, f.Match) {
			f.Count--
			return f
		}
	}
	return nil
}

// wait spends the delay. That the client leaves meanwhile changes nothing, as at
// Stripe; false if the server closes.
func (f *Fault) wait(ctx context.Context) bool {
	if f == nil || f.Delay == 0 {
		return true
	}
	select {
	case <-time.After(f.Delay):
		return true
	case <-ctx.Done():
		return false
	}
}

// stops says that the request must not act; fails, that it acts and fails.
func (f *Fault) stops() bool { return f != nil && !f.Slow && !f.After }
func (f *Fault) fails() bool { return f != nil && !f.Slow && f.After }

// answer is the failing answer.
func (f *Fault) answer(requestID string) answer {
	e := &apiError{status: f.Status, kind: "api_error", kept: true,
		message: "An unknown error occurred."}
	if f.Status == http.StatusTooManyRequests {
		e.kind, e.code, e.message = "invalid_request_error", "rate_limit", "Too many requests hit the API too quickly."
	}
	return failed(e, requestID)
}

// fail writes the failing answer, or closes the connection amid one: without a
// first byte Go's HTTP client would ask again by itself, for the request has an
// idempotency key.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, f *Fault) {
	if f.Status != 0 && !f.Slow {
		s.write(w, r, f.answer(s.requestID()))
		return
	}
	s.note(r, 0)
	w.Header().Set("Content-Length", "1")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // what cannot be flushed is lost all the same
	panic(http.ErrAbortHandler)               // net/http closes the connection, quietly
}

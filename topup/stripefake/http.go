package stripefake

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// bodyBytesMax bounds a form; Stripe's requests are a few kilobytes.
const bodyBytesMax = 1 << 20

// call is one request to an endpoint.
type call struct {
	params
	id   string // from the path
	path string
	base string // of hosted pages
}

// endpoint is one method and path with the parameters it takes.
type endpoint struct {
	pattern string
	spec    string
	run     func(*Server, *call) (object, error)
}

// paging is what every list takes.
const paging = "limit:int starting_after ending_before created:int created.gt:int created.gte:int created.lt:int created.lte:int "

func endpoints() []endpoint {
	return slices.Concat(customerEndpoints, methodEndpoints, checkoutEndpoints, paymentEndpoints, setupEndpoints, chargeEndpoints,
		refundEndpoints, disputeEndpoints, eventEndpoints, productEndpoints, subscriptionEndpoints)
}

// read is the endpoint that shows one object of a kind.
func read(path, kind string) endpoint {
	return endpoint{pattern: "GET /v1/" + path + "/{id}", run: func(s *Server, c *call) (object, error) { return s.find(kind, c.id, "id") }}
}

// list is the endpoint that lists a kind, by the named fields.
func list(path, kind string, fields ...string) endpoint {
	return endpoint{pattern: "GET /v1/" + path, spec: paging + strings.Join(fields, " "), run: func(s *Server, c *call) (object, error) {
		return s.page(c, s.order[kind], func(o object) bool { return matches(o, c.params, fields) })
	}}
}

// matches says whether o has the values asked for.
func matches(o object, p params, fields []string) bool {
	for _, f := range fields {
		name, _, _ := strings.Cut(f, ":")
		if p.has(name) && fmt.Sprint(o[name]) != p.str(name) {
			return false
		}
	}
	return true
}

// serve answers one request: key, version, idempotency, faults, parameters,
// act, expand. Nothing but the delay of a fault waits outside the lock.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, e endpoint) {
	form, err := readForm(w, r)
	if err == nil {
		err = s.admit(r)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Stripe-Version", Version)
	key := ""
	if r.Method == http.MethodPost {
		key = r.Header.Get("Idempotency-Key")
	}
	record, replay, err := s.claim(key, r.URL.Path, form)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if replay != nil {
		w.Header().Set("Idempotent-Replayed", "true")
		s.write(w, r, *replay)
		return
	}
	fault := s.takeFault(r.Method + " " + r.URL.Path)
	if !fault.wait(s.ctx) || fault.stops() {
		s.release(key, record)
		s.fail(w, r, fault)
		return
	}
	result := s.act(r, e, form, key)
	if fault.fails() && fault.Status != 0 { // what Stripe keeps when it breaks after having acted
		result = fault.answer(s.requestID())
	}
	s.settle(key, record, result)
	if fault.fails() {
		s.fail(w, r, fault)
		return
	}
	s.write(w, r, result)
}

// act validates and runs the endpoint under the lock.
func (s *Server) act(r *http.Request, e endpoint, form url.Values, key string) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	id := s.newID("req")
	s.cause = cause{requestID: id, key: key}
	before := s.mark()
	p, err := parseParams(form, e.spec)
	if err == nil {
		err = checkExpand(e.pattern, p.strs("expand"))
	}
	if err != nil {
		return failed(err, id)
	}
	c := &call{params: p, id: r.PathValue("id"), path: r.URL.Path, base: s.options.BaseURL}
	if c.base == "" {
		c.base = "http://" + r.Host
	}
	o, err := e.run(s, c)
	if err != nil {
		a := failed(err, id)
		if !a.kept {
			s.undo(before)
		}
		return a
	}
	o = o.copy()
	for _, path := range p.strs("expand") {
		s.expand(o, strings.Split(path, "."))
	}
	return answer{status: http.StatusOK, body: encode(o), requestID: id, kept: true}
}

// mark is how many objects of each kind there are.
func (s *Server) mark() map[string]int {
	counts := map[string]int{}
	for kind, all := range s.order {
		counts[kind] = len(all)
	}
	return counts
}

// undo forgets what a refused request has made since the mark; its events have
// not left, for the lock was held. Handlers change older objects only when
// nothing can refuse the request any more.
func (s *Server) undo(before map[string]int) {
	for kind, all := range s.order {
		for _, o := range all[before[kind]:] {
			s.takeQueued(o.str("id"))
			delete(s.objects, o.str("id"))
		}
		s.order[kind] = all[:before[kind]]
	}
}

// answer is a response as it goes out and as a key keeps it.
type answer struct {
	status    int
	body      []byte
	requestID string
	kept      bool // the endpoint acted: the answer stays under the idempotency key
}

// failed is the answer for err.
func failed(err error, requestID string) answer {
	var e *apiError
	if !errors.As(err, &e) {
		e = &apiError{status: 500, kind: "api_error", message: err.Error()}
	}
	return answer{status: e.status, body: encode(object{"error": e.body(requestID)}), requestID: requestID, kept: e.kept}
}

func encode(o object) []byte {
	body, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("BUG: an object is not JSON: %v", err))
	}
	return append(body, '\n')
}

// admit checks the API key and the version.
func (s *Server) admit(r *http.Request) error {
	given, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !isBearer {
		given, _, _ = r.BasicAuth()
	}
	if given == "" {
		return &apiError{status: 401, kind: "invalid_request_error",
			message: "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth."}
	}
	right := strings.HasPrefix(given, "sk_test_")
	if s.options.Secret != "" {
		right = subtle.ConstantTimeCompare([]byte(given), []byte(s.options.Secret)) == 1
	}
	if !right {
		return &apiError{status: 401, kind: "invalid_request_error", message: "Invalid API Key provided."}
	}
	if v := r.Header.Get("Stripe-Version"); v != "" && v != Version {
		return invalid("", "", "This server speaks API version %s, not %s.", Version, v)
	}
	return nil
}

func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if r.Method == http.MethodGet {
		return r.URL.Query(), nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if err != nil {
		return nil, invalid("", "", "The request body cannot be read.")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalid("", "", "The request body is no form.")
	}
	for k, v := range r.URL.Query() {
		form[k] = append(form[k], v...)
	}
	return form, nil
}

func (s *Server) requestID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newID("req")
}

// refuse writes err as an answer that nothing keeps.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.write(w, r, failed(err, s.requestID()))
}

// write notes the request, and answers it.
func (s *Server) write(w http.ResponseWriter, r *http.Request, a answer) {
	s.note(r, a.status)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Request-Id", a.requestID)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that left asks again
}

// note keeps the request for Requests.
func (s *Server) note(r *http.Request, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, fmt.Sprintf("%s %s %d", r.Method, r.URL.Path, status))
}

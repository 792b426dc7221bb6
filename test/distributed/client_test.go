package distributed

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// requestPatience bounds one request of a client.
const requestPatience = 90 * time.Second

// request is one that a customer sends.
type request struct {
	path string // with the provider's segment
	body string
	tag  string // dimension "case"; "" = none
	// leaves: the client closes its connection after the first piece of the
	// stream.
	leaves bool
}

// answer is what came of it.
type answer struct {
	status     int
	code       string // of an error
	id         string // X-Weir-Request-Id
	price      string // X-Weir-Price; streams have none
	retryAfter string
	stream     bool
	whole      bool  // the client has all of it
	refused    bool  // no connection: nothing was sent
	err        error // the connection broke
}

// ok tells whether the client has what it paid for.
func (a *answer) ok() bool { return a.status == http.StatusOK && a.whole }

// send sends a request once, as the official clients do: with the key where
// each provider's has it.
func send(ctx context.Context, client *http.Client, at, key string, q request) (a answer) {
	ctx, cancel := context.WithTimeout(ctx, requestPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at+q.path, strings.NewReader(q.body))
	if err != nil {
		return answer{err: err}
	}
	r.Header.Set("Content-Type", "application/json")
	if strings.HasPrefix(q.path, "/anthropic/") {
		r.Header.Set("X-Api-Key", key)
		r.Header.Set("Anthropic-Version", "2023-06-01")
	} else {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	if q.tag != "" {
		r.Header.Set("X-Weir-Tag-Case", q.tag)
	}
	resp, err := client.Do(r)
	if err != nil {
		return answer{err: err, refused: errors.Is(err, syscall.ECONNREFUSED)}
	}
	defer resp.Body.Close()
	a = answer{status: resp.StatusCode, id: resp.Header.Get("X-Weir-Request-Id"), price: resp.Header.Get("X-Weir-Price"),
		retryAfter: resp.Header.Get("Retry-After"), stream: strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")}
	if q.leaves {
		_, a.err = io.ReadFull(resp.Body, make([]byte, 1))
		return a
	}
	a.read(resp.Body)
	return a
}

// read takes the body in and judges whether it is whole.
func (a *answer) read(body io.Reader) {
	text, err := io.ReadAll(body)
	a.err = err
	switch {
	case err != nil:
	case a.stream:
		a.whole = strings.Contains(string(text), "data: [DONE]") || strings.Contains(string(text), "event: message_stop")
	default:
		a.whole = json.Valid(text)
	}
	if a.status == http.StatusOK {
		return
	}
	var e struct{ Error struct{ Code string } }
	if json.Unmarshal(text, &e) == nil {
		a.code = e.Error.Code
	}
}

// newClient is one client program with its own connections.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
}

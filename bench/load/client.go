package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// answerTimeout bounds the silence before and within an answer: a run always ends.
	answerTimeout = 2 * time.Minute
	// backoff follows a failure, so that a dead target is not hammered.
	backoff = 20 * time.Millisecond
)

var errNoTerminator = errors.New("the stream ended without its terminator")

// line is one line of the log: what the client knows of one request.
type line struct {
	Time      time.Time `json:"time"` // of its end
	API       string    `json:"api"`
	Model     string    `json:"model"`
	Stream    bool      `json:"stream"`
	Key       int       `json:"key"`                  // index of the key used
	Status    int       `json:"status"`               // 0 = no answer
	RequestID string    `json:"request_id,omitempty"` // the proxy's X-Weir-Request-Id
	Price     string    `json:"price,omitempty"`      // the proxy's X-Weir-Price
	Bytes     int       `json:"bytes"`                // of the body
	Complete  bool      `json:"complete"`             // the whole body; in a stream, the terminator
	Error     string    `json:"error,omitempty"`
	Ms        float64   `json:"ms"`
}

// client is one connection's worth of load, used by one goroutine.
type client struct {
	*config
	http *fasthttp.HostClient
	log  *os.File
	req  fasthttp.Request
	resp fasthttp.Response
	body bytes.Buffer

	took     []time.Duration // of complete answers
	byStatus map[string]int
	errors   map[string]int
	bytes    int64
}

// run sends the requests and sums up. An error means that the run itself is worth nothing.
func run(ctx context.Context, c config) (*summary, error) {
	requests, err := prepare(&c)
	if err != nil {
		return nil, err
	}
	var log *os.File
	if c.logPath != "" {
		if log, err = os.OpenFile(c.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
			return nil, fmt.Errorf("cannot open the log: %w", err)
		}
		defer log.Close()
	}
	target, err := url.Parse(c.target)
	if err != nil {
		return nil, fmt.Errorf("cannot parse the target: %w", err)
	}
	http := &fasthttp.HostClient{Addr: target.Host, MaxConns: c.concurrency, ReadTimeout: answerTimeout, MaxIdemponentCallAttempts: 1}
	clients := make([]*client, c.concurrency)
	failures := make([]error, c.concurrency)
	var next atomic.Int64
	var workers sync.WaitGroup
	began := time.Now()
	for i := range clients {
		cl := &client{config: &c, http: http, log: log, byStatus: map[string]int{}, errors: map[string]int{}}
		clients[i] = cl
		workers.Go(func() {
			for ctx.Err() == nil && failures[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= c.requests {
					return
				}
				failures[i] = cl.one(&requests[n%len(requests)], n%len(c.keys))
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	return sumUp(clients, took), nil
}

// one sends a request and logs how it ended. Its error is of the log, never of the target.
func (c *client) one(r *request, key int) error {
	l := line{API: r.api, Model: r.model, Stream: r.stream, Key: key}
	c.fill(r, c.keys[key])
	began := time.Now()
	err := c.receive(r, &l)
	l.Time = time.Now()
	took := l.Time.Sub(began)
	l.Ms = milliseconds(took)
	c.bytes += int64(l.Bytes)
	c.byStatus[strconv.Itoa(l.Status)]++
	if err != nil {
		l.Error = err.Error()
		c.errors[reason(err)]++
	}
	if l.Complete && l.Status/100 == 2 {
		c.took = append(c.took, took)
	} else {
		time.Sleep(backoff)
	}
	if c.log == nil {
		return nil
	}
	text, err := json.Marshal(l)
	if err == nil {
		_, err = c.log.Write(append(text, '\n')) // one write: lines of goroutines do not mix
	}
	if err != nil {
		return fmt.Errorf("cannot append to the log: %w", err)
	}
	return nil
}

// fill makes the HTTP request as the provider's SDK would.
func (c *client) fill(r *request, key string) {
	path := "/v1/chat/completions"
	if r.api == "anthropic" {
		path = "/v1/messages"
	}
	if !c.direct {
		path = "/" + r.api + path
	}
	c.req.Reset()
	c.req.Header.SetMethod(fasthttp.MethodPost)
	c.req.SetRequestURI(c.target + path)
	c.req.Header.SetContentType("application/json")
	if r.api == "anthropic" {
		c.req.Header.Set("X-Api-Key", key)
		c.req.Header.Set("Anthropic-Version", "2023-06-01")
	} else {
		c.req.Header.Set("Authorization", "Bearer "+key)
	}
	c.req.SetBodyRaw(r.body)
}

// receive sends the request and reads the answer to its end. A stream is complete when its
// terminator came, whatever becomes of the connection after it.
func (c *client) receive(r *request, l *line) error {
	c.body.Reset()
	c.resp.Reset()
	c.resp.StreamBody = r.stream
	if err := c.http.Do(&c.req, &c.resp); err != nil {
		return fmt.Errorf("no whole answer: %w", err)
	}
	l.Status = c.resp.StatusCode()
	l.RequestID = string(c.resp.Header.Peek("X-Weir-Request-Id"))
	l.Price = string(c.resp.Header.Peek("X-Weir-Price"))
	if !r.stream {
		l.Bytes, l.Complete = len(c.resp.Body()), true
		return nil
	}
	var err error
	if stream := c.resp.BodyStream(); stream != nil {
		_, err = io.Copy(&c.body, stream)
	} else {
		c.body.Write(c.resp.Body())
	}
	l.Bytes = c.body.Len()
	l.Complete = err == nil
	if l.Status/100 == 2 {
		l.Complete = terminated(c.body.Bytes())
	}
	if !l.Complete {
		// fasthttp takes a connection that breaks between two chunks for the stream's end, and
		// would use it again.
		c.resp.SetConnectionClose()
		if err == nil {
			err = errNoTerminator
		}
	}
	return firstError(err, c.resp.CloseBodyStream())
}

func firstError(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// terminated tells whether a stream of either provider came to its end.
func terminated(stream []byte) bool {
	return bytes.HasSuffix(stream, []byte("data: [DONE]\n\n")) ||
		bytes.HasSuffix(stream, []byte("data: {\"type\":\"message_stop\"}\n\n"))
}

// reason is an error's cause without the addresses that make every text different.
func reason(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	return err.Error()
}

func sumUp(clients []*client, took time.Duration) *summary {
	s := &summary{ByStatus: map[string]int{}, Errors: map[string]int{}, Seconds: took.Seconds()}
	var all []time.Duration
	for _, c := range clients {
		all = append(all, c.took...)
		s.Bytes += c.bytes
		for status, n := range c.byStatus {
			s.ByStatus[status] += n
			s.Requests += n
		}
		for text, n := range c.errors {
			s.Errors[text] += n
		}
	}
	slices.Sort(all)
	s.Complete = len(all)
	s.PerSecond = float64(s.Requests) / s.Seconds
	if len(all) > 0 {
		s.P50ms = milliseconds(all[len(all)/2])
		s.P99ms = milliseconds(all[len(all)*99/100])
	}
	return s
}

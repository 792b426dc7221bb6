// Package standin is a stand-in for the AI providers: it answers in the public shapes of OpenAI
// and Anthropic, breaks on demand, and keeps its own log of what it served, so that a proxy's
// books can be checked against what really left the upstream.
//
// Controls travel in the prompt, which every proxy passes on: a marker such as
//
//	[[standin in=2000 out=1000 cached=100 reasoning=50 chunks=20 interval=5ms delay=50ms]]
//
// sets the usage as the provider reports it (in, out, cached, cw5m, cw1h, reasoning), the
// stream (chunks, interval), the wait for the first byte (delay), an error (status=429), a usage
// member that no API documents (unknown=5), or a fault (fault=break-stream after=3, fault=stall
// stall=2s; see the fault constants). Without one the figures follow from the prompt's bytes and
// the seed. Output never exceeds the request's limit, and prompt tokens never exceed the prompt's
// bytes.
package standin

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// bodyBytesMax bounds a request body, so that one request cannot fill the memory.
	bodyBytesMax = 64 << 20
	// headerTimeout drops connections that send nothing; requests may take as long as they ask.
	headerTimeout = 10 * time.Second
	// bufferBytes fits nearly every answer, so that pooled buffers seldom grow.
	bufferBytes = 8 << 10
)

// Options configure a stand-in; the zero value answers at once, takes any key and logs nothing.
type Options struct {
	LogPath       string        // the log of what was served, appended to; "" = none
	Latency       time.Duration // before the first byte of an answer
	TokenInterval time.Duration // before each delta of a stream
	Seed          uint64        // changes the pseudo-random lengths and ids
	Key           string        // the provider key callers must show; "" = any
	Log           *slog.Logger  // nil = slog.Default()
}

// Server is a stand-in. It is an [http.Handler], and Listen serves it.
type Server struct {
	opts    Options
	log     *logFile
	count   atomic.Uint64 // requests so far
	buffers sync.Pool     // of *[]byte
	http    *http.Server
	serving sync.WaitGroup
}

// New opens the log and returns a stand-in that does not listen yet.
func New(opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	log, err := openLog(opts.LogPath)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: log}
	s.buffers.New = func() any {
		buf := make([]byte, 0, bufferBytes)
		return &buf
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug)}
	return s, nil
}

// Listen serves on addr in the background (port 0 = any) and returns the address it got. The
// base URL of both providers is "http://" + that address.
func (s *Server) Listen(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("cannot listen for the stand-in: %w", err)
	}
	s.serving.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.opts.Log.Error("stand-in stopped serving", "error", err)
		}
	})
	return l.Addr().String(), nil
}

// Close cuts every connection and closes the log. Its error says if any line was not logged.
func (s *Server) Close() error {
	err := s.http.Close()
	s.serving.Wait()
	return errors.Join(err, s.log.close())
}

// call is one request on its way.
type call struct {
	*Server
	w       http.ResponseWriter
	r       *http.Request
	dialect *dialect
	ask     ask
	plan    plan
	line    Line
	id      uint64 // a well-mixed number that only this request has
	buf     []byte // answers are rendered here
}

// dialect is what differs between the providers.
type dialect struct {
	provider string
	api      string
	id       func(b []byte, id uint64) []byte          // the answer's id
	answer   func(c *call, b []byte) []byte            // a whole JSON answer
	frames   func(c *call) frames                      // a stream's; nil = the API has none
	failure  func(b []byte, f failure) []byte          // an error's body
	check    func(r *http.Request, a *ask) *failure    // what the API refuses
	headers  func(h http.Header, id string, f failure) // the provider's own headers; f.status 0 = no error
}

// route finds the API of a request; nil is an unknown one, whose errors speak OpenAI's dialect.
func route(r *http.Request) *dialect {
	switch r.Method + " " + r.URL.Path {
	case "POST /v1/chat/completions":
		return &openaiChat
	case "POST /v1/embeddings":
		return &openaiEmbeddings
	case "POST /v1/messages":
		return &anthropicMessages
	}
	return nil
}

// ServeHTTP answers one request in its provider's shape.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := s.count.Add(1)
	buf := s.buffers.Get().(*[]byte)
	c := &call{Server: s, w: w, r: r, dialect: route(r), id: mix(n ^ s.opts.Seed<<32), buf: (*buf)[:0]}
	c.line = Line{N: n, RequestID: r.Header.Get("X-Request-Id")}
	defer func() {
		*buf = c.buf
		s.buffers.Put(buf)
	}()
	if c.dialect == nil {
		c.serveOther()
		return
	}
	c.line.Provider, c.line.API = c.dialect.provider, c.dialect.api
	if f := c.read(); f != nil {
		c.fail(*f)
		return
	}
	c.start()
	if !c.wait(c.plan.delay) {
		c.end(OutcomeClientGone, 0)
		return
	}
	c.serve()
}

// serveOther answers the list of models, and 404 for what the providers do not have.
func (c *call) serveOther() {
	c.dialect = &openaiChat
	if c.r.Header.Get("Anthropic-Version") != "" {
		c.dialect = &anthropicMessages
	}
	c.line.Provider = c.dialect.provider
	switch {
	case !c.authentic():
		c.fail(wrongKey)
	case c.r.Method == http.MethodGet && c.r.URL.Path == "/v1/models":
		c.send(http.StatusOK, models[c.dialect.provider])
	default:
		c.fail(failure{status: http.StatusNotFound, code: "unknown_url", message: "no such API: " + c.r.Method + " " + c.r.URL.Path})
	}
}

// read checks the key, reads the body and plans the answer.
func (c *call) read() *failure {
	if !c.authentic() {
		return &wrongKey
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, bodyBytesMax))
	if err != nil {
		return &failure{status: http.StatusRequestEntityTooLarge, message: "the body is too large or did not come whole"}
	}
	if err := json.Unmarshal(body, &c.ask); err != nil {
		return &failure{status: http.StatusBadRequest, message: "the body cannot be parsed: " + err.Error()}
	}
	c.line.Model, c.line.Stream = c.ask.Model, c.ask.Stream
	if c.ask.Model == "" {
		return &failure{status: http.StatusBadRequest, param: "model", message: "you must provide a model"}
	}
	if f := c.dialect.check(c.r, &c.ask); f != nil {
		return f
	}
	c.plan, err = newPlan(&c.ask, &c.opts, c.dialect.api)
	if err != nil {
		return &failure{status: http.StatusBadRequest, message: err.Error()}
	}
	return nil
}

// authentic tells whether the provider's key is where its SDK puts it.
func (c *call) authentic() bool {
	given := c.r.Header.Get("X-Api-Key")
	if c.dialect.provider == "openai" {
		given, _ = strings.CutPrefix(c.r.Header.Get("Authorization"), "Bearer ")
	}
	return c.opts.Key == "" || subtle.ConstantTimeCompare([]byte(given), []byte(c.opts.Key)) == 1
}

// start logs that the request is being served: a caller that dies from here on cannot hide it.
func (c *call) start() {
	c.line.Event, c.line.Time = EventStart, time.Now()
	c.logged()
	c.line.UpstreamRequestID = string(c.dialect.id(nil, c.id))
}

// end logs what was served. It is called before the last byte of the answer leaves.
func (c *call) end(outcome string, deltas int) {
	c.line.Event, c.line.Time = EventEnd, time.Now()
	c.line.Outcome, c.line.DeltasSent = outcome, deltas
	c.line.Meters = c.plan.served(deltas)
	c.logged()
}

// logged appends the line. An answer that could not be logged is not given: the log is what a
// proxy's books are checked against.
func (c *call) logged() {
	if c.log.append(&c.line) != nil {
		panic(http.ErrAbortHandler)
	}
}

// wait tells whether the caller is still there after d.
func (c *call) wait(d time.Duration) bool {
	if d <= 0 {
		return c.r.Context().Err() == nil
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), d)
	defer cancel()
	<-ctx.Done()
	return c.r.Context().Err() == nil
}

// send writes a JSON answer in one piece.
func (c *call) send(status int, body []byte) {
	h := c.w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.w.WriteHeader(status)
	if _, err := c.w.Write(body); err != nil {
		c.opts.Log.Debug("a caller left before its answer", "n", c.line.N, "error", err)
	}
}

// fail answers an error in the provider's shape and logs it; nothing was served.
func (c *call) fail(f failure) {
	f.requestID = requestID(c.id)
	c.dialect.headers(c.w.Header(), f.requestID, f)
	c.plan = plan{}
	c.end("error:"+strconv.Itoa(f.status), 0)
	c.buf = c.dialect.failure(c.buf[:0], f)
	c.send(f.status, c.buf)
}

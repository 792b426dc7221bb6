package provider_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"weir/gateway"
	"weir/internal/apikey"
	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	// stopMax bounds the stop of the gateway.
	stopMax = 10 * time.Second
	// recordHead stands before each record in a file of the spool: its length
	// and its checksum; fileHead before the first.
	recordHead, fileHead = 8, 24
	// pieces is in how many the upstream sends an answer.
	pieces = 3
)

// served is one answer of a real gateway to a case.
type served struct {
	how   string // encoded by, cut off
	id    string // of the request
	bill  string // the event, as want.txt writes it
	fault string // what was wrong with the bytes that the client got
}

// delivery is how the upstream sends an answer.
type delivery struct {
	*recorded
	encoding string
	abort    bool // the connection breaks behind the last byte
}

// serveAll lets a gateway with a real ledger and spool serve every case, plain
// and encoded by each encoding in turn, and a stream without terminator also
// broken off. It returns what came of them.
func serveAll(t *testing.T, cases []*recorded) map[*recorded][]*served {
	r := newReplay(t, cases)
	all := map[*recorded][]*served{}
	for i, c := range cases {
		ways := []delivery{{recorded: c}, {recorded: c, encoding: []string{"gzip", "br", "zstd"}[i%3]}}
		if v := c.verdict(); c.stream && !v.terminated {
			ways = append(ways, delivery{recorded: c, abort: true})
		}
		for _, d := range ways {
			all[c] = append(all[c], r.serve(t, d))
		}
	}
	r.stop()
	bills := readBills(t, r.spoolDir)
	for _, list := range all {
		for _, s := range list {
			s.bill = bills[s.id]
		}
	}
	return all
}

// replay is a gateway behind a listener, whose upstream says what it is told to.
type replay struct {
	url, key, spoolDir string
	now                atomic.Pointer[delivery]
	client             *http.Client
	stop               func()
}

func newReplay(t *testing.T, cases []*recorded) *replay {
	t.Helper()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	r := &replay{spoolDir: filepath.Join(dir, "spool"), client: &http.Client{Transport: &http.Transport{DisableCompression: true}}}
	upstream := httptest.NewServer(http.HandlerFunc(r.answer))
	t.Cleanup(upstream.Close)
	db, err := ledger.Open(t.Context(), ledger.Config{Dir: dir})
	must(t, err)
	t.Cleanup(func() { db.Close() })
	card := filepath.Join(dir, "card.yaml")
	must(t, os.WriteFile(card, []byte(cardOf(t, cases)), 0o600))
	_, err = cards.PublishFiles(t.Context(), db, []string{card})
	must(t, err)
	spool, err := stream.OpenSpool(stream.SpoolConfig{Dir: r.spoolDir, MaxBytes: 1 << 30, Log: log})
	must(t, err)
	o := gateway.Options{ID: "gw", Ledger: db, Spool: spool, Cards: cards.New(db), Pepper: []byte("pepper"), LeaseTTL: 10 * time.Minute,
		LeaseIdle: time.Minute, MaxRequest: time.Minute, MissingMax: "fit", Log: log, Metrics: gateway.NewMetrics(prometheus.NewRegistry())}
	for _, kind := range []string{"openai", "anthropic"} {
		o.Upstreams = append(o.Upstreams, gateway.Upstream{Name: kind, Kind: kind, BaseURL: upstream.URL, Key: "provider-key", AllowPrivate: true, StreamUsage: true})
	}
	g, err := gateway.New(o)
	must(t, err)
	_, err = db.StartSession(t.Context(), ledger.Session{ID: "session", Gateway: o.ID, TTL: o.LeaseTTL})
	must(t, err)
	must(t, g.NewHeart(gateway.Session{ID: "session", TTL: o.LeaseTTL}, "topic").Beat(t.Context()))
	r.key = newCustomer(t, db, o.Pepper)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r.url = "http://" + l.Addr().String()
	serving := make(chan error, 1)
	go func() { serving <- g.Serve(l) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		r.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), stopMax)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		g.Book.Stop(ctx)
		if err := <-serving; err != nil {
			t.Error(err)
		}
		if err := spool.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newCustomer makes a customer who can pay for the whole corpus, and returns a
// key.
func newCustomer(t testing.TB, db *ledger.DB, pepper []byte) string {
	t.Helper()
	text, id := apikey.Make()
	hash := apikey.Hash(pepper, text)
	must(t, db.Tx(t.Context(), func(tx *ledger.Tx) error {
		if _, err := tx.CreateCustomer(t.Context(), ledger.Customer{ID: "acme"}); err != nil {
			return err
		}
		if _, _, err := tx.Credit(t.Context(), ledger.Credit{Customer: "acme", Amount: 100_000 * money.Dollar}); err != nil {
			return err
		}
		return tx.CreateKey(t.Context(), ledger.Key{ID: id, Customer: "acme", Name: "test", Prefix: apikey.Prefix(id), Hash: hash[:]})
	}))
	return text
}

// cardOf makes one card of the prices in all cases, which must agree on those
// of a model.
func cardOf(t *testing.T, cases []*recorded) string {
	t.Helper()
	lines := map[string]string{}
	add := func(c *recorded, key, line string) {
		if have, ok := lines[key]; ok && have != line {
			t.Fatalf("%s: another case has other prices: %s and %s", c.name, have, line)
		}
		lines[key] = line
	}
	for _, c := range cases {
		of := strings.Split(c.api, ".")[0]
		for model, prices := range c.tariff.models {
			var list []string
			for meter, price := range prices {
				list = append(list, fmt.Sprintf("%s: %q", meter, price))
			}
			slices.Sort(list)
			add(c, "0"+model, fmt.Sprintf("  %s/%s: {context: 4000000, max_output: 100000, cost: {%s}}", of, model, strings.Join(list, ", ")))
		}
		rule := "  - {model: " + of + "/" + c.verdict().ask.model + ", unlimited: true"
		if c.tariff.multiplier != "" {
			rule += fmt.Sprintf(", multiplier: %q", c.tariff.multiplier)
		}
		if c.tariff.fee != "" {
			rule += fmt.Sprintf(", fee: %q", c.tariff.fee)
		}
		if c.tariff.multiplier+c.tariff.fee != "" {
			add(c, "2"+c.verdict().ask.model, rule+"}")
		}
	}
	lines["/"], lines["1"] = "models:", "rules:"
	text := ""
	keys := []string{}
	for key := range lines {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		text += lines[key] + "\n"
	}
	return text
}

// answer is the upstream: it plays the case that is on, in a few pieces.
func (r *replay) answer(w http.ResponseWriter, req *http.Request) {
	d := r.now.Load()
	_, _ = io.Copy(io.Discard, req.Body)
	w.Header().Set("Content-Type", "application/json")
	if d.stream {
		w.Header().Set("Content-Type", "text/event-stream")
	}
	if d.encoding != "" {
		w.Header().Set("Content-Encoding", d.encoding)
	}
	body := encode(d.encoding, d.response)
	for left := pieces; left > 0; left-- {
		n := len(body) / left
		_, _ = w.Write(body[:n])
		_ = http.NewResponseController(w).Flush()
		body = body[n:]
	}
	if d.abort {
		panic(http.ErrAbortHandler)
	}
}

func encode(encoding string, body []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "br":
		w = brotli.NewWriterLevel(&b, brotli.BestSpeed)
	case "zstd":
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<20))
		if err != nil {
			panic(err)
		}
		w = z
	default:
		return body
	}
	_, err := w.Write(body)
	if cerr := w.Close(); err != nil || cerr != nil {
		panic(fmt.Sprint(err, cerr))
	}
	return b.Bytes()
}

// serve sends a case's request and compares the bytes that come.
func (r *replay) serve(t *testing.T, d delivery) *served {
	t.Helper()
	r.now.Store(&d)
	path := map[string]string{"openai.chat": "/openai/v1/chat/completions", "openai.embeddings": "/openai/v1/embeddings", "anthropic.messages": "/anthropic/v1/messages"}[d.api]
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+path, bytes.NewReader(d.request))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+r.key)
	answer, err := r.client.Do(req)
	must(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	s := &served{how: fmt.Sprintf("encoded by %q, aborted %v", d.encoding, d.abort), id: answer.Header.Get("X-Weir-Request-Id")}
	v := d.verdict()
	switch {
	case !d.stream && !v.terminated: // no answer at all
		if answer.StatusCode != http.StatusBadGateway {
			s.fault = "a broken body is answered by " + answer.Status
		}
	case answer.StatusCode != http.StatusOK:
		s.fault = fmt.Sprintf("%s: %.200s", answer.Status, body)
	case err != nil && !d.abort:
		s.fault = err.Error()
	// What stands behind a terminator is no part of the answer.
	case len(body) < v.terminatorEnd || !bytes.HasPrefix(v.forwarded, body):
		s.fault = fmt.Sprintf("%d bytes came to the client, want %d: %.3000q", len(body), len(v.forwarded), body)
	}
	return s
}

// readBills reads the one event of each request from the spool.
func readBills(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	must(t, err)
	bills := map[string]string{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		must(t, err)
		for data = data[fileHead:]; len(data) > 0; {
			n := binary.LittleEndian.Uint32(data)
			rec, err := usage.ParseRecord(data[recordHead : recordHead+n])
			must(t, err)
			if rec.Kind.IsEvent() {
				bills[rec.RequestID] += bill(&rec)
			}
			data = data[recordHead+n:]
		}
	}
	return bills
}

// bill writes an event in the words of want.txt.
func bill(r *usage.Record) string {
	if r.Row != usage.RowUsage {
		return fmt.Sprintf("event: %s %s\n", r.Row, r.Status)
	}
	s := fmt.Sprintf("event: %s %s", r.Row, r.Status)
	if r.Estimated {
		s += " estimated"
	}
	if r.UnknownMeter {
		s += " unknown_meter"
	}
	s += "\nbilled: model=" + r.ModelBilled
	for m, n := range r.Meters {
		if n > 0 {
			s += fmt.Sprintf(" %s=%d", usage.Meter(m), n)
		}
	}
	dollars := func(n money.Nano) string { return fmt.Sprintf("%d.%09d", n/money.Dollar, n%money.Dollar) }
	return s + fmt.Sprintf("\ncost: %s\nprice: %s\n", dollars(r.Cost), dollars(r.Price))
}

// generated are cases that are too large to store.
func generated() (all []*recorded) {
	gpt := tariff{models: map[string]map[string]string{"gpt-4.1": {"input": "2.00", "cached_input": "0.50", "output": "8.00"}}, multiplier: "1.5"}
	claude := tariff{models: map[string]map[string]string{"claude-opus-4": {"input": "15", "cached_input": "1.50", "cache_write_5m": "18.75", "cache_write_1h": "30", "output": "75"}}}
	add := func(name, api, request string, response string, prices tariff) {
		all = append(all, &recorded{transcript: transcript{name: name, api: api, request: []byte(request), response: []byte(response),
			stream: strings.Contains(request, `"stream":true`), tariff: prices}})
	}
	const chat, message = `{"model":"gpt-4.1","max_tokens":90000,"messages":[{"role":"user","content":"How high is the weir?"}]`, `{"model":"claude-opus-4","max_tokens":90000,"messages":[{"role":"user","content":"How high is the weir?"}]`
	// Two megabytes of text that looks like usage, then the usage.
	decoy := strings.Repeat(`\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1} é `, 2<<20/57)
	add("json of 2 MB", "openai.chat", chat+`}`, `{"model":"gpt-4.1","choices":[{"index":0,"message":{"role":"assistant","content":"`+decoy+
		`"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":70000,"total_tokens":71000,"prompt_tokens_details":{"cached_tokens":900}}}`, gpt)
	add("json of 2 MB without usage", "openai.chat", chat+`}`, `{"model":"gpt-4.1","choices":[{"index":0,"message":{"role":"assistant","content":"`+strings.Repeat(`weir \n `, 60_000)+`"}}]}`, gpt)
	// A tool whose input is nested as deep as its schema lets it.
	deep := strings.Repeat(`{"a":[`, 200) + strings.Repeat(`]}`, 200)
	add("json nested deeply", "anthropic.messages", message+`}`, `{"type":"message","model":"claude-opus-4","content":[{"type":"tool_use","id":"t","name":"level","input":`+deep+
		`}],"stop_reason":"tool_use","usage":{"input_tokens":3,"output_tokens":900}}`, claude)
	// Eight hundred and six deltas, then nothing.
	start := `data: {"type":"message_start","message":{"model":"claude-opus-4","usage":{"input_tokens":11,"cache_read_input_tokens":7,"output_tokens":1}}}` + "\n\n"
	deltas := strings.Repeat(`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a "}}`+"\n\n", 806)
	add("stream of 806 deltas, cut", "anthropic.messages", message+`,"stream":true}`, start+deltas, claude)
	add("stream of 806 deltas", "anthropic.messages", message+`,"stream":true}`, start+deltas+
		`data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":900}}`+"\n\n"+`data: {"type":"message_stop"}`+"\n\n", claude)
	// Two megabytes in events of a quarter, whose last is followed by usage.
	large := strings.Repeat(`data: {"model":"gpt-4.1","choices":[{"index":0,"delta":{"content":"`+strings.Repeat("weir ", 50_000)+`"}}]}`+"\r\n\r\n", 8)
	add("stream of 2 MB", "openai.chat", chat+`,"stream":true}`, large+`data: {"model":"gpt-4.1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":80000}}`+"\r\n\r\ndata: [DONE]\r\n\r\n", gpt)
	return all
}

package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/apikey"
	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/standin"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// rules of the tests' card: three times the provider's cost, with the rules of
// budgets and of free use beside it. Built-in costs of gpt-4o-mini are 150 and
// 600 nano-dollars per input and output token.
const rules = `
rules:
  - {multiplier: "3"}
  - {customer: gift, multiplier: "0.5", budget_per_day: "0.0002"}
  - {customer: feed, multiplier: "3", fee: "0.001"}
  - {plan: free, price: {input: "0", output: "0"}, unlimited: true}
`

const waitMax = 10 * time.Second

// rig is a gateway behind a real listener, with a real ledger, spool and cards
// and the stand-in as its providers. Nothing settles: what happened is read
// from the spool.
type rig struct {
	*Gateway
	t        testing.TB
	url      string
	heart    *Heart
	standin  string // its log
	upstream string // its address
	spoolDir string
	key      string // of acme
	operator string
	syncing  atomic.Pointer[func() error] // asked before each fsync of the spool
	serving  chan error
}

type option func(*Options)

func newRig(t testing.TB, opts ...option) *rig {
	t.Helper()
	return newTunedRig(t, func(*Gateway) {}, opts...)
}

// newTunedRig calls tune before the gateway serves.
func newTunedRig(t testing.TB, tune func(*Gateway), opts ...option) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, standin: filepath.Join(dir, "standin.jsonl"), spoolDir: filepath.Join(dir, "spool"), serving: make(chan error, 1)}
	log := slog.New(slog.DiscardHandler)
	server, err := standin.New(standin.Options{LogPath: r.standin, Key: "provider-key", Log: log})
	must(t, err)
	r.upstream, err = server.Listen("127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { server.Close() })

	db, err := ledger.Open(t.Context(), ledger.Config{Dir: dir})
	must(t, err)
	t.Cleanup(func() { db.Close() })
	card := filepath.Join(dir, "card.yaml")
	must(t, os.WriteFile(card, []byte(rules), 0o600))
	_, err = cards.PublishFiles(t.Context(), db, []string{card})
	must(t, err)

	spool, err := stream.OpenSpool(stream.SpoolConfig{Dir: r.spoolDir, MaxBytes: 256 << 20, Log: log, Fault: r.fault})
	must(t, err)
	t.Cleanup(func() { spool.Close() })

	o := Options{ID: "gw", Ledger: db, Spool: spool, Cards: cards.New(db), Pepper: []byte("pepper"), LeaseTTL: 10 * time.Minute, LeaseIdle: 30 * time.Second,
		MaxRequest: 30 * time.Second, MissingMax: missingFit, Drain: true, DrainMax: 30 * time.Second, Log: log,
		Metrics: NewMetrics(prometheus.NewRegistry()), TopUpURL: "https://platform.example/topup?for={customer}"}
	for _, kind := range []string{"openai", "anthropic"} {
		o.Upstreams = append(o.Upstreams, Upstream{Name: kind, Kind: kind, BaseURL: "http://" + r.upstream, Key: "provider-key", AllowPrivate: true, StreamUsage: true})
	}
	for _, opt := range opts {
		opt(&o)
	}
	r.Gateway, err = New(o)
	must(t, err)
	_, err = db.StartSession(t.Context(), ledger.Session{ID: "session", Gateway: "gw", TTL: o.LeaseTTL})
	must(t, err)
	r.heart = r.NewHeart(Session{ID: "session", TTL: o.LeaseTTL}, "topic")
	must(t, r.heart.Beat(t.Context()))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r.url = "http://" + l.Addr().String()
	tune(r.Gateway)
	go func() { r.serving <- r.Serve(l) }()
	t.Cleanup(func() { r.stop(waitMax) })
	r.key, r.operator = r.customer("acme", 100*money.Dollar), r.newKey("")
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) fault(op string) error {
	if f := r.syncing.Load(); f != nil && op == "sync" {
		return (*f)()
	}
	return nil
}

// customer makes one with so much credit, and returns a key of it.
func (r *rig) customer(id string, credit money.Nano) string {
	r.t.Helper()
	ctx := r.t.Context()
	must(r.t, r.Ledger.Tx(ctx, func(tx *ledger.Tx) error {
		plan := ""
		if id == "freebie" {
			plan = "free"
		}
		if _, err := tx.CreateCustomer(ctx, ledger.Customer{ID: id, Plan: plan}); err != nil || credit == 0 {
			return err
		}
		_, _, err := tx.Credit(ctx, ledger.Credit{Customer: id, Amount: credit})
		return err
	}))
	return r.newKey(id)
}

// newKey makes a key of a customer, or an operator key of "".
func (r *rig) newKey(customer string, models ...string) string {
	r.t.Helper()
	text, id := apikey.Make()
	hash := apikey.Hash(r.Pepper, text)
	must(r.t, r.Ledger.Tx(r.t.Context(), func(tx *ledger.Tx) error {
		return tx.CreateKey(r.t.Context(), ledger.Key{ID: id, Customer: customer, Name: "test", Prefix: apikey.Prefix(id), Hash: hash[:], Models: models})
	}))
	return text
}

// stop shuts the gateway down in an orderly way; again it does nothing.
func (r *rig) stop(grace time.Duration) {
	r.t.Helper()
	if r.serving == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		r.t.Error(err)
	}
	r.Book.Stop(ctx)
	if err := <-r.serving; err != nil {
		r.t.Error(err)
	}
	r.serving = nil
}

// reply is an answer read whole. err tells how its body broke off.
type reply struct {
	status int
	http.Header
	body string
	err  error
}

// do sends a request; headers are `Name: value`.
func (r *rig) do(method, path, body string, headers ...string) reply {
	r.t.Helper()
	res, err := r.open(method, path, body, headers...)
	must(r.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(text), err}
}

func (r *rig) open(method, path, body string, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	return http.DefaultTransport.RoundTrip(req)
}

const (
	chatPath     = "/openai/v1/chat/completions"
	messagesPath = "/anthropic/v1/messages"
)

// chat posts a chat completion with acme's key; control is the stand-in's, more
// are further members of the body.
func (r *rig) chat(control, more string) reply {
	r.t.Helper()
	return r.do("POST", chatPath, chatBody(control, more), "Authorization: Bearer "+r.key)
}

func chatBody(control, more string) string {
	if more != "" {
		more = "," + more
	}
	return fmt.Sprintf(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":"[[standin %s]]"}]%s}`, control, more)
}

// client is a connection that a test leaves when it likes.
type client struct {
	net.Conn
	*bufio.Reader
}

// dial sends a request on a connection of its own.
func (r *rig) dial(path, key, body string) client {
	r.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	must(r.t, err)
	r.t.Cleanup(func() { conn.Close() })
	must(r.t, conn.SetDeadline(time.Now().Add(waitMax)))
	c := client{conn, bufio.NewReader(conn)}
	c.send(r.t, path, key, body)
	return c
}

func (c client) send(t testing.TB, path, key, body string) {
	t.Helper()
	_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", path, key, len(body), body)
	must(t, err)
}

// until reads until text has come.
func (c client) until(t testing.TB, text string) string {
	t.Helper()
	var got strings.Builder
	for !strings.Contains(got.String(), text) {
		line, err := c.ReadString('\n')
		got.WriteString(line)
		if err != nil {
			t.Fatalf("%v before %q in %q", err, text, got.String())
		}
	}
	return got.String()
}

// records reads what the spool's files hold, of the given kinds, all of none.
func (r *rig) records(kinds ...usage.Kind) (list []usage.Record) {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.spoolDir, "*.spool"))
	must(r.t, err)
	slices.Sort(files)
	for _, name := range files {
		data, err := os.ReadFile(name)
		must(r.t, err)
		for data = data[24:]; len(data) > 0; { // behind the header: length, checksum, record
			n := binary.LittleEndian.Uint32(data)
			rec, err := usage.ParseRecord(data[8 : 8+n])
			must(r.t, err)
			if len(kinds) == 0 || slices.Contains(kinds, rec.Kind) {
				list = append(list, rec)
			}
			data = data[8+n:]
		}
	}
	return list
}

// result is the one usage event there is, once it is there.
func (r *rig) result() usage.Record {
	r.t.Helper()
	var list []usage.Record
	r.eventually("a usage event", func() bool {
		list = r.records(usage.KindUsage, usage.KindUnknown)
		return len(list) > 0
	})
	if len(list) != 1 {
		r.t.Fatalf("%d usage events: %+v", len(list), list)
	}
	return list[0]
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(waitMax); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("there was never %s", what)
		}
	}
}

// served reads the stand-in's log.
func (r *rig) served(event string) (list []standin.Line) {
	r.t.Helper()
	lines, err := standin.ReadLog(r.standin)
	must(r.t, err)
	for _, l := range lines {
		if l.Event == event {
			list = append(list, l)
		}
	}
	return list
}

// reaches waits until the stand-in serves the nth request.
func (r *rig) reaches(n int) {
	r.t.Helper()
	r.eventually("a served request", func() bool { return len(r.served(standin.EventStart)) >= n })
}

// errorOf reads an error body of either shape.
func errorOf(t testing.TB, a reply) (code string, metadata map[string]any) {
	t.Helper()
	var body struct {
		Error struct {
			Code     string
			Message  string
			Metadata map[string]any
		}
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Error.Message == "" {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return body.Error.Code, body.Error.Metadata
}

// refused checks an answer of weir's own.
func (r *rig) refused(a reply, status int, code string) map[string]any {
	r.t.Helper()
	got, metadata := errorOf(r.t, a)
	if a.status != status || got != code {
		r.t.Errorf("%d %s, expected %d %s: %s", a.status, got, status, code, a.body)
	}
	if id := a.Get(headerRequestID); id == "" || metadata["request_id"] != id {
		r.t.Errorf("request id %q in the header, %v in the body", id, metadata["request_id"])
	}
	if a.Get(headerReserved) != "" {
		r.t.Error("a refusal with " + headerReserved)
	}
	return metadata
}

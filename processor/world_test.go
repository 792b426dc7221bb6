package processor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	patience   = 30 * time.Second
	topicName  = "usage"
	partitions = 4
	gatewayID  = "gw"
	sessionID  = "session"
	sessionTTL = time.Hour
	testWindow = 50 * time.Millisecond // the tests wait for many batches
)

// The prices of the card below, in pico-dollars per token, and its multiplier
// in ten-thousandths: enough to compute every expectation without the code
// under test.
const (
	inputPico  = 2_500_001
	outputPico = 10_000_000
	multiplier = 12_345
	cardText   = `
version: test
models:
  openai/gpt-test: {context: 1000, max_output: 1000, cost: {input: "2.500001", output: "10.00"}}
rules:
  - {multiplier: "1.2345"}
`
)

// world is everything the usage path is made of, but for what writes the
// spool: that is the test.
type world struct {
	*testing.T
	ctx    context.Context
	config ledger.Config
	db     *ledger.DB
	logDir string
	kafka  *stream.LogConfig // nil: the log is embedded, in logDir
	log    *stream.Log
	spools []*stream.Spool
	cards  *cards.Cards
	card   *ratecard.Card
	shelf  *shelf

	patience time.Duration

	mu       sync.Mutex
	expected map[string]usage.Record // by event id
}

func newWorld(t *testing.T, c ledger.Config) *world {
	t.Helper()
	return newWorldOn(t, c, nil)
}

func newWorldOn(t *testing.T, c ledger.Config, kafka *stream.LogConfig) *world {
	t.Helper()
	w := &world{T: t, kafka: kafka, patience: patience, ctx: t.Context(), config: c, db: ledgertest.Open(t, c), logDir: filepath.Join(t.TempDir(), "log"), shelf: newShelf(t),
		expected: map[string]usage.Record{}}
	w.publish(w.compose(cardText))
	w.cards = cards.New(w.db)
	_, err := w.db.StartSession(w.ctx, ledger.Session{ID: sessionID, Gateway: gatewayID, TTL: sessionTTL})
	w.must(err)
	w.openLog()
	w.addSpool()
	return w
}

func sqlite(t *testing.T) ledger.Config { return ledger.Config{Dir: t.TempDir()} }

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) compose(text string) *ratecard.Card {
	w.Helper()
	file, err := ratecard.Parse("test", []byte(text))
	w.must(err)
	card, err := ratecard.Compose(file)
	w.must(err)
	return card
}

// publish publishes a card, to which events are pinned from then on.
func (w *world) publish(card *ratecard.Card) {
	w.Helper()
	w.card = card
	w.must(w.db.Tx(w.ctx, func(tx *ledger.Tx) error {
		_, err := cards.Publish(w.ctx, tx, w.card, true)
		return err
	}))
}

// openLog opens the log, anew after closing it.
func (w *world) openLog() {
	w.Helper()
	w.log = w.openAnotherLog()
}

// openAnotherLog opens the log once more, as another process would.
func (w *world) openAnotherLog() *stream.Log {
	w.Helper()
	cfg := stream.LogConfig{Topic: topicName, Partitions: partitions, Dir: w.logDir, Log: quiet()}
	if w.kafka != nil {
		cfg = *w.kafka
	}
	l, err := stream.OpenLog(w.ctx, cfg)
	w.must(err)
	w.Cleanup(l.Close)
	return l
}

func (w *world) addSpool() *stream.Spool {
	w.Helper()
	s, err := stream.OpenSpool(stream.SpoolConfig{Dir: w.TempDir(), MaxBytes: 1 << 30, Log: quiet()})
	w.must(err)
	w.Cleanup(func() { _ = s.Close() })
	w.spools = append(w.spools, s)
	return s
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// produce brings spools to the log, all if none is named, until the returned
// function is called.
func (w *world) produce(spools ...*stream.Spool) (stop func()) {
	if len(spools) == 0 {
		spools = w.spools
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, s := range spools {
		running.Go(func() {
			if err := w.log.Produce(ctx, s); err != nil {
				w.Errorf("producing ended: %v", err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.Cleanup(stop)
	return stop
}

// process runs one more processor.
func (w *world) process() (p *Processor, stop func()) {
	p = w.processor()
	return p, w.run(p)
}

// run runs a processor until the returned function is called: then it ends
// like one that was killed, for what it had in memory is gone.
func (w *world) run(p *Processor) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			w.Errorf("the processor ended: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.Cleanup(stop)
	return stop
}

func (w *world) processor() *Processor {
	p := New(Options{Log: w.log, Ledger: w.db, Cards: w.cards, Warehouse: w.shelf, Grace: time.Hour, Logger: quiet(), Metrics: w.metrics()})
	p.window = testWindow
	return p
}

func (w *world) metrics() *Metrics { return NewMetrics(prometheus.NewRegistry()) }

// customer makes a customer with some money.
func (w *world) customer(id string, amount money.Nano) {
	w.Helper()
	w.must(w.db.Tx(w.ctx, func(tx *ledger.Tx) error {
		_, err := tx.CreateCustomer(w.ctx, ledger.Customer{ID: id})
		if err == nil {
			_, _, err = tx.Credit(w.ctx, ledger.Credit{Customer: id, Amount: amount, Reason: "test"})
		}
		return err
	}))
}

// tap is a lease as its gateway keeps it.
type tap struct {
	id, customer string
	spool        *stream.Spool
	seq, count   uint64
	cost, price  money.Nano
}

func (w *world) lease(customer string, need money.Nano) *tap {
	w.Helper()
	l := &tap{id: fmt.Sprintf("%s-lease-%d", customer, time.Now().UnixNano()), customer: customer}
	if len(w.spools) > 0 {
		l.spool = w.spools[0]
	}
	_, _, err := w.db.Grant(w.ctx, ledger.GrantRequest{LeaseID: l.id, Customer: customer, Session: sessionID, Gateway: gatewayID, GrantNo: 1, Need: need})
	w.must(err)
	return l
}

// rated computes what tokens cost and what they sell for, each rounded once,
// half away from zero.
func rated(input, output uint64) (cost, price money.Nano) {
	sum := new(big.Int).Mul(big.NewInt(int64(input)), big.NewInt(inputPico))
	sum.Add(sum, new(big.Int).Mul(big.NewInt(int64(output)), big.NewInt(outputPico)))
	round := func(n *big.Int, divisor int64) money.Nano {
		n = new(big.Int).Add(new(big.Int).Mul(n, big.NewInt(2)), big.NewInt(divisor))
		return money.Nano(n.Div(n, big.NewInt(2*divisor)).Int64())
	}
	return round(sum, 1_000), round(new(big.Int).Mul(sum, big.NewInt(multiplier)), 1_000*10_000)
}

// event is the lease's next usage event, with a true promise.
func (w *world) event(l *tap, input, output uint64) usage.Record {
	l.seq++
	rec := usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, Status: usage.StatusOK, LeaseID: l.id, Seq: l.seq, Customer: l.customer,
		Gateway: gatewayID, TimeMs: time.Now().UnixMilli(), RequestID: fmt.Sprint(l.id, "-", l.seq), Provider: "openai", API: "openai.chat",
		Model: "gpt-test", ModelBilled: "gpt-test", Rule: "default", CostCard: w.card.CostHash(), PriceCard: w.card.PriceHash(), Currency: "usd",
		HTTPStatus: 200, Reserved: money.Dollar}
	rec.Meters[usage.Input], rec.Meters[usage.Output] = input, output
	rec.Cost, rec.Price = rated(input, output)
	return rec
}

// use writes events of a lease.
func (w *world) use(l *tap, n int) {
	w.Helper()
	for range n {
		w.write(l, w.event(l, 1+l.seq%1000, l.seq%77))
	}
}

// write appends an event and expects it in the books.
func (w *world) write(l *tap, rec usage.Record) {
	w.Helper()
	w.mu.Lock()
	w.expected[rec.EventID()] = rec
	w.mu.Unlock()
	l.count++
	l.cost += rec.Cost
	l.price += rec.Price
	w.append(l, rec)
}

func (w *world) append(l *tap, rec usage.Record) {
	w.Helper()
	_, err := l.spool.Append(&rec)
	w.must(err)
}

func (w *world) closeLease(l *tap) {
	w.Helper()
	l.seq++
	w.append(l, usage.Record{Kind: usage.KindClose, LeaseID: l.id, Seq: l.seq, Customer: l.customer, Gateway: gatewayID, TimeMs: time.Now().UnixMilli(),
		Count: l.count, CostSum: l.cost, PriceSum: l.price})
}

func (w *world) until(what string, holds func() bool) {
	w.Helper()
	for end := time.Now().Add(w.patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("still not: %s", what)
		}
	}
}

// settled waits until the log has everything and the ledger what the log has.
func (w *world) settled() {
	w.Helper()
	for _, s := range w.spools {
		w.until("everything is in the log", func() bool { return s.Usage().UnackedRecords == 0 })
	}
	w.until("everything is settled", func() bool {
		ends, err := w.log.EndOffsets(w.ctx)
		w.must(err)
		progress, err := w.db.Progress(w.ctx, w.log.TopicID())
		w.must(err)
		for _, p := range progress {
			if ends[p.Part] <= p.Settled {
				delete(ends, p.Part)
			}
		}
		for part, end := range ends {
			if end == 0 {
				delete(ends, part)
			}
		}
		return len(ends) == 0
	})
}

// appended waits for the warehouse too.
func (w *world) appended() {
	w.Helper()
	w.settled()
	w.until("everything is appended", func() bool { return w.pending().Unappended == 0 })
}

func (w *world) pending() ledger.Pending {
	w.Helper()
	p, err := w.db.Pending(w.ctx)
	w.must(err)
	return p
}

// breaks are the checks that the ledger's audit fails.
func (w *world) breaks() (list []ledger.Break) {
	w.Helper()
	books, err := w.db.Books(w.ctx)
	w.must(err)
	return books.Breaks
}

func (w *world) accept(batch string) {
	w.Helper()
	w.must(w.db.Tx(w.ctx, func(tx *ledger.Tx) error { return tx.AcceptBatch(w.ctx, batch, "test") }))
}

// tieOut holds ledger and warehouse to what the test wrote: each event once,
// to the nano-dollar, and each wallet charged what its events say.
func (w *world) tieOut() {
	w.Helper()
	books, err := w.db.Books(w.ctx)
	w.must(err)
	if len(books.Breaks) > 0 {
		w.Errorf("the ledger's audit: %+v", books.Breaks)
	}
	var want ledger.Sums
	spent := map[string]money.Nano{}
	for _, rec := range w.expected {
		want.Count++
		want.Cost += rec.Cost
		want.Price += rec.Price
		spent[rec.Customer] += rec.Price
	}
	if books.Events != want || books.Ledger != want {
		w.Errorf("manifests %+v, postings %+v, written were %+v", books.Events, books.Ledger, want)
	}
	for customer, price := range spent {
		wallet, err := w.db.Wallet(w.ctx, customer)
		w.must(err)
		if got := wallet.Debited + wallet.Receivable; got != price {
			w.Errorf("wallet %s paid %s and owes %s, its events say %s", customer, wallet.Debited, wallet.Receivable, price)
		}
	}
	manifests, err := w.db.ManifestSums(w.ctx)
	w.must(err)
	w.shelf.compare(w.expected, manifests)
}

// metric reads one of a processor's counters.
func metric(c prometheus.Counter) int {
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	found, err := r.Gather()
	if err != nil {
		panic(err)
	}
	return int(found[0].Metric[0].Counter.GetValue())
}

// checks are the names of the audit's breaks, each once.
func checks(list []ledger.Break) string {
	var names []string
	for _, b := range list {
		names = append(names, b.Check)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}

package analytics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/internal/warehouse"
	"weir/internal/warehouse/warehousetest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// world is a ledger and a warehouse, filled as a processor fills them.
type world struct {
	*testing.T
	ctx    context.Context
	dir    string
	db     *ledger.DB
	stores *warehouse.DB // nil: none
	a      *Analytics
	routes *http.ServeMux

	cursor ledger.Cursor
	ends   map[int32]int64 // what the usage log holds
	leases map[string]uint64
	all    []usage.Record // settled
	puts   int            // made by put
}

const topic = "topic"

func newWorld(t *testing.T, w *warehouse.DB) *world {
	t.Helper()
	dir := t.TempDir()
	b := &world{T: t, ctx: t.Context(), dir: dir, db: ledgertest.Open(t, ledger.Config{Dir: dir}), stores: w, ends: map[int32]int64{},
		leases: map[string]uint64{}}
	b.a = New(Options{Ledger: b.db, Warehouse: w, Log: quiet(),
		LogEnds: func(context.Context) (string, map[int32]int64, error) { return topic, maps.Clone(b.ends), nil },
		Fail: func(w http.ResponseWriter, _ *http.Request, status int, code, message string) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"error":{"code":%q,"message":%q}}`, code, message)
		}})
	b.routes = http.NewServeMux()
	for pattern, h := range b.a.Routes() {
		b.routes.Handle(pattern, h)
	}
	var err error
	b.cursor, err = b.db.AcquirePartition(b.ctx, topic, 0)
	b.must(err)
	for _, id := range customers {
		b.must(b.db.Tx(b.ctx, func(tx *ledger.Tx) error {
			_, err := tx.CreateCustomer(b.ctx, ledger.Customer{ID: id})
			if err == nil {
				_, _, err = tx.Credit(b.ctx, ledger.Credit{Customer: id, Amount: 1_000_000 * money.Dollar, Reason: "test"})
			}
			return err
		}))
	}
	return b
}

func (b *world) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

var (
	customers = []string{"acme", "bolt", "it's?"}
	providers = []string{"anthropic", "openai"}
	statuses  = []usage.Status{usage.StatusOK, usage.StatusPartial, usage.StatusClientGone}
	firstDay  = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
)

// records makes events of every kind, at random but the same for a seed.
func (b *world) records(rng *rand.Rand, n int) []usage.Record {
	recs := make([]usage.Record, n)
	for i := range recs {
		customer := customers[rng.IntN(len(customers))]
		b.leases[customer]++
		seq := b.leases[customer]
		r := &recs[i]
		*r = usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, Status: statuses[rng.IntN(len(statuses))], LeaseID: "lease-" + customer, Seq: seq,
			Customer: customer, Gateway: "gw", TimeMs: firstDay.UnixMilli() + rng.Int64N(4*24*3600_000), RequestID: fmt.Sprintf("req-%s-%d", customer, seq),
			KeyID: fmt.Sprint("key", rng.IntN(2)), Provider: providers[rng.IntN(2)], API: "openai.chat", Model: fmt.Sprint("model", rng.IntN(3)),
			Rule: fmt.Sprint("rule", rng.IntN(2)), Currency: "usd", HTTPStatus: 200, Stream: rng.IntN(2) == 0, Estimated: rng.IntN(5) == 0,
			Reserved: money.Nano(rng.Int64N(int64(money.Dollar))), LatencyMs: 12, TTFTMs: 3, Tags: []usage.Tag{{Key: "team", Value: "a"}}}
		r.ModelBilled = r.Model
		switch rng.IntN(8) {
		case 0:
			r.Kind, r.Row, r.Status, r.Estimated = usage.KindUnknown, usage.RowLeakage, usage.StatusUnknown, false
		case 1:
			r.Row, r.Status, r.Estimated = usage.RowError, usage.StatusUpstreamError, false
		default:
			for m := usage.Input; m <= usage.Reasoning; m++ {
				r.Meters[m] = rng.Uint64N(10_000)
			}
			r.Meters[usage.Images] = rng.Uint64N(3)
			r.Cost = money.Nano(rng.Int64N(int64(money.Dollar)))
			r.Price = money.Nano(rng.Int64N(2 * int64(money.Dollar)))
		}
	}
	return recs
}

// settle books one batch and, where there is a warehouse, appends it. It
// returns the batch's id.
func (b *world) settle(recs []usage.Record) string {
	b.Helper()
	id := b.settleOnly(recs)
	if b.stores != nil {
		b.must(b.stores.Append(b.ctx, id, recs))
		b.must(b.db.MarkAppended(b.ctx, id))
	}
	return id
}

func (b *world) settleOnly(recs []usage.Record) string {
	b.Helper()
	batch := ledger.Batch{Topic: topic, Epoch: b.cursor.Epoch, From: b.cursor.NextOffset, To: b.cursor.NextOffset + int64(len(recs))}
	for i := range recs {
		batch.Records = append(batch.Records, ledger.Settling{Offset: batch.From + int64(i), Rec: &recs[i]})
	}
	s, err := b.db.Settle(b.ctx, batch)
	b.must(err)
	if len(s.Fresh) != len(recs) {
		b.Fatalf("%d of %d are new", len(s.Fresh), len(recs))
	}
	b.cursor.NextOffset = batch.To
	b.ends[0] = batch.To
	b.all = append(b.all, recs...)
	return s.Manifest.ID
}

// get asks and decodes the answer, numbers as they are written.
func (b *world) get(path string) (status int, answer map[string]any) {
	b.Helper()
	w := httptest.NewRecorder()
	b.routes.ServeHTTP(w, httptest.NewRequestWithContext(b.ctx, http.MethodGet, "/api/v1"+path, nil))
	d := json.NewDecoder(w.Body)
	d.UseNumber()
	if err := d.Decode(&answer); err != nil {
		b.Fatalf("%s: %d, %v", path, w.Code, err)
	}
	return w.Code, answer
}

// ask is get for a question that must be answered.
func (b *world) ask(path string) map[string]any {
	b.Helper()
	status, answer := b.get(path)
	if status != http.StatusOK {
		b.Fatalf("%s: %d %v", path, status, answer)
	}
	return answer
}

// names are the members of a JSON object, sorted.
func names(object any) string {
	return strings.Join(slices.Sorted(maps.Keys(object.(map[string]any))), " ")
}

// sorted brings a list of names into the order of names.
func sorted(list string) string {
	return strings.Join(slices.Sorted(slices.Values(strings.Fields(list))), " ")
}

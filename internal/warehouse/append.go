package warehouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/shopspring/decimal"

	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	// appendTimeout bounds one append. A later end of it, behind the client's
	// back, still falls inside the window in which the token is remembered.
	appendTimeout = 30 * time.Second
	// maxRows is what the server takes as one block; a larger insert would be
	// several, of which a crash could leave some.
	maxRows = 1_048_449
	// moneyPlaces is the scale of the money columns: nano-dollars.
	moneyPlaces = 9
	// maxAmount is the first amount that Decimal(18, 9) cannot hold.
	maxAmount = 1_000_000_000 * money.Dollar
)

// column is one column of usage_events: its name and its values for a batch.
type column struct {
	name   string
	values func(b *batch) any
}

// batch is what the rows are made of. They are a function of it alone, so that
// an append that is repeated, by whomever, sends the same rows.
type batch struct {
	id   string
	recs []usage.Record
}

// of makes a column out of a value of the record.
func of[T any](value func(*usage.Record) T) func(*batch) any {
	return func(b *batch) any {
		values := make([]T, len(b.recs))
		for i := range b.recs {
			values[i] = value(&b.recs[i])
		}
		return values
	}
}

func amount(value func(*usage.Record) money.Nano) func(*batch) any {
	return of(func(r *usage.Record) decimal.Decimal { return decimal.New(int64(value(r)), -moneyPlaces) })
}

func meter(m usage.Meter) func(*batch) any {
	return of(func(r *usage.Record) uint64 { return r.Meters[m] })
}

// columns are those of the table, all of them. entry_no is 0: records are
// first ratings, corrections come by another way.
var columns = []column{
	{"event_id", of((*usage.Record).EventID)},
	{"entry_no", of(func(*usage.Record) uint16 { return 0 })},
	{"kind", of(func(r *usage.Record) string { return r.Row.String() })},
	{"request_id", of(func(r *usage.Record) string { return r.RequestID })},
	{"event_time", of(func(r *usage.Record) time.Time { return time.UnixMilli(r.TimeMs).UTC() })},
	{"customer", of(func(r *usage.Record) string { return r.Customer })},
	{"key_id", of(func(r *usage.Record) string { return r.KeyID })},
	{"provider", of(func(r *usage.Record) string { return r.Provider })},
	{"api", of(func(r *usage.Record) string { return r.API })},
	{"model", of(func(r *usage.Record) string { return r.Model })},
	{"model_billed", of(func(r *usage.Record) string { return r.ModelBilled })},
	{"rule", of(func(r *usage.Record) string { return r.Rule })},
	{"tags", of(tags)},
	{"status", of(func(r *usage.Record) string { return r.Status.String() })},
	{"stream", of(func(r *usage.Record) uint8 { return flag(r.Stream) })},
	{"estimated", of(func(r *usage.Record) uint8 { return flag(r.Estimated) })},
	{"input_tokens", meter(usage.Input)},
	{"cached_input_tokens", meter(usage.CachedInput)},
	{"cache_write_5m_tokens", meter(usage.CacheWrite5m)},
	{"cache_write_1h_tokens", meter(usage.CacheWrite1h)},
	{"output_tokens", meter(usage.Output)},
	{"reasoning_tokens", meter(usage.Reasoning)},
	{"units", of(units)},
	{"reserved", amount(func(r *usage.Record) money.Nano { return r.Reserved })},
	{"cost", amount(func(r *usage.Record) money.Nano { return r.Cost })},
	{"price", amount(func(r *usage.Record) money.Nano { return r.Price })},
	{"margin", amount(func(r *usage.Record) money.Nano { return r.Price - r.Cost })},
	{"currency", of(func(r *usage.Record) string { return r.Currency })},
	{"cost_card", of(func(r *usage.Record) string { return r.CostCard })},
	{"price_card", of(func(r *usage.Record) string { return r.PriceCard })},
	{"http_status", of(func(r *usage.Record) uint16 { return uint16(r.HTTPStatus) })},
	{"latency_ms", of(func(r *usage.Record) uint32 { return r.LatencyMs })},
	{"ttft_ms", of(func(r *usage.Record) uint32 { return r.TTFTMs })},
	{"gateway", of(func(r *usage.Record) string { return r.Gateway })},
	{"lease_id", of(func(r *usage.Record) string { return r.LeaseID })},
	{"seq", of(func(r *usage.Record) uint64 { return r.Seq })},
	{"batch_id", func(b *batch) any {
		ids := make([]string, len(b.recs))
		for i := range ids {
			ids[i] = b.id
		}
		return ids
	}},
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

func tags(r *usage.Record) map[string]string {
	m := make(map[string]string, len(r.Tags))
	for _, t := range r.Tags {
		m[t.Key] = t.Value
	}
	return m
}

// units are the meters that have no column of their own, those that counted.
func units(r *usage.Record) map[string]uint64 {
	m := make(map[string]uint64)
	for i := usage.Reasoning + 1; i < usage.NumMeters; i++ {
		if r.Meters[i] != 0 {
			m[i.String()] = r.Meters[i]
		}
	}
	return m
}

// Append stores the usage and unknown records of one settled batch, one row
// each, as one block under the batch's id. Repeated with the same id it changes
// nothing, whatever became of the earlier attempt; so after an error the caller
// repeats it. The records of an id must never change: the store would drop the
// changed ones without a word.
func (d *DB) Append(ctx context.Context, batchID string, recs []usage.Record) error {
	switch {
	case len(recs) == 0:
		return nil
	case batchID == "":
		return fmt.Errorf("cannot append %d records without a batch id", len(recs))
	case len(recs) > maxRows:
		return fmt.Errorf("cannot append batch %s: %d records are more than one block (%d)", batchID, len(recs), maxRows)
	}
	for i := range recs {
		if err := check(&recs[i]); err != nil {
			return fmt.Errorf("cannot append batch %s: %w", batchID, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	if err := d.send(ctx, &batch{id: batchID, recs: recs}); err != nil {
		return fmt.Errorf("cannot append batch %s: %w", batchID, err)
	}
	return nil
}

// check refuses what has no row, or none that says the same.
func check(r *usage.Record) error {
	if !r.Kind.IsEvent() {
		return fmt.Errorf("record %s of kind %s is no event", r.EventID(), r.Kind)
	}
	for _, n := range []money.Nano{r.Reserved, r.Cost, r.Price} {
		if n < 0 || n >= maxAmount {
			return fmt.Errorf("record %s has an amount outside of 0 … %s", r.EventID(), maxAmount)
		}
	}
	return nil
}

func (d *DB) send(ctx context.Context, b *batch) error {
	types, err := d.columnTypes(ctx)
	if err != nil {
		return err
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithColumnNamesAndTypes(types), clickhouse.WithSettings(clickhouse.Settings{
		"async_insert":               0,
		"insert_deduplication_token": b.id,
		// The views' targets drop what the table drops; older servers need telling.
		"deduplicate_blocks_in_dependent_materialized_views": 1,
	}))
	block, err := d.conn.PrepareBatch(ctx, "INSERT INTO usage_events ("+columnList+")")
	if err != nil {
		return err
	}
	defer block.Close()
	for i, c := range columns {
		if err := block.Column(i).Append(c.values(b)); err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	return block.Send()
}

// columnList names the columns of an insert, in order.
var columnList = func() string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return strings.Join(names, ", ")
}()

// columnTypes reads the table's column types once: the client would ask for
// them before every insert. Only a migration changes them, at a start.
func (d *DB) columnTypes(ctx context.Context) ([]clickhouse.ColumnNameAndType, error) {
	if known := d.types.Load(); known != nil {
		return *known, nil
	}
	rows, err := d.conn.Query(ctx, "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = 'usage_events'")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	byName := make(map[string]string, len(columns))
	for rows.Next() {
		var name, kind string
		if err := rows.Scan(&name, &kind); err != nil {
			return nil, err
		}
		byName[name] = kind
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	types := make([]clickhouse.ColumnNameAndType, len(columns))
	for i, c := range columns {
		kind, ok := byName[c.name]
		if !ok {
			return nil, fmt.Errorf("usage_events has no column %s", c.name)
		}
		types[i] = clickhouse.ColumnNameAndType{Name: c.name, Type: kind}
	}
	d.types.Store(&types)
	return types, nil
}

package analytics

import (
	"context"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"weir/schemas/money"
)

// rowsMax bounds a report's rows: more than that is a question for SQL.
const rowsMax = 10_000

// dimensions are what reports can be grouped by, with their expression on
// usage_events and on usage_hourly ("" = only single events have it).
var dimensions = []struct{ name, event, hour string }{
	{"customer", "customer", "customer"},
	{"provider", "provider", "provider"},
	{"model", "model", "model"},
	{"day", "toString(toDate(event_time))", "toString(toDate(hour))"},
	{"hour", "formatDateTime(toStartOfHour(event_time), '%Y-%m-%dT%H:%i:%SZ', 'UTC')", "formatDateTime(hour, '%Y-%m-%dT%H:%i:%SZ', 'UTC')"},
	{"key_id", "key_id", ""},
	{"rule", "rule", ""},
	{"status", "status", ""},
}

// measure is one figure of a report: a count, or an amount as text.
type measure struct {
	name, event, hour string
	isAmount          bool
}

type reportKind struct {
	measures []measure
	filter   string // on usage_events; such a report reads no rollup
	orderBy  string
	margin   bool // margin_percent is added
}

func count(name, event, hour string) measure { return measure{name, event, hour, false} }

func amountOf(name string) measure {
	return measure{name, "toString(sum(" + name + "))", "toString(sum(" + name + "))", true}
}

var (
	requestsMeasure = count("requests", "countIf(entry_no = 0 AND kind = 'usage')", "sum(requests)")

	marginReport = reportKind{measures: []measure{requestsMeasure, amountOf("cost"), amountOf("price"), amountOf("margin")},
		orderBy: "sum(margin) DESC", margin: true}
	usageReport = reportKind{measures: []measure{requestsMeasure,
		count("events", "countIf(entry_no = 0)", "sum(events)"),
		count("estimated", "countIf(entry_no = 0 AND kind = 'usage' AND estimated = 1)", "sum(estimated)"),
		tokens("input"), tokens("cached_input"), tokens("cache_write_5m"), tokens("cache_write_1h"), tokens("output"), tokens("reasoning"),
		amountOf("price")}, orderBy: "sum(price) DESC"}
	leakageReport = reportKind{measures: []measure{count("count", "count()", ""), amountOf("reserved")},
		filter: "kind = 'leakage'", orderBy: "sum(reserved) DESC"}
)

func tokens(meter string) measure {
	return count(meter+"_tokens", "sum("+meter+"_tokens)", "sum("+meter+"_tokens)")
}

// report answers one of the three reports.
func (a *Analytics) report(r *http.Request, kind *reportKind) (any, error) {
	values := r.URL.Query()
	if err := known(values, "by", "from", "to"); err != nil {
		return nil, err
	}
	by, err := readBy(values.Get("by"))
	if err != nil {
		return nil, err
	}
	when, err := readSpan(values)
	if err != nil {
		return nil, err
	}
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	rows, err := kind.read(r.Context(), conn, by, when)
	if err != nil {
		return nil, err
	}
	totals, err := kind.read(r.Context(), conn, nil, when)
	if err != nil {
		return nil, err
	}
	var newest time.Time
	if err := conn.QueryRow(r.Context(), "SELECT max(event_time) FROM usage_events").Scan(&newest); err != nil {
		return nil, err
	}
	answer := map[string]any{"rows": rows, "totals": totals[0], "fresh_to": nil}
	if newest.Unix() > 0 {
		answer["fresh_to"] = newest.UTC().Format(time.RFC3339Nano)
	}
	return answer, nil
}

// readBy reads the list of dimensions; a model is always told with its provider.
func readBy(text string) ([]string, error) {
	if text == "" {
		text = "customer,model"
	}
	var by []string
	for _, name := range strings.Split(text, ",") {
		if !slices.ContainsFunc(dimensions, func(d struct{ name, event, hour string }) bool { return d.name == name }) {
			return nil, badRequest{fmt.Sprintf("Cannot report by %q; `by` takes customer, model, provider, day, hour, key_id, rule, status.", name)}
		}
		if name == "model" && !slices.Contains(by, "provider") {
			by = append(by, "provider")
		}
		if !slices.Contains(by, name) {
			by = append(by, name)
		}
	}
	return by, nil
}

// read runs the report's statement. The hourly rollup answers what it can; it
// holds the same sums as the events.
func (k *reportKind) read(ctx context.Context, conn driver.Conn, by []string, when span) ([]row, error) {
	rollup := k.filter == "" && when.hourly()
	for _, d := range dimensions {
		rollup = rollup && (d.hour != "" || !slices.Contains(by, d.name))
	}
	var columns, groups []string
	for _, name := range by {
		for _, d := range dimensions {
			if d.name == name {
				columns = append(columns, pick(rollup, d.hour, d.event)+" AS by_"+name)
				groups = append(groups, "by_"+name)
			}
		}
	}
	for _, m := range k.measures {
		columns = append(columns, pick(rollup, m.hour, m.event))
	}
	var q query
	if k.filter != "" {
		q.and(k.filter)
	}
	when.filter(&q, pick(rollup, "hour", "event_time"))
	text := "SELECT " + strings.Join(columns, ", ") + " FROM " + pick(rollup, "usage_hourly", "usage_events") + q.text()
	if len(groups) > 0 {
		text += " GROUP BY " + strings.Join(groups, ", ") + " ORDER BY " + k.orderBy + ", " + strings.Join(groups, ", ")
	}
	found, err := conn.Query(ctx, text+fmt.Sprintf(" LIMIT %d", rowsMax), q.args...)
	if err != nil {
		return nil, err
	}
	list := []row{}
	for found.Next() {
		one, err := k.scan(found, by)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, found.Err()
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

func (k *reportKind) scan(found driver.Rows, by []string) (row, error) {
	names := make([]string, len(by))
	amounts := make([]amount, len(k.measures))
	counts := make([]uint64, len(k.measures))
	var into []any
	for i := range by {
		into = append(into, &names[i])
	}
	for i, m := range k.measures {
		if m.isAmount {
			into = append(into, &amounts[i])
		} else {
			into = append(into, &counts[i])
		}
	}
	if err := found.Scan(into...); err != nil {
		return nil, err
	}
	var one row
	for i, name := range by {
		one = append(one, member{name, names[i]})
	}
	var price, margin money.Nano
	for i, m := range k.measures {
		if !m.isAmount {
			one = append(one, member{m.name, counts[i]})
			continue
		}
		one = append(one, member{m.name, amounts[i].Nano})
		switch m.name {
		case "price":
			price = amounts[i].Nano
		case "margin":
			margin = amounts[i].Nano
		}
	}
	if k.margin {
		one = append(one, member{"margin_percent", marginPercent(margin, price)})
	}
	return one, nil
}

// marginPercent is 100 × margin ÷ price with two places, half away from zero;
// null where the price is 0.
func marginPercent(margin, price money.Nano) rawJSON {
	if price == 0 {
		return "null"
	}
	n := new(big.Int).Mul(big.NewInt(int64(margin)), big.NewInt(2*10_000))
	d := new(big.Int).Mul(big.NewInt(int64(price)), big.NewInt(2))
	half := new(big.Int).Abs(big.NewInt(int64(price)))
	if n.Sign()*d.Sign() < 0 {
		half.Neg(half)
	}
	if d.Sign() < 0 {
		half.Neg(half)
	}
	hundredths := n.Add(n, half).Quo(n, d)
	return rawJSON(new(big.Rat).SetFrac(hundredths, big.NewInt(100)).FloatString(2))
}

package analytics

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"weir/schemas/money"
)

// rowsMax bounds a report's rows; its totals count the others too. More than
// that is a question for SQL.
const rowsMax = 10_000

type dimension struct{ name, event, hour string }

// dimensions are what reports can be grouped by, with their expression on
// usage_events and on usage_hourly ("" = only single events have it).
var dimensions = []dimension{
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
	names := []string{"by", "from", "to"}
	if kind.margin {
		names = append(names, "net")
	}
	if err := known(values, names...); err != nil {
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
	if net, err := readBool(values, "net"); net || err != nil {
		if err != nil {
			return nil, err
		}
		return a.netMargin(r.Context(), by, when)
	}
	rows := []row{}
	total, groups := make([]figure, len(kind.measures)), 0
	text, args := kind.statement(by, when)
	err = a.each(r.Context(), text, args, func(scan func(...any) error) error {
		names, figures, err := kind.scan(scan, len(by))
		if err != nil {
			return err
		}
		if groups++; groups <= rowsMax {
			rows = append(rows, kind.row(by, names, figures))
		}
		return add(total, figures)
	})
	if err != nil {
		return nil, err
	}
	fresh, err := a.freshTo(r.Context())
	return map[string]any{"rows": rows, "totals": kind.row(nil, nil, total), "truncated": groups > rowsMax, "fresh_to": fresh}, err
}

// freshTo is the time of the newest event, nil if there is none.
func (a *Analytics) freshTo(ctx context.Context) (fresh any, err error) {
	err = a.each(ctx, "SELECT count(), max(event_time) FROM usage_events", nil, func(scan func(...any) error) error {
		var events uint64
		var newest time.Time
		err := scan(&events, &newest)
		if events > 0 {
			fresh = newest.UTC().Format(time.RFC3339Nano)
		}
		return err
	})
	return fresh, err
}

// readBy reads the list of dimensions; a model is always told with its provider.
func readBy(text string) ([]string, error) {
	if text == "" {
		text = "customer,model"
	}
	var by []string
	for _, name := range strings.Split(text, ",") {
		if !slices.ContainsFunc(dimensions, func(d dimension) bool { return d.name == name }) {
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

// statement is the report's query. The hourly rollup answers what it can; it
// holds the same sums as the events.
func (k *reportKind) statement(by []string, when span) (string, []any) {
	rollup := k.filter == "" && when.hourly()
	for _, d := range dimensions {
		rollup = rollup && (d.hour != "" || !slices.Contains(by, d.name))
	}
	pick := func(hour, event string) string {
		if rollup {
			return hour
		}
		return event
	}
	var columns, groups []string
	for _, name := range by {
		for _, d := range dimensions {
			if d.name == name {
				columns = append(columns, pick(d.hour, d.event)+" AS by_"+name)
				groups = append(groups, "by_"+name)
			}
		}
	}
	for _, m := range k.measures {
		columns = append(columns, pick(m.hour, m.event))
	}
	var q query
	if k.filter != "" {
		q.and(k.filter)
	}
	when.filter(&q, pick("hour", "event_time"))
	keys := strings.Join(groups, ", ")
	return "SELECT " + strings.Join(columns, ", ") + " FROM " + pick("usage_hourly", "usage_events") + q.text() +
		" GROUP BY " + keys + " ORDER BY " + k.orderBy + ", " + keys, q.args
}

// figure is the value of one measure: a count or an amount.
type figure struct {
	count  uint64
	amount amount
}

var errSum = errors.New("a sum is beyond what an amount can hold")

// add adds a row's figures to their totals.
func add(total, figures []figure) error {
	for i := range total {
		sum, ok := total[i].amount.Add(figures[i].amount.Nano)
		if !ok {
			return errSum
		}
		total[i].amount.Nano = sum
		total[i].count += figures[i].count
	}
	return nil
}

func (k *reportKind) scan(scan func(...any) error, dimensions int) ([]string, []figure, error) {
	names, figures := make([]string, dimensions), make([]figure, len(k.measures))
	var into []any
	for i := range names {
		into = append(into, &names[i])
	}
	for i, m := range k.measures {
		if m.isAmount {
			into = append(into, &figures[i].amount)
		} else {
			into = append(into, &figures[i].count)
		}
	}
	return names, figures, scan(into...)
}

// row writes a group: its dimensions, then its figures.
func (k *reportKind) row(by, names []string, figures []figure) (r row) {
	for i, name := range by {
		r = append(r, member{name, names[i]})
	}
	var price, margin money.Nano
	for i, m := range k.measures {
		if !m.isAmount {
			r = append(r, member{m.name, figures[i].count})
			continue
		}
		r = append(r, member{m.name, figures[i].amount.Nano})
		switch m.name {
		case "price":
			price = figures[i].amount.Nano
		case "margin":
			margin = figures[i].amount.Nano
		}
	}
	if k.margin {
		r = append(r, member{"margin_percent", marginPercent(margin, price)})
	}
	return r
}

// marginPercent is 100 × margin ÷ price with two places, half away from zero;
// null where the price is 0.
func marginPercent(margin, price money.Nano) rawJSON {
	if price == 0 {
		return "null"
	}
	ratio := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(100), big.NewInt(int64(margin))), big.NewInt(int64(price)))
	if text := ratio.FloatString(2); text != "-0.00" {
		return rawJSON(text)
	}
	return "0.00"
}

package distributed

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// workloadSize is how many requests the recorded workload has: several of each
// kind for each customer.
const workloadSize = 12 * kinds

// workloadCard prices the workload: a markup, a rule for one customer with a
// fee, a subsidy within a budget, a plan, absolute prices.
const workloadCard = `version: "workload"
rules:
  - {multiplier: "3"}
  - {customer: beta, model: openai/gpt-4o, multiplier: "1.2", fee: "0.001"}
  - {model: openai/gpt-4o-mini, multiplier: "0.5", budget_per_day: "20"}
  - {plan: pro, model: anthropic/*, multiplier: "1.1"}
  - {model: openai/text-embedding-3-small, price: {input: "0.07"}}
`

// TestSameBooks: one workload through one process that embeds everything, and
// through three processes on servers, ends in the same ledger and the same rows.
func TestSameBooks(t *testing.T) {
	alone := runWorkload(t, embedded)
	apart := runWorkload(t, remote)
	for _, name := range []string{"wallets", "postings", "manifests", "spend", "usage_events", "margins"} {
		if slices.Equal(alone[name], apart[name]) {
			t.Logf("%s: %d rows, the same", name, len(alone[name]))
			continue
		}
		for i := range max(len(alone[name]), len(apart[name])) {
			if a, b := at(alone[name], i), at(apart[name], i); a != b {
				t.Errorf("%s, row %d:\n alone %s\n apart %s", name, i, a, b)
				break
			}
		}
	}
	if len(alone["usage_events"]) != workloadSize {
		t.Errorf("%d requests became %d rows", workloadSize, len(alone["usage_events"]))
	}
}

func at(rows []string, i int) string {
	if i < len(rows) {
		return rows[i]
	}
	return "nothing"
}

// runWorkload sends the workload, stops everything, and returns the books as
// rows of text, in order, without what differs between any two runs: times and
// random ids.
func runWorkload(t *testing.T, where bool) map[string][]string {
	t.Helper()
	in := install(t, where)
	card := filepath.Join(in.dir, "card.yaml")
	if err := os.WriteFile(card, []byte(workloadCard), 0o600); err != nil {
		t.Fatal(err)
	}
	extra := fmt.Sprintf("rates: [%q]\nreserve: {lease_idle: 1s}\n", card)
	var all []*weir
	if where == embedded {
		all = []*weir{in.weir("all", extra)}
	} else {
		in.migrate()
		for _, role := range []string{"analytics", "processor", "gateway"} {
			all = append(all, in.weir(role, extra))
		}
	}
	in.serveBooks(all[0])
	keys := make([]string, 2)
	keys[0], _ = in.books.customer("acme", "pro", "100.00")
	keys[1], _ = in.books.customer("beta", "", "100.00")
	client := newClient()
	for i, q := range workload(workloadSize) {
		a := send(t.Context(), client, all[len(all)-1].data, keys[i/kinds%2], q)
		if a.status == 0 { // some answers break off as the workload wants it
			t.Errorf("request %d: %v", i, a.err)
		}
	}
	in.books.closed()
	books := map[string][]string{}
	books["usage_events"] = in.usageRows(all[0])
	books["margins"] = in.margins()
	for _, w := range slices.Backward(all) {
		w.stop()
	}
	in.readLedger(all[0], books)
	return books
}

// usageRows are the rows of usage_events but for times and ids.
func (in *installation) usageRows(w *weir) []string {
	const text = `SELECT * EXCEPT (event_id, request_id, event_time, key_id, latency_ms, ttft_ms, gateway, lease_id, seq, batch_id)
		FROM weir.usage_events ORDER BY customer, toUInt32(tags['case']), entry_no`
	if in.remote {
		return in.sql(text)
	}
	password, err := os.ReadFile(filepath.Join(w.dir, "data", "clickhouse-password"))
	if err != nil {
		in.Fatal(err)
	}
	return query(in.T, "http://"+w.clickhouse, "weir_reader", strings.TrimSpace(string(password)), text)
}

// margins is the report as its readers see it.
func (in *installation) margins() (rows []string) {
	var report struct {
		Rows   []map[string]any
		Totals map[string]any
	}
	in.books.must("GET", "/reports/margin?by=customer,model", nil, &report)
	for _, r := range append(report.Rows, report.Totals) {
		rows = append(rows, fmt.Sprint(r)) // a map prints in the order of its keys
	}
	slices.Sort(rows)
	return rows
}

// readLedger adds the ledger's own rows, read past weir by SQL.
func (in *installation) readLedger(w *weir, books map[string][]string) {
	in.Helper()
	driver, source := "sqlite", filepath.Join(w.dir, "data", "ledger.db")
	if in.remote {
		driver, source = "pgx", in.ledgerURL
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		in.Fatal(err)
	}
	defer db.Close()
	for name, text := range map[string]string{
		"wallets": `SELECT customer || ' ' || status || ' ' || credited || ' ' || debited || ' ' || held || ' ' || receivable FROM wallet ORDER BY customer`,
		"postings": `SELECT account || ' ' || customer || ' ' || kind || ' ' || currency || ' ' || CAST(SUM(amount) AS TEXT) || ' ' || CAST(SUM(events) AS TEXT)
			FROM posting GROUP BY account, customer, kind, currency ORDER BY account, customer, kind, currency`,
		"manifests": `SELECT CAST(SUM(events) AS TEXT) || ' ' || CAST(SUM(cost) AS TEXT) || ' ' || CAST(SUM(price) AS TEXT) || ' '
			|| CAST(SUM(leak_count) AS TEXT) || ' ' || CAST(SUM(leak_reserved) AS TEXT) FROM manifest`,
		"spend": `SELECT scope || ' ' || period || ' ' || spent FROM spend WHERE scope LIKE 'customer:%' AND period = 'all' ORDER BY scope`,
	} {
		rows, err := db.QueryContext(in.Context(), text)
		if err != nil {
			in.Fatal(err)
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				in.Fatal(err)
			}
			books[name] = append(books[name], line)
		}
		if err := rows.Err(); err != nil {
			in.Fatal(err)
		}
		rows.Close()
	}
}

package warehouse

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/shopspring/decimal"
)

// grafana opens a database as Grafana's ClickHouse plugin does over HTTP.
func grafana(t *testing.T, r *reader) *sql.DB {
	db := clickhouse.OpenDB(&clickhouse.Options{
		Addr: []string{strings.Trim(r.base, "htp:/")}, Protocol: clickhouse.HTTP,
		Auth:        clickhouse.Auth{Database: "weir", Username: ReaderUser, Password: r.password},
		ClientInfo:  clickhouse.ClientInfo{Products: []struct{ Name, Version string }{{"grafana", "12.0.0"}, {"clickhouse-datasource", "4.10.0"}}},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionGZIP},
		DialTimeout: 10 * time.Second, ReadTimeout: time.Minute,
		HttpHeaders: map[string]string{"X-Grafana-User": "admin"},
		Settings:    clickhouse.Settings{"limit": 1000}, // its option "row limit"
	})
	t.Cleanup(func() { db.Close() })
	return db
}

func grafanaAsks(t *testing.T, _ *DB, r *reader) {
	db := grafana(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // its query timeout; the client makes it max_execution_time, 5 s longer
	defer cancel()
	if err := db.PingContext(ctx); err != nil {
		t.Fatal(err)
	}
	texts := func(statement string) (list []string) {
		rows, err := db.QueryContext(ctx, statement)
		if err != nil {
			t.Errorf("%s: %v", statement, err)
			return nil
		}
		defer rows.Close()
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				t.Error(statement, err)
			}
			list = append(list, s)
		}
		if err := rows.Err(); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
		return list
	}
	if got := texts("SELECT name FROM system.databases"); !slices.Contains(got, "weir") {
		t.Errorf("databases %q", got)
	}
	if got := texts("SELECT concat(database, '.', name) FROM system.tables ORDER BY database, name"); !slices.Contains(got, "weir.margin_by_customer") {
		t.Errorf("tables %q", got)
	}
	if got := texts("SELECT name FROM system.columns WHERE (database, table) IN (('weir', 'usage_events')) ORDER BY database, table, position"); len(got) != 37 || got[0] != "event_id" {
		t.Errorf("columns %q", got)
	}
	if got := texts("SELECT value FROM system.settings WHERE name='readonly'"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("readonly %q", got)
	}
	// $__timeInterval and $__timeFilter, written out as the plugin does.
	points, err := db.QueryContext(ctx, "SELECT toStartOfInterval(toDateTime(event_time), INTERVAL 3600 second) AS time, customer, sum(margin) AS margin FROM usage_events "+
		"WHERE event_time >= toDateTime(1793491200) AND event_time <= toDateTime(1796083200) GROUP BY time, customer ORDER BY time")
	if err != nil {
		t.Fatal(err)
	}
	defer points.Close()
	n := 0
	for points.Next() {
		var at time.Time
		var customer string
		var margin decimal.Decimal
		if err := points.Scan(&at, &customer, &margin); err != nil || at.IsZero() || !margin.IsPositive() {
			t.Fatal(err, at, customer, margin)
		}
		n++
	}
	if points.Err() != nil || n < 20 {
		t.Error(points.Err(), n)
	}
	if got := texts("SELECT toString(number) FROM numbers(5000)"); len(got) != 1000 {
		t.Errorf("the row limit let %d rows through", len(got))
	}
}

// jdbcAsks sends what the Java client (DBeaver's driver among others) sends:
// database and format in headers, everything else in the URL, LZ4 frames.
func jdbcAsks(t *testing.T, _ *DB, r *reader) {
	headers := []string{"X-ClickHouse-Database", "weir", "X-ClickHouse-Format", "RowBinaryWithNamesAndTypes", "Content-Type", "text/plain; charset=UTF-8"}
	resp, body := r.get("query_id=q1&compress=1&session_id=s1", "SELECT count() AS n FROM usage_events", headers...)
	text, err := io.ReadAll(compress.NewReader(bytes.NewReader(body)))
	if want := "\x01\x01n\x06UInt64\x64\x00\x00\x00\x00\x00\x00\x00"; (err != nil && !errors.Is(err, io.EOF)) || string(text) != want ||
		resp.Header.Get("X-ClickHouse-Format") != "RowBinaryWithNamesAndTypes" || resp.Header.Get("X-ClickHouse-Query-Id") != "q1" {
		t.Errorf("%q, %v, %v", text, err, resp.Header)
	}
	for _, statement := range []string{
		"SELECT currentUser() AS user, timezone() AS timezone, version() AS version LIMIT 1",
		"DESC (SELECT * FROM weir.usage_events) FORMAT TSKV", "DESCRIBE TABLE weir.usage_hourly FORMAT TSKV",
		"SELECT database, table, name, type, default_expression, is_in_primary_key FROM system.columns WHERE database LIKE 'weir' ORDER BY position",
	} {
		if resp, body := r.get("compress=1", statement, headers...); resp.StatusCode != 200 || len(body) == 0 {
			t.Errorf("%s: %d %.200q", statement, resp.StatusCode, body)
		}
	}
	if resp, body := r.get("compress=1", "SELECT nosuch", headers...); resp.StatusCode != 400 || !bytes.HasPrefix(body, []byte("Code: 47.")) {
		t.Errorf("an error's text is framed: %d %.100q", resp.StatusCode, body)
	}
}

func readersTakeTurns(t *testing.T, _ *DB, r *reader) {
	done := make(chan string, 12)
	for i := range cap(done) {
		go func() {
			_, text := r.ask("", fmt.Sprintf("SELECT %d + sleepEachRow(0.05)", i), nil)
			done <- text
		}()
	}
	seen := map[string]bool{}
	for range cap(done) {
		seen[<-done] = true
	}
	if len(seen) != cap(done) || seen[""] {
		t.Errorf("answers %v", seen)
	}
}

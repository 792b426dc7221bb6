package warehouse

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// reader is a client of the public interface, as curl is one.
type reader struct {
	t        testing.TB
	base     string // http://127.0.0.1:port/
	password string
}

// serveEmbedded opens a warehouse with its public interface.
func serveEmbedded(t testing.TB) (*DB, *reader) {
	t.Helper()
	d := openEmbedded(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- d.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve ended with %v", err)
		}
	})
	path := filepath.Join(d.cfg.DataDir, passwordFile)
	until(t, "the password", func() bool { _, err := os.Stat(path); return err == nil })
	password, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return d, &reader{t: t, base: "http://" + l.Addr().String() + "/", password: string(password)}
}

// ask sends a request and returns its status and body. A body of "" is a GET.
func (r *reader) ask(rawQuery, body string, change func(*http.Request)) (int, string) {
	r.t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequest(method, r.base+"?"+rawQuery, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.SetBasicAuth(ReaderUser, r.password)
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestPublicInterface(t *testing.T) {
	d, r := serveEmbedded(t)
	append1(t, d, "T/0/0", records(1, 100))
	for name, test := range map[string]func(*testing.T, *DB, *reader){
		"readers ask over HTTP": readersAskOverHTTP, "readers ask through clickhouse-go": readersAskThroughClickHouseGo,
		"readers only read": readersOnlyRead, "strangers are refused": strangersAreRefused,
		"a leaving reader ends his statement": leavingReaderEndsHisStatement, "503 while the engine is down": serveSaysWhenTheEngineIsDown,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, d, &reader{t: t, base: r.base, password: r.password})
		})
	}
}

func readersAskOverHTTP(t *testing.T, d *DB, r *reader) {
	const sql = "SELECT count() FROM weir.usage_events"
	for name, got := range map[string]func() (int, string){
		"GET":         func() (int, string) { return r.ask("query="+url.QueryEscape(sql), "", nil) },
		"POST":        func() (int, string) { return r.ask("", sql, nil) },
		"query, body": func() (int, string) { return r.ask("query=SELECT+count()", "FROM weir.usage_events", nil) },
		"database":    func() (int, string) { return r.ask("database=weir", "SELECT count() FROM usage_events;", nil) },
		"no database": func() (int, string) { return r.ask("", "SELECT count() FROM usage_events", nil) },
		"param":       func() (int, string) { return r.ask("param_n=100", "SELECT {n:UInt64}", nil) },
		"headers": func() (int, string) {
			return r.ask("", sql, func(q *http.Request) {
				q.Header.Del("Authorization")
				q.Header.Set("X-ClickHouse-User", ReaderUser)
				q.Header.Set("X-ClickHouse-Key", r.password)
			})
		},
		"URL": func() (int, string) {
			return r.ask("user="+ReaderUser+"&password="+r.password, sql, func(q *http.Request) { q.Header.Del("Authorization") })
		},
		"lower limits": func() (int, string) { return r.ask("max_execution_time=5&max_result_rows=10", sql, nil) },
	} {
		if status, text := got(); status != 200 || text != "100\n" {
			t.Errorf("%s: %d %q", name, status, text)
		}
	}
	if status, text := r.ask("default_format=JSONEachRow&output_format_json_quote_64bit_integers=1", sql, nil); status != 200 || text != `{"count()":"100"}`+"\n" {
		t.Errorf("JSON: %d %q", status, text)
	}
	if status, text := r.ask("", "SHOW TABLES FROM weir LIKE 'usage_d%ly' FORMAT CSV", nil); status != 200 || text != "\"usage_daily\"\n" {
		t.Errorf("SHOW: %d %q", status, text)
	}
	for _, sql := range []string{"DESCRIBE weir.usage_events", "EXISTS weir.usage_events", "EXPLAIN SELECT 1", "SELECT ';'", "WITH 1 AS x SELECT x -- ; y"} {
		if status, text := r.ask("", sql, nil); status != 200 || text == "" {
			t.Errorf("%s: %d %q", sql, status, text)
		}
	}
}

func readersAskThroughClickHouseGo(t *testing.T, d *DB, r *reader) {
	conn, err := clickhouse.Open(&clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{strings.Trim(r.base, "htp:/")},
		Auth: clickhouse.Auth{Database: "weir", Username: ReaderUser, Password: r.password},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // sent as max_execution_time, 5 s more
	defer cancel()
	var n uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM usage_events WHERE provider = {p:String}", clickhouse.Named("p", "openai")).Scan(&n); err != nil || n != 100 {
		t.Errorf("%d, %v", n, err)
	}
	var exception *clickhouse.Exception
	if err := conn.Exec(ctx, "INSERT INTO usage_events (event_id) VALUES ('x')"); !errors.As(err, &exception) || exception.Code != 164 {
		t.Errorf("an insert: %v", err)
	}
	block, err := conn.PrepareBatch(ctx, "INSERT INTO usage_events (event_id)")
	if err != nil {
		t.Fatal(err)
	}
	if err := block.Append("x"); err != nil {
		t.Fatal(err)
	}
	if err := block.Send(); !errors.As(err, &exception) || exception.Code != 164 {
		t.Errorf("a batch: %v", err)
	}
	if n := query[uint64](t, d, "SELECT count() FROM usage_events"); n != 100 {
		t.Errorf("%d rows after the reader's inserts", n)
	}
}

func readersOnlyRead(t *testing.T, d *DB, r *reader) {
	own := d.child.options.Dir + "/own-file"
	for _, sql := range []string{
		"INSERT INTO weir.usage_events (event_id) VALUES ('x')",
		"INSERT INTO weir.usage_events SELECT * FROM weir.usage_events",
		"ALTER TABLE weir.usage_events DELETE WHERE 1", "DROP TABLE weir.usage_events", "TRUNCATE TABLE weir.usage_events",
		"CREATE TABLE weir.x (a Int8) ENGINE = Memory", "CREATE TEMPORARY TABLE x (a Int8)", "OPTIMIZE TABLE weir.usage_events FINAL",
		"SYSTEM STOP MERGES", "SELECT 1; SYSTEM STOP MERGES", "KILL QUERY WHERE 1", "USE system", "SET readonly = 0",
		"SELECT 1 INTO OUTFILE '" + own + "'", "SELECT 1 INTO/**/OUTFILE '" + own + "' TRUNCATE FORMAT TSV", "EXPLAIN SELECT 1 INTO OUTFILE '" + own + "'",
		"SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM remote('127.0.0.1', system.one)",
		"SELECT * FROM file('/etc/passwd', 'LineAsString')", "SELECT file('/etc/passwd')", "INSERT INTO FUNCTION file('" + own + "', 'TSV', 'a Int8') VALUES (1)",
		"BACKUP DATABASE weir TO File('" + own + "')", "SELECT 1 PARALLEL WITH SELECT 2", "SELECT * FROM executable('x', 'TSV', 'a Int8')",
		"SELECT * FROM eval('SYSTEM STOP MERGES')", "DETACH TABLE weir.usage_events", "CREATE FUNCTION f AS (x) -> x",
		"SELECT 1 SETTINGS max_execution_time = 1000", "SELECT 1 SETTINGS readonly = 0", "SELECT 1 SETTINGS max_result_rows = 0",
		"SELECT sum(number) FROM numbers(10) SETTINGS max_memory_usage = 0", "SELEC 1", "",
	} {
		if status, text := r.ask("", sql+" ", nil); status < 400 || status == 503 {
			t.Errorf("%s: %d %q", sql, status, text)
		}
	}
	for _, setting := range []string{"max_execution_time=1000", "max_execution_time=0", "max_result_rows=10000000", "max_memory_usage=0",
		"max_result_bytes=x", "readonly=0", "readonly=2", "max_rows_to_read=1", "allow_ddl=1", "nosuch=1", "a%3Db=1", "result_overflow_mode=break"} {
		if status, text := r.ask(setting, "SELECT 1", nil); status < 400 || status == 503 {
			t.Errorf("URL with %s: %d %q", setting, status, text)
		}
	}
	if _, err := os.Stat(own); err == nil {
		t.Error("a reader wrote a file")
	}
	if _, text := r.ask("", "SELECT * FROM numbers(1000001)", nil); !strings.Contains(text, "Code: 396.") {
		t.Errorf("too many rows: %.200q", text)
	}
	if _, text := r.ask("", "SELECT getSetting('readonly'), getSetting('max_execution_time')", nil); text != "1\t90\n" {
		t.Errorf("settings %q", text)
	}
	if _, text := r.ask("", "SELEC 1", nil); !strings.Contains(text, "Code: 62.") {
		t.Errorf("a syntax error is not explained: %q", text)
	}
	if n := query[uint64](t, d, "SELECT count() FROM usage_events"); n != 100 {
		t.Errorf("%d rows left of 100", n)
	}
}

func strangersAreRefused(t *testing.T, d *DB, r *reader) {
	for name, c := range map[string]struct {
		status int
		change func(*http.Request)
	}{
		"no password":        {401, func(q *http.Request) { q.Header.Del("Authorization") }},
		"wrong password":     {401, func(q *http.Request) { q.SetBasicAuth(ReaderUser, r.password+"x") }},
		"empty password":     {401, func(q *http.Request) { q.SetBasicAuth(ReaderUser, "") }},
		"wrong user":         {401, func(q *http.Request) { q.SetBasicAuth("default", r.password) }},
		"a page":             {403, func(q *http.Request) { q.Header.Set("Origin", "http://evil.example") }},
		"an opaque page":     {403, func(q *http.Request) { q.Header.Set("Origin", "null") }},
		"a rebound name":     {403, func(q *http.Request) { q.Host = "evil.example:8123" }},
		"a loopback look":    {403, func(q *http.Request) { q.Host = "127.0.0.1.evil.example" }},
		"an address, not us": {403, func(q *http.Request) { q.Host = "10.9.8.7" }},
		"localhost":          {200, func(q *http.Request) { q.Host = "LocalHost:8123" }},
		"IPv6 loopback":      {200, func(q *http.Request) { q.Host = "[::1]:8123" }},
		"no port":            {200, func(q *http.Request) { q.Host = "127.0.0.1" }},
		"PUT":                {405, func(q *http.Request) { q.Method = http.MethodPut }},
		"a path":             {404, func(q *http.Request) { q.URL.Path = "/play" }},
	} {
		status, text := r.ask("", "SELECT 1", c.change)
		if status != c.status || status == 401 && !strings.Contains(text, "Code: 516.") {
			t.Errorf("%s: %d %q, want %d", name, status, text, c.status)
		}
	}
	info, err := os.Stat(filepath.Join(d.cfg.DataDir, passwordFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the password's file: %v, %v", info, err)
	}
}

func serveSaysWhenTheEngineIsDown(t *testing.T, d *DB, r *reader) {
	ping := func(q *http.Request) { q.URL.Path = "/ping"; q.Header.Del("Authorization") }
	if status, text := r.ask("", "", ping); status != 200 || text != "Ok.\n" {
		t.Errorf("ping: %d %q", status, text)
	}
	pid := d.enginePID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil { // so that it cannot be back too soon
		t.Fatal(err)
	}
	d.child.down()
	if status, _ := r.ask("", "SELECT 1", nil); status != 503 {
		t.Errorf("status %d while down", status)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the engine's return", func() bool { status, text := r.ask("", "SELECT 1", nil); return status == 200 && text == "1\n" })
}

func leavingReaderEndsHisStatement(t *testing.T, d *DB, r *reader) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base, strings.NewReader("SELECT sum(cityHash64(number)) FROM numbers(1000000000000)"))
		if err != nil {
			t.Error(err)
			return
		}
		req.SetBasicAuth(ReaderUser, r.password)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	running := func() uint64 {
		return query[uint64](t, d, "SELECT count() FROM system.processes WHERE query LIKE '%(cityHash' || '64(number)%'")
	}
	until(t, "the statement's start", func() bool { return running() == 1 })
	began := time.Now()
	cancel()
	<-done
	until(t, "the statement's end", func() bool { return running() == 0 })
	if took := time.Since(began); took > patience/2 { // its own limit is a minute
		t.Errorf("ended after %s", took)
	}
}

func TestClientsOfEveryCompression(t *testing.T) {
	d := openEmbedded(t)
	append1(t, d, "T/0/0", records(1, 1000))
	for _, method := range []clickhouse.CompressionMethod{clickhouse.CompressionNone, clickhouse.CompressionLZ4, clickhouse.CompressionZSTD, clickhouse.CompressionGZIP} {
		options, err := d.options()
		if err != nil {
			t.Fatal(err)
		}
		options.Compression = &clickhouse.Compression{Method: method}
		options.Settings = clickhouse.Settings{"enable_http_compression": 1}
		conn, err := clickhouse.Open(options)
		if err != nil {
			t.Fatal(err)
		}
		other := &DB{cfg: Config{Log: slog.Default()}, conn: conn}
		recs := records(uint64(10+method), 500)
		append1(t, other, method.String(), recs)
		if n := query[uint64](t, other, "SELECT count() FROM usage_events WHERE batch_id = ?", method.String()); n != 500 {
			t.Errorf("%s: %d rows", method, n)
		}
		var exception *clickhouse.Exception
		if err := conn.Exec(context.Background(), "SELECT * FROM nosuch"); !errors.As(err, &exception) || exception.Code != 60 {
			t.Errorf("%s: %v, want code 60", method, err)
		}
		// An error after a million rows comes in the middle of the answer.
		rows, err := conn.Query(context.Background(), "SELECT throwIf(number = 1000000, 'late') FROM numbers(2000000) SETTINGS max_block_size = 10000, max_threads = 1")
		if err != nil {
			t.Errorf("%s: an error before the rows: %v", method, err)
			continue
		}
		n := 0
		for rows.Next() {
			n++
		}
		if err := rows.Err(); !errors.As(err, &exception) || exception.Code != 395 || n == 0 {
			t.Errorf("%s: after %d rows %v, want code 395", method, n, err)
		}
		rows.Close()
		conn.Close()
	}
}

func TestHalfAnInsertIsNone(t *testing.T) {
	d := openEmbedded(t)
	if err := d.Conn().Exec(context.Background(), "CREATE TABLE lines (line String) ENGINE = MergeTree ORDER BY line"); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", d.child.writerSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const request = "POST /?database=weir&query=INSERT+INTO+lines+FORMAT+TSV HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\none\ntwo\n"
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); err != nil || strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("answer %q, %v", answer, err)
	}
	if n := query[uint64](t, d, "SELECT count() FROM lines"); n != 0 {
		t.Errorf("%d rows of a body that was cut off", n)
	}
}

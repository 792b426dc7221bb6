package warehouse

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

// TestProtocol has one test for each fact of ClickHouse's HTTP interface that
// clients rely on, most of them seen from the public side.
func TestProtocol(t *testing.T) {
	d, r := serveEmbedded(t)
	append1(t, d, "T/0/0", records(1, 100))
	for fact, test := range map[string]func(*testing.T, *DB, *reader){
		"curl needs a user, a password and a statement":                                 curlAsks,
		"a ping needs no password":                                                      pingNeedsNoPassword,
		"every error has its code, its status and its text":                             errorsHaveCodeStatusText,
		"an error after the first byte is a tagged block at the end":                    lateErrorsAreTagged,
		"who waits for the end of the statement gets the error's status":                waitingGetsTheStatus,
		"the format is the statement's, else the URL's, else the header's, else TSV":    formatHasOrder,
		"the answer names the format that it has":                                       answerNamesItsFormat,
		"the database is the URL's, else the header's, else weir":                       databaseHasOrder,
		"a statement's id comes back, also where the client gave none":                  idComesBack,
		"an empty result in Native is an empty body":                                    emptyNativeIsEmpty,
		"the greeting reports revision 0, in the client's own revision":                 greetingReportsRevisionZero,
		"compress=1 frames the answer by LZ4, or ZSTD if asked":                         compressFramesTheAnswer,
		"decompress=1 unframes the statement":                                           decompressUnframesTheStatement,
		"gzip of the answer needs the setting and the header":                           gzipNeedsSettingAndHeader,
		"a gzipped statement is unpacked":                                               gzippedStatement,
		"parameters are escaped as in TSV, and \\N is NULL":                             parametersAreTSV,
		"URL names of the protocol are no settings, others are":                         protocolNamesAreNoSettings,
		"a setting holds for one request":                                               settingsHoldForOneRequest,
		"limit and offset cut a result":                                                 limitAndOffset,
		"a session's id keeps nothing":                                                  sessionsKeepNothing,
		"blocks by clickhouse-go hold every type":                                       blocksHoldEveryType,
		"a block under a known token is dropped":                                        knownTokenIsDropped,
		"an INSERT's rows may be in its text, in the body or in a SELECT":               insertsOfThreeKinds,
		"Grafana's plugin connects, browses and asks":                                   grafanaAsks,
		"a JDBC client's requests are answered as it reads them":                        jdbcAsks,
		"a dozen readers at once all get their answers, four at a time":                 readersTakeTurns,
		"DateTime of a zone loses the zone in Native, DateTime64 keeps it (revision 0)": zonesInNative,
	} {
		t.Run(fact, func(t *testing.T) { test(t, d, &reader{t: t, base: r.base, password: r.password}) })
	}
}

// get sends a statement and returns the answer, its body read.
func (r *reader) get(rawQuery, statement string, headers ...string) (*http.Response, []byte) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.base+"?"+rawQuery, strings.NewReader(statement))
	if err != nil {
		r.t.Fatal(err)
	}
	req.SetBasicAuth(ReaderUser, r.password)
	req.Header.Set("Accept-Encoding", "identity") // else Go asks for gzip by itself
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, body
}

// says expects a body.
func (r *reader) says(want, rawQuery, statement string, headers ...string) {
	r.t.Helper()
	if resp, body := r.get(rawQuery, statement, headers...); resp.StatusCode != 200 || string(body) != want {
		r.t.Errorf("%s ?%s %v: %d %q, want %q", statement, rawQuery, headers, resp.StatusCode, body, want)
	}
}

func curlAsks(t *testing.T, _ *DB, r *reader) {
	for _, args := range [][]string{
		{"-u", ReaderUser + ":" + r.password, r.base + "?query=SELECT+count()+FROM+usage_events"},
		{"-u", ReaderUser + ":" + r.password, r.base, "-d", "SELECT count() FROM usage_events"},
		{"-H", "X-ClickHouse-User: " + ReaderUser, "-H", "X-ClickHouse-Key: " + r.password, r.base, "--data-binary", "SELECT count()\nFROM weir.usage_events\n"},
		{"-G", r.base, "--data-urlencode", "query=SELECT count() FROM usage_events", "-d", "user=" + ReaderUser, "-d", "password=" + r.password},
		{"--compressed", "-u", ReaderUser + ":" + r.password, r.base + "?enable_http_compression=1", "-d", "SELECT count() FROM usage_events"},
	} {
		if out, err := exec.Command("curl", append([]string{"--silent", "--fail-with-body", "--noproxy", "*"}, args...)...).Output(); err != nil || string(out) != "100\n" {
			t.Errorf("curl %q: %q, %v", args, out, err)
		}
	}
	if out, err := exec.Command("curl", "--silent", "--fail-with-body", "--noproxy", "*", r.base, "-d", "SELECT 1").Output(); err == nil || !bytes.Contains(out, []byte("Code: 516.")) {
		t.Errorf("without a password: %q, %v", out, err)
	}
}

func pingNeedsNoPassword(t *testing.T, _ *DB, r *reader) {
	resp, err := http.Get(r.base + "ping")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != "Ok.\n" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

func errorsHaveCodeStatusText(t *testing.T, _ *DB, r *reader) {
	for _, c := range []struct {
		rawQuery, statement string
		code, status        int
	}{
		{"", "SELEC 1", 62, 400},
		{"", "SELECT nosuch", 47, 400},
		{"", "SELECT nosuch(1)", 46, 400},
		{"", "SELECT * FROM nosuch", 60, 404},
		{"", "SELECT * FROM nosuch.t", 81, 404},
		{"nosuch=1", "SELECT 1", 115, 404},
		{"", "DROP TABLE usage_events", 164, 403},
		{"max_execution_time=1", "SELECT sum(cityHash64(number)) FROM numbers(1000000000000)", 159, 408},
		{"", "SELECT groupArray(number) FROM numbers(100000000)", 241, 500},
		{"default_format=Nosuch", "SELECT 1", 73, 500},
	} {
		resp, body := r.get(c.rawQuery, c.statement)
		if resp.StatusCode != c.status || resp.Header.Get("X-ClickHouse-Exception-Code") != fmt.Sprint(c.code) ||
			!strings.HasPrefix(string(body), fmt.Sprintf("Code: %d. DB::Exception: ", c.code)) {
			t.Errorf("%s: %d, code %q, %.200q; want %d, %d", c.statement, resp.StatusCode, resp.Header.Get("X-ClickHouse-Exception-Code"), body, c.status, c.code)
		}
	}
}

const failsLate = "SELECT throwIf(number = 500000, 'late') FROM numbers(1000000)"

func lateErrorsAreTagged(t *testing.T, _ *DB, r *reader) {
	resp, body := r.get("max_threads=1", failsLate)
	tag := resp.Header.Get("X-ClickHouse-Exception-Tag")
	end := "\r\n__exception__\r\n"
	if resp.StatusCode != 200 || len(tag) != 16 || !bytes.HasPrefix(body, []byte("0\n0\n")) || !bytes.HasSuffix(body, []byte(tag+end)) ||
		!bytes.Contains(body, []byte(end+tag+"\r\nCode: 395. DB::Exception: late")) {
		t.Errorf("%d, tag %q, …%q", resp.StatusCode, tag, body[max(0, len(body)-400):])
	}
	if again, _ := r.get("", failsLate); again.Header.Get("X-ClickHouse-Exception-Tag") == tag {
		t.Error("a tag was used twice: rows could imitate it")
	}
}

func waitingGetsTheStatus(t *testing.T, _ *DB, r *reader) {
	if resp, body := r.get("wait_end_of_query=1&max_threads=1", failsLate); resp.StatusCode != 500 || !strings.HasPrefix(string(body), "Code: 395.") {
		t.Errorf("%d %.200q", resp.StatusCode, body)
	}
	r.says("0\n1\n", "wait_end_of_query=1&buffer_size=1000", "SELECT number FROM numbers(2)")
}

func formatHasOrder(t *testing.T, _ *DB, r *reader) {
	const statement, header = "SELECT 1 AS a, 'x' AS b", "X-ClickHouse-Format"
	r.says("1\tx\n", "", statement)
	r.says("1,\"x\"\n", "", statement, header, "CSV")
	r.says("{\"a\":1,\"b\":\"x\"}\n", "default_format=JSONEachRow", statement, header, "CSV")
	r.says("(1,'x')", "default_format=JSONEachRow", statement+" FORMAT Values", header, "CSV")
}

func answerNamesItsFormat(t *testing.T, _ *DB, r *reader) {
	for _, c := range []struct{ rawQuery, statement, format, kind string }{
		{"", "SELECT 1", "TabSeparated", "text/tab-separated-values"},
		{"default_format=Native", "SELECT 1", "Native", "application/octet-stream"},
		{"", "SELECT 1 FORMAT JSON", "JSON", "application/json"},
		{"", "DESCRIBE usage_events /* FORMAT CSV */ format jsonEachRow", "JSONEachRow", "application/x-ndjson"},
		{"", "SELECT 'a FORMAT JSON'", "TabSeparated", "text/tab-separated-values"},
		{"default_format=Null", "SELECT 1 FORMAT CSV", "CSV", "text/csv"},
	} {
		resp, body := r.get(c.rawQuery, c.statement)
		got := resp.Header.Get("X-ClickHouse-Format")
		if resp.StatusCode != 200 || !strings.EqualFold(got, c.format) || !strings.HasPrefix(resp.Header.Get("Content-Type"), c.kind) {
			t.Errorf("%s: %d, %q, %q, %.100q", c.statement, resp.StatusCode, got, resp.Header.Get("Content-Type"), body)
		}
	}
}

func databaseHasOrder(t *testing.T, _ *DB, r *reader) {
	const statement, header = "SELECT currentDatabase()", "X-ClickHouse-Database"
	r.says("weir\n", "", statement)
	r.says("system\n", "", statement, header, "system")
	r.says("default\n", "database=default", statement, header, "system")
}

func idComesBack(t *testing.T, _ *DB, r *reader) {
	const header = "X-ClickHouse-Query-Id"
	if resp, _ := r.get("query_id=mine", "SELECT 1"); resp.Header.Get(header) != "mine" {
		t.Errorf("%q", resp.Header.Get(header))
	}
	if resp, _ := r.get("", "SELEC 1"); resp.Header.Get(header) == "" {
		t.Error("an error without an id")
	}
}

func emptyNativeIsEmpty(t *testing.T, _ *DB, r *reader) {
	r.says("", "default_format=Native", "SELECT 1 WHERE 0")
}

func greetingReportsRevisionZero(t *testing.T, _ *DB, r *reader) {
	const asked = 54460 // with block information and a byte a column that revision 0 lacks
	_, body := r.get(fmt.Sprintf("default_format=Native&client_protocol_version=%d", asked), "SELECT displayName(), version(), revision(), timezone()")
	var name, version, zone proto.ColStr
	var revision proto.ColUInt32
	var block proto.Block
	err := block.DecodeBlock(proto.NewReader(bytes.NewReader(body)), asked, proto.Results{
		{Name: "displayName()", Data: &name}, {Name: "version()", Data: &version},
		{Name: "revision()", Data: &revision}, {Name: "timezone()", Data: &zone}})
	if err != nil || revision[0] != 0 || zone.First() != "UTC" || !strings.HasPrefix(version.First(), "26.") {
		t.Errorf("%v, revision %v, zone %q, version %q", err, revision, zone.First(), version.First())
	}
}

func compressFramesTheAnswer(t *testing.T, _ *DB, r *reader) {
	for method, header := range map[string]byte{"": byte(0x82), "LZ4": 0x82, "zstd": 0x90} {
		_, body := r.get("compress=1&network_compression_method="+method, "SELECT number FROM numbers(1000)")
		if len(body) < 17 || body[16] != header { // after the checksum
			t.Fatalf("%q: frame %x", method, body[:min(17, len(body))])
		}
		text, err := io.ReadAll(compress.NewReader(bytes.NewReader(body)))
		if (err != nil && !errors.Is(err, io.EOF)) || !strings.HasSuffix(string(text), "\n998\n999\n") {
			t.Errorf("%q: %v, %d bytes", method, err, len(text))
		}
	}
}

func decompressUnframesTheStatement(t *testing.T, _ *DB, r *reader) {
	w := compress.NewWriter(compress.LevelZero, compress.LZ4)
	if err := w.Compress([]byte("SELECT 41 + 1")); err != nil {
		t.Fatal(err)
	}
	r.says("42\n", "decompress=1", string(w.Data))
	if resp, _ := r.get("decompress=1", string(w.Data[:len(w.Data)-1])); resp.StatusCode == 200 {
		t.Error("a frame that was cut off was run")
	}
}

func gzipNeedsSettingAndHeader(t *testing.T, _ *DB, r *reader) {
	for _, c := range []struct {
		rawQuery, accepted string
		zipped             bool
	}{{"", "gzip", false}, {"enable_http_compression=1", "identity", false}, {"enable_http_compression=1", "lz4, gzip, br", true}} {
		resp, body := r.get(c.rawQuery, "SELECT 1", "Accept-Encoding", c.accepted)
		if (resp.Header.Get("Content-Encoding") == "gzip") != c.zipped {
			t.Errorf("?%s, %s: encoding %q", c.rawQuery, c.accepted, resp.Header.Get("Content-Encoding"))
		}
		if c.zipped {
			unzipped, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			body, _ = io.ReadAll(unzipped)
		}
		if string(body) != "1\n" {
			t.Errorf("?%s, %s: %q", c.rawQuery, c.accepted, body)
		}
	}
}

func gzippedStatement(t *testing.T, _ *DB, r *reader) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte("SELECT 'zipped'"))
	w.Close()
	r.says("zipped\n", "", zipped.String(), "Content-Encoding", "gzip")
}

func parametersAreTSV(t *testing.T, _ *DB, r *reader) {
	v := url.Values{"param_s": {`a\tb\\c'`}, "param_n": {`\N`}, "param_l": {`['x','y\'z']`}, "param_t": {"usage_events"}}.Encode()
	r.says("a\\tb\\\\c\\'\t1\t2\t100\n", v, "SELECT {s:String}, isNull({n:Nullable(String)}), length({l:Array(String)}), (SELECT count() FROM {t:Identifier})")
}

func protocolNamesAreNoSettings(t *testing.T, _ *DB, r *reader) {
	r.says("1\n", "quota_key=a&session_id=b&session_timeout=60&session_check=0&buffer_size=1&role=x&client_protocol_version=54460", "SELECT 1")
}

func settingsHoldForOneRequest(t *testing.T, _ *DB, r *reader) {
	const statement = "SELECT getSetting('max_execution_time')"
	r.says("7\n", "max_execution_time=7", statement)
	r.says("90\n", "", statement)
}

func limitAndOffset(t *testing.T, _ *DB, r *reader) {
	r.says("3\n4\n", "limit=2&offset=3", "SELECT number FROM numbers(10)")
}

func sessionsKeepNothing(t *testing.T, _ *DB, r *reader) {
	for range 2 {
		if resp, _ := r.get("session_id=s", "CREATE TEMPORARY TABLE x (a Int8)"); resp.StatusCode != 403 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	r.says("1\n", "session_id=s&session_check=1", "SELECT 1")
}

func blocksHoldEveryType(t *testing.T, d *DB, _ *reader) {
	ctx, conn := t.Context(), d.Conn()
	const table = `CREATE TABLE kinds (a LowCardinality(String), b DateTime64(3, 'UTC'), c DateTime('UTC'), d Date, e Decimal(38, 12), f UInt64, g Int64,
		h Map(String, String), i Nullable(String), j Array(String), k UUID, l Enum8('x' = 1, 'y' = 2)) ENGINE = Memory`
	if err := conn.Exec(ctx, table); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 24, 1, 2, 3, 456_000_000, time.UTC)
	amount, id := decimal.RequireFromString("12345678901234567890.123456789012"), uuid.New()
	block, err := conn.PrepareBatch(ctx, "INSERT INTO kinds")
	if err != nil {
		t.Fatal(err)
	}
	if err := block.Append("low", at, at, at, amount, uint64(1<<63), int64(-1<<63), map[string]string{"k": "v"}, nil, []string{"p", "q"}, id, "y"); err != nil {
		t.Fatal(err)
	}
	if err := block.Send(); err != nil {
		t.Fatal(err)
	}
	var a, l string
	var b, c, day time.Time
	var e decimal.Decimal
	var f uint64
	var g int64
	var h map[string]string
	var i *string
	var j []string
	var k uuid.UUID
	for _, row := range []interface{ Scan(...any) error }{conn.QueryRow(ctx, "SELECT * FROM kinds WHERE a = ?", "low"),
		conn.QueryRow(ctx, "SELECT * FROM kinds WHERE has({names:Array(String)}, j[1])", clickhouse.Named("names", []string{"p", "z"}))} {
		if err := row.Scan(&a, &b, &c, &day, &e, &f, &g, &h, &i, &j, &k, &l); err != nil {
			t.Fatal(err)
		}
		if a != "low" || !b.Equal(at) || !c.Equal(at.Truncate(time.Second)) || day.Format(time.DateOnly) != "2026-11-24" || !e.Equal(amount) || f != 1<<63 ||
			g != -1<<63 || h["k"] != "v" || i != nil || !slices.Equal(j, []string{"p", "q"}) || k != id || l != "y" {
			t.Error(a, b, c, day, e, f, g, h, i, j, k, l)
		}
	}
}

func knownTokenIsDropped(t *testing.T, d *DB, _ *reader) {
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": "once"}))
	if err := d.Conn().Exec(ctx, "CREATE TABLE once (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 10"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		block, err := d.Conn().PrepareBatch(ctx, "INSERT INTO once")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(block.Append(uint64(i)), block.Send()); err != nil {
			t.Fatal(err)
		}
	}
	if got := query[[]uint64](t, d, "SELECT groupArray(a) FROM once"); !slices.Equal(got, []uint64{0}) {
		t.Errorf("rows %v, want the first block alone", got)
	}
}

func insertsOfThreeKinds(t *testing.T, d *DB, _ *reader) {
	for _, statement := range []string{
		"CREATE TABLE words (a String) ENGINE = Memory", "INSERT INTO words VALUES ('x FORMAT Native'), ('SELECT \n\n')",
		"INSERT INTO words SELECT 'VALUES'", "INSERT INTO words FORMAT TSV\nlast\n",
	} {
		if err := d.Conn().Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if got := query[[]string](t, d, "SELECT arraySort(groupArray(a)) FROM words"); !slices.Equal(got, []string{"SELECT \n\n", "VALUES", "last", "x FORMAT Native"}) {
		t.Errorf("%q", got)
	}
}

func zonesInNative(t *testing.T, _ *DB, r *reader) {
	_, body := r.get("default_format=Native", "SELECT toDateTime(0, 'Asia/Tokyo') AS a, toDateTime64(0, 3, 'Asia/Tokyo') AS b")
	if bytes.Contains(body, []byte("DateTime('Asia/Tokyo')")) || !bytes.Contains(body, []byte("DateTime64(3, 'Asia/Tokyo')")) {
		t.Errorf("%q", body)
	}
}

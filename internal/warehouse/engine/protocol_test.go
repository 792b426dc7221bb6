package engine

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ClickHouse/ch-go/compress"
)

func TestInsertsAreToldByTheirEnd(t *testing.T) {
	for _, c := range []struct{ query, statement, format string }{
		{"INSERT INTO t (a, b) FORMAT Native", "INSERT INTO t (a, b)", "Native"},
		{" insert into t\nformat TSV ; \n", "insert into t", "TSV"},
		{"INSERT INTO `x FORMAT y` (a) FORMAT CSV", "INSERT INTO `x FORMAT y` (a)", "CSV"},
		{"INSERT INTO t VALUES (' FORMAT Native')", "", ""},
		{"INSERT INTO t SELECT 1", "", ""},
		{"SELECT 1 FORMAT Native", "", ""},
		{"INSERT INTO t FORMAT Native\n1", "", ""},
	} {
		q, err := readQuestion(httptest.NewRequest(http.MethodPost, "/?query="+escape(c.query), strings.NewReader("")))
		if err != nil {
			t.Fatal(err)
		}
		if insert := q.data != nil; insert != (c.format != "") || insert && (q.statement != c.statement || q.format != c.format) {
			t.Errorf("%q: %q, %q, data %t", c.query, q.statement, q.format, insert)
		}
	}
}

func escape(s string) string {
	return strings.NewReplacer("%", "%25", " ", "+", "\n", "%0A", ";", "%3B", "`", "%60", "'", "%27").Replace(s)
}

func TestQuestionTellsSettingsFromTheRest(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/?query=SELECT&database=d&max_threads=3&param_x=%5CN&user=u&password=p&session_id=s&compress=1&b=2", strings.NewReader(" 1 "))
	q, err := readQuestion(r)
	if err != nil {
		t.Fatal(err)
	}
	if q.statement != "SELECT\n 1" || q.database != "d" || q.format != "TabSeparated" || !q.framed {
		t.Errorf("%+v", q)
	}
	if want := []setting{{"b", "2"}, {"max_threads", "3"}}; !slices.Equal(q.settings, want) {
		t.Errorf("settings %v, want %v", q.settings, want)
	}
	if want := []setting{{"param_x", `\N`}}; !slices.Equal(q.params, want) {
		t.Errorf("params %v, want %v", q.params, want)
	}
	long := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", maxStatementBytes+1)))
	if _, err := readQuestion(long); err == nil {
		t.Error("an endless statement was read")
	}
}

func TestOnlyPlainSelectsStream(t *testing.T) {
	for sql, want := range map[string]bool{
		"SELECT 1": true, "with x AS (SELECT 1) SELECT * FROM x": true, "SELECT 1 FORMAT JSON": false,
		"SELECT 1\nformat JSON SETTINGS max_threads = 1": false, "SHOW TABLES": false, "EXPLAIN SELECT 1": false, "SELECTED": false,
	} {
		if got := (&question{statement: sql, format: "Native"}).streams(); got != want {
			t.Errorf("%q: %t", sql, got)
		}
	}
	if (&question{statement: "SELECT 1", format: "JSON"}).streams() {
		t.Error("JSON documents cannot follow each other")
	}
}

func TestCutOffDataIsNoEnd(t *testing.T) {
	collect := func(r io.Reader) (string, error) {
		var got bytes.Buffer
		err := feed(r, func(p []byte) error { got.Write(p); return nil })
		return got.String(), err
	}
	var frames bytes.Buffer
	w := compress.NewWriter(compress.LevelZero, compress.LZ4)
	for range 3 {
		if err := w.Compress([]byte("rows")); err != nil {
			t.Fatal(err)
		}
		frames.Write(w.Data)
	}
	whole := frames.Bytes()
	unframe := func(frames []byte) io.Reader {
		r := httptest.NewRequest(http.MethodPost, "/?decompress=1", bytes.NewReader(frames))
		body, err := decodedBody(r, r.URL.Query())
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	for name, r := range map[string]io.Reader{
		"plain": strings.NewReader("rowsrowsrows"), "bytewise": iotest.OneByteReader(strings.NewReader("rowsrowsrows")),
		"data with EOF": iotest.DataErrReader(strings.NewReader("rowsrowsrows")), "framed": unframe(whole),
	} {
		if got, err := collect(r); err != nil || got != "rowsrowsrows" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, r := range map[string]io.Reader{
		"cut off":       io.MultiReader(strings.NewReader("rows"), iotest.ErrReader(io.ErrUnexpectedEOF)),
		"failed":        io.MultiReader(strings.NewReader("rows"), iotest.ErrReader(errors.New("reset"))),
		"framed, cut":   unframe(whole[:len(whole)-3]),
		"header alone":  unframe(whole[:len(whole)/3+25]),
		"framed, short": unframe(whole[:len(whole)/3+4]),
	} {
		if got, err := collect(r); err == nil {
			t.Errorf("%s: ended as if whole after %q", name, got)
		}
	}
}

func TestErrorsCarryCodeAndStatus(t *testing.T) {
	for text, want := range map[string][2]int{
		"Code: 60. DB::Exception: Code: 99. DB::Exception: x (UNKNOWN_TABLE)": {60, 404},
		"Code: 62. DB::Exception: x":                                          {62, 400},
		"Code: 164. DB::Exception: x":                                         {164, 403},
		"Code: 516. DB::Exception: x":                                         {516, 401},
		"Code: 159. DB::Exception: x":                                         {159, 408},
		"Code: 241. DB::Exception: x":                                         {241, 500},
		"cannot read the rows: reset":                                         {1002, 500},
	} {
		code := codeOf(errors.New(text))
		if got := [2]int{code, statusOf(code)}; got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestReadersMayOnlyLowerLimits(t *testing.T) {
	args, rest, err := chooseLimits([]setting{{"max_execution_time", "5"}, {"output_format_json_quote_64bit_integers", "1 --readonly=0"}, {"readonly", "0"}, {"output_format_schema", "x"}, {"limit", "7"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--max_execution_time=5", "--max_result_rows=1000000", "--output_format_json_quote_64bit_integers=1 --readonly=0", "--limit=7"} {
		if !slices.Contains(args, want) {
			t.Errorf("%q is not among %q", want, args)
		}
	}
	if want := []setting{{"readonly", "0"}, {"output_format_schema", "x"}}; !slices.Equal(rest, want) { // left for the read-only session to refuse
		t.Errorf("rest %v", rest)
	}
	for _, value := range []string{"0", "-1", "91", "1e3", "", "9223372036854775808"} {
		if _, _, err := chooseLimits([]setting{{"max_execution_time", value}}); err == nil {
			t.Errorf("max_execution_time=%q was accepted", value)
		}
	}
}

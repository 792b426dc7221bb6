package engine

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
)

// ClickHouse's HTTP interface, as far as clickhouse-go, curl and Grafana use it.
//
//   - A statement is the URL's "query" followed by the body. INSERT … FORMAT f
//     in "query" alone means that the body is data in the format f.
//   - URL parameters that are not reserved are settings; "param_x" is the value
//     of {x:Type}, escaped as in TabSeparated.
//   - The headers X-ClickHouse-Database and X-ClickHouse-Format say what the
//     parameters database and default_format say, if those are absent.
//   - compress=1 and decompress=1 are ClickHouse's own frames (LZ4 or ZSTD)
//     round the answer and the body. gzip is a Content-Encoding: of a body
//     always, of an answer if enable_http_compression=1 asks for it.
//   - An error is a status other than 200, the text "Code: N. DB::Exception: …"
//     and the header X-ClickHouse-Exception-Code. Once bytes of the answer have
//     been sent, it is a tagged block at the end of the body instead.
//   - clickhouse-go opens a connection with one fixed question, whose answer
//     carries a revision that all later blocks must be encoded with. The
//     library writes blocks of revision 0 only, so that is what is reported.

// reserved are the URL parameters that are not settings.
var reserved = map[string]bool{
	"query": true, "database": true, "default_format": true, "client_protocol_version": true, "compress": true,
	"decompress": true, "network_compression_method": true, "enable_http_compression": true, "query_id": true,
	"quota_key": true, "user": true, "password": true, "session_id": true, "session_timeout": true,
	"session_check": true, "wait_end_of_query": true, "buffer_size": true, "role": true,
}

const (
	paramPrefix = "param_"
	// hello is clickhouse-go's question when it opens a connection.
	hello = "SELECT displayName(), version(), revision(), timezone()"
	// reportedRevision makes clients decode blocks as the library writes them.
	reportedRevision = 0
)

// insertStatement matches an INSERT whose data is elsewhere: nothing follows
// the format's name. Data inside a statement cannot end like that, except for
// VALUES lists, which end with a parenthesis.
var insertStatement = regexp.MustCompile(`(?is)^\s*(INSERT\s.*)\sFORMAT\s+(\w+)\s*;?\s*$`)

// question is a request, read but not yet run.
type question struct {
	id        string // told to the client again; nothing can be done with it here
	statement string // without the FORMAT clause if data is set
	format    string
	data      io.Reader // the rows of an INSERT; nil for any other statement
	database  string
	settings  []setting
	params    []setting

	revision int             // of the answer to hello
	frames   compress.Method // of the answer
	framed   bool
	gzip     bool
	whole    bool // the answer begins when the statement has ended
}

type setting struct{ name, value string }

// readQuestion reads everything but an insert's data.
func readQuestion(r *http.Request) (*question, error) {
	values := r.URL.Query()
	q := &question{
		id:        cmp.Or(values.Get("query_id"), r.Header.Get("X-ClickHouse-Query-Id"), rand.Text()),
		statement: values.Get("query"),
		format:    cmp.Or(values.Get("default_format"), r.Header.Get("X-ClickHouse-Format"), "TabSeparated"),
		database:  cmp.Or(values.Get("database"), r.Header.Get("X-ClickHouse-Database")),
		framed:    values.Get("compress") == "1",
		frames:    compress.LZ4,
		gzip:      values.Get("enable_http_compression") == "1" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"),
		whole:     values.Get("wait_end_of_query") == "1",
	}
	if strings.EqualFold(values.Get("network_compression_method"), "zstd") {
		q.frames = compress.ZSTD
	}
	q.revision, _ = strconv.Atoi(values.Get("client_protocol_version")) // absent: 0, as the protocol says
	for _, name := range slices.Sorted(maps.Keys(values)) {
		s := setting{name, values.Get(name)}
		if strings.HasPrefix(name, paramPrefix) {
			q.params = append(q.params, s)
		} else if !reserved[name] {
			q.settings = append(q.settings, s)
		}
	}
	body, err := decodedBody(r, values)
	if err != nil {
		return nil, err
	}
	if m := insertStatement.FindStringSubmatch(q.statement); m != nil {
		q.statement, q.format, q.data = m[1], m[2], body
		return q, nil
	}
	text, err := io.ReadAll(io.LimitReader(body, maxStatementBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the statement: %w", err)
	}
	if len(text)+len(q.statement) > maxStatementBytes {
		return nil, fault(62, "SYNTAX_ERROR", "the statement is longer than %d bytes", maxStatementBytes)
	}
	q.statement = strings.TrimSpace(q.statement + "\n" + string(text))
	return q, nil
}

func decodedBody(r *http.Request, values url.Values) (io.Reader, error) {
	var body io.Reader = r.Body
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("cannot unpack the body: %w", err)
		}
		body = unzipped
	default:
		return nil, fault(48, "NOT_IMPLEMENTED", "Content-Encoding %q is not supported", encoding)
	}
	if values.Get("decompress") == "1" {
		counted := &countedReader{from: bufio.NewReader(body)}
		body = &unframed{counted, compress.NewReader(counted)}
	}
	return body, nil
}

// unframed reads what ClickHouse's frames hold. The frame reader's errors wrap
// io.EOF, also where a frame's header came and its content did not; here only an
// end between two frames is io.EOF.
type unframed struct {
	body   *countedReader
	frames *compress.Reader
}

func (u *unframed) Read(p []byte) (int, error) {
	before := u.body.n
	n, err := u.frames.Read(p)
	switch {
	case err == nil || !errors.Is(err, io.EOF):
		return n, err
	case u.body.n == before:
		return n, io.EOF
	}
	return n, io.ErrUnexpectedEOF
}

type countedReader struct {
	from io.Reader
	n    int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	return n, err
}

// streamable are the formats whose documents can follow each other. A result
// in any other format is collected in memory before it is sent.
var streamable = map[string]bool{
	"Native": true, "RowBinary": true, "JSONEachRow": true, "TabSeparated": true, "TSV": true, "CSV": true,
}

var (
	startsSelect = regexp.MustCompile(`(?is)^(SELECT|WITH)\s`)
	namesFormat  = regexp.MustCompile(`(?i)\bFORMAT\b`)
)

// streams tells whether the result is to be sent as it is made: a plain SELECT
// in a format that allows it, whose client does not want it whole. The statement must not even mention FORMAT,
// since that clause would win over the format known here.
func (q *question) streams() bool {
	return !q.whole && streamable[q.format] && startsSelect.MatchString(q.statement) && !namesFormat.MatchString(q.statement)
}

// feed hands the data of an insert to write, piece by piece. A body that was
// cut off must not look like one that ended: only io.EOF ends it, everything
// else cancels the insert.
func feed(data io.Reader, write func([]byte) error) error {
	piece := make([]byte, insertPieceBytes)
	for {
		n, err := data.Read(piece)
		if n > 0 {
			if err := write(piece[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case err == io.EOF:
			return nil
		default:
			return fmt.Errorf("cannot read the rows: %w", err)
		}
	}
}

// helloBlock answers hello in the revision that the client asked for.
func helloBlock(display, version string, revision int) ([]byte, error) {
	name, ver, zone := new(proto.ColStr), new(proto.ColStr), new(proto.ColStr)
	name.Append(display)
	ver.Append(version)
	zone.Append("UTC")
	input := proto.Input{
		{Name: "displayName()", Data: name}, {Name: "version()", Data: ver},
		{Name: "revision()", Data: proto.ColUInt32{reportedRevision}}, {Name: "timezone()", Data: zone},
	}
	var buf proto.Buffer
	err := proto.Block{Columns: len(input), Rows: 1, Info: proto.BlockInfo{BucketNum: -1}}.EncodeBlock(&buf, revision, input)
	return buf.Buf, err
}

var errorCode = regexp.MustCompile(`Code: (\d+)\.`)

// codeOf finds the engine's error code in an error's text: the first one, for
// nested errors repeat it. Without one it is 1002, ClickHouse's "unknown".
func codeOf(err error) int {
	if m := errorCode.FindStringSubmatch(err.Error()); m != nil {
		code, _ := strconv.Atoi(m[1])
		return code
	}
	return 1002
}

// statusOf is the HTTP status that ClickHouse gives to an error code.
func statusOf(code int) int {
	switch code {
	case 516, 192, 193, 194: // who are you
		return http.StatusUnauthorized
	case 164, 497: // not allowed
		return http.StatusForbidden
	case 60, 81, 115: // no such table, database, setting
		return http.StatusNotFound
	case 159: // took too long
		return http.StatusRequestTimeout
	case 6, 26, 27, 36, 38, 41, 43, 46, 47, 48, 53, 62, 70, 117, 386, 456, 457: // syntax, types, names, values
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

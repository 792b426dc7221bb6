package engine

import (
	"compress/gzip"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
)

// answer writes one response: framed, zipped or plain. Nothing is sent before
// the first piece, so that an error until then can still be a status.
type answer struct {
	w      http.ResponseWriter
	q      *question
	tag    string // marks an error block of this response; random, so that no row can imitate it
	begun  bool
	zipped *gzip.Writer
	frames *compress.Writer
}

const tagLength = 16

func newAnswer(w http.ResponseWriter, q *question) *answer {
	w.Header().Set("X-ClickHouse-Query-Id", q.id)
	return &answer{w: w, q: q, tag: rand.Text()[:tagLength]}
}

func (a *answer) begin() {
	a.begun = true
	h := a.w.Header()
	h.Set("Content-Type", contentType(a.q.format))
	h.Set("X-ClickHouse-Format", a.q.format)
	h.Set("X-ClickHouse-Timezone", "UTC")
	h.Set("X-ClickHouse-Exception-Tag", a.tag)
	if a.q.gzip {
		h.Set("Content-Encoding", "gzip")
		a.zipped = gzip.NewWriter(a.w)
	}
	if a.q.framed {
		a.frames = compress.NewWriter(compress.LevelZero, a.q.frames)
	}
}

// write sends one piece of the result.
func (a *answer) write(piece []byte) error {
	if !a.begun {
		a.begin()
	}
	for len(piece) > 0 {
		n := min(len(piece), frameBytes)
		if err := a.send(a.frames, piece[:n]); err != nil {
			return err
		}
		piece = piece[n:]
	}
	return nil
}

// send passes bytes through the given frame writer, or none, to the client.
func (a *answer) send(frames *compress.Writer, data []byte) error {
	if frames != nil {
		if err := frames.Compress(data); err != nil {
			return fmt.Errorf("cannot compress the answer: %w", err)
		}
		data = frames.Data
	}
	var out io.Writer = a.w
	if a.zipped != nil {
		out = a.zipped
	}
	_, err := out.Write(data)
	return err
}

// end completes the response; err is what the statement ended with.
func (a *answer) end(err error) {
	switch {
	case err != nil && !a.begun:
		refuse(a.w, err)
		return
	case err != nil:
		a.sendException(err)
	case !a.begun:
		a.begin()
	}
	if a.zipped != nil {
		_ = a.zipped.Close() // fails only when the client is gone
	}
}

// sendException ends a body that has begun with an error block. Between
// compressed frames it is a frame of its own, not compressed, because clients
// look for its text in the raw bytes.
func (a *answer) sendException(err error) {
	text := err.Error()
	block := fmt.Sprintf("\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", a.tag, text, len(text)+1, a.tag)
	var frames *compress.Writer
	if a.q.framed {
		frames = compress.NewWriter(compress.LevelZero, compress.None)
	}
	_ = a.send(frames, []byte(block)) // fails only when the client is gone
}

// refuse answers with an error before anything else was sent.
func refuse(w http.ResponseWriter, err error) {
	code := codeOf(err)
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.Header().Set("X-ClickHouse-Exception-Code", strconv.Itoa(code))
	w.WriteHeader(statusOf(code))
	_, _ = io.WriteString(w, err.Error()+"\n") // fails only when the client is gone
}

func contentType(format string) string {
	switch strings.ToLower(format) { // the engine takes any case
	case "json", "jsoncompact", "jsonstrings":
		return "application/json; charset=UTF-8"
	case "jsoneachrow":
		return "application/x-ndjson; charset=UTF-8"
	case "csv", "csvwithnames":
		return "text/csv; charset=UTF-8; header=absent"
	case "tabseparated", "tsv":
		return "text/tab-separated-values; charset=UTF-8"
	case "native", "rowbinary", "rowbinarywithnamesandtypes":
		return "application/octet-stream"
	}
	return "text/plain; charset=UTF-8"
}

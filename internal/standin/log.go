package standin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// EventStart and EventEnd are the values of [Line].Event.
const (
	EventStart = "start" // the request was read whole; nothing of its answer has left yet
	EventEnd   = "end"   // what was served, written before the last byte of the answer leaves
)

// OutcomeComplete is the outcome of an answer that was served whole. Others are
// "client_gone", "fault:NAME" and "error:STATUS".
const (
	OutcomeComplete   = "complete"
	OutcomeClientGone = "client_gone"
)

// The values of [Line].API.
const (
	apiChat       = "openai.chat"
	apiEmbeddings = "openai.embeddings"
	apiMessages   = "anthropic.messages"
)

// Meters are the exclusive token counts of one request: no token is in two of them.
type Meters struct {
	Input        int `json:"input"`
	CachedInput  int `json:"cached_input"`
	CacheWrite5m int `json:"cache_write_5m"`
	CacheWrite1h int `json:"cache_write_1h"`
	Output       int `json:"output"`
	Reasoning    int `json:"reasoning"`
}

// Line is one line of the log. Every request that is served has a start line and, unless the
// stand-in was killed in between, an end line with the same N. A start line has no meters and no
// outcome; a request that is refused as it stands has only an end line.
type Line struct {
	Event             string    `json:"event"`
	N                 uint64    `json:"n"` // counts the requests of one process, from 1
	Time              time.Time `json:"time"`
	RequestID         string    `json:"request_id,omitempty"` // the caller's X-Request-Id
	Provider          string    `json:"provider"`             // openai, anthropic
	API               string    `json:"api"`                  // openai.chat, openai.embeddings, anthropic.messages
	Model             string    `json:"model"`                // as asked
	Stream            bool      `json:"stream"`
	UpstreamRequestID string    `json:"upstream_request_id,omitempty"` // the id inside the answer
	Meters            Meters    `json:"meters"`
	DeltasSent        int       `json:"deltas_sent"`
	Outcome           string    `json:"outcome,omitempty"`
}

// logFile appends lines. Each line is one write(2) on an O_APPEND file, so lines never mix
// and what was written survives a kill of this process and of its callers.
type logFile struct {
	file  *os.File                 // nil: nothing is logged
	first atomic.Pointer[logError] // the first failure: a log with holes must not be trusted
}

type logError struct{ err error }

func openLog(path string) (*logFile, error) {
	if path == "" {
		return &logFile{}, nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the stand-in's log: %w", err)
	}
	return &logFile{file: file}, nil
}

func (l *logFile) append(line *Line) error {
	if l.file == nil {
		return nil
	}
	text, err := json.Marshal(line)
	if err == nil {
		_, err = l.file.Write(append(text, '\n'))
	}
	if err != nil {
		err = fmt.Errorf("cannot append to the stand-in's log: %w", err)
		l.first.CompareAndSwap(nil, &logError{err})
	}
	return err
}

// close returns the first error of any append, or that of closing.
func (l *logFile) close() error {
	if l.file == nil {
		return nil
	}
	failed := l.first.Load()
	err := l.file.Close()
	if failed != nil {
		return failed.err
	}
	return err
}

// ReadLog returns the lines of a log in the order written. A last line without newline,
// cut by a kill, is left out.
func ReadLog(path string) ([]Line, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the stand-in's log: %w", err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	var lines []Line
	scanner := bufio.NewScanner(bytes.NewReader(text))
	for scanner.Scan() {
		var line Line
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("cannot read line %d of the stand-in's log: %w", len(lines)+1, err)
		}
		lines = append(lines, line)
	}
	return lines, scanner.Err()
}

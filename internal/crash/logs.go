package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// meters are the exclusive token counts that both the stand-in's log and weir's rows have.
type meters struct {
	Input        int64 `json:"input"`
	CachedInput  int64 `json:"cached_input"`
	CacheWrite5m int64 `json:"cache_write_5m"`
	CacheWrite1h int64 `json:"cache_write_1h"`
	Output       int64 `json:"output"`
	Reasoning    int64 `json:"reasoning"`
}

// received is a line of the load client's log: one request as its customer saw it end.
type received struct {
	Stream    bool   `json:"stream"`
	Key       int    `json:"key"` // index of the customer
	Status    int    `json:"status"`
	RequestID string `json:"request_id"`
	Price     string `json:"price"`
	Complete  bool   `json:"complete"`
}

// good tells whether the customer has a whole answer, which he must pay for.
func (r *received) good() bool { return r.Complete && r.Status/100 == 2 }

// served is one request as the stand-in saw it.
type served struct {
	Event     string `json:"event"` // start, end
	N         uint64 `json:"n"`
	RequestID string `json:"request_id"` // weir's own, sent upstream
	Stream    bool   `json:"stream"`
	Meters    meters `json:"meters"`
	Outcome   string `json:"outcome"` // "" = no end line
}

// readNew returns the whole lines that were appended since offset, and moves it.
func readNew(path string, offset *int64) ([][]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // nothing was logged yet
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read a log: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, *offset, 1<<62))
	if err != nil {
		return nil, fmt.Errorf("cannot read a log: %w", err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	*offset += int64(len(text))
	return bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n")), nil
}

// receivedLog follows the load client's log over all rounds.
type receivedLog struct {
	path   string
	offset int64
	lines  []received
	good   int
}

func (l *receivedLog) read() error {
	texts, err := readNew(l.path, &l.offset)
	if err != nil {
		return err
	}
	for _, text := range texts {
		if len(text) == 0 {
			continue
		}
		var r received
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("cannot read the load client's log: %w", err)
		}
		l.lines = append(l.lines, r)
		if r.good() {
			l.good++
		}
	}
	return nil
}

func (l *receivedLog) completed() int { return l.good }

// servedLog follows the stand-in's log.
type servedLog struct {
	path   string
	offset int64
	byN    map[uint64]*served
	open   map[uint64]bool // streams that started and did not end
}

func newServedLog(path string) servedLog {
	return servedLog{path: path, byN: map[uint64]*served{}, open: map[uint64]bool{}}
}

func (l *servedLog) read() error {
	texts, err := readNew(l.path, &l.offset)
	if err != nil {
		return err
	}
	for _, text := range texts {
		if len(text) == 0 {
			continue
		}
		var s served
		if err := json.Unmarshal(text, &s); err != nil {
			return fmt.Errorf("cannot read the stand-in's log: %w", err)
		}
		l.byN[s.N] = &s // an end line replaces the start line
		delete(l.open, s.N)
		if s.Event == "start" && s.Stream {
			l.open[s.N] = true
		}
	}
	return nil
}

func (l *servedLog) openStreams() int { return len(l.open) }

func (l *servedLog) requests() []served {
	all := make([]served, 0, len(l.byN))
	for _, s := range l.byN {
		all = append(all, *s)
	}
	return all
}

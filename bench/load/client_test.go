package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weir/internal/standin"
)

// start runs a stand-in and returns its URL and the path of its log.
func start(t *testing.T) (url, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "standin.log")
	s, err := standin.New(standin.Options{LogPath: path, Key: "k", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return "http://" + addr, path
}

func loadOf(t *testing.T, url string, more ...string) (*summary, []line) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "load.log")
	args := append([]string{"-target", url, "-direct", "-key", "k", "-log", log, "-concurrency", "8"}, more...)
	c, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var lines []line
	for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
		var l line
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return sum, lines
}

// What the client says it received is what the upstream says it served, kind by kind.
func TestBothSidesAgree(t *testing.T) {
	url, path := start(t)
	sum, lines := loadOf(t, url, "-requests", "400")
	if sum.Requests != 400 || sum.Complete != 400 || sum.ByStatus["200"] != 400 || sum.P50ms <= 0 || sum.P99ms < sum.P50ms {
		t.Errorf("summary %+v", sum)
	}
	type kind struct {
		api, model string
		stream     bool
	}
	received, served := map[kind]int{}, map[kind]int{}
	for _, l := range lines {
		if !l.Complete || l.Bytes == 0 {
			t.Errorf("line %+v", l)
		}
		received[kind{l.API, l.Model, l.Stream}]++
	}
	logged, err := standin.ReadLog(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range logged {
		if l.Event == standin.EventEnd {
			served[kind{l.Provider, l.Model, l.Stream}]++
		}
	}
	if len(served) != 10 { // 5 models, as JSON and as a stream
		t.Errorf("%d kinds of requests were served, want 10", len(served))
	}
	for k, n := range served {
		if received[k] != n {
			t.Errorf("%+v: received %d, served %d", k, received[k], n)
		}
	}
}

func TestIncompleteIsNotComplete(t *testing.T) {
	url, _ := start(t)
	for _, c := range []struct {
		marker, mode string
		status       int
	}{
		{"fault=break-stream", "sse", 200},
		{"fault=no-terminator", "sse", 200},
		{"fault=error-event", "sse", 200},
		{"fault=break-body", "json", 0},
		{"fault=refuse", "mixed", 0},
		{"status=429", "mixed", 429},
	} {
		sum, lines := loadOf(t, url, "-requests", "16", "-mode", c.mode, "-marker", c.marker)
		if sum.Complete != 0 || len(lines) != 16 {
			t.Errorf("%s: %+v, %d lines", c.marker, sum, len(lines))
		}
		for _, l := range lines {
			if l.Status != c.status || (l.Error == "") != (c.status == 429) || l.Complete != (c.status == 429) {
				t.Errorf("%s: line %+v", c.marker, l)
			}
		}
	}
}

// A run that is told to end keeps the answers under way.
func TestStopKeepsWhatIsUnderWay(t *testing.T) {
	url, path := start(t)
	c, err := parse([]string{"-target", url, "-direct", "-key", "k", "-concurrency", "4", "-marker", "delay=100ms"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			if lines, err := standin.ReadLog(path); err != nil || len(lines) > 0 {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	sum, err := run(ctx, c)
	if err != nil || sum.Complete != sum.Requests || sum.Complete == 0 || sum.Complete > 8 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestBodySizes(t *testing.T) {
	requests, err := prepare(&config{seed: 3, api: "mixed", mode: "mixed"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		if !json.Valid(r.body) || len(r.body) < 512 || len(r.body) > 4608 {
			t.Errorf("%d bytes: %.100s", len(r.body), r.body)
		}
	}
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sound are facts without a difference: a JSON answer, a stream, one that a kill cut off, and
// one that never reached the upstream.
func sound() *facts {
	tokens := meters{Input: 10, Output: 5}
	f := &facts{
		received: []received{
			{Key: 0, Status: 200, RequestID: "a", Price: "0.001", Complete: true},
			{Key: 1, Status: 200, RequestID: "b", Stream: true, Complete: true},
			{Key: 1, Status: 200, RequestID: "c", Stream: true},
			{Key: 1, Status: 402, Complete: true},
		},
		served: []served{
			{Event: "end", N: 1, RequestID: "a", Meters: tokens, Outcome: "complete"},
			{Event: "end", N: 2, RequestID: "b", Meters: tokens, Outcome: "complete", Stream: true},
			{Event: "start", N: 3, RequestID: "c", Stream: true},
		},
		rows: []row{
			{EventID: "l:1", Kind: "usage", RequestID: "a", Customer: "crash-0", Status: "ok", Price: 1_000_000, Cost: 900_000, Input: 10, Output: 5},
			{EventID: "l:2", Kind: "usage", RequestID: "b", Customer: "crash-1", Status: "ok", Price: 2_000_000, Input: 10, Output: 5},
			{EventID: "l:3", Kind: "leakage", RequestID: "c", Customer: "crash-1", Status: "unknown"},
			{EventID: "l:4", Kind: "leakage", RequestID: "d", Customer: "crash-0", Status: "unknown"},
		},
		wallets: []wallet{
			{Customer: "crash-0", Credited: 5_000_000, Balance: 4_000_000},
			{Customer: "crash-1", Credited: 1_500_000, Balance: 0, Receivable: 500_000},
		},
		leakageMax: 2,
	}
	f.tied.Events = sums{Count: 4, Price: 3_000_000}
	f.events = append(f.events, f.rows...)
	return f
}

func TestSoundBooksPass(t *testing.T) {
	v := sound().check()
	if len(v.differences) != 0 || v.completed != 2 || v.served != 3 || v.billed != 2 || v.leakage != 2 {
		t.Errorf("%+v", v)
	}
}

// Every planted difference must be found: a checker that finds none proves nothing.
func TestPlantedDifferencesAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(*facts)
		finds string
	}{
		"row twice":            {func(f *facts) { f.rows = append(f.rows, f.rows[0]) }, "twice"},
		"two events":           {func(f *facts) { f.rows[3].RequestID = "a" }, "has the events"},
		"answer not billed":    {func(f *facts) { f.rows[0].RequestID = "x" }, "answered whole and is in no row"},
		"answer leaked":        {func(f *facts) { f.rows[1].Kind = "leakage" }, "answered whole and is booked as leakage"},
		"other price":          {func(f *facts) { f.received[0].Price = "0.001000001" }, "was told"},
		"no price":             {func(f *facts) { f.received[0].Price = "" }, "was told"},
		"other customer":       {func(f *facts) { f.rows[0].Customer = "crash-1" }, "is billed to crash-1"},
		"no request id":        {func(f *facts) { f.received[0].RequestID = "" }, "no X-Weir-Request-Id"},
		"start not in books":   {func(f *facts) { f.rows[2].RequestID = "x" }, "reached the upstream () and is in no row"},
		"no upstream id":       {func(f *facts) { f.served[2].RequestID = "" }, "without X-Request-Id"},
		"other tokens":         {func(f *facts) { f.served[1].Meters.Output++ }, "served {"},
		"served but error":     {func(f *facts) { f.rows[0].Kind = "error" }, "booked as an error"},
		"billed, never served": {func(f *facts) { f.served = f.served[1:] }, "never reached"},
		"leakage with a price": {func(f *facts) { f.rows[2].Price = 1 }, "has a price"},
		"too much leakage":     {func(f *facts) { f.leakageMax = 1 }, "leaked"},
		"wallet lost more":     {func(f *facts) { f.wallets[0].Balance-- }, "add up to"},
		"receivable forgotten": {func(f *facts) { f.wallets[1].Receivable = 0 }, "add up to"},
		"still held":           {func(f *facts) { f.wallets[0].Held = 1 }, "holds 1"},
		"unknown customer":     {func(f *facts) { f.wallets = f.wallets[:1] }, "no customer"},
		"tie-out count":        {func(f *facts) { f.tied.Events.Count = 3 }, "counts 3"},
		"tie-out price":        {func(f *facts) { f.tied.Events.Price++ }, "tie-out says"},
		"API lacks an event":   {func(f *facts) { f.events = f.events[1:] }, "not in the API"},
		"API shows other":      {func(f *facts) { f.events[0].Price++ }, "the API says"},
	} {
		f := sound()
		c.plant(f)
		if v := f.check(); !strings.Contains(strings.Join(v.differences, "\n"), c.finds) {
			t.Errorf("%s: want %q among %q", name, c.finds, v.differences)
		}
	}
}

func TestNano(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1": 1e9, "0.05": 5e7, "-1.000000001": -1000000001, "1000000": 1e15} {
		if got, err := nano(text); err != nil || got != want {
			t.Errorf("nano(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", ".5", "1e3", "0.0000000001", "--1", "+1", "99999999999"} {
		if got, err := nano(text); err == nil {
			t.Errorf("nano(%q) = %d, want an error", text, got)
		}
	}
}

func TestTieOutIsClosed(t *testing.T) {
	for text, want := range map[string]bool{
		`{"ok":true,"pending":{"spool":0,"log":0,"append":0},"leases":{"open":1,"held":"0.00"}}`: true,
		`{"ok":false,"pending":{"spool":0,"log":0,"append":0},"leases":{"held":"0"}}`:            false,
		`{"ok":true,"pending":{"spool":0,"log":1,"append":0},"leases":{"held":"0"}}`:             false,
		`{"ok":true,"pending":{"spool":0,"log":0,"append":0},"leases":{"held":"0.000000001"}}`:   false,
		`{"ok":true}`: false,
	} {
		var tied tiedOut
		if err := json.Unmarshal([]byte(text), &tied); err != nil || tied.closed() != want {
			t.Errorf("%s: closed %v, %v", text, tied.closed(), err)
		}
	}
}

// Logs are followed while they grow; a line that is not whole yet waits for its rest.
func TestLogsAreFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := newServedLog(path)
	follow := func(text string, requests, open int) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err != nil || f.Close() != nil || l.read() != nil {
			t.Fatal(err)
		}
		if len(l.requests()) != requests || l.openStreams() != open {
			t.Errorf("%d requests, %d open; want %d, %d", len(l.requests()), l.openStreams(), requests, open)
		}
	}
	if err := l.read(); err != nil {
		t.Fatal(err)
	}
	follow(`{"event":"start","n":1,"stream":true}`+"\n", 1, 1)
	follow(`{"event":"start","n":2,"stream":false}`+"\n"+`{"event":"end","n":1,`, 2, 1)
	follow(`"stream":true,"outcome":"complete"}`+"\n", 2, 0)
}

package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// platform sets up what weir tells of events at $PLATFORM: it keeps each one in
// the file told.
func platform(env *testscript.Env) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		f, openErr := os.OpenFile(filepath.Join(env.WorkDir, "told"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil || openErr != nil {
			panic(http.ErrAbortHandler)
		}
		defer f.Close()
		io.WriteString(f, r.Header.Get("webhook-id")+" "+string(text)+"\n")
	}))
	env.Defer(server.Close)
	env.Setenv("PLATFORM", server.URL)
}

// toldTime bounds how long an event may take to arrive; it is not measured.
const toldTime = time.Minute

// told TEXT waits until the platform was told something that contains TEXT.
func told(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(toldTime); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(ts.MkAbs("told"))
		if err == nil && strings.Contains(string(text), args[0]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("never told: %s; but %s", args[0], text)
		}
	}
}

// keepid sets ID to the id of the webhook that the last command made.
func keepid(ts *testscript.TestScript, _ bool, _ []string) {
	words := strings.Fields(ts.ReadFile("stdout")) // id ID secret SECRET
	ts.Setenv("ID", words[1])
}

// delivered ID waits until nothing is on its way to a webhook.
func delivered(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(toldTime); ; time.Sleep(10 * time.Millisecond) {
		ts.Check(ts.Exec("weir", "webhook", "deliveries", args[0]))
		if !strings.Contains(ts.ReadFile("stdout"), "pending") {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not delivered: %s", ts.ReadFile("stdout"))
		}
	}
}

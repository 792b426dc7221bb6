package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// workers is how many requests are under way at once.
	workers = 16
	// requestTimeout bounds one of them.
	requestTimeout = time.Minute
)

// exchange is one request as its customer saw it.
type exchange struct {
	request
	id     string // X-Weir-Request-Id
	status int
	code   string // of an error
	price  string // X-Weir-Price, which JSON answers tell
	failed string // why the answer did not come whole, else ""
	ended  time.Time
}

// send sends all requests over HTTP, workers at a time. done counts those that have ended.
func send(ctx context.Context, base string, requests []request, customers []customer, done *atomic.Int64) []exchange {
	client := &http.Client{Timeout: requestTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer client.CloseIdleConnections()
	list := make([]exchange, len(requests))
	var next atomic.Int64
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(requests)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				list[i].request = requests[i]
				list[i].send(ctx, client, base, customers[requests[i].customer].key)
				done.Add(1)
			}
		})
	}
	running.Wait()
	return list
}

// send fills in the answer.
func (x *exchange) send(ctx context.Context, client *http.Client, base, key string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/"+x.provider+x.path, bytes.NewReader(x.body))
	if err != nil {
		x.failed = err.Error()
		return
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Weir-Tag-Feature", x.feature)
	if x.provider == "anthropic" { // each SDK puts the key into a place of its own
		r.Header.Set("X-Api-Key", key)
		r.Header.Set("Anthropic-Version", "2023-06-01")
	} else {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	defer func() { x.ended = time.Now() }()
	resp, err := client.Do(r)
	if err != nil {
		x.failed = err.Error()
		return
	}
	defer resp.Body.Close()
	x.id, x.status, x.price = resp.Header.Get("X-Weir-Request-Id"), resp.StatusCode, resp.Header.Get("X-Weir-Price")
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		x.failed = err.Error()
		return
	}
	x.read(body)
}

// read judges a body: an error's code, or whether the answer is whole.
func (x *exchange) read(body []byte) {
	if x.status != http.StatusOK {
		var answer struct {
			Error struct {
				Code string `json:"code"`
			} `json:"error"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			x.failed = fmt.Sprintf("status %d without an error in JSON", x.status)
		}
		x.code = answer.Error.Code
		return
	}
	terminator := "data: [DONE]"
	if x.provider == "anthropic" {
		terminator = `{"type":"message_stop"}`
	}
	switch {
	case x.stream && !bytes.HasSuffix(bytes.TrimSpace(body), []byte(terminator)):
		x.failed = "the stream has no terminator"
	case !x.stream && !json.Valid(body):
		x.failed = "the answer is not JSON"
	}
}

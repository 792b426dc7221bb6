package distributed

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// booksMax is the contract's: so soon after a restart, or after what was away
// has come back, nothing is pending or held.
const booksMax = time.Minute

// books is the control plane of one process.
type books struct {
	t  *testing.T
	at string
}

// serveBooks names the process whose control plane the test uses.
func (in *installation) serveBooks(w *weir) { in.books = &books{in.T, "http://" + w.control} }

// call asks the control plane; in and out are JSON. It returns the status.
func (b *books) call(method, path string, in, out any) (status int, err error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequest(method, b.at+"/api/v1"+path, body)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", rand.Text())
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: status %d: %s", method, path, resp.StatusCode, text)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	return resp.StatusCode, err
}

func (b *books) must(method, path string, in, out any) {
	b.t.Helper()
	if _, err := b.call(method, path, in, out); err != nil {
		b.t.Fatal(err)
	}
}

// customer makes one with money, on a plan, and returns his key and its id.
func (b *books) customer(id, plan, amount string) (key, keyID string) {
	b.t.Helper()
	b.must("POST", "/customers", map[string]string{"id": id, "plan": plan}, nil)
	b.must("POST", "/customers/"+id+"/credits", map[string]string{"amount": amount, "reason": "test", "kind": "paid"}, nil)
	var made struct{ ID, Key string }
	b.must("POST", "/customers/"+id+"/keys", struct{}{}, &made)
	return made.Key, made.ID
}

// wallet is a customer's money, as decimal strings.
type wallet struct{ Balance, Held, Available, Receivable string }

func (b *books) wallet(id string) (w wallet) {
	b.t.Helper()
	b.must("GET", "/customers/"+id+"/wallet", nil, &w)
	return w
}

// tieOut is what the books say of themselves.
type tieOut struct {
	OK         bool
	Pending    map[string]int64
	Events     sums
	Ledger     sums
	ClickHouse *sums
	Leases     struct {
		Open int64
		Held string
	}
	Leakage struct{ Count int64 }
	Breaks  []map[string]string
}

type sums struct {
	Count       int64
	Cost, Price string
}

// closed waits until nothing is on its way or held, and everything ties out.
func (b *books) closed() tieOut {
	b.t.Helper()
	var last tieOut
	took := eventually(b.t, booksMax, "the books are closed", func() (bool, string) {
		var t tieOut
		_, err := b.call("GET", "/tieout?wait=5s", nil, &t)
		if err != nil {
			return false, err.Error()
		}
		last = t
		pending := t.Pending["spool"] + t.Pending["log"] + t.Pending["append"]
		return t.OK && pending == 0 && t.Leases.Open == 0, fmt.Sprintf("%+v", t)
	})
	b.t.Logf("the books closed in %.1f s: %d events, cost %s, price %s, leakage %d", took.Seconds(), last.Events.Count, last.Events.Cost,
		last.Events.Price, last.Leakage.Count)
	if last.ClickHouse == nil || last.Events != last.Ledger || last.Events != *last.ClickHouse {
		b.t.Errorf("events %+v, ledger %+v, ClickHouse %+v", last.Events, last.Ledger, last.ClickHouse)
	}
	return last
}

// query asks a ClickHouse HTTP interface for JSON, a row a line.
func query(t *testing.T, base, user, password, text string) (rows []string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, base+"/?"+url.Values{"query": {text + " FORMAT JSONEachRow"}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(user, password)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v: %s", text, resp.StatusCode, err, body)
	}
	return strings.Split(strings.TrimSpace(string(body)), "\n")
}

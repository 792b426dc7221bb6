package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/ledger"
)

// uploading begins a chat completion of a key, whose body is yet to come.
func (r *rig) uploading(key string, length int) client {
	r.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	must(r.t, err)
	r.t.Cleanup(func() { conn.Close() })
	must(r.t, conn.SetDeadline(time.Now().Add(3*waitMax)))
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", chatPath, key, length)
	must(r.t, err)
	return client{conn, bufio.NewReader(conn)}
}

// answer reads one.
func (c client) answer(t testing.TB) reply {
	t.Helper()
	res, err := http.ReadResponse(c.Reader, nil)
	must(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(text), err}
}

// padded is a chat completion of so many bytes.
func padded(size int) string {
	body := chatBody("in=20 out=10", `"max_tokens":50`)
	return body + strings.Repeat(" ", size-len(body))
}

// TestStrangersBodies: the body of a request without a valid key is not kept.
func TestStrangersBodies(t *testing.T) {
	r := newTunedRig(t, func(g *Gateway) { g.server.ReadTimeout = waitMax })
	const strangers, size = 16, 16 << 20
	before := heap()
	body := make([]byte, size)
	var wg sync.WaitGroup
	for range strangers {
		c := r.uploading("sk-weir-nobody", size)
		wg.Go(func() {
			if _, err := c.Write(body[:size-1]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if grown := heap() - before; grown > 3*size {
		t.Errorf("%d bodies of %d MiB take %d MiB", strangers, size>>20, grown>>20)
	}
	c := r.uploading("sk-weir-nobody", size)
	_, err := c.Write(body)
	must(t, err)
	r.refused(c.answer(t), 401, "invalid_key")
	c.send(t, chatPath, r.key, padded(1<<20))
	if a := c.answer(t); a.status != 200 {
		t.Errorf("%d %s on the same connection, with a key", a.status, a.body)
	}
}

// heap is what is in use, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestSlowBodies: a body may come slowly, as long as it is not held back. By the
// time it has come the key must still be good.
func TestSlowBodies(t *testing.T) {
	r := newTunedRig(t, func(g *Gateway) { g.server.ReadTimeout = time.Second })
	revoked, id := r.limitedKey(ledger.Limits{})
	const size = 150_000 // 3 s at 50 kB/s
	body := padded(size)
	honest, late, drops, silent := r.uploading(r.key, size), r.uploading(revoked, size), r.uploading(r.key, size), r.uploading(r.key, size)
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		r.refused(drops.answer(t), 408, "invalid_request")
		r.refused(silent.answer(t), 408, "invalid_request")
	}()
	const pieces = 60
	for i := range pieces {
		piece := body[i*size/pieces : (i+1)*size/pieces]
		for _, c := range []client{honest, late} {
			_, err := io.WriteString(c, piece)
			must(t, err)
		}
		_, _ = io.WriteString(drops, piece[:100]) // 2 kB/s; fails once it is cut
		if i == pieces/2 {
			must(t, r.Ledger.Tx(t.Context(), func(tx *ledger.Tx) error { return tx.RevokeKey(t.Context(), id) }))
			must(t, r.heart.Beat(t.Context()))
		}
		time.Sleep(3 * time.Second / pieces)
	}
	select {
	case <-cut:
	default:
		t.Error("drops, or nothing, are waited for")
	}
	if a := honest.answer(t); a.status != 200 {
		t.Errorf("%d %s at 50 kB/s", a.status, a.body)
	}
	r.refused(late.answer(t), 401, "invalid_key")
	<-cut
}

// TestStopWhileABodyComes: a stop does not wait for what is still being sent.
func TestStopWhileABodyComes(t *testing.T) {
	r := newTunedRig(t, func(g *Gateway) { g.server.ReadTimeout = time.Second })
	const size = 10 << 20
	body := padded(size)
	c := r.uploading(r.key, size)
	stopped, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		for i := 0; i < size; i += 1000 { // 50 kB/s, for minutes
			if _, err := io.WriteString(c, body[i:i+1000]); err != nil {
				return
			}
			select {
			case <-stopped:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	answered := make(chan reply, 1)
	go func() { answered <- c.answer(t) }()
	r.eventually("an upload", func() bool { return r.server.GetCurrentConcurrency() > 0 })
	r.stop(waitMax)
	close(stopped)
	r.refused(<-answered, 503, "stopping")
	<-sent
}

// TestEndlessBody: a body that does not tell its length ends at the bound.
func TestEndlessBody(t *testing.T) {
	r := newRig(t)
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+chatPath, io.MultiReader(strings.NewReader(padded(maxRequestBytes)), strings.NewReader(" ")))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+r.key)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	r.refused(reply{res.StatusCode, res.Header, string(text), err}, 413, "body_too_large")
	if a := r.do("POST", chatPath, padded(maxRequestBytes), "Authorization: Bearer "+r.key); a.status != 200 {
		t.Errorf("%d %.200s at the bound", a.status, a.body)
	}
}

package gateway

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestLeavingIsSeen: where calls are aborted for clients that leave, the
// provider's call ends within a tenth of a second of that, whether the provider
// has not answered yet, is silent in the middle, or sends without a pause.
func TestLeavingIsSeen(t *testing.T) {
	const within = 100 * time.Millisecond
	for name, serve := range map[string]func(w http.ResponseWriter, gone <-chan struct{}){
		"no answer yet": func(http.ResponseWriter, <-chan struct{}) {},
		"silence":       func(w http.ResponseWriter, _ <-chan struct{}) { sendEvent(w) },
		"no pause": func(w http.ResponseWriter, gone <-chan struct{}) {
			for {
				sendEvent(w)
				select {
				case <-gone:
					return
				case <-time.After(time.Millisecond):
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			begun, ended := make(chan struct{}, 1), make(chan time.Time, 1)
			provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if _, err := io.Copy(io.Discard, req.Body); err != nil { // the server watches the connection only then
					t.Error(err)
				}
				gone := req.Context().Done()
				go func() { <-gone; ended <- time.Now() }()
				begun <- struct{}{}
				serve(w, gone)
				<-gone
			}))
			defer provider.Close()
			r := newRig(t, func(o *Options) { o.Drain, o.Upstreams[0].BaseURL = false, provider.URL })
			fastest := waitMax
			for try := 0; try < 5 && fastest > within; try++ { // the machine may be busy with something else
				c := r.dial(chatPath, r.key, chatBody("", `"max_tokens":50,"stream":true`))
				<-begun
				if name != "no answer yet" {
					c.until(t, "hello")
				}
				left := time.Now()
				must(t, c.Conn.Close())
				fastest = min(fastest, (<-ended).Sub(left))
			}
			if fastest > within {
				t.Errorf("seen after %s", fastest)
			}
		})
	}
}

// sendEvent sends one of a chat completion.
func sendEvent(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, `data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}`+"\n\n")
	w.(http.Flusher).Flush()
}

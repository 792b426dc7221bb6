package gateway

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"weir/schemas/usage"
)

// encoder compresses an answer piece by piece.
type encoder interface {
	io.WriteCloser
	Flush() error
}

func newEncoder(t *testing.T, name string, w io.Writer) encoder {
	switch name {
	case "gzip", "x-gzip":
		return gzip.NewWriter(w)
	case "br":
		return brotli.NewWriter(w)
	case "zstd":
		z, err := zstd.NewWriter(w)
		must(t, err)
		return z
	}
	return zlib.NewWriter(w) // what "deflate" means
}

// encodedUpstream answers as the stand-in does, encoded although nobody asked;
// cut leaves out the end of the encoding.
func encodedUpstream(t *testing.T, encoding string, cut bool) option {
	var standinURL string
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if got := req.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("Accept-Encoding: %q", got)
		}
		to, err := url.Parse(standinURL)
		must(t, err)
		proxy := httputil.NewSingleHostReverseProxy(to)
		proxy.ModifyResponse = func(res *http.Response) error {
			res.Header.Set("Content-Encoding", encoding)
			res.Header.Del("Content-Length")
			res.ContentLength = -1
			res.Body = encodeBody(t, encoding, cut, res.Body)
			return nil
		}
		proxy.FlushInterval = -1
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(up.Close)
	return func(o *Options) {
		standinURL = o.Upstreams[0].BaseURL
		o.Upstreams[0].BaseURL = up.URL
	}
}

// encodeBody flushes after each read of the original, as a server does that
// compresses a stream.
func encodeBody(t *testing.T, encoding string, cut bool, body io.ReadCloser) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		defer body.Close()
		enc := newEncoder(t, encoding, w)
		buf := make([]byte, 32<<10)
		for {
			n, err := body.Read(buf)
			if _, werr := enc.Write(buf[:n]); werr != nil || enc.Flush() != nil {
				return
			}
			if err != nil {
				if !cut {
					_ = enc.Close()
				}
				_ = w.Close()
				return
			}
		}
	}()
	return r
}

// TestEncodedAnswers: an answer that comes encoded is billed by what it says,
// and reaches the client as the client would have got it.
func TestEncodedAnswers(t *testing.T) {
	for _, encoding := range []string{"gzip", "x-gzip", "br", "zstd"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			opt := encodedUpstream(t, encoding, false)
			r := newRig(t, opt)
			plain := newRig(t)
			for i, more := range []string{`"max_tokens":50`, streaming} {
				a, want := r.chat("in=20 out=10", more), plain.chat("in=20 out=10", more)
				if a.status != 200 || a.err != nil || a.Get("Content-Encoding") != "" || len(a.body) != len(want.body) || chunks(t, a.body) != chunks(t, want.body) {
					t.Errorf("%d %v %v %s", a.status, a.err, a.Header, a.body)
				}
				if rec := r.records(usage.KindUsage)[i]; rec.Price != 27_000 || rec.Estimated || rec.Status != usage.StatusOK {
					t.Errorf("%+v", rec)
				}
			}
			if a, want := r.chat("status=429", `"max_tokens":50`), plain.chat("status=429", `"max_tokens":50`); a.status != 429 ||
				len(a.body) != len(want.body) || a.Get("Content-Encoding") != "" {
				t.Errorf("%d %v %s", a.status, a.Header, a.body)
			}
		})
	}
}

// TestEncodedStreamFlows: each event goes on when it comes, not when the encoder
// has enough of them.
func TestEncodedStreamFlows(t *testing.T) {
	for _, encoding := range []string{"gzip", "br", "zstd"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			opt := encodedUpstream(t, encoding, false)
			r := newRig(t, opt, func(o *Options) { o.Drain = false })
			c := r.dial(chatPath, r.key, chatBody("in=20 out=10 chunks=10 fault=stall after=3 stall=1m", streaming))
			for range 3 {
				c.until(t, `"content":"`)
			}
			c.Close()
			if rec := r.result(); rec.Status != usage.StatusClientGone || !rec.Estimated || rec.Meters[usage.Output] < 3 {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// TestBrokenEncodings: an answer that cannot be decoded is one that broke off:
// nobody pays for what nobody got, and a stream is billed by what was read.
func TestBrokenEncodings(t *testing.T) {
	for _, c := range []struct {
		encoding, more string
		cut            bool
		whole          bool // refused, with nothing sent before
	}{
		{"gzip", `"max_tokens":50`, true, true}, {"br", `"max_tokens":50`, true, true}, {"zstd", `"max_tokens":50`, true, true},
		{"deflate", `"max_tokens":50`, false, true}, {"gzip, br", `"max_tokens":50`, false, true}, {"aes128gcm", streaming, false, true}, {"deflate", streaming, false, true},
		{"gzip", streaming, true, false}, {"br", streaming, true, false}, {"zstd", streaming, true, false},
	} {
		t.Run(c.encoding+c.more, func(t *testing.T) {
			t.Parallel()
			opt := encodedUpstream(t, c.encoding, c.cut)
			r := newRig(t, opt)
			control := "in=20 out=10 chunks=10"
			if !c.whole {
				control += " fault=no-terminator after=3"
			}
			a := r.chat(control, c.more)
			if c.whole {
				r.refused(a, 502, "upstream_broke_off")
				leaked(t, r.result())
				return
			}
			if rec := r.result(); a.status != 200 || a.err == nil || !estimated(3)(rec) {
				t.Errorf("%d %v %+v", a.status, a.err, rec)
			}
		})
	}
}

// TestUnreadableError: an error answer that cannot be decoded served nothing.
func TestUnreadableError(t *testing.T) {
	opt := encodedUpstream(t, "deflate", false)
	r := newRig(t, opt)
	r.refused(r.chat("status=500", `"max_tokens":50`), 502, "upstream_broke_off")
	if rec := r.result(); rec.Row != usage.RowError || rec.Price != 0 || rec.HTTPStatus != 500 {
		t.Errorf("%+v", rec)
	}
}

// TestBomb: a few bytes that stand for gigabytes are given up at a bound.
func TestBomb(t *testing.T) {
	for _, encoding := range []string{"gzip", "br", "zstd"} {
		a := &http.Response{Header: http.Header{"Content-Encoding": {encoding}}, ContentLength: -1, Body: io.NopCloser(bytes.NewReader(bomb(t, encoding, 3<<20)))}
		decode(a)
		d := a.Body.(*decoded)
		if d.left != maxDecodedBytes {
			t.Errorf("%s: %d bytes may come out", encoding, d.left)
		}
		d.left = 2 << 20 // the bound itself takes seconds to reach
		n, err := io.Copy(io.Discard, a.Body)
		if !errors.Is(err, errDecodedTooLong) || n > 2<<20 || n < 1<<20 {
			t.Errorf("%s: %d bytes, then %v", encoding, n, err)
		}
	}
}

// bomb is a small body of so many zeros.
func bomb(t *testing.T, encoding string, size int) []byte {
	var small bytes.Buffer
	enc := newEncoder(t, encoding, &small)
	zeros := make([]byte, 1<<20)
	for range size / len(zeros) {
		_, err := enc.Write(zeros)
		must(t, err)
	}
	must(t, enc.Close())
	return small.Bytes()
}

// TestBombThroughGateway: it is an answer that broke off, and nobody pays for it.
func TestBombThroughGateway(t *testing.T) {
	body := bomb(t, "gzip", maxAnswerBytes+1<<20)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"], w.Header()["Content-Encoding"] = []string{"application/json"}, []string{"gzip"}
		_, _ = w.Write(body)
	}))
	t.Cleanup(up.Close)
	r := newRig(t, func(o *Options) { o.Upstreams[0].BaseURL = up.URL })
	r.refused(r.chat("", `"max_tokens":50`), 502, "upstream_broke_off")
	leaked(t, r.result())
}

// TestIdentity: the coding that is none may be named.
func TestIdentity(t *testing.T) {
	a := &http.Response{Header: http.Header{"Content-Encoding": {"identity"}}, ContentLength: -1, Body: io.NopCloser(strings.NewReader("as it is"))}
	decode(a)
	if text, err := io.ReadAll(a.Body); err != nil || string(text) != "as it is" || a.Header.Get("Content-Encoding") != "" {
		t.Error(string(text), err)
	}
}

package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxDecodedBytes bounds what one encoded answer may become: a few bytes can
	// stand for gigabytes. It is several times the longest stream of a model with
	// the largest output; a whole answer is bounded by maxAnswerBytes anyway.
	maxDecodedBytes = 256 << 20
	// maxDecodingWindow bounds what a zstd decoder holds; encoders are asked by
	// the standard for HTTP to stay within it.
	maxDecodingWindow = 8 << 20
)

var (
	errEncoding       = errors.New("the answer is in an encoding that cannot be read")
	errDecodedTooLong = fmt.Errorf("the answer is longer than %d MiB when decoded", maxDecodedBytes>>20)
)

// decode makes the body of an encoded answer readable: weir asks for none, but
// what answers all the same is metered, and goes on decoded. The body of one that
// cannot be decoded fails to be read, and its Content-Encoding stays.
func decode(a *http.Response) {
	name := strings.ToLower(strings.Join(a.Header["Content-Encoding"], ","))
	d := &decoded{body: a.Body, left: maxDecodedBytes}
	switch name {
	case "", "identity":
	case "gzip", "x-gzip":
		d.open = func(from io.Reader) (io.Reader, error) { return gzip.NewReader(from) }
	case "br":
		d.open = func(from io.Reader) (io.Reader, error) { return brotli.NewReader(from), nil }
	case "zstd":
		d.open = d.openZstd
	default:
		d.open = func(io.Reader) (io.Reader, error) { return nil, errEncoding }
		a.Body = d
		return
	}
	a.Header.Del("Content-Encoding")
	if d.open != nil && a.ContentLength != 0 {
		a.Body = d
	}
}

// decoded is a body read through its encoding. A part that has come can be read
// before the rest has, as far as the sender flushed it.
type decoded struct {
	body io.ReadCloser
	open func(io.Reader) (io.Reader, error) // it waits for the first bytes, so Read calls it
	from io.Reader                          // nil before
	free func()                             // may be nil
	left int64                              // bytes that may still come out
}

func (d *decoded) openZstd(from io.Reader) (io.Reader, error) {
	z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxDecodingWindow))
	if err == nil {
		d.free = z.Close
	}
	return z, err
}

// Read returns errDecodedTooLong once more has come out than may.
func (d *decoded) Read(p []byte) (n int, err error) {
	if d.from == nil {
		if d.from, err = d.open(d.body); err != nil {
			d.from = nil
			if err == io.EOF {
				err = io.ErrUnexpectedEOF // it is never empty
			}
			return 0, err
		}
	}
	n, err = d.from.Read(p)
	if d.left -= int64(n); d.left < 0 {
		return 0, errDecodedTooLong
	}
	return n, err
}

// Close closes the body too.
func (d *decoded) Close() error {
	if d.free != nil {
		d.free()
	}
	return d.body.Close()
}

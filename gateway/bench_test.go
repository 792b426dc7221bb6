package gateway

import (
	"io"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"

	"weir/schemas/money"
)

// The benchmarks keep 32 connections busy with requests for a whole JSON
// answer, or for a stream of 20 chunks. cpu-µs/op is the whole process: client
// and stand-in too, so what matters is the difference to BenchmarkDirect.
func BenchmarkJSON(b *testing.B) {
	benchRequests(b, true, chatBody("in=20 out=100", `"max_tokens":200`))
}

func BenchmarkSSE(b *testing.B) {
	benchRequests(b, true, chatBody("in=20 out=100 chunks=20", `"max_tokens":200,"stream":true`))
}

func BenchmarkDirectJSON(b *testing.B) {
	benchRequests(b, false, chatBody("in=20 out=100", `"max_tokens":200`))
}

func BenchmarkDirectSSE(b *testing.B) {
	benchRequests(b, false, chatBody("in=20 out=100 chunks=20", `"max_tokens":200,"stream":true,"stream_options":{"include_usage":true}`))
}

func benchRequests(b *testing.B, through bool, body string) {
	r := newRig(b)
	r.key = r.customer("bench", 1e6*money.Dollar)
	path, key := chatPath, r.key
	if !through {
		r.url, path, key = "http://"+r.upstream, "/v1/chat/completions", "provider-key"
	}
	b.SetParallelism(benchConns / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	before := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		c := r.dial(path, key, body)
		must(b, c.SetDeadline(time.Time{}))
		c.readAnswer(b)
		for pb.Next() {
			c.send(b, path, key, body)
			c.readAnswer(b)
		}
	})
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

const benchConns = 32

func (c client) readAnswer(b *testing.B) {
	res, err := http.ReadResponse(c.Reader, nil)
	must(b, err)
	_, err = io.Copy(io.Discard, res.Body)
	must(b, err)
	if res.StatusCode != 200 {
		b.Fatal(res.Status)
	}
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

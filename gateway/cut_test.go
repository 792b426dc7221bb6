package gateway

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/standin"
	"weir/schemas/money"
	"weir/schemas/usage"
)

const (
	// cutStreams are cut in TestCutStreams, cutStreamsLong of them if
	// WEIR_TEST_LONG is set.
	cutStreams     = 2000
	cutStreamsLong = 10_000
	// cutClients are busy at a time.
	cutClients = 64
	// cutBytesMax is beyond the end of most streams here: some are not cut.
	cutBytesMax = 4000
	// cutSilent: one client in so many does not even wait for the answer.
	cutSilent = 16
)

// TestCutStreams cuts streams after a random number of bytes, by closing or
// resetting the connection. What the stand-in says it served is what is billed
// where streams are drained; where they are aborted, at most that, and never
// nothing for output.
func TestCutStreams(t *testing.T) {
	n := cutStreams
	if os.Getenv("WEIR_TEST_LONG") != "" {
		n = cutStreamsLong
	}
	for name, drain := range map[string]bool{"drain": true, "abort": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(o *Options) { o.Drain = drain })
			start := time.Now()
			var clients sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(n / 2))
			for i := range cutClients {
				clients.Go(func() {
					random := rand.New(rand.NewPCG(uint64(i), 11))
					for left.Add(-1) >= 0 {
						r.cutStream(t, random)
					}
				})
			}
			clients.Wait()
			r.eventually("the end of all calls", func() bool {
				return r.InFlight() == 0 && r.draining.Load() == 0 && r.server.GetOpenConnectionsCount() == 0
			})
			r.stop(waitMax)
			r.eventually("the end of every watcher", func() bool {
				stacks := make([]byte, 4<<20)
				return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "gateway.watch")
			})
			r.tally()
			figures := r.compareCut(t, drain)
			r.closesAddUp(t)
			t.Logf("%s in %v", figures, time.Since(start).Round(time.Millisecond))
		})
	}
}

// cutStream is one client that leaves.
func (r *rig) cutStream(t *testing.T, random *rand.Rand) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(waitMax)))
	control := fmt.Sprintf("in=40 out=%d chunks=%d delay=%dus interval=%dus", 1+random.IntN(60), 1+random.IntN(12), random.IntN(10_000), random.IntN(4)*random.IntN(2000))
	path, body := chatPath, chatBody(control, `"max_tokens":60,"stream":true`)
	if random.IntN(2) == 0 {
		path = messagesPath
		body = fmt.Sprintf(`{"model":"claude-haiku-4-5","max_tokens":60,"stream":true,"messages":[{"role":"user","content":"[[standin %s]]"}]}`, control)
	}
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: weir\r\nX-Api-Key: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, r.key, len(body), body)
	must(t, err)
	if random.IntN(cutSilent) > 0 {
		_, _ = io.CopyN(io.Discard, conn, int64(random.IntN(cutBytesMax)))
	}
	if random.IntN(2) == 0 {
		must(t, conn.(*net.TCPConn).SetLinger(0))
	}
}

// compareCut holds every record to the stand-in's log, beyond what tally does.
func (r *rig) compareCut(t *testing.T, drain bool) string {
	results := map[string]usage.Record{}
	var billed, worth money.Nano
	for _, rec := range r.records(usage.KindUsage, usage.KindUnknown) {
		results[rec.RequestID] = rec
		billed += rec.Price
	}
	whole, gone, estimated := 0, 0, 0
	served := r.served(standin.EventEnd)
	for _, line := range served {
		rec, ok := results[line.RequestID]
		price := servedPrice(line)
		worth += price
		switch {
		case rec.Status == usage.StatusClientGone:
			gone++
		case rec.Status == usage.StatusOK:
			whole++
		}
		if rec.Estimated {
			estimated++
		}
		switch {
		case !ok || rec.Kind != usage.KindUsage || rec.Row != usage.RowUsage:
			t.Errorf("served and not billed: %+v\n%+v", line, rec)
		case drain && (line.Outcome != standin.OutcomeComplete || rec.Estimated || rec.Price != price):
			t.Errorf("drained, and not billed as served, %s:\n%+v\n%+v", price, line, rec)
		case rec.Price > price || rec.Price == 0 || !rec.Estimated && rec.Price != price:
			t.Errorf("aborted, and billed for more than was served, %s, or for nothing:\n%+v\n%+v", price, line, rec)
		}
	}
	return fmt.Sprintf("%d requests served of %d records: %d read to the end, %d clients gone, %d estimated; billed %s of %s", len(served), len(results), whole, gone, estimated, billed, worth)
}

// servedPrice is what the stand-in's figures cost a customer: three times the
// provider's price.
func servedPrice(line standin.Line) money.Nano {
	in, out := money.Nano(line.Meters.Input), money.Nano(line.Meters.Output)
	if line.API == "openai.chat" {
		return 3 * (150*in + 600*out)
	}
	return 3 * (1000*in + 5000*out)
}

// closesAddUp: every lease is closed, and its close counts every event and
// nano-dollar of it.
func (r *rig) closesAddUp(t *testing.T) {
	type sum struct {
		count uint64
		price money.Nano
	}
	events := map[string]sum{}
	for _, rec := range r.records(usage.KindUsage, usage.KindUnknown) {
		s := events[rec.LeaseID]
		events[rec.LeaseID] = sum{s.count + 1, s.price + rec.Price}
	}
	closes := r.records(usage.KindClose)
	for _, rec := range closes {
		if got := (sum{rec.Count, rec.PriceSum}); got != events[rec.LeaseID] {
			t.Errorf("lease %s closes with %+v, its events are %+v", rec.LeaseID, got, events[rec.LeaseID])
		}
		delete(events, rec.LeaseID)
	}
	if len(events) > 0 {
		t.Errorf("leases that did not close: %v", events)
	}
}

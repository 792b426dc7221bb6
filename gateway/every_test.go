package gateway

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/standin"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestEveryRequestCounts sends a random mix of requests, faults and clients
// that leave, and then asks the stand-in what it served: each request of its
// log has exactly one result in the spool, billed by what was reported, or told
// as leakage, or as an error that served nothing.
func TestEveryRequestCounts(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxRequest, o.DrainMax = 3*time.Second, 500*time.Millisecond })
	keys := []string{r.key, r.customer("second", 10*money.Dollar), r.customer("third", 10*money.Dollar)}
	controls := []string{"", "", "", "status=400", "status=500", "fault=break-stream after=2", "fault=break-body", "fault=no-usage",
		"fault=error-event after=2", "fault=garbage", "fault=refuse", "fault=stall after=2 stall=10s", "interval=20ms", "delay=50ms", "fault=no-terminator after=1"}
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 7))
			for range 25 {
				more := `"max_tokens":50`
				if random.IntN(2) == 0 {
					more = streaming
				}
				control := fmt.Sprintf("in=20 out=%d chunks=5 %s", 1+random.IntN(40), controls[random.IntN(len(controls))])
				r.sendAndMaybeLeave(random, keys[random.IntN(len(keys))], chatBody(control, more))
			}
		})
	}
	workers.Wait()
	r.eventually("the end of all calls", func() bool { return r.InFlight() == 0 })
	r.stop(waitMax)
	r.eventually("the end of every goroutine", func() bool {
		stacks := make([]byte, 4<<20)
		text := string(stacks[:runtime.Stack(stacks, true)])
		return !strings.Contains(text, "gateway.watch") && !strings.Contains(text, "gateway.(*streamBody)")
	})
	r.tally()
}

// sendAndMaybeLeave sends one request on a connection of its own; one in four
// clients does not wait for the answer.
func (r *rig) sendAndMaybeLeave(random *rand.Rand, key, body string) {
	c := r.dial(chatPath, key, body)
	defer c.Close()
	if random.IntN(4) == 0 {
		must(r.t, c.SetReadDeadline(time.Now().Add(time.Duration(random.IntN(60))*time.Millisecond)))
	} else {
		_, err := c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n"))
		must(r.t, err)
	}
	_, _ = io.Copy(io.Discard, c.Reader) // until the deadline, or until both answers have come
}

// tally compares the spool with the stand-in's log.
func (r *rig) tally() {
	r.t.Helper()
	results, intents := map[string]usage.Record{}, map[string]bool{}
	seqs := map[string][]uint64{}
	for _, rec := range r.records() {
		if rec.Kind == usage.KindIntent {
			intents[rec.RequestID] = true
			continue
		}
		seqs[rec.LeaseID] = append(seqs[rec.LeaseID], rec.Seq)
		if !rec.Kind.IsEvent() {
			continue
		}
		if _, twice := results[rec.RequestID]; twice || !intents[rec.RequestID] {
			r.t.Errorf("request %s has two results, or no intent: %+v", rec.RequestID, rec)
		}
		results[rec.RequestID] = rec
	}
	for lease, list := range seqs {
		if !slices.IsSorted(list) || list[0] != 1 || list[len(list)-1] != uint64(len(list)) {
			r.t.Errorf("seqs of lease %s: %v", lease, list)
		}
	}
	if len(results) != len(intents) {
		r.t.Errorf("%d intents, %d results", len(intents), len(results))
	}
	served := r.served(standin.EventEnd)
	if len(served) < 150 {
		r.t.Errorf("only %d requests were served", len(served))
	}
	for _, line := range served {
		rec, ok := results[line.RequestID]
		if !ok {
			r.t.Errorf("served and neither billed nor told: %+v", line)
			continue
		}
		r.compare(line, rec)
	}
}

// compare holds one record to what the stand-in says of the same request.
func (r *rig) compare(line standin.Line, rec usage.Record) {
	r.t.Helper()
	complete := line.Outcome == standin.OutcomeComplete
	wrong := ""
	switch {
	case strings.HasPrefix(line.Outcome, "error:") && rec.Row != usage.RowError:
		wrong = "an error was not told as one"
	case complete && rec.Row != usage.RowUsage:
		wrong = "a whole answer was not billed"
	case complete && !rec.Estimated && (rec.Meters[usage.Output] != uint64(line.Meters.Output) || rec.Meters[usage.Input] != uint64(line.Meters.Input)):
		wrong = "billed by other usage than was reported"
	case complete && rec.Estimated && rec.Status != usage.StatusClientGone:
		wrong = "estimated although usage was reported"
	case rec.Row == usage.RowUsage && (rec.Price == 0 || rec.Price > rec.Reserved):
		wrong = "billed nothing, or more than was reserved"
	case rec.Row == usage.RowLeakage && rec.Status == usage.StatusClientGone:
		wrong = "a client caused an unknown outcome"
	}
	if wrong != "" {
		r.t.Errorf("%s:\n%+v\n%+v", wrong, line, rec)
	}
}

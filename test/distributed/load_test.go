package distributed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	// triesMax and the pauses between tries are more patient than the official
	// clients' two retries, because a gateway may restart under a client twice.
	triesMax = 8
	pauseMin = 200 * time.Millisecond
	pauseMax = 2 * time.Second
	// thinkTime is a client's pause between two requests.
	thinkTime = 20 * time.Millisecond
)

// load is a number of clients that ask one request after the other, and come
// again as the official clients do, where gateways that stop, start or die give
// reason to: on a connection that is refused or breaks before the answer begins,
// and on 503 stopping. Each try goes to the next gateway.
type load struct {
	t        *testing.T
	gateways []*weir
	end      context.CancelFunc
	clients  sync.WaitGroup

	mu       sync.Mutex // guards the following
	answers  []answer   // the last try of each request, and tries before it that were answered
	refused  int        // tries that found nobody listening
	stopping int        // tries answered 503 stopping
	broken   int        // tries whose connection broke before an answer began
	cut      int        // answers that broke off
	failed   []answer   // requests that no try brought to an end
}

// startLoad begins to ask, with one client a key.
func startLoad(t *testing.T, keys []string, gateways ...*weir) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, gateways: gateways, end: cancel}
	for i, key := range keys {
		l.clients.Go(func() { l.client(ctx, uint64(i), key) })
	}
	t.Cleanup(l.stop)
	return l
}

// stop lets the requests under way end.
func (l *load) stop() {
	l.end()
	l.clients.Wait()
}

func (l *load) client(ctx context.Context, seed uint64, key string) {
	client := newClient()
	defer client.CloseIdleConnections()
	random := rand.New(rand.NewPCG(seed, 0))
	gateway := int(seed)
	for ctx.Err() == nil {
		q := anyRequest(random)
		for try := range triesMax {
			a := send(context.Background(), client, l.gateways[gateway%len(l.gateways)].data, key, q)
			if l.count(a, try == triesMax-1) {
				break
			}
			gateway++
			time.Sleep(min(pauseMin<<try, pauseMax))
		}
		time.Sleep(thinkTime)
	}
}

// answered are the kinds of the workload whose answers come whole.
var answered = []int{0, 2, 4, 5, 6, 7, 9}

// anyRequest is one of those kinds, or one whose answer takes a while.
func anyRequest(random *rand.Rand) request {
	if random.IntN(3) == 0 {
		return chat(50+random.IntN(300), 1+random.IntN(150), fmt.Sprintf("delay=%dms", random.IntN(300)))
	}
	q := workload(kinds)[answered[random.IntN(len(answered))]]
	q.tag = ""
	return q
}

// count sorts a try in, and tells whether its request has come to its end.
func (l *load) count(a answer, last bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case a.ok():
		l.answers = append(l.answers, a)
		return true
	case a.status == http.StatusOK:
		l.cut++
		return true // who has a part of the answer does not ask again
	case a.refused:
		l.refused++
	case a.status == 0:
		l.broken++
	case a.code == "stopping":
		l.stopping++
	default:
		l.failed = append(l.failed, a) // what nothing here explains
		return true
	}
	if last {
		l.failed = append(l.failed, a)
	}
	return false
}

// sofar is what has been counted.
func (l *load) sofar() (whole, broken, cut int, failed []answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.answers), l.broken, l.cut, slices.Clone(l.failed)
}

package processor

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
)

// wire passes connections on to a server until it is cut, and again once it is
// mended.
type wire struct {
	to string
	l  net.Listener

	mu    sync.Mutex // guards the following
	isCut bool
	conns map[net.Conn]bool
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &wire{to: to, l: l, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); c.cut(true) })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			c.join(from)
		}
	}()
	return c
}

func (c *wire) join(from net.Conn) {
	to, err := net.Dial("tcp", c.to)
	if err != nil {
		from.Close()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut {
		from.Close()
		to.Close()
		return
	}
	c.conns[from], c.conns[to] = true, true
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(way[1], way[0])
			way[0].Close()
			way[1].Close()
			c.mu.Lock()
			delete(c.conns, way[0])
			c.mu.Unlock()
		}()
	}
}

func (c *wire) cut(isCut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = isCut
	for conn := range c.conns {
		if isCut {
			conn.Close()
		}
	}
}

// TestLedgerAway: the ledger goes and comes while events are settled, also in
// the middle of a commit. Nothing is lost, nothing is done twice.
func TestLedgerAway(t *testing.T) {
	server := ledgertest.Postgres(t)
	t.Parallel()
	address := ledgertest.Database(t, server)
	w := newWorld(t, ledger.Config{URL: address})
	u, err := url.Parse(address)
	w.must(err)
	line := newWire(t, u.Host)
	u.Host = line.l.Addr().String()
	far := ledgertest.Open(t, ledger.Config{URL: u.String()})
	w.customer("acme", 1000*money.Dollar)
	l := w.lease("acme", 100*money.Dollar)
	w.produce()
	p := w.processor()
	p.window = time.Millisecond
	p.Ledger, p.appender.o.Ledger = far, far
	w.run(p)
	for round := range 6 {
		began := metric(p.Metrics.Settled)
		w.use(l, 300)
		w.until("settling is under way", func() bool { return metric(p.Metrics.Settled) > began })
		line.cut(true)
		w.use(l, 100)
		w.until("the log has it all", func() bool { return w.spools[0].Usage().UnackedRecords == 0 })
		line.cut(false)
		if round%2 == 0 {
			w.settled()
		}
	}
	w.closeLease(l)
	w.appended()
	w.tieOut()
}

package distributed

import (
	"io"
	"net"
	"sync"
	"testing"
)

// wire passes connections on to a server until it is cut: then those that are
// open break and new ones are refused, until it is mended.
type wire struct {
	t       *testing.T
	at, to  string
	serving sync.WaitGroup

	mu    sync.Mutex // guards the following
	l     net.Listener
	conns map[net.Conn]bool
}

func newWire(t *testing.T, at, to string) *wire {
	t.Helper()
	w := &wire{t: t, at: at, to: to, conns: map[net.Conn]bool{}}
	w.mend()
	t.Cleanup(w.cut)
	return w
}

func (w *wire) mend() {
	w.t.Helper()
	l, err := net.Listen("tcp", w.at)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.l = l
	w.mu.Unlock()
	w.serving.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			w.join(from)
		}
	})
}

func (w *wire) cut() {
	w.mu.Lock()
	if w.l != nil {
		w.l.Close()
		w.l = nil
	}
	for c := range w.conns {
		c.Close()
	}
	w.mu.Unlock()
	w.serving.Wait()
}

func (w *wire) join(from net.Conn) {
	to, err := net.Dial("tcp", w.to)
	if err != nil {
		from.Close()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.l == nil {
		from.Close()
		to.Close()
		return
	}
	w.conns[from], w.conns[to] = true, true
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		w.serving.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // ends when either side does
			way[0].Close()
			way[1].Close()
			w.mu.Lock()
			delete(w.conns, way[0])
			w.mu.Unlock()
		})
	}
}

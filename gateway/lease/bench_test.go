package lease

import (
	"context"
	"testing"

	"weir/schemas/money"
)

// BenchmarkRequest is what a warm wallet's request costs here: reserve, intent
// and result into the spool, which does not wait for the disk.
func BenchmarkRequest(b *testing.B) {
	w := newWorld(b, map[string]money.Nano{"acme": 1e6 * dollar})
	g := w.gate("gw")
	g.cfg.Spool = g.spool
	g.settleOne(g.reserve("acme", 1e5*dollar), "acme", 0)
	rec := usageOf("acme", 100) // with one request id: each intent's result follows before the next
	b.ReportAllocs()
	for b.Loop() {
		r, err := g.Reserve(context.Background(), "acme", 1000)
		if err == nil {
			err = g.Intend(r, rec)
		}
		if err == nil {
			rec = usageOf("acme", 100)
			_, err = g.Settle(r, rec)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReserve is the same without the spool.
func BenchmarkReserve(b *testing.B) {
	w := newWorld(b, map[string]money.Nano{"acme": 1e6 * dollar})
	g := w.gate("gw")
	g.settleOne(g.reserve("acme", 1e5*dollar), "acme", 0)
	b.ReportAllocs()
	for b.Loop() {
		r, err := g.Reserve(context.Background(), "acme", 1000)
		if err != nil {
			b.Fatal(err)
		}
		g.Void(r)
	}
}

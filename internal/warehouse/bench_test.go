package warehouse

import (
	"fmt"
	"testing"
)

func BenchmarkAppend(b *testing.B) {
	for _, rows := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("%d rows", rows), func(b *testing.B) {
			d := openEmbedded(b)
			recs := records(1, rows)
			n := 0
			for b.Loop() {
				n++
				append1(b, d, fmt.Sprintf("T/0/%d", n), recs)
			}
			b.ReportMetric(float64(rows*n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

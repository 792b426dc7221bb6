package processor

import (
	"database/sql"
	"path/filepath"
	"testing"

	"weir/internal/ledger"
	"weir/internal/warehouse/warehousetest"
	"weir/schemas/money"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }

// TestWarehouse: the real engine holds of every batch what its manifest says,
// by count, sums and hash, also of those that were appended twice: by a
// processor that could not say so before it died, and by the next one.
func TestWarehouse(t *testing.T) {
	real := warehousetest.Open(t)
	w := newWorld(t, sqlite(t))
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	w.produce()
	first := w.processor()
	first.appender.o.Warehouse = real
	stop := w.run(first)
	for range 3 {
		w.use(l, 500)
		w.appended()
	}
	w.closeLease(l)
	w.appended()
	stop()

	w.forgetAppends()
	second := w.processor()
	second.appender.o.Warehouse = real
	w.run(second)
	w.appended()
	if metric(second.Metrics.Appended) == 0 {
		t.Fatal("nothing was appended again")
	}
	manifests, err := w.db.ManifestSums(w.ctx)
	w.must(err)
	rows, err := real.BatchSums(w.ctx)
	w.must(err)
	if len(manifests) != len(rows) || len(rows) < 3 {
		t.Fatalf("%d manifests, %d batches of rows", len(manifests), len(rows))
	}
	for i, m := range manifests {
		if r := rows[i]; r.BatchID != m.ID || int64(r.Count) != m.Count || r.Cost != m.Cost || r.Price != m.Price || r.Hash != ledger.HashText(m.Hash) {
			t.Errorf("manifest %+v, rows %+v", m, r)
		}
	}
}

// forgetAppends makes the SQLite ledger one whose processor died before it
// could mark anything as appended.
func (w *world) forgetAppends() {
	w.Helper()
	db, err := sql.Open("sqlite", filepath.Join(w.config.Dir, ledger.FileName))
	w.must(err)
	defer db.Close()
	_, err = db.Exec("UPDATE manifest SET appended = FALSE WHERE events > 0")
	w.must(err)
}

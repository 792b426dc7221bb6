package analytics

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/warehouse/warehousetest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// exec changes the ledger behind its back.
func (b *world) exec(text string, args ...any) {
	b.Helper()
	db, err := sql.Open("sqlite", filepath.Join(b.dir, ledger.FileName))
	b.must(err)
	defer db.Close()
	_, err = db.Exec(text, args...)
	b.must(err)
}

// alter changes the warehouse behind the ledger's back.
func (b *world) alter(text string) {
	b.Helper()
	b.must(b.stores.Conn().Exec(b.ctx, text))
}

// put appends rows of a batch past the token that would drop them.
func (b *world) put(id string, recs []usage.Record) {
	b.Helper()
	b.puts++
	other := fmt.Sprint(id, "/put", b.puts)
	b.must(b.stores.Append(b.ctx, other, recs))
	b.alter("ALTER TABLE usage_events UPDATE batch_id = '" + id + "' WHERE batch_id = '" + other + "' SETTINGS mutations_sync = 1")
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// breaks are what a tie-out names: "check batch".
func (b *world) breaks() (list []string) {
	b.Helper()
	got := b.ask("/tieout")
	for _, one := range got["breaks"].([]any) {
		e := one.(map[string]any)
		if names(e) != sorted("batch check expected found") || e["expected"] == e["found"] {
			b.Errorf("break %v", e)
		}
		list = append(list, fmt.Sprint(e["check"], " ", e["batch"]))
	}
	if got["ok"] != (len(list) == 0) {
		b.Errorf("ok is %v with breaks %v", got["ok"], list)
	}
	slices.Sort(list)
	return list
}

// TestTieOut: the three books agree, and every change to one of them is found
// and named.
func TestTieOut(t *testing.T) {
	b := newWorld(t, warehousetest.Open(t))
	rng := rand.New(rand.NewPCG(7, 8))
	var ids []string
	for range 5 {
		ids = append(ids, b.settle(b.records(rng, 100)))
	}
	b.checkAgreement()

	recs := b.all[:100]
	first := "WHERE batch_id = '" + ids[0] + "'"
	b.plant("a row is gone from the warehouse", "clickhouse rows "+ids[0],
		func() {
			b.alter("DELETE FROM usage_events " + first + " AND event_id = " + quote(recs[3].EventID()))
		},
		func() {
			b.alter("DELETE FROM usage_events " + first)
			b.put(ids[0], recs)
		})
	b.plant("all rows of a batch are gone", "clickhouse rows "+ids[4],
		func() { b.alter("DELETE FROM usage_events WHERE batch_id = '" + ids[4] + "'") },
		func() { b.put(ids[4], b.all[400:]) })
	b.plant("a batch is there twice", "clickhouse hash "+ids[0],
		func() { b.put(ids[0], recs) },
		func() {
			b.alter("DELETE FROM usage_events " + first)
			b.put(ids[0], recs)
		})
	b.plant("a batch under another token", "clickhouse rows other/0/0",
		func() { b.must(b.stores.Append(b.ctx, "other/0/0", recs)) },
		func() { b.alter("DELETE FROM usage_events WHERE batch_id = 'other/0/0'") })
	pair := fmt.Sprintf("ALTER TABLE usage_events UPDATE price = price %%s if(event_id = %s, 1, -1) * toDecimal64('0.000000001', 9) %s AND event_id IN (%s, %s) SETTINGS mutations_sync = 1",
		quote(recs[3].EventID()), first, quote(recs[3].EventID()), quote(recs[4].EventID()))
	b.plant("a nano-dollar moved from one event to another", "clickhouse hash "+ids[0],
		func() { b.alter(fmt.Sprintf(pair, "+")) },
		func() { b.alter(fmt.Sprintf(pair, "-")) })
	b.plant("a posting is changed", "postings_sum_to_zero "+ids[1],
		func() {
			b.exec("UPDATE posting SET amount = amount + 1 WHERE txn = ? AND account = 'revenue:usage'", ids[1])
		},
		func() {
			b.exec("UPDATE posting SET amount = amount - 1 WHERE txn = ? AND account = 'revenue:usage'", ids[1])
		})
	b.plant("two postings are changed so that they still sum to zero", "batch_price "+ids[1],
		func() {
			b.exec("UPDATE posting SET amount = amount + CASE WHEN account = 'revenue:usage' THEN 5 ELSE -5 END WHERE txn = ? AND account IN ('revenue:usage', 'wallet:acme')", ids[1])
		},
		func() {
			b.exec("UPDATE posting SET amount = amount - CASE WHEN account = 'revenue:usage' THEN 5 ELSE -5 END WHERE txn = ? AND account IN ('revenue:usage', 'wallet:acme')", ids[1])
		})
	b.plant("a wallet is changed", "wallet_is_postings wallet:acme",
		func() { b.exec("UPDATE wallet SET debited = debited - 1 WHERE customer = 'acme'") },
		func() { b.exec("UPDATE wallet SET debited = debited + 1 WHERE customer = 'acme'") })
	b.plant("a manifest is gone", "batch_manifest "+ids[2],
		func() { b.exec("UPDATE manifest SET id = 'gone', topic = 'gone' WHERE id = ?", ids[2]) },
		func() { b.exec("UPDATE manifest SET id = ?, topic = ? WHERE id = 'gone'", ids[2], topic) })
	b.plant("a manifest says something else", "clickhouse cost "+ids[3],
		func() { b.exec("UPDATE manifest SET cost = cost + 1 WHERE id = ?", ids[3]) },
		func() { b.exec("UPDATE manifest SET cost = cost - 1 WHERE id = ?", ids[3]) })
	b.checkAgreement()
}

// plant makes a break, looks whether it is named, and mends it.
func (b *world) plant(what, want string, do, undo func()) {
	b.Helper()
	do()
	if list := b.breaks(); !slices.Contains(list, want) {
		b.Errorf("%s: %q, not %q", what, list, want)
	}
	undo()
	if list := b.breaks(); len(list) > 0 {
		b.Fatalf("%s is mended, but: %q", what, list)
	}
}

func (b *world) checkAgreement() {
	b.Helper()
	got := b.ask("/tieout?wait=10s")
	if n := names(got); n != sorted("ok pending events ledger clickhouse leases receivable leakage breaks") {
		b.Errorf("members %s", n)
	}
	var count, leaks int
	var cost, price, reserved money.Nano
	for _, r := range b.all {
		count++
		cost += r.Cost
		price += r.Price
		if r.Row.String() == "leakage" {
			leaks++
			reserved += r.Reserved
		}
	}
	sums := fmt.Sprintf("map[cost:%s count:%d price:%s]", cost, count, price)
	for name, want := range map[string]string{"ok": "true", "pending": "map[append:0 log:0 spool:0]", "events": sums, "ledger": sums, "clickhouse": sums,
		"leases": "map[held:0.00 open:0]", "receivable": "0.00", "leakage": fmt.Sprintf("map[count:%d reserved:%s]", leaks, reserved), "breaks": "[]"} {
		if fmt.Sprint(got[name]) != want {
			b.Errorf("%s is %v, not %s", name, got[name], want)
		}
	}
}

// TestWait: a tie-out waits for what is on its way, in the spools, in the log,
// before the warehouse and in flight; what still is when the wait ends is a
// break.
// TestTieOutForgives: what was settled longer ago than the warehouse keeps
// single events is not missed there.
func TestTieOutForgives(t *testing.T) {
	b := newWorld(t, warehousetest.Open(t))
	rng := rand.New(rand.NewPCG(9, 10))
	old, half, late := b.settle(b.records(rng, 20)), b.settle(b.records(rng, 20)), b.settle(b.records(rng, 20))
	b.alter("DELETE FROM usage_events WHERE batch_id IN ('" + old + "', '" + late + "')")
	b.alter("DELETE FROM usage_events WHERE batch_id = '" + half + "' AND event_id = " + quote(b.all[20].EventID()))
	kept := b.stores.KeptSince()
	b.exec("UPDATE manifest SET created_at = ? WHERE id IN (?, ?)", kept.Add(-time.Hour).UnixMicro(), old, half)
	b.exec("UPDATE manifest SET created_at = ? WHERE id = ?", kept.Add(time.Hour).UnixMicro(), late)
	if got := b.breaks(); !slices.Equal(got, []string{"clickhouse rows " + late}) {
		t.Errorf("breaks %v", got)
	}
}

func TestWait(t *testing.T) {
	b := newWorld(t, nil)
	b.settle(b.records(rand.New(rand.NewPCG(9, 9)), 10))
	_, err := b.db.StartSession(b.ctx, ledger.Session{ID: "s", Gateway: "g", TTL: time.Hour})
	b.must(err)
	beat := func(unacked, inFlight int64) {
		_, err := b.db.Beat(b.ctx, ledger.Beat{Session: "s", Unacked: unacked, InFlight: inFlight})
		b.must(err)
	}
	// expect asks while the gateway says the same again and again.
	expect := func(path string, unacked, inFlight int64, pending string, want ...string) {
		t.Helper()
		answered := make(chan map[string]any)
		go func() { answered <- b.ask(path) }()
		var got map[string]any
		for got == nil {
			beat(unacked, inFlight)
			select {
			case got = <-answered:
			case <-time.After(20 * time.Millisecond):
			}
		}
		var list []string
		for _, one := range got["breaks"].([]any) {
			list = append(list, fmt.Sprint(one.(map[string]any)["check"]))
		}
		if fmt.Sprint(got["pending"]) != pending || !slices.Equal(list, want) || got["clickhouse"] != nil || got["ok"] != (len(want) == 0) {
			t.Errorf("%s with %d unacked, %d in flight: pending %v, breaks %q", path, unacked, inFlight, got["pending"], list)
		}
	}
	beat(3, 0)
	expect("/tieout", 3, 0, "map[append:0 log:0 spool:3]")
	expect("/tieout?wait=300ms", 3, 0, "map[append:0 log:0 spool:3]", "pending")
	expect("/tieout?wait=300ms", 0, 1, "map[append:0 log:0 spool:0]", "pending")
	b.ends[0] += 2
	expect("/tieout?wait=300ms", 0, 0, "map[append:0 log:2 spool:0]", "pending")
	b.ends[0] -= 2
	expect("/tieout?wait=30s", 0, 0, "map[append:0 log:0 spool:0]")
	// A beat from before the question says nothing about what came after it.
	if got := b.ask("/tieout?wait=300ms"); got["ok"] != false || len(got["breaks"].([]any)) != 1 {
		t.Errorf("an old beat was believed: %v", got)
	}
}

// TestWithoutWarehouse: reports say in a sentence why they cannot be made; the
// tie-out compares what there is, and misses a warehouse that there should be.
func TestWithoutWarehouse(t *testing.T) {
	b := newWorld(t, nil)
	b.settle(b.records(rand.New(rand.NewPCG(9, 9)), 10))
	for _, path := range []string{"/reports/margin", "/reports/usage", "/reports/leakage", "/events"} {
		status, answer := b.get(path)
		e, _ := answer["error"].(map[string]any)
		if status != http.StatusServiceUnavailable || e["code"] != "warehouse_unavailable" || !strings.Contains(fmt.Sprint(e["message"]), "clickhouse.url: none") {
			t.Errorf("%s: %d %v", path, status, answer)
		}
	}
	if _, err := b.a.Generation(b.ctx, "acme", "r"); err == nil || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("an event that cannot be looked up: %v", err)
	}
	if got := b.ask("/tieout"); got["ok"] != true || got["clickhouse"] != nil || fmt.Sprint(got["pending"]) != "map[append:0 log:0 spool:0]" {
		t.Errorf("%v", got)
	}
	b.a.WhyNot = "Reports are off: there is no library."
	if list := b.breaks(); len(list) != 1 || !strings.HasPrefix(list[0], "clickhouse") {
		t.Errorf("%q", list)
	}
	_, answer := b.get("/reports/margin")
	if !strings.Contains(fmt.Sprint(answer), b.a.WhyNot) {
		t.Errorf("%v", answer)
	}
	b.a.LogEnds = func(context.Context) (string, map[int32]int64, error) {
		return "", nil, errors.New("secret address of the log")
	}
	if status, answer := b.get("/tieout"); status != http.StatusServiceUnavailable || strings.Contains(fmt.Sprint(answer), "secret") {
		t.Errorf("%d %v", status, answer)
	}
}

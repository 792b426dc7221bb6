package gateway

import (
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/schemas/usage"
)

// TestSessionRestart: a gateway whose session the ledger has ended begins
// another, closes the leases of the old one, and serves on.
func TestSessionRestart(t *testing.T) {
	r := newRig(t)
	if a := r.chat("in=20 out=10", `"max_tokens":50`); a.status != 200 {
		t.Fatal(a)
	}
	must(t, r.Ledger.EndSession(t.Context(), "session"))
	must(t, r.heart.Beat(t.Context()))
	if r.heart.Session() == "session" {
		t.Fatal("no new session")
	}
	must(t, r.heart.Beat(t.Context()))
	if closes := r.records(usage.KindClose); len(closes) != 1 || closes[0].Count != 1 {
		t.Errorf("%+v", closes)
	}
	if a := r.chat("in=20 out=10", `"max_tokens":50`); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestSuperseded: a newer process on the same data directory ends this one.
func TestSuperseded(t *testing.T) {
	r := newRig(t)
	_, err := r.Ledger.StartSession(t.Context(), ledger.Session{ID: "newer", Gateway: "gw", TTL: time.Minute})
	must(t, err)
	if err := r.heart.Run(t.Context()); err == nil {
		t.Error("the heart beats on")
	}
}

// TestNoNewLeases: what the ledger says of the log and the warehouse stops new
// leases, not the open ones.
func TestNoNewLeases(t *testing.T) {
	r := newRig(t)
	if a := r.chat("in=20 out=10", `"max_tokens":1000`); a.status != 200 {
		t.Fatal(a)
	}
	must(t, r.Ledger.SetNoNewLeases(t.Context(), "the log is nearly full"))
	must(t, r.heart.Beat(t.Context()))
	if a := r.chat("in=20 out=10", `"max_tokens":10`); a.status != 200 {
		t.Errorf("an open lease: %d %s", a.status, a.body)
	}
	r.key = r.customer("later", 1e9)
	r.refused(r.chat("in=20 out=10", `"max_tokens":10`), 503, "spool_full")
}

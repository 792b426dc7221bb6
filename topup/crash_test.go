package topup

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/topup/stripefake"
)

// drama is what happens to a wallet while processes die: begin sets it up, act
// is what the outside does, again and again until it has worked.
type drama struct {
	begin   func(r *rig)
	act     func(r *rig)
	charges int
	besides money.Nano
	refunds int
}

var dramas = map[string]drama{
	"checkout": {begin: func(*rig) {}, act: func(r *rig) {
		row, err := r.checkout("k")
		if err != nil {
			return // who asked gets an error, and asks again
		}
		r.fake.Pay(row.Session, visa)
	}, charges: 1, besides: 2 * dollar},
	"auto": {begin: func(r *rig) {
		r.bought("k")
		r.auto(ledger.AutoTopup{Threshold: 20 * dollar, Amount: 15 * dollar})
	}, act: func(*rig) {}, charges: 2, besides: 2 * dollar},
	"declined": {begin: func(r *rig) { r.declines("pm_card_chargeDeclined") }, act: func(*rig) {}, charges: 1, besides: 2 * dollar},
	"authentication": {begin: func(r *rig) { r.declines("pm_card_authenticationRequired") }, act: func(r *rig) {
		for _, row := range r.topups(ledger.TopupAuto) {
			if row.State == ledger.TopupAction {
				r.fake.Pay(row.Session, visa)
			}
		}
	}, charges: 2, besides: 2 * dollar},
	"refund": {begin: func(r *rig) {
		row := r.bought("k")
		r.must(r.refund("ref_1", row.ID, 5*dollar))
	}, act: func(*rig) {}, charges: 1, besides: dollar, refunds: 1},
}

// end lets a process that nothing happens to go on until all is quiet.
func (d drama) end(r *rig) {
	r.Helper()
	for range 3 {
		d.act(r)
		r.must(r.top.Poll(r.ctx)) // as every process does when it starts
		r.later(time.Minute)
	}
}

// play runs a drama with a fault at the first process' n-th step, and audits it
// when another process has brought all to an end. It tells whether the first
// came that far.
func (d drama) play(t *testing.T, n int, f fate) (reached bool) {
	r := newRig(t)
	d.begin(r)
	r.gate.arm(n, f)
	for range 3 {
		d.act(r)
		r.fake.Flush()
		r.top.Step(r.ctx)
		if reached = r.gate.wasHit(); reached && f == dies {
			break
		}
	}
	r.restart()
	d.end(r)
	if list := r.topups(ledger.TopupAuto); len(list) > 1 {
		t.Errorf("%d automatic top-ups: %+v", len(list), list)
	}
	if n := len(r.fake.Log().Refunds); n != d.refunds {
		t.Errorf("%d refunds, want %d", n, d.refunds)
	}
	r.charges(d.charges)
	r.audit(d.besides)
	return reached
}

// TestCrashBetweenAnyTwoSteps ends the process at every request to Stripe and at
// every transaction in turn, and lets another go on; or it lets the answer of
// every single one be lost, with the same process going on.
func TestCrashBetweenAnyTwoSteps(t *testing.T) {
	var runs atomic.Int64
	t.Run("all", func(t *testing.T) {
		for name, d := range dramas {
			for f, when := range map[fate]string{dies: "dies", loses: "loses"} {
				t.Run(name+" "+when, func(t *testing.T) {
					t.Parallel()
					for n := 1; ; n++ {
						reached := false
						if !t.Run(fmt.Sprint("step ", n), func(t *testing.T) { reached = d.play(t, n, f) }) {
							t.FailNow()
						}
						runs.Add(1)
						if !reached {
							return
						}
					}
				})
			}
		}
	})
	t.Logf("%d faults", runs.Load())
	if runs.Load() < 100 {
		t.Errorf("only %d faults: the steps are not counted", runs.Load())
	}
}

// TestStripeAtItsWorst: again and again an answer is lost, kept as a failure
// under its key, or not given.
func TestStripeAtItsWorst(t *testing.T) {
	for name, d := range dramas {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, fault := range []stripefake.Fault{{After: true}, {After: true, Status: 500}, {Status: 503}} {
				r := newRig(t)
				d.begin(r)
				for range 4 {
					fault.Count = 1
					r.fake.Inject(fault)
					d.act(r)
					r.settle()
				}
				r.fake.ClearFaults()
				d.end(r)
				r.charges(d.charges)
				r.audit(d.besides)
			}
		})
	}
}

func TestGateBites(t *testing.T) {
	r := newRig(t)
	r.gate.arm(2, dies)
	_, err := r.checkout("k")
	if err == nil || !r.gate.wasHit() {
		t.Fatalf("the second step did not end the process: %v", err)
	}
	if _, err := r.checkout("k"); !errors.Is(err, errFault) {
		t.Errorf("an ended process goes on: %v", err)
	}
}

package notify_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/internal/notify"
)

// TestDelivery: an event comes once, in the documented form, and a receiver
// with the endpoint's secret, and no other, verifies it with the library.
func TestDelivery(t *testing.T) {
	each(t, func(r *rig) {
		all, some := r.receiver(nil), r.receiver(status(204))
		r.add("all", all.URL)
		r.add("some", some.URL, ledger.EventDepleted, ledger.EventRecovered)
		r.emit(ledger.EventCredited, "evt_1")
		r.emit(ledger.EventRecovered, "evt_2")
		n := r.notifier()
		r.must(n.Step(r.Context()))
		r.must(n.Step(r.Context()))
		if ids := all.ids(); !slices.Equal(ids, []string{"evt_1", "evt_2"}) {
			r.Fatalf("sent %v", ids)
		}
		if ids := some.ids(); !slices.Equal(ids, []string{"evt_2"}) {
			r.Fatalf("sent %v", ids)
		}
		r.expect("all", "evt_1", ledger.DeliveryDone, 1, 200, "")
		r.expect("some", "evt_2", ledger.DeliveryDone, 1, 204, "")

		first := all.all()[0]
		want := `{"type":"wallet.credited","timestamp":"` + r.clock().Format(time.RFC3339) +
			`","customer":"acme","data":{"customer":"acme","balance":"0.00","available":"0.00","receivable":"0.00"}}`
		if string(first.body) != want || first.header.Get("Content-Type") != "application/json" || first.header.Get("User-Agent") != "weir" {
			r.Errorf("sent %s with %v", first.body, first.header)
		}
		for id, secret := range r.secrets {
			wh, err := standardwebhooks.NewWebhook(secret)
			r.must(err)
			if err := wh.Verify(first.body, first.header); (err == nil) != (id == "all") {
				r.Errorf("with the secret of %s: %v", id, err)
			}
		}
	})
}

// schedule is the example of the Standard Webhooks specification: the time
// since the start at which each try follows one that failed.
var schedule = []string{"0s", "5s", "5m5s", "35m5s", "2h35m5s", "7h35m5s", "17h35m5s", "31h35m5s", "51h35m5s", "75h35m5s"}

// TestRetries: a receiver that fails is tried ten times with growing pauses,
// each a little longer at random, with the same id and body under a new
// timestamp; then the event is given up.
func TestRetries(t *testing.T) {
	each(t, func(r *rig) {
		bad := r.receiver(status(500))
		r.add("bad", bad.URL)
		r.emit(ledger.EventDepleted, "evt_1")
		n := r.notifier()
		wh, err := standardwebhooks.NewWebhook(r.secrets["bad"])
		r.must(err)
		var before time.Duration
		for i, text := range schedule {
			since, err := time.ParseDuration(text)
			r.must(err)
			if i > 0 {
				pause, due := since-before, r.delivery("bad", "evt_1").NextTryAt
				if wait := due.Sub(r.clock()); wait < pause || wait > pause+pause/10 {
					r.Fatalf("try %d is %s after the one before, want %s and up to a tenth more", i+1, wait, pause)
				}
				r.to(due.Add(-time.Millisecond))
				r.must(n.Step(r.Context()))
				r.to(due)
			}
			before = since
			r.must(n.Step(r.Context()))
			tried := bad.all()
			if len(tried) != i+1 {
				r.Fatalf("%d tries at %s", len(tried), text)
			}
			last := tried[i]
			if last.id() != "evt_1" || string(last.body) != string(tried[0].body) || last.header.Get("webhook-timestamp") != strconv.FormatInt(r.clock().Unix(), 10) {
				r.Errorf("try %d: %s with %v", i+1, last.body, last.header)
			}
			if err := wh.VerifyIgnoringTimestamp(last.body, last.header); err != nil {
				r.Error(err)
			}
		}
		r.expect("bad", "evt_1", ledger.DeliveryFailed, len(schedule), 500, "it answered 500")
		r.pass(365 * 24 * time.Hour)
		r.must(n.Step(r.Context()))
		if len(bad.all()) != len(schedule) {
			r.Error("tried again after it was given up")
		}
	})
}

// TestRecovery: a receiver that comes back gets what it missed.
func TestRecovery(t *testing.T) {
	r := onFile(t)
	broken := true
	p := r.receiver(func(w http.ResponseWriter, _ *http.Request) {
		if broken {
			w.WriteHeader(503)
		}
	})
	r.add("p", p.URL)
	r.emit(ledger.EventCredited, "evt_1")
	n := r.notifier()
	r.must(n.Step(r.Context()))
	r.expect("p", "evt_1", ledger.DeliveryPending, 1, 503, "it answered 503")
	broken = false
	r.emit(ledger.EventCredited, "evt_2") // does not wait for the one before
	r.pass(time.Second)
	r.must(n.Step(r.Context()))
	r.expect("p", "evt_2", ledger.DeliveryDone, 1, 200, "")
	r.pass(6 * time.Second)
	r.must(n.Step(r.Context()))
	r.expect("p", "evt_1", ledger.DeliveryDone, 2, 200, "")
}

// TestDeadReceiver: one that is dead for ten minutes is tried after pauses of
// up to a minute, however much waits for it; when it is back, all that was not
// tried comes at once, and the rest when its own pause is over.
func TestDeadReceiver(t *testing.T) {
	r := onFile(t)
	dead := true
	p := r.receiver(func(w http.ResponseWriter, _ *http.Request) {
		if dead {
			w.WriteHeader(503)
		}
	})
	r.add("p", p.URL)
	var ids []string
	for i := range 60 {
		ids = append(ids, fmt.Sprintf("evt_%02d", i))
	}
	r.emit(ledger.EventCredited, ids...)
	n, start := r.notifier(), r.clock()
	var tries []time.Duration
	for ; r.clock().Sub(start) <= 10*time.Minute; r.pass(time.Second) {
		r.must(n.Step(t.Context()))
		if len(p.all()) > len(tries) {
			tries = append(tries, r.clock().Sub(start)/time.Second)
		}
	}
	if want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363, 423, 483, 543}; !slices.Equal(tries, want) || len(p.all()) != len(want) {
		t.Errorf("tried at the seconds %d, %d times, want %d", tries, len(p.all()), want)
	}
	tried := len(p.all())
	dead = false
	r.pass(time.Minute)
	r.must(n.Step(t.Context()))
	if n := len(p.all()) - tried; n < len(ids)-tried {
		t.Errorf("%d came at once", n)
	}
	r.pass(time.Hour)
	r.must(n.Step(t.Context()))
	for _, id := range ids {
		if d := r.delivery("p", id); d.State != ledger.DeliveryDone {
			t.Errorf("%+v", d)
		}
	}
}

// TestGone: 410 ends an endpoint; nothing is sent to it and nothing queued for
// it any more, and others are served as before.
func TestGone(t *testing.T) {
	r := onFile(t)
	gone, there := r.receiver(status(410)), r.receiver(nil)
	r.add("gone", gone.URL)
	r.add("there", there.URL)
	r.emit(ledger.EventCredited, "evt_1", "evt_2")
	n := r.notifier()
	for range 3 {
		r.must(n.Step(r.Context()))
		r.emit(ledger.EventCredited, "evt_3")
		r.pass(time.Hour)
	}
	if len(gone.all()) != 1 || len(there.all()) != 3 {
		t.Errorf("sent %v and %v", gone.ids(), there.ids())
	}
	r.expect("gone", gone.ids()[0], ledger.DeliveryFailed, 1, 410, "it answered 410")
	if e, err := r.db.Endpoint(t.Context(), "gone"); err != nil || e.DisabledAt.IsZero() {
		t.Errorf("endpoint %+v, %v", e, err)
	}
	if list, _, err := r.db.Deliveries(t.Context(), "gone", ledger.Page{}); err != nil || len(list) != 2 {
		t.Errorf("queued %+v, %v", list, err)
	}
}

// TestReplay: an operator can have told, given up and earlier events sent
// again, under their own ids.
func TestReplay(t *testing.T) {
	r := onFile(t)
	r.emit(ledger.EventCredited, "evt_before")
	answer := 200
	p := r.receiver(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(answer) })
	r.pass(time.Second)
	r.add("p", p.URL)
	r.emit(ledger.EventCredited, "evt_told")
	n := r.notifier()
	r.must(n.Step(r.Context()))
	answer = 500
	r.emit(ledger.EventDepleted, "evt_lost")
	for range schedule {
		r.pass(48 * time.Hour)
		r.must(n.Step(r.Context()))
	}
	r.expect("p", "evt_lost", ledger.DeliveryFailed, len(schedule), 500, "it answered 500")
	answer = 200
	r.pass(time.Minute)
	before := len(p.all())
	r.tx(func(ctx context.Context, tx *ledger.Tx) error {
		count, err := tx.Replay(ctx, "p", "", r.clock().Add(-365*24*time.Hour), r.clock())
		if count != 3 {
			t.Errorf("%d replayed", count)
		}
		return err
	})
	r.must(n.Step(r.Context()))
	again := p.ids()[before:]
	if slices.Sort(again); !slices.Equal(again, []string{"evt_before", "evt_lost", "evt_told"}) {
		t.Errorf("sent again: %v", again)
	}
	r.expect("p", "evt_lost", ledger.DeliveryDone, 1, 200, "")
}

// TestRestart: a worker that ends while a receiver has a delivery leaves it to
// the next one, which sends it again under the same id, once the first one's
// claim has ended.
func TestRestart(t *testing.T) {
	each(t, func(r *rig) {
		first := make(chan struct{})
		var hang sync.Once
		p := r.receiver(func(_ http.ResponseWriter, req *http.Request) {
			hang.Do(func() {
				close(first)
				<-req.Context().Done()
			})
		})
		r.add("p", p.URL)
		r.emit(ledger.EventCredited, "evt_1")
		ctx, stop := context.WithCancel(r.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.notifier().Run(ctx)
		}()
		<-first
		stop()
		<-done
		r.expect("p", "evt_1", ledger.DeliveryPending, 0, 0, "")

		next := r.over(ledgertest.Open(r.T, r.config), true)
		r.pass(20 * time.Second) // 15 for the receiver and 5 for the ledger
		r.must(next.Step(r.Context()))
		if len(p.all()) != 1 {
			r.Error("sent again while the first worker may still be sending")
		}
		r.pass(11 * time.Second)
		r.must(next.Step(r.Context()))
		if ids := p.ids(); !slices.Equal(ids, []string{"evt_1", "evt_1"}) {
			r.Errorf("sent %v", ids)
		}
		r.expect("p", "evt_1", ledger.DeliveryDone, 1, 200, "")
	})
}

// TestWorkersShare: of two workers on one ledger, one sends each event.
func TestWorkersShare(t *testing.T) {
	each(t, func(r *rig) {
		p := r.receiver(nil)
		r.add("p", p.URL)
		var ids []string
		for i := range 60 {
			ids = append(ids, fmt.Sprintf("evt_%02d", i))
		}
		r.emit(ledger.EventCredited, ids...)
		var both sync.WaitGroup
		for _, db := range []*ledger.DB{r.db, ledgertest.Open(r.T, r.config)} {
			n := r.over(db, true)
			both.Go(func() {
				for !r.Failed() && len(p.all()) < len(ids) { // a lost race for a claim ends a turn
					if err := n.Step(r.Context()); err != nil {
						r.Error(err)
					}
				}
			})
		}
		both.Wait()
		sent := p.ids()
		if slices.Sort(sent); !slices.Equal(sent, ids) {
			r.Errorf("sent %v", sent)
		}
	})
}

// TestDeadBesideLive: as many dead endpoints as there can be keep nothing from
// a live one.
func TestDeadBesideLive(t *testing.T) {
	r := onFile(t)
	release := make(chan struct{})
	dead := r.receiver(func(http.ResponseWriter, *http.Request) { <-release })
	live := r.receiver(nil)
	for i := range notify.EndpointsMax - 1 {
		r.add(fmt.Sprintf("dead-%02d", i), dead.URL)
	}
	r.add("live", live.URL)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.notifier().Run(ctx) })
	defer running.Wait()
	defer stop()
	defer close(release) // before the server closes, which waits for its handlers
	r.emit(ledger.EventCredited, "evt_1")
	within(t, "all dead endpoints hang", func() bool { return len(dead.all()) == notify.EndpointsMax-1 })
	r.emit(ledger.EventCredited, "evt_2")
	within(t, "the live one has both", func() bool { return len(live.all()) == 2 })
	if len(dead.all()) != notify.EndpointsMax-1 {
		t.Errorf("%d requests to dead endpoints that are still busy", len(dead.all()))
	}
}

// TestRemoved: what waited for an endpoint goes with it.
func TestRemoved(t *testing.T) {
	r := onFile(t)
	p := r.receiver(nil)
	r.add("p", p.URL)
	r.emit(ledger.EventCredited, "evt_1")
	r.tx(func(ctx context.Context, tx *ledger.Tx) error { return tx.RemoveEndpoint(ctx, "p") })
	r.must(r.notifier().Step(t.Context()))
	if len(p.all()) != 0 {
		t.Errorf("sent %v", p.ids())
	}
}

// TestLedgerAway: a ledger that is away is told in the log, and what was due is
// delivered when it is back.
func TestLedgerAway(t *testing.T) {
	r := onFile(t)
	p := r.receiver(nil)
	r.add("p", p.URL)
	r.emit(ledger.EventCredited, "evt_1")
	away := ledgertest.Open(t, r.config)
	r.must(away.Close())
	if err := r.over(away, true).Step(t.Context()); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a closed ledger: %v", err)
	}
	r.must(r.notifier().Step(t.Context()))
	if ids := p.ids(); !slices.Equal(ids, []string{"evt_1"}) {
		t.Errorf("sent %v", ids)
	}
}

// TestSealer: a secret opens under its own URL and pepper only, lies nowhere
// in clear, and a pepper that changed is told as the reason.
func TestSealer(t *testing.T) {
	r := onFile(t)
	p := r.receiver(nil)
	r.add("p", p.URL)
	e, err := r.db.Endpoint(t.Context(), "p")
	r.must(err)
	if secret, err := r.sealer.Open(e.Secret, p.URL+hush); err != nil || secret != r.secrets["p"] {
		t.Errorf("opened %q, %v", secret, err)
	}
	for _, sealed := range [][]byte{nil, e.Secret[:5], e.Secret[:len(e.Secret)-1], append([]byte{1}, e.Secret...)} {
		if secret, err := r.sealer.Open(sealed, p.URL+hush); err == nil {
			t.Errorf("opened %q", secret)
		}
	}
	if secret, err := r.sealer.Open(e.Secret, "https://other.example/"); err == nil {
		t.Errorf("opened %q for another URL", secret)
	}
	if r.sealer, err = notify.NewSealer([]byte("another pepper")); err != nil {
		t.Fatal(err)
	}
	r.emit(ledger.EventCredited, "evt_1")
	r.must(r.notifier().Step(t.Context()))
	r.expect("p", "evt_1", ledger.DeliveryPending, 1, 0, "keys.pepper")
	if len(p.all()) != 0 {
		t.Error("sent without a signature")
	}
	if a, b := notify.NewSecret(), notify.NewSecret(); a == b || len(a) != len("whsec_")+44 || !strings.HasPrefix(a, "whsec_") {
		t.Errorf("secrets %s, %s", a, b)
	}
}

package topup

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/topup/stripefake"
)

const (
	apiKey        = "sk_test_rig"
	webhookSecret = "whsec_rig"
	visa          = "4242424242424242"
	dollar        = money.Dollar
	settleRounds  = 60
)

// rig is an installation with one customer, acme, before a Stripe of its own.
// Its clock stands still but for advance. Webhooks are held back until a test
// delivers them.
type rig struct {
	*testing.T
	ctx   context.Context
	clock *clock
	db    *ledger.DB
	fake  *stripefake.Server
	gate  *gate
	top   *Topup
	log   *lines
	hook  *httptest.Server
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// lines is a log that a test can read.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// fate is what becomes of one step: a request to Stripe, or a transaction.
type fate int

const (
	passes fate = iota
	dies        // the process ends before the step
	loses       // the step is done, and the process, which goes on, is told of an error
)

var errFault = errors.New("a fault of the test")

// gate stands between a process and what is outside of it, and makes one fault
// at its n-th step. Nothing gets through after the process has ended.
type gate struct {
	http.Handler
	mu    sync.Mutex
	steps int
	at    int // the step of the fault; 0 is none
	fate  fate
	hit   bool               // the fault was made
	kill  context.CancelFunc // of what the process is waiting for
}

func (g *gate) step() fate {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.steps++; {
	case g.hit && g.fate == dies:
		return dies
	case g.steps != g.at:
		return passes
	}
	if g.hit = true; g.fate == dies {
		g.kill()
	}
	return g.fate
}

// arm makes a fault at the n-th step from now.
func (g *gate) arm(n int, f fate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.steps, g.at, g.fate, g.hit = 0, n, f, false
}

func (g *gate) wasHit() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hit
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := g.step()
	switch f {
	case passes:
		g.Handler.ServeHTTP(w, r)
		return
	case loses:
		g.Handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	w.Header().Set("Content-Length", "9") // cut off amid the answer: the client does not ask again by itself
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func newRig(t *testing.T) *rig {
	return newRigOn(t, ledger.Config{Dir: quickDir(t)})
}

// quickDir is a directory in memory, where there is one: what ends here are
// processes, not machines, and a sync of a disk is what would take the time.
func quickDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "topup")
	if err != nil {
		return fresh(t, t.TempDir())
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return fresh(t, dir)
}

// emptyLedger holds a new ledger, which to make takes longer than most tests.
var emptyLedger = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "topup")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	db, err := ledger.Open(context.Background(), ledger.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, ledger.FileName))
	return map[string][]byte{ledger.FileName: text}, err
})

// fresh puts an empty ledger into a directory.
func fresh(t *testing.T, dir string) string {
	t.Helper()
	files, err := emptyLedger()
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func newRigOn(t *testing.T, c ledger.Config) *rig {
	t.Helper()
	r := &rig{T: t, clock: &clock{at: time.Now().UTC().Truncate(time.Second)}, log: &lines{}}
	c.Now = r.clock.now
	var err error
	if r.db, err = ledger.Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.db.Close() })
	r.fake = stripefake.New(stripefake.Options{Secret: apiKey, WebhookSecret: webhookSecret, Seed: 7, Now: r.clock.now})
	r.fake.Hold()
	t.Cleanup(func() { r.fake.Close() })
	r.gate = &gate{Handler: r.fake}
	r.ctx, r.gate.kill = context.WithCancel(t.Context())
	stripe := httptest.NewUnstartedServer(r.gate)
	stripe.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	stripe.Start()
	t.Cleanup(stripe.Close)
	r.hook = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.top.Webhook().ServeHTTP(w, req) }))
	t.Cleanup(r.hook.Close)
	r.fake.SetWebhook(r.hook.URL, webhookSecret, "")
	r.top = r.process(stripe.URL)
	r.write(func(tx *ledger.Tx) error { _, err := tx.CreateCustomer(r.ctx, ledger.Customer{ID: "acme"}); return err })
	return r
}

// process is a Topup as a new process makes it.
func (r *rig) process(stripe string) *Topup {
	r.Helper()
	top, err := New(r.ctx, Options{Ledger: r.db, SecretKey: apiKey, WebhookSecrets: []string{webhookSecret}, APIBase: stripe, Now: r.clock.now,
		ReturnURL: "https://platform.example/{customer}", Log: slog.New(slog.NewTextHandler(r.log, nil)), Registry: prometheus.NewRegistry()})
	if err != nil {
		r.Fatal(err)
	}
	top.stripe = newClient(apiKey, stripe, 0) // to repeat at once costs half a second, and hides answers that are lost
	top.tx = func(ctx context.Context, fn func(*ledger.Tx) error) error {
		switch r.gate.step() {
		case dies:
			return errFault
		case loses:
			return errors.Join(r.db.Tx(ctx, fn), errFault)
		}
		return r.db.Tx(ctx, fn)
	}
	return top
}

// restart is a new process on the same ledger.
func (r *rig) restart() {
	r.ctx, r.gate.kill = context.WithCancel(r.Context())
	r.gate.arm(0, passes)
	r.top = r.process(r.top.APIBase)
}

func (r *rig) write(fn func(*ledger.Tx) error) {
	r.Helper()
	if err := r.db.Tx(r.ctx, fn); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// buy opens a page for $10 and a bonus of $2, and saves the card.
func (r *rig) buy(key string) ledger.Topup {
	r.Helper()
	row, err := r.checkout(key)
	r.must(err)
	return row
}

func (r *rig) checkout(key string) (ledger.Topup, error) {
	row, _, err := r.top.Checkout(r.ctx, PurchaseID("acme", key), Purchase{Customer: "acme", Amount: 10 * dollar, Bonus: 2 * dollar,
		Pages: Pages{"https://platform.example/ok", "https://platform.example/no"}, SaveCard: true})
	return row, err
}

func (r *rig) pay(row ledger.Topup, card string) string {
	r.Helper()
	status, err := r.fake.Pay(row.Session, card)
	r.must(err)
	return status
}

// bought is a purchase that is paid and credited: $12 are in the wallet.
func (r *rig) bought(key string) ledger.Topup {
	r.Helper()
	row := r.buy(key)
	r.pay(row, visa)
	r.settle()
	return r.topup(row.ID)
}

// settle delivers what Stripe has to tell and works, as time goes by, until
// nothing is left to do.
func (r *rig) settle() {
	r.Helper()
	for range settleRounds {
		r.fake.Flush()
		err := r.top.Step(r.ctx)
		waiting, _, inbox := r.db.StripeInbox(r.ctx)
		r.must(inbox)
		if err == nil && waiting == 0 && len(r.fake.Pending()) == 0 {
			return
		}
		r.clock.advance(31 * time.Second)
	}
	events, _ := r.db.StripeEvents(r.ctx, workMax)
	r.Fatalf("not quiet after %d rounds: %v; inbox %+v; held %+v", settleRounds, r.top.Step(r.ctx), events, r.fake.Pending())
}

// later settles after a while.
func (r *rig) later(d time.Duration) {
	r.Helper()
	r.clock.advance(d)
	r.settle()
}

func (r *rig) auto(a ledger.AutoTopup) {
	r.Helper()
	a.Customer, a.Enabled = "acme", true
	r.write(func(tx *ledger.Tx) error { return tx.SetAutoTopup(r.ctx, a) })
}

func (r *rig) spend(amount money.Nano) {
	r.Helper()
	r.write(func(tx *ledger.Tx) error {
		_, _, err := tx.Debit(r.ctx, ledger.Debit{Customer: "acme", Amount: amount})
		return err
	})
}

func (r *rig) refund(id, topup string, amount money.Nano) error {
	return r.db.Tx(r.ctx, func(tx *ledger.Tx) error {
		_, _, err := tx.CreateRefund(r.ctx, ledger.Refund{ID: id, Topup: topup, Amount: amount})
		return err
	})
}

func (r *rig) topup(id string) ledger.Topup {
	r.Helper()
	row, err := r.db.Topup(r.ctx, id)
	r.must(err)
	return row
}

func (r *rig) topups(kind string) (list []ledger.Topup) {
	r.Helper()
	all, _, err := r.db.Topups(r.ctx, "acme", ledger.Page{})
	r.must(err)
	for _, row := range all {
		if row.Kind == kind {
			list = append(list, row)
		}
	}
	return list
}

// latest is the newest automatic top-up, which must be there.
func (r *rig) latest() ledger.Topup {
	r.Helper()
	list := r.topups(ledger.TopupAuto)
	if len(list) == 0 {
		r.Fatal("no automatic top-up")
	}
	return list[0]
}

func (r *rig) state(row ledger.Topup, state, reason string) ledger.Topup {
	r.Helper()
	now := r.topup(row.ID)
	if now.State != state || now.Reason != reason {
		r.Fatalf("top-up is %s %q, want %s %q; log:\n%s", now.State, now.Reason, state, reason, r.log)
	}
	return now
}

func (r *rig) autoNow() ledger.AutoTopup {
	r.Helper()
	a, err := r.db.AutoTopup(r.ctx, "acme")
	r.must(err)
	return a
}

// audit holds the wallet to what Stripe says it has taken and given back, and
// to what the test says came and went besides (bonuses less what was spent):
// no nano-dollar may be missing or too much, no payment may be taken twice.
func (r *rig) audit(besides money.Nano) {
	r.Helper()
	want := besides
	made := map[string]int{}
	for _, c := range r.fake.Log().Charges {
		want += nano(c.Amount - c.Refunded)
		if c.Disputed && c.DisputeStatus != "won" && !strings.HasPrefix(c.DisputeStatus, "warning") {
			want -= nano(c.Amount - c.Refunded)
		}
		if made[c.Metadata[topupKey]]++; made[c.Metadata[topupKey]] > 1 {
			r.Errorf("top-up %s was charged twice", c.Metadata[topupKey])
		}
		row, err := r.db.TopupByPayment(r.ctx, c.PaymentIntent)
		if err != nil || row.State != ledger.TopupSucceeded || row.Amount != nano(c.Amount) || row.Refunded != nano(c.Refunded) || row.Fee != nano(c.Fee) {
			r.Errorf("charge %+v is in the books as %+v, %v", c, row, err)
		}
	}
	w, err := r.db.Wallet(r.ctx, "acme")
	r.must(err)
	if have := w.Balance() - w.Receivable; have != want {
		r.Errorf("the wallet has %s (receivable %s), by what Stripe took it should have %s; log:\n%s", have, w.Receivable, want, r.log)
	}
}

func (r *rig) charges(n int) []stripefake.ChargeMade {
	r.Helper()
	list := r.fake.Log().Charges
	if len(list) != n {
		r.Fatalf("%d charges, want %d; log:\n%s", len(list), n, r.log)
	}
	return list
}

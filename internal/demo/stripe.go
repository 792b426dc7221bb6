package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"time"

	"weir/schemas/money"
	"weir/topup/stripefake"
)

const (
	// The secrets of the demo's own Stripe, which exists only while it runs.
	stripeKey     = "sk_test_demo"
	webhookSecret = "whsec_demo"
	// goodCard is a test number that Stripe never declines.
	goodCard = "4242424242424242"
	// backPage is where customers go from the page on which they pay.
	backPage = "/back"
	// cent is Stripe's unit of amounts.
	cent = money.Dollar / 100
	// headersTimeout keeps a stuck browser from holding a connection for ever.
	headersTimeout = 10 * time.Second
)

// stripe is a stand-in for Stripe, where customers pay. No money moves.
type stripe struct {
	*stripefake.Server
	url    string
	server http.Server
	ended  chan error
}

// startStripe brings it up. lateFees: it tells its fees only when asked to.
func startStripe(lateFees bool) (*stripe, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot start the stand-in for Stripe: %w", err)
	}
	s := &stripe{Server: stripefake.New(stripefake.Options{Secret: stripeKey, LateFees: lateFees}), url: "http://" + listener.Addr().String(),
		ended: make(chan error, 1)}
	pages := http.NewServeMux()
	pages.Handle("/", s.Server)
	pages.HandleFunc("GET "+backPage, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "This page can be closed; what was paid is in the wallet.") // a person who left need not know
	})
	s.server = http.Server{Handler: pages, ReadHeaderTimeout: headersTimeout}
	go func() { s.ended <- s.server.Serve(listener) }()
	return s, nil
}

func (s *stripe) close() error {
	err := s.server.Close()
	if served := <-s.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	s.Server.Close()
	return err
}

// recharge is how a wallet tops itself up: below what balance, and by how much.
type recharge struct{ below, by money.Nano }

// topup is one purchase of credit as weir tells it.
type topup struct {
	ID            string     `json:"id"`
	Customer      string     `json:"customer"`
	Kind          string     `json:"kind"` // checkout, auto
	State         string     `json:"state"`
	Amount        money.Nano `json:"amount"`
	Bonus         money.Nano `json:"bonus"`
	Fee           money.Nano `json:"fee"`
	PaymentIntent string     `json:"payment_intent"`
}

const (
	byCheckout = "checkout"
	byItself   = "auto"
	succeeded  = "succeeded"
)

// entry is one line of a customer's books.
type entry struct {
	Time      time.Time  `json:"time"`
	Kind      string     `json:"kind"`
	Amount    money.Nano `json:"amount"`
	Reference string     `json:"reference"` // of money from a top-up: its id
}

// buy lets a customer pay on the hosted page that weir opens for him, and
// waits for the credit. One whose wallet is to top itself up leaves his card.
func (d *demo) buy(ctx context.Context, c *customer) error {
	of := "/customers/" + c.id
	if c.auto != nil {
		var ignored any
		rule := map[string]any{"enabled": true, "threshold": c.auto.below, "amount": c.auto.by, "cap_per_day": 100 * c.auto.by, "min_interval_seconds": 0}
		if err := d.books.ask(ctx, http.MethodPut, of+"/auto-topup", rule, &ignored); err != nil {
			return err
		}
	}
	order := map[string]any{"amount": c.paid, "save_card": c.auto != nil, "success_url": d.stripe.url + backPage, "cancel_url": d.stripe.url + backPage}
	if c.promo != 0 {
		order["bonus"] = c.promo
	}
	var page struct {
		ID  string `json:"topup_id"`
		URL string `json:"url"`
	}
	if err := d.books.api(ctx, of+"/checkout", order, &page); err != nil {
		return err
	}
	if _, err := d.stripe.Pay(path.Base(page.URL), goodCard); err != nil {
		return fmt.Errorf("%s cannot pay: %w", c.id, err)
	}
	var made topup
	err := wait(ctx, func() (bool, error) {
		err := d.books.api(ctx, "/topups/"+page.ID, nil, &made)
		return made.State == succeeded, err
	})
	if err == nil && made.State != succeeded {
		err = fmt.Errorf("%s paid, and the top-up is %s", c.id, made.State)
	}
	return err
}

// readFunding collects what the payment stand-in took, and what weir made of
// it. A wallet that ran low may still be waiting for its money.
func (d *demo) readFunding(ctx context.Context, f *facts) error {
	f.entries = map[string][]entry{}
	for i := range d.customers {
		c := &d.customers[i]
		if err := d.waitRecharged(ctx, c); err != nil {
			return err
		}
		topups, err := pages[topup](ctx, &d.books, "/customers/"+c.id+"/topups")
		if err != nil {
			return err
		}
		f.topups = append(f.topups, topups...)
		if f.entries[c.id], err = pages[entry](ctx, &d.books, "/customers/"+c.id+"/entries"); err != nil {
			return err
		}
		slices.Reverse(f.entries[c.id]) // oldest first
	}
	if err := d.stripe.Wait(ctx); err != nil {
		return fmt.Errorf("cannot wait for the events of the payment stand-in: %w", err)
	}
	f.charges = d.stripe.Log().Charges
	return nil
}

func (d *demo) waitRecharged(ctx context.Context, c *customer) error {
	if c.auto == nil {
		return nil
	}
	return wait(ctx, func() (bool, error) {
		var w wallet
		err := d.books.api(ctx, "/customers/"+c.id+"/wallet", nil, &w)
		return w.Balance >= c.auto.below, err
	})
}

// recharges tells how long each automatic top-up took, from the settled usage
// that brought the wallet below its threshold to the credit, and when the last
// one came.
func (f *facts) recharges(c *customer) (took []time.Duration, last time.Time) {
	auto := map[string]bool{}
	for _, t := range f.topups {
		auto[t.ID] = t.Kind == byItself
	}
	var balance money.Nano
	var low time.Time
	for _, e := range f.entries[c.id] {
		balance += e.Amount
		if auto[e.Reference] {
			took, last = append(took, e.Time.Sub(low)), e.Time
		}
		switch {
		case balance >= c.auto.below:
			low = time.Time{}
		case low.IsZero():
			low = e.Time
		}
	}
	return took, last
}

const (
	// tailShare of the requests is sent once wallets have topped themselves up: on a
	// fast machine all of them would be over before the first batch settles.
	tailShare = 10
	// topUpWait is how long that is waited for: settling takes two seconds, and a
	// wallet that did not run low is waited for in vain.
	topUpWait = 4 * time.Second
)

// awaitTopUps waits until the wallets that top themselves up have done so.
func (d *demo) awaitTopUps(ctx context.Context) {
	for deadline := time.Now().Add(topUpWait); ctx.Err() == nil && time.Now().Before(deadline); time.Sleep(settlePoll) {
		missing := 0
		for i := range d.customers {
			var list struct {
				Data []struct{ Kind, State string }
			}
			c := &d.customers[i]
			if c.auto == nil {
				continue
			}
			if err := d.books.api(ctx, "/customers/"+c.id+"/topups", nil, &list); err != nil {
				return // what is wrong is told when the books are read
			}
			missing++
			for _, t := range list.Data {
				if t.Kind == "auto" && t.State == "succeeded" {
					missing--
					break
				}
			}
		}
		if missing == 0 {
			return
		}
	}
}

// tellFunding tells how wallets topped themselves up.
func (d *demo) tellFunding(f *facts) {
	var sum money.Nano
	for i := range f.charges {
		sum += dollars(f.charges[i].Amount)
	}
	d.printf("Paid by card, through a stand-in for Stripe: $%s in %d charges.\n", sum, len(f.charges))
	for i := range f.customers {
		c := &f.customers[i]
		if c.auto == nil {
			continue
		}
		took, last := f.recharges(c)
		if len(took) == 0 {
			d.printf("%s's wallet did not run low, so it did not top itself up; more requests make it.\n", c.id)
			continue
		}
		later := 0
		for _, x := range f.exchanges {
			if f.customers[x.customer].id == c.id && x.status == http.StatusOK && x.ended.After(last) {
				later++
			}
		}
		d.printf("%s's wallet ran low, below $%s, and topped itself up from the saved card, charged %s $%s:\n"+
			"from low to credited at most %.2f s, and %s of its requests were answered after that.\n",
			c.id, c.auto.below, times(len(took)), c.auto.by, slices.Max(took).Seconds(), thousands(later))
	}
	d.printf("\n")
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// dollars are Stripe's cents as weir counts.
func dollars(cents int64) money.Nano { return money.Nano(cents) * cent }

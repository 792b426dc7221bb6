package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"weir/internal/apikey"
	"weir/internal/ledger"
	"weir/schemas/money"
)

// TestFit: two requests without an output limit run beside each other, whatever
// it is that leaves little room: the wallet, or a limit of key or customer. The
// provider answers neither before it has both.
func TestFit(t *testing.T) {
	const model = 16384 // its most output tokens
	for name, l := range map[string]struct {
		credit        money.Nano
		key, customer ledger.Limits
		first, second int // by hand: half of the room less 105 tokens of input, at 450 a token in and 1,800 out; the second of what is then left
	}{
		"nothing":            {credit: money.Dollar, first: model, second: model},
		"the wallet":         {credit: 20e6, first: 5529, second: 2751},
		"tokens of the key":  {credit: money.Dollar, key: ledger.Limits{TokensPerMinute: 10_000}, first: 4895, second: 2395},
		"tokens of customer": {credit: money.Dollar, customer: ledger.Limits{TokensPerMinute: 10_000}, first: 4895, second: 2395},
		"a day of the key":   {credit: money.Dollar, key: ledger.Limits{SpendPerDay: 20e6, SpendPerMonth: money.Dollar}, first: 5529, second: 2751},
		"a month of both":    {credit: money.Dollar, key: ledger.Limits{SpendPerMonth: 30e6}, customer: ledger.Limits{SpendPerMonth: 20e6}, first: 5529, second: 2751},
	} {
		t.Run(name, func(t *testing.T) {
			r, both := newHeldRig(t, 2)
			r.customer("fit", l.credit)
			key := r.customerKey("fit", l.key, l.customer)
			answers := make(chan reply, 2)
			ask := func() {
				answers <- r.do("POST", chatPath, chatBody("in=20 out=10", ""), "Authorization: Bearer "+key)
			}
			go ask()
			r.eventually("the first call", func() bool { return r.InFlight() == 1 })
			go ask()
			<-both
			var limits [2]int
			for i := range limits {
				a := <-answers
				if a.status != 200 {
					t.Fatalf("%d %s", a.status, a.body)
				}
				limits[i], _ = strconv.Atoi(a.Get(headerMaxTokens))
			}
			if first, second := max(limits[0], limits[1]), min(limits[0], limits[1]); first != l.first || second != l.second {
				t.Errorf("limits of %d and %d tokens, want %d and %d", first, second, l.first, l.second)
			}
		})
	}
}

// newHeldRig is a rig whose provider answers once it has n requests; the channel
// closes then.
func newHeldRig(t *testing.T, n int) (*rig, <-chan struct{}) {
	held, all := new(sync.WaitGroup), make(chan struct{})
	held.Add(n)
	go func() { held.Wait(); close(all) }()
	provider := httptest.NewUnstartedServer(nil)
	r := newTunedRig(t, frozenClock, func(o *Options) { o.Upstreams[0].BaseURL = "http://" + provider.Listener.Addr().String() })
	to, err := url.Parse("http://" + r.upstream)
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	provider.Config.Handler = http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		held.Done()
		select {
		case <-all:
			proxy.ServeHTTP(res, req)
		case <-req.Context().Done():
		}
	})
	provider.Start()
	t.Cleanup(provider.Close)
	return r, all
}

// customerKey makes a key with limits of a customer with limits.
func (r *rig) customerKey(customer string, key, of ledger.Limits) string {
	r.t.Helper()
	text := r.newKey(customer)
	ctx := r.t.Context()
	must(r.t, r.Ledger.Tx(ctx, func(tx *ledger.Tx) error {
		if _, err := tx.LimitCustomer(ctx, customer, func(l *ledger.Limits) { *l = of }); err != nil {
			return err
		}
		_, err := tx.LimitKey(ctx, idOf(r.t, text), func(l *ledger.Limits) { *l = key })
		return err
	}))
	return text
}

func idOf(t testing.TB, key string) string {
	t.Helper()
	id, ok := apikey.Parse(key)
	if !ok {
		t.Fatalf("%q is no key", key)
	}
	return id
}

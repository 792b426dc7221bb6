package gateway

import (
	"bytes"
	"math"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"weir/internal/ledger"
	"weir/schemas/money"
)

// headerRateLimit begins the headers that tell of limits.
const headerRateLimit = "X-Ratelimit-"

// tell puts the limits per minute into the answer's headers, in the form of
// OpenAI's: of key and customer the one that has less left. They take the place
// of the provider's own, which are about the platform's account.
func (l *limits) tell(ctx *fasthttp.RequestCtx, c *call) {
	who := c.who
	if who.key == nil || who.customer == nil || !who.limited() {
		return
	}
	h := &ctx.Response.Header
	now := l.now()
	end := now.Truncate(window).Add(window)
	reset := strconv.Itoa(wholeSeconds(end.Sub(now))) + "s"
	var requests, tokens tightest
	l.mu.Lock()
	for i, t := range l.tallies(who) {
		if t != nil {
			t.turn(now)
			requests.hold(who.limits(i).RequestsPerMinute, l.perMinute(who.limits(i).RequestsPerMinute, t)-t.requests)
			tokens.hold(who.limits(i).TokensPerMinute, l.perMinute(who.limits(i).TokensPerMinute, t)-t.tokens)
		}
	}
	l.mu.Unlock()
	if requests.limit == 0 && tokens.limit == 0 {
		return
	}
	dropHeaders(h, headerRateLimit)
	requests.write(h, "Requests", reset)
	tokens.write(h, "Tokens", reset)
}

// tightest is, of several limits, the one that has least left; limit 0 is none.
type tightest struct{ limit, left int64 }

func (t *tightest) hold(limit, left int64) {
	if left = max(left, 0); limit > 0 && (t.limit == 0 || left < t.left) {
		t.limit, t.left = limit, left
	}
}

func (t *tightest) write(h *fasthttp.ResponseHeader, of, reset string) {
	if t.limit == 0 {
		return
	}
	h.Set(headerRateLimit+"Limit-"+of, strconv.FormatInt(t.limit, 10))
	h.Set(headerRateLimit+"Remaining-"+of, strconv.FormatInt(t.left, 10))
	h.Set(headerRateLimit+"Reset-"+of, reset)
}

// dropHeaders removes the headers whose names begin with prefix.
func dropHeaders(h *fasthttp.ResponseHeader, prefix string) {
	var names [][]byte
	for name := range h.All() {
		if bytes.HasPrefix(name, []byte(prefix)) {
			names = append(names, bytes.Clone(name))
		}
	}
	for _, name := range names {
		h.DelBytes(name)
	}
}

// remaining is what is left of limits; a member is nil where there is none.
type remaining struct {
	RequestsPerMinute *int64      `json:"requests_per_minute,omitempty"`
	TokensPerMinute   *int64      `json:"tokens_per_minute,omitempty"`
	SpendPerDay       *money.Nano `json:"spend_per_day,omitempty"`
	SpendPerMonth     *money.Nano `json:"spend_per_month,omitempty"`
}

// remaining tells what a key and its customer may still use of this gateway.
func (l *limits) remaining(who identity) (key, customer remaining, err error) {
	t, err := l.lockKnown(who)
	if err != nil {
		return remaining{}, remaining{}, err
	}
	defer l.mu.Unlock()
	now := l.now()
	return l.remainingOf(t[0], &who.key.Limits, now), l.remainingOf(t[1], &who.customer.Limits, now), nil
}

// room is the most tokens and the highest price that one more call may have; the
// largest numbers where nothing is limited.
func (l *limits) room(who identity) (tokens int64, price money.Nano, err error) {
	tokens, price = math.MaxInt64, math.MaxInt64
	if !who.limited() {
		return tokens, price, nil
	}
	key, customer, err := l.remaining(who)
	for _, r := range [...]remaining{key, customer} {
		if r.TokensPerMinute != nil {
			tokens = min(tokens, *r.TokensPerMinute)
		}
		for _, left := range [...]*money.Nano{r.SpendPerDay, r.SpendPerMonth} {
			if left != nil {
				price = min(price, *left)
			}
		}
	}
	return tokens, price, err
}

func (l *limits) remainingOf(t *tally, of *ledger.Limits, now time.Time) (r remaining) {
	if t == nil {
		return r
	}
	t.turn(now)
	if of.RequestsPerMinute > 0 {
		r.RequestsPerMinute = new(max(0, l.perMinute(of.RequestsPerMinute, t)-t.requests))
	}
	if of.TokensPerMinute > 0 {
		r.TokensPerMinute = new(max(0, l.perMinute(of.TokensPerMinute, t)-t.tokens))
	}
	if of.SpendPerDay > 0 {
		r.SpendPerDay = new(max(0, l.left(of.SpendPerDay, t.spend, day)))
	}
	if of.SpendPerMonth > 0 {
		r.SpendPerMonth = new(max(0, l.left(of.SpendPerMonth, t.spend, month)))
	}
	return r
}

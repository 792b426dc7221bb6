package gateway

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"weir/internal/ledger"
)

// identity is who pays and what the key may do.
type identity struct {
	key      *ledger.Key
	customer *ledger.Customer
}

func (i identity) operator() bool { return i.key.Customer == "" }

// authenticate finds the caller's key and wallet. It reads the key where each
// provider's SDK puts it; two different keys are refused, since nobody could
// say which one pays.
func (g *Gateway) authenticate(ctx *fasthttp.RequestCtx, c *call) *refusal {
	if g.stopping.Load() {
		return stopping()
	}
	text, no := presentedKey(ctx)
	if no != nil {
		return no
	}
	key, err := g.directory.key(text)
	if errors.Is(err, ledger.ErrNotFound) || (err == nil && expired(key, c.start)) {
		return &refusal{status: http.StatusUnauthorized, code: "invalid_key",
			message: "The API key is unknown, expired or revoked. Ask the platform you got it from for a new one."}
	}
	if err != nil {
		return ledgerAway(err)
	}
	c.who.key = key
	customer, no := payer(ctx, key)
	if no != nil {
		return no
	}
	c.who.customer, err = g.directory.customer(customer)
	if errors.Is(err, ledger.ErrNotFound) {
		return &refusal{status: http.StatusNotFound, code: "unknown_customer", message: "There is no customer with the id in " + headerCustomer + "."}
	}
	if err != nil {
		return ledgerAway(err)
	}
	return nil
}

// payer is the customer whose wallet pays: the key's own, or for operator keys
// the one that the request names.
func payer(ctx *fasthttp.RequestCtx, key *ledger.Key) (string, *refusal) {
	named := ctx.Request.Header.PeekAll(headerCustomer) // one line, or none
	switch {
	case len(named) == 0 && key.Customer == "":
		return "", &refusal{status: http.StatusBadRequest, code: "customer_required",
			message: "An operator key must name the paying customer in the header " + headerCustomer + "."}
	case len(named) == 0:
		return key.Customer, nil
	case key.Customer != "":
		return "", &refusal{status: http.StatusForbidden, code: "customer_not_allowed",
			message: "Only operator keys may send " + headerCustomer + "; this key always pays from its own wallet."}
	}
	return string(named[0]), nil
}

func ledgerAway(err error) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, code: "ledger_unavailable", retryAfter: 2, cause: err,
		message: "The wallet cannot be reached right now. Nothing was charged; try again shortly."}
}

func expired(k *ledger.Key, now time.Time) bool {
	return k.RevokedAt != nil || (k.ExpiresAt != nil && !now.Before(*k.ExpiresAt))
}

// presentedKey collects the key from every place an SDK may put it.
func presentedKey(ctx *fasthttp.RequestCtx) (string, *refusal) {
	var found []byte
	differ := false
	take := func(key []byte) {
		if len(key) == 0 {
			return
		}
		if found != nil && !bytes.Equal(found, key) {
			differ = true
		}
		found = key
	}
	header := &ctx.Request.Header
	for _, v := range header.PeekAll("Authorization") {
		const bearer = "bearer "
		if len(v) > len(bearer) && strings.EqualFold(string(v[:len(bearer)]), bearer) {
			v = bytes.TrimLeft(v[len(bearer):], " ")
		}
		take(v)
	}
	for _, name := range [...]string{"X-Api-Key", "X-Goog-Api-Key"} {
		for _, v := range header.PeekAll(name) {
			take(v)
		}
	}
	if bytes.IndexByte(header.RequestURI(), '?') >= 0 {
		for _, v := range ctx.QueryArgs().PeekMulti("key") {
			take(v)
		}
	}
	switch {
	case differ:
		return "", &refusal{status: http.StatusBadRequest, code: "ambiguous_key",
			message: "The request carries two different API keys. Send one, in one place."}
	case found == nil:
		return "", &refusal{status: http.StatusUnauthorized, code: "invalid_key",
			message: "The request carries no API key. Send it as `Authorization: Bearer <key>` or `x-api-key: <key>`."}
	}
	return string(found), nil
}

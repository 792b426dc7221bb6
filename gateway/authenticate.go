package gateway

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"weir/internal/apikey"
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
		return &refusal{status: http.StatusServiceUnavailable, code: "stopping", retryAfter: 2,
			message: "This gateway is shutting down. Try again; another one will answer."}
	}
	text, no := presentedKey(ctx)
	if no != nil {
		return no
	}
	key, err := g.directory.key(ctx, text)
	if errors.Is(err, ledger.ErrNotFound) || (err == nil && expired(key, c.start)) {
		return &refusal{status: http.StatusUnauthorized, code: "invalid_key",
			message: "The API key is unknown, expired or revoked. Ask the platform you got it from for a new one."}
	}
	if err != nil {
		return ledgerAway(err)
	}
	c.who.key = key
	customer := key.Customer
	if named := string(ctx.Request.Header.Peek(headerCustomer)); named != "" || customer == "" {
		switch {
		case customer != "":
			return &refusal{status: http.StatusForbidden, code: "customer_not_allowed",
				message: "Only operator keys may send " + headerCustomer + "; this key always pays from its own wallet."}
		case named == "":
			return &refusal{status: http.StatusBadRequest, code: "customer_required",
				message: "An operator key must name the paying customer in the header " + headerCustomer + "."}
		}
		customer = named
	}
	c.who.customer, err = g.directory.customer(ctx, customer)
	if errors.Is(err, ledger.ErrNotFound) {
		return &refusal{status: http.StatusNotFound, code: "unknown_customer", message: "There is no customer with the id in " + headerCustomer + "."}
	}
	if err != nil {
		return ledgerAway(err)
	}
	return nil
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

const (
	// directoryMax bounds the keys and the customers kept in memory; past it
	// the map starts anew, and rows are read again on their next use.
	directoryMax = 200_000
	// unknownMax bounds the ids remembered as unknown, and unknownTTL how long:
	// a flood of invented keys must not become a flood of ledger reads, and a
	// key made a moment ago must soon work.
	unknownMax = 10_000
	unknownTTL = 2 * time.Second
	// lookupTimeout bounds a request's wait for its key's row.
	lookupTimeout = 3 * time.Second
)

// directory caches keys and customers. Rows are read on first use; the
// heartbeat replaces what changed since.
type directory struct {
	db     *ledger.DB
	pepper []byte

	mu        sync.RWMutex // guards the maps, not the rows: rows are replaced, never changed
	keys      map[string]*ledger.Key
	customers map[string]*ledger.Customer
	unknown   map[string]time.Time
}

func newDirectory(db *ledger.DB, pepper []byte) *directory {
	return &directory{db: db, pepper: pepper, keys: map[string]*ledger.Key{}, customers: map[string]*ledger.Customer{}, unknown: map[string]time.Time{}}
}

// key finds the row of a presented key and proves the key against it.
func (d *directory) key(ctx context.Context, text string) (*ledger.Key, error) {
	id, ok := apikey.Parse(text)
	if !ok {
		return nil, ledger.ErrNotFound
	}
	d.mu.RLock()
	row := d.keys[id]
	d.mu.RUnlock()
	if row == nil {
		var err error
		if row, err = d.loadKey(ctx, id); err != nil {
			return nil, err
		}
	}
	hash := apikey.Hash(d.pepper, text)
	if subtle.ConstantTimeCompare(hash[:], row.Hash) != 1 {
		return nil, ledger.ErrNotFound
	}
	return row, nil
}

func (d *directory) loadKey(ctx context.Context, id string) (*ledger.Key, error) {
	now := time.Now()
	d.mu.RLock()
	until, known := d.unknown[id]
	d.mu.RUnlock()
	if known && now.Before(until) {
		return nil, ledger.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	row, err := d.db.Key(ctx, id)
	d.mu.Lock()
	defer d.mu.Unlock()
	if errors.Is(err, ledger.ErrNotFound) {
		if len(d.unknown) >= unknownMax {
			clear(d.unknown)
		}
		d.unknown[id] = now.Add(unknownTTL)
		return nil, ledger.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	put(d.keys, id, &row)
	return &row, nil
}

func (d *directory) customer(ctx context.Context, id string) (*ledger.Customer, error) {
	d.mu.RLock()
	row := d.customers[id]
	d.mu.RUnlock()
	if row != nil {
		return row, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	read, err := d.db.Customer(ctx, id)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	put(d.customers, id, &read)
	return &read, nil
}

// update replaces rows that changed. Only rows in use are kept.
func (d *directory) update(keys []ledger.Key, customers []ledger.Customer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range keys {
		delete(d.unknown, keys[i].ID)
		if d.keys[keys[i].ID] != nil {
			d.keys[keys[i].ID] = &keys[i]
		}
	}
	for i := range customers {
		if d.customers[customers[i].ID] != nil {
			d.customers[customers[i].ID] = &customers[i]
		}
	}
}

func put[T any](m map[string]*T, id string, row *T) {
	if len(m) >= directoryMax {
		clear(m)
	}
	m[id] = row
}

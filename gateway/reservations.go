package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"weir/gateway/lease"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/internal/strictjson"
	"weir/schemas/money"
	"weir/schemas/ratecard"
	"weir/schemas/usage"
)

const (
	// holdBytesMax bounds a reservation's body.
	holdBytesMax = 64 << 10
	// heldMax bounds the reservations in memory, open ones and those whose
	// outcome is still told.
	heldMax = 100_000
	// holdDefault is how long a reservation lives that does not say.
	holdDefault = 5 * time.Minute
	// heldTold is how long the outcome of a reservation is told again.
	heldTold = 15 * time.Minute

	idempotencyKeyMax = 255 // bytes
)

// The states of a reservation.
const (
	heldOpen    = "open"
	heldSettled = "settled"
	heldVoided  = "voided"
	heldExpired = "expired"
)

// held is a reservation of the platform: money set aside, its intent written,
// until it is settled, voided or past its time. It lives in this gateway
// alone: when the gateway dies its intent becomes leakage, and what was used is
// reported as an event.
type held struct {
	id, key string
	body    [sha256.Size]byte // of the request that made it

	mu          sync.Mutex // guards the following; held while the wallet is asked and a result is written
	priced      *priced
	reservation lease.Reservation
	began       time.Time
	view        heldView // without a status as long as it is not open
	forgetAt    time.Time
}

// heldView is a reservation as the API tells it.
type heldView struct {
	ID        string      `json:"id"`
	Status    string      `json:"status"`
	Customer  string      `json:"customer"`
	Reserved  money.Nano  `json:"reserved"`
	ExpiresAt time.Time   `json:"expires_at"`
	Price     *money.Nano `json:"price,omitempty"`
	Released  *money.Nano `json:"released,omitempty"` // of what was reserved, not used
	Overrun   *money.Nano `json:"overrun,omitempty"`  // used beyond what was reserved
}

// holdBody is what a reservation asks for: the most that will be used.
type holdBody struct {
	Customer   string                 `json:"customer"`
	Provider   string                 `json:"provider"`
	Model      string                 `json:"model"`
	Meters     map[string]json.Number `json:"meters"`
	Tags       map[string]string      `json:"tags"`
	TTLSeconds *int64                 `json:"ttl_seconds"`
}

// hold sets the most that something will cost aside.
func (o *outside) hold(r *http.Request) (int, any, *refusal) {
	body, no := readOutside(r, holdBytesMax)
	if no != nil {
		return 0, nil, no
	}
	key := r.Header.Get("Idempotency-Key")
	if key == "" || len(key) > idempotencyKeyMax {
		return 0, nil, &refusal{status: http.StatusBadRequest, code: "idempotency_key_required",
			message: "This request holds money: send an Idempotency-Key header, so that repeating it is safe."}
	}
	var in holdBody
	if err := strictjson.Decode(body, &in); err != nil {
		return 0, nil, badReport("%s", err)
	}
	ttl := holdDefault
	if in.TTLSeconds != nil {
		if longest := int64(o.g.MaxRequest / time.Second); *in.TTLSeconds < 1 || *in.TTLSeconds > longest {
			return 0, nil, unprocessable("invalid_ttl", "ttl_seconds: %d is not from 1 to %d", *in.TTLSeconds, longest)
		}
		ttl = time.Duration(*in.TTLSeconds) * time.Second
	}
	h, fresh, no := o.claim(key, sha256.Sum256(body))
	if no != nil {
		return 0, nil, no
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case fresh:
		if no := o.open(r.Context(), h, &in, min(ttl, o.g.MaxRequest)); no != nil {
			o.forget(h)
			return 0, nil, no
		}
	case h.view.Status == "":
		return 0, nil, conflict("idempotency_conflict", "The same request was refused at this moment. Send it again.")
	}
	return http.StatusCreated, h.view, nil
}

// claim finds the reservation that was made under a key, or begins one.
func (o *outside) claim(key string, body [sha256.Size]byte) (h *held, fresh bool, no *refusal) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if h = o.held[o.byKey[key]]; h != nil {
		if h.body != body {
			return nil, false, conflict("idempotency_conflict", "This Idempotency-Key was used with another body.")
		}
		return h, false, nil
	}
	if len(o.held) >= heldMax {
		return nil, false, &refusal{status: http.StatusTooManyRequests, code: "rate_limited", retryAfter: 1,
			message: "Too many reservations are open on this gateway. Settle or void some."}
	}
	h = &held{id: newRequestID(), key: key, body: body}
	o.held[h.id], o.byKey[key] = h, h.id
	return h, true, nil
}

// forget drops a reservation that nobody can ask for any more.
func (o *outside) forget(h *held) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.held, h.id)
	if o.byKey[h.key] == h.id {
		delete(o.byKey, h.key)
	}
}

// open prices a reservation, takes its bound from the wallet and writes its
// intent. h is locked.
func (o *outside) open(ctx context.Context, h *held, in *holdBody, ttl time.Duration) *refusal {
	g := o.g
	switch {
	case g.stopping.Load():
		return stopping()
	case g.Spool.Level() == stream.LevelFull:
		return spoolFull(nil)
	}
	who, no := o.customer(in.Customer)
	if no == nil && who.Status == ledger.Frozen {
		no = frozen()
	}
	if no != nil {
		return no
	}
	now := time.Now()
	p, no := o.price(who, &usageBody{in.Provider, in.Model, in.Meters, in.Tags}, now)
	if no != nil {
		return no
	}
	bound, no := p.choose(g, now, func(rule string) (ratecard.Rated, error) {
		return ratecard.RateBound(p.card, p.rating(rule, p.rec.Meters))
	}, false)
	if no != nil {
		return no
	}
	p.rec.RequestID, p.rec.Rule, p.rec.Reserved, p.rec.Meters = h.id, p.rule, bound.Price, usage.Quantities{}
	reservation, err := g.Book.Reserve(ctx, who.ID, bound.Price)
	if err == nil {
		if err = g.Book.Intend(reservation, &p.rec); err != nil {
			g.Book.Void(reservation)
			err = errors.Join(lease.ErrNoNewLeases, err)
		}
	}
	if err != nil {
		g.budgets.giveAll(p.budget)
		return notReserved(err, bound.Price)
	}
	h.priced, h.reservation, h.began = p, reservation, now
	h.view = heldView{ID: h.id, Status: heldOpen, Customer: who.ID, Reserved: bound.Price, ExpiresAt: now.Add(ttl).UTC()}
	o.openCount.Add(1)
	return nil
}

// find locks the reservation that a path names.
func (o *outside) find(r *http.Request) (*held, *refusal) {
	o.mu.Lock()
	h := o.held[r.PathValue("id")]
	o.mu.Unlock()
	if h != nil {
		h.mu.Lock()
		if h.view.Status != "" {
			return h, nil
		}
		h.mu.Unlock()
	}
	return nil, &refusal{status: http.StatusNotFound, code: "not_found",
		message: "This gateway holds no such reservation. If something was used, report it as an event."}
}

func (o *outside) show(r *http.Request) (int, any, *refusal) {
	h, no := o.find(r)
	if no != nil {
		return 0, nil, no
	}
	defer h.mu.Unlock()
	return http.StatusOK, h.view, nil
}

// settle bills what was used of a reservation. The rest is free again.
func (o *outside) settle(r *http.Request) (int, any, *refusal) {
	body, no := readOutside(r, holdBytesMax)
	if no != nil {
		return 0, nil, no
	}
	var in struct {
		Meters map[string]json.Number `json:"meters"`
	}
	if err := strictjson.Decode(body, &in); err != nil {
		return 0, nil, badReport("%s", err)
	}
	meters, no := (&usageBody{Meters: in.Meters}).meters()
	if no != nil {
		return 0, nil, no
	}
	h, no := o.find(r)
	if no != nil {
		return 0, nil, no
	}
	defer h.mu.Unlock()
	switch {
	case h.view.Status == heldSettled && h.priced.rec.Meters == meters:
		return http.StatusOK, h.view, nil
	case h.view.Status != heldOpen:
		return 0, nil, h.ended()
	}
	rec := h.priced.rec
	rated, err := ratecard.Rate(h.priced.card, h.priced.rating(rec.Rule, meters))
	if err != nil {
		return 0, nil, unpriced(err)
	}
	rec.Meters, rec.ModelBilled, rec.Cost, rec.Price = meters, rated.ModelBilled, rated.Cost, rated.Price
	rec.Status, rec.Row = usage.StatusOK, usage.RowUsage
	if no := o.end(h, rec, heldSettled); no != nil {
		return 0, nil, no
	}
	released, overrun := max(h.view.Reserved-rec.Price, 0), max(rec.Price-h.view.Reserved, 0)
	h.view.Price, h.view.Released, h.view.Overrun = &rec.Price, &released, &overrun
	return http.StatusOK, h.view, nil
}

// void ends a reservation of which nothing was used.
func (o *outside) void(r *http.Request) (int, any, *refusal) {
	h, no := o.find(r)
	if no != nil {
		return 0, nil, no
	}
	defer h.mu.Unlock()
	switch h.view.Status {
	case heldVoided:
	case heldOpen:
		if no := o.end(h, h.unused(), heldVoided); no != nil {
			return 0, nil, no
		}
	default:
		return 0, nil, h.ended()
	}
	return http.StatusOK, h.view, nil
}

// unused is the record of a reservation that certainly led to nothing.
func (h *held) unused() usage.Record {
	rec := h.priced.rec
	rec.Status, rec.Row = usage.StatusUpstreamError, usage.RowError
	return rec
}

// ended says why a reservation cannot be changed any more.
func (h *held) ended() *refusal {
	return conflict("reservation_"+h.view.Status, "This reservation is "+h.view.Status+". If more was used, report it as an event.")
}

func conflict(code, message string) *refusal {
	return &refusal{status: http.StatusConflict, code: code, message: message}
}

// end writes the one result of a reservation and waits until it is durable. h
// is locked and open.
func (o *outside) end(h *held, rec usage.Record, status string) *refusal {
	now := time.Now()
	rec.Kind = usage.KindUsage
	if rec.Row == usage.RowLeakage {
		rec.Kind = usage.KindUnknown
	}
	rec.TimeMs = now.UnixMilli()
	rec.LatencyMs = uint32(min(now.Sub(h.began).Milliseconds(), math.MaxUint32))
	pos, err := o.g.Book.Settle(h.reservation, &rec)
	if err == nil {
		h.priced.rec = rec
		err = o.g.Spool.WaitDurable(pos)
	} else {
		status = heldExpired // the book has made it one of unknown outcome
	}
	h.view.Status, h.forgetAt = status, now.Add(heldTold)
	o.openCount.Add(-1)
	o.g.budgets.give(h.priced.budget, &rec)
	o.g.Metrics.observe(&rec)
	if err != nil {
		return spoolFull(err)
	}
	return nil
}

// sweep voids reservations past their time, and forgets those that ended long ago.
func (o *outside) sweep(now time.Time) {
	for _, h := range o.all() {
		h.mu.Lock()
		switch {
		case h.view.Status == heldOpen && !now.Before(h.view.ExpiresAt):
			if no := o.end(h, h.unused(), heldExpired); no != nil {
				o.g.Log.Error("cannot void a reservation past its time", "request_id", h.id, "err", no.cause)
			}
		case h.view.Status != heldOpen && h.view.Status != "" && now.After(h.forgetAt):
			o.forget(h)
		}
		h.mu.Unlock()
	}
}

// abort ends what is still open when the gateway stops: nobody knows whether it
// was used, so it is leakage, as after a crash.
func (o *outside) abort() {
	for _, h := range o.all() {
		h.mu.Lock()
		if h.view.Status == heldOpen {
			rec := h.priced.rec
			rec.Status, rec.Row = usage.StatusUnknown, usage.RowLeakage
			if no := o.end(h, rec, heldExpired); no != nil {
				o.g.Log.Error("cannot end a reservation", "request_id", h.id, "err", no.cause)
			}
		}
		h.mu.Unlock()
	}
}

func (o *outside) all() []*held {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Values(o.held))
}

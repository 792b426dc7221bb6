package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"

	"weir/gateway/provider"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/schemas/money"
)

func (g *Gateway) healthy(ctx *fasthttp.RequestCtx) {
	writeJSON(ctx, map[string]string{"status": "ok"})
}

// ready tells whether requests are admitted now, and what is down if not.
func (g *Gateway) ready(ctx *fasthttp.RequestCtx) {
	down := g.Down()
	if len(down) == 0 {
		writeJSON(ctx, map[string]string{"status": "ready"})
		return
	}
	ctx.SetStatusCode(http.StatusServiceUnavailable)
	writeJSON(ctx, map[string]any{"status": "not ready", "down": down})
}

// Down names what keeps the gateway from admitting requests.
func (g *Gateway) Down() []string {
	var down []string
	if g.stopping.Load() {
		down = append(down, "stopping")
	}
	if !g.Book.Live(time.Now()) {
		down = append(down, "ledger")
	}
	if g.Cards.Current(time.Now()) == nil {
		down = append(down, "rate card")
	}
	if g.Spool.Level() == stream.LevelFull {
		down = append(down, "spool")
	}
	return down
}

// ownKey tells a key's holder what the key is and has used.
func (g *Gateway) ownKey(ctx *fasthttp.RequestCtx, c *call) {
	k := c.who.key
	ask, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	used, err := g.Ledger.Spend(ask, "key:"+k.ID, "all")
	if err != nil {
		g.refuse(ctx, c, ledgerAway(err))
		return
	}
	key, customer, err := g.limits.remaining(c.who)
	if err != nil {
		g.refuse(ctx, c, ledgerAway(err))
		return
	}
	models := k.Models
	if models == nil {
		models = []string{}
	}
	writeData(ctx, struct {
		Name      string     `json:"name"`
		Customer  string     `json:"customer"`
		Prefix    string     `json:"prefix"`
		Models    []string   `json:"models"`
		Usage     money.Nano `json:"usage"`
		ExpiresAt *time.Time `json:"expires_at"`

		Limits            ledger.Limits `json:"limits,omitzero"`
		Remaining         remaining     `json:"remaining,omitzero"` // here: of several gateways each has its share
		CustomerLimits    ledger.Limits `json:"customer_limits,omitzero"`
		CustomerRemaining remaining     `json:"customer_remaining,omitzero"`
	}{k.Name, c.who.customer.ID, k.Prefix, models, used, k.ExpiresAt, k.Limits, key, c.who.customer.Limits, customer})
}

// ownCredits tells the wallet's three balances.
func (g *Gateway) ownCredits(ctx *fasthttp.RequestCtx, c *call) {
	ask, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	w, err := g.Ledger.Wallet(ask, c.who.customer.ID)
	if err != nil {
		g.refuse(ctx, c, ledgerAway(err))
		return
	}
	writeData(ctx, struct {
		Currency  string     `json:"currency"`
		Balance   money.Nano `json:"balance"`
		Held      money.Nano `json:"held"`
		Available money.Nano `json:"available"`
	}{w.Currency, w.Balance(), w.Held, w.Available()})
}

// ownGeneration tells what one of the caller's own requests used and cost.
func (g *Gateway) ownGeneration(ctx *fasthttp.RequestCtx, c *call) {
	id := string(ctx.QueryArgs().Peek("id"))
	notFound := &refusal{status: http.StatusNotFound, code: "not_found", message: "There is no such request of yours. A request appears within seconds of its answer."}
	if id == "" {
		notFound.message = "Name the request: /v1/generation?id=<X-Weir-Request-Id>."
		g.refuse(ctx, c, notFound)
		return
	}
	if g.Generation == nil {
		g.refuse(ctx, c, notFound)
		return
	}
	ask, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	body, err := g.Generation(ask, c.who.customer.ID, id)
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		g.refuse(ctx, c, notFound)
	case err != nil:
		g.refuse(ctx, c, &refusal{status: http.StatusServiceUnavailable, code: "warehouse_unavailable", retryAfter: 2, cause: err,
			message: "Usage of single requests cannot be read right now. Try again shortly."})
	default:
		ctx.SetContentType("application/json")
		ctx.SetBody(body)
	}
}

// ownModels lists what this key may use, in the provider's list shape.
func (g *Gateway) ownModels(ctx *fasthttp.RequestCtx, c *call) {
	type model struct {
		ID          string `json:"id"`
		Object      string `json:"object,omitempty"`
		Type        string `json:"type,omitempty"`
		DisplayName string `json:"display_name,omitempty"`
		OwnedBy     string `json:"owned_by,omitempty"`
		Created     *int64 `json:"created,omitempty"`
		CreatedAt   string `json:"created_at,omitempty"`
	}
	card := g.Cards.Current(c.start)
	if card == nil {
		g.refuse(ctx, c, ledgerAway(errors.New("no rate card is in force")))
		return
	}
	name := c.route.upstream.Name
	from := card.EffectiveFrom()
	list := []model{}
	for _, m := range card.Models(name) {
		if !allowed(c.who.key.Models, name, m.Name) {
			continue
		}
		if c.shape == provider.Anthropic {
			list = append(list, model{ID: m.Name, Type: "model", DisplayName: m.Name, CreatedAt: from.UTC().Format(time.RFC3339)})
			continue
		}
		created := max(from.Unix(), 0)
		list = append(list, model{ID: m.Name, Object: "model", OwnedBy: name, Created: &created})
	}
	if c.shape != provider.Anthropic {
		writeJSON(ctx, map[string]any{"object": "list", "data": list})
		return
	}
	page := map[string]any{"data": list, "has_more": false, "first_id": nil, "last_id": nil}
	if len(list) > 0 {
		page["first_id"], page["last_id"] = list[0].ID, list[len(list)-1].ID
	}
	writeJSON(ctx, page)
}

func writeData(ctx *fasthttp.RequestCtx, data any) { writeJSON(ctx, map[string]any{"data": data}) }

func writeJSON(ctx *fasthttp.RequestCtx, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own plain structs come here; the handler recovers
	}
	ctx.SetContentType("application/json")
	ctx.SetBody(body)
}

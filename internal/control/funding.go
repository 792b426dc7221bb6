package control

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
	"weir/topup"
)

const (
	urlMax   = 2048 // bytes of a page's address
	priceMax = 255  // bytes of Stripe's id of a price
)

// fundingRoutes are the routes by which money comes in and goes back. Those
// that ask Stripe for something are refused where there is no account.
func (p *plane) fundingRoutes() map[string]handler {
	return map[string]handler{
		"POST /customers/{id}/checkout":     p.withStripe(p.checkout),
		"PUT /customers/{id}/auto-topup":    p.withStripe(p.setAutoTopup),
		"GET /customers/{id}/auto-topup":    p.showAutoTopup,
		"GET /customers/{id}/topups":        p.listTopups,
		"GET /customers/{id}/lots":          p.listLots,
		"POST /customers/{id}/subscription": p.withStripe(p.subscribe),
		"GET /topups/{id}":                  p.showTopup,
		"POST /topups/{id}/refund":          p.withStripe(p.refund),
		"PUT /plans/{id}":                   p.withStripe(p.setPlan),
		"GET /plans":                        p.listPlans,
	}
}

func (p *plane) withStripe(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if p.Topup == nil {
			return refuse(http.StatusConflict, "stripe_not_configured", "no payment account: set stripe.secret_key and stripe.webhook_secret, and start again")
		}
		return h(w, r)
	}
}

func checkPages(in topup.Pages) error {
	for _, m := range []struct{ name, text string }{{"success_url", in.SuccessURL}, {"cancel_url", in.CancelURL}} {
		name, text := m.name, m.text
		u, err := url.Parse(text)
		switch {
		case text == "":
			return invalid("%s is missing: where the customer goes from the page", name)
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || len(text) > urlMax:
			return refuse(http.StatusUnprocessableEntity, "invalid_url", "%s: want an address such as https://platform.example/paid of at most %d bytes", name, urlMax)
		}
	}
	return nil
}

func (p *plane) checkout(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Amount     json.RawMessage `json:"amount"`
		SuccessURL string          `json:"success_url"`
		CancelURL  string          `json:"cancel_url"`
		Bonus      json.RawMessage `json:"bonus"`
		SaveCard   *bool           `json:"save_card"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	key, err := idempotencyKey(r, true)
	if err != nil {
		return err
	}
	buy := topup.Purchase{Customer: r.PathValue("id"), Pages: topup.Pages{SuccessURL: in.SuccessURL, CancelURL: in.CancelURL}}
	if buy.Amount, err = readCharge("amount", in.Amount); err != nil {
		return err
	}
	if named(in.Bonus) {
		if buy.Bonus, err = readDollars("bonus", in.Bonus); err != nil {
			return err
		}
	}
	if err := checkPages(buy.Pages); err != nil {
		return err
	}
	id := topup.PurchaseID(buy.Customer, key)
	if buy.SaveCard, err = p.savesCard(r, id, in.SaveCard); err != nil {
		return err
	}
	row, repeated, err := p.Topup.Checkout(r.Context(), id, buy)
	if err != nil {
		return err
	}
	if repeated {
		w.Header().Set(replayedHeader, "true")
	}
	WriteJSON(w, http.StatusCreated, map[string]string{"topup_id": row.ID, "url": row.URL})
	return nil
}

// savesCard tells whether a purchase keeps the card. Where the request does not
// say, it does if the wallet is to top itself up, which needs one.
func (p *plane) savesCard(r *http.Request, id string, said *bool) (bool, error) {
	if said != nil {
		return *said, nil
	}
	row, err := p.Ledger.Topup(r.Context(), id)
	if !errors.Is(err, ledger.ErrNotFound) {
		return row.SaveCard, err // the same request again is the same purchase
	}
	auto, err := p.Ledger.AutoTopup(r.Context(), r.PathValue("id"))
	if errors.Is(err, ledger.ErrNotFound) {
		return false, nil
	}
	return auto.Enabled || auto.OffReason == topup.ReasonNoCard, err
}

type topupView struct {
	ID            string        `json:"id"`
	Customer      string        `json:"customer"`
	Kind          string        `json:"kind"` // checkout, auto, subscription
	State         string        `json:"state"`
	Reason        string        `json:"reason"`
	Amount        money.Nano    `json:"amount"`
	Bonus         money.Nano    `json:"bonus"`
	Refunded      money.Nano    `json:"refunded"`
	Lost          money.Nano    `json:"lost"` // by disputes
	Fee           money.Nano    `json:"fee"`  // what Stripe keeps
	URL           *string       `json:"url"`  // null once nobody can pay there
	PaymentIntent string        `json:"payment_intent"`
	CreatedAt     time.Time     `json:"created_at"`
	UpdatedAt     time.Time     `json:"updated_at"`
	Refunds       *[]refundView `json:"refunds,omitempty"` // of one top-up, not of a list
}

func viewTopup(t ledger.Topup) topupView {
	v := topupView{ID: t.ID, Customer: t.Customer, Kind: t.Kind, State: t.State, Reason: t.Reason, Amount: t.Amount, Bonus: t.Bonus,
		Refunded: t.Refunded, Lost: t.Lost, Fee: t.Fee, PaymentIntent: t.PaymentIntent, CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.UpdatedAt.UTC()}
	if t.URL != "" && (t.State == ledger.TopupSubmitted || t.State == ledger.TopupAction) {
		v.URL = &t.URL
	}
	return v
}

func (p *plane) listTopups(w http.ResponseWriter, r *http.Request) error {
	page, err := page(r.URL.Query())
	if err != nil {
		return err
	}
	if _, err := p.Ledger.Customer(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	list, next, err := p.Ledger.Topups(r.Context(), r.PathValue("id"), page)
	if err != nil {
		return err
	}
	writeList(w, list, next, func(t ledger.Topup) any { return viewTopup(t) })
	return nil
}

func (p *plane) showTopup(w http.ResponseWriter, r *http.Request) error {
	row, err := p.Ledger.Topup(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	list, err := p.Ledger.Refunds(r.Context(), row.ID)
	if err != nil {
		return err
	}
	refunds := make([]refundView, len(list))
	for i, one := range list {
		refunds[i] = viewRefund(one)
	}
	view := viewTopup(row)
	view.Refunds = &refunds
	WriteJSON(w, http.StatusOK, view)
	return nil
}

type refundView struct {
	ID        string     `json:"refund_id"`
	Topup     string     `json:"topup_id"`
	Customer  string     `json:"customer"`
	Amount    money.Nano `json:"amount"`
	State     string     `json:"state"` // created, submitted, succeeded, failed
	Reason    string     `json:"reason"`
	CreatedAt time.Time  `json:"created_at"`
}

func viewRefund(r ledger.Refund) refundView {
	return refundView{r.ID, r.Topup, r.Customer, r.Amount, r.State, r.Reason, r.CreatedAt.UTC()}
}

// refund books the refund; Stripe is asked for it right after, by the worker.
func (p *plane) refund(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Amount json.RawMessage `json:"amount"`
		Reason string          `json:"reason"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	want := ledger.Refund{Topup: r.PathValue("id"), Reason: in.Reason}
	if named(in.Amount) {
		if want.Amount, err = readAmount(in.Amount); err != nil {
			return err
		}
	}
	switch {
	case !topup.WholeCents(want.Amount):
		return refuse(http.StatusUnprocessableEntity, "invalid_amount", "amount: %s is not in whole cents", want.Amount)
	case len(in.Reason) > reasonMax:
		return refuse(http.StatusUnprocessableEntity, "invalid_reason", "reason is longer than %d bytes", reasonMax)
	}
	return p.apply(w, r, change{body: body, needsKey: true, then: p.Topup.Wake}, func(tx *ledger.Tx) (int, any, error) {
		made, after, err := tx.CreateRefund(r.Context(), want)
		switch {
		case errors.Is(err, ledger.ErrSpent):
			err = refuse(http.StatusConflict, "topup_spent", "%s", err)
		case errors.Is(err, ledger.ErrConflict):
			err = refuse(http.StatusConflict, "not_refundable", "only a top-up that was paid can be refunded, and no subscription: %s", err)
		}
		return http.StatusCreated, struct {
			refundView
			Wallet walletView `json:"wallet"`
		}{viewRefund(made), viewWallet(after)}, err
	})
}

type lotView struct {
	ID        string     `json:"id"`
	Kind      string     `json:"kind"`   // paid, promo
	Parent    string     `json:"parent"` // the purchase that a bonus belongs to
	Amount    money.Nano `json:"amount"`
	Used      money.Nano `json:"used"`
	Expired   money.Nano `json:"expired"`
	Refunded  money.Nano `json:"refunded"`
	Rest      money.Nano `json:"rest"`
	Priority  int        `json:"priority"`
	ExpiresAt *time.Time `json:"expires_at"`
	CreatedAt time.Time  `json:"created_at"`
}

// listLots answers one page: the ledger bounds how many lots a wallet shows.
func (p *plane) listLots(w http.ResponseWriter, r *http.Request) error {
	list, err := p.Ledger.Lots(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	writeList(w, list, "", func(l ledger.Lot) any {
		return lotView{l.ID, l.Kind, l.Parent, l.Amount, l.Used, l.Expired, l.Refunded, l.Rest, l.Priority, timeOrNull(l.ExpiresAt), l.CreatedAt.UTC()}
	})
	return nil
}

type planView struct {
	ID             string     `json:"id"`
	StripePrice    string     `json:"stripe_price"`
	IncludedCredit money.Nano `json:"included_credit"` // of one period, and gone at its end
}

func viewPlan(p ledger.Plan) any { return planView{p.ID, p.StripePrice, p.Included} }

func (p *plane) setPlan(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		StripePrice    string          `json:"stripe_price"`
		IncludedCredit json.RawMessage `json:"included_credit"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	plan := ledger.Plan{ID: r.PathValue("id"), StripePrice: in.StripePrice}
	switch {
	case !identifier.MatchString(plan.ID):
		return refuse(http.StatusUnprocessableEntity, "invalid_plan", "plan: %q does not match %s", plan.ID, identifier)
	case plan.StripePrice == "" || len(plan.StripePrice) > priceMax:
		return invalid("stripe_price is missing: the id of a recurring price at Stripe")
	}
	if plan.Included, err = readDollars("included_credit", in.IncludedCredit); err != nil {
		return err
	}
	return p.apply(w, r, change{body: body}, func(tx *ledger.Tx) (int, any, error) {
		err := tx.SetPlan(r.Context(), plan)
		if errors.Is(err, ledger.ErrConflict) {
			err = refuse(http.StatusConflict, "exists", "%s", err)
		}
		return http.StatusOK, viewPlan(plan), err
	})
}

func (p *plane) listPlans(w http.ResponseWriter, r *http.Request) error {
	list, err := p.Ledger.Plans(r.Context())
	if err != nil {
		return err
	}
	writeList(w, list, "", viewPlan)
	return nil
}

// subscribe asks Stripe before the answer is stored: Stripe gives the same page
// to the same request, and what was stored first is what everybody is told.
func (p *plane) subscribe(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Plan       string `json:"plan"`
		SuccessURL string `json:"success_url"`
		CancelURL  string `json:"cancel_url"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	pages := topup.Pages{SuccessURL: in.SuccessURL, CancelURL: in.CancelURL}
	key, err := idempotencyKey(r, true)
	if err == nil {
		err = checkPages(pages)
	}
	if err != nil {
		return err
	}
	plans, err := p.Ledger.Plans(r.Context())
	if err != nil {
		return err
	}
	for _, plan := range plans {
		if plan.ID != in.Plan {
			continue
		}
		sum := sha256.Sum256(append([]byte(key+"\x00"), body...))
		page, err := p.Topup.Subscribe(r.Context(), hex.EncodeToString(sum[:]), r.PathValue("id"), plan, pages)
		if err != nil {
			return err
		}
		return p.apply(w, r, change{body: body, needsKey: true}, func(*ledger.Tx) (int, any, error) {
			return http.StatusCreated, map[string]string{"url": page}, nil
		})
	}
	return refuse(http.StatusNotFound, "not_found", "plan %q is not sold: PUT /plans/%s with its price at Stripe", in.Plan, url.PathEscape(in.Plan))
}

// thanks is where a customer goes after a page of Stripe whose purchase named
// no other place. It says nothing of the payment, which it does not know.
func thanks(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "You can close this page.\n") // the customer may have left, which is nobody's error
}

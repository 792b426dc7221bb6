package stripefake

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

var checkoutEndpoints = []endpoint{
	{"POST /v1/checkout/sessions", "mode:payment|subscription|setup! success_url! cancel_url customer customer_email customer_creation:always|if_required " +
		"client_reference_id currency locale expires_at:int metadata.* payment_method_types submit_type:auto|book|donate|pay " +
		"consent_collection.terms_of_service:none|required consent_collection.payment_method_reuse_agreement.position:auto|hidden " +
		"custom_text.submit.message custom_text.after_submit.message custom_text.terms_of_service_acceptance.message line_items.price line_items.quantity:int " + dotted("line_items.price_data", priceDataSpec) +
		"payment_intent_data.metadata.* payment_intent_data.description payment_intent_data.receipt_email payment_intent_data.setup_future_usage:off_session|on_session " +
		"payment_intent_data.statement_descriptor payment_intent_data.statement_descriptor_suffix " +
		"subscription_data.metadata.* subscription_data.description setup_intent_data.metadata.* setup_intent_data.description", (*Server).createSession},
	read("checkout/sessions", "checkout.session"),
	list("checkout/sessions", "checkout.session", "customer", "payment_intent", "subscription"),
	{"GET /v1/checkout/sessions/{id}/line_items", paging, (*Server).linesOfSession},
	{"POST /v1/checkout/sessions/{id}/expire", "", (*Server).expireAsked},
}

var setupEndpoints = []endpoint{
	read("setup_intents", "setup_intent"),
	list("setup_intents", "setup_intent", "customer", "payment_method"),
}

// dotted puts a parent before each name of a specification.
func dotted(parent, spec string) string {
	var b strings.Builder
	for _, name := range strings.Fields(spec) {
		b.WriteString(parent + "." + name + " ")
	}
	return b.String()
}

const (
	// sessionLife is how long a session is open unless expires_at says less,
	// sessionLifeMin the least it may say.
	sessionLife    = 24 * time.Hour
	sessionLifeMin = 30 * time.Minute
	// linesMax is Stripe's limit of line items.
	linesMax = 100
)

// session is what a Checkout Session knows beside what it shows.
type session struct {
	lines        []object
	payment      params // payment_intent_data
	subscription params // subscription_data
	intent       string // the payment or setup intent of its page
}

func (s *Server) createSession(c *call) (object, error) {
	if err := s.checkSession(c); err != nil {
		return nil, err
	}
	inner := &session{}
	inner.payment, _ = c.at("payment_intent_data").(params)
	inner.subscription, _ = c.at("subscription_data").(params)
	total, currency, err := s.priceLines(c, inner)
	if err != nil {
		return nil, err
	}
	o := s.create("checkout.session", object{"mode": c.str("mode"), "expires_at": c.num("expires_at", s.now().Add(sessionLife).Unix())})
	s.sessions[o.str("id")] = inner
	c.copyTexts(o, "success_url", "cancel_url", "customer", "customer_email", "customer_creation", "client_reference_id", "locale", "submit_type", "currency")
	c.merge(o, "metadata")
	if types := c.strs("payment_method_types"); len(types) > 0 {
		o["payment_method_types"] = texts(types)
	}
	showConsent(o, c.params)
	o["url"] = c.base + "/pay/" + o.str("id")
	switch c.str("mode") {
	case "setup":
		o["payment_status"] = "no_payment_required"
		s.createSetup(o, c.params)
		return o, nil
	case "subscription":
		o["payment_method_collection"] = "always"
	}
	if o["customer"] == nil && o["customer_creation"] == nil {
		o["customer_creation"] = map[string]string{"payment": "if_required", "subscription": "always"}[c.str("mode")]
	}
	o.set(object{"amount_subtotal": total, "amount_total": total, "currency": currency,
		"total_details": object{"amount_discount": int64(0), "amount_shipping": int64(0), "amount_tax": int64(0)}})
	return o, nil
}

// showConsent writes what the page asks its reader to agree to.
func showConsent(o object, p params) {
	for _, place := range []string{"submit", "after_submit", "terms_of_service_acceptance"} {
		if text := p.str("custom_text." + place + ".message"); text != "" {
			o.sub("custom_text")[place] = object{"message": text}
		}
	}
	if !p.has("consent_collection") {
		return
	}
	asked := object{"payment_method_reuse_agreement": nil, "promotions": "none", "terms_of_service": "none"}
	if terms := p.str("consent_collection.terms_of_service"); terms != "" {
		asked["terms_of_service"] = terms
	}
	if position := p.str("consent_collection.payment_method_reuse_agreement.position"); position != "" {
		asked["payment_method_reuse_agreement"] = object{"position": position}
	}
	o["consent_collection"] = asked
}

// checkSession refuses what cannot become a session, before anything is made.
func (s *Server) checkSession(c *call) error {
	for _, name := range []string{"success_url", "cancel_url"} {
		u, err := url.Parse(c.str(name))
		if c.has(name) && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			return invalid("url_invalid", name, "Not a valid URL")
		}
	}
	if customer := c.str("customer"); customer != "" {
		if _, err := s.find("customer", customer, "customer"); err != nil {
			return err
		}
		if c.has("customer_email") || c.has("customer_creation") {
			return invalid("", "customer", "You may only specify one of these parameters: customer, customer_email, customer_creation.")
		}
	}
	mode := c.str("mode")
	if at := c.num("expires_at", 0); at != 0 && (at < s.now().Add(sessionLifeMin).Unix() || at > s.now().Add(sessionLife).Unix()) {
		return invalid("", "expires_at", "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.")
	}
	for name, of := range map[string]string{"payment_intent_data": "payment", "subscription_data": "subscription", "setup_intent_data": "setup", "submit_type": "payment", "customer_creation": "payment"} {
		if c.has(name) && mode != of {
			return invalid("", name, "You can only use `%s` in `%s` mode.", name, of)
		}
	}
	lines := len(c.items("line_items"))
	switch {
	case mode == "setup" && lines > 0:
		return invalid("", "line_items", "You can not pass `line_items` in `setup` mode.")
	case mode != "setup" && lines == 0:
		return invalid("parameter_missing", "line_items", "The `line_items` parameter is required in %s mode.", mode)
	case lines > linesMax:
		return invalid("", "line_items", "At most %d line items.", linesMax)
	}
	return nil
}

// priceLines makes the line items and their total in cents.
func (s *Server) priceLines(c *call, inner *session) (total int64, currency string, err error) {
	for i, item := range c.items("line_items") {
		price, err := s.priceOfLine(item, fmt.Sprintf("line_items[%d]", i))
		if err != nil {
			return 0, "", err
		}
		quantity := item.num("quantity", 1)
		amount := price.num("unit_amount") * quantity
		switch recurring := price.str("type") == "recurring"; {
		case recurring && c.str("mode") == "payment":
			return 0, "", invalid("", "mode", "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or use only one-time prices.")
		case !recurring && c.str("mode") == "subscription":
			return 0, "", invalid("", "mode", "You must provide only recurring prices in `subscription` mode: one-time lines are not known here.")
		case quantity < 1 || quantity > amountMax || amount > amountMax:
			return 0, "", invalid("", "line_items", "A line of %d × %d cents is out of range.", quantity, price.num("unit_amount"))
		case currency != "" && currency != price.str("currency"):
			return 0, "", invalid("", "line_items", "All line items must have the same currency.")
		}
		currency = price.str("currency")
		total += amount
		inner.lines = append(inner.lines, s.fresh("item", object{"price": price.copy(), "quantity": quantity, "currency": currency,
			"amount_subtotal": amount, "amount_total": amount, "description": s.objects[price.str("product")]["name"]}))
	}
	if len(inner.lines) == 0 {
		return 0, "", nil
	}
	return total, currency, checkAmount(total, currency)
}

func (s *Server) priceOfLine(item params, param string) (object, error) {
	data, inline := item.at("price_data").(params)
	if inline {
		price, err := s.newPrice(data)
		var e *apiError
		if errors.As(err, &e) && e.param != "" {
			e.param = param + "[price_data][" + e.param + "]"
		}
		if err != nil {
			return nil, err
		}
		return price.set(object{"active": false}), nil // Stripe keeps inline prices, but sells no more of them
	}
	price, err := s.find("price", item.str("price"), param+"[price]")
	if err == nil && !price.flag("active") {
		err = invalid("", param, "The price specified is inactive. This field only accepts active prices.")
	}
	return price, err
}

func (s *Server) linesOfSession(c *call) (object, error) {
	if _, err := s.find("checkout.session", c.id, "session"); err != nil {
		return nil, err
	}
	return wholeList(s.sessions[c.id].lines, c.path), nil
}

func (s *Server) expireAsked(c *call) (object, error) {
	o, err := s.find("checkout.session", c.id, "session")
	if err != nil {
		return nil, err
	}
	if o.str("status") != "open" {
		return nil, invalid("", "session", "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of \"%s\".", o.str("status"))
	}
	s.expireSession(o)
	return o, nil
}

// expireSession closes the page; its payment, if one was tried, is canceled.
func (s *Server) expireSession(o object) {
	o.set(object{"status": "expired", "url": nil})
	intent := s.objects[s.sessions[o.str("id")].intent]
	if intent.str("object") == "payment_intent" && strings.HasPrefix(intent.str("status"), "requires_") {
		s.cancel(intent, "automatic")
	}
	s.emit("checkout.session.expired", o, nil)
}

// ExpireSession closes an open session now.
func (s *Server) ExpireSession(session string) error {
	return s.world(func() error {
		o, err := s.find("checkout.session", session, "session")
		if err != nil {
			return err
		}
		if o.str("status") != "open" {
			return fmt.Errorf("cannot expire %s: it is %s", session, o.str("status"))
		}
		s.expireSession(o)
		return nil
	})
}

// completeSession shows what the payer left on the page.
func (s *Server) completeSession(o object, paymentStatus string) {
	payer := s.objects[o.str("customer")]
	email := payer["email"]
	if o.str("customer_email") != "" {
		email = o["customer_email"]
	}
	o.set(object{"status": "complete", "payment_status": paymentStatus, "url": nil,
		"customer_details": object{"address": object{"city": nil, "country": "US", "line1": nil, "line2": nil, "postal_code": "94102", "state": nil},
			"email": email, "name": payer["name"], "phone": nil, "tax_exempt": "none", "tax_ids": []any{}}})
	if o.sub("consent_collection").str("terms_of_service") == "required" {
		o["consent"] = object{"promotions": nil, "terms_of_service": "accepted"}
	}
	s.emit("checkout.session.completed", o, nil)
}

// sessionPaid, sessionProcessing and sessionFailed tell the session of a
// payment what became of it. Payments without one pass by.
func (s *Server) sessionPaid(pi object) {
	o := s.objects[s.owners[pi.str("id")]]
	switch o.str("status") {
	case "open":
		s.completeSession(o, "paid")
	case "complete":
		o["payment_status"] = "paid"
		s.emit("checkout.session.async_payment_succeeded", o, nil)
	}
}

func (s *Server) sessionProcessing(pi object) {
	if o := s.objects[s.owners[pi.str("id")]]; o != nil {
		s.completeSession(o, "unpaid")
	}
}

func (s *Server) sessionFailed(pi object) {
	if o := s.objects[s.owners[pi.str("id")]]; o != nil {
		s.emit("checkout.session.async_payment_failed", o, nil)
	}
}

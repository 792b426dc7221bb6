package stripefake

import "fmt"

const addressSpec = "address.city address.country address.line1 address.line2 address.postal_code address.state "

const customerSpec = addressSpec + "name email phone description metadata.* invoice_settings.default_payment_method tax_exempt:none|exempt|reverse preferred_locales "

var customerEndpoints = []endpoint{
	{"POST /v1/customers", customerSpec + "payment_method", (*Server).createCustomer},
	{"GET /v1/customers/search", "query! limit:int page", func(s *Server, c *call) (object, error) { return s.search(c, "customer") }},
	read("customers", "customer"),
	list("customers", "customer", "email"),
	{"POST /v1/customers/{id}", customerSpec, (*Server).updateCustomer},
	{"GET /v1/customers/{id}/payment_methods", paging + "type", (*Server).methodsOfCustomer},
}

var methodEndpoints = []endpoint{
	{"POST /v1/payment_methods", "type:card! card.token card.number card.exp_month:int card.exp_year:int card.cvc metadata.*", (*Server).createMethod},
	read("payment_methods", "payment_method"),
	{"GET /v1/payment_methods", paging + "customer type", (*Server).methodsListed},
	{"POST /v1/payment_methods/{id}", "metadata.*", (*Server).updateMethod},
	{"POST /v1/payment_methods/{id}/attach", "customer!", (*Server).attachMethod},
	{"POST /v1/payment_methods/{id}/detach", "", (*Server).detachMethod},
}

func (s *Server) createCustomer(c *call) (object, error) {
	var pm object
	if given := c.str("payment_method"); given != "" {
		var err error
		if pm, err = s.method(given, "payment_method"); err != nil {
			return nil, err
		}
		if err := s.attachable(pm); err != nil {
			return nil, err
		}
	}
	o := s.create("customer", nil)
	o["invoice_prefix"] = o.str("id")[len("cus_"):][:8]
	if err := s.changeCustomer(o, c.params); err != nil {
		return nil, err
	}
	s.emit("customer.created", o, nil)
	if pm != nil {
		s.attach(pm, o.str("id"))
	}
	return o, nil
}

func (s *Server) updateCustomer(c *call) (object, error) {
	o, err := s.find("customer", c.id, "id")
	if err != nil {
		return nil, err
	}
	before := o.copy()
	if err := s.changeCustomer(o, c.params); err != nil {
		return nil, err
	}
	s.emit("customer.updated", o, before)
	return o, nil
}

// changeCustomer writes the request's fields into o; it checks before it writes.
func (s *Server) changeCustomer(o object, p params) error {
	if pm := p.str("invoice_settings.default_payment_method"); pm != "" {
		m, err := s.find("payment_method", pm, "invoice_settings[default_payment_method]")
		if err != nil {
			return err
		}
		if m.str("customer") != o.str("id") {
			return invalid("", "invoice_settings[default_payment_method]", "The payment method must be attached to the customer first.")
		}
	}
	if p.has("invoice_settings.default_payment_method") {
		o.sub("invoice_settings")["default_payment_method"] = p.orNull("invoice_settings.default_payment_method")
	}
	if p.has("address") {
		address := object{}
		for _, f := range []string{"city", "country", "line1", "line2", "postal_code", "state"} {
			address[f] = p.orNull("address." + f)
		}
		o["address"] = address
	}
	p.copyTexts(o, "name", "email", "phone", "description")
	if p.has("tax_exempt") {
		o["tax_exempt"] = p.str("tax_exempt")
	}
	if p.has("preferred_locales") {
		o["preferred_locales"] = texts(p.strs("preferred_locales"))
	}
	p.merge(o, "metadata")
	return nil
}

// texts is a list of texts as an object holds it.
func texts(of []string) []any {
	out := make([]any, len(of))
	for i, t := range of {
		out[i] = t
	}
	return out
}

func (s *Server) methodsOfCustomer(c *call) (object, error) {
	if _, err := s.find("customer", c.id, "customer"); err != nil {
		return nil, err
	}
	return s.page(c, s.order["payment_method"], func(o object) bool {
		return o.str("customer") == c.id && matches(o, c.params, []string{"type"})
	})
}

// methodsListed shows a customer's methods; without a customer Stripe shows
// those that nobody has saved.
func (s *Server) methodsListed(c *call) (object, error) {
	return s.page(c, s.order["payment_method"], func(o object) bool {
		return o.str("customer") == c.str("customer") && matches(o, c.params, []string{"type"})
	})
}

func (s *Server) createMethod(c *call) (object, error) {
	token, number := c.str("card.token"), c.str("card.number")
	if token == "" && number == "" {
		return nil, invalid("parameter_missing", "card", "Missing required param: card.")
	}
	given := number
	if token != "" {
		given = "pm_card_" + trimToken(token)
	}
	k, ok := testCard(given)
	if !ok || k.slow {
		return nil, invalid("", "card[number]", "Only Stripe's test cards are known here.")
	}
	pm := s.newMethod(k)
	if n := c.num("card.exp_month", 0); n > 0 {
		pm.sub("card").set(object{"exp_month": n, "exp_year": c.num("card.exp_year", 0)})
	}
	c.merge(pm, "metadata")
	return pm, nil
}

// trimToken turns tok_visa into visa.
func trimToken(token string) string {
	if len(token) > 4 && token[:4] == "tok_" {
		return token[4:]
	}
	return token
}

func (s *Server) updateMethod(c *call) (object, error) {
	pm, err := s.find("payment_method", c.id, "payment_method")
	if err != nil {
		return nil, err
	}
	before := pm.copy()
	c.merge(pm, "metadata")
	s.emit("payment_method.updated", pm, before)
	return pm, nil
}

func (s *Server) attachMethod(c *call) (object, error) {
	if _, err := s.find("customer", c.str("customer"), "customer"); err != nil {
		return nil, err
	}
	pm, err := s.method(c.id, "payment_method")
	if err != nil {
		return nil, err
	}
	if holder := pm.str("customer"); holder != "" && holder != c.str("customer") {
		return nil, invalid("", "", "The payment method you provided has already been attached to a customer.")
	}
	if err := s.attachable(pm); err != nil {
		return nil, err
	}
	s.attach(pm, c.str("customer"))
	return pm, nil
}

// attachable refuses a card that its issuer refuses to have saved.
func (s *Server) attachable(pm object) error {
	k := s.cards[pm.str("id")]
	if k.code == "" || k.attaches {
		return nil
	}
	return &apiError{status: 402, kind: "card_error", code: k.code, declined: k.decline, message: declineMessage(k.decline), method: pm, kept: true}
}

func (s *Server) attach(pm object, customer string) {
	if pm.str("customer") == customer {
		return
	}
	pm["customer"] = customer
	s.emit("payment_method.attached", pm, nil)
}

func (s *Server) detachMethod(c *call) (object, error) {
	pm, err := s.find("payment_method", c.id, "payment_method")
	if err != nil {
		return nil, err
	}
	holder := pm.str("customer")
	if holder == "" {
		return nil, invalid("", "", "The payment method you provided is not attached to a customer so detachment is impossible.")
	}
	before := pm.copy()
	pm["customer"] = nil
	if settings := s.objects[holder].sub("invoice_settings"); settings.str("default_payment_method") == c.id {
		settings["default_payment_method"] = nil
	}
	s.emit("payment_method.detached", pm, before)
	return pm, nil
}

// SavedCard gives a customer a card that was set up with his consent, as after a
// Checkout that saved it; card is a test number or pm_card_… token.
func (s *Server) SavedCard(customer, card string) (paymentMethod string, err error) {
	err = s.world(func() error {
		if _, err := s.find("customer", customer, "customer"); err != nil {
			return err
		}
		k, ok := testCard(card)
		if !ok {
			return unknownCard(card)
		}
		k.ready = true
		pm := s.newMethod(k)
		s.attach(pm, customer)
		paymentMethod = pm.str("id")
		return nil
	})
	return paymentMethod, err
}

// SetCard makes a saved payment method behave like the given test card from now
// on: its issuer has changed his mind.
func (s *Server) SetCard(paymentMethod, card string) error {
	return s.world(func() error {
		if _, err := s.find("payment_method", paymentMethod, "payment_method"); err != nil {
			return err
		}
		k, ok := testCard(card)
		if !ok {
			return unknownCard(card)
		}
		k.ready = s.cards[paymentMethod].ready
		s.cards[paymentMethod] = k
		return nil
	})
}

func unknownCard(given string) error {
	return fmt.Errorf("cannot use %q: no test card", given)
}

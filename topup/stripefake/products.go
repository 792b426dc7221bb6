package stripefake

import "strconv"

const priceDataSpec = "currency unit_amount:int recurring.interval:day|week|month|year recurring.interval_count:int product product_data.name product_data.metadata.* "

var productEndpoints = []endpoint{
	{"POST /v1/products", "name! id description active:bool metadata.* statement_descriptor unit_label", (*Server).createProduct},
	read("products", "product"),
	list("products", "product", "active:bool"),
	{"POST /v1/products/{id}", "name description active:bool metadata.*", (*Server).updateProduct},
	{"POST /v1/prices", priceDataSpec + "currency! nickname active:bool lookup_key metadata.* tax_behavior:exclusive|inclusive|unspecified", (*Server).createPrice},
	read("prices", "price"),
	list("prices", "price", "product", "active:bool", "currency", "type:one_time|recurring"),
	{"POST /v1/prices/{id}", "nickname active:bool metadata.*", (*Server).updatePrice},
}

func (s *Server) createProduct(c *call) (object, error) {
	if id := c.str("id"); s.objects[id] != nil {
		return nil, invalid("resource_already_exists", "id", "Product already exists.")
	}
	o := s.newProduct(c.params)
	if id := c.str("id"); id != "" {
		delete(s.objects, o.str("id"))
		o["id"] = id
		s.objects[id] = o
	}
	o["active"] = c.str("active") != "false"
	c.copyTexts(o, "statement_descriptor", "unit_label")
	s.emit("product.created", o, nil)
	return o, nil
}

func (s *Server) newProduct(p params) object {
	o := s.create("product", object{"name": p.str("name"), "updated": s.unix()})
	p.copyTexts(o, "description")
	p.merge(o, "metadata")
	return o
}

func (s *Server) updateProduct(c *call) (object, error) {
	o, err := s.find("product", c.id, "id")
	if err != nil {
		return nil, err
	}
	before := o.copy()
	c.copyTexts(o, "name", "description")
	if c.has("active") {
		o["active"] = c.flag("active")
	}
	c.merge(o, "metadata")
	o["updated"] = s.unix()
	s.emit("product.updated", o, before)
	return o, nil
}

func (s *Server) createPrice(c *call) (object, error) {
	o, err := s.newPrice(c.params)
	if err != nil {
		return nil, err
	}
	o["active"] = c.str("active") != "false"
	c.copyTexts(o, "nickname", "lookup_key", "tax_behavior")
	c.merge(o, "metadata")
	s.emit("price.created", o, nil)
	return o, nil
}

// newPrice makes a price from its fields, which a Checkout line or a request to
// /v1/prices has; the product too if it is described in place.
func (s *Server) newPrice(p params) (object, error) {
	amount := p.num("unit_amount", 0)
	product := p.str("product")
	if amount < 1 {
		return nil, invalid("parameter_missing", "unit_amount", "Missing required param: unit_amount. Free prices are not known here.")
	}
	if err := checkAmount(max(amount, amountMin), p.str("currency")); err != nil { // a price may be small, a payment may not
		return nil, err
	}
	inline, _ := p.at("product_data").(params)
	switch {
	case product == "" && inline.str("name") == "":
		return nil, invalid("parameter_missing", "product", "Missing required param: product or product_data[name].")
	case product != "":
		if _, err := s.find("product", product, "product"); err != nil {
			return nil, err
		}
	default:
		o := s.newProduct(inline)
		s.emit("product.created", o, nil)
		product = o.str("id")
	}
	o := s.create("price", object{"currency": p.str("currency"), "product": product, "unit_amount": amount, "unit_amount_decimal": strconv.FormatInt(amount, 10)})
	if interval := p.str("recurring.interval"); interval != "" {
		o.set(object{"type": "recurring", "recurring": object{"aggregate_usage": nil, "interval": interval, "interval_count": p.num("recurring.interval_count", 1),
			"meter": nil, "trial_period_days": nil, "usage_type": "licensed"}})
	}
	return o, nil
}

func (s *Server) updatePrice(c *call) (object, error) {
	o, err := s.find("price", c.id, "price")
	if err != nil {
		return nil, err
	}
	before := o.copy()
	c.copyTexts(o, "nickname")
	if c.has("active") {
		o["active"] = c.flag("active")
	}
	c.merge(o, "metadata")
	s.emit("price.updated", o, before)
	return o, nil
}

// planOf is the older face of a recurring price, which items and lines show.
func planOf(price object) object {
	return blank["plan"].copy().set(object{"id": price["id"], "object": "plan", "created": price["created"], "amount": price["unit_amount"],
		"amount_decimal": price["unit_amount_decimal"], "currency": price["currency"], "product": price["product"],
		"interval": price.sub("recurring")["interval"], "interval_count": price.sub("recurring")["interval_count"]})
}

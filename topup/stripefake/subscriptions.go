package stripefake

import (
	"fmt"
	"time"
)

var subscriptionEndpoints = []endpoint{
	{"POST /v1/subscriptions", "customer! items.price items.quantity:int default_payment_method description metadata.* off_session:bool cancel_at_period_end:bool " +
		"payment_behavior:allow_incomplete|default_incomplete|error_if_incomplete", (*Server).createSubscription},
	read("subscriptions", "subscription"),
	{"GET /v1/subscriptions", paging + "customer status", (*Server).listSubscriptions},
	{"POST /v1/subscriptions/{id}", "default_payment_method description metadata.* cancel_at_period_end:bool", (*Server).updateSubscription},
	{"DELETE /v1/subscriptions/{id}", "", (*Server).cancelSubscription},
	read("invoices", "invoice"),
	list("invoices", "invoice", "customer", "subscription", "status"),
	{"POST /v1/invoices/{id}/pay", "payment_method off_session:bool", (*Server).payInvoice},
}

func (s *Server) createSubscription(c *call) (object, error) {
	customer, err := s.find("customer", c.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	var lines []object
	for i, item := range c.items("items") {
		price, err := s.priceOfLine(item, fmt.Sprintf("items[%d]", i))
		if err != nil {
			return nil, err
		}
		lines = append(lines, object{"price": price.copy(), "quantity": item.num("quantity", 1)})
	}
	if len(lines) == 0 {
		return nil, invalid("parameter_missing", "items", "Missing required param: items.")
	}
	given := c.str("default_payment_method")
	if _, err := s.usableMethod(given, customer.str("id")); err != nil {
		return nil, err
	}
	pm := given
	if pm == "" {
		pm = customer.sub("invoice_settings").str("default_payment_method")
	}
	lazy := c.str("payment_behavior") == "default_incomplete"
	if pm == "" && !lazy {
		return nil, invalid("resource_missing", "", "This customer has no attached payment source or default payment method.")
	}
	sub, err := s.subscribe(customer.str("id"), lines)
	if err != nil {
		return nil, err
	}
	c.copyTexts(sub, "default_payment_method", "description")
	c.merge(sub, "metadata")
	sub["cancel_at_period_end"] = c.flag("cancel_at_period_end")
	s.emit("customer.subscription.created", sub, nil)
	pi := s.objects[s.bill(sub, "subscription_create").str("payment_intent")]
	if pm == "" || lazy {
		return sub, nil
	}
	pi.set(object{"payment_method": pm, "status": "requires_confirmation"})
	err = s.confirm(pi, confirmation{offSession: c.flag("off_session")})
	if err != nil && c.str("payment_behavior") == "error_if_incomplete" {
		return nil, err
	}
	return sub, nil
}

// subscribe makes a subscription, incomplete until its first invoice is paid.
func (s *Server) subscribe(customer string, lines []object) (object, error) {
	price := lines[0].sub("price")
	total := int64(0)
	for _, line := range lines {
		if line.sub("price").str("type") != "recurring" {
			return nil, invalid("", "items", "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.")
		}
		if q := line.num("quantity"); q < 1 || q > amountMax { // the product below cannot overflow
			return nil, invalid("", "items", "A quantity of %d is out of range.", q)
		}
		total += line.sub("price").num("unit_amount") * line.num("quantity")
	}
	if err := checkAmount(total, price.str("currency")); err != nil {
		return nil, err
	}
	now := s.now()
	sub := s.create("subscription", object{"customer": customer, "currency": price["currency"], "start_date": now.Unix(), "billing_cycle_anchor": now.Unix(),
		"current_period_start": now.Unix(), "current_period_end": periodEnd(now, price)})
	var items []object
	for _, line := range lines {
		items = append(items, s.fresh("subscription_item", object{"subscription": sub["id"], "price": line.sub("price").copy(), "plan": planOf(line.sub("price")),
			"quantity": line["quantity"]}))
	}
	sub["items"] = wholeList(items, "/v1/subscription_items?subscription="+sub.str("id"))
	return sub, nil
}

// listSubscriptions leaves out canceled ones unless their status, or all, is asked for.
func (s *Server) listSubscriptions(c *call) (object, error) {
	status := c.str("status")
	return s.page(c, s.order["subscription"], func(o object) bool {
		is := o.str("status")
		return matches(o, c.params, []string{"customer"}) && (status == "all" || status == is || status == "" && is != "canceled")
	})
}

// periodEnd is when the period of the price that starts at from ends.
func periodEnd(from time.Time, price object) int64 {
	n := int(price.sub("recurring").num("interval_count"))
	switch price.sub("recurring").str("interval") {
	case "day":
		return from.AddDate(0, 0, n).Unix()
	case "week":
		return from.AddDate(0, 0, 7*n).Unix()
	case "year":
		return from.AddDate(n, 0, 0).Unix()
	}
	return from.AddDate(0, n, 0).Unix()
}

// bill makes and finalizes the invoice of the current period, with its payment.
func (s *Server) bill(sub object, reason string) object {
	inv := s.create("invoice", object{"customer": sub["customer"], "subscription": sub["id"], "currency": sub["currency"], "billing_reason": reason,
		"period_start": sub["current_period_start"], "period_end": sub["current_period_end"], "auto_advance": true,
		"customer_email": s.objects[sub.str("customer")]["email"], "customer_name": s.objects[sub.str("customer")]["name"]})
	inv.sub("subscription_details")["metadata"] = sub.sub("metadata").copy()
	var lines []object
	total := int64(0)
	for _, x := range sub.sub("items")["data"].([]any) {
		item := x.(object)
		amount := item.sub("price").num("unit_amount") * item.num("quantity")
		total += amount
		lines = append(lines, s.fresh("line_item", object{"amount": amount, "amount_excluding_tax": amount, "currency": sub["currency"], "invoice": inv["id"],
			"description": s.objects[item.sub("price").str("product")]["name"], "period": object{"start": sub["current_period_start"], "end": sub["current_period_end"]},
			"price": item.sub("price").copy(), "plan": item.sub("plan").copy(), "quantity": item["quantity"], "subscription": sub["id"], "subscription_item": item["id"],
			"metadata": sub.sub("metadata").copy(), "unit_amount_excluding_tax": item.sub("price")["unit_amount_decimal"]}))
	}
	inv["lines"] = wholeList(lines, "/v1/invoices/"+inv.str("id")+"/lines")
	inv.set(object{"amount_due": total, "amount_remaining": total, "subtotal": total, "subtotal_excluding_tax": total, "total": total, "total_excluding_tax": total})
	before := sub.copy()
	sub["latest_invoice"] = inv.str("id")
	s.emit("invoice.created", inv, nil)
	pi := s.newPayment(object{"amount": total, "currency": inv["currency"], "customer": inv["customer"], "invoice": inv["id"],
		"setup_future_usage": "off_session", "description": map[string]string{"subscription_create": "Subscription creation", "subscription_cycle": "Subscription update"}[reason]})
	inv.set(object{"status": "open", "payment_intent": pi.str("id"), "effective_at": s.unix(), "number": fmt.Sprintf("WEIR-%04d", len(s.order["invoice"]))})
	inv.sub("status_transitions")["finalized_at"] = s.unix()
	s.emit("payment_intent.created", pi, nil)
	s.emit("invoice.finalized", inv, nil)
	s.emit("customer.subscription.updated", sub, before)
	return inv
}

// invoicePaid and invoiceRefused tell the invoice of a payment, and its
// subscription, what became of it. Payments without one pass by.
func (s *Server) invoicePaid(pi object) {
	inv := s.objects[pi.str("invoice")]
	if inv == nil {
		return
	}
	inv.set(object{"status": "paid", "paid": true, "attempted": true, "attempt_count": inv.num("attempt_count") + 1, "charge": pi["latest_charge"],
		"amount_paid": inv["amount_due"], "amount_remaining": int64(0), "auto_advance": false})
	inv.sub("status_transitions")["paid_at"] = s.unix()
	s.emit("invoice.paid", inv, nil)
	s.emit("invoice.payment_succeeded", inv, nil)
	s.moveSubscription(s.objects[inv.str("subscription")], "active")
}

func (s *Server) invoiceRefused(pi object) {
	inv := s.objects[pi.str("invoice")]
	if inv == nil {
		return
	}
	inv.set(object{"attempted": true, "attempt_count": inv.num("attempt_count") + 1})
	s.emit("invoice.payment_failed", inv, nil)
	if pi.sub("last_payment_error").str("code") == "authentication_required" {
		s.emit("invoice.payment_action_required", inv, nil)
	}
	if sub := s.objects[inv.str("subscription")]; sub.str("status") == "active" {
		s.moveSubscription(sub, "past_due")
	}
}

func (s *Server) moveSubscription(sub object, status string) {
	if sub.str("status") == status || sub.str("status") == "canceled" {
		return
	}
	before := sub.copy()
	sub["status"] = status
	s.emit("customer.subscription.updated", sub, before)
}

func (s *Server) updateSubscription(c *call) (object, error) {
	sub, err := s.find("subscription", c.id, "id")
	if err != nil {
		return nil, err
	}
	if sub.str("status") == "canceled" {
		return nil, invalid("", "", "A canceled subscription can only update its cancellation_details and metadata.")
	}
	if _, err := s.usableMethod(c.str("default_payment_method"), sub.str("customer")); err != nil {
		return nil, err
	}
	before := sub.copy()
	c.copyTexts(sub, "default_payment_method", "description")
	c.merge(sub, "metadata")
	if c.has("cancel_at_period_end") {
		sub.set(object{"cancel_at_period_end": c.flag("cancel_at_period_end"), "cancel_at": nil, "canceled_at": nil})
		if c.flag("cancel_at_period_end") {
			sub.set(object{"cancel_at": sub["current_period_end"], "canceled_at": s.unix()})
		}
	}
	s.emit("customer.subscription.updated", sub, before)
	return sub, nil
}

func (s *Server) cancelSubscription(c *call) (object, error) {
	sub, err := s.find("subscription", c.id, "id")
	if err != nil {
		return nil, err
	}
	if sub.str("status") == "canceled" {
		return nil, &apiError{status: 404, kind: "invalid_request_error", code: "resource_missing", param: "id", message: "No such subscription: '" + c.id + "'"}
	}
	s.endSubscription(sub)
	return sub, nil
}

func (s *Server) endSubscription(sub object) {
	sub.set(object{"status": "canceled", "canceled_at": s.unix(), "ended_at": s.unix()})
	sub.sub("cancellation_details")["reason"] = "cancellation_requested"
	s.emit("customer.subscription.deleted", sub, nil)
}

// payInvoice tries an open invoice again.
func (s *Server) payInvoice(c *call) (object, error) {
	inv, err := s.find("invoice", c.id, "invoice")
	if err != nil {
		return nil, err
	}
	if inv.str("status") != "open" {
		return nil, invalid("", "", "Invoice is already paid")
	}
	pm, err := s.usableMethod(c.str("payment_method"), inv.str("customer"))
	if err != nil {
		return nil, err
	}
	chosen := s.payerMethod(s.objects[inv.str("subscription")])
	if pm != nil {
		chosen = pm.str("id")
	}
	if chosen == "" {
		return nil, invalid("", "", "There is no `default_payment_method` set on this Customer or Invoice.")
	}
	if err := s.payWith(inv, chosen, c.str("off_session") != "false"); err != nil {
		return nil, err
	}
	return inv, nil
}

// payWith confirms the invoice's payment with a saved method.
func (s *Server) payWith(inv object, pm string, offSession bool) error {
	pi := s.objects[inv.str("payment_intent")]
	pi.set(object{"payment_method": pm, "status": "requires_confirmation"})
	return s.confirm(pi, confirmation{offSession: offSession})
}

// payerMethod is the saved method that pays the subscription, "" if none.
func (s *Server) payerMethod(sub object) string {
	if pm := sub.str("default_payment_method"); pm != "" {
		return pm
	}
	return s.objects[sub.str("customer")].sub("invoice_settings").str("default_payment_method")
}

// Renew lets the next period of a subscription begin: its invoice is made and
// paid off session, or refused (the invoice says which). A subscription to be
// canceled at its period's end ends instead, and invoice is "".
func (s *Server) Renew(subscription string) (invoice string, err error) {
	err = s.world(func() error {
		sub, err := s.find("subscription", subscription, "id")
		if err != nil {
			return err
		}
		if sub.str("status") != "active" && sub.str("status") != "past_due" {
			return fmt.Errorf("cannot renew %s: it is %s", subscription, sub.str("status"))
		}
		if sub.flag("cancel_at_period_end") {
			s.endSubscription(sub)
			return nil
		}
		price := sub.sub("items")["data"].([]any)[0].(object).sub("price")
		from := sub.num("current_period_end")
		sub.set(object{"current_period_start": from, "current_period_end": periodEnd(time.Unix(from, 0).UTC(), price)})
		inv := s.bill(sub, "subscription_cycle")
		invoice = inv.str("id")
		if pm := s.payerMethod(sub); pm != "" {
			_ = s.payWith(inv, pm, true) // a refusal is in the invoice and its events
			return nil
		}
		s.invoiceRefused(s.objects[inv.str("payment_intent")])
		return nil
	})
	return invoice, err
}

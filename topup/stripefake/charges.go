package stripefake

import "time"

var chargeEndpoints = []endpoint{
	read("charges", "charge"),
	list("charges", "charge", "customer", "payment_intent"),
	{"POST /v1/charges/{id}", "description metadata.*", (*Server).updateCharge},
	{"GET /v1/charges/{id}/refunds", paging, (*Server).refundsListed},
	read("balance_transactions", "balance_transaction"),
	list("balance_transactions", "balance_transaction", "source", "type", "currency"),
}

// newCharge is the attempt to take the payment, pending.
func (s *Server) newCharge(pi object) object {
	pm := s.objects[pi.str("payment_method")]
	kind := pm.str("type")
	details := pm.sub(kind).copy()
	if kind == "card" {
		for _, notOfCharges := range []string{"generated_from", "networks", "display_brand", "three_d_secure_usage"} {
			delete(details, notOfCharges)
		}
		details.set(object{"amount_authorized": pi["amount"], "installments": nil, "mandate": nil, "network": details.str("brand"), "network_token": object{"used": false},
			"three_d_secure": nil, "extended_authorization": object{"status": "disabled"}, "incremental_authorization": object{"status": "unavailable"},
			"multicapture": object{"status": "unavailable"}, "overcapture": object{"maximum_amount_capturable": pi["amount"], "status": "unavailable"}})
	} else {
		delete(details, "networks")
		delete(details, "status_details")
		delete(details, "financial_connections_account")
	}
	ch := s.create("charge", object{"amount": pi["amount"], "currency": pi["currency"], "customer": pi["customer"], "payment_intent": pi["id"],
		"payment_method": pm["id"], "invoice": pi["invoice"], "description": pi["description"], "metadata": pi.sub("metadata").copy(),
		"billing_details": pm.sub("billing_details").copy(), "receipt_email": pi["receipt_email"], "statement_descriptor": pi["statement_descriptor"],
		"statement_descriptor_suffix": pi["statement_descriptor_suffix"], "payment_method_details": object{kind: details, "type": kind}})
	ch["receipt_url"] = "https://pay.stripe.com/receipts/" + ch.str("id")
	return ch
}

// paid books the money of the charge.
func (s *Server) paid(ch object) {
	ch.set(object{"status": "succeeded", "paid": true, "captured": true, "amount_captured": ch["amount"], "calculated_statement_descriptor": "WEIR"})
	if !s.options.LateFees {
		s.bookCharge(ch)
	}
}

// bookCharge makes the balance transaction that tells the charge's fee.
func (s *Server) bookCharge(ch object) {
	amount := ch.num("amount")
	ch["balance_transaction"] = s.book(ch, booking{kind: "charge", category: "charge", amount: amount, fee: Fee(amount), about: "Stripe processing fees"}).str("id")
}

// TellFees makes the balance transactions that LateFees held back, each told by
// charge.updated, and from now on they come with the payment.
func (s *Server) TellFees() {
	_ = s.world(func() error { // only fn could fail
		s.options.LateFees = false
		for _, ch := range s.order["charge"] {
			if ch.str("status") == "succeeded" && ch.str("balance_transaction") == "" {
				before := ch.copy()
				s.bookCharge(ch)
				s.emit("charge.updated", ch, before)
			}
		}
		return nil
	})
}

// Fee is Stripe's on a payment in cents: 2.9 % and 30 cents, half a cent rounded up.
func Fee(cents int64) int64 { return (cents*29+500)/1000 + 30 }

// booking is one movement of the account's balance.
type booking struct {
	kind, category, about string
	amount, fee           int64 // net is amount − fee
}

// settlingDays pass before money is available.
const settlingDays = 2

// book makes the balance transaction of source.
func (s *Server) book(source object, b booking) object {
	txn := s.create("balance_transaction", object{"amount": b.amount, "fee": b.fee, "net": b.amount - b.fee, "currency": source["currency"],
		"source": source["id"], "type": b.kind, "reporting_category": b.category, "description": source["description"],
		"available_on": s.now().Add(settlingDays * 24 * time.Hour).Unix()})
	if b.fee != 0 {
		txn["fee_details"] = []any{object{"amount": b.fee, "application": nil, "currency": source["currency"], "description": b.about, "type": "stripe_fee"}}
	}
	return txn
}

func (s *Server) updateCharge(c *call) (object, error) {
	ch, err := s.find("charge", c.id, "charge")
	if err != nil {
		return nil, err
	}
	before := ch.copy()
	c.copyTexts(ch, "description")
	c.merge(ch, "metadata")
	s.emit("charge.updated", ch, before)
	return ch, nil
}

// ChargeMade is a payment that really moved money, amounts in cents.
type ChargeMade struct {
	ID, PaymentIntent, Customer, PaymentMethod, Invoice, Currency string
	Amount, Refunded, Fee                                         int64
	Disputed                                                      bool
	DisputeStatus                                                 string // "" without a dispute
	Metadata                                                      map[string]string
	Created                                                       time.Time
}

// RefundMade is a refund as it stands; one that failed gave nothing back.
type RefundMade struct {
	ID, Charge, PaymentIntent, Status string
	Amount                            int64
	Created                           time.Time
}

// Log is what an auditor compares a ledger with: the money that moved, oldest
// first. Failed and pending charges are not in it.
type Log struct {
	Charges []ChargeMade
	Refunds []RefundMade
}

// Log tells the money that moved so far.
func (s *Server) Log() Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out Log
	for _, ch := range s.order["charge"] {
		if ch.str("status") != "succeeded" {
			continue
		}
		made := ChargeMade{ID: ch.str("id"), PaymentIntent: ch.str("payment_intent"), Customer: ch.str("customer"), PaymentMethod: ch.str("payment_method"),
			Invoice: ch.str("invoice"), Currency: ch.str("currency"), Amount: ch.num("amount"), Refunded: ch.num("amount_refunded"),
			Fee: s.objects[ch.str("balance_transaction")].num("fee"), Disputed: ch.flag("disputed"), Metadata: map[string]string{},
			Created: time.Unix(ch.num("created"), 0).UTC()}
		for k := range ch.sub("metadata") {
			made.Metadata[k] = ch.sub("metadata").str(k)
		}
		if d := s.disputeOf(ch.str("id")); d != nil {
			made.DisputeStatus = d.str("status")
		}
		out.Charges = append(out.Charges, made)
	}
	for _, re := range s.order["refund"] {
		out.Refunds = append(out.Refunds, RefundMade{ID: re.str("id"), Charge: re.str("charge"), PaymentIntent: re.str("payment_intent"),
			Status: re.str("status"), Amount: re.num("amount"), Created: time.Unix(re.num("created"), 0).UTC()})
	}
	return out
}

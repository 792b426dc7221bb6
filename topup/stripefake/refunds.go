package stripefake

import (
	"fmt"
	"slices"
)

var refundEndpoints = []endpoint{
	{"POST /v1/refunds", "charge payment_intent amount:int reason:duplicate|fraudulent|requested_by_customer metadata.*", (*Server).createRefund},
	read("refunds", "refund"),
	list("refunds", "refund", "charge", "payment_intent"),
	{"POST /v1/refunds/{id}", "metadata.*", (*Server).updateRefund},
}

func (s *Server) createRefund(c *call) (object, error) {
	ch, err := s.refundable(c.params)
	if err != nil {
		return nil, err
	}
	amount := c.num("amount", ch.num("amount")-ch.num("amount_refunded"))
	if err := s.checkRefund(ch, amount); err != nil {
		return nil, err
	}
	re := s.refund(ch, amount)
	re["reason"] = c.orNull("reason")
	c.merge(re, "metadata")
	s.tellRefund(re, ch)
	return re, nil
}

// refundable is the charge that the request names, itself or by its payment.
func (s *Server) refundable(p params) (object, error) {
	charge := p.str("charge")
	if payment := p.str("payment_intent"); payment != "" {
		pi, err := s.find("payment_intent", payment, "payment_intent")
		if err != nil {
			return nil, err
		}
		if pi.str("status") != "succeeded" || charge != "" && charge != pi.str("latest_charge") {
			return nil, invalid("", "payment_intent", "This PaymentIntent (%s) does not have a successful charge to refund.", payment)
		}
		charge = pi.str("latest_charge")
	}
	if charge == "" {
		return nil, invalid("parameter_missing", "charge", "One of the following params should be provided for this request: payment_intent or charge.")
	}
	return s.find("charge", charge, "charge")
}

func (s *Server) checkRefund(ch object, amount int64) error {
	left := ch.num("amount") - ch.num("amount_refunded")
	d := s.disputeOf(ch.str("id"))
	switch {
	case ch.str("status") != "succeeded":
		return invalid("", "", "Charge %s is %s: there is nothing to refund.", ch.str("id"), ch.str("status"))
	case left == 0:
		return invalid("charge_already_refunded", "", "Charge %s has already been refunded.", ch.str("id"))
	case d != nil && !slices.Contains([]string{"won", "warning_needs_response", "warning_closed"}, d.str("status")):
		return invalid("charge_disputed", "", "Charge %s has been charged back; cannot issue a refund.", ch.str("id"))
	case amount <= 0:
		return invalid("parameter_invalid_integer", "amount", "Invalid positive integer")
	case amount > left:
		return invalid("", "amount", "Refund amount (%s) is greater than unrefunded amount on charge (%s)",
			dollars(amount, ch.str("currency")), dollars(left, ch.str("currency")))
	}
	return nil
}

// refund moves the money back; the fee of the payment stays with Stripe.
func (s *Server) refund(ch object, amount int64) object {
	status := "succeeded"
	if s.cards[ch.str("payment_method")].refunds != "" {
		status = s.cards[ch.str("payment_method")].refunds
	}
	re := s.create("refund", object{"amount": amount, "charge": ch["id"], "payment_intent": ch["payment_intent"], "currency": ch["currency"], "status": status})
	re["balance_transaction"] = s.book(re, booking{kind: "refund", category: "refund", amount: -amount}).str("id")
	ch["amount_refunded"] = ch.num("amount_refunded") + amount
	ch["refunded"] = ch.num("amount_refunded") == ch.num("amount")
	return re
}

// tellRefund makes the events of a new refund.
func (s *Server) tellRefund(re, ch object) {
	before := ch.copy().set(object{"amount_refunded": ch.num("amount_refunded") - re.num("amount"), "refunded": false})
	s.emit("charge.refunded", ch, before)
	s.emit("refund.created", re, nil)
}

func (s *Server) updateRefund(c *call) (object, error) {
	re, err := s.find("refund", c.id, "id")
	if err != nil {
		return nil, err
	}
	before := re.copy()
	c.merge(re, "metadata")
	s.tellRefundUpdate(re, before)
	return re, nil
}

func (s *Server) tellRefundUpdate(re, before object) {
	s.emit("charge.refund.updated", re, before)
	s.emit("refund.updated", re, before)
}

// refundsOf is the list that a charge shows when asked to expand it.
func (s *Server) refundsOf(charge string) object {
	var of []object
	for _, re := range slices.Backward(s.order["refund"]) {
		if re.str("charge") == charge {
			of = append(of, re)
		}
	}
	return wholeList(of, "/v1/charges/"+charge+"/refunds")
}

func (s *Server) refundsListed(c *call) (object, error) {
	if _, err := s.find("charge", c.id, "charge"); err != nil {
		return nil, err
	}
	return s.page(c, s.order["refund"], func(o object) bool { return o.str("charge") == c.id })
}

// Refund gives money back as from the dashboard; amount in cents, 0 for all
// that is left.
func (s *Server) Refund(charge string, amount int64) (refund string, err error) {
	err = s.world(func() error {
		ch, err := s.find("charge", charge, "charge")
		if err != nil {
			return err
		}
		if amount == 0 {
			amount = ch.num("amount") - ch.num("amount_refunded")
		}
		if err := s.checkRefund(ch, amount); err != nil {
			return err
		}
		re := s.refund(ch, amount)
		s.tellRefund(re, ch)
		refund = re.str("id")
		return nil
	})
	return refund, err
}

// FailRefund makes a refund fail late: the bank sends the money back, and the
// charge counts as not refunded by it.
func (s *Server) FailRefund(refund string) error {
	return s.endRefund(refund, func(re object) error {
		if re.str("status") == "failed" {
			return fmt.Errorf("cannot fail %s: it has failed", refund)
		}
		ch := s.objects[re.str("charge")]
		ch.set(object{"amount_refunded": ch.num("amount_refunded") - re.num("amount"), "refunded": false})
		txn := s.book(re, booking{kind: "refund_failure", category: "refund_failure", amount: re.num("amount")})
		re.set(object{"status": "failed", "failure_reason": "expired_or_canceled_card", "failure_balance_transaction": txn.str("id")})
		return nil
	})
}

// SettleRefund ends a pending refund well.
func (s *Server) SettleRefund(refund string) error {
	return s.endRefund(refund, func(re object) error {
		if re.str("status") != "pending" {
			return fmt.Errorf("cannot settle %s: it is %s", refund, re.str("status"))
		}
		re["status"] = "succeeded"
		return nil
	})
}

func (s *Server) endRefund(refund string, end func(object) error) error {
	return s.world(func() error {
		re, err := s.find("refund", refund, "id")
		if err != nil {
			return err
		}
		before := re.copy()
		if err := end(re); err != nil {
			return err
		}
		s.tellRefundUpdate(re, before)
		return nil
	})
}

package stripefake

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var disputeEndpoints = []endpoint{
	read("disputes", "dispute"),
	list("disputes", "dispute", "charge", "payment_intent"),
	{"POST /v1/disputes/{id}/close", "", (*Server).acceptDispute},
	read("radar/early_fraud_warnings", "radar.early_fraud_warning"),
	list("radar/early_fraud_warnings", "radar.early_fraud_warning", "charge", "payment_intent"),
}

const (
	// disputeFee in cents is taken with the funds and kept, whoever wins.
	disputeFee = 1500
	// disputeDays are there to answer a dispute.
	disputeDays = 9
)

// disputeOf is the dispute of a charge, nil if it has none.
func (s *Server) disputeOf(charge string) object {
	i := slices.IndexFunc(s.order["dispute"], func(d object) bool { return d.str("charge") == charge })
	if i < 0 {
		return nil
	}
	return s.order["dispute"][i]
}

// openDispute takes the funds of the charge back; an inquiry only asks.
func (s *Server) openDispute(ch object, reason string, inquiry bool) object {
	amount := ch.num("amount") - ch.num("amount_refunded")
	d := s.create("dispute", object{"amount": amount, "charge": ch["id"], "payment_intent": ch["payment_intent"], "currency": ch["currency"], "reason": reason})
	d.sub("evidence_details")["due_by"] = s.now().Add(disputeDays * 24 * time.Hour).Unix()
	ch["disputed"] = true
	if inquiry {
		d.set(object{"status": "warning_needs_response", "is_charge_refundable": true})
		s.emit("charge.dispute.created", d, nil)
		return d
	}
	s.bookDispute(d, booking{kind: "adjustment", category: "dispute", amount: -amount, fee: disputeFee, about: "Dispute fee"})
	s.emit("charge.dispute.created", d, nil)
	s.emit("charge.dispute.funds_withdrawn", d, nil)
	return d
}

// bookDispute moves the dispute's money; the transaction is shown inside it.
func (s *Server) bookDispute(d object, b booking) {
	txn := s.book(d, b)
	txn["description"] = "Chargeback for " + d.str("charge")
	d["balance_transactions"] = append(d["balance_transactions"].([]any), txn)
}

// closeDispute ends it. Won: the funds come back, the fee does not.
func (s *Server) closeDispute(d object, won bool) {
	before := d.copy()
	inquiry := strings.HasPrefix(d.str("status"), "warning_")
	switch {
	case inquiry:
		d["status"] = "warning_closed"
	case won:
		d["status"] = "won"
		s.bookDispute(d, booking{kind: "adjustment", category: "dispute_reversal", amount: d.num("amount")})
	default:
		d["status"] = "lost"
	}
	s.emit("charge.dispute.closed", d, before)
	if won && !inquiry {
		s.emit("charge.dispute.funds_reinstated", d, before)
	}
}

func isClosed(d object) bool {
	return slices.Contains([]string{"won", "lost", "warning_closed"}, d.str("status"))
}

// acceptDispute is the merchant's giving in.
func (s *Server) acceptDispute(c *call) (object, error) {
	d, err := s.find("dispute", c.id, "dispute")
	if err != nil {
		return nil, err
	}
	if isClosed(d) {
		return nil, invalid("", "", "This dispute is already closed")
	}
	s.closeDispute(d, false)
	return d, nil
}

// OpenDispute makes the charge's holder dispute it, for one of Stripe's reasons
// such as fraudulent or product_not_received.
func (s *Server) OpenDispute(charge, reason string) (dispute string, err error) {
	err = s.world(func() error {
		ch, err := s.find("charge", charge, "charge")
		if err != nil {
			return err
		}
		if ch.str("status") != "succeeded" || ch.flag("disputed") || ch.flag("refunded") {
			return fmt.Errorf("cannot dispute %s: it is %s, disputed or refunded", charge, ch.str("status"))
		}
		dispute = s.openDispute(ch, reason, false).str("id")
		return nil
	})
	return dispute, err
}

// CloseDispute is the bank's word; an inquiry is closed without a winner.
func (s *Server) CloseDispute(dispute string, won bool) error {
	return s.world(func() error {
		d, err := s.find("dispute", dispute, "dispute")
		if err != nil {
			return err
		}
		if isClosed(d) {
			return fmt.Errorf("cannot close %s: it is %s", dispute, d.str("status"))
		}
		s.closeDispute(d, won)
		return nil
	})
}

// WarnOfFraud makes the issuer say that the charge is probably fraud.
func (s *Server) WarnOfFraud(charge string) (warning string, err error) {
	err = s.world(func() error {
		ch, err := s.find("charge", charge, "charge")
		if err != nil {
			return err
		}
		warning = s.warn(ch)
		return nil
	})
	return warning, err
}

func (s *Server) warn(ch object) string {
	w := s.create("radar.early_fraud_warning", object{"charge": ch["id"], "payment_intent": ch["payment_intent"],
		"actionable": !ch.flag("refunded") && !ch.flag("disputed")})
	s.emit("radar.early_fraud_warning.created", w, nil)
	return w.str("id")
}

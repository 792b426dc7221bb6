package stripefake

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
)

// Pay is a person who pays the session's page with a test number or pm_… token.
// It returns the status of the payment (setup mode: of the setup intent); a
// decline is an error and leaves the page open. requires_action waits for
// Authenticate.
func (s *Server) Pay(session, card string) (status string, err error) {
	err = s.world(func() error {
		status, err = s.pay(session, card)
		return err
	})
	return status, err
}

func (s *Server) pay(id, number string) (string, error) {
	o, err := s.find("checkout.session", id, "session")
	if err != nil {
		return "", err
	}
	if o.str("status") != "open" {
		return "", fmt.Errorf("cannot pay %s: it is %s", id, o.str("status"))
	}
	k, ok := testCard(strings.ReplaceAll(number, " ", ""))
	if !ok {
		return "", unknownCard(number)
	}
	s.makePayer(o)
	if o.str("mode") == "setup" {
		return s.setUp(o, s.newMethod(k))
	}
	pi, err := s.paymentOf(o)
	if err != nil {
		return "", err
	}
	if pi.str("status") == "requires_action" { // the holder gave up and tries another card
		pi["next_action"] = nil
	}
	pm := s.newMethod(k)
	pm.sub("billing_details")["email"] = s.objects[o.str("customer")]["email"]
	if sub := s.objects[o.str("subscription")]; sub != nil {
		sub["default_payment_method"] = pm.str("id")
	}
	pi.set(object{"payment_method": pm.str("id"), "status": "requires_confirmation"})
	err = s.confirm(pi, confirmation{})
	return pi.str("status"), err
}

// makePayer gives the session a customer if it needs one.
func (s *Server) makePayer(o object) {
	saves := s.sessions[o.str("id")].payment.str("setup_future_usage") != ""
	if o.str("customer") != "" || o.str("customer_creation") != "always" && !saves {
		return
	}
	payer := s.create("customer", object{"email": o["customer_email"]})
	o["customer"] = payer.str("id")
	s.emit("customer.created", payer, nil)
}

// paymentOf is the payment of the session's page, made at the first try.
func (s *Server) paymentOf(o object) (object, error) {
	inner := s.sessions[o.str("id")]
	if inner.intent != "" {
		return s.objects[inner.intent], nil
	}
	if o.str("mode") == "subscription" {
		sub, err := s.subscribe(o.str("customer"), inner.lines)
		if err != nil {
			return nil, err
		}
		inner.subscription.copyTexts(sub, "description")
		inner.subscription.merge(sub, "metadata")
		s.emit("customer.subscription.created", sub, nil)
		invoice := s.bill(sub, "subscription_create")
		o.set(object{"subscription": sub.str("id"), "invoice": invoice.str("id")})
		inner.intent = invoice.str("payment_intent")
		s.owners[inner.intent] = o.str("id")
		return s.objects[inner.intent], nil
	}
	pi := s.newPayment(object{"amount": o["amount_total"], "currency": o["currency"], "customer": o["customer"],
		"payment_method_types": clone(o["payment_method_types"])})
	inner.payment.copyTexts(pi, "description", "receipt_email", "setup_future_usage", "statement_descriptor", "statement_descriptor_suffix")
	inner.payment.merge(pi, "metadata")
	inner.intent = pi.str("id")
	o["payment_intent"] = inner.intent
	s.owners[inner.intent] = o.str("id")
	s.emit("payment_intent.created", pi, nil)
	return pi, nil
}

func (s *Server) createSetup(o object, p params) {
	si := s.create("setup_intent", object{"customer": o["customer"]})
	si["client_secret"] = si.str("id") + "_secret_" + s.newID("")[1:]
	if data, ok := p.at("setup_intent_data").(params); ok {
		data.copyTexts(si, "description")
		data.merge(si, "metadata")
	}
	o["setup_intent"] = si.str("id")
	s.sessions[o.str("id")].intent = si.str("id")
	s.owners[si.str("id")] = o.str("id")
	s.emit("setup_intent.created", si, nil)
}

// setUp saves the card for later payments with its holder's consent.
func (s *Server) setUp(o, pm object) (string, error) {
	si := s.objects[o.str("setup_intent")]
	si["payment_method"] = pm.str("id")
	k := s.cards[pm.str("id")]
	if k.needsHolder(false) {
		si.set(object{"status": "requires_action", "next_action": object{"type": "use_stripe_sdk", "use_stripe_sdk": object{"type": "three_d_secure_redirect"}}})
		s.emit("setup_intent.requires_action", si, nil)
		return "requires_action", nil
	}
	return s.finishSetup(si, true)
}

func (s *Server) finishSetup(si object, authenticated bool) (string, error) {
	pm := s.objects[si.str("payment_method")]
	err := s.attachable(pm)
	if !authenticated {
		err = &apiError{status: 400, kind: "invalid_request_error", code: "setup_intent_authentication_failure",
			message: "The provided payment method has failed authentication.", method: pm}
	}
	var e *apiError
	if errors.As(err, &e) {
		si.set(object{"status": "requires_payment_method", "payment_method": nil, "next_action": nil, "last_setup_error": e.body("")})
		s.emit("setup_intent.setup_failed", si, nil)
		e.payment = si
		return si.str("status"), e
	}
	k := s.cards[pm.str("id")]
	k.ready = true
	s.cards[pm.str("id")] = k
	si.set(object{"status": "succeeded", "next_action": nil, "last_setup_error": nil})
	if customer := si.str("customer"); customer != "" {
		s.attach(pm, customer)
	}
	s.emit("setup_intent.succeeded", si, nil)
	s.completeSession(s.objects[s.owners[si.str("id")]], "no_payment_required")
	return "succeeded", nil
}

var pageTemplate = template.Must(template.New("pay").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Test checkout</title>
<style>body{font:16px system-ui;max-width:28rem;margin:3rem auto;padding:0 1rem}input,button{font:inherit;padding:.4rem}.bad{color:#b00020}</style>
<h1>Test checkout</h1>
<p>No money moves here.</p>
{{with .Message}}<p class="bad">{{.}}</p>{{end}}
{{if .Lines}}<ul>{{range .Lines}}<li>{{.}}</li>{{end}}</ul>{{end}}
<p><b>{{.Total}}</b></p>
<form method="post">
{{if .Authenticate}}
<p>The card's bank wants to know that it is you.</p>
<button name="authenticate" value="ok">It is me</button> <button name="authenticate" value="fail">Fail</button>
{{else}}
<p><label>Card number <input name="card" value="4242424242424242" autocomplete="off"></label> <button>Pay</button></p>
<p>Declined: 4000000000000002. Asks for authentication: 4000000000003220. Disputed later: 4000000000000259.</p>
{{end}}
</form>
{{with .Cancel}}<p><a href="{{.}}">Back</a></p>{{end}}
</html>
`))

// view is what the page shows.
type view struct {
	Message, Total, Cancel string
	Lines                  []string
	Authenticate           bool
}

func (s *Server) showPage(w http.ResponseWriter, r *http.Request) {
	var v view
	err := s.world(func() (err error) {
		v, err = s.look(r.PathValue("id"))
		return err
	})
	s.answerPage(w, v, err)
}

func (s *Server) answerPage(w http.ResponseWriter, v view, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = pageTemplate.Execute(w, v) // fails only for a reader that left
}

// look is the page of an open session.
func (s *Server) look(id string) (view, error) {
	o, err := s.find("checkout.session", id, "session")
	if err != nil {
		return view{}, err
	}
	if o.str("status") != "open" {
		return view{}, fmt.Errorf("this page is closed: the session is %s", o.str("status"))
	}
	v := view{Cancel: o.str("cancel_url"), Total: "Save a card for later"}
	if o.str("mode") != "setup" {
		v.Total = dollars(o.num("amount_total"), o.str("currency"))
	}
	for _, line := range s.sessions[id].lines {
		v.Lines = append(v.Lines, fmt.Sprintf("%d × %s: %s", line.num("quantity"), line.str("description"), dollars(line.num("amount_total"), line.str("currency"))))
	}
	v.Authenticate = s.objects[s.sessions[id].intent].str("status") == "requires_action"
	return v, nil
}

// postPage takes the card or the authentication and leads on to success_url.
func (s *Server) postPage(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
	id, card, answer := r.PathValue("id"), r.PostFormValue("card"), r.PostFormValue("authenticate")
	var v view
	next := ""
	err := s.world(func() (err error) {
		if v, err = s.look(id); err != nil {
			return err
		}
		o := s.objects[id]
		if intent := s.objects[s.sessions[id].intent]; answer != "" && v.Authenticate {
			err = s.authenticate(intent, answer == "ok")
		} else {
			_, err = s.pay(id, card)
		}
		if o.str("status") == "complete" {
			next = strings.ReplaceAll(o.str("success_url"), "{CHECKOUT_SESSION_ID}", id)
			return nil
		}
		message := ""
		if err != nil {
			message = strings.TrimPrefix(err.Error(), "cannot ")
		}
		var e *apiError
		if errors.As(err, &e) {
			message = e.message
		} else if refusal := s.objects[s.sessions[id].intent].sub("last_payment_error"); answer != "" && refusal != nil {
			message = refusal.str("message")
		}
		v, err = s.look(id)
		v.Message = message
		return err
	})
	if err == nil && next != "" {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	s.answerPage(w, v, err)
}

package topup

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/webhook"

	"weir/internal/ledger"
)

const (
	// eventBytesMax bounds a webhook's body; Stripe's are far smaller.
	eventBytesMax = 256 << 10
	// signatureTolerance is how old a signature may be: later it is a replay.
	signatureTolerance = 5 * time.Minute
	// missedFor is how long Stripe keeps its events.
	missedFor = 30 * 24 * time.Hour
	// eventRetryFirst and eventRetryMax pace the work on an event that fails.
	eventRetryFirst = 2 * time.Second
	eventRetryMax   = time.Hour
)

// look is what an event makes weir look at. The longest prefix of the event's
// type decides.
func (t *Topup) look(eventType string) func(context.Context, string) error {
	for _, kind := range []struct {
		prefix string
		look   func(context.Context, string) error
	}{
		{"checkout.session.", t.lookAtSession},
		{"payment_intent.", t.lookAtPayment},
		{"charge.dispute.", t.lookAtDispute},
		{"charge.refund.", t.lookAtRefund},
		{"refund.", t.lookAtRefund},
		{"charge.", t.lookAtCharge},
		{"radar.early_fraud_warning.created", t.lookAtWarning},
		{"invoice.paid", t.lookAtInvoice},
		{"customer.subscription.", t.lookAtSubscription},
	} {
		if strings.HasPrefix(eventType, kind.prefix) {
			return kind.look
		}
	}
	return nil
}

// event is what is read of a webhook's body.
type event struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Created  int64  `json:"created"`
	Livemode bool   `json:"livemode"`
	Data     struct {
		Object struct {
			ID string `json:"id"`
		} `json:"object"`
	} `json:"data"`
}

// Webhook takes events from Stripe: it checks the signature over the bytes as
// they came, keeps the event, and answers. The work is done apart.
func (t *Topup) Webhook() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, outcome := t.receive(r)
		t.metrics.events.WithLabelValues(outcome).Inc()
		w.WriteHeader(status)
		io.WriteString(w, outcome+"\n") // for who looks into Stripe's dashboard
	})
}

func (t *Topup) receive(r *http.Request) (status int, outcome string) {
	body, err := io.ReadAll(io.LimitReader(r.Body, eventBytesMax+1))
	switch {
	case err != nil:
		return http.StatusBadRequest, "cut off"
	case len(body) > eventBytesMax:
		return http.StatusRequestEntityTooLarge, "too large"
	case !t.signed(body, r.Header.Get("Stripe-Signature")):
		return http.StatusBadRequest, "signature is not valid"
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil || e.ID == "" || e.Type == "" {
		return http.StatusBadRequest, "no event"
	}
	switch {
	case e.Livemode != t.live:
		return http.StatusBadRequest, "wrong mode"
	case t.look(e.Type) == nil || e.Data.Object.ID == "":
		return http.StatusOK, "ignored"
	}
	if err := t.keep(r.Context(), e); err != nil {
		t.Log.Error("cannot keep an event of Stripe, which sends it again", "event", e.ID, "err", err)
		return http.StatusServiceUnavailable, "not kept"
	}
	t.Wake()
	return http.StatusOK, "kept"
}

func (t *Topup) signed(body []byte, header string) bool {
	for _, secret := range t.WebhookSecrets {
		if webhook.ValidatePayloadWithTolerance(body, header, secret, signatureTolerance) == nil {
			return true
		}
	}
	return false
}

func (t *Topup) keep(ctx context.Context, e event) error {
	return t.tx(ctx, func(tx *ledger.Tx) error {
		_, err := tx.AddStripeEvent(ctx, ledger.StripeEvent{ID: e.ID, Type: e.Type, Object: e.Data.Object.ID, CreatedAt: time.Unix(e.Created, 0)})
		return err
	})
}

// workInbox works on the events that were kept.
func (t *Topup) workInbox(ctx context.Context) error {
	list, err := t.Ledger.StripeEvents(ctx, workMax)
	if err != nil {
		return err
	}
	return each(ctx, list, 1, t.work) // one by one: of two events of one object the later must look later
}

// work looks at what an event names. The books are brought to it before the
// event is struck off: a crash in between does it again, which changes nothing.
func (t *Topup) work(ctx context.Context, e ledger.StripeEvent) error {
	err := errNotOurs
	if look := t.look(e.Type); look != nil {
		err = look(ctx, e.Object)
	}
	if errors.Is(err, errNotOurs) {
		t.Log.Info("an event of Stripe is not about a wallet", "event", e.ID, "type", e.Type, "object", e.Object, "why", err)
		err = nil
	}
	return errors.Join(err, t.tx(ctx, func(tx *ledger.Tx) error {
		if err == nil {
			return tx.DoneStripeEvent(ctx, e.ID)
		}
		pause := min(eventRetryFirst<<min(e.Tries, 16), eventRetryMax)
		return tx.FailStripeEvent(ctx, e.ID, plain(err).Error(), t.Now().Add(pause))
	}))
}

// missedEvents fetches what Stripe could not deliver.
func (t *Topup) missedEvents(ctx context.Context) error {
	list := t.stripe.Events.List(&stripe.EventListParams{ListParams: stripe.ListParams{Context: ctx, Limit: stripe.Int64(workMax)},
		DeliverySuccess: stripe.Bool(false), CreatedRange: &stripe.RangeQueryParams{GreaterThanOrEqual: t.Now().Add(-missedFor).Unix()}})
	for list.Next() {
		e := list.Event()
		id, _ := e.Data.Object["id"].(string)
		if t.look(string(e.Type)) == nil || id == "" || e.Livemode != t.live {
			continue
		}
		missed := event{ID: e.ID, Type: string(e.Type), Created: e.Created}
		missed.Data.Object.ID = id
		if err := t.keep(ctx, missed); err != nil {
			return err
		}
	}
	if err := list.Err(); err != nil {
		return asked("list missed events", err)
	}
	return nil
}

// unknownFees asks for the fees that were not known when money came.
func (t *Topup) unknownFees(ctx context.Context) error {
	list, err := t.Ledger.UnknownFees(ctx, workMax)
	if err != nil {
		return err
	}
	return each(ctx, list, workAtOnce, func(ctx context.Context, row ledger.Topup) error {
		if row.PaymentIntent == "" {
			return nil
		}
		return t.lookAtPayment(ctx, row.PaymentIntent)
	})
}

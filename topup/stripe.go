package topup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
)

const (
	// askTimeout bounds one request to Stripe, whose own limit is longer: a
	// worker that hangs on one customer keeps the others waiting.
	askTimeout = 30 * time.Second
	// askRetries is how often a request is repeated at once, under the same key,
	// before the worker's own pace takes over.
	askRetries = 1
)

// newClient makes a client of one account. The library prints requests when
// something goes wrong; that is turned off, since they hold secrets.
func newClient(key, base string, retries int64) *client.API {
	config := &stripe.BackendConfig{HTTPClient: &http.Client{Timeout: askTimeout}, MaxNetworkRetries: stripe.Int64(retries),
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull}, EnableTelemetry: stripe.Bool(false)}
	if base != "" {
		config.URL = stripe.String(base)
	}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, config)
	return client.New(key, &stripe.Backends{API: backend, Connect: backend, Uploads: backend})
}

// asking makes the parameters of a request that changes nothing.
func asking(ctx context.Context, expand ...string) stripe.Params {
	p := stripe.Params{Context: ctx}
	for _, e := range expand {
		p.AddExpand(e)
	}
	return p
}

// acting makes the parameters of a request that changes something, under a key
// by which Stripe does it once. Two installations on one account must not meet
// in a key: one would be given the other's paid page.
func (t *Topup) acting(ctx context.Context, key string) stripe.Params {
	return stripe.Params{Context: ctx, IdempotencyKey: stripe.String(t.installation + "/" + key)}
}

// outcome is what an answer of Stripe says about a request that changes something.
type outcome int

const (
	unknown  outcome = iota // no answer, or one that does not tell whether it was done
	declined                // the card was asked and refused
	refused                 // the request is wrong; nothing was done, and never will be
)

// judge sorts an error of Stripe. For a declined card detail is Stripe's error.
func judge(err error) (o outcome, detail *stripe.Error) {
	if !errors.As(err, &detail) {
		return unknown, nil
	}
	switch {
	case detail.Type == stripe.ErrorTypeIdempotency:
		return unknown, detail // the key was used before, with what was current then
	case detail.HTTPStatusCode == http.StatusPaymentRequired || detail.Type == stripe.ErrorTypeCard:
		return declined, detail
	case detail.HTTPStatusCode == http.StatusConflict || detail.HTTPStatusCode == http.StatusTooManyRequests || detail.HTTPStatusCode >= 500:
		return unknown, detail
	case detail.HTTPStatusCode == http.StatusUnauthorized || detail.HTTPStatusCode == http.StatusForbidden:
		return unknown, detail // the operator's key is wrong: no fault of the top-up
	}
	return refused, detail
}

// brokeDown tells whether Stripe failed amid a request. It keeps that answer
// under the request's key.
func brokeDown(err error) bool {
	var detail *stripe.Error
	return errors.As(err, &detail) && detail.HTTPStatusCode >= http.StatusInternalServerError
}

// notFound tells whether Stripe says that there is no such object.
func notFound(err error) bool {
	var detail *stripe.Error
	return errors.As(err, &detail) && detail.HTTPStatusCode == http.StatusNotFound
}

// asked wraps an error of Stripe for people: what was asked for, and why not.
func asked(what string, err error) error {
	if o, detail := judge(err); o == refused {
		return fmt.Errorf("cannot %s: %w: %s", what, ErrNotAccepted, detail.Msg)
	}
	return fmt.Errorf("cannot %s: %w: %w", what, ErrUnavailable, plain(err))
}

// plain makes one line of Stripe's errors, which print themselves as JSON.
func plain(err error) error {
	var detail *stripe.Error
	if errors.As(err, &detail) {
		return fmt.Errorf("stripe answered %d %s %s: %s", detail.HTTPStatusCode, detail.Type, detail.Code, detail.Msg)
	}
	return err
}

// The typed reasons for which a top-up fails or a wallet's automatic top-up is
// off.
const (
	ReasonDeclined       = "card_declined"
	ReasonNoFunds        = "insufficient_funds"
	ReasonExpiredCard    = "expired_card"
	ReasonAuthentication = "authentication_required"
	ReasonNoCard         = "missing_payment_method"
	ReasonCap            = "cap_reached"
	ReasonProcessing     = "processing_failed"
	ReasonCanceled       = "canceled"
	ReasonExpired        = "expired"
	ReasonStripe         = "stripe_error"
)

// reasonOf is the typed reason of a declined card.
func reasonOf(code stripe.ErrorCode, decline stripe.DeclineCode) string {
	switch {
	case code == stripe.ErrorCodeAuthenticationRequired || decline == stripe.DeclineCodeAuthenticationRequired:
		return ReasonAuthentication
	case decline == stripe.DeclineCodeInsufficientFunds:
		return ReasonNoFunds
	case code == stripe.ErrorCodeExpiredCard || decline == stripe.DeclineCodeExpiredCard:
		return ReasonExpiredCard
	case code == stripe.ErrorCodeProcessingError:
		return ReasonProcessing
	}
	return ReasonDeclined
}

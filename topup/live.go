package topup

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stripe/stripe-go/v76"

	"weir/internal/ledger"
)

// liveStates are those of a top-up that has not ended.
var liveStates = []string{ledger.TopupCreated, ledger.TopupSubmitted, ledger.TopupAction, ledger.TopupProcessing}

func isLive(row ledger.Topup) bool { return slices.Contains(liveStates, row.State) }

// workLive looks at top-ups that nobody has told about for a while.
func (t *Topup) workLive(ctx context.Context) error {
	list, err := t.Ledger.LiveTopups(ctx, workMax)
	if err != nil {
		return err
	}
	return each(ctx, list, workAtOnce, t.resume)
}

// resume takes up a top-up where it was left.
func (t *Topup) resume(ctx context.Context, row ledger.Topup) error {
	switch {
	case row.Session != "":
		return t.resumePage(ctx, row)
	case row.State == ledger.TopupProcessing:
		return errors.Join(t.lookAtPayment(ctx, row.PaymentIntent), t.put(ctx, row, sessionPoll))
	case row.Kind == ledger.TopupAuto:
		return t.recharge(ctx, row)
	}
	return t.fail(ctx, row, ReasonExpired) // its page was never opened
}

// resumePage looks at a top-up's page, and ends one that is past its time.
func (t *Topup) resumePage(ctx context.Context, row ledger.Topup) error {
	err := t.lookAtSession(ctx, row.Session)
	old := row.State != ledger.TopupProcessing && t.Now().Sub(row.CreatedAt) > sessionLife+sessionPoll
	switch {
	case !old || err != nil && !errors.Is(err, errNotOurs):
		return errors.Join(err, t.put(ctx, row, sessionPoll))
	case err != nil: // Stripe does not know it any more
		return t.fail(ctx, row, ReasonExpired)
	}
	now, err := t.Ledger.Topup(ctx, row.ID)
	if err != nil || now.State != row.State {
		return err
	}
	_, err = t.stripe.CheckoutSessions.Expire(row.Session, &stripe.CheckoutSessionExpireParams{Params: t.acting(ctx, "topup/"+row.ID+"/expire")})
	if o, _ := judge(err); err != nil && o == unknown {
		return t.later(ctx, row, plain(err))
	}
	return errors.Join(t.lookAtSession(ctx, row.Session), t.put(ctx, row, sessionPoll))
}

// put looks again at a live top-up after a while, unless it has changed
// meanwhile.
func (t *Topup) put(ctx context.Context, row ledger.Topup, after time.Duration) error {
	_, err := t.move(ctx, row, row.State, func(r *ledger.Topup) { r.NextTryAt = t.Now().Add(after) })
	return ended(err)
}

package app

import (
	"context"
	"time"

	"weir/topup"
)

// startFunding brings money in and ends credits whose time has come, where
// analytics is. Without a payment account only the latter is done.
func (a *App) startFunding(work context.Context) error {
	if !a.isAnalytics() {
		return nil
	}
	a.background.Go(func() { topup.ExpireCredits(work, a.ledger, a.log) })
	s := a.cfg.Stripe
	if s.SecretKey.IsZero() {
		return nil
	}
	secrets := []string{s.WebhookSecret.Reveal()}
	if !s.WebhookSecretPrevious.IsZero() {
		secrets = append(secrets, s.WebhookSecretPrevious.Reveal())
	}
	var err error
	a.topup, err = topup.New(work, topup.Options{Ledger: a.ledger, SecretKey: s.SecretKey.Reveal(), WebhookSecrets: secrets, APIBase: s.APIBase,
		ReturnURL: a.cfg.TopUpURL, Now: time.Now, Log: a.log, Registry: a.registry})
	if err != nil {
		return err
	}
	a.background.Go(func() { a.topup.Run(work) })
	return nil
}

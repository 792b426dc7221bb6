package app

import (
	"context"
	"time"

	"weir/internal/notify"
)

// startWebhooks tells the platform's endpoints of events, where analytics is.
// Receivers that are away are no failure of this process.
func (a *App) startWebhooks(work context.Context) error {
	if !a.isAnalytics() {
		return nil
	}
	sealer, err := notify.NewSealer(a.pepper)
	if err != nil {
		return err
	}
	n := notify.New(notify.Options{Ledger: a.ledger, Sealer: sealer, AllowPrivate: a.cfg.Webhooks.AllowPrivate, Now: time.Now, Log: a.log,
		Registry: a.registry})
	a.background.Go(func() { n.Run(work) })
	return nil
}

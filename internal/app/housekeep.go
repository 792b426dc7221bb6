package app

import (
	"context"
	"time"
)

// housekeepEvery is how often what is old is removed from the ledger: it grows
// slowly, and any process may do it.
const housekeepEvery = 24 * time.Hour

// housekeep removes what is old, at the start and once a day, until work ends.
func (a *App) housekeep(work context.Context) {
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	for {
		removed, err := a.ledger.Housekeep(work)
		switch {
		case err != nil && work.Err() == nil:
			a.log.Warn("cannot remove what is old; it is tried again tomorrow", "err", err)
		case removed > 0:
			a.log.Info("removed what is old from the ledger", "rows", removed)
		}
		select {
		case <-work.Done():
			return
		case <-tick.C:
		}
	}
}

package notify

import (
	"context"
	"time"
)

// Step delivers what is due now and waits for it.
func (n *Notifier) Step(ctx context.Context) error {
	defer n.running.Wait()
	return n.dispatch(ctx)
}

// SetTimeout shortens how long a receiver may take.
func (n *Notifier) SetTimeout(d time.Duration) { n.client.Timeout = d }

package gateway

import (
	"context"
	"sync"
	"time"
)

// lives hands out the life of upstream calls: it ends with the longest request
// or when the gateway aborts. Calls that begin within a moment of each other
// share one, so that a timer and its bookkeeping are not paid by each; a call
// may so live a moment longer. Who must end his call alone derives from it.
type lives struct {
	abort   context.Context
	longest time.Duration
	moment  time.Duration

	mu    sync.Mutex // guards the following
	now   context.Context
	end   context.CancelFunc // never called: who shares it last is not known, so its timer ends it
	until time.Time          // the life is shared by calls that begin before
}

// sharedMoment is how far apart calls may begin that share a life, and
// momentShare keeps it a small part of a short longest request.
const (
	sharedMoment = time.Second
	momentShare  = 16
)

func newLives(abort context.Context, longest time.Duration) *lives {
	return &lives{abort: abort, longest: longest, moment: min(sharedMoment, longest/momentShare)}
}

// share returns the life of a call that begins at start.
func (l *lives) share(start time.Time) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil || !start.Before(l.until) {
		l.until = start.Add(l.moment)
		l.now, l.end = context.WithDeadline(l.abort, l.until.Add(l.longest))
	}
	return l.now
}

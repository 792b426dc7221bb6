package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"weir/internal/ledger"
	"weir/internal/stream"
)

const (
	// beatEvery is how often a gateway speaks to the ledger: revocations,
	// freezes and recalls arrive within this time and a margin.
	beatEvery = 2 * time.Second
	// beatTimeout bounds one heartbeat, so that a hanging ledger costs one.
	beatTimeout = 4 * time.Second
	// sweepEvery is how often idle leases are looked for.
	sweepEvery = time.Second
)

// Session is this process' standing in the ledger.
type Session struct {
	ID        string
	Exclusive bool // an embedded log or warehouse allows no second gateway
	TTL       time.Duration
}

// Heart keeps a gateway's session alive and carries what changed.
type Heart struct {
	g             *Gateway
	session       Session
	topic         atomic.Pointer[string] // set by whoever reaches the log
	epoch, recall int64
}

// NewHeart makes the heart of a session that has just been started. Beat must
// succeed once before the gateway reads its first key. topic is the id of the
// topic that the spool is produced to, "" as long as nobody knows it.
func (g *Gateway) NewHeart(s Session, topic string) *Heart {
	h := &Heart{g: g, session: s}
	h.SetTopic(topic)
	return h
}

// SetTopic names the topic that the spool is produced to. Without one the spool
// keeps everything: nobody can say how much of it is settled.
func (h *Heart) SetTopic(topic string) { h.topic.Store(&topic) }

// Session is the session's id; it changes when the ledger had ended it.
func (h *Heart) Session() string { return h.session.ID }

// Run speaks to the ledger every two seconds until ctx ends: it renews the
// leases, and takes in what changed. It returns ledger.ErrSuperseded when a
// newer process runs on the same data directory; nothing else ends it.
func (h *Heart) Run(ctx context.Context) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-sweep.C:
			h.g.Book.Sweep(now)
			h.g.outside.sweep(now)
		case <-tick.C:
			err := h.Beat(ctx)
			if errors.Is(err, ledger.ErrSuperseded) {
				return err
			}
			if err != nil && ctx.Err() == nil {
				h.g.Metrics.BeatFailures.Inc()
				h.g.Log.Warn("cannot reach the ledger, leases go on until they end", "err", err)
			}
		}
	}
}

// Beat speaks to the ledger once.
func (h *Heart) Beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	g := h.g
	use := g.Spool.Usage()
	sent := time.Now()
	a, err := g.Ledger.Beat(ctx, ledger.Beat{Session: h.session.ID, SinceEpoch: h.epoch, SinceRecall: h.recall, Unacked: use.UnackedRecords,
		UnsettledBytes: use.UnsettledBytes, OldestUnsettled: use.OldestUnsettled, InFlight: g.inFlight.Load(), Topic: *h.topic.Load()})
	if errors.Is(err, ledger.ErrSessionEnded) || errors.Is(err, ledger.ErrNotFound) {
		return h.restart(ctx)
	}
	if err != nil {
		return err
	}
	g.Book.Renew(h.session.ID, sent, a.Gateways)
	g.directory.update(a.Keys, a.Customers)
	g.noNewLeases.Store(a.NoNewLeases != "")
	h.recall = a.Recall
	g.Book.Recall(a.RecallWallets)
	err = errors.Join(h.release(a.Progress), g.limits.refresh(ctx, a.Gateways, a.Rank))
	if a.CardsChanged || h.epoch == 0 {
		if refreshed := g.Cards.Refresh(ctx); refreshed != nil {
			return errors.Join(err, refreshed) // the epoch stays: it is told again
		}
	}
	h.epoch = a.Epoch
	return err
}

// release tells the spool what is settled and appended.
func (h *Heart) release(progress []ledger.Progress) error {
	topic := *h.topic.Load()
	done := make(map[int32]int64, len(progress))
	for _, p := range progress {
		if p.Topic == topic {
			done[p.Part] = min(p.Settled, p.Appended)
		}
	}
	return h.g.Spool.Release(topic, done)
}

// restart follows an absence so long that the ledger has ended the session, or
// a ledger that was restored from before it: a new one begins. The next beat
// renews under its name, and with that the book closes the leases of the old.
func (h *Heart) restart(ctx context.Context) error {
	id := newRequestID()
	_, err := h.g.Ledger.StartSession(ctx, ledger.Session{ID: id, Gateway: h.g.ID, Exclusive: h.session.Exclusive, TTL: h.session.TTL})
	if err == nil {
		h.session.ID = id
	}
	return err
}

// NoGrants tells whether new leases must not be asked for: the spool is filling
// up, or the ledger says that something behind it is.
func (g *Gateway) NoGrants() bool {
	return g.noNewLeases.Load() || g.Spool.Level() >= stream.LevelHigh
}

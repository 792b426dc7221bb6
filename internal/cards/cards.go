// Package cards keeps the published rate cards of the ledger compiled in
// memory: the one in force for requests that begin, and any that an event was
// pinned to for rating it.
package cards

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/ledger"
	"weir/schemas/ratecard"
)

// Cards is safe for concurrent use.
type Cards struct {
	db *ledger.DB

	// inForce is read on the request path, so it is replaced whole: all
	// publications, the first to come into force first.
	inForce atomic.Pointer[[]Publication]

	mu       sync.Mutex // guards the following
	epoch    int64      // of the ledger, up to which publications are known
	compiled map[pair]*ratecard.Card
}

// Publication puts a card into force from a time on, until another one is.
type Publication struct {
	Label                      string // the version its file gave, for people
	EffectiveFrom, PublishedAt time.Time
	Card                       *ratecard.Card
}

// pair identifies a card as events name it.
type pair struct{ cost, price string }

// New returns an empty set; Refresh fills it.
func New(db *ledger.DB) *Cards {
	c := &Cards{db: db, compiled: map[pair]*ratecard.Card{}}
	c.inForce.Store(&[]Publication{})
	return c
}

// Refresh reads what was published since the last Refresh. On an error what
// was known stays in force.
func (c *Cards) Refresh(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, epoch, err := c.db.Cards(ctx, c.epoch)
	if err != nil {
		return err
	}
	known := slices.Clone(*c.inForce.Load())
	for _, stored := range list {
		card, err := c.compile(stored)
		if err != nil {
			return err
		}
		p := Publication{stored.Label, stored.EffectiveFrom, stored.PublishedAt, card}
		if !slices.Contains(known, p) { // the ledger may list one twice
			known = append(known, p)
		}
	}
	// Stable: of two publications at one instant the ledger lists the later one last.
	slices.SortStableFunc(known, func(a, b Publication) int {
		return cmp.Or(a.EffectiveFrom.Compare(b.EffectiveFrom), a.PublishedAt.Compare(b.PublishedAt))
	})
	c.inForce.Store(&known)
	c.epoch = epoch
	return nil
}

// compile is called with mu held.
func (c *Cards) compile(stored ledger.Card) (*ratecard.Card, error) {
	key := pair{stored.ModelsHash, stored.RulesHash}
	if card := c.compiled[key]; card != nil {
		return card, nil
	}
	card, err := ratecard.FromCanonical(stored.Models, stored.Rules)
	if err != nil {
		return nil, fmt.Errorf("card %.12s: %w", stored.ID, err)
	}
	if card.CostHash() != stored.ModelsHash || card.PriceHash() != stored.RulesHash {
		return nil, fmt.Errorf("card %.12s: its content is not what its hashes say", stored.ID)
	}
	c.compiled[key] = card
	return card, nil
}

// InForce is the publication in force: of the greatest effective_from that has
// come, then the latest published. Its Card is nil if there is none. It takes
// no lock.
func (c *Cards) InForce(now time.Time) Publication {
	for _, p := range slices.Backward(*c.inForce.Load()) {
		if !p.EffectiveFrom.After(now) {
			return p
		}
	}
	return Publication{}
}

// Current is the card in force, nil if there is none.
func (c *Cards) Current(now time.Time) *ratecard.Card { return c.InForce(now).Card }

// Find is the card with these hashes of models and rules, from memory or else
// from the ledger; ledger.ErrNotFound if it was never published.
func (c *Cards) Find(ctx context.Context, costHash, priceHash string) (*ratecard.Card, error) {
	c.mu.Lock()
	card := c.compiled[pair{costHash, priceHash}]
	c.mu.Unlock()
	if card != nil {
		return card, nil
	}
	stored, err := c.db.CardByHash(ctx, costHash, priceHash)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.compile(stored)
}

// Publish publishes a composed card at once or from its effective_from on. A
// card that was published before comes into force again only if again is set.
func Publish(ctx context.Context, tx *ledger.Tx, card *ratecard.Card, again bool) (published bool, err error) {
	return tx.PublishCard(ctx, ledger.Card{ID: card.ID(), Label: card.Label(), ModelsHash: card.CostHash(), RulesHash: card.PriceHash(),
		Models: card.ModelsJSON(), Rules: card.RulesJSON(), EffectiveFrom: card.EffectiveFrom(), Again: again})
}

// Compose is the card that configured files make: built-in costs ← files in
// order. The error names the file and line.
func Compose(files []string) (*ratecard.Card, error) {
	parsed := []*ratecard.File{ratecard.Builtin()}
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the rate card: %w", err)
		}
		file, err := ratecard.Parse(name, src)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, file)
	}
	return ratecard.Compose(parsed...)
}

// PublishFiles is what a start does with its configured card files: they are
// composed and published only if that card never was, because a restart must
// not take back what was published since.
//
// Without files the built-in card is published only into a ledger that has no
// card: a new version of the program brings new built-in costs, and they must
// not silently replace an operator's card and its prices.
func PublishFiles(ctx context.Context, db *ledger.DB, files []string) (published bool, err error) {
	card, err := Compose(files)
	if err != nil {
		return false, err
	}
	if len(files) == 0 {
		list, _, err := db.Cards(ctx, 0)
		if err != nil || len(list) > 0 {
			return false, err
		}
	}
	err = db.Tx(ctx, func(tx *ledger.Tx) error {
		published, err = Publish(ctx, tx, card, false)
		return err
	})
	return published, err
}

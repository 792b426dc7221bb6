package gateway

import (
	"context"
	"crypto/subtle"
	"errors"
	"sync"
	"time"

	"weir/internal/apikey"
	"weir/internal/ledger"
)

const (
	// directoryMax bounds the keys and the customers kept in memory; past it
	// the map starts anew, and rows are read again on their next use.
	directoryMax = 200_000
	// unknownMax bounds the ids remembered as unknown, and unknownTTL how long:
	// a flood of invented keys must not become a flood of ledger reads, and a
	// key made a moment ago must soon work.
	unknownMax = 10_000
	unknownTTL = 2 * time.Second
	// lookupTimeout bounds a request's wait for its key's row.
	lookupTimeout = 3 * time.Second
)

// directory caches keys and customers. Rows are read on first use; the
// heartbeat replaces what changed since.
type directory struct {
	db     *ledger.DB
	hasher *apikey.Hasher

	mu        sync.RWMutex // guards the following, not the rows: rows are replaced, never changed
	updates   uint64       // counts calls of update
	keys      map[string]*ledger.Key
	customers map[string]*ledger.Customer
	unknown   map[string]time.Time
}

func newDirectory(db *ledger.DB, pepper []byte) *directory {
	return &directory{db: db, hasher: apikey.NewHasher(pepper), keys: map[string]*ledger.Key{}, customers: map[string]*ledger.Customer{}, unknown: map[string]time.Time{}}
}

// key finds the row of a presented key and proves the key against it.
func (d *directory) key(text string) (*ledger.Key, error) {
	id, ok := apikey.Parse(text)
	if !ok {
		return nil, ledger.ErrNotFound
	}
	d.mu.RLock()
	row := d.keys[id]
	d.mu.RUnlock()
	if row == nil {
		var err error
		if row, err = d.loadKey(id); err != nil {
			return nil, err
		}
	}
	hash := d.hasher.Hash(text)
	if subtle.ConstantTimeCompare(hash[:], row.Hash) != 1 {
		return nil, ledger.ErrNotFound
	}
	return row, nil
}

func (d *directory) loadKey(id string) (*ledger.Key, error) {
	now := time.Now()
	d.mu.RLock()
	until, known := d.unknown[id]
	updates := d.updates
	d.mu.RUnlock()
	if known && now.Before(until) {
		return nil, ledger.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	row, err := d.db.Key(ctx, id)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		if len(d.unknown) >= unknownMax {
			clear(d.unknown)
		}
		d.unknown[id] = now.Add(unknownTTL)
		return nil, ledger.ErrNotFound
	case err != nil:
		return nil, err
	}
	if updates == d.updates {
		put(d.keys, id, &row)
	}
	return &row, nil
}

func (d *directory) customer(id string) (*ledger.Customer, error) {
	d.mu.RLock()
	row := d.customers[id]
	updates := d.updates
	d.mu.RUnlock()
	if row != nil {
		return row, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	read, err := d.db.Customer(ctx, id)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if updates == d.updates {
		put(d.customers, id, &read)
	}
	return &read, nil
}

// update replaces rows that changed. Only rows in use are kept: a row that is
// being read meanwhile may be from before the change, so it is used once and
// not kept.
func (d *directory) update(keys []ledger.Key, customers []ledger.Customer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.updates++
	for i := range keys {
		delete(d.unknown, keys[i].ID)
		if d.keys[keys[i].ID] != nil {
			d.keys[keys[i].ID] = &keys[i]
		}
	}
	for i := range customers {
		if d.customers[customers[i].ID] != nil {
			d.customers[customers[i].ID] = &customers[i]
		}
	}
}

func put[T any](m map[string]*T, id string, row *T) {
	if len(m) >= directoryMax {
		clear(m)
	}
	m[id] = row
}

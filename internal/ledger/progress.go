package ledger

import (
	"context"
	"fmt"
)

// Progress tells how far each partition of a topic is settled and appended.
func (db *DB) Progress(ctx context.Context, topic string) ([]Progress, error) {
	list, err := db.view().progress(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("cannot read how far topic %s is settled: %w", topic, err)
	}
	return list, nil
}

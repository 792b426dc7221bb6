package warehouse

import (
	"context"
	"fmt"

	"weir/schemas/money"
)

// BatchSum is what the warehouse holds of one batch, counted over first
// entries of every kind.
type BatchSum struct {
	BatchID string
	Count   uint64
	Cost    money.Nano
	Price   money.Nano
	// Hash is the sum mod 2^64 of xxHash64 (seed 0) of every row's text
	// "event_id:cost_nano:price_nano", as 16 hex digits.
	Hash string
}

// batchSums counts in integers. A product of decimals has the sum of both
// scales, so nano-dollars are the whole part of amount × 1e9 at scale 9, which
// needs 28 of the 38 digits of Decimal128 for the largest amount. A sum that
// leaves Int64 is an error there, not a wrap. The hashes shall wrap.
const batchSums = `SELECT
    batch_id,
    count(),
    toInt64(sum(cost) * 1000000000),
    toInt64(sum(price) * 1000000000),
    sum(xxHash64(concat(event_id,
        ':', toString(toInt64(toDecimal128(cost, 9) * 1000000000)),
        ':', toString(toInt64(toDecimal128(price, 9) * 1000000000)))))
FROM usage_events
WHERE entry_no = 0
GROUP BY batch_id
ORDER BY batch_id`

// BatchSums reads the sums of all batches, ordered by id, for comparison with
// the ledger's manifests.
func (d *DB) BatchSums(ctx context.Context) ([]BatchSum, error) {
	rows, err := d.conn.Query(ctx, batchSums)
	if err != nil {
		return nil, fmt.Errorf("cannot sum the warehouse's batches: %w", err)
	}
	defer rows.Close()
	var sums []BatchSum
	for rows.Next() {
		var s BatchSum
		var cost, price int64
		var hash uint64
		if err := rows.Scan(&s.BatchID, &s.Count, &cost, &price, &hash); err != nil {
			return nil, fmt.Errorf("cannot read the warehouse's batch sums: %w", err)
		}
		s.Cost, s.Price, s.Hash = money.Nano(cost), money.Nano(price), fmt.Sprintf("%016x", hash)
		sums = append(sums, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the warehouse's batch sums: %w", err)
	}
	return sums, nil
}

package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"weir/schemas/money"
)

// Entry is one line of the books as its customer sees it: a posting on his
// wallet or on what he owes. Usage lowers the wallet; what the wallet did not
// cover is of kind receivable, and so are the two lines by which it is
// collected later. Events counts the billed events behind a usage entry.
type Entry struct {
	ID        string
	Time      time.Time
	Kind      string // credit, debit, usage, receivable, refund, dispute, rerate
	Amount    money.Nano
	Reference string // of a credit: the caller's; of usage: the batch
	Events    int64
}

func entryID(txn string, line int64) string { return txn + ":" + strconv.FormatInt(line, 10) }

// entryID0 is the id of the entry that a credit or debit is about: its first line.
func entryID0(t txnHead) string { return entryID(t.id, 0) }

// Entries lists a customer's entries; next is "" on the last page. A customer
// that does not exist has none.
func (db *DB) Entries(ctx context.Context, customer string, p Page) (list []Entry, next string, err error) {
	from, err := p.after()
	if err != nil {
		return nil, "", err
	}
	var places []place
	err = db.view().each(ctx, func(r *sql.Rows) error {
		var e Entry
		var at place
		err := r.Scan(&at.id, &at.line, &at.at, &e.Kind, &e.Amount, &e.Events, &e.Reference)
		e.ID, e.Time = entryID(at.id, at.line), moment(at.at)
		list, places = append(list, e), append(places, at)
		return err
	}, `SELECT p.txn, p.line, p.created_at, p.kind, p.amount, p.events, t.reference
		FROM posting p JOIN txn t ON t.id = p.txn
		WHERE p.customer = $1 AND p.customer <> '' AND (p.created_at, p.txn, p.line) < ($2, $3, $4)
		ORDER BY p.created_at DESC, p.txn DESC, p.line DESC LIMIT $5`,
		customer, from.at, from.id, from.line, p.limit()+1)
	if err != nil {
		return nil, "", fmt.Errorf("cannot list the entries of %s: %w", customer, err)
	}
	if n := p.limit(); len(list) > n {
		return list[:n], places[n-1].cursor(), nil
	}
	return list, "", nil
}

package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync"
)

// bulk is a statement over many rows: head, VALUES list, tail. Its types give
// one column each; a row has as many arguments.
type bulk struct {
	head, tail string
	types      []string
	texts      sync.Map // rows → text
}

// insertInto is the bulk that inserts rows with the given columns.
func insertInto(table, tail string, columns ...string) *bulk {
	return &bulk{head: "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES ", tail: tail,
		types: make([]string, len(columns))}
}

// text builds the statement for n rows. They are cast, since nothing else tells
// a server the types of a VALUES list that is no INSERT's: PostgreSQL asks for
// it in the first row, CockroachDB in every one.
func (b *bulk) text(n int) string {
	if t, ok := b.texts.Load(n); ok {
		return t.(string)
	}
	var s strings.Builder
	s.WriteString(b.head)
	p := 0
	for row := range n {
		if row > 0 {
			s.WriteString(", ")
		}
		for i, typ := range b.types {
			p++
			s.WriteString([2]string{"(", ", "}[min(i, 1)])
			if typ != "" {
				s.WriteString("CAST($" + strconv.Itoa(p) + " AS " + typ + ")")
			} else {
				s.WriteString("$" + strconv.Itoa(p))
			}
		}
		s.WriteString(")")
	}
	s.WriteString(b.tail)
	text := s.String()
	b.texts.Store(n, text)
	return text
}

// bulk runs b over rows, laid out one after another in args, and returns how
// many rows of the table it hit.
func (tx *Tx) bulk(ctx context.Context, b *bulk, args []any) (affected int64, err error) {
	for width := len(b.types); len(args) > 0; {
		n := piece(len(args)/width, tx.db.chunk)
		hit, err := tx.exec(ctx, b.text(n), args[:n*width]...)
		if err != nil {
			return 0, err
		}
		affected += hit
		args = args[n*width:]
	}
	return affected, nil
}

// piece is how many of n rows the next statement takes: a full chunk, a few
// rows as they are, or a power of two. So a statement has a dozen texts at
// most, which stay prepared, and a batch never costs many more statements.
func piece(n, chunk int) int {
	const few = 8
	switch {
	case n >= chunk:
		return chunk
	case n <= few:
		return n
	}
	return 1 << (bits.Len(uint(n)) - 1)
}

// selectIn runs a query with an IN list, written %s, for pieces of ids.
func (tx *Tx) selectIn(ctx context.Context, scan func(*sql.Rows) error, text string, ids []string) error {
	for len(ids) > 0 {
		n := piece(len(ids), tx.db.chunk)
		args := make([]any, n)
		for i, id := range ids[:n] {
			args[i] = id
		}
		if err := tx.each(ctx, scan, fmt.Sprintf(text, placeholders(n)), args...); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// placeholders is "$1, $2, …, $n".
func placeholders(n int) string {
	var s strings.Builder
	for i := 1; i <= n; i++ {
		if i > 1 {
			s.WriteString(", ")
		}
		s.WriteString("$" + strconv.Itoa(i))
	}
	return s.String()
}

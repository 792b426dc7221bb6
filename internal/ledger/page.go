package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	pageDefault = 100   // rows of a page that names no limit
	pageMax     = 1_000 // rows of a page, whatever it asks for
)

// Page asks for part of a list, newest first. Limit 0 is 100, more than 1,000
// is 1,000. Cursor is "" or what the page before returned as next.
type Page struct {
	Limit  int
	Cursor string
}

// ErrCursor refuses a cursor that no page returned.
var ErrCursor = errors.New("not a cursor of this list")

func (p Page) limit() int {
	if p.Limit <= 0 {
		return pageDefault
	}
	return min(p.Limit, pageMax)
}

// place is where a page begins: before the row of this time and id.
type place struct {
	at   int64
	id   string
	line int64
}

// after decodes the cursor; without one it lies behind every row.
func (p Page) after() (place, error) {
	if p.Cursor == "" {
		return place{at: math.MaxInt64}, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	at, rest, ok := strings.Cut(string(text), " ")
	line, id, ok2 := strings.Cut(rest, " ")
	var c place
	if err == nil && ok && ok2 {
		c.id = id
		if c.at, err = strconv.ParseInt(at, 10, 64); err == nil {
			c.line, err = strconv.ParseInt(line, 10, 64)
		}
		if err == nil {
			return c, nil
		}
	}
	return place{}, fmt.Errorf("%w: %q", ErrCursor, p.Cursor)
}

func (c place) cursor() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %d %s", c.at, c.line, c.id))
}

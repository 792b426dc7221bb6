package analytics

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"weir/internal/ledger"
	"weir/internal/warehouse"
	"weir/schemas/money"
)

const (
	// waitMax bounds how long a tie-out waits for what is under way.
	waitMax = 10 * time.Minute
	// waitTick is how often it looks.
	waitTick = 100 * time.Millisecond
	// breaksMax bounds the breaks between ledger and warehouse that are told:
	// who reads a hundred knows what is wrong.
	breaksMax = 100
)

// tied is the answer of the tie-out.
type tied struct {
	OK         bool       `json:"ok"`
	Pending    pending    `json:"pending"`
	Events     sums       `json:"events"`
	Ledger     sums       `json:"ledger"`
	ClickHouse *sums      `json:"clickhouse"`
	Leases     leases     `json:"leases"`
	Receivable money.Nano `json:"receivable"`
	Leakage    leakage    `json:"leakage"`
	Breaks     []broken   `json:"breaks"`
}

// pending counts what is on its way: records in spools, records in the log,
// batches not yet in the warehouse.
type pending struct {
	Spool  int64 `json:"spool"`
	Log    int64 `json:"log"`
	Append int64 `json:"append"`
}

type sums struct {
	Count int64      `json:"count"`
	Cost  money.Nano `json:"cost"`
	Price money.Nano `json:"price"`
}

type leases struct {
	Open int64      `json:"open"`
	Held money.Nano `json:"held"`
}

type leakage struct {
	Count    int64      `json:"count"`
	Reserved money.Nano `json:"reserved"`
}

type broken struct {
	Batch    string `json:"batch"`
	Check    string `json:"check"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// tieOut compares the three books: manifests, postings, warehouse rows. With
// ?wait= it first waits until nothing is under way.
func (a *Analytics) tieOut(r *http.Request) (any, error) {
	values := r.URL.Query()
	if err := known(values, "wait"); err != nil {
		return nil, err
	}
	var wait time.Duration
	if text := values.Get("wait"); text != "" {
		var err error
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > waitMax {
			return nil, badRequest{fmt.Sprintf("`wait` is %q; give a duration such as 30s, at most %s.", text, waitMax)}
		}
	}
	answer, waited, err := a.compareSettled(r.Context(), values.Get("wait") != "", time.Now().Add(wait))
	if err != nil {
		return nil, err
	}
	if waited != nil {
		answer.Breaks = append(answer.Breaks, broken{Check: "pending", Expected: "0 within the wait",
			Found: fmt.Sprintf("spool %d, log %d, append %d, or requests in flight", waited.Spool, waited.Log, waited.Append)})
	}
	answer.OK = len(answer.Breaks) == 0
	return answer, nil
}

// compareSettled compares the books, after waiting if so asked. A lease may
// close between the wait and the comparison: then both are done again while
// there is time.
func (a *Analytics) compareSettled(ctx context.Context, wait bool, deadline time.Time) (answer *tied, waited *pending, err error) {
	for {
		if wait {
			if waited, err = a.settleDown(ctx, max(time.Until(deadline), 0)); err != nil {
				return nil, nil, err
			}
		}
		answer, err = a.compare(ctx)
		if err != nil || !wait || waited != nil || answer.Pending == (pending{}) || !time.Now().Before(deadline) {
			return answer, waited, err
		}
	}
}

// settleDown waits until a heartbeat of every gateway that is younger than the
// question says that nothing is pending or in flight. It returns what still
// was when the wait ended, nil when nothing was.
func (a *Analytics) settleDown(ctx context.Context, wait time.Duration) (*pending, error) {
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	first := time.Time{}
	for deadline := time.Now().Add(wait); ; {
		state, err := a.Ledger.Pending(ctx)
		if err != nil {
			return nil, err
		}
		if first.IsZero() {
			first = state.AsOf
		}
		p, err := a.pending(ctx, state)
		if err != nil {
			return nil, err
		}
		fresh := state.Heard.IsZero() || state.Heard.After(first)
		if fresh && state.InFlight == 0 && p == (pending{}) && (a.warehouseUp() || a.wantsNone()) {
			return nil, nil
		}
		if !time.Now().Before(deadline) {
			return &p, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// pending adds what only the log can tell. Without a warehouse nothing is
// waiting to be appended.
func (a *Analytics) pending(ctx context.Context, state ledger.Pending) (pending, error) {
	p := pending{Spool: state.Unacked, Append: state.Unappended}
	if a.wantsNone() {
		p.Append = 0
	}
	topic, ends, err := a.LogEnds(ctx)
	if err != nil {
		return p, err
	}
	for part, end := range ends {
		settled := int64(0)
		for _, c := range state.Cursors {
			if c.Topic == topic && c.Part == part {
				settled = c.Settled
			}
		}
		p.Log += max(end-settled, 0)
	}
	return p, nil
}

// compare reads the ledger, then the warehouse, then the manifests again: a
// batch that was appended before the warehouse was read must be there, and
// whatever is there must by the second reading have its manifest.
func (a *Analytics) compare(ctx context.Context) (*tied, error) {
	before, err := a.Ledger.ManifestSums(ctx)
	if err != nil {
		return nil, err
	}
	books, err := a.Ledger.Books(ctx)
	if err != nil {
		return nil, err
	}
	p, err := a.pending(ctx, books.Pending)
	if err != nil {
		return nil, err
	}
	answer := &tied{Pending: p, Events: sums(books.Events), Ledger: sums(books.Ledger), Leases: leases{books.OpenLeases, books.Held},
		Receivable: books.Receivable, Leakage: leakage{books.LeakCount, books.LeakReserved}, Breaks: []broken{}}
	for _, b := range books.Breaks {
		answer.Breaks = append(answer.Breaks, broken(b))
	}
	if answer.Events != answer.Ledger {
		answer.Breaks = append(answer.Breaks, broken{Check: "events and ledger", Expected: answer.Events.String(), Found: answer.Ledger.String()})
	}
	if a.wantsNone() {
		return answer, nil
	}
	if !a.warehouseUp() {
		answer.Breaks = append(answer.Breaks, broken{Check: "clickhouse", Expected: "its rows", Found: a.why()})
		return answer, nil
	}
	return answer, a.compareWarehouse(ctx, answer, before)
}

// compareWarehouse adds the warehouse's sums and where they differ. Of batches
// that were settled so long ago that single events may be gone, the rows that
// are still there are counted and not compared.
func (a *Analytics) compareWarehouse(ctx context.Context, answer *tied, before []ledger.ManifestSum) error {
	rows, err := a.Warehouse.BatchSums(ctx)
	if err != nil {
		return err
	}
	after, err := a.Ledger.ManifestSums(ctx)
	if err != nil {
		return err
	}
	manifests := make(map[string]ledger.ManifestSum, len(after))
	for _, m := range after {
		manifests[m.ID] = m
	}
	kept := a.Warehouse.KeptSince()
	var breaks []broken
	stored := make(map[string]bool, len(rows))
	answer.ClickHouse = &sums{}
	for _, r := range rows {
		stored[r.BatchID] = true
		answer.ClickHouse.Count += int64(r.Count)
		answer.ClickHouse.Cost += r.Cost
		answer.ClickHouse.Price += r.Price
		if m, known := manifests[r.BatchID]; known && m.SettledAt.After(kept) {
			breaks = append(breaks, differences(m, r)...)
		} else if !known {
			breaks = append(breaks, broken{r.BatchID, "clickhouse rows", "0, there is no such manifest", strconv.FormatUint(r.Count, 10)})
		}
	}
	for _, m := range before {
		if m.Appended && !stored[m.ID] && m.SettledAt.After(kept) {
			breaks = append(breaks, broken{m.ID, "clickhouse rows", strconv.FormatInt(m.Count, 10), "0"})
		}
	}
	answer.Breaks = append(answer.Breaks, breaks[:min(len(breaks), breaksMax)]...)
	return nil
}

// differences tells in what a batch's rows are not what its manifest says.
func differences(m ledger.ManifestSum, r warehouse.BatchSum) (list []broken) {
	check := func(name, expected, found string) {
		if expected != found {
			list = append(list, broken{m.ID, name, expected, found})
		}
	}
	check("clickhouse rows", strconv.FormatInt(m.Count, 10), strconv.FormatUint(r.Count, 10))
	check("clickhouse cost", m.Cost.String(), r.Cost.String())
	check("clickhouse price", m.Price.String(), r.Price.String())
	check("clickhouse hash", ledger.HashText(m.Hash), r.Hash)
	return list
}

// String writes sums for people.
func (s sums) String() string {
	return fmt.Sprintf("%d events, cost %s, price %s", s.Count, s.Cost, s.Price)
}

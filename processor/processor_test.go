package processor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestPath: what is written to the spool is settled as promised, appended as
// written, and charged to its wallet; a closed lease holds nothing.
func TestPath(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		t.Parallel()
		w := newWorld(t, c)
		w.produce()
		p, _ := w.process()
		for i := range 5 {
			id := fmt.Sprint("customer", i)
			w.customer(id, 1000*money.Dollar)
			l := w.lease(id, money.Dollar)
			w.use(l, 200)
			leak := usage.Record{Kind: usage.KindUnknown, Row: usage.RowLeakage, Status: usage.StatusUnknown, LeaseID: l.id, Seq: l.seq + 1,
				Customer: id, TimeMs: time.Now().UnixMilli(), Currency: "usd", Reserved: money.Dollar}
			l.seq++
			w.write(l, leak)
			w.closeLease(l)
		}
		w.appended()
		w.tieOut()
		books, err := w.db.Books(w.ctx)
		w.must(err)
		if books.Held != 0 || books.OpenLeases != 0 || books.Receivable != 0 || books.LeakCount != 5 || books.LeakReserved != 5*money.Dollar {
			t.Errorf("after all leases closed: %+v", books)
		}
		if metric(p.Metrics.Settled) != 5*201 || metric(p.Metrics.Mismatches) != 0 || metric(p.Metrics.Dead) != 0 || metric(p.Metrics.Duplicates) != 0 {
			t.Errorf("settled %d, mismatches %d, dead %d, duplicates %d", metric(p.Metrics.Settled), metric(p.Metrics.Mismatches),
				metric(p.Metrics.Dead), metric(p.Metrics.Duplicates))
		}
	})
}

// TestMismatch: a promise that is not what the card says is settled as
// promised and breaks the tie-out until somebody accepts it.
func TestMismatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	w.customer("acme", 10*money.Dollar)
	l := w.lease("acme", money.Dollar)
	w.use(l, 3)
	wrong := w.event(l, 100, 100)
	wrong.Price += 1
	w.write(l, wrong)
	other := w.event(l, 100, 100)
	other.ModelBilled = "gpt-other"
	w.write(l, other)
	w.closeLease(l)
	w.produce()
	p, stop := w.process()
	w.appended()
	list := w.breaks()
	if len(list) != 2 || checks(list) != "rate_mismatch" || list[0].Expected != wrong.EventID() || metric(p.Metrics.Mismatches) != 2 {
		t.Errorf("breaks %+v, %d counted", list, metric(p.Metrics.Mismatches))
	}
	stop()
	for _, b := range list {
		w.accept(b.Batch)
	}
	w.tieOut()
}

// TestDecode: what the stores cannot hold is refused here, where it costs one
// dead letter and not its partition.
func TestDecode(t *testing.T) {
	good := usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "l", Seq: 1, Customer: "c", TimeMs: time.Now().UnixMilli()}
	if _, err := decode(usage.AppendRecord(nil, &good)); err != nil {
		t.Fatal(err)
	}
	if _, err := decode([]byte("not a record")); !isFaultOfEvent(err) {
		t.Error(err)
	}
	for name, change := range map[string]func(*usage.Record){
		"an intent":              func(r *usage.Record) { r.Kind, r.Seq = usage.KindIntent, 0 },
		"a reservation":          func(r *usage.Record) { r.Reserved = 1_000_000_000 * money.Dollar },
		"before any clock":       func(r *usage.Record) { r.TimeMs = -1 },
		"after any clock":        func(r *usage.Record) { r.TimeMs = 1 << 60 },
		"broken UTF-8":           func(r *usage.Record) { r.KeyID = "\xff" },
		"a zero byte":            func(r *usage.Record) { r.Provider = "a\x00b" },
		"a zero byte in a lease": func(r *usage.Record) { r.LeaseID = "\x00" },
		"in an outside id":       func(r *usage.Record) { r.ExternalID = "\xff" },
	} {
		rec := good
		change(&rec)
		if got, err := decode(usage.AppendRecord(nil, &rec)); !isFaultOfEvent(err) || got.LeaseID != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeadLetters: records that cannot be decoded or rated are kept with their
// reason, their seq counts as seen, the rest of the partition settles, and the
// tie-out names them until they are accepted.
func TestDeadLetters(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		t.Parallel()
		w := newWorld(t, c)
		w.customer("acme", 10*money.Dollar)
		l := w.lease("acme", money.Dollar)
		var raw []stream.Rec
		put := func(value []byte) { raw = append(raw, stream.Rec{Offset: int64(len(raw)), Value: value}) }
		good := func() {
			rec := w.event(l, 10, 10)
			w.expected[rec.EventID()] = rec
			l.count, l.cost, l.price = l.count+1, l.cost+rec.Cost, l.price+rec.Price
			put(usage.AppendRecord(nil, &rec))
		}
		bad := func(change func(*usage.Record)) {
			rec := w.event(l, 10, 10)
			change(&rec)
			put(usage.AppendRecord(nil, &rec))
		}
		good()
		put([]byte{0xff, 0x00, 0x01})
		bad(func(r *usage.Record) { r.Rule = "a rule that is none" })
		bad(func(r *usage.Record) { r.Model = "gpt-\x00-\xff" })
		bad(func(r *usage.Record) { r.Meters[usage.Images] = 1 })
		bad(func(r *usage.Record) { r.Meters[usage.Input] = 1 << 62 })
		good()
		p := w.processor()
		_, err := p.assigned(w.ctx, []int32{0})
		w.must(err)
		own := p.owns[0]
		b, err := p.rate(w.ctx, run{0, own, raw})
		w.must(err)
		settled, err := p.settle(w.ctx, b)
		w.must(err)
		p.append(b, settled)
		if own.next != int64(len(raw)) || own.main.next != own.next || metric(p.Metrics.Dead) != 5 {
			t.Errorf("the partition is at %+v, %d dead letters", own, metric(p.Metrics.Dead))
		}
		list := w.breaks()
		if len(list) != 5 || checks(list) != "dead_letter" {
			t.Fatalf("%+v", list)
		}
		for i, want := range []string{"not a usage record", "no such rule", "does not price this model", "does not price this meter", "beyond what can be counted"} {
			if !strings.Contains(list[i].Found, want) || !strings.HasSuffix(list[i].Expected, fmt.Sprint("offset ", i+1)) {
				t.Errorf("break %d is %+v, not about %q", i, list[i], want)
			}
		}
		w.accept(list[0].Batch)
		lease, err := w.db.Lease(w.ctx, l.id)
		w.must(err)
		if lease.LastSeq != int64(l.seq) || lease.Count != 2 || checks(w.breaks()) != "" {
			t.Errorf("%+v, %+v", lease, w.breaks())
		}
		go p.appender.run(w.ctx)
		w.until("the others are appended", func() bool { return w.pending().Unappended == 0 })
		w.tieOut()
	})
}

// TestUnknownCard: a card that nobody published is waited for, thirty seconds
// over all events that name it; then they are dead letters.
func TestUnknownCard(t *testing.T) {
	for name, c := range map[string]struct {
		published bool
		waited    time.Duration
		dead      int
	}{
		"it comes":  {true, 10 * time.Second, 0},
		"it is not": {false, unknownCardWait, 500},
	} {
		dir := t.TempDir()
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{T: t, ctx: t.Context()}
				w.db = ledgertest.Open(t, ledger.Config{Dir: dir})
				late := w.compose(strings.ReplaceAll(cardText, "1.2345", "1.2346"))
				w.publish(w.compose(cardText))
				p := New(Options{Ledger: w.db, Cards: cards.New(w.db), Logger: quiet()})
				l := &tap{id: "l", customer: "c"}
				var raw []stream.Rec
				for i := range 1000 {
					rec := w.event(l, 0, 0)
					if i%2 == 0 {
						rec.PriceCard = late.PriceHash()
					}
					raw = append(raw, stream.Rec{Offset: int64(i), Value: usage.AppendRecord(nil, &rec)})
				}
				if c.published {
					time.AfterFunc(c.waited-time.Millisecond, func() { w.publish(late) })
				}
				began := time.Now()
				b, err := p.rate(w.ctx, run{0, &partition{}, raw})
				w.must(err)
				if len(b.Dead) != c.dead || len(b.Records) != 1000-c.dead || time.Since(began) != c.waited {
					t.Errorf("%d dead letters after %s", len(b.Dead), time.Since(began))
				}
				if b, err = p.rate(w.ctx, run{0, &partition{}, raw}); err != nil || len(b.Dead) != c.dead || time.Since(began) != c.waited {
					t.Errorf("the next batch: %d dead letters after %s, %v", len(b.Dead), time.Since(began), err)
				}
			})
		})
	}
}

// TestDuplicates: what is produced twice takes effect once.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	w.customer("acme", 10*money.Dollar)
	l := w.lease("acme", money.Dollar)
	twin := w.addSpool()
	for range 300 {
		rec := w.event(l, 5, 5)
		w.write(l, rec)
		_, err := twin.Append(&rec)
		w.must(err)
	}
	w.closeLease(l)
	w.produce()
	p, _ := w.process()
	w.appended()
	if metric(p.Metrics.Duplicates) != 300 {
		t.Errorf("%d duplicates", metric(p.Metrics.Duplicates))
	}
	w.tieOut()
}

// TestBatches: no batch is larger than what one transaction and one block may
// hold, however much waits in the log.
func TestBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	w.customer("acme", 1000*money.Dollar)
	l := w.lease("acme", 100*money.Dollar)
	w.use(l, 2*ledger.MaxBatch+100)
	stop := w.produce()
	w.until("everything is in the log", func() bool { return w.spools[0].Usage().UnackedRecords == 0 })
	stop()
	w.process()
	w.appended()
	list, err := w.db.ManifestSums(w.ctx)
	w.must(err)
	if len(list) < 3 || len(list) > 30 {
		t.Errorf("%d batches", len(list))
	}
	w.tieOut() // the shelf has looked at the sizes
}

// TestFenced: an owner whose partition was taken over settles nothing more
// there, finds out, and takes it back: nothing is lost or done twice.
func TestFenced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	w.use(l, 10)
	w.produce()
	p, _ := w.process()
	w.settled()
	for part := range int32(partitions) {
		_, err := w.db.AcquirePartition(w.ctx, w.log.TopicID(), part)
		w.must(err)
	}
	w.use(l, 10)
	w.closeLease(l)
	w.appended()
	w.tieOut()
	for part := range int32(partitions) {
		p.mu.Lock()
		own := p.owns[part]
		p.mu.Unlock()
		if own == nil {
			t.Fatalf("partition %d is not owned", part)
		}
	}

	b := &batch{own: &partition{}, cursor: &cursor{}, Batch: ledger.Batch{Topic: w.log.TopicID(), Part: 0, Epoch: 1, From: 0, To: 1}}
	if _, err := p.settle(w.ctx, b); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("an old owner settled: %v", err)
	}
}

// TestTwoProcessors: partitions move between processors under load, because
// they come and go; each event takes effect once.
func TestTwoProcessors(t *testing.T) {
	ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
		t.Parallel()
		w := newWorld(t, c)
		w.produce()
		var leases []*tap
		for i := range 8 {
			id := fmt.Sprint("customer", i)
			w.customer(id, 100*money.Dollar)
			leases = append(leases, w.lease(id, money.Dollar))
		}
		load := func(n int) {
			for _, l := range leases {
				w.use(l, n)
			}
		}
		_, stopFirst := w.process()
		load(50)
		_, stopSecond := w.process()
		load(50)
		w.settled()
		load(50)
		stopFirst()
		load(50)
		_, stopThird := w.process()
		load(50)
		stopSecond()
		load(50)
		for _, l := range leases {
			w.closeLease(l)
		}
		w.appended()
		stopThird()
		w.tieOut()
	})
}

// TestReclaim: a lease whose gateway is gone past its grace returns to its
// wallet, and what its gateway still had to tell is settled as late.
func TestReclaim(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, ctx: t.Context(), config: ledger.Config{Dir: dir}, patience: patience}
		w.db = ledgertest.Open(t, w.config)
		_, err := w.db.StartSession(w.ctx, ledger.Session{ID: sessionID, Gateway: gatewayID, TTL: sessionTTL})
		w.must(err)
		w.customer("acme", 10*money.Dollar)
		l := w.lease("acme", 4*money.Dollar)
		ctx, cancel := context.WithCancel(w.ctx)
		defer cancel()
		p := New(Options{Ledger: w.db, Grace: 45 * time.Minute, Logger: quiet(), Metrics: w.metrics()})
		go p.reclaim(ctx)
		time.Sleep(sessionTTL + 45*time.Minute - time.Minute)
		synctest.Wait()
		wallet, err := w.db.Wallet(w.ctx, "acme")
		w.must(err)
		if wallet.Held != 4*money.Dollar {
			t.Errorf("reclaimed before the grace: %+v", wallet)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wallet, err = w.db.Wallet(w.ctx, "acme")
		w.must(err)
		lease, err := w.db.Lease(w.ctx, l.id)
		w.must(err)
		if wallet.Held != 0 || lease.State != ledger.LeaseReclaimed || metric(p.Metrics.Reclaimed) != 1 {
			t.Errorf("%+v, %+v", wallet, lease)
		}
	})
}

// TestLag: the lag of a partition is what is in the log and not settled, and
// the age of the oldest of it; a partition that left has none.
func TestLag(t *testing.T) {
	w := newWorld(t, sqlite(t))
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	stop := w.produce()
	_, stopProcessor := w.process()
	w.use(l, 5)
	w.settled()
	stopProcessor()
	rec := w.event(l, 1, 1)
	rec.TimeMs -= time.Hour.Milliseconds()
	w.write(l, rec)
	w.use(l, 6)
	w.until("everything is in the log", func() bool { return w.spools[0].Usage().UnackedRecords == 0 })
	stop()
	p := w.processor()
	_, err := p.assigned(w.ctx, []int32{0, 1, 2, 3})
	w.must(err)
	w.must(p.measureLag(w.ctx))
	var records, seconds float64
	for part, n := range gauges(p.Metrics.LagRecords) {
		records += n
		seconds += gauges(p.Metrics.LagSeconds)[part]
	}
	if records != 7 || seconds < 3600 || seconds > 3660 {
		t.Errorf("%v records, the oldest %v seconds old", records, seconds)
	}
	p.revoked([]int32{0, 1, 2})
	if got := gauges(p.Metrics.LagRecords); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// TestDue: of what was fetched exactly that is settled which comes next, also
// when a partition went and came back while its records were collected.
func TestDue(t *testing.T) {
	recs := func(from, to int64) (list []stream.Rec) {
		for o := from; o < to; o++ {
			list = append(list, stream.Rec{Offset: o})
		}
		return list
	}
	at := func(next, end int64) *partition { return &partition{next: next, main: cursor{next: end}} }
	cut := at(5, 8)
	cut.again = &cursor{}
	for name, c := range map[string]struct {
		own     *partition
		fetched [][2]int64
		want    [][2]int64 // nil: an error
	}{
		"next":                                     {at(5, 5), [][2]int64{{5, 8}, {8, 10}}, [][2]int64{{5, 10}}},
		"left":                                     {nil, [][2]int64{{5, 8}}, [][2]int64{}},
		"came back where it was":                   {at(5, 5), [][2]int64{{5, 8}, {5, 9}}, [][2]int64{{5, 9}}},
		"came back after others settled a part":    {at(7, 7), [][2]int64{{5, 8}, {7, 9}}, [][2]int64{{7, 9}}},
		"came back after others settled all":       {at(20, 20), [][2]int64{{5, 8}, {20, 22}}, [][2]int64{{20, 22}}},
		"only what was settled meanwhile":          {at(20, 20), [][2]int64{{5, 8}}, [][2]int64{}},
		"settled first, delivered again with more": {at(8, 8), [][2]int64{{5, 12}}, [][2]int64{{8, 12}}},
		"a hole":            {at(5, 5), [][2]int64{{6, 8}}, nil},
		"a hole further on": {at(5, 5), [][2]int64{{5, 8}, {9, 12}}, nil},
		"over a break":      {cut, [][2]int64{{5, 12}}, [][2]int64{{5, 8}, {8, 12}}},
		"up to a break":     {cut, [][2]int64{{5, 8}}, [][2]int64{{5, 8}}},
		"below a break":     {cut, [][2]int64{{5, 7}}, [][2]int64{{5, 7}}},
	} {
		p := &Processor{owns: map[int32]*partition{}}
		if c.own != nil {
			p.owns[3] = c.own
		}
		var got []stream.Fetch
		for _, f := range c.fetched {
			got = merge(got, stream.Fetch{Part: 3, Records: recs(f[0], f[1])})
		}
		runs, err := p.due(got)
		if (err != nil) != (c.want == nil) || len(runs) != len(c.want) {
			t.Errorf("%s: %d runs, %v", name, len(runs), err)
			continue
		}
		for i, r := range runs {
			if first, last := r.recs[0].Offset, r.recs[len(r.recs)-1].Offset; first != c.want[i][0] || last != c.want[i][1]-1 {
				t.Errorf("%s: %d to %d", name, first, last)
			}
		}
	}
}

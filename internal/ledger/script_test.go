package ledger_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestScripts runs each script of testdata on every backend: the output must
// be the same everywhere.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		ledgertest.EachConfig(t, func(t *testing.T, c ledger.Config) {
			s := &script{t: t, ctx: context.Background(), now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), epochs: map[string]int64{}}
			c.Now = func() time.Time { return s.now }
			s.db = ledgertest.Open(t, c)
			datadriven.RunTest(t, path, s.run)
		})
	})
}

// script is one ledger under one clock, which moves a millisecond with every
// command so that entries have an order.
type script struct {
	t      *testing.T
	ctx    context.Context
	db     *ledger.DB
	now    time.Time
	epochs map[string]int64 // acquired, by topic/part
	out    strings.Builder
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	s.now = s.now.Add(time.Millisecond)
	verb, ok := map[string]func(args) error{
		"customer": s.customer, "update": s.update, "credit": s.credit, "debit": s.debit, "wallet": s.wallet, "session": s.session,
		"end": s.end, "beat": s.beat, "grant": s.grant, "lease": s.lease, "reclaim": s.reclaim, "acquire": s.acquire,
		"settle": func(a args) error { return s.settle(a, d.Input) }, "append": s.append, "advance": s.advance, "lots": s.lots,
		"entries": s.entries, "spend": s.spend, "books": s.books, "accept": s.accept, "budget": s.budget, "warehouse": s.warehouse,
		"sql": func(args) error { return s.sql(d.Input) },
	}[d.Cmd]
	if !ok {
		t.Fatalf("%s: no command %q", d.Pos, d.Cmd)
	}
	a := args{}
	for _, arg := range d.CmdArgs {
		a[arg.Key] = strings.Join(arg.Vals, ",")
	}
	if err := verb(a); err != nil {
		s.printf("error: %s", plain(err))
	}
	return s.out.String()
}

// args are the key=value words of a command or of a record.
type args map[string]string

func (a args) str(key, otherwise string) string {
	if v, ok := a[key]; ok {
		return v
	}
	return otherwise
}

func (a args) int(key string, otherwise int64) int64 {
	n, err := strconv.ParseInt(a.str(key, strconv.FormatInt(otherwise, 10)), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func (a args) nano(key string) money.Nano {
	n, err := money.ParseNano(a.str(key, "0"))
	if err != nil {
		panic(err)
	}
	return n
}

func (a args) duration(key string) time.Duration {
	d, err := time.ParseDuration(a.str(key, "0s"))
	if err != nil {
		panic(err)
	}
	return d
}

func (s *script) printWallet(w ledger.Wallet) {
	s.printf("%s: balance %s = %s - %s, held %s, available %s, receivable %s", w.Customer, w.Balance(), w.Credited, w.Debited, w.Held, w.Available(), w.Receivable)
}

func (s *script) printLease(l ledger.Lease) {
	s.printf("%s %s: granted %s (no %d), settled %s, returned %s; seq %d, final %d; %d events, cost %s, price %s",
		l.ID, l.State, l.Granted, l.GrantNo, l.Settled, l.Returned, l.LastSeq, l.FinalSeq, l.Count, l.Cost, l.Price)
}

func (s *script) customer(a args) error {
	return s.db.Tx(s.ctx, func(tx *ledger.Tx) error {
		_, err := tx.CreateCustomer(s.ctx, ledger.Customer{ID: a["id"], Plan: a["plan"]})
		return err
	})
}

func (s *script) update(a args) error {
	return s.db.Tx(s.ctx, func(tx *ledger.Tx) error {
		status := a["status"]
		_, err := tx.UpdateCustomer(s.ctx, a["id"], &status, nil)
		return err
	})
}

func (s *script) credit(a args) error {
	return s.db.Tx(s.ctx, func(tx *ledger.Tx) error {
		_, w, err := tx.Credit(s.ctx, ledger.Credit{Customer: a["to"], Amount: a.nano("amount"), Kind: a["kind"], Reference: a["reference"]})
		if err == nil {
			s.printWallet(w)
		}
		return err
	})
}

func (s *script) debit(a args) error {
	return s.db.Tx(s.ctx, func(tx *ledger.Tx) error {
		_, w, err := tx.Debit(s.ctx, ledger.Debit{Customer: a["from"], Amount: a.nano("amount"), Reason: "test"})
		if err == nil {
			s.printWallet(w)
		}
		return err
	})
}

func (s *script) wallet(a args) error {
	w, err := s.db.Wallet(s.ctx, a["of"])
	if err == nil {
		s.printWallet(w)
	}
	return err
}

func (s *script) session(a args) error {
	_, exclusive := a["exclusive"]
	ttl := 10 * time.Minute
	leases, err := s.db.StartSession(s.ctx, ledger.Session{ID: a["id"], Gateway: a["gateway"], Exclusive: exclusive, TTL: ttl})
	for _, l := range leases {
		s.printLease(l)
	}
	return err
}

func (s *script) end(a args) error { return s.db.EndSession(s.ctx, a["session"]) }

func (s *script) beat(a args) error {
	b, err := s.db.Beat(s.ctx, ledger.Beat{Session: a["session"], SinceEpoch: a.int("epoch", 0), SinceRecall: a.int("recall", 0),
		Unacked: a.int("unacked", 0), InFlight: a.int("inflight", 0), Topic: a["topic"]})
	if err != nil {
		return err
	}
	s.printf("epoch %d, recall %d, %d gateways, recalled %v", b.Epoch, b.Recall, b.Gateways, b.RecallWallets)
	for _, c := range b.Customers {
		s.printf("customer %s %s", c.ID, c.Status)
	}
	for _, p := range b.Progress {
		s.printf("%s/%d settled %d appended %d", p.Topic, p.Part, p.Settled, p.Appended)
	}
	return nil
}

func (s *script) warehouse(a args) error { return s.db.SetWarehouse(s.ctx, a["is"] != "none") }

func (s *script) grant(a args) error {
	l, w, err := s.db.Grant(s.ctx, ledger.GrantRequest{LeaseID: a["lease"], Customer: a.str("of", "acme"), Session: a.str("session", "s1"),
		Gateway: a.str("gateway", "g1"), GrantNo: a.int("no", 1), Need: a.nano("need"), Want: a.nano("want")})
	if err == nil {
		s.printLease(l)
		s.printWallet(w)
	}
	return err
}

func (s *script) lease(a args) error {
	l, err := s.db.Lease(s.ctx, a["id"])
	if err == nil {
		s.printLease(l)
	}
	return err
}

func (s *script) reclaim(a args) error {
	leases, err := s.db.Reclaim(s.ctx, a.duration("grace"))
	for _, l := range leases {
		s.printLease(l)
	}
	return err
}

func (s *script) acquire(a args) error {
	topic, part := a.str("topic", "t"), a.int("part", 0)
	c, err := s.db.AcquirePartition(s.ctx, topic, int32(part))
	s.epochs[fmt.Sprintf("%s/%d", topic, part)] = c.Epoch
	s.printf("epoch %d, next %d, last %q", c.Epoch, c.NextOffset, c.LastEventID)
	return err
}

func (s *script) settle(a args, input string) error {
	topic, part := a.str("topic", "t"), a.int("part", 0)
	b := ledger.Batch{Topic: topic, Part: int32(part), From: a.int("from", 0)}
	b.Epoch = a.int("epoch", s.epochs[fmt.Sprintf("%s/%d", topic, part)])
	b.To = b.From
	for line := range strings.Lines(input) {
		words := strings.Fields(line)
		r := args{}
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			r[k] = v
		}
		if words[0] == "dead" {
			b.Dead = append(b.Dead, ledger.DeadLetter{Offset: b.To, Lease: r["lease"], Seq: uint64(r.int("seq", 0)),
				Customer: r.str("of", "acme"), Bytes: []byte("?"), Reason: r.str("reason", "cannot be decoded")})
		} else {
			b.Records = append(b.Records, ledger.Settling{Offset: b.To, Rec: s.record(words[0], r), Mismatch: r["mismatch"]})
		}
		b.To++
	}
	out, err := s.db.Settle(s.ctx, b)
	if err != nil {
		return err
	}
	m := out.Manifest
	s.printf("%s to %d: %d events, cost %s, price %s, hash %s, fresh %v", m.ID, m.To, m.Count, m.Cost, m.Price, ledger.HashText(m.Hash), out.Fresh)
	for _, q := range m.Seqs {
		s.printf("  %s seqs %d to %d", q.Lease, q.From, q.To)
	}
	if m.LeakCount > 0 {
		s.printf("  %d leaks, %s reserved", m.LeakCount, m.LeakReserved)
	}
	return nil
}

func (s *script) record(kind string, a args) *usage.Record {
	r := &usage.Record{LeaseID: a["lease"], Seq: uint64(a.int("seq", 0)), Customer: a.str("of", "acme"), Gateway: a.str("gateway", "g1"),
		TimeMs: s.now.UnixMilli()}
	switch kind {
	case "usage":
		r.Kind, r.Row, r.Provider, r.KeyID = usage.KindUsage, usage.RowUsage, a.str("provider", "openai"), a["key"]
		r.Cost, r.Price = a.nano("cost"), a.nano("price")
	case "error":
		r.Kind, r.Row = usage.KindUsage, usage.RowError
	case "unknown":
		r.Kind, r.Row, r.Reserved = usage.KindUnknown, usage.RowLeakage, a.nano("reserved")
	case "return":
		r.Kind, r.Returned = usage.KindReturn, a.nano("amount")
	case "close":
		r.Kind, r.Count, r.CostSum, r.PriceSum = usage.KindClose, uint64(a.int("events", 0)), a.nano("cost"), a.nano("price")
	default:
		s.t.Fatalf("no record %q", kind)
	}
	return r
}

func (s *script) append(a args) error { return s.db.MarkAppended(s.ctx, a["batch"]) }

func (s *script) advance(a args) error {
	s.now = s.now.Add(a.duration("by"))
	return nil
}

func (s *script) lots(a args) error {
	return s.db.Tx(s.ctx, func(tx *ledger.Tx) error {
		for _, kind := range []string{"promo", "paid"} {
			for _, what := range []string{"amount", "used"} {
				n, err := tx.Count(s.ctx, "SELECT CAST(COALESCE(SUM("+what+"), 0) AS BIGINT) FROM lot WHERE customer = $1 AND kind = $2", a["of"], kind)
				if err != nil {
					return err
				}
				s.printf("%s %s %s", kind, what, money.Nano(n))
			}
		}
		return nil
	})
}

func (s *script) entries(a args) error {
	p := ledger.Page{Limit: int(a.int("limit", 2))}
	for {
		list, next, err := s.db.Entries(s.ctx, a["of"], p)
		if err != nil {
			return err
		}
		for _, e := range list {
			s.printf("%s %s %s %q %d events", e.Time.Format("15:04:05.000"), e.Kind, e.Amount, e.Reference, e.Events)
		}
		if p.Cursor = next; next == "" {
			return nil
		}
	}
}

func (s *script) spend(a args) error {
	n, err := s.db.Spend(s.ctx, a["scope"], a["period"])
	s.printf("%s", n)
	return err
}

func (s *script) budget(a args) error {
	n, err := s.db.TakeBudget(s.ctx, a["rule"], a["day"], a.nano("budget"), a.nano("slice"))
	s.printf("%s", n)
	return err
}

func (s *script) books(args) error {
	b, err := s.db.Books(s.ctx)
	if err != nil {
		return err
	}
	s.printf("events %d, cost %s, price %s", b.Events.Count, b.Events.Cost, b.Events.Price)
	s.printf("ledger %d, cost %s, price %s", b.Ledger.Count, b.Ledger.Cost, b.Ledger.Price)
	s.printf("leases %d, held %s, receivable %s, leaks %d of %s", b.OpenLeases, b.Held, b.Receivable, b.LeakCount, b.LeakReserved)
	s.printf("pending: unacked %d, in flight %d, unappended %d", b.Pending.Unacked, b.Pending.InFlight, b.Pending.Unappended)
	for _, k := range b.Breaks {
		s.printf("break %s of %s: expected %s, found %s", k.Check, k.Batch, k.Expected, k.Found)
	}
	return nil
}

func (s *script) accept(a args) error {
	return s.db.Tx(s.ctx, func(tx *ledger.Tx) error { return tx.AcceptBatch(s.ctx, a["batch"], a["reason"]) })
}

func (s *script) sql(text string) error {
	return s.db.Tx(s.ctx, func(tx *ledger.Tx) error { return tx.Exec(s.ctx, text) })
}

// plain is an error without what each database says in its own words.
func plain(err error) string {
	if text := err.Error(); strings.Contains(text, "CHECK constraint") || strings.Contains(text, "check constraint") {
		return "a CHECK refuses it"
	}
	return err.Error()
}

package ledger

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"

	"weir/schemas/money"
	"weir/schemas/usage"
)

// TestPay holds the one formula of wallets to what it must keep, for amounts
// of every size: nothing is created, nothing is owed while something is
// available, and the postings say the same as the columns.
func TestPay(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		size := int64(1) << rng.IntN(40)
		n := func() money.Nano { return money.Nano(rng.Int64N(size)) }
		w := Wallet{Customer: "c", Debited: n(), Held: n()}
		w.Credited = w.Debited + w.Held
		if rng.IntN(2) == 0 {
			w.Credited += n()
		} else {
			w.Receivable = n()
		}
		c := change{credit: n(), overrun: n(), freed: min(n(), w.Held)}
		c.covered = min(n(), c.freed)
		m, err := w.pay(c)
		if err != nil {
			t.Fatalf("%+v, %+v: %v", w, c, err)
		}
		after := w
		after.apply(m)
		worth := func(w Wallet) money.Nano { return w.Balance() - w.Receivable }
		if worth(after) != worth(w)+c.credit-c.covered-c.overrun {
			t.Fatalf("%+v, %+v: worth %s became %s", w, c, worth(w), worth(after))
		}
		if after.Available() < 0 || after.Receivable < 0 || after.Receivable > 0 && after.Available() > 0 || after.Held != w.Held-c.freed {
			t.Fatalf("%+v, %+v: %+v", w, c, after)
		}
		sums := map[string]money.Nano{}
		for _, p := range m.lines("c", KindUsage, 1) {
			sums[p.account] += p.amount
		}
		if sums["wallet:c"] != after.Balance()-w.Balance() || sums["receivable:c"] != w.Receivable-after.Receivable {
			t.Fatalf("%+v, %+v: postings %v for %+v", w, c, sums, after)
		}
	}
}

func TestPayRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		w Wallet
		c change
	}{
		"credit past int64":  {Wallet{Credited: math.MaxInt64}, change{credit: 1}},
		"debt past int64":    {Wallet{Receivable: math.MaxInt64}, change{overrun: 1}},
		"debited past int64": {Wallet{Credited: math.MaxInt64, Debited: math.MaxInt64 - 1, Held: 1}, change{freed: 1, covered: 1, credit: 1}},
		"covered, not freed": {Wallet{Credited: 5, Held: 5}, change{covered: 1}},
	} {
		if m, err := c.w.pay(c.c); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// TestSee compares the seqs a lease remembers, one integer and its gaps, with
// a plain set.
func TestSee(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		l, seen, last := &leaseRow{}, map[uint64]bool{}, uint64(0)
		for range 60 {
			seq := 1 + rng.Uint64N(40)
			if fresh := l.see(seq); fresh == seen[seq] {
				t.Fatalf("seed %d: seq %d fresh %v with gaps %v", seed, seq, fresh, l.gaps)
			}
			seen[seq], last = true, max(last, seq)
			var missing, gaps []uint64
			for s := range last + 1 {
				if s > 0 && !seen[s] {
					missing = append(missing, s)
				}
			}
			for _, g := range l.gaps {
				for s := g.from; s <= g.to; s++ {
					gaps = append(gaps, s)
				}
			}
			if !slices.Equal(missing, gaps) || uint64(l.LastSeq) != last {
				t.Fatalf("seed %d: gaps %v, missing %v", seed, l.gaps, missing)
			}
			for final := uint64(1); final <= 40; final++ {
				all := final <= last
				for s := range final {
					all = all && seen[s+1]
				}
				if l.FinalSeq = int64(final); final <= last && l.complete() != all {
					t.Fatalf("seed %d: complete to %d is %v with gaps %v", seed, final, l.complete(), l.gaps)
				}
			}
		}
	}
	far := &leaseRow{}
	if !far.see(math.MaxInt64) || len(far.gaps) != 1 || !far.see(1<<40) || far.see(1<<40) {
		t.Errorf("a gap of any size is one run: %v", far.gaps)
	}
}

// event is a billed event of lease l in customer c's name.
func event(seq uint64, cost, price money.Nano) *usage.Record {
	return &usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "l", Seq: seq, Customer: "c", Provider: "p", Cost: cost, Price: price}
}

func closing(seq, count uint64, cost, price money.Nano) *usage.Record {
	return &usage.Record{Kind: usage.KindClose, LeaseID: "l", Seq: seq, Customer: "c", Count: count, CostSum: cost, PriceSum: price}
}

// TestDecide tells, for a lease of 100 in a wallet that has 50 more, what a
// batch leaves of both.
func TestDecide(t *testing.T) {
	type result struct {
		state             string
		settled, returned money.Nano
		debited, held     money.Nano
		owed              money.Nano
		fresh             int
		differs           bool
	}
	f := func(name string, want result, records ...*usage.Record) {
		t.Helper()
		l := &leaseRow{Lease: Lease{ID: "l", Customer: "c", State: LeaseOpen, Granted: 100}}
		w := walletRow{Wallet: Wallet{Customer: "c", Credited: 150, Held: 100}}
		b := &Batch{Topic: "t", To: int64(len(records))}
		for i, r := range records {
			b.Records = append(b.Records, Settling{Offset: int64(i), Rec: r})
		}
		out, err := decide(b, books{leases: map[string]*leaseRow{"l": l}, wallets: map[string]walletRow{"c": w}}, 1)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		for _, m := range out.wallets {
			w.apply(m.effect)
		}
		got := result{l.State, l.Settled, l.Returned, w.Debited, w.Held, w.Receivable, len(out.settled.Fresh), l.closeDiffers}
		if got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	back := &usage.Record{Kind: usage.KindReturn, LeaseID: "l", Seq: 2, Customer: "c", Returned: 30}
	all := &usage.Record{Kind: usage.KindReturn, LeaseID: "l", Seq: 2, Customer: "c", Returned: 1000}

	f("nothing", result{state: "open", held: 100})
	f("free", result{state: "open", held: 100, fresh: 1}, event(1, 5, 0))
	f("covered", result{state: "open", settled: 60, debited: 60, held: 40, fresh: 1}, event(1, 5, 60))
	f("to the last nano", result{state: "open", settled: 100, debited: 100, fresh: 1}, event(1, 5, 100))
	f("overrun, the wallet pays", result{state: "open", settled: 100, debited: 101, fresh: 1}, event(1, 5, 101))
	f("overrun beyond the wallet", result{state: "open", settled: 100, debited: 150, owed: 1, fresh: 1}, event(1, 5, 151))
	f("twice", result{state: "open", settled: 60, debited: 60, held: 40, fresh: 1}, event(1, 5, 60), event(1, 5, 60))
	f("returned", result{state: "open", settled: 60, returned: 30, debited: 60, held: 10, fresh: 1}, event(1, 5, 60), back)
	f("returned too much", result{state: "open", settled: 60, returned: 40, debited: 60, fresh: 1}, event(1, 5, 60), all)
	f("what was returned pays an overrun", result{state: "open", settled: 70, returned: 30, debited: 150, owed: 10, fresh: 2},
		back, event(1, 5, 70), event(3, 5, 90))
	f("closed", result{state: "closed", settled: 60, returned: 40, debited: 60, fresh: 1}, event(1, 5, 60), closing(2, 1, 5, 60))
	f("closed early", result{state: "closing", held: 100}, closing(2, 1, 5, 60))
	f("closed early, then the event", result{state: "closed", settled: 60, returned: 40, debited: 60, fresh: 1}, closing(2, 1, 5, 60), event(1, 5, 60))
	f("late", result{state: "closed", returned: 100, debited: 70, fresh: 1, differs: true}, closing(1, 0, 0, 0), event(2, 5, 70))
	f("the rest pays what is owed", result{state: "closed", settled: 10, returned: 90, debited: 150, owed: 30, fresh: 2, differs: true},
		event(1, 0, 10), closing(2, 1, 0, 10), event(3, 5, 170))
	f("two closes in the wrong order", result{state: "closed", settled: 60, returned: 40, debited: 60, fresh: 1},
		closing(3, 1, 5, 60), closing(2, 9, 9, 9), event(1, 5, 60))
	f("close with another count", result{state: "closed", settled: 60, returned: 40, debited: 60, fresh: 1, differs: true}, event(1, 5, 60), closing(2, 2, 5, 60))
	f("close with another cost", result{state: "closed", settled: 60, returned: 40, debited: 60, fresh: 1, differs: true}, event(1, 5, 60), closing(2, 1, 6, 60))
	f("close with another price", result{state: "closed", settled: 60, returned: 40, debited: 60, fresh: 1, differs: true}, event(1, 5, 60), closing(2, 1, 5, 61))
}

// TestManifest builds one batch's manifest by hand.
func TestManifest(t *testing.T) {
	b := &Batch{Topic: "t", Part: 3, From: 10, To: 17}
	leak := &usage.Record{Kind: usage.KindUnknown, Row: usage.RowLeakage, LeaseID: "l", Seq: 3, Customer: "c", Reserved: 77}
	other := &usage.Record{Kind: usage.KindUsage, Row: usage.RowUsage, LeaseID: "a", Seq: 9, Customer: "c", Cost: 1}
	ret := &usage.Record{Kind: usage.KindReturn, LeaseID: "l", Seq: 4, Customer: "c"}
	for i, r := range []*usage.Record{event(2, 7, 9), event(1, 5, 60), leak, other, ret, event(5, 1, 1), event(5, 1, 1)} {
		b.Records = append(b.Records, Settling{Offset: b.From + int64(i), Rec: r})
	}
	out, err := decide(b, books{leases: map[string]*leaseRow{}, wallets: map[string]walletRow{"c": {Wallet: Wallet{Customer: "c"}}}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	m := out.settled.Manifest
	hash := uint64(0)
	for _, text := range []string{"l:2:7:9", "l:1:5:60", "l:3:0:0", "a:9:1:0", "l:5:1:1"} {
		hash += xxhash.Sum64String(text)
	}
	seqs := []SeqRange{{"a", 9, 9}, {"l", 1, 3}, {"l", 5, 5}}
	if m.ID != "t/3/10" || m.Count != 5 || m.Cost != 14 || m.Price != 70 || m.Hash != hash || m.LeakCount != 1 || m.LeakReserved != 77 ||
		!slices.Equal(m.Seqs, seqs) || !slices.Equal(out.settled.Fresh, []int{0, 1, 2, 3, 5}) {
		t.Errorf("%+v, fresh %v", m, out.settled.Fresh)
	}
}

// TestBatchCheck: a batch that is not one run of a partition is a caller's bug.
func TestBatchCheck(t *testing.T) {
	ok := Batch{Topic: "t", From: 1, To: 3, Records: []Settling{{Offset: 1, Rec: event(1, 0, 0)}, {Offset: 2, Rec: event(2, 0, 0)}}}
	if err := ok.check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Batch){
		"offset before":  func(b *Batch) { b.Records[0].Offset = 0 },
		"offset after":   func(b *Batch) { b.Records[1].Offset = 3 },
		"out of order":   func(b *Batch) { b.Records[1].Offset = 1 },
		"no record":      func(b *Batch) { b.Records[1].Rec = nil },
		"an intent":      func(b *Batch) { b.Records[1].Rec = &usage.Record{Kind: usage.KindIntent, LeaseID: "l", Customer: "c"} },
		"no topic":       func(b *Batch) { b.Topic = "" },
		"dead twice":     func(b *Batch) { b.Dead = []DeadLetter{{Offset: 2}} },
		"dead after":     func(b *Batch) { b.Dead = []DeadLetter{{Offset: 3}} },
		"empty":          func(b *Batch) { *b = Batch{Topic: "t"} },
		"more than fits": func(b *Batch) { b.To = 20_000; b.Dead = make([]DeadLetter, MaxBatch) },
	} {
		b := ok
		b.Records = slices.Clone(ok.Records)
		if spoil(&b); b.check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestPiece: pieces cover all rows, and few sizes are ever used.
func TestPiece(t *testing.T) {
	sizes := map[int]bool{}
	for n := range 2000 {
		for rest := n; rest > 0; {
			p := piece(rest, 500)
			if p < 1 || p > rest {
				t.Fatalf("%d of %d rows", p, rest)
			}
			sizes[p] = true
			rest -= p
		}
	}
	if len(sizes) != 8+5+1 { // 1 to 8; 16, 32, 64, 128, 256; 500
		t.Errorf("sizes %v", sizes)
	}
}

func TestErrors(t *testing.T) {
	err := error(&InsufficientError{Wallet: Wallet{Credited: 5, Held: 2}, Required: 4})
	if !errors.Is(err, ErrInsufficient) || errors.Is(err, ErrFrozen) {
		t.Error("InsufficientError must be ErrInsufficient and nothing else")
	}
}

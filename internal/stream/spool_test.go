package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/schemas/money"
	"weir/schemas/usage"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func openSpool(t testing.TB, cfg SpoolConfig) *Spool {
	t.Helper()
	s, err := OpenSpool(withDefaults(cfg))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func withDefaults(cfg SpoolConfig) SpoolConfig {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = minSpoolBytes
	}
	cfg.Log = quiet()
	return cfg
}

func reopen(t testing.TB, s *Spool) *Spool {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return openSpool(t, s.cfg)
}

// testTimeMs is of this run: a spool drops old segments by their records' age.
var testTimeMs = time.Now().UnixMilli()

// event is a usage event as a gateway writes it, some 400 bytes long.
func event(lease string, seq uint64) *usage.Record {
	r := &usage.Record{Kind: usage.KindUsage, LeaseID: lease, Seq: seq, Customer: "customer-" + lease, Gateway: "gw-1",
		TimeMs: testTimeMs, Row: usage.RowUsage, RequestID: fmt.Sprintf("%s-request-%d", lease, seq),
		KeyID: "key-1", Provider: "openai", API: "openai.chat", Model: "gpt-4o", Answered: "gpt-4o-2024-08-06", ModelBilled: "gpt-4o",
		Rule: "default", CostCard: strings.Repeat("a", 64), PriceCard: strings.Repeat("b", 64), Currency: "usd",
		Status: usage.StatusOK, Cost: money.Nano(seq), Price: money.Nano(3 * seq), HTTPStatus: 200, LatencyMs: 500}
	r.Meters[usage.Input], r.Meters[usage.Output] = 100, 20
	return r
}

func intent(request string) *usage.Record {
	return &usage.Record{Kind: usage.KindIntent, LeaseID: "lease", Customer: "customer", RequestID: request, TimeMs: testTimeMs, Reserved: 7}
}

func mustAppend(t testing.TB, s *Spool, records ...*usage.Record) Pos {
	t.Helper()
	var p Pos
	for _, r := range records {
		var err error
		if p, err = s.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func activePath(s *Spool) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segments[len(s.segments)-1].file.Name()
}

// contents reads everything in the spool through the producer's eyes.
func contents(t testing.TB, s *Spool) []string {
	t.Helper()
	s.mu.Lock()
	at := s.segments[0].base
	s.mu.Unlock()
	var ids []string
	for {
		b, err := s.read(at)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 {
			return ids
		}
		for {
			payload, ok, cut := frameAt(b)
			if cut {
				break
			}
			r, err := usage.ParseRecord(payload)
			if !ok || err != nil {
				t.Fatalf("at %d: intact %v, %v", at, ok, err)
			}
			n := frameHeaderBytes + len(payload)
			b, at = b[n:], at+Pos(n)
			ids = append(ids, r.EventID())
		}
	}
}

// TestTornTail cuts the file at every byte of the last frame, or leaves it
// blank from there: the records before it stay, and appending goes on.
func TestTornTail(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	whole := mustAppend(t, s, event("l", 1), event("l", 2))
	end := mustAppend(t, s, event("l", 3))
	path := activePath(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := headerBytes + int(whole)
	for cut := last; cut < len(data); cut++ {
		tails := map[string][]byte{"cut": data[:cut]}
		if cut%8 == 0 {
			tails["blank"] = append(slices.Clone(data[:cut]), make([]byte, len(data)-cut)...)
		}
		for name, torn := range tails {
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := OpenSpool(s.cfg)
			if err != nil {
				t.Fatalf("%s at %d: %v", name, cut, err)
			}
			if found := s.Replay(); found.TornBytes != int64(len(torn)-last) {
				t.Errorf("%s at %d: %d torn bytes", name, cut, found.TornBytes)
			}
			if info, err := os.Stat(path); err != nil || info.Size() != int64(last) {
				t.Errorf("%s at %d: %d bytes are left, %v", name, cut, info.Size(), err)
			}
			if p := mustAppend(t, s, event("l", 3)); p != end {
				t.Errorf("%s at %d: appended to %d, not %d", name, cut, p, end)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if again, _ := os.ReadFile(path); !bytes.Equal(again, data) {
				t.Fatalf("%s at %d: the file differs", name, cut)
			}
		}
	}
}

// TestDamage flips each byte of a record that others follow: it was durable,
// so the start must stop and name the place.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	first := mustAppend(t, s, event("l", 1))
	second := mustAppend(t, s, event("l", 2))
	mustAppend(t, s, event("l", 3))
	path := activePath(s)
	s.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := headerBytes + int(first); at < headerBytes+int(second); at++ {
		damaged := slices.Clone(data)
		damaged[at] ^= 0x55
		os.WriteFile(path, damaged, 0o600)
		s, err := OpenSpool(s.cfg)
		want := fmt.Sprintf("%s: the record at offset %d is damaged", path, headerBytes+int(first))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("byte %d: %v", at, err)
		}
		if s != nil {
			t.Fatal("a spool comes with an error")
		}
	}
}

// TestDamagedSegments: only the last segment may end in a torn record, none
// may be missing between others, and a foreign format is refused.
func TestDamagedSegments(t *testing.T) {
	t.Parallel()
	fill := func(t *testing.T) (*Spool, []string) {
		s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
		for seq := uint64(1); s.Usage().Segments < 3; seq++ {
			mustAppend(t, s, event("l", seq))
		}
		s.Close()
		paths, err := filepath.Glob(filepath.Join(s.cfg.Dir, "*"+segmentSuffix))
		if err != nil || len(paths) != 3 {
			t.Fatal(paths, err)
		}
		return s, paths
	}
	edit := func(path string, f func([]byte) []byte) {
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, f(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		damage func(paths []string)
		want   string
	}{
		"torn before the last": {func(p []string) { edit(p[1], func(b []byte) []byte { return b[:len(b)-1] }) }, "is damaged"},
		"missing":              {func(p []string) { os.Remove(p[1]) }, "does not begin at"},
		"other version":        {func(p []string) { edit(p[0], func(b []byte) []byte { b[8] = 9; return b }) }, "format 9"},
		"not a segment":        {func(p []string) { edit(p[0], func(b []byte) []byte { b[0] = 'x'; return b }) }, "not a spool segment"},
		"other base":           {func(p []string) { edit(p[0], func(b []byte) []byte { b[12]++; return b }) }, "header is damaged"},
		"foreign name":         {func(p []string) { os.Rename(p[0], filepath.Join(filepath.Dir(p[0]), "x.spool")) }, "not the name of a segment"},
	} {
		t.Run(name, func(t *testing.T) {
			s, paths := fill(t)
			c.damage(paths)
			if _, err := OpenSpool(s.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("torn header of the last", func(t *testing.T) {
		s, paths := fill(t)
		edit(paths[2], func(b []byte) []byte { return b[:headerBytes-1] })
		if s = openSpool(t, s.cfg); s.Usage().Segments != 2 {
			t.Errorf("%+v", s.Usage())
		}
	})
}

// TestGroupCommit: many writers wait for few fsyncs, and none returns before
// an fsync that began after its record was written.
func TestGroupCommit(t *testing.T) {
	const writers, each = 64, 50
	var syncing atomic.Int64 // fsyncs begun
	s := openSpool(t, SpoolConfig{Dir: t.TempDir(), MaxBytes: 1 << 30, Fault: func(op string) error {
		if op == "sync" {
			syncing.Add(1)
		}
		return nil
	}})
	before := s.Usage().Syncs
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for seq := uint64(1); seq <= each; seq++ {
				p, err := s.Append(event(fmt.Sprint("lease-", w), seq))
				begun := syncing.Load()
				if err == nil {
					err = s.WaitDurable(p)
				}
				s.mu.Lock()
				durable := s.durable
				s.mu.Unlock()
				if err != nil || durable < p || syncing.Load() == before && begun == before {
					t.Errorf("record at %d, durable %d: %v", p, durable, err)
				}
			}
		})
	}
	all.Wait()
	if syncs := s.Usage().Syncs - before; syncs > writers*each/2 {
		t.Errorf("%d fsyncs for %d records", syncs, writers*each)
	}
	if got := contents(t, s); len(got) != writers*each {
		t.Errorf("%d records in the spool", len(got))
	}
}

// TestNotDurableUntilSynced: while an fsync runs, a record written after it
// began is not durable, and the log may not have it.
func TestNotDurableUntilSynced(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	var gated atomic.Bool
	s := openSpool(t, SpoolConfig{Dir: t.TempDir(), Fault: func(op string) error {
		if op == "sync" && gated.Load() {
			entered <- struct{}{}
			<-leave
		}
		return nil
	}})
	gated.Store(true)
	first := mustAppend(t, s, event("l", 1))
	waited := make(chan error)
	go func() { waited <- s.WaitDurable(first) }()
	<-entered
	second := mustAppend(t, s, event("l", 2))
	if got := contents(t, s); len(got) != 0 {
		t.Errorf("the log may read %v before the fsync ended", got)
	}
	go func() { waited <- s.WaitDurable(second) }()
	leave <- struct{}{}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	<-entered // the second record's own fsync
	if got := contents(t, s); !slices.Equal(got, []string{"l:1"}) {
		t.Errorf("the log may read %v", got)
	}
	gated.Store(false)
	leave <- struct{}{}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

// TestBackgroundSync: a record that nobody waits for becomes durable too.
func TestBackgroundSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := OpenSpool(withDefaults(SpoolConfig{Dir: t.TempDir()}))
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, s, event("l", 1))
		<-s.readable
		if got := contents(t, s); len(got) != 1 {
			t.Errorf("readable: %v", got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestFsyncFailure: one failed fsync ends the spool for good, though the next
// would succeed.
func TestFsyncFailure(t *testing.T) {
	broken := errors.New("the disk is broken")
	var faults atomic.Int32
	s := openSpool(t, SpoolConfig{Dir: t.TempDir(), Fault: func(op string) error {
		if op == "sync" && faults.Add(-1) == 0 {
			return broken
		}
		return nil
	}})
	durable := mustAppend(t, s, event("l", 1))
	if err := s.WaitDurable(durable); err != nil {
		t.Fatal(err)
	}
	faults.Store(1)
	var all sync.WaitGroup
	for seq := uint64(2); seq < 10; seq++ {
		all.Go(func() {
			p, err := s.Append(event("l", seq))
			if err == nil {
				err = s.WaitDurable(p)
			}
			if !errors.Is(err, broken) {
				t.Errorf("seq %d: %v", seq, err)
			}
		})
	}
	all.Wait()
	select {
	case <-s.Failed():
	default:
		t.Error("Failed is not closed")
	}
	if _, err := s.Append(event("l", 10)); !errors.Is(err, broken) || !errors.Is(s.Err(), broken) {
		t.Errorf("append: %v; Err: %v", err, s.Err())
	}
	if err := s.WaitDurable(durable); err != nil {
		t.Errorf("what was durable stays durable: %v", err)
	}
	if err := s.Close(); !errors.Is(err, broken) {
		t.Errorf("close: %v", err)
	}
}

// TestShortWrite: half a frame that a full disk left behind is cut off, and
// the spool goes on when there is room again.
func TestShortWrite(t *testing.T) {
	full := errors.New("no space left")
	var path string
	var failing bool
	s := openSpool(t, SpoolConfig{Dir: t.TempDir(), Fault: func(op string) error {
		if op != "write" || !failing {
			return nil
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Error(err)
		}
		f.Write(make([]byte, 2000)) // more than the next frame overwrites
		return errors.Join(full, f.Close())
	}})
	path = activePath(s)
	mustAppend(t, s, event("l", 1))
	failing = true
	if _, err := s.Append(event("l", 2)); !errors.Is(err, full) {
		t.Fatal(err)
	}
	failing = false
	mustAppend(t, s, event("l", 3))
	s = reopen(t, s)
	if got := contents(t, s); !slices.Equal(got, []string{"l:1", "l:3"}) || s.Replay().TornBytes != 0 {
		t.Error(got)
	}
}

// TestRefused: what a later start could not read never gets in.
func TestRefused(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	mustAppend(t, s, intent("r1"))
	large := event("l", 1)
	large.Model = strings.Repeat("m", maxRecordBytes)
	for name, r := range map[string]*usage.Record{"too large": large, "invalid": {Kind: usage.KindUsage}, "open intent": intent("r1")} {
		if _, err := s.Append(r); err == nil {
			t.Errorf("%s: appended", name)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(event("l", 1)); err != ErrSpoolClosed {
		t.Errorf("after close: %v", err)
	}
	if s = openSpool(t, s.cfg); len(contents(t, s)) != 1 {
		t.Error(contents(t, s))
	}
}

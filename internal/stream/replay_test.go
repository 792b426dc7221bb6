package stream

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/schemas/usage"
)

// TestIntents: an intent is open until its usage or unknown record, whichever
// segment that is in; a start finds the open ones in order.
func TestIntents(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	mustAppend(t, s, intent("answered"), intent("open-2"), intent("unknown"), intent("open-1"))
	for seq := uint64(1); s.Usage().Segments < 3; seq++ {
		mustAppend(t, s, event("filler", seq))
	}
	answered, unknown := event("lease", 1), event("lease", 2)
	answered.RequestID = "answered"
	unknown.RequestID, unknown.Kind, unknown.Row, unknown.Cost, unknown.Price = "unknown", usage.KindUnknown, usage.RowLeakage, 0, 0
	mustAppend(t, s, answered, unknown)
	if got := s.Usage().OpenIntents; got != 2 {
		t.Errorf("%d open intents", got)
	}
	s = reopen(t, s)
	var open []string
	for _, r := range s.Replay().OpenIntents {
		open = append(open, r.RequestID)
		if r.Reserved != 7 || r.LeaseID != "lease" {
			t.Errorf("intent %+v", r)
		}
	}
	if !slices.Equal(open, []string{"open-2", "open-1"}) {
		t.Errorf("open: %v", open)
	}
	if again := s.Replay(); again.OpenIntents != nil || again.Leases != nil {
		t.Error("the spool keeps what it gave away")
	}
}

// TestTail: the totals behind any seq of a lease are those of its usage
// events, while returns only take part in the seq.
func TestTail(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	give := &usage.Record{Kind: usage.KindReturn, LeaseID: "a", Customer: "customer-a", Seq: 6, Returned: 5}
	closing := &usage.Record{Kind: usage.KindClose, LeaseID: "b", Customer: "customer-b", Seq: 2, Count: 1, CostSum: 1, PriceSum: 3}
	mustAppend(t, s, event("a", 4), event("b", 1), event("a", 5), give, event("a", 7), closing)
	found := reopen(t, s).Replay()
	a, b := found.Leases["a"], found.Leases["b"]
	if a.Customer != "customer-a" || a.FirstSeq != 4 || a.LastSeq != 7 || a.Closed || b.LastSeq != 2 || !b.Closed {
		t.Errorf("a %+v, b %+v", a, b)
	}
	for after, want := range map[uint64]Totals{
		3: {Count: 3, Cost: 16, Price: 48, LastSeq: 7},
		4: {Count: 2, Cost: 12, Price: 36, LastSeq: 7},
		5: {Count: 1, Cost: 7, Price: 21, LastSeq: 7},
		6: {Count: 1, Cost: 7, Price: 21, LastSeq: 7},
		7: {LastSeq: 7},
		9: {LastSeq: 9}, // the ledger may know more than the spool still holds
	} {
		if got, err := found.Tail("a", after); got != want || err != nil {
			t.Errorf("after %d: %+v, %v", after, got, err)
		}
	}
	if got, err := found.Tail("never written", 12); got != (Totals{LastSeq: 12}) || err != nil {
		t.Errorf("unknown lease: %+v, %v", got, err)
	}
	if _, err := found.Tail("a", 2); err == nil {
		t.Error("seq 3 is missing and nobody says so")
	}
	if _, err := found.Tail("b", 1); err == nil {
		t.Error("a closed lease has no tail")
	}
}

const childDir = "WEIR_STREAM_TEST_CHILD_DIR"

// TestMain is also the process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Println("error", writeUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func killedSpool(dir string) SpoolConfig {
	return withDefaults(SpoolConfig{Dir: filepath.Join(dir, "spool"), MaxBytes: 1 << 30})
}

func killedLog(dir string) LogConfig {
	return LogConfig{Dir: filepath.Join(dir, "log"), Topic: "usage", Log: quiet()}
}

// writeUntilKilled appends intents and results, and says which are durable,
// while they are produced to an embedded log and read from it.
func writeUntilKilled(dir string) error {
	s, err := OpenSpool(killedSpool(dir))
	if err != nil {
		return err
	}
	l, err := OpenLog(context.Background(), killedLog(dir))
	if err != nil {
		return err
	}
	go l.Produce(context.Background(), s)
	r, err := l.NewReader(ReaderConfig{Group: "processors", Revoked: func([]int32) {},
		Start: func(ctx context.Context, _ []int32) (map[int32]int64, error) { return l.EndOffsets(ctx) }})
	if err != nil {
		return err
	}
	go func() {
		for {
			r.Poll(context.Background(), 100)
		}
	}()
	var seq uint64
	if tail := s.Replay().Leases["l"]; tail != nil {
		seq = tail.LastSeq
	}
	for seq++; ; seq++ {
		result := event("l", seq)
		if _, err := s.Append(intent(result.RequestID)); err != nil {
			return err
		}
		fmt.Println("intent", seq)
		p, err := s.Append(result)
		if err == nil {
			err = s.WaitDurable(p)
		}
		if err != nil {
			return err
		}
		fmt.Println("durable", seq)
	}
}

// TestKill kills a process with SIGKILL again and again, while it writes the
// spool and the embedded log: every durable record is there, no seq is missing
// or twice, every intent whose Append returned is there, open unless its
// result is, and all of it gets into the log.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var durable, intended uint64
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			kind, seq, _ := strings.Cut(lines.Text(), " ")
			switch kind {
			case "intent":
				intended, err = strconv.ParseUint(seq, 10, 64)
			case "durable":
				durable, err = strconv.ParseUint(seq, 10, 64)
			default:
				t.Fatal(lines.Text())
			}
			if err != nil {
				t.Fatal(err)
			}
			if n == 200+77*round { // the lines already in the pipe are read too
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		checkKilled(t, dir, durable, intended)
	}
}

func checkKilled(t *testing.T, dir string, durable, intended uint64) {
	t.Helper()
	s := openSpool(t, killedSpool(dir))
	defer s.Close()
	found := s.Replay()
	tail := found.Leases["l"]
	if tail == nil || tail.LastSeq < durable || durable == 0 {
		t.Fatalf("durable to %d, found %+v", durable, tail)
	}
	totals, err := found.Tail("l", 0)
	if err != nil || totals.Count != tail.LastSeq {
		t.Errorf("%+v, %v", totals, err)
	}
	if intended > tail.LastSeq && len(found.OpenIntents) == 0 {
		t.Errorf("the intent of %d is lost", intended)
	}
	last := tail.LastSeq
	for _, open := range found.OpenIntents {
		last++
		r := event("l", last)
		r.RequestID = open.RequestID
		mustAppend(t, s, r)
	}
	l := openLog(t, killedLog(dir))
	defer l.Close()
	produceAll(t, l, s)
	var ids []string
	for _, part := range logContents(t, l) {
		ids = append(ids, part...)
	}
	var next uint64 = 1
	for _, id := range ids {
		if id == fmt.Sprint("l:", next) {
			next++
		}
	}
	if next != last+1 {
		t.Errorf("the log lacks seq %d of %d", next, last)
	}
	begun := time.Now()
	r := newBeginnings().reader(t, l, "reader")
	defer r.Close()
	if _, err := r.Poll(withPatience(t), 1); err != nil {
		t.Error(err)
	}
	t.Logf("durable %d, in the log %d with %d repeated, a new reader had a record after %v",
		durable, last, len(ids)-int(last), time.Since(begun))
}

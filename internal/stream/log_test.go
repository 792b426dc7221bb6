package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/schemas/usage"
)

const patience = 30 * time.Second

func withPatience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func openLog(t testing.TB, cfg LogConfig) *Log {
	t.Helper()
	cfg.Topic, cfg.Log = "usage", quiet()
	l, err := OpenLog(withPatience(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// produce runs a producer until the returned function is called.
func produce(t testing.TB, l *Log, s *Spool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Produce(ctx, s) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("producing ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// produceAll brings the spool to the log and returns.
func produceAll(t testing.TB, l *Log, s *Spool) {
	t.Helper()
	stop := produce(t, l, s)
	until(t, "everything is acknowledged", func() bool { return allAcked(l, s) })
	stop()
}

func allAcked(l *Log, s *Spool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked == s.end && s.topicID == l.TopicID()
}

// fillSpool appends n events of each of some leases, and an intent to each.
func fillSpool(t testing.TB, s *Spool, leases int, from, to uint64) {
	t.Helper()
	for seq := from; seq <= to; seq++ {
		for lease := range leases {
			r := event(fmt.Sprint(lease), seq)
			mustAppend(t, s, intent(r.RequestID), r)
		}
	}
}

// logContents reads the whole topic, without a group: the ids in each partition.
func logContents(t testing.TB, l *Log) map[int32][]string {
	t.Helper()
	ctx := withPatience(t)
	ends, err := l.EndOffsets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	starts, err := l.StartOffsets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[int32][]string)
	for part, end := range ends {
		records, err := l.ReadRange(ctx, part, starts[part], end)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			got[part] = append(got[part], mustParse(t, r.Value).EventID())
		}
	}
	return got
}

func mustParse(t testing.TB, value []byte) *usage.Record {
	t.Helper()
	r, err := usage.ParseRecord(value)
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

// checkComplete: every event of the leases is in the log, in one partition for
// each lease, and first sightings are in order of seq. It returns how many
// came twice.
func checkComplete(t testing.TB, got map[int32][]string, leases int, last uint64) (repeated int) {
	t.Helper()
	seen := make(map[string]uint64)
	home := make(map[string]int32)
	for part, ids := range got {
		for _, id := range ids {
			var lease string
			var seq uint64
			for i := range id {
				if id[i] == ':' {
					lease = id[:i]
					seq, _ = strconv.ParseUint(id[i+1:], 10, 64)
				}
			}
			if at, ok := home[lease]; ok && at != part {
				t.Errorf("lease %s is in partitions %d and %d", lease, at, part)
			}
			home[lease] = part
			switch {
			case seq <= seen[lease]:
				repeated++
			case seq == seen[lease]+1:
				seen[lease] = seq
			default:
				t.Fatalf("lease %s: seq %d after %d", lease, seq, seen[lease])
			}
		}
	}
	for lease := range leases {
		if at := seen[fmt.Sprint(lease)]; at != last {
			t.Errorf("lease %d ends at seq %d, not %d", lease, at, last)
		}
	}
	return repeated
}

// TestProduce: the log gets every event once and in order, and no intent; a
// restart on the same log produces nothing again.
func TestProduce(t *testing.T) {
	spool, dir := openSpool(t, SpoolConfig{Dir: t.TempDir()}), t.TempDir()
	l := openLog(t, LogConfig{Dir: dir})
	if l.Partitions() != embeddedPartitions || l.TopicID() == "" || !l.Embedded() {
		t.Errorf("%d partitions, topic id %q", l.Partitions(), l.TopicID())
	}
	fillSpool(t, spool, 20, 1, 50)
	produceAll(t, l, spool)
	fillSpool(t, spool, 20, 51, 60)
	produceAll(t, l, spool)
	if n := checkComplete(t, logContents(t, l), 20, 60); n > 0 {
		t.Errorf("%d repeated", n)
	}
	if u := spool.Usage(); u.UnackedRecords != 0 || u.UnsettledBytes == 0 {
		t.Errorf("%+v", u)
	}
	id := l.TopicID()
	l.Close()
	spool, l = reopen(t, spool), openLog(t, LogConfig{Dir: dir})
	if l.TopicID() != id || spool.Usage().UnackedRecords != 0 {
		t.Errorf("topic id %s after %s; %+v", l.TopicID(), id, spool.Usage())
	}
	fillSpool(t, spool, 20, 61, 61)
	produceAll(t, l, spool)
	if n := checkComplete(t, logContents(t, l), 20, 61); n > 0 || l.Counters() != (LogCounters{Produced: 20}) {
		t.Errorf("%d repeated, %+v", n, l.Counters())
	}
	ends, err := l.EndOffsets(withPatience(t))
	if err == nil {
		err = spool.Release(id, ends)
	}
	if u := spool.Usage(); err != nil || u.UnsettledBytes != 0 || !u.OldestUnsettled.IsZero() {
		t.Errorf("settled, but %+v, %v", u, err)
	}
}

// TestLogDeleted: without the log's directory everything is produced again,
// from the oldest segment, to the new topic; what was settled in the old one
// does not count.
func TestLogDeleted(t *testing.T) {
	spool, dir := openSpool(t, SpoolConfig{Dir: t.TempDir()}), t.TempDir()
	l := openLog(t, LogConfig{Dir: dir})
	fillSpool(t, spool, 5, 1, 400) // several segments
	produceAll(t, l, spool)
	old := l.TopicID()
	ends, _ := l.EndOffsets(withPatience(t))
	if err := spool.Release(old, ends); err != nil || spool.Usage().UnsettledBytes != 0 || spool.Usage().Segments < 3 {
		t.Fatal(err, spool.Usage())
	}
	l.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	spool, l = reopen(t, spool), openLog(t, LogConfig{Dir: dir})
	if l.TopicID() == old {
		t.Fatal("the same topic id")
	}
	produceAll(t, l, spool)
	if n := checkComplete(t, logContents(t, l), 5, 400); n > 0 {
		t.Errorf("%d repeated", n)
	}
	if err := spool.Release(old, ends); err != nil || spool.Usage().UnsettledBytes == 0 {
		t.Errorf("%+v, %v", spool.Usage(), err)
	}
}

// TestLogLostTail: the log is an older copy of itself. What it acknowledged
// and lost is produced again, what is settled is not.
func TestLogLostTail(t *testing.T) {
	spool, dir, copied := openSpool(t, SpoolConfig{Dir: t.TempDir()}), t.TempDir(), t.TempDir()
	l := openLog(t, LogConfig{Dir: dir})
	fillSpool(t, spool, 3, 1, 100)
	produceAll(t, l, spool)
	ends, _ := l.EndOffsets(withPatience(t))
	if err := spool.Release(l.TopicID(), ends); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, LogConfig{Dir: dir})
	fillSpool(t, spool, 3, 101, 120)
	produceAll(t, l, spool)
	l.Close()
	l = openLog(t, LogConfig{Dir: copied})
	stop := produce(t, l, spool)
	until(t, "the lost records are in the log", func() bool { return l.Counters().Produced == 60 && allAcked(l, spool) })
	stop()
	if n := checkComplete(t, logContents(t, l), 3, 120); n > 0 || l.Counters().Rewinds != 1 {
		t.Errorf("%d repeated, %+v", n, l.Counters())
	}
}

// TestLogRefilled: the log lost records it had acknowledged to one spool, and
// those of another stand in their places, so it is not shorter than it was. The
// first spool notices by the record itself, and produces its own again.
func TestLogRefilled(t *testing.T) {
	mine, dir, copied := openSpool(t, SpoolConfig{Dir: t.TempDir()}), t.TempDir(), t.TempDir()
	l := openLog(t, LogConfig{Dir: dir, Partitions: 1})
	fillSpool(t, mine, 1, 1, 10)
	produceAll(t, l, mine)
	l.Close()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, LogConfig{Dir: dir, Partitions: 1})
	fillSpool(t, mine, 1, 11, 20)
	produceAll(t, l, mine)
	l.Close()
	l = openLog(t, LogConfig{Dir: copied, Partitions: 1})
	other := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	for seq := range uint64(30) {
		mustAppend(t, other, event("other", seq+1))
	}
	produceAll(t, l, other)
	mine = reopen(t, mine)
	stop := produce(t, l, mine)
	until(t, "the lost records are in the log", func() bool { return l.Counters().Produced == 30+20 && allAcked(l, mine) })
	stop()
	found := map[string]int{}
	for _, id := range logContents(t, l)[0] {
		found[id]++
	}
	for seq := range 20 {
		if id := fmt.Sprint("0:", seq+1); found[id] == 0 {
			t.Errorf("event %s is lost", id)
		}
	}
	if l.Counters().Rewinds != 1 {
		t.Errorf("%+v", l.Counters())
	}
}

// testBroker is a broker of its own process as far as the Log can tell: it
// listens on a TCP port, which it keeps over restarts.
func testBroker(t testing.TB, dir string, port int) (*kfake.Cluster, int) {
	t.Helper()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir), kfake.SyncWrites(),
		kfake.SeedTopics(6, "usage"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	_, text, _ := net.SplitHostPort(broker.ListenAddrs()[0])
	port, _ = strconv.Atoi(text)
	return broker, port
}

// TestBrokerRestart: the broker goes and comes while the spool is written; in
// the end everything is there.
func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broker, port := testBroker(t, dir, 0)
	l := openLog(t, LogConfig{Brokers: []string{fmt.Sprint("127.0.0.1:", port)}})
	spool := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	stop := produce(t, l, spool)
	for round := range uint64(4) {
		if round > 0 {
			broker.Close()
			broker, _ = testBroker(t, dir, port)
		}
		fillSpool(t, spool, 10, 1+round*20, 20+round*20)
		until(t, "the log acknowledges again", func() bool { return spool.Usage().UnackedRecords < 100 })
	}
	until(t, "everything is acknowledged", func() bool { return allAcked(l, spool) })
	stop()
	checkComplete(t, logContents(t, l), 10, 80)
}

// TestRewind: records the broker refuses are sent again, from the first that
// is not acknowledged.
func TestRewind(t *testing.T) {
	broker, port := testBroker(t, t.TempDir(), 0)
	l := openLog(t, LogConfig{Brokers: []string{fmt.Sprint("127.0.0.1:", port)}})
	spool := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	fillSpool(t, spool, 4, 1, 10)
	produceAll(t, l, spool)
	var refused sync.WaitGroup
	refused.Add(2)
	for range 2 {
		broker.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			defer refused.Done()
			in := req.(*kmsg.ProduceRequest)
			out := in.ResponseKind().(*kmsg.ProduceResponse)
			for _, topic := range in.Topics {
				answer := kmsg.NewProduceResponseTopic()
				answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
				for _, part := range topic.Partitions {
					p := kmsg.NewProduceResponseTopicPartition()
					p.Partition, p.ErrorCode = part.Partition, kerr.InvalidRecord.Code
					answer.Partitions = append(answer.Partitions, p)
				}
				out.Topics = append(out.Topics, answer)
			}
			return out, nil, true
		})
	}
	fillSpool(t, spool, 4, 11, 20)
	produceAll(t, l, spool)
	refused.Wait()
	checkComplete(t, logContents(t, l), 4, 20)
	if l.Counters().Rewinds < 2 {
		t.Errorf("%+v", l.Counters())
	}
}

// TestTopic: on a cluster the topic must be there; Migrate makes it, once.
// A topic made anew under the name is not the one that was opened.
func TestTopic(t *testing.T) {
	broker, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	cfg := LogConfig{Brokers: broker.ListenAddrs(), Topic: "usage", Log: quiet()}
	ctx := withPatience(t)
	if _, err := OpenLog(ctx, cfg); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("opened a missing topic: %v", err)
	}
	for range 2 {
		if lacks, err := Migrate(ctx, cfg, TopicConfig{}); err != nil || lacks != nil {
			t.Fatal(lacks, err)
		}
	}
	l := openLog(t, cfg)
	if l.Partitions() != clusterPartitions || l.Embedded() {
		t.Errorf("%d partitions", l.Partitions())
	}
	if got := broker.TopicInfo("usage").Configs["min.insync.replicas"]; got == nil || *got != "2" {
		t.Errorf("min.insync.replicas is %v", got)
	}
	broker.DeleteTopic("usage")
	if _, err := Migrate(ctx, cfg, TopicConfig{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Produce(ctx, openSpool(t, SpoolConfig{Dir: t.TempDir()})); !errors.Is(err, ErrTopicGone) {
		t.Errorf("produced to a topic made anew: %v", err)
	}
}

// TestSASL: the credentials are used, and wrong ones are refused.
func TestSASL(t *testing.T) {
	t.Parallel()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "usage"), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "weir", "secret"), kfake.Superuser("SCRAM-SHA-256", "weir", "secret"), kfake.Superuser("SCRAM-SHA-512", "weir", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	for mechanism, works := range map[string]bool{"PLAIN": true, "SCRAM-SHA-256": true, "SCRAM-SHA-512": true, "GSSAPI": false} {
		l, err := OpenLog(withPatience(t), LogConfig{Brokers: broker.ListenAddrs(), Topic: "usage", Log: quiet(),
			SASL: SASLConfig{Mechanism: mechanism, Username: "weir", Password: "secret"}})
		if (err == nil) != works {
			t.Errorf("%s: %v", mechanism, err)
		}
		if l != nil {
			l.Close()
		}
	}
	if _, err := OpenLog(withPatience(t), LogConfig{Brokers: broker.ListenAddrs(), Topic: "usage", Log: quiet(),
		SASL: SASLConfig{Mechanism: "PLAIN", Username: "weir", Password: "wrong"}}); err == nil {
		t.Error("a wrong password was taken")
	}
}

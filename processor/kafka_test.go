package processor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/ledger"
	"weir/internal/ledger/ledgertest"
	"weir/internal/stream"
	"weir/internal/stream/kafkatest"
	"weir/schemas/money"
)

const (
	kafkaPartitions = 12
	kafkaCustomers  = 60
	kafkaKills      = 10
	// kafkaPatience covers a broker's start on a busy machine.
	kafkaPatience = 3 * time.Minute
	loadEvery     = 20 * time.Millisecond
	loadBurst     = 6 // events of each gateway
)

// newKafkaWorld is a world on a topic of the test's own.
func newKafkaWorld(t *testing.T, c ledger.Config, brokers *kafkatest.Cluster, partitions int, topic stream.TopicConfig) (*world, *kadm.Client) {
	t.Helper()
	cfg := stream.LogConfig{Brokers: brokers.Addresses, Topic: t.Name(), Partitions: partitions, Log: quiet()}
	if lacks, err := stream.Migrate(t.Context(), cfg, topic); err != nil || len(lacks) > 0 {
		t.Fatal(lacks, err)
	}
	w := newWorldOn(t, c, &cfg)
	w.patience = kafkaPatience
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers.Addresses...), kgo.MetadataMinAge(10*time.Millisecond))
	w.must(err)
	t.Cleanup(client.Close)
	return w, kadm.NewClient(client)
}

// replicas describes the topic's partitions.
func (w *world) replicas(admin *kadm.Client) kadm.PartitionDetails {
	topics, err := admin.ListTopics(w.ctx, w.kafka.Topic)
	if err != nil {
		return nil // a broker is away
	}
	return topics[w.kafka.Topic].Partitions
}

// members are the processors of the group, each as in a process of its own.
type members struct {
	w       *world
	running []*member
	all     []*Processor // those that left too
}

type member struct {
	*Processor
	stop func()
}

func (m *members) add() {
	p := m.w.processor()
	p.Log = m.w.openAnotherLog()
	m.running = append(m.running, &member{p, m.w.run(p)})
	m.all = append(m.all, p)
}

func (m *members) removeFirst() {
	m.running[0].stop()
	m.running[0].Log.Close()
	m.running = m.running[1:]
}

// epochs are those of the partitions, which rise when one is taken over, once
// the members share all of them.
func (m *members) epochs() map[int32]int64 {
	epochs := map[int32]int64{}
	m.w.until("the members share the partitions", func() bool {
		clear(epochs)
		for _, one := range m.running {
			before := len(epochs)
			one.mu.Lock()
			for part, own := range one.owns {
				epochs[part] = own.main.epoch
			}
			one.mu.Unlock()
			if len(epochs) == before {
				return false
			}
		}
		return len(epochs) == kafkaPartitions
	})
	return epochs
}

// duplicates is how often an event came again.
func (m *members) duplicates() (n int) {
	for _, p := range m.all {
		n += metric(p.Metrics.Duplicates)
	}
	return n
}

// load has each spool's gateway write until the returned function is called,
// which closes the leases.
func (w *world) load(leases []*tap) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	var writing sync.WaitGroup
	for _, s := range w.spools {
		mine := slices.DeleteFunc(slices.Clone(leases), func(l *tap) bool { return l.spool != s })
		writing.Go(func() {
			for tick := time.NewTicker(loadEvery); ; {
				for range loadBurst {
					w.use(mine[0], 1)
					mine = append(mine[1:], mine[0])
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		writing.Wait()
		for _, l := range leases {
			w.closeLease(l)
		}
	})
}

// watchPauses follows how long each partition goes without being settled.
func (w *world) watchPauses() (reset func() map[int32]time.Duration) {
	var mu sync.Mutex
	settled, since, longest := map[int32]int64{}, map[int32]time.Time{}, map[int32]time.Duration{}
	ctx, cancel := context.WithCancel(w.ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for tick := time.NewTicker(loadEvery); ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			progress, err := w.db.Progress(ctx, w.log.TopicID())
			if err != nil {
				continue
			}
			mu.Lock()
			for _, p := range progress {
				if now := time.Now(); p.Settled > settled[p.Part] {
					if from := since[p.Part]; !from.IsZero() {
						longest[p.Part] = max(longest[p.Part], now.Sub(from))
					}
					settled[p.Part], since[p.Part] = p.Settled, now
				}
			}
			mu.Unlock()
		}
	})
	w.Cleanup(func() { cancel(); watching.Wait() })
	return func() map[int32]time.Duration {
		mu.Lock()
		defer mu.Unlock()
		got := maps.Clone(longest)
		clear(longest)
		return got
	}
}

// settledOnce waits until everything that is in the log by now is settled.
func (w *world) settledOnce() {
	w.Helper()
	ends, err := w.log.EndOffsets(w.ctx)
	w.must(err)
	w.until("what was in the log is settled", func() bool {
		progress, err := w.db.Progress(w.ctx, w.log.TopicID())
		w.must(err)
		for _, p := range progress {
			if p.Settled >= ends[p.Part] {
				delete(ends, p.Part)
			}
		}
		maps.DeleteFunc(ends, func(_ int32, end int64) bool { return end == 0 })
		return len(ends) == 0
	})
}

// rebalances adds and removes members under load. Only what must move moves:
// the other partitions keep their owner, and so their epoch.
func (m *members) rebalances() {
	reset := m.w.watchPauses()
	m.epochs()
	m.w.until("most partitions have been settled", func() bool {
		progress, err := m.w.db.Progress(m.w.ctx, m.w.log.TopicID())
		m.w.must(err)
		return len(slices.DeleteFunc(progress, func(p ledger.Progress) bool { return p.Settled == 0 })) > kafkaPartitions/2
	})
	reset()
	m.w.settledOnce()
	m.w.settledOnce()
	m.w.Logf("longest pause of each partition without a change: %v", spread(slices.Collect(maps.Values(reset()))))
	var moved, stayed []time.Duration
	for _, change := range []func(){m.add, m.removeFirst, m.add, m.removeFirst} {
		before := m.epochs()
		reset()
		change()
		after := m.epochs()
		m.w.settledOnce()
		m.w.settledOnce()
		n := 0
		for part, pause := range reset() {
			if before[part] == after[part] {
				stayed = append(stayed, pause)
			} else {
				moved = append(moved, pause)
				n++
			}
		}
		if n == 0 || n > kafkaPartitions/2 {
			m.w.Errorf("%d of %d partitions moved to or from a third member", n, kafkaPartitions)
		}
	}
	m.w.Logf("longest pause in a rebalance: of partitions that move %v, of the others %v", spread(moved), spread(stayed))
}

func spread(list []time.Duration) string {
	if len(list) == 0 {
		return "none"
	}
	slices.Sort(list)
	return fmt.Sprintf("p50 %s, max %s (%d)", list[len(list)/2].Round(time.Millisecond), list[len(list)-1].Round(time.Millisecond), len(list))
}

// TestKafkaKills: under load the processors of a group come and go and one
// broker after another dies. Each event takes effect once, and ledger and
// warehouse say what the gateways wrote.
func TestKafkaKills(t *testing.T) {
	brokers := kafkatest.Start(t)
	c := ledger.Config{URL: ledgertest.Database(t, ledgertest.Postgres(t))}
	w, admin := newKafkaWorld(t, c, brokers, kafkaPartitions, stream.TopicConfig{})
	w.addSpool()
	var leases []*tap
	for i := range kafkaCustomers {
		id := fmt.Sprint("customer", i)
		w.customer(id, 1000*money.Dollar)
		l := w.lease(id, 10*money.Dollar)
		l.spool = w.spools[i%len(w.spools)]
		leases = append(leases, l)
	}
	stopProducing := w.produce()
	stopLoad := w.load(leases)
	m := &members{w: w}
	m.add()
	m.add()
	began := time.Now()
	m.rebalances()
	changes := map[int]func(){2: m.add, 4: m.removeFirst, 6: m.add, 8: m.removeFirst}
	killing := time.Now()
	for kill := range kafkaKills {
		broker := 1 + kill%kafkatest.Brokers
		w.must(brokers.Kill(broker))
		if change := changes[kill]; change != nil {
			change()
		}
		w.must(brokers.Restart(broker))
		w.until("all replicas are in sync", func() bool {
			parts := w.replicas(admin)
			for _, p := range parts {
				if len(p.ISR) != kafkatest.Brokers {
					return false
				}
			}
			return len(parts) == kafkaPartitions
		})
	}
	killed := time.Since(killing)
	stopLoad()
	w.appended()
	stopProducing()
	w.tieOut()
	t.Logf("%d kills in %s, %d events written in %s, %d records acknowledged, producers began again %d times, %d duplicates absorbed",
		kafkaKills, killed.Round(time.Second), len(w.expected), time.Since(began).Round(time.Second), w.log.Counters().Produced, w.log.Counters().Rewinds, m.duplicates())
}

// TestKafkaCutOff: an unclean election takes back records that were settled,
// and others come into their places. That is said once, and nothing is lost or
// counted twice.
func TestKafkaCutOff(t *testing.T) {
	brokers := kafkatest.Start(t)
	w, admin := newKafkaWorld(t, sqlite(t), brokers, 1, stream.TopicConfig{Replication: 2, MinInsync: 1})
	w.customer("acme", 100*money.Dollar)
	l := w.lease("acme", money.Dollar)
	stopProducing := w.produce()
	_, stop := w.process()
	w.use(l, 30)
	w.appended()
	part := w.replicas(admin)[0]
	leader, follower := int(part.Leader), int(part.Replicas[0]+part.Replicas[1]-part.Leader)
	w.must(brokers.Kill(follower))
	w.use(l, 20)
	w.appended()
	stop()
	stopProducing()
	w.log.Close()
	w.must(brokers.Kill(leader))
	w.must(brokers.Restart(follower))
	w.until("the broker that knows less leads", func() bool {
		_, _ = admin.ElectLeaders(w.ctx, kadm.ElectLiveReplica, kadm.TopicsSet{w.kafka.Topic: {0: {}}}) // until the controller knows who lives
		parts := w.replicas(admin)
		return int(parts[0].Leader) == follower
	})
	w.must(brokers.Restart(leader))

	w.openLog()
	ends, err := w.log.EndOffsets(w.ctx)
	if err != nil || ends[0] != 30 {
		t.Fatalf("the log was not cut off: %v, %v", ends, err)
	}
	other := w.lease("acme", money.Dollar)
	other.spool = w.addSpool()
	w.use(other, 60)
	w.closeLease(other)
	stop = w.produce(other.spool)
	w.until("the log is longer than it was", func() bool { return other.spool.Usage().UnackedRecords == 0 })
	stop()
	w.finishCutOff(l, nil)
}

// TestKafkaExpired: records that leave one partition before they are settled
// stop that partition alone. Once the topic is made anew, which producer and
// processor notice, the spools bring everything again.
func TestKafkaExpired(t *testing.T) {
	brokers := kafkatest.Start(t)
	w, admin := newKafkaWorld(t, sqlite(t), brokers, partitions, stream.TopicConfig{})
	var leases []*tap
	for i := range 16 {
		id := fmt.Sprint("customer", i)
		w.customer(id, 100*money.Dollar)
		leases = append(leases, w.lease(id, money.Dollar))
	}
	use := func(n int) {
		for _, l := range leases {
			w.use(l, n)
		}
	}
	produced := make(chan error, 1)
	go func() { produced <- w.log.Produce(w.ctx, w.spools[0]) }()
	_, stop := w.process()
	use(10)
	w.appended()
	stop()
	before, err := w.log.EndOffsets(w.ctx)
	w.must(err)
	use(10)
	w.until("everything is in the log", func() bool { return w.spools[0].Usage().UnackedRecords == 0 })
	expired := leases[0].partition(w, before)
	var to kadm.Offsets
	to.Add(kadm.Offset{Topic: w.kafka.Topic, Partition: expired, At: before[expired] + 3})
	_, err = admin.DeleteRecords(w.ctx, to)
	w.must(err)

	p := w.processor()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(w.ctx) }()
	ends, err := w.log.EndOffsets(w.ctx)
	w.must(err)
	settled := func() map[int32]int64 {
		list, err := w.db.Progress(w.ctx, w.log.TopicID())
		w.must(err)
		got := map[int32]int64{}
		for _, c := range list {
			got[c.Part] = c.Settled
		}
		return got
	}
	want := maps.Clone(ends)
	want[expired] = before[expired]
	w.until("the other partitions are settled", func() bool { return maps.Equal(settled(), want) })
	if n := metric(p.Metrics.LogBreaks); n != 1 {
		t.Errorf("%d breaks were counted", n)
	}
	w.must(p.measureLag(w.ctx))
	records, seconds := gauges(p.Metrics.LagRecords), gauges(p.Metrics.LagSeconds)
	for part, end := range ends {
		if lag := records[fmt.Sprint(part)]; lag != float64(end-want[part]) {
			t.Errorf("partition %d lags by %v records, not %d", part, lag, end-want[part])
		}
	}
	if len(seconds) != partitions {
		t.Errorf("%v", seconds)
	}
	w.topicAnew(admin)
	for what, end := range map[string]chan error{"producer": produced, "processor": ended} {
		if err := <-end; !errors.Is(err, stream.ErrTopicGone) {
			t.Errorf("the %s ended with %v", what, err)
		}
	}
	w.log.Close()
	w.openLog()
	w.produce()
	p, _ = w.process()
	use(5)
	for _, l := range leases {
		w.closeLease(l)
	}
	w.appended()
	w.until("no orphan is left", func() bool { return p.Waiting() == 0 })
	if metric(p.Metrics.Duplicates) == 0 {
		t.Error("nothing came again")
	}
	w.tieOut()
}

// gauges reads a vector by its label.
func gauges(v *prometheus.GaugeVec) map[string]float64 {
	r := prometheus.NewRegistry()
	r.MustRegister(v)
	found, err := r.Gather()
	if err != nil {
		panic(err)
	}
	got := map[string]float64{}
	for _, m := range found[0].Metric {
		got[m.Label[0].GetValue()] = m.Gauge.GetValue()
	}
	return got
}

// partition is where the lease's customer's records are: the partition that
// has a record of it at or above some offsets.
func (l *tap) partition(w *world, from map[int32]int64) int32 {
	w.Helper()
	ends, err := w.log.EndOffsets(w.ctx)
	w.must(err)
	for part, end := range ends {
		recs, err := w.log.ReadRange(w.ctx, part, from[part], end)
		w.must(err)
		for _, r := range recs {
			if rec, err := decode(r.Value); err == nil && rec.LeaseID == l.id {
				return part
			}
		}
	}
	w.Fatalf("no partition has records of lease %s", l.id)
	return 0
}

// topicAnew deletes the topic and makes it under the same name.
func (w *world) topicAnew(admin *kadm.Client) {
	w.Helper()
	_, err := admin.DeleteTopics(w.ctx, w.kafka.Topic)
	w.must(err)
	w.until("the topic is made anew", func() bool {
		_, err := stream.Migrate(w.ctx, *w.kafka, stream.TopicConfig{})
		return err == nil
	})
}

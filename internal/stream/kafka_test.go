package stream

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"weir/internal/stream/kafkatest"
)

// onKafka is a topic of the test's own on a real cluster, not made yet.
func onKafka(t *testing.T, c *kafkatest.Cluster) LogConfig {
	return LogConfig{Brokers: c.Addresses, Topic: t.Name(), Log: quiet(), Partitions: 6}
}

func openKafka(t *testing.T, cfg LogConfig) *Log {
	t.Helper()
	l, err := OpenLog(withPatience(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// TestKafkaMigrate: serving asks for the topic; Migrate makes it as it must be,
// and of one that is there it tells what is wrong and changes nothing.
func TestKafkaMigrate(t *testing.T) {
	cfg, ctx := onKafka(t, kafkatest.Start(t)), withPatience(t)
	if _, err := OpenLog(ctx, cfg); err == nil || !strings.Contains(err.Error(), "`weir migrate` makes it") {
		t.Errorf("opened a missing topic: %v", err)
	}
	for range 2 {
		if lacks, err := Migrate(ctx, cfg, TopicConfig{}); err != nil || len(lacks) > 0 {
			t.Fatal(lacks, err)
		}
	}
	l := openKafka(t, cfg)
	found, err := l.admin.DescribeTopicConfigs(ctx, cfg.Topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range found[0].Configs {
		want, known := map[string]string{"cleanup.policy": "delete", "retention.ms": "604800000", "retention.bytes": "-1",
			"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}[c.Key]
		if known && c.MaybeValue() != want {
			t.Errorf("%s is %s, not %s", c.Key, c.MaybeValue(), want)
		}
	}
	topic, err := l.describe(ctx)
	if err != nil || topic.Partitions.NumReplicas() != 3 || l.Partitions() != 6 || len(l.TopicID()) != 32 {
		t.Errorf("%+v, %v", topic, err)
	}
	poor := cfg
	poor.Topic += "-poor"
	if lacks, err := Migrate(ctx, poor, TopicConfig{Replication: 2, MinInsync: 1, Retention: time.Hour}); err != nil || len(lacks) > 0 {
		t.Fatal(lacks, err)
	}
	poor.Partitions = 7
	lacks, err := Migrate(ctx, poor, TopicConfig{})
	want := []string{"the topic has 6 partitions, this installation has 7", "each record is on 2 brokers, wanted is 3",
		`min.insync.replicas is "1", wanted is "2"`, `retention.ms is "3600000", wanted is "604800000"`}
	if err != nil || !slices.Equal(lacks, want) {
		t.Errorf("%q, %v", lacks, err)
	}
	many := cfg
	many.Topic += "-many"
	if lacks, err := Migrate(ctx, many, TopicConfig{Replication: 5}); err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "there are 3 brokers") {
		t.Errorf("%q, %v", lacks, err)
	}
}

// TestKafkaSecure: records travel over TLS under either SCRAM mechanism; a
// wrong password, and a certificate that nobody vouches for, are refused.
func TestKafkaSecure(t *testing.T) {
	c := kafkatest.Start(t)
	cfg := onKafka(t, c)
	if _, err := Migrate(withPatience(t), cfg, TopicConfig{}); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	trusted := &tls.Config{RootCAs: x509.NewCertPool()}
	trusted.RootCAs.AppendCertsFromPEM(pem)
	cfg.Brokers = c.Secure
	for i, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		cfg.TLS, cfg.SASL = trusted, SASLConfig{Mechanism: mechanism, Username: "weir", Password: "weir-secret"}
		l, spool := openKafka(t, cfg), openSpool(t, SpoolConfig{Dir: t.TempDir()})
		fillSpool(t, spool, 10, uint64(1+i*20), uint64(20+i*20))
		produceAll(t, l, spool)
		if n := checkComplete(t, logContents(t, l), 10, uint64(20+i*20)); n > 0 {
			t.Errorf("%d repeated", n)
		}
	}
	for name, bad := range map[string]LogConfig{
		"a wrong password": {TLS: trusted, SASL: SASLConfig{Mechanism: "SCRAM-SHA-512", Username: "weir", Password: "wrong"}},
		"no password":      {TLS: trusted},
		"no authority":     {TLS: &tls.Config{}, SASL: cfg.SASL},
	} {
		bad.Brokers, bad.Topic, bad.Log = c.Secure, cfg.Topic, quiet()
		l := &Log{cfg: bad}
		if err := l.connect(); err != nil {
			t.Fatal(err)
		}
		if err := l.client.Ping(withPatience(t)); err == nil {
			t.Errorf("%s was taken", name)
		}
		l.Close()
	}
}

// TestKafkaTopicGone: producer and reader notice that the topic was deleted and
// made anew under its name, and neither uses the new one.
func TestKafkaTopicGone(t *testing.T) {
	cfg, ctx := onKafka(t, kafkatest.Start(t)), withPatience(t)
	if _, err := Migrate(ctx, cfg, TopicConfig{}); err != nil {
		t.Fatal(err)
	}
	l, spool := openKafka(t, cfg), openSpool(t, SpoolConfig{Dir: t.TempDir()})
	produced, read := make(chan error, 1), make(chan error, 1)
	go func() { produced <- l.Produce(ctx, spool) }()
	b := newBeginnings()
	r := b.reader(t, l, "reader")
	go func() {
		for {
			got, err := r.Poll(ctx, 100)
			if err != nil {
				read <- err
				return
			}
			b.take(t, "reader", got)
		}
	}()
	fillSpool(t, spool, 10, 1, 20)
	until(t, "everything is acknowledged", func() bool { return allAcked(l, spool) })
	if _, err := l.admin.DeleteTopics(ctx, cfg.Topic); err != nil {
		t.Fatal(err)
	}
	until(t, "the topic is made anew", func() bool {
		_, err := Migrate(ctx, cfg, TopicConfig{})
		return err == nil
	})
	fillSpool(t, spool, 10, 21, 40)
	for what, ended := range map[string]chan error{"producing": produced, "reading": read} {
		if err := <-ended; err == nil || !strings.Contains(err.Error(), ErrTopicGone.Error()) {
			t.Errorf("%s ended with %v", what, err)
		}
	}
	ends, err := l.admin.ListEndOffsets(ctx, cfg.Topic)
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset != 0 {
			t.Errorf("partition %d of the new topic has %d records", o.Partition, o.Offset)
		}
	})
	again := openKafka(t, cfg)
	produceAll(t, again, spool)
	if n := checkComplete(t, logContents(t, again), 10, 40); n > 0 {
		t.Errorf("%d repeated", n)
	}
}

package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const (
	// An embedded log has few partitions, since each costs its own batches and
	// fsyncs; a cluster has enough for the processors it may grow to. The
	// number is never changed in place: it would move customers.
	embeddedPartitions = 4
	clusterPartitions  = 24

	embeddedClusterID = "weir-embedded"
	embeddedPort      = 9092 // of the network within the process
	// embeddedSegmentBytes is small because trimming deletes whole segments.
	embeddedSegmentBytes = "16777216"
	// Opening reads every segment of the log: without a limit the garbage of
	// that stays resident, some 1.6 GB for as much log.
	openMemoryBytes = 256 << 20
	// trimKeepRecords stay in the embedded log though they are settled: the
	// record before a cursor proves that the log is the one it was, and a
	// partition that is never empty keeps its offsets over a crash.
	trimKeepRecords = 1000

	// connectTimeout bounds the first contact with a cluster.
	connectTimeout = 30 * time.Second
)

// LogConfig says where the usage log is. Without Brokers it is embedded: a
// Kafka broker in this process that keeps its data in Dir, reached by the same
// client over a network that does not leave the process.
type LogConfig struct {
	Brokers    []string
	Topic      string
	Partitions int    // of a topic that is made; 0 = 4 embedded, 24 on a cluster
	Dir        string // of the embedded log; one process at a time
	TLS        *tls.Config
	SASL       SASLConfig
	Log        *slog.Logger
}

// SASLConfig holds the credentials for a cluster; an empty Mechanism is none.
type SASLConfig struct {
	Mechanism          string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	Username, Password string
}

// Log is the usage log: one Kafka topic of usage records, keyed by customer.
type Log struct {
	cfg        LogConfig
	options    []kgo.Opt // how to reach it
	broker     *kfake.Cluster
	client     *kgo.Client
	admin      *kadm.Client
	topicID    string
	partitions int32

	produced atomic.Int64
	rewinds  atomic.Int64
}

// ErrTopicGone says that the topic is not the one it was at the start: it was
// deleted or made anew. Offsets of the old one mean nothing any more.
var ErrTopicGone = errors.New("the usage topic is gone or was made anew")

// OpenLog connects to the log. An embedded topic is made if missing; on a
// cluster it must exist (see Migrate).
func OpenLog(ctx context.Context, cfg LogConfig) (*Log, error) {
	l := &Log{cfg: cfg}
	if err := l.open(ctx); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot open the usage log: %w", err)
	}
	return l, nil
}

func (l *Log) open(ctx context.Context) error {
	if err := l.connect(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if l.broker != nil {
		if err := l.makeEmbedded(ctx); err != nil {
			return err
		}
	}
	topic, err := l.describe(ctx)
	if err != nil {
		return err
	}
	l.topicID, l.partitions = topicID(topic), int32(len(topic.Partitions))
	return nil
}

// connect starts the embedded broker if there is to be one, and makes the client.
func (l *Log) connect() error {
	l.options = []kgo.Opt{kgo.ClientID("weir"), kgo.WithLogger(clientLogger{l.cfg.Log}), kgo.DisableClientMetrics()}
	if len(l.cfg.Brokers) == 0 {
		if err := l.startBroker(); err != nil {
			return err
		}
	} else if err := l.clusterOptions(); err != nil {
		return err
	}
	client, err := kgo.NewClient(l.options...)
	if err != nil {
		return err
	}
	l.client, l.admin = client, kadm.NewClient(client)
	return nil
}

// startBroker opens the embedded log. Every acknowledged record is synced:
// without that a power loss would take back offsets that are already settled.
func (l *Log) startBroker() error {
	network := new(kfake.VirtualNetwork)
	before := debug.SetMemoryLimit(-1)
	debug.SetMemoryLimit(min(before, openMemoryBytes))
	defer debug.SetMemoryLimit(before)
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(embeddedPort), kfake.ListenFn(network.Listen),
		kfake.DataDir(l.cfg.Dir), kfake.SyncWrites(), kfake.ClusterID(embeddedClusterID), kfake.WithLogger(brokerLogger{l.cfg.Log}))
	if err != nil {
		return err
	}
	l.broker = broker
	l.options = append(l.options, kgo.SeedBrokers(broker.ListenAddrs()...), kgo.Dialer(network.DialContext))
	return nil
}

func (l *Log) clusterOptions() error {
	l.options = append(l.options, kgo.SeedBrokers(l.cfg.Brokers...))
	if l.cfg.TLS != nil {
		l.options = append(l.options, kgo.DialTLSConfig(l.cfg.TLS))
	}
	user, password := l.cfg.SASL.Username, l.cfg.SASL.Password
	switch l.cfg.SASL.Mechanism {
	case "":
	case "PLAIN":
		l.options = append(l.options, kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism()))
	case "SCRAM-SHA-256":
		l.options = append(l.options, kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		l.options = append(l.options, kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha512Mechanism()))
	default:
		return fmt.Errorf("SASL mechanism %q is unknown", l.cfg.SASL.Mechanism)
	}
	return nil
}

// Partitions is the topic's number of partitions.
func (l *Log) Partitions() int32 { return l.partitions }

// Embedded tells whether the log lives in this process.
func (l *Log) Embedded() bool { return l.broker != nil }

// LogCounters counts since the start.
type LogCounters struct {
	Produced int64 // records acknowledged, repetitions too
	Rewinds  int64 // times the producer went back
}

// Counters reads the log's counters.
func (l *Log) Counters() LogCounters {
	return LogCounters{Produced: l.produced.Load(), Rewinds: l.rewinds.Load()}
}

// EndOffsets returns for each partition the offset the next record will get.
func (l *Log) EndOffsets(ctx context.Context) (map[int32]int64, error) {
	listed, err := l.admin.ListEndOffsets(ctx, l.cfg.Topic)
	return l.offsets(listed, err)
}

// StartOffsets returns for each partition the first offset that is still there.
func (l *Log) StartOffsets(ctx context.Context) (map[int32]int64, error) {
	listed, err := l.admin.ListStartOffsets(ctx, l.cfg.Topic)
	return l.offsets(listed, err)
}

func (l *Log) offsets(listed kadm.ListedOffsets, err error) (map[int32]int64, error) {
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list the offsets of topic %s: %w", l.cfg.Topic, err)
	}
	offsets := make(map[int32]int64, l.partitions)
	for part, o := range listed[l.cfg.Topic] {
		offsets[part] = o.Offset
	}
	if int32(len(offsets)) != l.partitions {
		return nil, fmt.Errorf("cannot list the offsets of topic %s: %d of %d partitions answered", l.cfg.Topic, len(offsets), l.partitions)
	}
	return offsets, nil
}

// Trim deletes records of an embedded log that are settled and appended, given
// as the offset behind them per partition. The retention of a cluster is its
// operator's, so there Trim does nothing.
func (l *Log) Trim(ctx context.Context, done map[int32]int64) error {
	if l.broker == nil {
		return nil
	}
	starts, err := l.StartOffsets(ctx)
	if err != nil {
		return err
	}
	var to kadm.Offsets
	for part, offset := range done {
		if keepFrom := offset - trimKeepRecords; keepFrom > starts[part] {
			to.Add(kadm.Offset{Topic: l.cfg.Topic, Partition: part, At: keepFrom})
		}
	}
	if len(to) == 0 {
		return nil
	}
	answers, err := l.admin.DeleteRecords(ctx, to)
	if err == nil {
		err = answers.Error()
	}
	if err != nil {
		return fmt.Errorf("cannot trim the usage log: %w", err)
	}
	return nil
}

// Close ends the connection, and the broker if it is embedded. Producers and
// readers must have ended.
func (l *Log) Close() {
	if l.client != nil {
		l.client.Close()
	}
	if l.broker != nil {
		l.broker.Close()
	}
}

// clientLogger passes the client's warnings and errors on.
type clientLogger struct{ log *slog.Logger }

func (clientLogger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (c clientLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	c.log.Log(context.Background(), severity(level == kgo.LogLevelError), "kafka client: "+msg, keyvals...)
}

// brokerLogger passes the embedded broker's warnings and errors on.
type brokerLogger struct{ log *slog.Logger }

func (b brokerLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	if level == kfake.LogLevelWarn || level == kfake.LogLevelError {
		b.log.Log(context.Background(), severity(level == kfake.LogLevelError), "kafka broker: "+fmt.Sprintf(format, args...))
	}
}

func severity(isError bool) slog.Level {
	if isError {
		return slog.LevelError
	}
	return slog.LevelWarn
}

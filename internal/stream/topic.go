package stream

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// With three replicas, two of which acknowledge, one broker may be away
	// without a record being at risk.
	replicationDefault = 3
	minInsyncDefault   = 2
	// retentionDefault is longer than an outage of the ledger or the warehouse
	// may last: what Kafka drops before it is settled is a break.
	retentionDefault = 7 * 24 * time.Hour
)

// TopicConfig says how safe the usage topic is to be; the zero value is what
// production wants.
type TopicConfig struct {
	Replication int           // 0 = 3, or as many as there are brokers
	MinInsync   int           // replicas that acknowledge; 0 = 2, or as many as there are
	Retention   time.Duration // 0 = 7 days
}

// Migrate makes the topic on the cluster. One that exists is left as it is, and
// what it lacks is returned, a sentence each: partitions and replicas do not
// change without their operator. Too few brokers for the replication are also
// told.
func Migrate(ctx context.Context, cfg LogConfig, want TopicConfig) (lacks []string, err error) {
	l := &Log{cfg: cfg}
	defer l.Close()
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("cannot make the usage topic: there are no brokers")
	}
	if err = l.connect(); err == nil {
		lacks, err = l.migrate(ctx, want)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make topic %s: %w", cfg.Topic, err)
	}
	return lacks, nil
}

func (l *Log) migrate(ctx context.Context, want TopicConfig) (lacks []string, err error) {
	brokers, err := l.admin.ListBrokers(ctx)
	if err != nil {
		return nil, err
	}
	want.Replication = cmp.Or(want.Replication, replicationDefault)
	if n := len(brokers); n < want.Replication {
		lacks = append(lacks, fmt.Sprintf("there are %d brokers: each record can be on %[1]d, not on %d", n, want.Replication))
		want.Replication = n
	}
	want.MinInsync = min(cmp.Or(want.MinInsync, minInsyncDefault), want.Replication)
	want.Retention = cmp.Or(want.Retention, retentionDefault)
	partitions := cmp.Or(l.cfg.Partitions, clusterPartitions)
	_, err = l.admin.CreateTopic(ctx, int32(partitions), int16(want.Replication), clusterConfigs(want), l.cfg.Topic)
	if !errors.Is(err, kerr.TopicAlreadyExists) {
		return lacks, err
	}
	found, err := l.compare(ctx, want)
	return append(lacks, found...), err
}

// clusterConfigs are the settings that the promises rest on. Compaction would
// keep one record of a customer, and an unclean election takes acknowledged
// ones back.
func clusterConfigs(want TopicConfig) map[string]*string {
	configs := map[string]string{
		"cleanup.policy":                 "delete",
		"retention.ms":                   strconv.FormatInt(want.Retention.Milliseconds(), 10),
		"retention.bytes":                "-1",
		"min.insync.replicas":            strconv.Itoa(want.MinInsync),
		"unclean.leader.election.enable": "false",
	}
	out := make(map[string]*string, len(configs))
	for name, value := range configs {
		out[name] = &value
	}
	return out
}

// compare tells in what the topic falls short of what is wanted. More of a
// number is as good, and so is no limit.
func (l *Log) compare(ctx context.Context, want TopicConfig) (lacks []string, err error) {
	topic, err := l.describe(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(topic.Partitions); l.cfg.Partitions != 0 && n != l.cfg.Partitions {
		lacks = append(lacks, fmt.Sprintf("the topic has %d partitions, this installation has %d", n, l.cfg.Partitions))
	}
	if n := topic.Partitions.NumReplicas(); n < want.Replication {
		lacks = append(lacks, fmt.Sprintf("each record is on %d brokers, wanted is %d", n, want.Replication))
	}
	resources, err := l.admin.DescribeTopicConfigs(ctx, l.cfg.Topic)
	if err != nil {
		return nil, err
	}
	found, err := resources.On(l.cfg.Topic, nil)
	if err = errors.Join(err, found.Err); err != nil {
		return nil, err
	}
	have := make(map[string]string, len(found.Configs))
	for _, c := range found.Configs {
		have[c.Key] = c.MaybeValue()
	}
	wanted := clusterConfigs(want)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if !suffices(have[name], *wanted[name]) {
			lacks = append(lacks, fmt.Sprintf("%s is %q, wanted is %q", name, have[name], *wanted[name]))
		}
	}
	return lacks, nil
}

func suffices(have, want string) bool {
	h, err := strconv.ParseInt(have, 10, 64)
	w, err2 := strconv.ParseInt(want, 10, 64)
	if err != nil || err2 != nil {
		return have == want
	}
	return h == -1 || w != -1 && h >= w
}

// makeEmbedded makes the topic of an embedded log unless it is there. It has
// no retention: what is settled is trimmed, and nothing else may go.
func (l *Log) makeEmbedded(ctx context.Context) error {
	policy, segment := "delete", embeddedSegmentBytes
	_, err := l.admin.CreateTopic(ctx, int32(cmp.Or(l.cfg.Partitions, embeddedPartitions)), 1,
		map[string]*string{"cleanup.policy": &policy, "segment.bytes": &segment}, l.cfg.Topic)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	return err
}

// describe asks the cluster for the topic as it is now. The admin client alone
// would answer for some seconds from what it asked before, and so take a topic
// made anew for the old one.
func (l *Log) describe(ctx context.Context) (kadm.TopicDetail, error) {
	asked := kmsg.NewMetadataRequestTopic()
	asked.Topic = &l.cfg.Topic
	request := kmsg.NewPtrMetadataRequest()
	request.Topics = append(request.Topics, asked)
	_, err := l.client.RequestCachedMetadata(ctx, request, time.Nanosecond)
	var topics kadm.TopicDetails
	if err == nil {
		topics, err = l.admin.ListTopics(ctx, l.cfg.Topic)
	}
	if err == nil {
		err = topics.Error()
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return kadm.TopicDetail{}, fmt.Errorf("topic %s does not exist; `weir migrate` makes it: %w", l.cfg.Topic, err)
	}
	if err != nil {
		return kadm.TopicDetail{}, fmt.Errorf("cannot describe topic %s: %w", l.cfg.Topic, err)
	}
	return topics[l.cfg.Topic], nil
}

// CheckTopic is ErrTopicGone if the topic was made anew. One that is missing
// may be on its way, so that is an error that passes.
func (l *Log) CheckTopic(ctx context.Context) error {
	topic, err := l.describe(ctx)
	if err == nil && topicID(topic) != l.topicID {
		err = fmt.Errorf("%w: its id was %s and is %s", ErrTopicGone, l.topicID, topicID(topic))
	}
	return err
}

func topicID(t kadm.TopicDetail) string { return hex.EncodeToString(t.ID[:]) }

// TopicID is the identity of this very topic, 32 hex digits: a topic made anew
// under the name has another one. It begins batch ids, so it must not begin
// with what a command line takes for an option, as the notation of Kafka's own
// tools may.
func (l *Log) TopicID() string { return l.topicID }

package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"weir/internal/config"
	"weir/internal/ledger"
	"weir/internal/stream"
	"weir/internal/warehouse"
)

// Migrate brings what a serving weir expects to find up to this program: the
// ledger's schema, the usage topic, the warehouse's schema. Each is told to say
// in one line. What is embedded is brought up by the process that embeds it. It
// may be repeated.
func Migrate(ctx context.Context, cfg config.Config, log *slog.Logger, say func(line string)) error {
	url := cfg.Ledger.URL.Reveal()
	if url == "" {
		if err := os.MkdirAll(cfg.DataDir, dataDirMode); err != nil {
			return fmt.Errorf("cannot make the data directory: %w", err)
		}
	}
	db, err := ledger.Open(ctx, ledger.Config{URL: url, Dir: cfg.DataDir, Log: log})
	if err != nil {
		return err
	}
	defer db.Close() // nothing was written that is not committed
	say(fmt.Sprintf("the ledger's schema (%s) is up to date", db.Engine()))
	if err := migrateLog(ctx, cfg, db, log, say); err != nil {
		return err
	}
	return migrateWarehouse(ctx, cfg, log, say)
}

func migrateLog(ctx context.Context, cfg config.Config, db *ledger.DB, log *slog.Logger, say func(string)) error {
	if len(cfg.Kafka.Brokers) == 0 {
		say("the usage log is embedded: serving makes it")
		return nil
	}
	partitions, err := readPartitions(ctx, db, cfg.Kafka)
	if err != nil {
		return err
	}
	topic, err := logConfig(cfg, partitions)
	if err != nil {
		return Usage{err}
	}
	topic.Log = log
	lacks, err := stream.Migrate(ctx, topic, stream.TopicConfig{})
	if err != nil {
		return err
	}
	say(fmt.Sprintf("the topic %s is there", topic.Topic))
	for _, l := range lacks {
		say("warning: " + l)
	}
	return nil
}

func migrateWarehouse(ctx context.Context, cfg config.Config, log *slog.Logger, say func(string)) error {
	switch cfg.ClickHouse.URL.Reveal() {
	case config.NoClickHouse:
		say("there is no warehouse (clickhouse.url: none)")
		return nil
	case "":
		say("the warehouse is embedded: serving brings it up to date")
		return nil
	}
	if err := warehouse.Migrate(ctx, warehouseConfig(cfg, log)); err != nil {
		return err
	}
	say("the warehouse's schema is up to date")
	return nil
}

-- One row per usage event and per correction of one. Plain sums over all rows
-- are right: a correction is a row with the difference and a higher entry_no.
--
-- non_replicated_deduplication_window: how many blocks' insert tokens are
-- remembered. A block sent again under its token within the window is dropped.
-- It must be set here and on every target of a view below, or a repeated block
-- would be counted twice there. The server's default is 0, which is "off".
-- fsync_*: a block that was acknowledged survives a loss of power.
CREATE TABLE IF NOT EXISTS usage_events
(
    event_id              String,
    entry_no              UInt16,
    kind                  LowCardinality(String),
    request_id            String,
    event_time            DateTime64(3, 'UTC'),
    customer              String,
    key_id                String,
    provider              LowCardinality(String),
    api                   LowCardinality(String),
    model                 LowCardinality(String),
    model_billed          LowCardinality(String),
    rule                  LowCardinality(String),
    tags                  Map(String, String),
    status                LowCardinality(String),
    stream                UInt8,
    estimated             UInt8,
    input_tokens          UInt64,
    cached_input_tokens   UInt64,
    cache_write_5m_tokens UInt64,
    cache_write_1h_tokens UInt64,
    output_tokens         UInt64,
    reasoning_tokens      UInt64,
    units                 Map(String, UInt64),
    reserved              Decimal(18, 9),
    cost                  Decimal(18, 9),
    price                 Decimal(18, 9),
    margin                Decimal(18, 9),
    currency              LowCardinality(String),
    cost_card             LowCardinality(String),
    price_card            LowCardinality(String),
    http_status           UInt16,
    latency_ms            UInt32,
    ttft_ms               UInt32,
    gateway               LowCardinality(String),
    lease_id              String,
    seq                   UInt64,
    batch_id              String
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (customer, event_time, event_id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

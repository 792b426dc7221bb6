-- Sums per hour and per day, by customer, provider and model. Rows of one key
-- are added up by merges in the background and before that are several: read
-- them with sum() and GROUP BY, never with FINAL.
CREATE TABLE IF NOT EXISTS usage_hourly
(
    hour                  DateTime('UTC'),
    customer              String,
    provider              LowCardinality(String),
    model                 LowCardinality(String),
    requests              UInt64,
    events                UInt64,
    estimated             UInt64,
    input_tokens          UInt64,
    cached_input_tokens   UInt64,
    cache_write_5m_tokens UInt64,
    cache_write_1h_tokens UInt64,
    output_tokens         UInt64,
    reasoning_tokens      UInt64,
    cost                  Decimal(38, 9),
    price                 Decimal(38, 9),
    margin                Decimal(38, 9)
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (customer, provider, model, hour)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- requests are answered and billed calls; events are all first entries (calls
-- with errors and leakage too); a correction adds to neither.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_hourly_feed TO usage_hourly AS
SELECT
    toStartOfHour(e.event_time)                                    AS hour,
    e.customer                                                     AS customer,
    e.provider                                                     AS provider,
    e.model                                                        AS model,
    countIf(e.entry_no = 0 AND e.kind = 'usage')                   AS requests,
    countIf(e.entry_no = 0)                                        AS events,
    countIf(e.entry_no = 0 AND e.kind = 'usage' AND e.estimated)   AS estimated,
    sum(e.input_tokens)                                            AS input_tokens,
    sum(e.cached_input_tokens)                                     AS cached_input_tokens,
    sum(e.cache_write_5m_tokens)                                   AS cache_write_5m_tokens,
    sum(e.cache_write_1h_tokens)                                   AS cache_write_1h_tokens,
    sum(e.output_tokens)                                           AS output_tokens,
    sum(e.reasoning_tokens)                                        AS reasoning_tokens,
    sum(e.cost)                                                    AS cost,
    sum(e.price)                                                   AS price,
    sum(e.margin)                                                  AS margin
FROM usage_events AS e
GROUP BY hour, customer, provider, model;

-- Days are added up from the hours when they are read: a table of their own
-- would cost every insert another part.
CREATE VIEW IF NOT EXISTS usage_daily AS
SELECT
    toDate(h.hour)               AS day,
    h.customer                   AS customer,
    h.provider                   AS provider,
    h.model                      AS model,
    sum(h.requests)              AS requests,
    sum(h.events)                AS events,
    sum(h.estimated)             AS estimated,
    sum(h.input_tokens)          AS input_tokens,
    sum(h.cached_input_tokens)   AS cached_input_tokens,
    sum(h.cache_write_5m_tokens) AS cache_write_5m_tokens,
    sum(h.cache_write_1h_tokens) AS cache_write_1h_tokens,
    sum(h.output_tokens)         AS output_tokens,
    sum(h.reasoning_tokens)      AS reasoning_tokens,
    sum(h.cost)                  AS cost,
    sum(h.price)                 AS price,
    sum(h.margin)                AS margin
FROM usage_hourly AS h
GROUP BY day, customer, provider, model;

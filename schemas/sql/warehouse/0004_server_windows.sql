-- What a server needs beside the windows above. A replicated table, by
-- clickhouse.cluster or of the server's own accord (ClickHouse Cloud), looks at
-- the replicated window only, and forgets tokens after an hour by default: a
-- block repeated after a longer outage would count twice. 604800 s are 7 days.
-- ttl_only_drop_parts: rows that are too old go with their whole part, so that
-- none is rewritten for it.
ALTER TABLE usage_events MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, ttl_only_drop_parts = 1;

ALTER TABLE usage_hourly MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

-- Answers to requests are kept for a while only.
CREATE INDEX idempotency_age ON idempotency (created_at) /*cockroachdb USING HASH*/;

-- On CockroachDB an index that begins with the time of its rows grows at one
-- end, in one range on one node: hashed, it grows everywhere. The indexes by
-- epoch stay, since all who raise an epoch wait for its one row anyway.
/*cockroachdb DROP INDEX IF EXISTS customer_page*/;
/*cockroachdb CREATE INDEX customer_page ON customer (created_at, id) USING HASH*/;
/*cockroachdb DROP INDEX IF EXISTS outbox_event_time*/;
/*cockroachdb CREATE INDEX outbox_event_time ON outbox_event (created_at, id) USING HASH*/;

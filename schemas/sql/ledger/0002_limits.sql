-- Limits of keys and customers, each 0 = none: requests and tokens in a minute,
-- nano-dollars in a UTC day and month.
ALTER TABLE api_key ADD COLUMN requests_per_minute BIGINT NOT NULL DEFAULT 0;
ALTER TABLE api_key ADD COLUMN tokens_per_minute BIGINT NOT NULL DEFAULT 0;
ALTER TABLE api_key ADD COLUMN spend_per_day BIGINT NOT NULL DEFAULT 0;
ALTER TABLE api_key ADD COLUMN spend_per_month BIGINT NOT NULL DEFAULT 0;
ALTER TABLE customer ADD COLUMN requests_per_minute BIGINT NOT NULL DEFAULT 0;
ALTER TABLE customer ADD COLUMN tokens_per_minute BIGINT NOT NULL DEFAULT 0;
ALTER TABLE customer ADD COLUMN spend_per_day BIGINT NOT NULL DEFAULT 0;
ALTER TABLE customer ADD COLUMN spend_per_month BIGINT NOT NULL DEFAULT 0;

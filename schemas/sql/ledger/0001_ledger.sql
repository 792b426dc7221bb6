-- The ledger. Amounts are BIGINT nano-dollars, times BIGINT Unix microseconds
-- (0 = never), ids are random or derived from what they name, never counted.

-- Facts that are fixed by whoever starts first: currency, key pepper, partitions.
CREATE TABLE setting (
  name  TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
);

-- Counters whose row lock orders the transactions that raise them, so that a
-- reader who has seen value n has seen every change up to n.
CREATE TABLE epoch (
  name  TEXT NOT NULL PRIMARY KEY,
  value BIGINT NOT NULL
);
INSERT INTO epoch (name, value) VALUES ('change', 1), ('recall', 1), ('session', 1);

CREATE TABLE customer (
  id         TEXT NOT NULL PRIMARY KEY,
  name       TEXT NOT NULL,
  plan       TEXT NOT NULL,
  metadata   TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  epoch      BIGINT NOT NULL
);
CREATE INDEX customer_page ON customer (created_at, id);
CREATE INDEX customer_epoch ON customer (epoch);

-- One wallet per customer. available = credited - debited - held is never
-- negative, and as long as something is owed (receivable) it is zero.
CREATE TABLE wallet (
  customer     TEXT NOT NULL PRIMARY KEY REFERENCES customer (id),
  currency     TEXT NOT NULL,
  status       TEXT NOT NULL CHECK (status IN ('active', 'frozen')),
  credited     BIGINT NOT NULL DEFAULT 0 CHECK (credited >= 0),
  debited      BIGINT NOT NULL DEFAULT 0 CHECK (debited >= 0),
  held         BIGINT NOT NULL DEFAULT 0 CHECK (held >= 0),
  receivable   BIGINT NOT NULL DEFAULT 0 CHECK (receivable >= 0),
  attributed   BIGINT NOT NULL DEFAULT 0 CHECK (attributed >= 0 AND attributed <= debited),
  recall_epoch BIGINT NOT NULL DEFAULT 0,
  recalled_at  BIGINT NOT NULL DEFAULT 0,
  CHECK (credited - debited - held >= 0),
  CHECK (receivable = 0 OR credited - debited - held = 0)
);
CREATE INDEX wallet_recall ON wallet (recall_epoch) WHERE recall_epoch > 0;

-- Where the money of a wallet came from. Settling does not touch lots: debits
-- are attributed to them when the next lot event comes.
CREATE TABLE lot (
  id         TEXT NOT NULL PRIMARY KEY,
  customer   TEXT NOT NULL REFERENCES wallet (customer),
  currency   TEXT NOT NULL,
  kind       TEXT NOT NULL CHECK (kind IN ('paid', 'promo')),
  priority   BIGINT NOT NULL,
  amount     BIGINT NOT NULL CHECK (amount > 0),
  used       BIGINT NOT NULL DEFAULT 0 CHECK (used >= 0),
  expired    BIGINT NOT NULL DEFAULT 0 CHECK (expired >= 0),
  refunded   BIGINT NOT NULL DEFAULT 0 CHECK (refunded >= 0),
  expires_at BIGINT NOT NULL DEFAULT 0,
  parent     TEXT NOT NULL DEFAULT '',
  created_at BIGINT NOT NULL,
  CHECK (used + expired + refunded <= amount)
);
CREATE INDEX lot_customer ON lot (customer) WHERE used + expired + refunded < amount;

-- The books: transactions and their postings, which sum to zero. Rows are only
-- ever added.
CREATE TABLE txn (
  id         TEXT NOT NULL PRIMARY KEY,
  kind       TEXT NOT NULL,
  currency   TEXT NOT NULL,
  reference  TEXT NOT NULL,
  reason     TEXT NOT NULL,
  created_at BIGINT NOT NULL
) /*sqlite WITHOUT ROWID*/;
CREATE TABLE posting (
  txn        TEXT NOT NULL,
  line       BIGINT NOT NULL,
  account    TEXT NOT NULL,
  customer   TEXT NOT NULL,
  kind       TEXT NOT NULL,
  currency   TEXT NOT NULL,
  amount     BIGINT NOT NULL,
  events     BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (txn, line)
) /*sqlite WITHOUT ROWID*/;
CREATE INDEX posting_customer ON posting (customer, created_at, txn, line) WHERE customer <> '';
-- The few lines of a batch that are no customer's, which the audit sums.
CREATE INDEX posting_own ON posting (txn, line, account, amount, events) WHERE customer = '';

CREATE TABLE api_key (
  id         TEXT NOT NULL PRIMARY KEY,
  customer   TEXT NOT NULL,
  name       TEXT NOT NULL,
  prefix     TEXT NOT NULL,
  hash       BYTEA NOT NULL,
  models     TEXT NOT NULL,
  expires_at BIGINT NOT NULL DEFAULT 0,
  revoked_at BIGINT NOT NULL DEFAULT 0,
  created_at BIGINT NOT NULL,
  epoch      BIGINT NOT NULL
);
CREATE INDEX api_key_page ON api_key (customer, created_at, id);
CREATE INDEX api_key_epoch ON api_key (epoch);

-- A card is immutable under its hash; publishing it is an event of its own.
CREATE TABLE card (
  id          TEXT NOT NULL PRIMARY KEY,
  label       TEXT NOT NULL,
  models_hash TEXT NOT NULL,
  rules_hash  TEXT NOT NULL,
  models      BYTEA NOT NULL,
  rules       BYTEA NOT NULL
);
CREATE INDEX card_hashes ON card (models_hash, rules_hash);
CREATE TABLE publication (
  id             TEXT NOT NULL PRIMARY KEY,
  card           TEXT NOT NULL REFERENCES card (id),
  effective_from BIGINT NOT NULL,
  published_at   BIGINT NOT NULL,
  epoch          BIGINT NOT NULL
);
CREATE INDEX publication_epoch ON publication (epoch);

CREATE TABLE idempotency (
  idem_key   TEXT NOT NULL,
  route      TEXT NOT NULL,
  body_hash  TEXT NOT NULL,
  status     BIGINT NOT NULL,
  body       BYTEA NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (idem_key, route)
);

-- One live session (ended_at = 0) per gateway; its numbers are the last beat's.
CREATE TABLE session (
  id               TEXT NOT NULL PRIMARY KEY,
  gateway          TEXT NOT NULL,
  exclusive        BOOLEAN NOT NULL,
  ttl              BIGINT NOT NULL,
  started_at       BIGINT NOT NULL,
  heard_at         BIGINT NOT NULL,
  ended_at         BIGINT NOT NULL DEFAULT 0,
  superseded       BOOLEAN NOT NULL DEFAULT FALSE,
  unacked          BIGINT NOT NULL DEFAULT 0,
  unsettled_bytes  BIGINT NOT NULL DEFAULT 0,
  oldest_unsettled BIGINT NOT NULL DEFAULT 0,
  in_flight        BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX session_live ON session (gateway) WHERE ended_at = 0;

-- A slice of a wallet in a gateway's hands: granted - settled - returned is
-- what the wallet still holds for it. A gateway closes a lease by a record in
-- its spool, which arrives later, and may need the next lease of the same wallet at once:
-- so several may be open per wallet and gateway here, and the gateway sees to
-- it that one of them admits.
CREATE TABLE lease (
  id            TEXT NOT NULL PRIMARY KEY,
  customer      TEXT NOT NULL,
  gateway       TEXT NOT NULL,
  session       TEXT NOT NULL,
  state         TEXT NOT NULL CHECK (state IN ('open', 'closing', 'closed', 'reclaimed')),
  granted       BIGINT NOT NULL CHECK (granted >= 0),
  settled       BIGINT NOT NULL DEFAULT 0 CHECK (settled >= 0),
  returned      BIGINT NOT NULL DEFAULT 0 CHECK (returned >= 0),
  grant_no      BIGINT NOT NULL DEFAULT 0,
  last_seq      BIGINT NOT NULL DEFAULT 0,
  final_seq     BIGINT NOT NULL DEFAULT 0,
  events        BIGINT NOT NULL DEFAULT 0,
  cost          BIGINT NOT NULL DEFAULT 0,
  price         BIGINT NOT NULL DEFAULT 0,
  close_events  BIGINT NOT NULL DEFAULT 0,
  close_cost    BIGINT NOT NULL DEFAULT 0,
  close_price   BIGINT NOT NULL DEFAULT 0,
  close_differs BOOLEAN NOT NULL DEFAULT FALSE,
  gaps          BIGINT NOT NULL DEFAULT 0,
  created_at    BIGINT NOT NULL,
  closing_at    BIGINT NOT NULL DEFAULT 0,
  CHECK (settled + returned <= granted),
  CHECK (state IN ('open', 'closing') OR settled + returned = granted)
) /*sqlite WITHOUT ROWID*/;
CREATE INDEX lease_live ON lease (gateway, customer) WHERE state IN ('open', 'closing');
CREATE INDEX lease_differs ON lease (id) WHERE close_differs;

-- Runs of seqs below last_seq that have not arrived.
CREATE TABLE lease_gap (
  lease    TEXT NOT NULL,
  from_seq BIGINT NOT NULL,
  to_seq   BIGINT NOT NULL,
  PRIMARY KEY (lease, from_seq)
);

-- The one fence of settling: a batch must start where the last one ended, and
-- its owner must hold the newest epoch of the partition.
CREATE TABLE settle_cursor (
  topic         TEXT NOT NULL,
  part          BIGINT NOT NULL,
  next_offset   BIGINT NOT NULL,
  epoch         BIGINT NOT NULL,
  last_event_id TEXT NOT NULL,
  PRIMARY KEY (topic, part)
);

-- One row per settled batch: what the warehouse must hold for it.
CREATE TABLE manifest (
  id            TEXT NOT NULL PRIMARY KEY,
  topic         TEXT NOT NULL,
  part          BIGINT NOT NULL,
  off_from      BIGINT NOT NULL,
  off_to        BIGINT NOT NULL,
  events        BIGINT NOT NULL,
  cost          BIGINT NOT NULL,
  price         BIGINT NOT NULL,
  currency      TEXT NOT NULL,
  hash          TEXT NOT NULL,
  seqs          TEXT NOT NULL,
  leak_count    BIGINT NOT NULL,
  leak_reserved BIGINT NOT NULL,
  appended      BOOLEAN NOT NULL,
  created_at    BIGINT NOT NULL
);
CREATE UNIQUE INDEX manifest_chain ON manifest (topic, part, off_from);
CREATE INDEX manifest_unappended ON manifest (topic, part, off_from) WHERE NOT appended;

-- Records that cannot be decoded, rated or billed; their seq counts as seen.
CREATE TABLE dead_letter (
  topic      TEXT NOT NULL,
  part       BIGINT NOT NULL,
  off        BIGINT NOT NULL,
  batch      TEXT NOT NULL,
  lease      TEXT NOT NULL,
  seq        BIGINT NOT NULL,
  customer   TEXT NOT NULL,
  bytes      BYTEA NOT NULL,
  reason     TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (topic, part, off)
);

-- Events whose promise differs from the processor's own rating.
CREATE TABLE rate_mismatch (
  batch    TEXT NOT NULL,
  off      BIGINT NOT NULL,
  event_id TEXT NOT NULL,
  detail   TEXT NOT NULL,
  PRIMARY KEY (batch, off)
);

-- What an operator looked at and accepted, and why. Kept for ever.
CREATE TABLE accepted (
  subject     TEXT NOT NULL PRIMARY KEY,
  reason      TEXT NOT NULL,
  accepted_at BIGINT NOT NULL
);

-- Settled price per scope (key:ID, customer:ID) and UTC period (day:2026-11-24,
-- month:2026-11, all).
CREATE TABLE spend (
  scope  TEXT NOT NULL,
  period TEXT NOT NULL,
  spent  BIGINT NOT NULL,
  PRIMARY KEY (scope, period)
) /*sqlite WITHOUT ROWID*/;

-- How much of a rule's daily budget gateways have taken.
CREATE TABLE budget (
  rule_name TEXT NOT NULL,
  utc_day   TEXT NOT NULL,
  taken     BIGINT NOT NULL,
  PRIMARY KEY (rule_name, utc_day)
);

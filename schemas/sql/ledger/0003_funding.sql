-- Funding: top-ups, refunds, disputes, overdraft, expiry, and the events that
-- tell the platform of them.

-- overdraft is the part of credited that the platform lends; disputes counts
-- the open ones, which freeze the wallet; depleted is set once a request was
-- refused for lack of balance, until money comes. low_balance are the balances
-- below which an event is due (descending, comma-separated), topup_below the one
-- below which the wallet tops itself up (0 = never).
ALTER TABLE wallet ADD COLUMN overdraft BIGINT NOT NULL DEFAULT 0 CHECK (overdraft >= 0);
ALTER TABLE wallet ADD COLUMN disputes BIGINT NOT NULL DEFAULT 0 CHECK (disputes >= 0);
ALTER TABLE wallet ADD COLUMN depleted BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE wallet ADD COLUMN low_balance TEXT NOT NULL DEFAULT '';
ALTER TABLE wallet ADD COLUMN topup_below BIGINT NOT NULL DEFAULT 0 CHECK (topup_below >= 0);

-- A returned lot is no new money: a dispute was won, a refund has failed.
ALTER TABLE lot ADD COLUMN returned BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX lot_expiry ON lot (expires_at, customer) WHERE expires_at > 0 AND used + expired + refunded < amount;
CREATE INDEX lot_parent ON lot (parent) WHERE parent <> '';

-- The few lines of the books that are neither usage nor a customer's.
CREATE INDEX posting_funding ON posting (account, amount) WHERE customer = '' AND kind <> 'usage';

-- What the events of a customer's month cost, beside what was paid for them.
ALTER TABLE spend ADD COLUMN cost BIGINT NOT NULL DEFAULT 0;
CREATE INDEX customer_spend_limit ON customer (id) WHERE spend_per_day > 0 OR spend_per_month > 0;
CREATE INDEX api_key_spend_limit ON api_key (id) WHERE spend_per_day > 0 OR spend_per_month > 0;

-- One purchase of balance, written before anybody is asked for money. Its lot
-- has its id. amount is what the customer pays, bonus what he gets beside it;
-- of a subscription bonus is all he gets. refund_seen is the cumulative refund that was
-- reported, refunded the part of it that is booked: a refund may be seen before
-- its payment. lost went to lost disputes; bonus_back is the bonus taken back.
CREATE TABLE topup (
  id             TEXT NOT NULL PRIMARY KEY,
  customer       TEXT NOT NULL REFERENCES wallet (customer),
  kind           TEXT NOT NULL CHECK (kind IN ('checkout', 'auto', 'subscription')),
  state          TEXT NOT NULL CHECK (state IN ('created', 'submitted', 'requires_action', 'processing', 'succeeded', 'failed', 'canceled')),
  amount         BIGINT NOT NULL CHECK (amount >= 0),
  bonus          BIGINT NOT NULL DEFAULT 0 CHECK (bonus >= 0),
  currency       TEXT NOT NULL,
  reason         TEXT NOT NULL DEFAULT '',
  attempt        BIGINT NOT NULL DEFAULT 0,
  session        TEXT NOT NULL DEFAULT '',
  invoice        TEXT NOT NULL DEFAULT '',
  payment_intent TEXT NOT NULL DEFAULT '',
  charge         TEXT NOT NULL DEFAULT '',
  url            TEXT NOT NULL DEFAULT '',
  success_url    TEXT NOT NULL DEFAULT '',
  cancel_url     TEXT NOT NULL DEFAULT '',
  save_card      BOOLEAN NOT NULL DEFAULT FALSE,
  refund_seen    BIGINT NOT NULL DEFAULT 0,
  refunded       BIGINT NOT NULL DEFAULT 0 CHECK (refunded >= 0),
  lost           BIGINT NOT NULL DEFAULT 0 CHECK (lost >= 0),
  bonus_back     BIGINT NOT NULL DEFAULT 0 CHECK (bonus_back >= 0 AND bonus_back <= bonus),
  fee            BIGINT NOT NULL DEFAULT 0,
  fee_known      BOOLEAN NOT NULL DEFAULT FALSE,
  created_at     BIGINT NOT NULL,
  updated_at     BIGINT NOT NULL,
  next_try_at    BIGINT NOT NULL DEFAULT 0,
  CHECK (refunded <= refund_seen)
);
-- At most one automatic top-up of a wallet is under way.
CREATE UNIQUE INDEX topup_live ON topup (customer) WHERE kind = 'auto' AND state IN ('created', 'submitted', 'requires_action', 'processing');
CREATE UNIQUE INDEX topup_payment ON topup (payment_intent) WHERE payment_intent <> '';
CREATE UNIQUE INDEX topup_invoice ON topup (invoice) WHERE invoice <> '';
CREATE INDEX topup_session ON topup (session) WHERE session <> '';
CREATE INDEX topup_page ON topup (customer, created_at, id);
CREATE INDEX topup_due_next ON topup (next_try_at) WHERE state IN ('created', 'submitted', 'requires_action', 'processing');
CREATE INDEX topup_fee_due ON topup (updated_at) WHERE state = 'succeeded' AND NOT fee_known;

-- How a wallet tops itself up below threshold: by amount, or up to recharge_to.
CREATE TABLE auto_topup (
  customer      TEXT NOT NULL PRIMARY KEY REFERENCES wallet (customer),
  enabled       BOOLEAN NOT NULL,
  threshold     BIGINT NOT NULL,
  amount        BIGINT NOT NULL,
  recharge_to   BIGINT NOT NULL,
  cap_per_day   BIGINT NOT NULL,
  cap_per_month BIGINT NOT NULL,
  min_interval  BIGINT NOT NULL,
  failures      BIGINT NOT NULL,
  off_reason    TEXT NOT NULL,
  next_try_at   BIGINT NOT NULL,
  updated_at    BIGINT NOT NULL
);
-- Wallets whose balance was seen below topup_below.
CREATE TABLE topup_due (
  customer TEXT NOT NULL PRIMARY KEY,
  since    BIGINT NOT NULL
);

-- A customer as the payment provider knows him, and what he agreed to.
CREATE TABLE payer (
  customer        TEXT NOT NULL PRIMARY KEY REFERENCES customer (id),
  stripe_customer TEXT NOT NULL UNIQUE,
  payment_method  TEXT NOT NULL DEFAULT '',
  consented_at    BIGINT NOT NULL DEFAULT 0
);

-- Webhook events as they came: kept first, worked on later.
CREATE TABLE stripe_event (
  id          TEXT NOT NULL PRIMARY KEY,
  type        TEXT NOT NULL,
  object      TEXT NOT NULL,
  created_at  BIGINT NOT NULL,
  received_at BIGINT NOT NULL,
  done_at     BIGINT NOT NULL DEFAULT 0,
  tries       BIGINT NOT NULL DEFAULT 0,
  next_try_at BIGINT NOT NULL DEFAULT 0,
  error       TEXT NOT NULL DEFAULT ''
);
CREATE INDEX stripe_event_undone ON stripe_event (next_try_at) WHERE done_at = 0;

-- booked tells which of a dispute's two steps are in the books: '', 'open', 'closed'.
CREATE TABLE dispute (
  id         TEXT NOT NULL PRIMARY KEY,
  topup      TEXT NOT NULL REFERENCES topup (id),
  customer   TEXT NOT NULL,
  amount     BIGINT NOT NULL CHECK (amount > 0),
  fee        BIGINT NOT NULL DEFAULT 0,
  state      TEXT NOT NULL CHECK (state IN ('open', 'won', 'lost')),
  booked     TEXT NOT NULL CHECK (booked IN ('', 'open', 'closed')),
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);
CREATE INDEX dispute_topup ON dispute (topup);

-- Refunds that the operator asked for: booked first, then sent.
CREATE TABLE refund (
  id            TEXT NOT NULL PRIMARY KEY,
  topup         TEXT NOT NULL REFERENCES topup (id),
  customer      TEXT NOT NULL,
  amount        BIGINT NOT NULL CHECK (amount > 0),
  state         TEXT NOT NULL CHECK (state IN ('created', 'submitted', 'succeeded', 'failed')),
  stripe_refund TEXT NOT NULL DEFAULT '',
  reason        TEXT NOT NULL DEFAULT '',
  attempt       BIGINT NOT NULL DEFAULT 0,
  created_at    BIGINT NOT NULL,
  updated_at    BIGINT NOT NULL,
  next_try_at   BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX refund_topup ON refund (topup);
CREATE INDEX refund_live ON refund (next_try_at) WHERE state IN ('created', 'submitted');

-- Plans that are sold by subscription, and what credit a period includes.
CREATE TABLE plan (
  id           TEXT NOT NULL PRIMARY KEY,
  stripe_price TEXT NOT NULL UNIQUE,
  included     BIGINT NOT NULL CHECK (included >= 0),
  updated_at   BIGINT NOT NULL
);
CREATE TABLE subscription (
  id         TEXT NOT NULL PRIMARY KEY,
  customer   TEXT NOT NULL REFERENCES customer (id),
  plan       TEXT NOT NULL,
  status     TEXT NOT NULL,
  period_end BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);
CREATE INDEX subscription_customer ON subscription (customer);

-- Events for the platform, written in the transaction that makes them true,
-- and who still has to be told.
CREATE TABLE outbox_endpoint (
  id            TEXT NOT NULL PRIMARY KEY,
  url           TEXT NOT NULL,
  secret_sealed BYTEA NOT NULL,
  events        TEXT NOT NULL,
  created_at    BIGINT NOT NULL,
  disabled_at   BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE outbox_event (
  id         TEXT NOT NULL PRIMARY KEY,
  type       TEXT NOT NULL,
  customer   TEXT NOT NULL,
  body       TEXT NOT NULL,
  created_at BIGINT NOT NULL
);
CREATE INDEX outbox_event_time ON outbox_event (created_at, id);
CREATE TABLE outbox_delivery (
  event       TEXT NOT NULL,
  endpoint    TEXT NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
  tries       BIGINT NOT NULL DEFAULT 0,
  next_try_at BIGINT NOT NULL,
  last_status BIGINT NOT NULL DEFAULT 0,
  last_error  TEXT NOT NULL DEFAULT '',
  created_at  BIGINT NOT NULL,
  updated_at  BIGINT NOT NULL,
  PRIMARY KEY (event, endpoint)
);
CREATE INDEX outbox_delivery_due ON outbox_delivery (endpoint, next_try_at) WHERE state = 'pending';
CREATE INDEX outbox_delivery_page ON outbox_delivery (endpoint, created_at, event);

-- Usage that was reported from outside is billed once under its own identity,
-- whichever lease and seq it came by. What came again is kept apart, since the
-- totals of its lease's close record count it.
CREATE TABLE outside_event (
  customer TEXT NOT NULL,
  source   TEXT NOT NULL,
  id       TEXT NOT NULL,
  lease    TEXT NOT NULL,
  seq      BIGINT NOT NULL,
  PRIMARY KEY (customer, source, id)
);
CREATE TABLE outside_repeat (
  lease      TEXT NOT NULL,
  seq        BIGINT NOT NULL,
  customer   TEXT NOT NULL,
  source     TEXT NOT NULL,
  id         TEXT NOT NULL,
  cost       BIGINT NOT NULL,
  price      BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (lease, seq)
);

-- What a platform earns: price is what customers paid, cost what the providers
-- charged. margin_percent is 100 x margin / price with two places, rounded half
-- away from zero, NULL where nothing was paid. Division of decimals cuts off at
-- nine places, which cannot change the second one after rounding.
CREATE VIEW IF NOT EXISTS margin_by_customer AS
SELECT
    *,
    CAST(round(100 * margin / nullIf(price, 0), 2) AS Nullable(Decimal(38, 2))) AS margin_percent
FROM
(
    SELECT
        d.customer AS customer,
        sum(d.requests) AS requests,
        sum(d.cost)     AS cost,
        sum(d.price)    AS price,
        sum(d.margin)   AS margin
    FROM usage_hourly AS d
    GROUP BY customer
);

CREATE VIEW IF NOT EXISTS margin_by_model AS
SELECT
    *,
    CAST(round(100 * margin / nullIf(price, 0), 2) AS Nullable(Decimal(38, 2))) AS margin_percent
FROM
(
    SELECT
        d.provider AS provider, d.model AS model,
        sum(d.requests) AS requests,
        sum(d.cost)     AS cost,
        sum(d.price)    AS price,
        sum(d.margin)   AS margin
    FROM usage_hourly AS d
    GROUP BY provider, model
);

CREATE VIEW IF NOT EXISTS margin_by_customer_model AS
SELECT
    *,
    CAST(round(100 * margin / nullIf(price, 0), 2) AS Nullable(Decimal(38, 2))) AS margin_percent
FROM
(
    SELECT
        d.customer AS customer, d.provider AS provider, d.model AS model,
        sum(d.requests) AS requests,
        sum(d.cost)     AS cost,
        sum(d.price)    AS price,
        sum(d.margin)   AS margin
    FROM usage_hourly AS d
    GROUP BY customer, provider, model
);

CREATE VIEW IF NOT EXISTS margin_daily AS
SELECT
    *,
    CAST(round(100 * margin / nullIf(price, 0), 2) AS Nullable(Decimal(38, 2))) AS margin_percent
FROM
(
    SELECT
        d.day AS day,
        sum(d.requests) AS requests,
        sum(d.cost)     AS cost,
        sum(d.price)    AS price,
        sum(d.margin)   AS margin
    FROM usage_daily AS d
    GROUP BY day
);

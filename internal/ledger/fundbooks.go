package ledger

// fundingAudits compares what top-ups, disputes and wallets say with the
// postings on the accounts that only funding moves.
var fundingAudits = []audit{
	{[]check{{"fees_are_postings", true}, {"clearing_is_postings", true}, {"overdraft_is_postings", true}, {"plans_are_postings", true}},
		`SELECT 'all funding', -(t.fee + d.fee), p.fees, t.fee + d.fee + t.back - t.amount, p.clearing, -w.overdraft, p.overdraft,
			t.plans - d.plans, p.plans FROM
		(SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) AS amount, CAST(COALESCE(SUM(fee), 0) AS BIGINT) AS fee,
			CAST(COALESCE(SUM(refunded + lost), 0) AS BIGINT) AS back,
			CAST(COALESCE(SUM(CASE WHEN kind = 'subscription' THEN amount - refunded - lost ELSE 0 END), 0) AS BIGINT) AS plans
			FROM topup WHERE state = 'succeeded') t,
		(SELECT CAST(COALESCE(SUM(d.fee), 0) AS BIGINT) AS fee,
			CAST(COALESCE(SUM(CASE WHEN d.booked = 'open' AND t.kind = 'subscription' THEN d.amount ELSE 0 END), 0) AS BIGINT) AS plans
			FROM dispute d JOIN topup t ON t.id = d.topup) d,
		(SELECT CAST(COALESCE(SUM(overdraft), 0) AS BIGINT) AS overdraft FROM wallet) w,
		(SELECT ` + accountSum + `'fees:stripe' THEN amount ELSE 0 END), 0) AS BIGINT) AS fees,
			` + accountSum + `'stripe_clearing' THEN amount ELSE 0 END), 0) AS BIGINT) AS clearing,
			` + accountSum + `'overdraft' THEN amount ELSE 0 END), 0) AS BIGINT) AS overdraft,
			` + accountSum + `'revenue:plans' THEN amount ELSE 0 END), 0) AS BIGINT) AS plans
			FROM posting WHERE customer = '' AND kind <> 'usage') p
		WHERE t.fee + d.fee <> -p.fees OR t.fee + d.fee + t.back - t.amount <> p.clearing OR w.overdraft <> -p.overdraft
			OR t.plans - d.plans <> p.plans ORDER BY p.fees`},
	{[]check{{"disputed_is_postings", true}, {"disputes_are_counted", false}},
		`SELECT 'wallet:' || w.customer, COALESCE(d.amount, 0), COALESCE(p.amount, 0), COALESCE(d.open, 0), w.disputes FROM wallet w
		LEFT JOIN (SELECT customer, CAST(SUM(amount) AS BIGINT) AS amount, COUNT(*) AS open FROM dispute WHERE booked = 'open' GROUP BY customer) d
			ON d.customer = w.customer
		LEFT JOIN (SELECT account, CAST(SUM(amount) AS BIGINT) AS amount FROM posting WHERE customer = '' AND kind <> 'usage' GROUP BY account) p
			ON p.account = 'disputed:' || w.customer
		WHERE COALESCE(d.amount, 0) <> COALESCE(p.amount, 0) OR COALESCE(d.open, 0) <> w.disputes ORDER BY w.customer`},
	// A purchase and its bonus stand in lots that are the top-up's.
	{[]check{{"topup_is_lots", true}},
		`SELECT 'topup:' || t.id, t.bonus + CASE WHEN t.kind = 'subscription' THEN 0 ELSE t.amount END, COALESCE(l.amount, 0) FROM topup t
		LEFT JOIN (SELECT CASE WHEN parent = '' THEN id ELSE parent END AS topup, CAST(SUM(amount) AS BIGINT) AS amount FROM lot
			WHERE NOT returned GROUP BY CASE WHEN parent = '' THEN id ELSE parent END) l ON l.topup = t.id
		WHERE t.state = 'succeeded' AND t.bonus + CASE WHEN t.kind = 'subscription' THEN 0 ELSE t.amount END <> COALESCE(l.amount, 0)
		ORDER BY t.id`},
}

// accountSum begins the sum of one account.
const accountSum = "CAST(COALESCE(SUM(CASE WHEN account = "

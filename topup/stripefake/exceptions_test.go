package stripefake

// Reasons of the exceptions below.
const (
	onlyExpanded = "shown only when the request expands it"
	onlyDeleted  = "shown only of deleted objects"
	onlyIfUsed   = "shown only where the feature is used"
	onlyFailed   = "shown only of failed refunds"
	gated        = "shown only to accounts that Stripe let into the feature"
	versionGone  = "later versions moved or removed it"
	mockBlank    = "stripe-mock's fixture leaves optional fields out"
)

// fieldExceptions are fields that stripe-go can read and that an account of
// 2023-10-16 is not shown.
var fieldExceptions = map[string]string{
	"customer.cash_balance": onlyExpanded, "customer.invoice_credit_balance": onlyExpanded, "customer.sources": onlyExpanded,
	"customer.subscriptions": onlyExpanded, "customer.tax": onlyExpanded, "customer.tax_ids": onlyExpanded, "customer.deleted": onlyDeleted,
	"charge.refunds": onlyExpanded, "charge.level3": gated, "charge.transfer": onlyIfUsed, "charge.authorization_code": gated,
	"checkout.session.line_items": onlyExpanded, "checkout.session.tax_id_collection": onlyIfUsed,
	"checkout.session.return_url": onlyIfUsed, "checkout.session.redirect_on_completion": onlyIfUsed,
	"item.discounts": onlyExpanded, "item.taxes": onlyExpanded,
	"price.tiers": onlyExpanded, "price.currency_options": onlyExpanded, "price.deleted": onlyDeleted,
	"plan.tiers": onlyExpanded, "plan.deleted": onlyDeleted, "product.deleted": onlyDeleted,
	"subscription_item.deleted": onlyDeleted, "invoice.deleted": onlyDeleted,
	"invoice.threshold_reason": onlyIfUsed, "invoice.subscription_proration_date": onlyIfUsed, "line_item.invoice_item": onlyIfUsed,
	"setup_intent.attach_to_self": onlyIfUsed,
	"refund.next_action":          onlyIfUsed, "refund.instructions_email": onlyIfUsed, "refund.description": onlyIfUsed,
	"refund.failure_reason": onlyFailed, "refund.failure_balance_transaction": onlyFailed,
	"charge.outcome.rule": onlyExpanded, "charge.radar_options.session": onlyIfUsed,
	"charge.payment_method_details.card.moto": gated, "charge.payment_method_details.card.issuer": gated, "charge.payment_method_details.card.iin": gated,
	"charge.payment_method_details.card.description": gated, "charge.payment_method_details.card.capture_before": onlyIfUsed,
	"charge.payment_method_details.us_bank_account.payment_reference": onlyIfUsed, "charge.payment_method_details.us_bank_account.mandate": onlyIfUsed,
	"payment_method.card.issuer": gated, "payment_method.card.iin": gated, "payment_method.card.description": gated,
	"payment_method.us_bank_account.status_details.blocked": onlyIfUsed,
	"checkout.session.total_details.breakdown":              onlyExpanded, "payment_intent.amount_details.tip.amount": onlyIfUsed,
	"invoice.issuer.account": onlyIfUsed, "refund.destination_details.card.reference": onlyIfUsed,
	"dispute.network_reason_code": gated, "event.account": "shown only of events of connected accounts",
}

// variants are hashes that show only the members in use: one kind of payment
// method, of next action, of error.
var variants = map[string]bool{
	"payment_intent.payment_method_options": true, "setup_intent.payment_method_options": true, "checkout.session.payment_method_options": true,
	"charge.payment_method_details": true, "dispute.payment_method_details": true, "refund.destination_details": true, "charge.fraud_details": true,
	"payment_intent.next_action": true, "setup_intent.next_action": true,
	"payment_intent.last_payment_error": true, "setup_intent.last_setup_error": true,
}

// mockExceptions are fields of 2023-10-16 that stripe-mock's answer has not: it
// speaks a later version.
var mockExceptions = map[string]string{
	"payment_intent.source": versionGone, "payment_intent.invoice": versionGone, "payment_intent.amount_details.tip": mockBlank,
	"payment_intent.last_payment_error.charge": mockBlank, "payment_intent.next_action.redirect_to_url": mockBlank,
	"payment_intent.automatic_payment_methods.allow_redirects": mockBlank,
	"charge.source": versionGone, "charge.invoice": versionGone, "charge.radar_options": mockBlank,
	"charge.outcome.risk_level": mockBlank, "charge.outcome.risk_score": mockBlank, "charge.payment_method_details.us_bank_account": mockBlank,
	"checkout.session.shipping_details": versionGone, "product.type": versionGone, "product.features": versionGone,
	"price.recurring.trial_period_days": versionGone, "price.recurring.aggregate_usage": versionGone,
	"subscription_item.plan": versionGone, "subscription.discount": versionGone,
	"subscription.current_period_start": versionGone, "subscription.current_period_end": versionGone,
	"line_item.unit_amount_excluding_tax": versionGone, "line_item.amount_excluding_tax": versionGone, "line_item.type": versionGone,
	"line_item.tax_rates": versionGone, "line_item.tax_amounts": versionGone, "line_item.subscription_item": versionGone,
	"line_item.proration": versionGone, "line_item.proration_details": versionGone, "line_item.price": versionGone, "line_item.plan": versionGone,
	"invoice.transfer_data": versionGone, "invoice.total_tax_amounts": versionGone, "invoice.tax": versionGone, "invoice.subscription": versionGone,
	"invoice.subscription_details": versionGone, "invoice.rendering_options": versionGone, "invoice.quote": versionGone,
	"invoice.payment_intent": versionGone, "invoice.paid": versionGone, "invoice.paid_out_of_band": versionGone, "invoice.discount": versionGone,
	"invoice.charge": versionGone, "invoice.application_fee_amount": versionGone,
	"search_result.next_page": mockBlank,
	"refund.failure_reason":   onlyFailed, "refund.failure_balance_transaction": onlyFailed,
	"refund.destination_details.card.reference_type": mockBlank, "refund.destination_details.card.reference_status": mockBlank,
	"radar.early_fraud_warning.payment_intent": mockBlank,
}

func init() {
	for _, at := range []string{"payment_intent.last_payment_error", "setup_intent.last_setup_error"} {
		for _, name := range []string{"code", "decline_code", "message", "doc_url", "payment_method"} {
			mockExceptions[at+"."+name] = mockBlank
		}
	}
}

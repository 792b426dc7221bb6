package provider_test

import (
	"encoding/json"
	"testing"

	"weir/gateway/provider"
	"weir/schemas/money"
)

func TestAppendError(t *testing.T) {
	f := func(shape provider.Shape, e provider.ErrorBody, want string) {
		t.Helper()
		if got := string(provider.AppendError([]byte("> "), shape, e)); got != "> "+want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	poor := provider.ErrorBody{Status: 402, Code: "insufficient_funds", Message: "this request needs up to $0.0123", Reason: "balance_exhausted", RequestID: "req_1",
		Funds: &provider.Funds{Available: 4_000_000, Held: 0, Required: 12_300_000, Currency: "usd", TopUpURL: "https://pay.example/?a=1"}}
	metadata := `{"reason":"balance_exhausted","available":"0.004","held":"0.00","required":"0.0123","currency":"usd","top_up_url":"https://pay.example/?a=1","request_id":"req_1"}`
	f(provider.OpenAI, poor, `{"error":{"message":"this request needs up to $0.0123","type":"insufficient_funds","param":null,"code":"insufficient_funds","metadata":`+metadata+`}}`)
	f(provider.Anthropic, poor, `{"type":"error","error":{"type":"billing_error","message":"this request needs up to $0.0123","code":"insufficient_funds","metadata":`+metadata+`},"request_id":"req_1"}`)
	f(provider.OpenAI, provider.ErrorBody{Status: 422, Code: "ambiguous_request", Message: "a \"b\"\n\x01\xff", RequestID: "r"},
		`{"error":{"message":"a \"b\"\n\u0001\ufffd","type":"invalid_request_error","param":null,"code":"ambiguous_request","metadata":{"request_id":"r"}}}`)

	for status, want := range map[int]string{400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
		413: "invalid_request_error", 422: "invalid_request_error", 429: "rate_limit_error", 502: "api_error", 503: "api_error"} {
		var got struct{ Error struct{ Type string } }
		if err := json.Unmarshal(provider.AppendError(nil, provider.Anthropic, provider.ErrorBody{Status: status}), &got); err != nil || got.Error.Type != want {
			t.Errorf("%d: %q %v, want %q", status, got.Error.Type, err, want)
		}
	}
	// The least amount there is, in full.
	var got struct {
		Error struct{ Metadata struct{ Held string } }
	}
	if err := json.Unmarshal(provider.AppendError(nil, provider.OpenAI, provider.ErrorBody{Funds: &provider.Funds{Held: money.Nano(1)}}), &got); err != nil || got.Error.Metadata.Held != "0.000000001" {
		t.Errorf("%q %v", got.Error.Metadata.Held, err)
	}
}

package distributed

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSharedWallet: two gateways spend from one small wallet. What one of them
// holds and does not use goes to the other within seconds, and never is a
// customer told that his money is not there.
func TestSharedWallet(t *testing.T) {
	in := install(t, remote)
	in.migrate()
	in.serveBooks(in.weir("analytics", ""))
	in.weir("processor", "")
	one, two := in.weir("gateway", ""), in.weir("gateway", "")
	key, keyID := in.books.customer("acme", "", "0.40")
	client := newClient()
	// 16,000 tokens of this model's dearest snapshot, $15.00 a million, are $0.24 of the $0.40.
	dear := chat(100, 1, "")
	dear.body = strings.Replace(dear.body, `"max_tokens":200`, `"max_tokens":16000`, 1)
	if a := send(t.Context(), client, one.data, key, dear); !a.ok() {
		t.Fatalf("%+v", a)
	}
	var refused int
	took := eventually(t, 15*time.Second, "the second gateway serves", func() (bool, string) {
		a := send(t.Context(), client, two.data, key, dear)
		if !a.ok() && (a.status != 429 || a.code != "funds_held" || a.retryAfter == "") {
			t.Fatalf("%+v", a)
		}
		refused++
		return a.ok(), fmt.Sprintf("%+v", a)
	})
	if refused == 1 {
		t.Error("the first gateway held nothing that the second needed")
	}
	t.Logf("the second gateway served after %.1f s", took.Seconds())

	both := func(what string, status int, code string) {
		t.Helper()
		took := eventually(t, 5*time.Second, what, func() (bool, string) {
			a, b := send(t.Context(), client, one.data, key, chat(100, 1, "")), send(t.Context(), client, two.data, key, chat(100, 1, ""))
			return a.status == status && a.code == code && b.status == status && b.code == code, fmt.Sprintf("%+v, %+v", a, b)
		})
		t.Logf("%s after %.1f s", what, took.Seconds())
	}
	both("both serve", 200, "")
	in.books.must("PATCH", "/customers/acme", map[string]string{"status": "frozen"}, nil)
	both("both refuse a frozen wallet", 403, "wallet_frozen")
	in.books.must("PATCH", "/customers/acme", map[string]string{"status": "active"}, nil)
	both("both serve again", 200, "")
	in.books.must("DELETE", "/keys/"+keyID, nil, nil)
	both("both refuse a revoked key", 401, "invalid_key")
	for _, g := range []*weir{one, two} {
		g.stop()
	}
	in.books.closed()
}

package apikey

import (
	"encoding/hex"
	"regexp"
	"strings"
	"testing"
)

func TestMake(t *testing.T) {
	form := regexp.MustCompile(`^sk-weir-([0-9A-Za-z]{8})-[0-9A-Za-z]{43}$`)
	seen := map[string]bool{}
	for range 1000 {
		key, id := Make()
		m := form.FindStringSubmatch(key)
		if m == nil || m[1] != id || seen[key] || seen[id] {
			t.Fatalf("key %q with id %q", key, id)
		}
		seen[key], seen[id] = true, true
		if got, ok := Parse(key); !ok || got != id {
			t.Fatalf("Parse(%q) = %q, %v", key, got, ok)
		}
		if Prefix(id) != key[:16] {
			t.Fatalf("prefix %q of %q", Prefix(id), key)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	key, _ := Make()
	for _, bad := range []string{"", "sk-", key[:59], key + "x", "xk" + key[2:], strings.Replace(key, "weir", "Weir", 1),
		key[:16] + "_" + key[17:], key[:20] + "-" + key[21:], key[:10] + "\x00" + key[11:], key[:10] + "é" + key[12:]} {
		if id, ok := Parse(bad); ok {
			t.Errorf("Parse(%q) = %q", bad, id)
		}
	}
	parsed := false
	if n := testing.AllocsPerRun(100, func() { _, parsed = Parse(key) }); n != 0 || !parsed {
		t.Errorf("Parse allocates %v times", n)
	}
}

// TestHash pins the stored form: the expectation was computed with
// `printf %s "$KEY" | openssl dgst -sha256 -hmac pepper`.
func TestHash(t *testing.T) {
	key := "sk-weir-AAAAAAAA-" + strings.Repeat("0", 43)
	got := Hash([]byte("pepper"), key)
	if hex.EncodeToString(got[:]) != "21d1e524c05ca5400f04f38d96fdf9e1f2659fcdcdd0fd9f50e295a674cdaa6d" {
		t.Errorf("%x", got)
	}
	if got == Hash([]byte("other"), key) {
		t.Error("the pepper does not matter")
	}
}

package egress

import (
	"errors"
	"testing"
)

// TestPublic: the ranges are those of the IANA special-purpose registries.
func TestPublic(t *testing.T) {
	for _, address := range []string{"127.0.0.1:443", "10.1.2.3:443", "172.16.0.1:443", "192.168.1.1:443", "169.254.169.254:80", "100.64.0.1:443",
		"0.0.0.0:80", "0.1.2.3:80", "192.0.0.192:80", "198.18.0.1:80", "224.0.0.1:80", "240.0.0.1:80", "255.255.255.255:80", "[::]:80", "[::1]:443",
		"[::127.0.0.1]:80", "[::ffff:127.0.0.1]:443", "[::ffff:169.254.169.254]:80", "[fe80::1]:443", "[fc00::1]:443", "[fd00:ec2::254]:80", "[fec0::1]:80",
		"[64:ff9b::a9fe:a9fe]:80", "[64:ff9b:1::1]:80", "[2002:7f00:1::]:80", "[2001:0:1::1]:80", "[ff02::1]:80"} {
		if err := Public("tcp", address, nil); !errors.Is(err, ErrPrivate) {
			t.Errorf("%s: %v, want a refusal", address, err)
		}
	}
	for _, address := range []string{"1.1.1.1:443", "[2606:4700::1111]:443", "[::ffff:8.8.8.8]:443", "100.63.255.255:443", "100.128.0.1:443"} {
		if err := Public("tcp", address, nil); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	if Public("tcp", "example.com:443", nil) == nil {
		t.Error("a name is no address")
	}
}

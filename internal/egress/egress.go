// Package egress guards the connections that weir opens outwards: to providers
// and to the endpoints of webhooks.
package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// ErrPrivate refuses an address of the operator's own network.
var ErrPrivate = errors.New("the address is not a public one")

// inside are ranges that are no one's public address although netip calls them
// global and not private, with the RFC that sets them apart.
var inside = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // this network, RFC 791
	netip.MustParsePrefix("100.64.0.0/10"),  // carrier NAT, RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),   // protocol assignments, RFC 6890
	netip.MustParsePrefix("198.18.0.0/15"),  // benchmarks, RFC 2544
	netip.MustParsePrefix("240.0.0.0/4"),    // reserved, RFC 1112
	netip.MustParsePrefix("64:ff9b::/96"),   // IPv4 behind NAT64, RFC 6052
	netip.MustParsePrefix("64:ff9b:1::/48"), // the same for local use, RFC 8215
	netip.MustParsePrefix("2001::/32"),      // IPv4 behind Teredo, RFC 4380
	netip.MustParsePrefix("2002::/16"),      // IPv4 behind 6to4, RFC 3056
	netip.MustParsePrefix("fec0::/10"),      // old site-local, RFC 3879
	netip.MustParsePrefix("::/96"),          // IPv4-compatible, RFC 4291
}

// Public is a net.Dialer's Control that lets connections only to public
// addresses. It runs at connect time, on the address that the name resolved
// to: a name cannot lead weir, and the secrets it sends, into the operator's
// network or to a cloud's metadata service. Refusals wrap ErrPrivate.
func Public(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("cannot read address %q: %w", address, err)
	}
	ip := ap.Addr().Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || slices.ContainsFunc(inside, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return fmt.Errorf("%s: %w", ip, ErrPrivate)
	}
	return nil
}

package notify

import (
	"net/netip"
	"net/url"

	"weir/internal/egress"
)

// urlMax bounds an endpoint's URL: what every HTTP server takes.
const urlMax = 2048

// CheckURL says what is wrong with an endpoint's URL, "" if nothing. What a
// name resolves to is checked at each delivery.
func CheckURL(text string, allowPrivate bool) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return "it is no URL such as https://platform.example/weir"
	case len(text) > urlMax:
		return "it is too long"
	case u.Scheme != "https" && !(allowPrivate && u.Scheme == "http"):
		return "it must begin with https:// (http:// needs webhooks.allow_private: true)"
	case u.User != nil || u.Fragment != "":
		return "it must have neither user nor fragment"
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err == nil && !allowPrivate && egress.Public("tcp", netip.AddrPortFrom(ip, 443).String(), nil) != nil {
		return "its address is not a public one (that needs webhooks.allow_private: true)"
	}
	return ""
}

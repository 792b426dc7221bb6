package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// leaseTTLMin: a lease is renewed by a heartbeat every two seconds; below
	// two of them one lost answer would stop all traffic.
	leaseTTLMin = 4 * time.Second
	// leaseIdleMin keeps a wallet with steady traffic from taking a lease per
	// request.
	leaseIdleMin = 100 * time.Millisecond
	// spoolMin holds a few segments, of which one is always being written.
	spoolMin Bytes = 1 << 20
	// partitionsMax is far above what one usage topic needs; it catches a typo.
	partitionsMax = 4096
	// keepRawMin keeps the events that a bill of last month, or a dispute about
	// it, is made of; keepRawMax catches a typo.
	keepRawMin, keepRawMax = 62, 3660
)

var (
	providerName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
	clusterName  = regexp.MustCompile(`^[A-Za-z0-9_.{}-]{0,128}$`)
	topicName    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,200}$`)
)

// check judges the whole configuration. The first problem is returned, with
// the place its key was set.
func (l *loader) check() error {
	c := &l.config
	type finding struct {
		path string
		err  error
	}
	findings := []finding{
		{"data_dir", notEmpty(c.DataDir)},
		{"listen.data", address(c.Listen.Data)},
		{"listen.control", address(c.Listen.Control)},
		{"listen.clickhouse", address(c.Listen.ClickHouse)},
		{"ledger.url", serverURL(c.Ledger.URL, "postgres", "postgresql")},
		{"kafka.brokers", brokers(c.Kafka.Brokers)},
		{"kafka.topic", match(topicName, c.Kafka.Topic)},
		{"kafka.partitions", within(c.Kafka.Partitions, 0, partitionsMax)},
		{"kafka.tls.cert_file", pair(c.Kafka.TLS.CertFile, c.Kafka.TLS.KeyFile)},
		{"kafka.sasl.mechanism", oneOf(c.Kafka.SASL.Mechanism, "", "plain", "scram-sha-256", "scram-sha-512")},
		{"kafka.sasl.username", c.Kafka.SASL.check()},
		{"clickhouse.url", serverURL(c.ClickHouse.URL, "clickhouse", "http", "https")},
		{"clickhouse.cluster", match(clusterName, c.ClickHouse.Cluster)},
		{"clickhouse.keep_raw", within(int(c.ClickHouse.KeepRaw), keepRawMin, keepRawMax)},
		{"reserve.max_request", atLeast(c.Reserve.MaxRequest, time.Second)},
		{"reserve.lease_ttl", atLeast(c.Reserve.LeaseTTL, leaseTTLMin)},
		{"reserve.lease_idle", atLeast(c.Reserve.LeaseIdle, leaseIdleMin)},
		{"reserve.recovery_grace", atLeast(c.Reserve.RecoveryGrace, 0)},
		{"reserve.missing_max", oneOf(c.Reserve.MissingMax, "fit", "model", "refuse")},
		{"disconnect.policy", oneOf(c.Disconnect.Policy, "drain", "abort")},
		{"disconnect.max", atLeast(c.Disconnect.Max, 0)},
		{"unpriced_models", oneOf(c.UnpricedModels, "refuse")},
		{"top_up_url", pageURL(c.TopUpURL)},
		{"spool.max_bytes", atLeast(c.Spool.MaxBytes, spoolMin)},
		{"stripe.webhook_secret", c.Stripe.check()},
		{"stripe.secret_key", c.Stripe.checkKey()},
		{"stripe.api_base", apiBase(c.Stripe.APIBase)},
	}
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		path := "providers." + name
		p := c.Providers[name]
		findings = append(findings, finding{path, match(providerName, name)},
			finding{path + ".kind", oneOf(p.Kind, "openai", "anthropic")},
			finding{path + ".base_url", p.checkBaseURL()})
	}
	for _, f := range findings {
		if f.err == nil {
			continue
		}
		if where := l.place(f.path); where != "" {
			return fmt.Errorf("%s: %s: %w", where, f.path, f.err)
		}
		return fmt.Errorf("%s: %w", f.path, f.err)
	}
	return nil
}

// place is where a key, or else the group it is missing from, was set.
func (l *loader) place(path string) string {
	for path != "" {
		if where, ok := l.where[path]; ok {
			return where
		}
		path = path[:max(0, strings.LastIndexByte(path, '.'))]
	}
	return ""
}

// Roles of a process.
const (
	RoleAll       = "all"
	RoleGateway   = "gateway"
	RoleProcessor = "processor"
	RoleAnalytics = "analytics"
)

// CheckRole refuses a role that this configuration cannot play. A process that
// is only a part must reach the other parts: with an embedded log or ledger of
// its own it would be alone, and its token would open no other part.
func (c Config) CheckRole(role string) error {
	if err := oneOf(role, RoleAll, RoleGateway, RoleProcessor, RoleAnalytics); err != nil {
		return fmt.Errorf("role: %w", err)
	}
	if role == RoleAll {
		return nil
	}
	missing := ""
	switch {
	case c.Ledger.URL.Reveal() == "":
		missing = "ledger.url"
	case len(c.Kafka.Brokers) == 0:
		missing = "kafka.brokers"
	case c.Admin.Token.IsZero():
		missing = "admin.token"
	case role != RoleGateway && c.ClickHouse.URL.Reveal() == "":
		missing = "clickhouse.url"
	default:
		return nil
	}
	return fmt.Errorf("role %s needs %s: it cannot share what another process embeds or keeps in its own data directory", role, missing)
}

func (s SASL) check() error {
	if (s.Mechanism == "") != (s.Username == "") {
		return errors.New("mechanism and username belong together")
	}
	return nil
}

func (s Stripe) check() error {
	if (!s.SecretKey.IsZero() || !s.WebhookSecretPrevious.IsZero()) && strings.TrimSpace(s.WebhookSecret.Reveal()) == "" {
		return errors.New("is empty: anyone could post a payment that never happened; set it beside stripe.secret_key")
	}
	return nil
}

func (s Stripe) checkKey() error {
	if s.SecretKey.IsZero() && !s.WebhookSecret.IsZero() {
		return errors.New("is empty: stripe.webhook_secret is of no use without it")
	}
	return nil
}

// apiBase keeps the account's key on an encrypted connection, but for a
// stand-in on this machine.
func apiBase(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("want a URL such as https://stripe-proxy.example, or nothing for Stripe itself")
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return errors.New("plain http would send the account's key in clear text; only a stand-in on this machine may have it")
	}
	return nil
}

// checkBaseURL keeps provider keys on encrypted connections to public hosts
// unless the operator says otherwise. Addresses are checked again at connect.
func (p Provider) checkBaseURL() error {
	u, err := url.Parse(p.BaseURL)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return errors.New("want a URL such as https://api.example.com")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("want no user, query or fragment in the URL (the key goes into api_key)")
	case u.Scheme == "http" && !p.AllowPrivate:
		return errors.New("plain http would send the key in clear text; use https, or set allow_private: true for a server of your own")
	}
	return nil
}

func notEmpty(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	return nil
}

func address(s string) error {
	if s == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not an address (want host:port; port 0 for any, an empty text for off)", s)
	}
	return nil
}

func brokers(list []string) error {
	for _, b := range list {
		if b == "" || address(b) != nil {
			return fmt.Errorf("%q is not an address (want host:port)", b)
		}
	}
	return nil
}

// serverURL never quotes the URL: it may hold a password.
func serverURL(u URL, schemes ...string) error {
	text := u.Reveal()
	if text == "" || text == NoClickHouse && slices.Contains(schemes, "clickhouse") {
		return nil
	}
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" || !slices.Contains(schemes, parsed.Scheme) {
		return fmt.Errorf("want %s://user:password@host:port/name", strings.Join(schemes, ":// or "))
	}
	return nil
}

func pair(cert, key string) error {
	if (cert == "") != (key == "") {
		return errors.New("a client certificate needs both cert_file and key_file")
	}
	return nil
}

func oneOf(s string, allowed ...string) error {
	if slices.Contains(allowed, s) {
		return nil
	}
	return fmt.Errorf("%q is not one of: %s", s, strings.Join(slices.DeleteFunc(allowed, func(a string) bool { return a == "" }), ", "))
}

func match(form *regexp.Regexp, s string) error {
	if !form.MatchString(s) {
		return fmt.Errorf("%q does not match %s", s, form)
	}
	return nil
}

func within(n, low, high int) error {
	if n < low || n > high {
		return fmt.Errorf("%d is not between %d and %d", n, low, high)
	}
	return nil
}

func atLeast[T interface {
	~int64
	fmt.Stringer
}](v, low T) error {
	if v < low {
		return fmt.Errorf("%s is less than %s", v, low)
	}
	return nil
}

// pageURL takes a page that a customer may open, or none.
func pageURL(text string) error {
	u, err := url.Parse(strings.ReplaceAll(text, "{customer}", "c"))
	if text != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		return errors.New("want a URL such as https://platform.example/topup?customer={customer}")
	}
	return nil
}

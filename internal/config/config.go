// Package config is everything an operator can set. One value of Config comes
// from four layers, each over the one before: the defaults, a YAML file, the
// environment (WEIR_LISTEN_DATA) and flags (--listen.data). A key that does
// not exist is an error that names it, in every layer.
package config

import (
	"bytes"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

// Files that a serving process keeps in its data directory for clients on the
// same machine.
const (
	TokenFile = "admin-token" // the control plane's token, if it was not configured
	RunFile   = "run.json"    // where the process listens
)

// Config is the effective configuration. Its yaml tags are the keys.
type Config struct {
	DataDir        string              `yaml:"data_dir"` // locked while a process serves on it
	Listen         Listen              `yaml:"listen"`
	Ledger         Ledger              `yaml:"ledger"`
	Kafka          Kafka               `yaml:"kafka"`
	ClickHouse     ClickHouse          `yaml:"clickhouse"`
	Providers      map[string]Provider `yaml:"providers"` // by the first segment of the request path
	Rates          []string            `yaml:"rates"`     // rate card files, in order
	Reserve        Reserve             `yaml:"reserve"`
	Disconnect     Disconnect          `yaml:"disconnect"`
	UnpricedModels string              `yaml:"unpriced_models"` // refuse
	TopUpURL       string              `yaml:"top_up_url"`      // told to who lacks money; {customer} in it is the customer's id
	Spool          Spool               `yaml:"spool"`
	Keys           Keys                `yaml:"keys"`
	Admin          Admin               `yaml:"admin"`
	Stripe         Stripe              `yaml:"stripe"`
	Webhooks       Webhooks            `yaml:"webhooks"`
}

// Listen holds host:port addresses; port 0 is any, "" is off.
type Listen struct {
	Data       string `yaml:"data"`
	Control    string `yaml:"control"`
	ClickHouse string `yaml:"clickhouse"`
}

// Ledger names the database of the books: "" is SQLite in the data directory,
// postgres://… CockroachDB or PostgreSQL.
type Ledger struct {
	URL URL `yaml:"url"`
}

// Kafka names the usage log; no brokers is the embedded one.
type Kafka struct {
	Brokers    []string `yaml:"brokers"`
	Topic      string   `yaml:"topic"`
	Partitions int      `yaml:"partitions"` // 0: 4 embedded, 24 else
	TLS        TLS      `yaml:"tls"`
	SASL       SASL     `yaml:"sasl"`
}

// TLS is how brokers are reached; files are PEM, "" is the system's roots.
type TLS struct {
	Enabled  bool   `yaml:"enabled"`
	CAFile   string `yaml:"ca_file"`
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// SASL is who we are to the brokers; mechanism "" is nobody, else plain,
// scram-sha-256 or scram-sha-512.
type SASL struct {
	Mechanism string `yaml:"mechanism"`
	Username  string `yaml:"username"`
	Password  Secret `yaml:"password"`
}

// ClickHouse names the columnar store: "" is embedded, "none" no store,
// clickhouse://… or http(s)://… a server.
type ClickHouse struct {
	URL        URL    `yaml:"url"`
	Library    string `yaml:"library"`    // path of libchdb; "" looks in the usual places
	Unconfined bool   `yaml:"unconfined"` // serve SQL although the kernel cannot confine the engine
	Cluster    string `yaml:"cluster"`    // of a server, over which migrate makes replicated tables; "" is one server
	KeepRaw    Days   `yaml:"keep_raw"`   // how long single events are kept; sums are kept for ever
}

// NoClickHouse is the clickhouse.url that runs without a columnar store.
const NoClickHouse = "none"

// Provider is one upstream: its URL is BaseURL + the request path without the
// first segment.
type Provider struct {
	Kind         string `yaml:"kind"` // openai, anthropic
	BaseURL      string `yaml:"base_url"`
	APIKey       Secret `yaml:"api_key"`
	CAFile       string `yaml:"ca_file"`
	AllowPrivate bool   `yaml:"allow_private"` // plain http, loopback and private addresses
	StreamUsage  bool   `yaml:"stream_usage"`  // ask for usage in streams whose client did not
}

// Reserve bounds reservations and the leases they come from.
type Reserve struct {
	MaxRequest    time.Duration `yaml:"max_request"` // longest upstream call
	LeaseTTL      time.Duration `yaml:"lease_ttl"`
	LeaseIdle     time.Duration `yaml:"lease_idle"` // an unused lease is returned after it
	RecoveryGrace time.Duration `yaml:"recovery_grace"`
	MissingMax    string        `yaml:"missing_max"` // fit, model, refuse
}

// Disconnect says what happens upstream when a client leaves.
type Disconnect struct {
	Policy string        `yaml:"policy"` // drain, abort
	Max    time.Duration `yaml:"max"`
}

// Spool bounds the local usage spool.
type Spool struct {
	MaxBytes Bytes `yaml:"max_bytes"`
}

// Keys holds what API keys are hashed with; "" is made at first start.
type Keys struct {
	Pepper Secret `yaml:"pepper"`
}

// Admin holds the control plane's token; "" is made at first start.
type Admin struct {
	Token Secret `yaml:"token"`
}

// Stripe is the payment account; no secret key is none.
type Stripe struct {
	SecretKey             Secret `yaml:"secret_key"`
	WebhookSecret         Secret `yaml:"webhook_secret"`
	WebhookSecretPrevious Secret `yaml:"webhook_secret_previous"` // also good, while the endpoint's secret is replaced
	APIBase               string `yaml:"api_base"`                // "" is Stripe itself
}

// Webhooks are the platform's endpoints that weir tells of events.
type Webhooks struct {
	AllowPrivate bool `yaml:"allow_private"` // plain http, loopback and private addresses
}

// Default is the configuration of a process that was told nothing. The
// providers' keys are references, resolved by Load.
func Default() Config {
	return Config{
		DataDir: "./weir-data",
		Listen:  Listen{Data: "127.0.0.1:8080", Control: "127.0.0.1:8081", ClickHouse: "127.0.0.1:8123"},
		Kafka:   Kafka{Topic: "weir.usage.v1"},
		Providers: map[string]Provider{
			"openai": {Kind: "openai", BaseURL: "https://api.openai.com",
				APIKey: NewSecret("${OPENAI_API_KEY}"), StreamUsage: true},
			"anthropic": {Kind: "anthropic", BaseURL: "https://api.anthropic.com",
				APIKey: NewSecret("${ANTHROPIC_API_KEY}"), StreamUsage: true},
		},
		Reserve: Reserve{MaxRequest: 15 * time.Minute, LeaseTTL: 10 * time.Minute, LeaseIdle: 30 * time.Second,
			RecoveryGrace: 30 * time.Minute, MissingMax: "fit"},
		ClickHouse:     ClickHouse{KeepRaw: 400},
		Disconnect:     Disconnect{Policy: "drain", Max: time.Minute},
		UnpricedModels: "refuse",
		Spool:          Spool{MaxBytes: 4 << 30},
	}
}

// Redacted is the effective configuration as YAML, every secret shown as ***.
func (c Config) Redacted() ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("cannot print the configuration: %w", err)
	}
	return out.Bytes(), nil
}

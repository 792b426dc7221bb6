package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// documented is the whole file as the contract with operators prints it.
const documented = `
data_dir: ./weir-data
listen: {data: 127.0.0.1:8080, control: 127.0.0.1:8081, clickhouse: 127.0.0.1:8123}
ledger: {url: ""}
kafka: {brokers: [], topic: weir.usage.v1, partitions: 0, tls: {}, sasl: {}}
clickhouse: {url: "", library: "", unconfined: false}
providers:
  openai:    {kind: openai,    base_url: "https://api.openai.com",    api_key: "${OPENAI_API_KEY}", ca_file: "", allow_private: false}
  anthropic: {kind: anthropic, base_url: "https://api.anthropic.com", api_key: "${ANTHROPIC_API_KEY}"}
rates: []
reserve: {max_request: 15m, lease_ttl: 10m, lease_idle: 30s, recovery_grace: 30m, missing_max: fit}
disconnect: {policy: drain, max: 60s}
unpriced_models: refuse
top_up_url: ""
spool: {max_bytes: 4GiB}
keys: {pepper: ""}
admin: {token: ""}
stripe: {secret_key: "", webhook_secret: "", api_base: ""}
webhooks: {allow_private: false}
`

func TestDocumentedFileIsTheDefault(t *testing.T) {
	env := []string{"OPENAI_API_KEY=sk-one"}
	got, err := Load(nil, env, write(t, documented))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	want, err := Load(nil, env, "")
	if err != nil {
		t.Fatal(err)
	}
	got.Kafka.Brokers, got.Rates = nil, nil // [] and nothing are the same
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the documented file gives\n%+v\nno file gives\n%+v", got, want)
	}
	if got.Providers["openai"].APIKey.Reveal() != "sk-one" || got.Providers["anthropic"].APIKey.Reveal() != "" {
		t.Error("provider keys come from the environment, an unset one is empty")
	}
	if got.Reserve.MaxRequest != 15*time.Minute || got.Spool.MaxBytes != 4<<30 || !got.Providers["openai"].StreamUsage {
		t.Errorf("%+v", got)
	}
}

func TestLayers(t *testing.T) {
	file := write(t, `
data_dir: /from/file
listen: {data: "127.0.0.1:1", control: "127.0.0.1:1"}
providers:
  openai: {api_key: from-file}
  my-own: {kind: openai, base_url: "http://127.0.0.1:9/v1", allow_private: true, stream_usage: false}
kafka: {brokers: [a:1, "b:2"], sasl: {mechanism: plain, username: "${WHO}", password: "x${WHO}y"}}
`)
	env := []string{"WHO=me", "WEIR_LISTEN_DATA=127.0.0.1:2", "WEIR_LISTEN_CONTROL=127.0.0.1:2", "WEIR_SPOOL_MAX_BYTES=2MiB",
		"WEIR_PROVIDERS_OPENAI_API_KEY=from-env${WHO}", "WEIR_PROVIDERS_MY_OWN_API_KEY=own", "WEIR_RATES=a.yaml,b.yaml",
		"WEIR_PROVIDERS_NEW_KIND=anthropic", "WEIR_PROVIDERS_NEW_BASE_URL=https://new.example",
		"WEIR_TEST_ANYTHING=1", "WEIR_REQUIRE=chdb", "WEIR_BENCH_N=1", "WEIR_SERVICE_HOST=10.0.0.1", "WEIR_PORT=tcp://10.0.0.1:80",
		"WEIR_PORT_8080_TCP_ADDR=10.0.0.1", "WEIR_GATEWAY_SERVICE_PORT_DATA=8080", "PATH=/bin"}
	args := []string{"--listen.control", "127.0.0.1:3", "--clickhouse.unconfined", "--clickhouse.keep_raw=90d", "--reserve.missing_max=model",
		"--providers.my-own.ca_file", "ca.pem", "--kafka.tls.enabled", "true"}
	c, err := Load(args, env, file)
	if err != nil {
		t.Fatal(err)
	}
	own := c.Providers["my-own"]
	for what, pair := range map[string][2]any{
		"file":               {c.DataDir, "/from/file"},
		"env over file":      {c.Listen.Data, "127.0.0.1:2"},
		"flag over env":      {c.Listen.Control, "127.0.0.1:3"},
		"untouched":          {c.Listen.ClickHouse, "127.0.0.1:8123"},
		"size":               {c.Spool.MaxBytes, Bytes(2 << 20)},
		"list":               {strings.Join(c.Rates, " "), "a.yaml b.yaml"},
		"sequence":           {strings.Join(c.Kafka.Brokers, " "), "a:1 b:2"},
		"expanded":           {c.Kafka.SASL.Password.Reveal(), "xmey"},
		"switch":             {c.ClickHouse.Unconfined, true},
		"days":               {c.ClickHouse.KeepRaw.Duration(), 90 * 24 * time.Hour},
		"switch with value":  {c.Kafka.TLS.Enabled, true},
		"env not expanded":   {c.Providers["openai"].APIKey.Reveal(), "from-env${WHO}"},
		"merged by provider": {c.Providers["openai"].BaseURL, "https://api.openai.com"},
		"dash in env":        {own.APIKey.Reveal(), "own"},
		"dash in flag":       {own.CAFile, "ca.pem"},
		"stream_usage":       {own.StreamUsage, false},
		"provider by env":    {c.Providers["new"].BaseURL, "https://new.example"},
		"provider default":   {c.Providers["new"].StreamUsage, true},
		"flag":               {c.Reserve.MissingMax, "model"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", what, pair[0], pair[1])
		}
	}
}

// TestEveryKeyHasItsOwnVariable guards the mapping from variables to keys: two
// keys with one variable could not both be set.
func TestEveryKeyHasItsOwnVariable(t *testing.T) {
	seen := map[string][]string{}
	for _, path := range leaves(reflect.TypeFor[Config]()) {
		name := envName(path)
		if other := seen[name]; other != nil {
			t.Errorf("%s is both %v and %v", name, path, other)
		}
		if notConfiguration.MatchString(name) {
			t.Errorf("%s of %v is taken for a stranger's", name, path)
		}
		seen[name] = path
	}
	if len(seen) < 30 {
		t.Errorf("only %d keys", len(seen))
	}
}

func TestErrors(t *testing.T) {
	f := func(file, env, args, want string) {
		t.Helper()
		name := write(t, file)
		_, err := Load(strings.Fields(args), strings.Fields(env), name)
		if err == nil {
			t.Errorf("no error, want %q", want)
			return
		}
		got := strings.ReplaceAll(err.Error(), name, "weir.yaml")
		if !strings.Contains(got, want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	// What does not exist.
	f("data_dir: x\nlisten:\n  dta: y\n", "", "", `weir.yaml:3: unknown key "listen.dta" (known: data, control, clickhouse)`)
	f("providers: {openai: {key: x}}", "", "", `unknown key "providers.openai.key"`)
	f("", "WEIR_LISTEN_DTA=1", "", "environment variable WEIR_LISTEN_DTA: there is no such configuration key")
	f("", "WEIR_LISTEN=1", "", "environment variable WEIR_LISTEN: there is no such")
	f("", "WEIR_PROVIDERS_OPENAI_KEY=1", "", "environment variable WEIR_PROVIDERS_OPENAI_KEY: there is no such")
	f("", "", "--listen.dta=1", "unknown flag --listen.dta")
	f("", "", "--listen=1", "unknown flag --listen")
	f("", "", "--providers.openai=1", "unknown flag --providers.openai")
	f("", "", "--providers=1", "unknown flag --providers")
	f("", "", "stray", `unexpected argument "stray"`)
	f("", "", "--data_dir", "flag --data_dir: the value is missing")
	// What has the wrong form.
	f("data_dir: a\ndata_dir: b\n", "", "", `weir.yaml:2: key "data_dir" is there twice`)
	f("a: [", "", "", "weir.yaml: yaml: ")
	f("data_dir: a\n---\ndata_dir: b\n", "", "", "more than one document")
	f("listen: 8080", "", "", "weir.yaml:1: listen: want keys and values (data, control, clickhouse)")
	f("listen: {data: [a]}", "", "", "listen.data: want a single value")
	f("reserve: {max_request: 15}", "", "", `weir.yaml:1: reserve.max_request: "15" is not a duration`)
	f("", "WEIR_SPOOL_MAX_BYTES=4Gb", "", `environment variable WEIR_SPOOL_MAX_BYTES: spool.max_bytes: "4Gb" is not a size`)
	f("", "", "--clickhouse.unconfined=yes", `flag --clickhouse.unconfined: clickhouse.unconfined: "yes" is neither true nor false`)
	f("kafka: {partitions: many}", "", "", `"many" is not a whole number`)
	f("data_dir: '${NOT_SET}'", "", "", "weir.yaml:1: data_dir: the environment variable NOT_SET is not set")
	f("data_dir: '${broken'", "", "", "after ${ must come a variable's name and }")
	// What cannot work.
	f("data_dir: ''", "", "", "weir.yaml:1: data_dir: is empty")
	f("\nlisten: {data: 8080}", "", "", `weir.yaml:2: listen.data: "8080" is not an address`)
	f("listen: {data: 'localhost:99999'}", "", "", `"localhost:99999" is not an address`)
	f("ledger: {url: 'mysql://u:hush@h/db'}", "", "", "weir.yaml:1: ledger.url: want postgres:// or postgresql://")
	f("ledger: {url: none}", "", "", "ledger.url: want postgres://")
	f("clickhouse: {url: 'tcp://h'}", "", "", "clickhouse.url: want clickhouse:// or http:// or https://")
	f("clickhouse: {keep_raw: 9600h}", "", "", `"9600h" is not a number of days`)
	f("clickhouse: {keep_raw: 61d}", "", "", "clickhouse.keep_raw: 61 is not between 62 and")
	f("clickhouse: {cluster: 'a b'}", "", "", "clickhouse.cluster")
	f("kafka: {brokers: [hostonly]}", "", "", `kafka.brokers: "hostonly" is not an address`)
	f("kafka: {topic: 'a b'}", "", "", "kafka.topic")
	f("kafka: {partitions: -1}", "", "", "kafka.partitions: -1 is not between")
	f("kafka: {tls: {cert_file: a}}", "", "", "needs both cert_file and key_file")
	f("kafka: {sasl: {mechanism: gssapi}}", "", "", "is not one of: plain, scram-sha-256, scram-sha-512")
	f("kafka: {sasl: {mechanism: plain}}", "", "", "kafka.sasl.username: mechanism and username belong together")
	f("reserve: {lease_ttl: 1s}", "", "", "reserve.lease_ttl: 1s is less than 4s")
	f("reserve: {missing_max: guess}", "", "", `"guess" is not one of: fit, model, refuse`)
	f("disconnect: {policy: wait}", "", "", "is not one of: drain, abort")
	f("unpriced_models: '0.50'", "", "", "unpriced_models")
	f("top_up_url: 'javascript:alert(1)'", "", "", "weir.yaml:1: top_up_url: want a URL such as https://")
	f("top_up_url: 'https://'", "", "", "top_up_url: want a URL")
	f("top_up_url: '//pay.example/{customer}'", "", "", "top_up_url: want a URL")
	f("spool: {max_bytes: 1kB}", "", "", "spool.max_bytes: 1000 is less than 1MiB")
	f("providers:\n  Open: {kind: openai, base_url: 'https://x'}", "", "", `weir.yaml:2: providers.Open: "Open" does not match`)
	f("providers:\n  azure: {base_url: 'https://x'}", "", "", `weir.yaml:2: providers.azure.kind: "" is not one of: openai, anthropic`)
	f("providers: {openai: {base_url: 'ftp://x'}}", "", "", "want a URL such as https://")
	f("providers: {openai: {base_url: 'http://x'}}", "", "", "plain http would send the key in clear text")
	f("providers: {openai: {base_url: 'https://u:hush@x'}}", "", "", "want no user, query or fragment")
	f("stripe: {secret_key: sk_test}", "", "", "stripe.webhook_secret: is empty")
	f("stripe: {secret_key: sk_test, webhook_secret: ' '}", "", "", "stripe.webhook_secret: is empty")
	f("stripe: {webhook_secret_previous: whsec_1}", "", "", "stripe.webhook_secret: is empty")
	f("stripe: {webhook_secret: whsec_1}", "", "", "stripe.secret_key: is empty")
	f("stripe: {api_base: 'stripe.example'}", "", "", "stripe.api_base: want a URL")
	f("stripe: {api_base: 'https://u:hush@stripe.example'}", "", "", "stripe.api_base: want a URL")
	f("stripe: {api_base: 'http://stripe.example'}", "", "", "stripe.api_base: plain http would send")
}

func TestMissingFile(t *testing.T) {
	if _, err := Load(nil, nil, filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a named file that is missing: %v", err)
	}
	t.Chdir(t.TempDir())
	os.WriteFile(DefaultFile, []byte("data_dir: found"), 0o600)
	if c, err := Load(nil, nil, ""); err != nil || c.DataDir != "found" {
		t.Errorf("./weir.yaml: %q, %v", c.DataDir, err)
	}
}

func TestRoles(t *testing.T) {
	const ledger, kafka, token, store = "--ledger.url=postgres://h/d ", "--kafka.brokers=k:9 ", "--admin.token=t ", "--clickhouse.url=clickhouse://h/weir "
	f := func(role, args, missing string) {
		t.Helper()
		c, err := Load(strings.Fields(args), nil, "")
		if err != nil {
			t.Fatal(err)
		}
		err = c.CheckRole(role)
		if missing == "" && err != nil || missing != "" && (err == nil || !strings.Contains(err.Error(), missing)) {
			t.Errorf("%s with %q: %v, want %q", role, args, err, missing)
		}
	}
	t.Chdir(t.TempDir())
	f("all", "", "")
	f("gateway", kafka+token, "ledger.url")
	f("gateway", ledger+token, "kafka.brokers")
	f("gateway", ledger+kafka, "admin.token")
	f("gateway", ledger+kafka+token, "")
	f("processor", ledger+kafka+token, "clickhouse.url")
	f("analytics", ledger+kafka+token, "clickhouse.url")
	f("analytics", ledger+kafka+token+store, "")
	f("processor", ledger+kafka+token+"--clickhouse.url=none", "")
	f("worker", "", "is not one of: all, gateway, processor, analytics")
}

func TestSecretsNeverPrint(t *testing.T) {
	c := Default()
	c.Ledger.URL = NewURL("postgres://weir:hush-1@db:5432/weir?sslmode=verify-full&sslpassword=hush-2")
	c.ClickHouse.URL = NewURL("clickhouse://:hush-3@ch:9000/weir")
	c.Admin.Token, c.Keys.Pepper, c.Kafka.SASL.Password = NewSecret("hush-4"), NewSecret("hush-5"), NewSecret("hush-6")
	c.Stripe = Stripe{SecretKey: NewSecret("hush-7"), WebhookSecret: NewSecret("hush-8"), WebhookSecretPrevious: NewSecret("hush-10")}
	c.Providers["openai"] = Provider{APIKey: NewSecret("hush-9")}
	yamlText, err := c.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	jsonText, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "config", c, "token", c.Admin.Token)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "config", c, "url", c.Ledger.URL)
	for _, out := range []string{string(yamlText), string(jsonText), log.String(), fmt.Sprintf("%v %+v %#v", c, c, c),
		fmt.Sprintf("%s %q %x %d", c.Admin.Token, c.Admin.Token, c.Admin.Token, c.Ledger.URL), fmt.Sprint(&c.Admin), fmt.Errorf("%w %v", err, c.Stripe).Error()} {
		if strings.Contains(out, "hush") || strings.Contains(out, "68757368") {
			t.Errorf("a secret in %s", out)
		}
	}
	for _, want := range []string{"postgres://weir:***@db:5432/weir?sslmode=verify-full&sslpassword=***", "clickhouse://:***@ch:9000/weir",
		"token: '***'", "pepper: '***'", "data: 127.0.0.1:8080", "max_request: 15m0s", "max_bytes: 4GiB"} {
		if !strings.Contains(string(yamlText), want) {
			t.Errorf("%s\nlacks %s", yamlText, want)
		}
	}
	if strings.Contains(NewURL("postgres://h/%zz?password=hush").String()+NewURL("host=h password=hush").String(), "hush") {
		t.Error("a URL that cannot be read shows its password")
	}
}

// TestRedactedReadsBack: what config check prints is a valid file.
func TestRedactedReadsBack(t *testing.T) {
	t.Chdir(t.TempDir())
	want, err := Load([]string{"--kafka.brokers=a:1,b:2", "--rates=r.yaml", "--listen.clickhouse="}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	text, err := want.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(nil, nil, write(t, string(text)))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\n%+v", err, got, want)
	}
}

func TestFind(t *testing.T) {
	file := write(t, "data_dir: /srv/weir\nledger: {url: '${ONLY_ON_THE_SERVER}'}\nadmin: {token: 'from-${FILE}'}\n")
	f := func(env, dir, token string) {
		t.Helper()
		gotDir, gotToken, err := Find(strings.Fields(env), file)
		if err != nil || gotDir != dir || gotToken.Reveal() != token {
			t.Errorf("%s: %q, %q, %v", env, gotDir, gotToken.Reveal(), err)
		}
	}
	f("FILE=file", "/srv/weir", "from-file")
	f("WEIR_DATA_DIR=/other WEIR_ADMIN_TOKEN=mine", "/other", "mine")
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "1": 1, "1B": 1, "4GiB": 4 << 30, "512 MiB": 512 << 20, "2GB": 2e9, "3kB": 3000, "1TiB": 1 << 40} {
		var b Bytes
		if err := yaml.Unmarshal([]byte(text), &b); err != nil || b != want {
			t.Errorf("%s: %d, %v", text, b, err)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%s prints as %s", text, b)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1.5GiB", "4gib", "1 2", "9999999TiB", "1e3"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, b)
		}
	}
}

package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weir/internal/app"
	"weir/internal/config"
	"weir/internal/standin"
)

const (
	// The stand-in answers this late and streams with this pause, so that latencies in the
	// reports are not all zero.
	standinLatency  = 5 * time.Millisecond
	standinInterval = 200 * time.Microsecond
	// providerKey is what the stand-in wants to see; customers never have it.
	providerKey = "demo-provider-key"
)

// start brings the stand-in and weir up.
func (d *demo) start(ctx context.Context) (err error) {
	if d.log, err = os.OpenFile(d.path("weir.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return fmt.Errorf("cannot open the demo's log: %w", err)
	}
	log := slog.New(slog.NewJSONHandler(d.log, nil))
	d.standin, err = standin.New(standin.Options{LogPath: d.path("standin.log"), Latency: standinLatency, TokenInterval: standinInterval,
		Seed: d.Seed, Key: providerKey, Log: log})
	if err != nil {
		return err
	}
	upstream, err := d.standin.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	if d.stripe, err = startStripe(d.Month); err != nil {
		return err
	}
	cfg, err := d.configure(upstream)
	if err != nil {
		return err
	}
	weirCtx, stop := context.WithCancel(context.WithoutCancel(ctx)) // weir outlives ctx by its orderly stop
	d.stop, d.ended = stop, make(chan struct{})
	ready := make(chan app.Addresses, 1)
	go func() {
		defer close(d.ended)
		d.weirErr = app.New(cfg, config.RoleAll, log).Run(weirCtx, func(a app.Addresses) { ready <- a })
	}()
	select {
	case d.at = <-ready:
		d.stripe.SetWebhook("http://"+d.at.Control+"/webhooks/stripe", webhookSecret, "")
	case <-d.ended:
		return errors.New("weir did not start") // close tells why
	case <-ctx.Done():
		return errInterrupted
	}
	return d.open()
}

// configure writes a configuration as an operator would and reads it back.
func (d *demo) configure(upstream string) (config.Config, error) {
	listen := config.Default().Listen
	text := fmt.Sprintf(`data_dir: %q
listen: {data: %q, control: %q, clickhouse: %q}
clickhouse: {library: %q}
providers:
  openai: {kind: openai, base_url: "http://%[6]s", api_key: %[7]q, allow_private: true}
  anthropic: {kind: anthropic, base_url: "http://%[6]s", api_key: %[7]q, allow_private: true}
rates: [%[8]q]
reserve: {lease_idle: 2s}
stripe: {secret_key: %[9]q, webhook_secret: %[10]q, api_base: %[11]q}
`, d.dataDir(), free(listen.Data), free(listen.Control), free(listen.ClickHouse), d.Library, upstream, providerKey, d.path("rates.yaml"),
		stripeKey, webhookSecret, d.stripe.url)
	for name, content := range map[string]string{"rates.yaml": string(cardText), "weir.yaml": text} {
		if err := os.WriteFile(d.path(name), []byte(content), 0o600); err != nil {
			return config.Config{}, fmt.Errorf("cannot write the demo's configuration: %w", err)
		}
	}
	return config.Load(nil, nil, d.path("weir.yaml"))
}

// free is the address if nobody listens there, else one of any port.
func free(address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		host, _, _ := net.SplitHostPort(address) // a default of weir, well formed
		return net.JoinHostPort(host, "0")
	}
	_ = l.Close() // nothing was accepted
	return address
}

// open finds the way into the books, and whether there is SQL.
func (d *demo) open() error {
	token, err := os.ReadFile(filepath.Join(d.dataDir(), "admin-token"))
	if err != nil {
		return fmt.Errorf("cannot read the admin token: %w", err)
	}
	d.books = books{control: "http://" + d.at.Control, token: strings.TrimSpace(string(token))}
	if d.at.ClickHouse != "" {
		d.books.sql = "http://" + d.at.ClickHouse
	}
	return nil
}

// close stops everything that was started, in reverse, and removes the directory, unless it can
// show why the run failed.
func (d *demo) close(failed error) error {
	var errs []error
	if d.stop != nil {
		d.stop()
		<-d.ended
		errs = append(errs, d.weirErr)
	}
	if d.stripe != nil {
		errs = append(errs, d.stripe.close())
	}
	if d.standin != nil {
		errs = append(errs, d.standin.Close())
	}
	if d.log != nil {
		errs = append(errs, d.log.Close())
	}
	err := errors.Join(errs...)
	if failed = errors.Join(failed, err); failed != nil && !errors.Is(failed, ErrIncomplete) && !errors.Is(failed, errInterrupted) {
		d.printf("\nkept for a look: %s\n", d.dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

package boundtest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/gateway"
	"weir/internal/apikey"
	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/internal/standin"
	"weir/internal/stream"
	"weir/schemas/money"
	"weir/schemas/ratecard"
)

const (
	// rules of the test's card: a markup that does not divide evenly and a fee,
	// so that rounding and fees are in what is compared.
	rules = "rules: [{multiplier: \"1.2345\", fee: \"0.000001\"}]\n"
	// credit is more than all requests of a run reserve together, so that no
	// wallet refuses one or shortens its output limit.
	credit = 100_000 * money.Dollar
	// stopMax bounds the stop of the gateway.
	stopMax = 10 * time.Second
)

// front is a real gateway over HTTP, with a real ledger and spool, and the
// stand-in as its providers.
type front struct {
	url, key string
	card     *ratecard.Card
	client   *http.Client
}

func newFront(t testing.TB) *front {
	t.Helper()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	upstream, err := standin.New(standin.Options{Key: "provider-key", Log: log})
	must(t, err)
	address, err := upstream.Listen("127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { upstream.Close() })
	db, err := ledger.Open(t.Context(), ledger.Config{Dir: dir})
	must(t, err)
	t.Cleanup(func() { db.Close() })
	file := filepath.Join(dir, "card.yaml")
	must(t, os.WriteFile(file, []byte(rules), 0o600))
	_, err = cards.PublishFiles(t.Context(), db, []string{file})
	must(t, err)
	spool, err := stream.OpenSpool(stream.SpoolConfig{Dir: filepath.Join(dir, "spool"), MaxBytes: 1 << 30, Log: log})
	must(t, err)
	t.Cleanup(func() { spool.Close() })

	o := gateway.Options{ID: "gw", Ledger: db, Spool: spool, Cards: cards.New(db), Pepper: []byte("pepper"), LeaseTTL: 10 * time.Minute,
		LeaseIdle: time.Minute, MaxRequest: time.Minute, MissingMax: "fit", Log: log, Metrics: gateway.NewMetrics(prometheus.NewRegistry())}
	for _, kind := range []string{"openai", "anthropic"} {
		o.Upstreams = append(o.Upstreams, gateway.Upstream{Name: kind, Kind: kind, BaseURL: "http://" + address, Key: "provider-key", AllowPrivate: true})
	}
	g, err := gateway.New(o)
	must(t, err)
	_, err = db.StartSession(t.Context(), ledger.Session{ID: "session", Gateway: o.ID, TTL: o.LeaseTTL})
	must(t, err)
	must(t, g.NewHeart(gateway.Session{ID: "session", TTL: o.LeaseTTL}, "topic").Beat(t.Context()))

	f := &front{key: newCustomer(t, db, o.Pepper), card: o.Cards.Current(time.Now())}
	f.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	f.url = serve(t, g, f.client)
	return f
}

// serve lets a gateway listen until the test ends.
func serve(t testing.TB, g *gateway.Gateway, client *http.Client) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	serving := make(chan error, 1)
	go func() { serving <- g.Serve(l) }()
	t.Cleanup(func() {
		client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), stopMax)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		g.Book.Stop(ctx)
		if err := <-serving; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// newCustomer makes a customer with credit and returns a key.
func newCustomer(t testing.TB, db *ledger.DB, pepper []byte) string {
	t.Helper()
	text, id := apikey.Make()
	hash := apikey.Hash(pepper, text)
	must(t, db.Tx(t.Context(), func(tx *ledger.Tx) error {
		if _, err := tx.CreateCustomer(t.Context(), ledger.Customer{ID: "acme"}); err != nil {
			return err
		}
		if _, _, err := tx.Credit(t.Context(), ledger.Credit{Customer: "acme", Amount: credit}); err != nil {
			return err
		}
		return tx.CreateKey(t.Context(), ledger.Key{ID: id, Customer: "acme", Name: "test", Prefix: apikey.Prefix(id), Hash: hash[:]})
	}))
	return text
}

// admitted is what the gateway told of a request that it served.
type admitted struct {
	reserved money.Nano
	limit    int // the output limit that it put in, 0 if the request had one
}

// post sends a request. What is not served is an error: it says nothing about
// the bound.
func (f *front) post(ctx context.Context, path, body, features string) (admitted, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+path, strings.NewReader(body))
	if err != nil {
		return admitted{}, err
	}
	req.Header.Set("Authorization", "Bearer "+f.key)
	if features != "" {
		req.Header.Set("Anthropic-Beta", features)
	}
	answer, err := f.client.Do(req)
	if err != nil {
		return admitted{}, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return admitted{}, fmt.Errorf("answered %d %.200s: %w", answer.StatusCode, text, err)
	}
	var a admitted
	if a.reserved, err = money.ParseNano(answer.Header.Get("X-Weir-Reserved")); err != nil {
		return a, err
	}
	if text := answer.Header.Get("X-Weir-Max-Tokens"); text != "" {
		a.limit, err = strconv.Atoi(text)
	}
	return a, err
}

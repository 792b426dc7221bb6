package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"weir/internal/egress"
	"weir/internal/ledger"
)

const (
	// sendTimeout is how long a receiver may take; Standard Webhooks asks for 15
	// to 30 seconds.
	sendTimeout = 15 * time.Second
	// answerBytesMax is read of an answer, so that its connection can be used again.
	answerBytesMax = 4 << 10
	// answerHeaderMax takes the headers of any web server, cookies and policies
	// included.
	answerHeaderMax = 64 << 10
	// idleTimeout is shorter than most servers keep an unused connection.
	idleTimeout = 30 * time.Second
)

// newClient connects to what the name of a URL resolved to, by no proxy, and
// follows no redirect: both could lead into the operator's network.
func newClient(allowPrivate bool) *http.Client {
	dialer := &net.Dialer{}
	if !allowPrivate {
		dialer.Control = egress.Public
	}
	return &http.Client{Timeout: sendTimeout,
		Transport: &http.Transport{DialContext: dialer.DialContext, IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: answerHeaderMax,
			DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// message is what an endpoint gets. Customer is the one that the event is
// about; Data is of the type that the ledger documents beside the event's.
type message struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Customer  string    `json:"customer,omitempty"`
	Data      any       `json:"data"`
}

// send delivers one event once. status is 0 without an answer; whatever is no
// 2xx is an error.
func (n *Notifier) send(ctx context.Context, to ledger.Endpoint, e ledger.Event) (status int, err error) {
	body, err := json.Marshal(message{e.Type, e.CreatedAt.UTC(), e.Customer, e.Data})
	if err != nil {
		return 0, fmt.Errorf("cannot encode event %s: %w", e.ID, err)
	}
	secret, err := n.Sealer.Open(to.Secret, to.URL)
	if err != nil {
		return 0, err
	}
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return 0, errors.New("cannot read its secret")
	}
	at := n.Now()
	signature, err := signer.Sign(e.ID, at, body)
	if err != nil {
		return 0, fmt.Errorf("cannot sign event %s: %w", e.ID, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL, bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("its URL cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "weir")
	req.Header.Set(standardwebhooks.HeaderWebhookID, e.ID)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	req.Header["Idempotency-Key"] = nil // unsent; it lets net/http try again on a new connection what an old one did not take
	resp, err := n.client.Do(req)
	if err != nil {
		return 0, whyNot(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, answerBytesMax) // the status has said it all
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp.StatusCode, fmt.Errorf("it answered %d", resp.StatusCode)
	}
	return resp.StatusCode, nil
}

// whyNot says in weir's own words why there was no answer. net/http's words
// quote the URL, whose query may be a secret, and what the receiver sent,
// which may be the request itself.
func whyNot(err error) error {
	var network net.Error
	var name *net.DNSError
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, egress.ErrPrivate):
		return errors.New("its address is not a public one, which needs webhooks.allow_private: true")
	case errors.As(err, &name):
		return errors.New("its name cannot be resolved")
	case errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("it did not answer within %s", sendTimeout)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("it cannot be reached: %w", dial.Err)
	case errors.As(err, &certificate):
		return errors.New("its certificate cannot be verified")
	}
	return errors.New("it broke the connection off, or gave no HTTP answer")
}

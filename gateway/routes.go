package gateway

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"weir/gateway/provider"
	"weir/gateway/provider/anthropic"
	"weir/gateway/provider/openai"
	"weir/internal/egress"
)

const (
	// dialTimeout bounds connecting to a provider: past it the request has
	// certainly not been served.
	dialTimeout = 10 * time.Second
	// upstreamIdleConns are kept open per provider: about one per request in
	// flight on a busy machine.
	upstreamIdleConns = 1024
	upstreamIdleTime  = 90 * time.Second
	// upstreamBufferBytes holds most requests and answers whole, so that each is
	// one system call.
	upstreamBufferBytes = 16 << 10
	// upstreamHeaderBytes bounds the headers of a provider's answer.
	upstreamHeaderBytes = 64 << 10
)

// route is one path that the data plane answers.
type route struct {
	method   string
	shape    provider.Shape
	api      *provider.API // metered routes
	upstream *upstream
	// generates: the API's answers have output tokens, and its requests a limit
	// of them.
	generates bool
	url       *url.URL // where a metered call goes; never changed
	own       func(*Gateway, *fasthttp.RequestCtx, *call)
	local     func(*Gateway, *fasthttp.RequestCtx) // no key asked for
}

// upstream is a provider with its client.
type upstream struct {
	Upstream
	client  *http.Transport
	headers http.Header // sent with every request; never changed
}

// makeRoutes builds the whole table: exact paths, since no path is rewritten
// and nothing outside it is served.
func makeRoutes(o Options) (map[string]*route, error) {
	routes := map[string]*route{
		"/healthz":       {local: (*Gateway).healthy},
		"/readyz":        {local: (*Gateway).ready},
		"/v1/key":        {method: http.MethodGet, own: (*Gateway).ownKey},
		"/v1/credits":    {method: http.MethodGet, own: (*Gateway).ownCredits},
		"/v1/generation": {method: http.MethodGet, own: (*Gateway).ownGeneration},
	}
	for _, u := range o.Upstreams {
		client, err := newClient(u)
		if err != nil {
			return nil, fmt.Errorf("cannot use provider %s: %w", u.Name, err)
		}
		up := &upstream{u, client, u.ownHeaders()}
		apis, shape, err := apisOf(u.Kind)
		if err != nil {
			return nil, fmt.Errorf("cannot use provider %s: %w", u.Name, err)
		}
		for path, api := range apis {
			target, err := url.Parse(strings.TrimSuffix(u.BaseURL, "/") + path)
			if err != nil {
				return nil, fmt.Errorf("cannot use provider %s: %w", u.Name, err)
			}
			routes["/"+u.Name+path] = &route{method: http.MethodPost, shape: shape, api: api, generates: generates(api), upstream: up, url: target}
		}
		routes["/"+u.Name+"/v1/models"] = &route{method: http.MethodGet, shape: shape, upstream: up, own: (*Gateway).ownModels}
	}
	return routes, nil
}

func generates(api *provider.API) bool {
	return slices.ContainsFunc(api.Request, func(m provider.Member) bool { return m.Rule == provider.Limit })
}

func apisOf(kind string) (map[string]*provider.API, provider.Shape, error) {
	switch kind {
	case "openai":
		return map[string]*provider.API{"/v1/chat/completions": openai.Chat, "/v1/embeddings": openai.Embeddings}, provider.OpenAI, nil
	case "anthropic":
		return map[string]*provider.API{"/v1/messages": anthropic.Messages}, provider.Anthropic, nil
	}
	return nil, 0, fmt.Errorf("kind %q is neither openai nor anthropic", kind)
}

// newClient makes the client of one provider: a bare transport, so no redirects
// and no cookies, no proxy from the environment, and the address checked after
// its name was resolved.
func newClient(u Upstream) (*http.Transport, error) {
	if !strings.HasPrefix(u.BaseURL, "https://") && !(u.AllowPrivate && strings.HasPrefix(u.BaseURL, "http://")) {
		return nil, fmt.Errorf("base_url %q must begin with https:// (http:// needs allow_private: true)", u.BaseURL)
	}
	var roots *x509.CertPool
	if u.CAFile != "" {
		pem, err := os.ReadFile(u.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read ca_file: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s holds no PEM certificate", u.CAFile)
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	if !u.AllowPrivate {
		dialer.Control = egress.Public
	}
	return &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true, DisableCompression: true, MaxIdleConns: upstreamIdleConns, MaxIdleConnsPerHost: upstreamIdleConns,
		IdleConnTimeout: upstreamIdleTime, TLSHandshakeTimeout: dialTimeout, MaxResponseHeaderBytes: upstreamHeaderBytes,
		WriteBufferSize: upstreamBufferBytes, ReadBufferSize: upstreamBufferBytes,
	}, nil
}

// route finds what the path names, or answers for it.
func (g *Gateway) route(ctx *fasthttp.RequestCtx, c *call) *route {
	path := ctx.Request.Header.RequestURI()
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	r := g.routes[string(path)]
	if r == nil {
		c.shape = shapeOf(path)
		g.refuse(ctx, c, &refusal{status: http.StatusNotFound, code: "unmetered_path",
			message: "This path is not metered, so it is not served. See /openai/v1/models and /anthropic/v1/models for what is."})
		return nil
	}
	c.route, c.shape = r, r.shape
	if r.local != nil {
		r.local(g, ctx)
		return nil
	}
	if string(ctx.Method()) != r.method {
		ctx.Response.Header.Set("Allow", r.method)
		g.refuse(ctx, c, &refusal{status: http.StatusMethodNotAllowed, code: "method_not_allowed",
			message: "This path takes " + r.method + " only."})
		return nil
	}
	return r
}

// shapeOf gives errors on unknown paths the shape of the provider that a
// client under that prefix expects.
func shapeOf(path []byte) provider.Shape {
	if bytes.HasPrefix(path, []byte("/anthropic/")) {
		return provider.Anthropic
	}
	return provider.OpenAI
}

package warehouse

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ReaderUser is the only user of the public interface.
const ReaderUser = "weir_reader"

// passwordFile, in the data directory, holds the reader's password. It lies
// outside the engine's directory, so that no SQL can read it.
const passwordFile = "clickhouse-password"

const (
	// maxRequestBytes bounds a statement sent to the public interface.
	maxRequestBytes = 1 << 20
	// serveHeaderTimeout and serveBodyTimeout bound a client that sends slowly.
	serveHeaderTimeout = 5 * time.Second
	serveBodyTimeout   = 10 * time.Second
	// serveAnswerTimeout bounds one that reads slowly, from its header on. It
	// covers waiting for a turn, a statement of 90 s and two minutes to fetch
	// 256 MiB; who takes longer keeps a turn from the others.
	serveAnswerTimeout = 5 * time.Minute
	serveIdleTimeout   = time.Minute
)

// ErrUnconfined refuses Serve where the kernel cannot confine the engine.
var ErrUnconfined = errors.New("the ClickHouse interface stays off: this kernel has no Landlock to confine the engine, " +
	"whose SQL could read and overwrite weir's files; clickhouse.unconfined: true accepts that")

// Serve answers ClickHouse's HTTP interface on l, for reading only, until l is
// closed. The embedded engine's alone: a server has its own. While the engine
// is down it answers 503. Always returns a non-nil error, net.ErrClosed after
// l was closed.
func (d *DB) Serve(l net.Listener) error {
	if err := d.MayServe(); err != nil {
		return err
	}
	password, err := readerPassword(d.child.cfg.DataDir)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           &publicFront{db: d, password: sha256.Sum256([]byte(password)), proxy: d.readerProxy()},
		ReadHeaderTimeout: serveHeaderTimeout,
		WriteTimeout:      serveAnswerTimeout,
		IdleTimeout:       serveIdleTimeout,
		ErrorLog:          slog.NewLogLogger(d.cfg.Log.Handler(), slog.LevelDebug),
	}
	err = server.Serve(l)
	_ = server.Close() // ends what still runs; the listener is closed already
	return fmt.Errorf("the ClickHouse interface ended: %w", err)
}

// MayServe tells why Serve would refuse: there is no embedded engine, or
// ErrUnconfined.
func (d *DB) MayServe() error {
	if d.child == nil {
		return errors.New("the ClickHouse interface is the embedded engine's; a server has its own")
	}
	if !d.child.options.Confine && !d.cfg.Unconfined {
		return ErrUnconfined
	}
	return nil
}

// readerProxy passes requests on to the engine's read-only socket.
func (d *DB) readerProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "engine", "engine"
			query := r.Out.URL.Query()
			for _, secret := range []string{"user", "password"} {
				query.Del(secret)
			}
			if !query.Has("database") && r.Out.Header.Get("X-ClickHouse-Database") == "" { // a newcomer's first SELECT finds the tables without their database's name
				query.Set("database", embeddedDatabase)
			}
			r.Out.URL.RawQuery = query.Encode()
			for _, secret := range []string{"Authorization", "X-ClickHouse-User", "X-ClickHouse-Key", "Cookie"} {
				r.Out.Header.Del(secret)
			}
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", d.child.readerSocket())
			},
			DisableCompression: true,
		},
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(d.cfg.Log.Handler(), slog.LevelDebug),
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { starting(w) },
	}
}

// publicFront decides who may ask; what may be asked is the engine's part.
type publicFront struct {
	db       *DB
	password [sha256.Size]byte
	proxy    http.Handler
}

// ServeHTTP refuses pages of foreign sites before it looks at anything else: a
// browser names the page's site in Origin, and the name it looked up in Host,
// which for a name made to resolve to this machine is not this machine's.
func (p *publicFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Origin") != "":
		deny(w, http.StatusForbidden, 497, "ACCESS_DENIED", "Requests of web pages are refused")
	case !ownHost(r):
		deny(w, http.StatusForbidden, 497, "ACCESS_DENIED", "This host name is not this server's; use its address")
	case !p.db.Up():
		starting(w)
	case r.URL.Path == "/ping":
		_, _ = io.WriteString(w, "Ok.\n") // fails only when the client is gone
	case !p.knows(r):
		w.Header().Set("WWW-Authenticate", `Basic realm="ClickHouse server HTTP API"`)
		deny(w, http.StatusUnauthorized, 516, "AUTHENTICATION_FAILED",
			ReaderUser+": Authentication failed: password is incorrect, or there is no user with such name")
	default:
		if err := readWhole(w, r); err != nil {
			deny(w, http.StatusBadRequest, 62, "SYNTAX_ERROR", "The statement cannot be read: "+err.Error())
			return
		}
		p.proxy.ServeHTTP(w, r)
	}
}

// readWhole replaces the body by what was read of it in time. The server's own
// ReadTimeout would not do: net/http takes its end, while a statement runs,
// for the client's leaving.
func readWhole(w http.ResponseWriter, r *http.Request) error {
	deadline := http.NewResponseController(w)
	if err := deadline.SetReadDeadline(time.Now().Add(serveBodyTimeout)); err != nil {
		return err
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBytes))
	if err != nil {
		return err
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return deadline.SetReadDeadline(time.Time{})
}

// knows checks user and password, at the first place that has a user: basic
// authentication, ClickHouse's headers, the URL.
func (p *publicFront) knows(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	if !ok {
		user, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	}
	if user == "" {
		query := r.URL.Query()
		user, password = query.Get("user"), query.Get("password")
	}
	given := sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(given[:], p.password[:]) == 1 && user == ReaderUser
}

// ownHost tells whether Host is a loopback name or address, or the address at
// which the connection arrived.
func ownHost(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return false
	}
	arrived, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return address.Unmap().IsLoopback() || ok && arrived.AddrPort().Addr().Unmap() == address.Unmap()
}

func starting(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	deny(w, http.StatusServiceUnavailable, 210, "NETWORK_ERROR", "The ClickHouse engine is starting, try again")
}

// deny answers like ClickHouse does.
func deny(w http.ResponseWriter, status, code int, name, text string) {
	w.Header().Set("X-ClickHouse-Exception-Code", strconv.Itoa(code))
	http.Error(w, fmt.Sprintf("Code: %d. DB::Exception: %s. (%s)", code, text, name), status)
}

// readerPassword returns the reader's password, made at the first start.
func readerPassword(dataDir string) (string, error) {
	path := filepath.Join(dataDir, passwordFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte(rand.Text())
		err = writeSecret(path, text)
	}
	password := strings.TrimSpace(string(text))
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot keep the ClickHouse password: %w", err)
	case password == "":
		return "", fmt.Errorf("%s is empty; delete it to have another made", path)
	}
	return password, nil
}

// writeSecret makes a file that only this user may read, whole or not at all.
func writeSecret(path string, text []byte) error {
	draft := path + ".new"
	if err := os.WriteFile(draft, text, 0o600); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

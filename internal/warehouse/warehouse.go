// Package warehouse is the columnar store of usage: ClickHouse, either a
// server or the engine that weir embeds and runs as a process of its own. Both
// are spoken to with the same client; only how a connection is made differs.
//
// Nothing on the money path waits for it. What was not appended is appended
// later, under the same token, so that the effect is that of one append.
package warehouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"weir/internal/warehouse/engine"
)

// ChildVerb is the hidden command that RunChild serves: when it is the first
// argument, main must call RunChild with the rest before doing anything else.
const ChildVerb = engine.Verb

// RunChild is the embedded engine's process; it returns the exit status.
func RunChild(args []string) int { return engine.Run(args) }

const (
	// embeddedDatabase is the database of the embedded engine.
	embeddedDatabase = "weir"
	// dialTimeout bounds one connection attempt.
	dialTimeout = 5 * time.Second
	// answerTimeout bounds the wait for an answer's header. It is also what
	// keeps a late insert inside the window in which its token is remembered.
	answerTimeout = 30 * time.Second
	// maxConns bounds the connections: appends are one at a time, the rest are
	// reports.
	maxConns = 8
	// bringUpMin and bringUpMax bound the pause between attempts to reach the
	// store.
	bringUpMin = 100 * time.Millisecond
	bringUpMax = 5 * time.Second
)

// Config says where the warehouse is.
type Config struct {
	// URL of a server, clickhouse://user:pass@host:9000/weir or
	// http://user:pass@host:8123/weir; empty for the embedded engine.
	URL string
	// Cluster is the server's cluster over which Migrate makes its tables, "" for
	// one server. It has one shard.
	Cluster string
	// KeepRaw is how long usage_events keeps an event, at least; sums are kept
	// for ever. 0 is DefaultKeepRaw; under 62 days is an error.
	KeepRaw time.Duration
	// Library is the path of libchdb.so; empty searches the usual places.
	Library string
	// Unconfined lets Serve work on a kernel that cannot confine the engine.
	Unconfined bool
	// DataDir holds the embedded engine's files, socket and reader password.
	DataDir string
	Log     *slog.Logger
}

// DB is the warehouse. All methods are safe for concurrent use.
type DB struct {
	cfg   Config
	conn  driver.Conn
	admin *clickhouse.Options // a connection outside any database, to make it
	name  string              // the database
	child *child              // nil with a server

	up      atomic.Bool                                    // its schema is current, and the child (if any) answers
	types   atomic.Pointer[[]clickhouse.ColumnNameAndType] // of usage_events, once read
	ready   chan struct{}                                  // closed when it was up for the first time
	lastErr atomic.Pointer[error]
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Open starts or reaches the warehouse and waits until it can be used or ctx
// ends, see Start and Wait.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	d, err := Start(cfg)
	if err != nil {
		return nil, err
	}
	if err := d.Wait(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Start begins to start or reach the warehouse and returns at once; it goes on
// trying until Close. What can be judged at once fails here: a malformed URL,
// and ErrNoLibrary. The embedded engine's schema is brought up to date; a
// server's is only looked at, see ErrNotMigrated.
func Start(cfg Config) (*DB, error) {
	d, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	if d.child != nil {
		d.running.Go(func() { d.child.supervise(ctx) })
	}
	d.running.Go(func() { d.bringUp(ctx) })
	return d, nil
}

// prepare makes a DB that nothing was asked of yet and that has no goroutines.
func prepare(cfg Config) (*DB, error) {
	if cfg.KeepRaw == 0 {
		cfg.KeepRaw = DefaultKeepRaw
	}
	if cfg.KeepRaw < minKeepRaw {
		return nil, fmt.Errorf("clickhouse.keep_raw is %s: keep events for %d days or longer", cfg.KeepRaw, minKeepRaw/(24*time.Hour))
	}
	d := &DB{cfg: cfg, ready: make(chan struct{})}
	options, err := d.options()
	if err != nil {
		return nil, err
	}
	d.name = options.Auth.Database
	admin := *options
	admin.Auth.Database = "default"
	d.admin = &admin
	if d.conn, err = clickhouse.Open(options); err != nil {
		return nil, fmt.Errorf("cannot open the warehouse: %w", err)
	}
	return d, nil
}

// options prepares the connection; for the embedded engine also the child.
func (d *DB) options() (*clickhouse.Options, error) {
	o := &clickhouse.Options{}
	if d.cfg.URL != "" {
		var err error
		if o, err = parseURL(d.cfg.URL); err != nil {
			return nil, err
		}
	} else {
		c, err := newChild(d.cfg)
		if err != nil {
			return nil, err
		}
		d.child = c
		o.Protocol = clickhouse.HTTP
		o.Addr = []string{"localhost:0"} // only shown; connections go to the socket
		o.Auth.Database = embeddedDatabase
		o.DialContext = func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.writerSocket())
		}
	}
	o.DialTimeout = dialTimeout
	o.ReadTimeout = answerTimeout
	o.MaxOpenConns, o.MaxIdleConns = maxConns, maxConns
	return o, nil
}

func parseURL(text string) (*clickhouse.Options, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("clickhouse.url is not a URL") // the error would repeat its password
	}
	database := strings.Trim(u.Path, "/")
	switch {
	case u.Scheme != "clickhouse" && u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("clickhouse.url: scheme %q is none of clickhouse, http, https", u.Scheme)
	case u.Host == "" || database == "" || strings.Contains(database, "/"):
		return nil, fmt.Errorf("clickhouse.url: want %s://user:password@host:port/database", u.Scheme)
	}
	if values := u.Query(); u.Scheme == "https" && !values.Has("secure") { // else the client refuses the scheme
		values.Set("secure", "true")
		u.RawQuery = values.Encode()
	}
	o, err := clickhouse.ParseDSN(u.String())
	if err != nil {
		return nil, fmt.Errorf("cannot use clickhouse.url: %s", strings.ReplaceAll(err.Error(), u.String(), "the URL"))
	}
	return o, nil
}

// bringUp tries until the store can be used, as often as it takes.
func (d *DB) bringUp(ctx context.Context) {
	for pause := bringUpMin; ; pause = min(2*pause, bringUpMax) {
		err := d.bringUpOnce(ctx)
		if err == nil {
			d.up.Store(true)
			close(d.ready)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if last := d.lastErr.Swap(&err); last == nil || (*last).Error() != err.Error() {
			d.cfg.Log.Warn("the warehouse is not up yet", "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func (d *DB) bringUpOnce(ctx context.Context) error {
	if d.child == nil {
		return d.check(ctx)
	}
	if err := d.child.wait(ctx); err != nil {
		return err
	}
	return d.migrate(ctx)
}

// Wait returns when the warehouse is up for the first time, or when ctx ends:
// then with the reason why it is not.
func (d *DB) Wait(ctx context.Context) error {
	select {
	case <-d.ready:
		return nil
	case <-ctx.Done():
	}
	err := ctx.Err()
	if last := d.lastErr.Load(); last != nil {
		err = *last
	} else if d.child != nil && d.child.failure() != nil {
		err = d.child.failure()
	}
	return fmt.Errorf("the warehouse is not up: %w", err)
}

// Up tells whether the warehouse's schema is current and, if embedded, its engine
// answers now. A server is not asked: its calls say what is wrong.
func (d *DB) Up() bool { return d.up.Load() && (d.child == nil || d.child.up()) }

// lateMax is how much later than it happened an event may be settled, with
// ample room: a gateway's spool may have been away from its log for weeks.
const lateMax = 31 * 24 * time.Hour

// KeptSince is a time since when every event that was settled is still in
// usage_events, however late it came. Of what was settled before, single events
// may be gone; the sums by the hour are not.
func (d *DB) KeptSince() time.Time { return time.Now().Add(lateMax - d.cfg.KeepRaw) }

// Conn is the connection for reading, in the warehouse's database. It is lazy:
// before Up its calls fail.
func (d *DB) Conn() driver.Conn { return d.conn }

// Close ends all connections and the embedded engine, after the statements
// that run or a few seconds.
func (d *DB) Close() error {
	d.cancel()
	err := d.conn.Close()
	d.running.Wait()
	if err != nil {
		return fmt.Errorf("cannot close the warehouse: %w", err)
	}
	return nil
}

// Package ledger keeps the money: wallets, leases, settlement, the books.
//
// It runs one SQL text on SQLite, PostgreSQL and CockroachDB; which server it
// talks to is asked, never guessed from the address. Amounts are nano-dollars,
// times are Unix microseconds of one clock: the database server's, or this
// process's where the database is a file.
package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"
)

// The engines a ledger runs on.
const (
	SQLite      = "sqlite"
	PostgreSQL  = "postgresql"
	CockroachDB = "cockroachdb"
)

const (
	// serverConns bounds the connections to a database server: a gateway needs
	// a few for grants, a processor one per partition it settles.
	serverConns = 16
	// sqliteReaders bounds the read connections to a file: more than cores
	// only wait for each other.
	sqliteReaders = 4
	// sqliteBusy is how long SQLite waits for a lock of another process, such
	// as a person's sqlite3 shell, before a transaction is tried again.
	sqliteBusy = 10 * time.Second
	// FileName is the SQLite ledger's name in the data directory.
	FileName = "ledger.db"
	// Currency is the currency of a ledger that never had another.
	Currency = "usd"
)

// Config says where the ledger is. URL "" is SQLite in Dir; postgres://… is a
// PostgreSQL or CockroachDB server.
type Config struct {
	URL string
	Dir string
	Log *slog.Logger
	// Now replaces the ledger's clock; nil is the database server's clock, or
	// time.Now for SQLite.
	Now func() time.Time
}

// DB is an open ledger. It is safe for concurrent use.
type DB struct {
	engine   string
	currency string
	log      *slog.Logger
	now      func() time.Time // nil: ask the server
	chunk    int              // rows per VALUES list
	lock     string           // what makes SELECT lock its rows
	share    string           // what makes SELECT keep others from changing its rows
	write    *sql.DB
	read     *sql.DB // the same pool as write, except for SQLite

	// writer is SQLite's single writing connection with its prepared
	// statements; whoever holds the token in turn has both to itself.
	writer *sql.Conn
	turn   chan struct{}
	stmts  map[string]*sql.Stmt
	once   sync.Once // closes
}

// Open connects, learns the engine, runs the migrations that are missing and
// fixes the currency.
func Open(ctx context.Context, c Config) (*DB, error) {
	db := &DB{log: c.Log, now: c.Now}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if c.URL == "" {
		err = db.openSQLite(ctx, filepath.Join(c.Dir, FileName))
	} else {
		err = db.openServer(ctx, c.URL)
	}
	if err == nil {
		err = db.migrate(ctx)
	}
	if err == nil {
		db.currency, err = db.Setting(ctx, "currency", Currency)
	}
	if err == nil && db.currency != Currency {
		err = fmt.Errorf("this ledger is kept in %q, this program knows %q only", db.currency, Currency)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the ledger: %w", err), db.Close())
	}
	return db, nil
}

// openSQLite opens one writer that syncs every commit and a pool of readers
// that see the last commit and never wait for the writer.
func (db *DB) openSQLite(ctx context.Context, path string) (err error) {
	const (
		chunk = 100 // rows per statement: fewer cost more calls, more gain nothing
	)
	db.engine, db.chunk = SQLite, chunk
	if db.now == nil {
		db.now = time.Now
	}
	// The ledger holds the keys' hashes and their pepper: SQLite gives its side
	// files the mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	common := fmt.Sprintf("file:%s?_pragma=busy_timeout(%d)&_pragma=foreign_keys(1)&_pragma=cache_size(-65536)",
		(&url.URL{Path: path}).EscapedPath(), sqliteBusy.Milliseconds())
	db.write, err = sql.Open("sqlite", common+"&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		return err
	}
	db.write.SetMaxOpenConns(1)
	if db.writer, err = db.write.Conn(ctx); err != nil {
		return fmt.Errorf("cannot open %s: %w", path, err)
	}
	db.turn, db.stmts = make(chan struct{}, 1), make(map[string]*sql.Stmt)
	if db.read, err = sql.Open("sqlite", common+"&_pragma=query_only(1)"); err != nil {
		return err
	}
	readers := min(sqliteReaders, max(2, runtime.GOMAXPROCS(0)))
	db.read.SetMaxOpenConns(readers)
	db.read.SetMaxIdleConns(readers)
	return nil
}

func (db *DB) openServer(ctx context.Context, address string) (err error) {
	const (
		chunk   = 500             // rows per statement: 31,000 wallets a second on PostgreSQL 15, more gains nothing
		maxIdle = 5 * time.Minute // a connection unused for longer may have been cut by a firewall
	)
	if !strings.HasPrefix(address, "postgres://") && !strings.HasPrefix(address, "postgresql://") {
		return errors.New("the address must begin with postgres://")
	}
	if db.write, err = sql.Open("pgx", address); err != nil {
		return err
	}
	db.write.SetMaxOpenConns(serverConns)
	db.write.SetMaxIdleConns(serverConns)
	db.write.SetConnMaxIdleTime(maxIdle)
	db.read, db.chunk, db.lock, db.share = db.write, chunk, " FOR UPDATE", " FOR SHARE"
	var version string
	if err := db.read.QueryRowContext(ctx, "SELECT version()").Scan(&version); err != nil {
		return err
	}
	switch {
	case strings.Contains(version, "CockroachDB"):
		db.engine = CockroachDB
	case strings.HasPrefix(version, "PostgreSQL"):
		db.engine = PostgreSQL
	default:
		return fmt.Errorf("%q is neither PostgreSQL nor CockroachDB", version)
	}
	return nil
}

// Engine tells which database the ledger runs on.
func (db *DB) Engine() string { return db.engine }

// Ping tells whether the ledger answers.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	if err := db.read.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("cannot reach the ledger: %w", err)
	}
	return nil
}

// Close waits for the writing transaction and closes all connections. Closing
// again does nothing.
func (db *DB) Close() (err error) {
	db.once.Do(func() {
		if db.turn != nil {
			db.turn <- struct{}{} // held for ever: nothing is written after Close
			for _, s := range db.stmts {
				err = errors.Join(err, s.Close())
			}
		}
		if db.writer != nil {
			err = errors.Join(err, db.writer.Close())
		}
		if db.read != nil && db.read != db.write {
			err = errors.Join(err, db.read.Close())
		}
		if db.write != nil {
			err = errors.Join(err, db.write.Close())
		}
	})
	return err
}

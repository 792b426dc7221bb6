package ledgertest

import (
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Fault is one way in which a Proxy breaks a conversation.
type Fault string

// The faults. An SQLSTATE comes from the server itself, whose transaction is
// then really lost.
const (
	LostStatement Fault = "40001 at a statement"
	DeadStatement Fault = "40P01 at a statement"
	LostCommit    Fault = "40001 at COMMIT"
	DeadCommit    Fault = "40P01 at COMMIT"
	CutBefore     Fault = "connection cut before COMMIT reached the server"
	CutAfter      Fault = "connection cut after the server answered COMMIT"
	CutAnywhere   Fault = "connection cut at some message"
)

// Odds gives the faults that happen, each at one in so many of its occasions:
// a statement of a transaction, a COMMIT, or a message of either side.
type Odds map[Fault]int

// Proxy stands between a ledger and a PostgreSQL server that asks for no
// password. It
// reads every message and breaks some, by the dice of one seed: the same
// requests in the same order meet the same faults.
//
// As Cockroach it answers version() like CockroachDB and keeps its rule that
// RELEASE SAVEPOINT cockroach_restart is the commit, after which COMMIT only
// ends the transaction, and that ROLLBACK TO it begins the transaction anew.
type Proxy struct {
	server    string // host:port
	cockroach bool

	mu     sync.Mutex // guards the following
	dice   *rand.Rand
	odds   Odds
	next   Fault // happens once
	counts map[Fault]int
}

// NewProxy starts a proxy before the server of a URL and returns it with the
// URL that leads through it. It ends with the test; no fault happens before
// Break.
func NewProxy(t testing.TB, server string, seed uint64, cockroach bool) (*Proxy, string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &Proxy{server: u.Host, cockroach: cockroach, dice: rand.New(rand.NewPCG(seed, 1)), counts: map[Fault]int{}}
	u.Host = l.Addr().String()
	go p.serve(l)
	return p, u.String()
}

// Break sets what breaks from now on; nil is nothing.
func (p *Proxy) Break(odds Odds) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.odds = odds
}

// Once breaks the next occasion of one fault, and nothing else.
func (p *Proxy) Once(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.odds = nil
	p.next = f
}

// Counts tells how often each fault happened.
func (p *Proxy) Counts() map[Fault]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

// happens throws the dice for a fault.
func (p *Proxy) happens(f Fault) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.next == f:
		p.next = ""
	case p.odds[f] == 0 || p.dice.IntN(p.odds[f]) > 0:
		return false
	}
	p.counts[f]++
	return true
}

// failure is the statement that makes the server itself fail as one of two
// faults says, or "".
func (p *Proxy) failure(lost, dead Fault) string {
	code := ""
	switch {
	case p.happens(lost):
		code = "40001"
	case p.happens(dead):
		code = "40P01"
	default:
		return ""
	}
	return "DO $$BEGIN RAISE SQLSTATE '" + code + "' USING MESSAGE = 'injected'; END$$"
}

func (p *Proxy) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", p.server)
			if err != nil {
				return
			}
			defer server.Close()
			c := &conversation{proxy: p, client: client, server: server, answers: make(chan answer, 64),
				fromClient: pgproto3.NewBackend(client, client), fromServer: pgproto3.NewFrontend(server, server)}
			if !c.begin() {
				return
			}
			go c.answering()
			c.asking()
		}()
	}
}

// conversation is one connection through the proxy. Two goroutines share it:
// asking carries what the client sends, answering what the server does.
type conversation struct {
	proxy          *Proxy
	client, server net.Conn
	fromClient     *pgproto3.Backend
	fromServer     *pgproto3.Frontend
	status         atomic.Uint32 // of the transaction, as the server last told
	answers        chan answer   // one for each request under way

	pending  []byte // asking's: messages that wait for their Sync
	released bool   // asking's: the server has committed at RELEASE
}

// answer says how a request's answer reaches the client: as it is, or, with a
// tag, as the success of that command and with that status. cut: not at all.
type answer struct {
	tag    string
	status byte
	cut    bool
}

// begin passes the start of a connection, or a request to cancel another one.
func (c *conversation) begin() bool {
	msg, err := c.fromClient.ReceiveStartupMessage()
	if _, ok := msg.(*pgproto3.SSLRequest); ok && err == nil {
		if _, err = c.client.Write([]byte("N")); err == nil { // a proxy must read
			msg, err = c.fromClient.ReceiveStartupMessage()
		}
	}
	if err != nil {
		return false
	}
	c.fromServer.Send(msg)
	_, start := msg.(*pgproto3.StartupMessage)
	return c.fromServer.Flush() == nil && start
}

// cut ends the conversation; the client sees a reset.
func (c *conversation) cut() {
	if tcp, ok := c.client.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // else the close is an orderly one
	}
	c.client.Close()
	c.server.Close()
}

func (c *conversation) asking() {
	defer c.cut()
	for {
		msg, err := c.fromClient.Receive()
		if err != nil || c.proxy.happens(CutAnywhere) {
			return
		}
		ok := true
		switch m := msg.(type) {
		case *pgproto3.Query:
			ok = c.query(m.String)
		case *pgproto3.Sync:
			ok = c.sync(m)
		case *pgproto3.Parse:
			record(m.Query)
			if c.proxy.cockroach && m.Query == "SELECT version()" {
				m.Query = "SELECT 'CockroachDB CCL v25.2.0 (a stand-in)'"
			}
			c.pending, err = m.Encode(c.pending)
		default:
			c.pending, err = msg.Encode(c.pending)
		}
		if !ok || err != nil {
			return
		}
	}
}

// inTransaction tells whether statements are part of a transaction that lives.
func (c *conversation) inTransaction() bool { return c.status.Load() == 'T' }

// sync ends a run of messages of the extended protocol: all of them reach the
// server, or it fails in their place.
func (c *conversation) sync(m *pgproto3.Sync) bool {
	if c.inTransaction() {
		if failing := c.proxy.failure(LostStatement, DeadStatement); failing != "" {
			c.pending = c.pending[:0]
			return c.ask(failing, answer{})
		}
	}
	var err error
	if c.pending, err = m.Encode(c.pending); err != nil {
		return false
	}
	c.answers <- answer{}
	_, err = c.server.Write(c.pending)
	c.pending = c.pending[:0]
	return err == nil
}

// query passes a statement of the simple protocol.
func (c *conversation) query(text string) bool {
	const savepoint = "SAVEPOINT cockroach_restart"
	record(text)
	switch {
	case c.proxy.cockroach && text == "RELEASE "+savepoint:
		c.released = true
		return c.commit("RELEASE "+savepoint+"; COMMIT", answer{tag: "RELEASE", status: 'T'})
	case c.proxy.cockroach && text == "ROLLBACK TO "+savepoint:
		c.released = false
		return c.ask("ROLLBACK; BEGIN; "+savepoint, answer{tag: "ROLLBACK", status: 'T'})
	case text == "commit" && c.released:
		c.released = false
		return c.ask(";", answer{tag: "COMMIT", status: 'I'})
	case text == "commit":
		return c.commit(text, answer{})
	case text == "rollback" || strings.HasPrefix(text, "begin"):
		c.released = false
		return c.ask(text, answer{})
	}
	if c.inTransaction() && text != savepoint {
		if failing := c.proxy.failure(LostStatement, DeadStatement); failing != "" {
			return c.ask(failing, answer{})
		}
	}
	if c.proxy.cockroach { // PostgreSQL has no hash-sharded indexes
		text = strings.TrimSuffix(text, " USING HASH")
	}
	return c.ask(text, answer{})
}

// commit passes a commit, or one of the faults that a commit can meet.
func (c *conversation) commit(text string, a answer) bool {
	if c.proxy.happens(CutBefore) {
		return false
	}
	if failing := c.proxy.failure(LostCommit, DeadCommit); failing != "" {
		return c.ask("ROLLBACK; "+failing, a)
	}
	a.cut = c.proxy.happens(CutAfter)
	return c.ask(text, a)
}

// ask sends the server a statement.
func (c *conversation) ask(text string, a answer) bool {
	c.answers <- a
	c.fromServer.SendQuery(&pgproto3.Query{String: text})
	return c.fromServer.Flush() == nil
}

func (c *conversation) answering() {
	defer c.cut()
	var now *answer // that of the request whose answer is coming
	failed := false
	for {
		msg, err := c.fromServer.Receive()
		if err != nil || c.proxy.happens(CutAnywhere) {
			return
		}
		if now == nil {
			select {
			case a := <-c.answers:
				now = &a
			default: // the server's own words, as at the start
				now = &answer{}
			}
		}
		ready, last := msg.(*pgproto3.ReadyForQuery)
		_, isError := msg.(*pgproto3.ErrorResponse)
		failed = failed || isError
		switch {
		case last:
			c.status.Store(uint32(ready.TxStatus))
			if now.cut {
				return
			}
			if now.tag != "" && failed {
				ready.TxStatus = 'E'
			} else if now.tag != "" {
				ready.TxStatus = now.status
				c.fromClient.Send(&pgproto3.CommandComplete{CommandTag: []byte(now.tag)})
			}
			c.fromClient.Send(ready)
			now, failed = nil, false
		case now.cut || now.tag != "" && !isError:
			continue
		default:
			c.fromClient.Send(msg)
		}
		if c.fromClient.Flush() != nil {
			return
		}
	}
}

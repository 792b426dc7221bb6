// Package demo shows weir at work without a server or an account: it starts stand-ins for the
// providers and for Stripe and a whole weir in this process, lets a few customers pay, sends their
// traffic through over HTTP, and then compares, request by request and charge by charge, what the
// stand-ins served and took with what weir's API, SQL and wallets say.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"weir/internal/app"
	"weir/internal/standin"
)

const (
	// RequestsDefault is how many requests a demo sends unless told otherwise.
	RequestsDefault = 2000
	// RequestsMax bounds them: all are kept in memory to be compared.
	RequestsMax = 100_000

	// clockSlack is asked for on both sides of the run: wall clocks are set now and then.
	clockSlack = time.Hour
)

var (
	// ErrDiffers says that the parties do not agree; every difference was printed.
	ErrDiffers = errors.New("the books differ from what was served and paid")
	// ErrIncomplete says that SQL was off, so that nothing could be compared with it.
	ErrIncomplete = errors.New("without the ClickHouse library the API's events and SQL could not be compared")

	errInterrupted = errors.New("interrupted before everything was compared")
)

// Options say what the demo does.
type Options struct {
	Requests int
	Seed     uint64 // decides what is asked
	Month    bool   // the worked month instead, whatever Requests and Seed say
	Exit     bool   // end after the comparison instead of serving on
	Library  string // libchdb.so; "" looks in the usual places
	Program  string // how the user calls weir, for the commands to try
	Out      io.Writer
}

// demo is one run.
type demo struct {
	Options
	dir       string
	began     time.Time
	log       *os.File
	standin   *standin.Server
	stripe    *stripe
	at        app.Addresses
	stop      context.CancelFunc // stops weir
	ended     chan struct{}      // closed when weir has ended
	weirErr   error              // why it ended, once it has
	books     books
	customers []customer
	requests  []request
}

// Run runs the demo until it has compared everything (Exit) or ctx ends. Errors: ErrDiffers, with
// Exit also ErrIncomplete, and what kept it from running.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{Options: o, began: time.Now()}
	if o.Month {
		d.customers, d.requests = monthCustomers(), monthRequests()
	} else {
		d.customers = newCustomers()
		d.requests = makeRequests(o.Requests, o.Seed, len(d.customers))
	}
	if d.dir, err = os.MkdirTemp("", "weir-demo-"); err != nil {
		return fmt.Errorf("cannot make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, d.close(err)) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	d.introduce()
	f, err := d.run(ctx)
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	verdict := d.tell(f)
	if verdict == nil && o.Month {
		verdict = d.tellMonth(ctx, f)
	}
	if o.Exit {
		return verdict
	}
	if errors.Is(verdict, ErrIncomplete) {
		verdict = nil // said; the rest can be tried all the same
	}
	d.tryNext()
	select {
	case <-ctx.Done():
		d.printf("\nstopping\n")
	case <-d.ended:
	}
	return verdict
}

func (d *demo) printf(format string, args ...any) { fmt.Fprintf(d.Out, format, args...) }

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// dataDir is weir's; the other files of the run lie beside it.
func (d *demo) dataDir() string { return d.path("data") }

func (d *demo) introduce() {
	d.printf("weir demo: a whole weir in this process, and stand-ins for OpenAI, Anthropic and Stripe behind it.\n\n")
	prices := "3 × cost; gpt-4o-mini half its cost, for a loss of at most $5 a day; birch its own for claude-sonnet-4-5"
	if d.Month {
		prices = "3 × cost: 2,000 tokens to gpt-4o and 1,000 from it cost $0.015, and the customer pays $0.045"
	}
	lines := [][2]string{{"requests", "http://" + d.at.Data + " (/openai/v1, /anthropic)"}, {"control", d.books.control}, {"SQL", d.books.sql},
		{"payments", d.stripe.url}, {"files", d.dir + " (weir.log, weir.yaml, rates.yaml)"}, {"prices", prices}}
	for _, line := range lines {
		if line[1] != "" {
			d.printf("  %-9s %s\n", line[0], line[1])
		}
	}
	if d.books.sql == "" {
		d.printf("\nSQL and reports are off: libchdb.so, the ClickHouse library, is not here; `npm ci` in weir's source fetches it, or " +
			"WEIR_CLICKHOUSE_LIBRARY names it.\n")
	}
	d.printf("\n")
}

// run funds the customers, sends the requests and collects what all parties say.
func (d *demo) run(ctx context.Context) (*facts, error) {
	f := &facts{hasSQL: d.books.sql != ""}
	var err error
	if f.card, err = readCard(); err != nil {
		return nil, err
	}
	for i := range d.customers {
		c := &d.customers[i]
		if err := d.books.enroll(ctx, c); err != nil {
			return nil, err
		}
		if !c.byCard {
			continue
		}
		if err := d.buy(ctx, c); err != nil {
			return nil, err
		}
	}
	f.customers = d.customers
	var done atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		progress(d.Out, &done, len(d.requests), stop)
		close(stopped)
	}()
	began := time.Now()
	most := len(d.requests) - len(d.requests)/tailShare
	f.exchanges = send(ctx, "http://"+d.at.Data, d.requests[:most], d.customers, &done)
	d.awaitTopUps(ctx)
	f.exchanges = append(f.exchanges, send(ctx, "http://"+d.at.Data, d.requests[most:], d.customers, &done)...)
	took := time.Since(began)
	close(stop)
	<-stopped
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	d.summarize(f.exchanges, took)
	return f, d.read(ctx, f)
}

// summarize tells in two lines what customers saw.
func (d *demo) summarize(exchanges []exchange, took time.Duration) {
	var answered, streamed, failed, unfunded int
	for i := range exchanges {
		switch x := &exchanges[i]; {
		case x.status == http.StatusOK:
			answered++
			if x.stream {
				streamed++
			}
		case x.unfunded():
			unfunded++
		default:
			failed++
		}
	}
	d.printf("%s requests of %d customers in %.1f s: %s answered (%s streamed), %s errors of the provider, %s refused for want of money.\n\n",
		thousands(len(exchanges)), len(d.customers), took.Seconds(), thousands(answered), thousands(streamed), thousands(failed), thousands(unfunded))
}

// read collects weir's books and the stand-in's log.
func (d *demo) read(ctx context.Context, f *facts) (err error) {
	if f.served, err = standin.ReadLog(d.path("standin.log")); err != nil {
		return err
	}
	ends := 0
	for i := range f.served {
		if f.served[i].Event == standin.EventEnd {
			ends++
		}
	}
	if f.tied, err = d.books.tieOut(ctx, ends); err != nil {
		return err
	}
	if err := d.readFunding(ctx, f); err != nil {
		return err
	}
	for i := range d.customers {
		var w wallet
		if err := d.books.api(ctx, "/customers/"+d.customers[i].id+"/wallet", nil, &w); err != nil {
			return err
		}
		f.wallets = append(f.wallets, w)
	}
	if !f.hasSQL {
		return nil
	}
	return d.readWarehouse(ctx, f)
}

// readWarehouse collects what the columnar store holds, by the API and by SQL.
func (d *demo) readWarehouse(ctx context.Context, f *facts) error {
	password, err := os.ReadFile(filepath.Join(d.dataDir(), "clickhouse-password"))
	if err != nil {
		return fmt.Errorf("cannot read the SQL reader's password: %w", err)
	}
	d.books.password = strings.TrimSpace(string(password))
	from, to := d.began.Add(-clockSlack), time.Now().Add(clockSlack)
	if f.events, err = d.books.events(ctx, from, to); err != nil {
		return err
	}
	if err := d.books.api(ctx, "/reports/margin?by=customer", nil, &f.byCustomer); err != nil {
		return err
	}
	if err := d.books.api(ctx, "/reports/margin?by=model", nil, &f.byModel); err != nil {
		return err
	}
	if f.rows, err = d.books.rows(ctx); err != nil {
		return err
	}
	if f.customerView, err = query[margin](ctx, &d.books, fmt.Sprintf(viewQuery, "customer", "margin_by_customer")); err != nil {
		return err
	}
	f.modelView, err = query[margin](ctx, &d.books, fmt.Sprintf(viewQuery, "provider, model", "margin_by_model"))
	return err
}

// tell prints the margins and what the comparison found.
func (d *demo) tell(f *facts) error {
	if f.hasSQL && !d.Month {
		printMargins(d.Out, "CUSTOMER", &f.byCustomer)
		printMargins(d.Out, "MODEL", &f.byModel)
	}
	differences := f.check()
	if len(differences) > 0 {
		d.printf("The books do not tie out:\n")
		printDifferences(d.Out, differences)
		return fmt.Errorf("%w in %d places", ErrDiffers, len(differences))
	}
	d.tellFunding(f)
	e := f.tied.Events
	if !f.hasSQL {
		d.printf("Tie-out, incomplete: what the provider logged equals ledger and wallets (%s requests, cost $%s, price $%s), and so does\n"+
			"every charge; the API's events and SQL were not compared.\n",
			thousands(e.Count), e.Cost, e.Price)
		return ErrIncomplete
	}
	d.printf("Tie-out: what the provider logged, priced independently, equals API, SQL, ledger and wallets to the nano-dollar:\n"+
		"%s requests compared one by one, cost $%s, price $%s, no leakage; every charge of the payment log is credited once.\n",
		thousands(e.Count), e.Cost, e.Price)
	return nil
}

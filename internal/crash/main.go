// Command crash kills weir with SIGKILL under load, again and again, and checks after each
// restart that no money and no request went astray.
//
// It believes three parties and compares them: the load client (what customers received), the
// provider stand-in (what was really served, hence what the provider charges), and weir's books,
// read as any outsider reads them, over HTTP and SQL. It imports nothing of weir.
//
// The moments of the kills are random and the run is not repeatable; -seed only makes the load
// and the intended moments the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// recoveryTimeout is what weir promises: books closed this soon after a restart.
	recoveryTimeout = time.Minute
	// A kill comes this long after the round's first answer, or when so many streams are open.
	killDelayMax    = 1500 * time.Millisecond
	openStreamsMin  = 3
	momentTimeout   = 30 * time.Second
	pollInterval    = 2 * time.Millisecond
	recoveryPoll    = 100 * time.Millisecond
	recoveryKillMax = 1500 * time.Millisecond
	// Of every four kills one comes while streams are open; after every fifth the restarted
	// process is killed once more while it recovers.
	streamKillEvery   = 4
	recoveryKillEvery = 5
)

// config is what the flags say.
type config struct {
	weir, standin, load string // binaries; "" = built from this module
	kills               int
	concurrency         int
	seed                uint64
	keep                bool
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var c config
	flag.StringVar(&c.weir, "weir", "", "weir's binary; empty = go build")
	flag.StringVar(&c.standin, "standin", "", "the stand-in's binary; empty = go build")
	flag.StringVar(&c.load, "load", "", "the load client's binary; empty = go build")
	flag.IntVar(&c.kills, "kills", 20, "times to kill weir")
	flag.IntVar(&c.concurrency, "concurrency", 24, "requests at once")
	flag.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixNano()), "decides the load and the moments")
	flag.BoolVar(&c.keep, "keep", false, "keep the directory of the run")
	flag.Parse()
	if flag.NArg() > 0 || c.kills < 1 || c.concurrency < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// trial is one run: the three parties and what is known of them.
type trial struct {
	config
	dir      string
	random   *rand.Rand
	upstream *process
	gateway  *process
	books    *books
	served   servedLog
	received receivedLog
	killed   int
}

func run(ctx context.Context, c config) (err error) {
	dir, err := os.MkdirTemp("", "weir-crash-")
	if err != nil {
		return fmt.Errorf("cannot make a directory for the run: %w", err)
	}
	defer func() {
		if err == nil && !c.keep {
			err = os.RemoveAll(dir)
		} else {
			fmt.Fprintf(os.Stderr, "kept %s\n", dir)
		}
	}()
	if err := c.build(ctx, dir); err != nil {
		return err
	}
	t := &trial{config: c, dir: dir, random: rand.New(rand.NewPCG(c.seed, 0)),
		served: newServedLog(filepath.Join(dir, "standin.log")), received: receivedLog{path: filepath.Join(dir, "load.log")}}
	fmt.Printf("seed %d\n", c.seed)
	defer t.stop()
	if err := t.setUp(ctx); err != nil {
		return err
	}
	var v verdict
	for n := range c.kills {
		if v, err = t.round(ctx, n); err != nil {
			return fmt.Errorf("round %d: %w", n+1, err)
		}
		if len(v.differences) > 0 {
			break
		}
	}
	for _, difference := range v.differences {
		fmt.Println(difference)
	}
	fmt.Printf("kills %d, completed %d, served %d, billed %d, leakage %d, duplicates %d, missing %d\n",
		t.killed, v.completed, v.served, v.billed, v.leakage, v.duplicates, v.missing)
	if len(v.differences) > 0 {
		return errors.New("the books differ from what happened")
	}
	return nil
}

// build makes the binaries that were not given.
func (c *config) build(ctx context.Context, dir string) error {
	for name, path := range map[string]*string{"cmd/weir": &c.weir, "bench/standin": &c.standin, "bench/load": &c.load} {
		if *path != "" {
			continue
		}
		*path = filepath.Join(dir, filepath.Base(name))
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", *path, "weir/"+name).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// round loads weir, kills it, restarts it, waits for its books to close, and compares.
func (t *trial) round(ctx context.Context, n int) (verdict, error) {
	loaded, err := t.startLoad(ctx, n)
	if err != nil {
		return verdict{}, err
	}
	streams := n%streamKillEvery == streamKillEvery-1
	err = t.awaitMoment(ctx, streams)
	open := t.served.openStreams()
	t.kill()
	if err := errors.Join(err, loaded.stop()); err != nil {
		return verdict{}, err
	}
	if n%recoveryKillEvery == recoveryKillEvery-1 {
		if t.gateway, err = t.spawnWeir(ctx); err != nil {
			return verdict{}, err
		}
		time.Sleep(time.Duration(t.random.Int64N(int64(recoveryKillMax))))
		t.kill()
	}
	began := time.Now()
	if err := t.startWeir(ctx); err != nil {
		return verdict{}, err
	}
	if err := t.awaitBooks(ctx, began); err != nil {
		return verdict{}, err
	}
	recovered := time.Since(began)
	v, err := t.compare(ctx)
	fmt.Printf("kill %d: %d streams open, recovered in %.1f s; completed %d, billed %d, leakage %d\n",
		t.killed, open, recovered.Seconds(), v.completed, v.billed, v.leakage)
	return v, err
}

// awaitMoment returns when the kill is due: a random time after the round's first answer, or
// with streams, when some are open at the upstream.
func (t *trial) awaitMoment(ctx context.Context, streams bool) error {
	if err := t.received.read(); err != nil {
		return err
	}
	before := t.received.completed()
	delay := time.Duration(t.random.Int64N(int64(killDelayMax)))
	var due time.Time
	for deadline := time.Now().Add(momentTimeout); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(pollInterval) {
		if err := errors.Join(t.received.read(), t.served.read()); err != nil {
			return err
		}
		if due.IsZero() && t.received.completed() > before {
			due = time.Now().Add(delay)
		}
		if !due.IsZero() && time.Now().After(due) && (!streams || t.served.openStreams() >= openStreamsMin) {
			return nil
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("no moment to kill came within %v: %d answers", momentTimeout, t.received.completed()-before))
}

// awaitBooks waits until nothing is pending, nothing is held and the books tie out.
func (t *trial) awaitBooks(ctx context.Context, began time.Time) error {
	for {
		tied, err := t.books.tieOut(ctx)
		if err == nil && tied.closed() {
			return nil
		}
		if time.Since(began) > recoveryTimeout || ctx.Err() != nil {
			return errors.Join(ctx.Err(), err, fmt.Errorf("the books are not closed %v after the restart: %s", recoveryTimeout, tied.text))
		}
		time.Sleep(recoveryPoll)
	}
}

// compare reads all three parties and returns what differs.
func (t *trial) compare(ctx context.Context) (verdict, error) {
	if err := errors.Join(t.received.read(), t.served.read()); err != nil {
		return verdict{}, err
	}
	f := facts{received: t.received.lines, served: t.served.requests(), leakageMax: t.killed * t.concurrency}
	if err := t.books.read(ctx, &f); err != nil {
		return verdict{}, err
	}
	return f.check(), nil
}

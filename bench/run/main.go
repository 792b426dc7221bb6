// Command run measures what weir costs over a bare proxy, on one machine and in one run.
//
// Behind both stands the same provider stand-in, before both the same load. Rounds alternate, so
// that what else the machine does falls on both. CPU is that of the whole process tree, and
// weir's ends only when its books are closed: settling and appending are counted, not hidden
// behind the answer. A run whose books do not tie out fails and prints no figures.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	weir, floor, standin, load string // binaries; "" = built from this module
	floorOnly                  bool
	requests                   int // a round
	rounds                     int // of each proxy and mode
	concurrency                int
	out                        string
}

// warmupRequests fill pools, pages and leases before the first round counts.
const warmupRequests = 2000

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var c config
	flag.StringVar(&c.weir, "weir", "", "weir's binary; empty = go build")
	flag.StringVar(&c.floor, "floor", "", "the floor's binary; empty = go build")
	flag.StringVar(&c.standin, "standin", "", "the stand-in's binary; empty = go build")
	flag.StringVar(&c.load, "load", "", "the load client's binary; empty = go build")
	flag.BoolVar(&c.floorOnly, "floor-only", false, "measure the floor alone")
	flag.IntVar(&c.requests, "requests", 20000, "requests a round")
	flag.IntVar(&c.rounds, "rounds", 3, "rounds of each proxy in each mode")
	flag.IntVar(&c.concurrency, "concurrency", 64, "requests at once")
	flag.StringVar(&c.out, "out", "", "directory to write DATE.json to; empty = no file")
	flag.Parse()
	if flag.NArg() > 0 || c.requests < 1 || c.rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := bench(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// proxy is one of the two that are compared.
type proxy struct {
	name  string
	proc  *process
	load  []string     // the load client's flags for it
	drain func() error // returns when nothing is left to do; the CPU until then counts
}

func bench(ctx context.Context, c config) error {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return fmt.Errorf("cannot make a directory for the run: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := c.build(ctx, dir); err != nil {
		return err
	}
	standin, err := start(ctx, dir, c.standin, "-key", providerKey)
	if err != nil {
		return err
	}
	defer standin.stop()
	floor, err := start(ctx, dir, c.floor, "-upstream", standin.ready.Addr)
	if err != nil {
		return err
	}
	defer floor.stop()
	proxies := []*proxy{{name: "floor", proc: floor, drain: func() error { return nil },
		load: []string{"-target", "http://" + floor.ready.Addr, "-direct", "-key", providerKey}}}
	var w *weir
	if !c.floorOnly {
		if w, err = startWeir(ctx, dir, c.weir, standin.ready.Addr); err != nil {
			return err
		}
		defer w.proc.stop()
		proxies = append(proxies, &proxy{name: "weir", proc: w.proc, drain: func() error { return w.tieOut(ctx) },
			load: []string{"-target", "http://" + w.proc.ready.Data, "-key", w.keys}})
	}
	results, err := c.measure(ctx, proxies)
	if err != nil {
		return err
	}
	if w != nil && w.counted != w.sent(&c) {
		return fmt.Errorf("weir's books hold %d requests, %d were answered", w.counted, w.sent(&c))
	}
	return report(c.out, results)
}

// build makes the binaries that were not given.
func (c *config) build(ctx context.Context, dir string) error {
	for name, path := range map[string]*string{"cmd/weir": &c.weir, "bench/floor": &c.floor, "bench/standin": &c.standin, "bench/load": &c.load} {
		if *path != "" || (c.floorOnly && path == &c.weir) {
			continue
		}
		*path = filepath.Join(dir, filepath.Base(name))
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", *path, "weir/"+name).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

var modes = []string{"json", "sse"}

// measure runs the rounds: every mode and proxy once before any has its next.
func (c *config) measure(ctx context.Context, proxies []*proxy) ([]result, error) {
	for _, p := range proxies {
		for _, mode := range modes {
			if _, err := c.round(ctx, p, mode, warmupRequests); err != nil {
				return nil, err
			}
		}
	}
	var results []result
	for n := range c.rounds {
		for _, mode := range modes {
			for _, p := range proxies {
				r, err := c.round(ctx, p, mode, c.requests)
				if err != nil {
					return nil, err
				}
				r.Round = n + 1
				fmt.Fprintf(os.Stderr, "round %d %s %s: %.0f req/s, %.2f s CPU per 10,000\n", r.Round, r.Proxy, r.Mode, r.PerSecond, r.CPUPer10k)
				results = append(results, *r)
			}
		}
	}
	return results, nil
}

// round loads a proxy and waits until its work is done.
func (c *config) round(ctx context.Context, p *proxy, mode string, requests int) (*result, error) {
	before, err := p.proc.cpu()
	if err != nil {
		return nil, err
	}
	args := append([]string{"-requests", fmt.Sprint(requests), "-concurrency", fmt.Sprint(c.concurrency), "-mode", mode}, p.load...)
	r := &result{Proxy: p.name, Mode: mode}
	if err := runLoad(ctx, c.load, args, r); err != nil {
		return nil, fmt.Errorf("%s, %s: %w", p.name, mode, err)
	}
	if r.Complete != requests {
		return nil, fmt.Errorf("%s, %s: %d of %d answers came whole: by status %v, errors %v", p.name, mode, r.Complete, requests, r.ByStatus, r.Errors)
	}
	began := time.Now()
	if err := p.drain(); err != nil {
		return nil, err
	}
	r.DrainSeconds = time.Since(began).Seconds()
	after, err := p.proc.cpu()
	if err != nil {
		return nil, err
	}
	r.CPUPer10k = (after - before).Seconds() * 10000 / float64(requests)
	r.PeakRSSMiB, err = p.proc.peakRSSMiB()
	return r, err
}

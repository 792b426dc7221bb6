// Command load sends realistic AI requests to a proxy or a provider, keeps a log of what it
// received, and prints a summary as JSON.
//
// A request's line is appended to the log when its answer was received whole, or when it failed:
// the log is the client's side of the books. SIGTERM or an interrupt ends the run early; requests
// under way end first.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	target      string
	keys        []string // requests take turns over them
	requests    int
	concurrency int
	mode        string // json, sse, mixed
	api         string // openai, anthropic, mixed
	direct      bool   // paths as the provider has them, without the provider's segment
	marker      string // added to every prompt for the stand-in
	seed        uint64
	logPath     string
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	c, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	sum, err := run(ctx, c)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(sum)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func parse(args []string) (config, error) {
	var c config
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.StringVar(&c.target, "target", "", "base URL, such as http://127.0.0.1:8080")
	keys := flags.String("key", "", "keys, separated by commas")
	flags.IntVar(&c.requests, "requests", 1000, "requests to send")
	flags.IntVar(&c.concurrency, "concurrency", 64, "requests at once, each on its own connection")
	flags.StringVar(&c.mode, "mode", "mixed", "json, sse or mixed")
	flags.StringVar(&c.api, "api", "mixed", "openai, anthropic or mixed")
	flags.BoolVar(&c.direct, "direct", false, "the target is a provider: no /openai or /anthropic before the path")
	flags.StringVar(&c.marker, "marker", "", "stand-in controls for every prompt, such as interval=5ms")
	flags.Uint64Var(&c.seed, "seed", 1, "decides bodies and their order")
	flags.StringVar(&c.logPath, "log", "", "file to append a line for each request to")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	c.keys = strings.Split(*keys, ",")
	target, err := url.Parse(c.target)
	switch {
	case flags.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case err != nil || target.Scheme != "http" || target.Host == "":
		return c, fmt.Errorf("-target %q must be an http URL", c.target)
	case c.requests < 1 || c.concurrency < 1:
		return c, errors.New("-requests and -concurrency must be at least 1")
	case c.mode != "json" && c.mode != "sse" && c.mode != "mixed":
		return c, fmt.Errorf("-mode %q must be json, sse or mixed", c.mode)
	case c.api != "openai" && c.api != "anthropic" && c.api != "mixed":
		return c, fmt.Errorf("-api %q must be openai, anthropic or mixed", c.api)
	}
	return c, nil
}

// summary is what a run prints.
type summary struct {
	Requests  int            `json:"requests"`
	Complete  int            `json:"complete"` // 2xx, received whole
	ByStatus  map[string]int `json:"by_status"`
	Errors    map[string]int `json:"errors"` // of answers that did not come whole
	Bytes     int64          `json:"bytes"`  // of bodies
	Seconds   float64        `json:"seconds"`
	PerSecond float64        `json:"per_second"`
	P50ms     float64        `json:"p50_ms"` // from sending to the last byte, complete answers only
	P99ms     float64        `json:"p99_ms"`
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"weir/internal/cli"
	"weir/internal/demo"
)

// demoVerb shows weir at work on traffic of its own.
var demoVerb = cli.Verb{Name: "demo", Does: "see it work: stand-ins for providers and Stripe, traffic, margins, tie-out; no server or account needed",
	Flags: []cli.Flag{
		{Name: "requests", Value: "N", Does: fmt.Sprintf("how many requests to send; %d", demo.RequestsDefault)},
		{Name: "seed", Value: "S", Does: "decides what is asked; 1"},
		{Name: "month", Does: "instead: a month of 100 sessions for each of two customers, and what Stripe's fees leave of its margin"},
		{Name: "exit", Does: "end after the comparison, with 3 on any difference, instead of serving until Ctrl-C"},
	}, Run: runDemo}

func runDemo(ctx context.Context, c *cli.Call) error {
	requests, err := strconv.Atoi(cmp.Or(c.Flag("requests"), strconv.Itoa(demo.RequestsDefault)))
	if err != nil || requests < 1 || requests > demo.RequestsMax {
		return cli.Usage(fmt.Errorf("--requests: %q is no number from 1 to %d", c.Flag("requests"), demo.RequestsMax))
	}
	seed, err := strconv.ParseUint(cmp.Or(c.Flag("seed"), "1"), 10, 64)
	if err != nil {
		return cli.Usage(fmt.Errorf("--seed: %q is no whole number", c.Flag("seed")))
	}
	month := c.Flag("month") != ""
	if month && (c.Flag("requests") != "" || c.Flag("seed") != "") {
		return cli.Usage(errors.New("--month has requests of its own: leave --requests and --seed out"))
	}
	err = demo.Run(ctx, demo.Options{Requests: requests, Seed: seed, Month: month, Exit: c.Flag("exit") != "", Library: libraryOf(c.Env),
		Program: os.Args[0], Out: c.Stdout})
	if errors.Is(err, demo.ErrDiffers) {
		return fmt.Errorf("%w: %w", cli.ErrBroken, err)
	}
	return err
}

// libraryOf is the one setting that the demo takes from the environment: where a machine keeps
// the ClickHouse library is no matter of the configuration that the demo makes for itself.
func libraryOf(env []string) (library string) {
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, "WEIR_CLICKHOUSE_LIBRARY="); ok {
			library = value
		}
	}
	return library
}

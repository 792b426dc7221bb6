// Weir meters, prices and bills AI traffic from prepaid wallets.
package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"weir/internal/cli"
	"weir/internal/warehouse"
)

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) > 1 && os.Args[1] == warehouse.ChildVerb {
		return warehouse.RunChild(os.Args[2:]) // the confined process of the embedded engine
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	verbs := slices.Concat([]cli.Verb{serveVerb, demoVerb}, local(), cli.Clients())
	return cli.Main(ctx, os.Args[1:], verbs, cli.Call{Env: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr})
}

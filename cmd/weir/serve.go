package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"weir/internal/app"
	"weir/internal/cli"
	"weir/internal/config"
)

// serveVerb runs weir in the foreground until the context ends.
var serveVerb = cli.Verb{Name: "serve", Does: "run weir until SIGTERM or Ctrl-C; everything in one process unless told otherwise",
	Settings: true, Flags: []cli.Flag{configFlag, roleFlag}, Run: serve}

func serve(ctx context.Context, c *cli.Call) error {
	cfg, err := configuration(c)
	if err != nil {
		return err
	}
	role := c.Flag("role")
	if role == "" {
		role = config.RoleAll
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	log := slog.New(slog.NewJSONHandler(c.Stderr, nil))
	err = app.New(cfg, role, log).Run(ctx, func(a app.Addresses) { printReady(c.Stdout, a) })
	if errors.As(err, new(app.Usage)) {
		return cli.Usage(err)
	}
	return err
}

// gcPercent trades memory for processor time: the live heap is some tens of
// megabytes, so four times that is little, and the collector runs a quarter as
// often. GOGC overrides it.
const gcPercent = 400

// printReady tells whoever started the process where it listens.
func printReady(to io.Writer, a app.Addresses) {
	line, err := json.Marshal(app.Ready{Msg: "ready", PID: os.Getpid(), Addresses: a})
	if err == nil {
		fmt.Fprintf(to, "%s\n", line)
	}
}

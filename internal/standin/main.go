package standin

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// Main runs a stand-in as a process until SIGTERM or an interrupt. Its one line on stdout,
// {"msg":"ready","addr":"127.0.0.1:NNNN"}, says that it serves. It returns the exit code:
// 0, 1 for a failure, 2 for wrong arguments.
func Main(args []string) int {
	opts := Options{Log: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("standin", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address to serve on; port 0 = any")
	flags.StringVar(&opts.LogPath, "log", "", "file to append what was served to")
	flags.StringVar(&opts.Key, "key", "", "provider key that callers must show; empty = any")
	flags.Uint64Var(&opts.Seed, "seed", 0, "changes pseudo-random lengths and ids")
	flags.DurationVar(&opts.Latency, "latency", 0, "wait before an answer")
	flags.DurationVar(&opts.TokenInterval, "token-interval", 0, "wait before each delta of a stream")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	if err := run(opts, *listen); err != nil {
		opts.Log.Error("stand-in failed", "error", err)
		return 1
	}
	return 0
}

func run(opts Options, listen string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	server, err := New(opts)
	if err != nil {
		return err
	}
	addr, err := server.Listen(listen)
	if err != nil {
		return err
	}
	ready := struct {
		Msg  string `json:"msg"`
		Addr string `json:"addr"`
	}{"ready", addr}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return fmt.Errorf("cannot say that the stand-in is ready: %w", err)
	}
	<-ctx.Done()
	return server.Close()
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// providerKey is what the stand-in asks for and weir must put in place of its customers'.
	providerKey = "sk-crash-provider"
	// startTimeout is within what a restart may take in all.
	startTimeout = time.Minute
	// stopTimeout is above the 30 s that weir gives its streams at the end.
	stopTimeout = 45 * time.Second
	// endlessRequests outlast any round: the load is ended by a signal.
	endlessRequests = "1000000000"
)

// ready is the line a process says first: the stand-in's address, or weir's listeners.
type ready struct {
	Addr       string `json:"addr"`
	Data       string `json:"data"`
	Control    string `json:"control"`
	ClickHouse string `json:"clickhouse"`
}

// process is a child of the run.
type process struct {
	cmd   *exec.Cmd
	ready chan string // its first line, or "" when it ended without
}

// spawn starts a program; its stderr is appended to a file of its name.
func spawn(ctx context.Context, dir, path string, args ...string) (*process, error) {
	complaints, err := os.OpenFile(filepath.Join(dir, filepath.Base(path)+".stderr"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", path, err)
	}
	defer complaints.Close() // the child has its own descriptor
	p := &process{cmd: exec.CommandContext(ctx, path, args...), ready: make(chan string, 1)}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopTimeout
	p.cmd.Stderr = complaints
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", path, err)
	}
	go func() {
		lines := bufio.NewScanner(stdout)
		lines.Scan()
		p.ready <- lines.Text()
		for lines.Scan() { // whatever else it says must not fill the pipe
		}
	}()
	return p, nil
}

// awaitReady waits for the process's first line.
func (p *process) awaitReady() (ready, error) {
	var r ready
	var err error
	select {
	case text := <-p.ready:
		err = json.Unmarshal([]byte(text), &r)
	case <-time.After(startTimeout):
		err = fmt.Errorf("no ready line within %v", startTimeout)
	}
	if err != nil {
		return r, fmt.Errorf("cannot start %s: %w", p.cmd.Path, err)
	}
	return r, nil
}

// stop ends the process by SIGTERM, and by force if that does not help.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	force := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() })
	defer force.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s did not end well: %w", p.cmd.Path, err)
	}
	return nil
}

// kill ends weir as a crash would: its main process alone, at once.
func (t *trial) kill() {
	_ = t.gateway.cmd.Process.Kill() // it may have ended by itself, and then its books will tell
	_ = t.gateway.cmd.Wait()         // says "killed"
	t.gateway = nil
	t.killed++
}

const weirConfig = `data_dir: %q
listen: {data: "127.0.0.1:0", control: "127.0.0.1:0", clickhouse: "127.0.0.1:0"}
providers:
  openai: {kind: openai, base_url: "http://%[2]s", api_key: %[3]q, allow_private: true}
  anthropic: {kind: anthropic, base_url: "http://%[2]s", api_key: %[3]q, allow_private: true}
`

func (t *trial) configPath() string { return filepath.Join(t.dir, "weir.yaml") }

// setUp starts the upstream and weir and funds the customers. The upstream is slow enough that
// at any moment requests are in every phase.
func (t *trial) setUp(ctx context.Context) error {
	upstream, err := spawn(ctx, t.dir, t.standin, "-key", providerKey, "-log", t.served.path, "-latency", "20ms", "-token-interval", "1ms")
	if err != nil {
		return err
	}
	t.upstream = upstream
	at, err := upstream.awaitReady()
	if err != nil {
		return err
	}
	data := filepath.Join(t.dir, "data")
	if err := os.WriteFile(t.configPath(), fmt.Appendf(nil, weirConfig, data, at.Addr, providerKey), 0o600); err != nil {
		return fmt.Errorf("cannot write weir's configuration: %w", err)
	}
	t.books = &books{dataDir: data}
	if err := t.startWeir(ctx); err != nil {
		return err
	}
	return t.books.fund(ctx)
}

func (t *trial) spawnWeir(ctx context.Context) (*process, error) {
	return spawn(ctx, t.dir, t.weir, "serve", "--config", t.configPath())
}

// startWeir starts weir and learns where it listens: a port may be another after each start.
func (t *trial) startWeir(ctx context.Context) error {
	var err error
	if t.gateway, err = t.spawnWeir(ctx); err != nil {
		return err
	}
	t.books.at, err = t.gateway.awaitReady()
	return err
}

func (t *trial) startLoad(ctx context.Context, n int) (*process, error) {
	return spawn(ctx, t.dir, t.load, "-target", "http://"+t.books.at.Data, "-key", t.books.keys, "-log", t.received.path,
		"-requests", endlessRequests, "-concurrency", fmt.Sprint(t.concurrency), "-seed", fmt.Sprint(t.seed+uint64(n)))
}

// stop ends what still runs at the end of the run.
func (t *trial) stop() {
	for _, p := range []*process{t.gateway, t.upstream} {
		if p == nil {
			continue
		}
		if err := p.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

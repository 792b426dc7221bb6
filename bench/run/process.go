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
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// startTimeout is enough for an embedded ClickHouse on a busy machine.
	startTimeout = time.Minute
	// stopTimeout is above the 30 s that weir gives its streams at the end.
	stopTimeout = 45 * time.Second
	// clockTicks a second is the unit of CPU times in /proc on every Linux that Go runs on.
	clockTicks = 100
)

// process is a child that has said it is ready.
type process struct {
	cmd   *exec.Cmd
	ready struct {
		Addr string `json:"addr"` // the stand-in's and the floor's
		Data string `json:"data"` // weir's
	}
}

// start runs a program whose first line on stdout is its ready line. Its stderr goes to a file.
func start(ctx context.Context, dir, path string, args ...string) (*process, error) {
	complaints, err := os.Create(filepath.Join(dir, filepath.Base(path)+".stderr"))
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", path, err)
	}
	defer complaints.Close() // the child has its own descriptor
	p := &process{cmd: exec.CommandContext(ctx, path, args...)}
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
	line := make(chan string, 1)
	go func() {
		scanner := bufio.NewScanner(stdout)
		scanner.Scan()
		line <- scanner.Text()
		for scanner.Scan() { // whatever else it says must not fill the pipe
		}
	}()
	select {
	case text := <-line:
		err = json.Unmarshal([]byte(text), &p.ready)
	case <-time.After(startTimeout):
		err = fmt.Errorf("no ready line within %v", startTimeout)
	}
	if err != nil {
		p.stop()
		said, _ := os.ReadFile(complaints.Name())
		return nil, fmt.Errorf("cannot start %s: %w\n%s", path, err, said)
	}
	return p, nil
}

// stop ends the process the way an operator does, and by force only if that does not help.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	force := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() })
	defer force.Stop()
	_ = p.cmd.Wait() // how it ends after the figures are taken changes none of them
}

// stat is one line of /proc/PID/stat.
type stat struct {
	parent int
	cpu    time.Duration // its own, and of children that it has waited for
}

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name in parentheses may hold anything; the fields after it are state, parent, … and,
	// from the 12th, utime, stime, cutime, cstime.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const parent, utime, cstime = 1, 11, 14
	if len(fields) <= cstime {
		return stat{}, fmt.Errorf("cannot read /proc/%d/stat: %d fields", pid, len(fields))
	}
	var s stat
	if s.parent, err = strconv.Atoi(fields[parent]); err != nil {
		return stat{}, fmt.Errorf("cannot read /proc/%d/stat: %w", pid, err)
	}
	for _, field := range fields[utime : cstime+1] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("cannot read /proc/%d/stat: %w", pid, err)
		}
		s.cpu += time.Duration(ticks) * time.Second / clockTicks
	}
	return s, nil
}

// tree returns the process and all its descendants.
func (p *process) tree() (map[int]stat, error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	all := map[int]stat{}
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		s, err := readStat(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended since it was listed
		}
		if err != nil {
			return nil, err
		}
		all[pid] = s
	}
	members := map[int]stat{}
	for pid := range all {
		for up := pid; up > 1; up = all[up].parent {
			if up == p.cmd.Process.Pid {
				members[pid] = all[pid]
				break
			}
		}
	}
	if len(members) == 0 {
		return nil, fmt.Errorf("process %d of %s has ended", p.cmd.Process.Pid, p.cmd.Path)
	}
	return members, nil
}

// cpu is the tree's CPU time so far; that of children waited for is in their parent's figure.
func (p *process) cpu() (time.Duration, error) {
	members, err := p.tree()
	var sum time.Duration
	for _, s := range members {
		sum += s.cpu
	}
	return sum, err
}

// peakRSSMiB is the sum of the peaks of the tree's processes, an upper bound of the tree's peak.
func (p *process) peakRSSMiB() (int, error) {
	members, err := p.tree()
	kib := 0
	for pid := range members {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, fmt.Errorf("cannot read memory figures: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
				if err != nil {
					return 0, fmt.Errorf("cannot read memory figures: %w", err)
				}
				kib += n
			}
		}
	}
	return kib / 1024, err
}

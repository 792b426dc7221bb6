package warehouse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"weir/internal/warehouse/engine"
)

const (
	// restartMin and restartMax bound the pause before a dead engine is
	// started again. It grows while engines die before they answer.
	restartMin = 100 * time.Millisecond
	restartMax = 10 * time.Second
	// endTimeout is how long the engine may take to end when asked to; then it
	// is killed. It survives that like any crash.
	endTimeout = 6 * time.Second
	// maxSocketPath is the kernel's limit for the path of a unix socket.
	maxSocketPath = 107
	// maxComplaint bounds what is kept of the engine's standard error.
	maxComplaint = 4 << 10
)

// canConfine asks the kernel; the test of a kernel that cannot replaces it.
var canConfine = func() bool { return engine.LandlockABI() >= 1 }

// child keeps the embedded engine's process running.
type child struct {
	cfg     Config
	options engine.Options

	mu        sync.Mutex    // guards the following
	answering chan struct{} // closed while the engine answers, replaced when it dies
	isUp      bool
	lastErr   error
	pid       int // of the running process, else 0
}

// newChild finds the library and prepares the directory.
func newChild(cfg Config) (*child, error) {
	library, err := findLibrary(cfg.Library)
	if err != nil {
		return nil, err
	}
	dataDir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("cannot use data_dir: %w", err)
	}
	cfg.DataDir = dataDir
	c := &child{
		cfg:       cfg,
		options:   engine.Options{Dir: filepath.Join(dataDir, "clickhouse"), Library: library, Confine: canConfine()},
		answering: make(chan struct{}),
	}
	if n := len(c.writerSocket()); n > maxSocketPath {
		return nil, fmt.Errorf("cannot use data_dir: its path is too long for a unix socket, by %d bytes", n-maxSocketPath)
	}
	if err := os.MkdirAll(c.options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the warehouse's directory: %w", err)
	}
	return c, nil
}

// The sockets lie outside the engine's own directory.
func (c *child) writerSocket() string { return filepath.Join(c.cfg.DataDir, "clickhouse.sock") }
func (c *child) readerSocket() string { return filepath.Join(c.cfg.DataDir, "clickhouse-ro.sock") }

// supervise runs the engine until ctx ends.
func (c *child) supervise(ctx context.Context) {
	for pause := restartMin; ; pause = min(2*pause, restartMax) {
		answered, err := c.runOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if answered {
			pause = restartMin
		}
		c.cfg.Log.Warn("the embedded ClickHouse engine ended; starting it again", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// runOnce starts the engine and returns when it ended: whether it ever answered
// and why it ended, which is never nil.
func (c *child) runOnce(ctx context.Context) (answered bool, err error) {
	// The engine runs for as long as this end of the pipe is open: it learns of
	// weir's death from the end of file, whichever way weir died.
	lifelineFar, lifeline, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer lifeline.Close()
	files := []*os.File{lifelineFar}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, path := range []string{c.writerSocket(), c.readerSocket()} {
		f, err := listen(path)
		if err != nil {
			return false, c.failed(err)
		}
		files = append(files, f)
	}
	cmd := engine.Command(c.options, files[0], files[1], files[2])
	complained := &complaint{}
	cmd.Stderr = complained
	said, err := cmd.StdoutPipe()
	if err != nil {
		return false, fmt.Errorf("cannot make a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return false, c.failed(fmt.Errorf("cannot start the ClickHouse engine: %w", err))
	}
	for _, f := range files { // now the child's alone: calls fail as soon as it is dead
		f.Close()
	}
	files = nil
	c.setPID(cmd.Process.Pid)
	defer c.setPID(0)

	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		lifeline.Close()
		select {
		case <-ended:
		case <-time.After(endTimeout):
			_ = cmd.Process.Kill() // fails only when it has ended
		}
	})
	defer stop()
	answered = c.listenTo(said)
	err = cmd.Wait()
	close(ended)
	c.down()
	return answered, c.failed(fmt.Errorf("the ClickHouse engine ended: %w: %s", errOr(err), complained))
}

// errOr names an end without error, which nobody asked for.
func errOr(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// listenTo reads the engine's standard output until it ends, and tells whether
// it said that it answers.
func (c *child) listenTo(said io.Reader) (answered bool) {
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if lines.Text() == engine.ReadyLine {
			c.mu.Lock()
			c.isUp = true
			close(c.answering)
			c.mu.Unlock()
			answered = true
		}
	}
	return answered
}

func (c *child) down() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isUp {
		c.isUp = false
		c.answering = make(chan struct{})
	}
}

func (c *child) up() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isUp
}

// wait returns when the engine answers.
func (c *child) wait(ctx context.Context) error {
	c.mu.Lock()
	answering := c.answering
	c.mu.Unlock()
	select {
	case <-answering:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *child) failed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastErr = err
	return err
}

func (c *child) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastErr
}

func (c *child) setPID(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
}

// listen makes a unix socket that only this user may connect to and returns it
// for handing over. A socket left by an earlier process is removed; the data
// directory's lock makes sure that it is not another's.
func listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot make the warehouse's socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("cannot protect the warehouse's socket: %w", err)
	}
	return l.File()
}

// complaint keeps the beginning of what the engine complained about: the first
// error is the cause, the rest its consequences.
type complaint struct{ text strings.Builder }

func (c *complaint) Write(p []byte) (int, error) {
	room := max(0, maxComplaint-c.text.Len())
	c.text.Write(p[:min(len(p), room)])
	return len(p), nil
}

func (c *complaint) String() string { return strings.TrimSpace(c.text.String()) }

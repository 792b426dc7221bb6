// Package engine is the ClickHouse engine as a process of its own: libchdb
// loaded without cgo, confined by the kernel, answering ClickHouse's HTTP
// interface on two unix sockets. A crash of the engine ends this process and
// not weir.
package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// Verb is the hidden command under which weir executes itself as the engine.
const Verb = "clickhouse-child"

// ReadyLine is what the engine writes to its standard output once it answers.
const ReadyLine = "ready"

// The inherited descriptors, in the order of Command's parameters. The
// lifeline is the reading end of a pipe whose other end only the parent holds:
// its end of file means that the parent closed it or is gone.
const (
	lifelineFD = 3 + iota
	writerFD
	readerFD
)

const (
	// drainTimeout is how long running statements may take when the process
	// is told to end. Shorter than the parent's patience, so that it can still
	// close the engine properly.
	drainTimeout = 3 * time.Second
	// headerTimeout bounds a peer that connects and says nothing.
	headerTimeout = 5 * time.Second
)

// Options is what a parent tells the engine process.
type Options struct {
	Dir     string // the engine's own directory, absolute; it must exist
	Library string // the path of libchdb, absolute, symbolic links resolved
	Confine bool   // take away everything else by Landlock
}

func (o Options) args(confined bool) []string {
	return []string{Verb, "--dir=" + o.Dir, "--library=" + o.Library,
		fmt.Sprintf("--confine=%t", o.Confine), fmt.Sprintf("--confined=%t", confined)}
}

// Command prepares the process. Its environment is empty, since weir's own
// holds provider keys; it has a process group of its own, so that a terminal's
// interrupt reaches weir alone. Requests on writer may do anything, those on
// reader only read. The caller starts it, closes its copies of the three files
// and keeps the other end of lifeline open for as long as the engine shall run.
func Command(o Options, lifeline, writer, reader *os.File) *exec.Cmd {
	return &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        append([]string{"weir"}, o.args(false)...),
		Env:         []string{},
		Dir:         o.Dir,
		ExtraFiles:  []*os.File{lifeline, writer, reader},
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
}

// Run is the engine process: args are those after the verb. It returns the
// process' exit status.
func Run(args []string) int {
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(args []string) error {
	var o Options
	var confined bool
	flags := flag.NewFlagSet(Verb, flag.ContinueOnError)
	flags.StringVar(&o.Dir, "dir", "", "the engine's directory")
	flags.StringVar(&o.Library, "library", "", "libchdb.so")
	flags.BoolVar(&o.Confine, "confine", true, "confine the process by Landlock")
	flags.BoolVar(&confined, "confined", false, "this is the confined image")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.Confine && !confined {
		return confineAndExec(o, append([]string{"weir"}, o.args(true)...))
	}
	if o.Confine {
		if err := verifyConfined(); err != nil {
			return err
		}
	}
	writer, err := inherited(writerFD)
	if err != nil {
		return err
	}
	reader, err := inherited(readerFD)
	if err != nil {
		return err
	}
	return serve(o, writer, reader)
}

func inherited(fd uintptr) (net.Listener, error) {
	file := os.NewFile(fd, "listener")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d is no listener (%s is started by weir itself): %w", fd, Verb, err)
	}
	return l, nil
}

// serve boots the engine and answers until the lifeline ends.
func serve(o Options, writer, reader net.Listener) error {
	lib, err := load(o.Library)
	if err != nil {
		return err
	}
	// The engine lives as long as one session of it is open.
	boot, err := lib.open(append(slices.Clone(serverArgs), "--path="+o.Dir))
	if err != nil {
		return err
	}
	defer boot.close()
	if err := ignoreStackTraces(); err != nil {
		return err
	}

	writing := &http.Server{Handler: newFront(lib, o.Dir, false), ReadHeaderTimeout: headerTimeout}
	reading := &http.Server{Handler: newFront(lib, o.Dir, true), ReadHeaderTimeout: headerTimeout}
	failed := make(chan error, 3)
	go func() { failed <- writing.Serve(writer) }()
	go func() { failed <- reading.Serve(reader) }()
	go func() {
		_, err := io.Copy(io.Discard, os.NewFile(lifelineFD, "lifeline"))
		failed <- err // nil: the parent closed it or is gone
	}()
	fmt.Println(ReadyLine)
	err = <-failed

	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	stopped := errors.Join(writing.Shutdown(ctx), reading.Shutdown(ctx))
	if stopped != nil { // statements still run; the engine's files survive a sudden end
		os.Exit(0)
	}
	return err
}

package distributed

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// startPatience is how long a process may take to say that it is ready, on
	// a machine that does much else. It is not measured.
	startPatience = time.Minute
	// stopMax is the contract's: streams have 30 s, then aborted calls a few to
	// write their records, then up to 10 s until everything is settled.
	stopMax = 45 * time.Second
)

// process is a child of the test.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	lines chan string   // its standard output
	ended chan struct{} // closed when it has
	err   error         // how it ended; set before ended is closed
}

// spawn starts a program, whose standard error is appended to a file. A program
// that still runs at the end of the test is stopped.
func spawn(t *testing.T, complaints, path string, args ...string) *process {
	t.Helper()
	f, err := os.OpenFile(complaints, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // the child has its own descriptor
	p := &process{t: t, name: filepath.Base(path) + " " + strings.Join(args, " "), cmd: exec.Command(path, args...),
		lines: make(chan string, 16), ended: make(chan struct{})}
	p.cmd.Stderr = f
	// Should the test die, its processes do too.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(said); lines.Scan(); {
			select {
			case p.lines <- lines.Text():
			default: // nobody reads what comes later
			}
		}
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		select {
		case <-p.ended:
		default:
			p.stop()
		}
	})
	return p
}

// firstLine is what it says first.
func (p *process) firstLine() string {
	p.t.Helper()
	select {
	case line := <-p.lines:
		return line
	case <-p.ended:
		p.t.Fatalf("%s ended: %v", p.name, p.err)
	case <-time.After(startPatience):
		p.t.Fatalf("%s said nothing for %s", p.name, startPatience)
	}
	return ""
}

// kill ends it as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// stop ends it by SIGTERM and returns how long that took. It must end well.
func (p *process) stop() time.Duration {
	p.t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	select {
	case <-p.ended:
	case <-time.After(stopMax):
		p.t.Errorf("%s did not stop within %s", p.name, stopMax)
		p.kill()
		return time.Since(began)
	}
	if p.err != nil {
		p.t.Errorf("%s did not end well: %v", p.name, p.err)
	}
	return time.Since(began)
}

// weir is one process of the program, which can be started again under its
// configuration: on the same data directory and ports.
type weir struct {
	*process
	in         *installation
	role       string
	dir        string
	data       string // addresses; "" = off
	control    string
	clickhouse string        // of an embedded engine, once it is ready
	lastStart  time.Duration // until it was ready
}

// weir configures a process for a role and starts it. extra is YAML.
func (in *installation) weir(role, extra string) *weir {
	in.Helper()
	w := in.configure(role, extra)
	w.start()
	return w
}

// configure gives a process its ports and directory, with its weir.yaml.
func (in *installation) configure(role, extra string) *weir {
	in.Helper()
	in.weirs++
	w := &weir{in: in, role: role, dir: filepath.Join(in.dir, fmt.Sprint(role, in.weirs)), control: in.freePort()}
	if role == "gateway" || role == "all" {
		w.data = in.freePort()
	}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		in.Fatal(err)
	}
	text := in.configuration(w) + extra
	if err := os.WriteFile(filepath.Join(w.dir, "weir.yaml"), []byte(text), 0o600); err != nil {
		in.Fatal(err)
	}
	return w
}

// start returns when the process is ready.
func (w *weir) start() {
	w.in.Helper()
	began := time.Now()
	w.launch()
	var ready struct{ Msg, Data, Control, ClickHouse string }
	if err := json.Unmarshal([]byte(w.firstLine()), &ready); err != nil || ready.Msg != "ready" {
		w.in.Fatalf("%s says no ready line: %v", w.name, err)
	}
	w.clickhouse, w.lastStart = ready.ClickHouse, time.Since(began)
}

// launch starts the process and waits for nothing.
func (w *weir) launch() {
	w.in.Helper()
	w.process = spawn(w.in.T, w.log(), binaries(w.in.T).weir, "serve", "--role", w.role, "--config", filepath.Join(w.dir, "weir.yaml"))
}

func (w *weir) log() string { return filepath.Join(w.dir, "log.jsonl") }

// health asks the control listener: the status, and what its body says.
func (w *weir) health(path string) (status int, body string) {
	resp, err := http.Get("http://" + w.control + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// eventually waits for a condition, and says what was last found if it does not
// come about in time. It returns how long that took.
func eventually(t *testing.T, within time.Duration, what string, holds func() (bool, string)) time.Duration {
	t.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		ok, found := holds()
		if ok {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("not within %s: %s; found %s", within, what, found)
		}
	}
}

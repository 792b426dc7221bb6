package warehouse

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/schemas/usage"
)

// parentEnv makes the test program a weir that opens a warehouse in the named
// directory, prints its engine's process id and waits to be killed.
const parentEnv = "WEIR_TEST_PARENT"

func runParent(dir string) int {
	d, err := Open(context.Background(), Config{Library: os.Getenv("WEIR_TEST_LIBRARY"), DataDir: dir, Log: slog.Default()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(d.enginePID())
	select {}
}

func (d *DB) enginePID() int {
	d.child.mu.Lock()
	defer d.child.mu.Unlock()
	return d.child.pid
}

// gone tells whether a process has ended (a zombie has).
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || strings.Contains(string(stat), ") Z ")
}

func TestKilledEngineLosesAndDoublesNothing(t *testing.T) {
	d := openEmbedded(t)
	const batches, kills = 20, 3
	stop := make(chan struct{})
	killed := make(chan int)
	go func() { // kills whenever the engine has just come up again
		n := 0
		defer func() { killed <- n }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(20+13*n) * time.Millisecond): // at varying points of an append
			}
			if pid := d.enginePID(); n < kills && d.Up() && pid != 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				n++
			}
		}
	}()
	var all [][]usage.Record
	failures := 0
	for i := range batches {
		recs := records(uint64(100+i), 200)
		all = append(all, recs)
		id := fmt.Sprintf("T/0/%d", i)
		until(t, "append of "+id, func() bool {
			err := d.Append(context.Background(), id, recs)
			if err != nil {
				failures++
			}
			return err == nil
		})
	}
	close(stop)
	if n := <-killed; n == 0 || failures == 0 {
		t.Fatalf("%d kills, %d failed appends: the test tested nothing", n, failures)
	}
	if got, want := totals(t, d), expected(all...); got != want {
		t.Errorf("totals\n got %q\nwant %q", got, want)
	}
}

func TestEngineEndsWithItsParent(t *testing.T) {
	library := needLibrary(t)
	parent := exec.Command("/proc/self/exe")
	parent.Env = []string{parentEnv + "=" + t.TempDir(), "WEIR_TEST_LIBRARY=" + library}
	parent.Stderr = t.Output()
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 32)
	n, _ := out.Read(line)
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err, parent.Wait())
	}
	if gone(pid) {
		t.Fatal("the engine does not run")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // "signal: killed"
	until(t, "the engine's end", func() bool { return gone(pid) })
}

func TestEngineProcess(t *testing.T) {
	t.Setenv("SECRET_PROVIDER_KEY", "sk-secret")
	d := openEmbedded(t)
	pid := d.enginePID()
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || len(env) != 0 {
		t.Errorf("its environment is %q, %v", env, err)
	}
	// Signal 34's handler would run on the stacks of goroutines.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	ignored := regexp.MustCompile(`SigIgn:\t([0-9a-f]{16})`).FindSubmatch(status)
	if err != nil || ignored == nil {
		t.Fatal(err, string(status))
	}
	if mask, err := strconv.ParseUint(string(ignored[1]), 16, 64); err != nil || mask>>33&1 == 0 {
		t.Errorf("it ignores %s, %v: reading system.stack_trace would destroy its memory", ignored[1], err)
	}
	if group, err := syscall.Getpgid(pid); err != nil || group != pid {
		t.Errorf("its process group is %d, %v: an interrupt at the terminal would end it before weir", group, err)
	}
	for _, path := range []string{d.child.writerSocket(), d.child.readerSocket()} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if !gone(pid) || d.Up() {
		t.Errorf("after Close: gone %t, up %t", gone(pid), d.Up())
	}
}

func TestMissingLibraryIsSaidAtOnce(t *testing.T) {
	_, err := Start(Config{Library: filepath.Join(t.TempDir(), libraryName), DataDir: t.TempDir(), Log: slog.Default()})
	if !errors.Is(err, ErrNoLibrary) {
		t.Errorf("got %v", err)
	}
}

func TestBrokenLibraryIsTheReason(t *testing.T) {
	library := filepath.Join(t.TempDir(), libraryName)
	if err := os.WriteFile(library, []byte("no library"), 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := Start(Config{Library: library, DataDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	until(t, "the engine's failure", func() bool { return d.child.failure() != nil })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Wait(ctx); err == nil || !strings.Contains(err.Error(), "cannot load the ClickHouse library") {
		t.Errorf("got %v", err)
	}
}

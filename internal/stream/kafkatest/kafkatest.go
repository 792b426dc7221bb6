// Package kafkatest gives tests a real Kafka: the three brokers of
// scripts/kafka, started once for a test binary and gone with it. They take
// Java and half a minute, so they must be asked for: WEIR_TEST_KAFKA=1 runs
// the tests where the tools are, WEIR_REQUIRE=kafka fails without them.
package kafkatest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Brokers is how many there are, numbered from 1.
const Brokers = 3

// Cluster is the running brokers.
type Cluster struct {
	Addresses []string // host:port, without protection
	Secure    []string // the same brokers by TLS and SCRAM: user weir, password weir-secret
	CAFile    string   // PEM, of the certificate on the Secure addresses

	script, dir string
}

// Start is the cluster, shared by the tests of this binary, or the end of the
// test. Each test makes topics of its own.
func Start(t testing.TB) *Cluster {
	t.Helper()
	required := strings.Contains(os.Getenv("WEIR_REQUIRE"), "kafka")
	if !required && os.Getenv("WEIR_TEST_KAFKA") != "1" {
		t.Skip("three brokers take half a minute to start: make test-distributed runs this")
	}
	c, err := start()
	if err != nil && required {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip("no Kafka can be started here, WEIR_REQUIRE=kafka insists on it: ", err)
	}
	return c
}

// held is the pipe whose end stops the brokers. As a global it is not
// collected, and so not closed, before the process ends.
var held atomic.Pointer[io.WriteCloser]

var start = sync.OnceValues(func() (*Cluster, error) {
	script, err := find(filepath.Join("scripts", "kafka"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(script, "hold")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	held.Store(&stdin)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, errors.Join(errors.New(strings.TrimSpace(stderr.String())), cmd.Wait())
	}
	dir, addresses, _ := strings.Cut(strings.TrimSpace(line), " ")
	c := &Cluster{Addresses: strings.Split(addresses, ","), CAFile: filepath.Join(dir, "ca.pem"), script: script, dir: dir}
	secure, err := c.run("secure")
	c.Secure = strings.Split(strings.TrimSpace(secure), ",")
	return c, err
})

// Kill ends a broker by SIGKILL.
func (c *Cluster) Kill(broker int) error {
	_, err := c.run("kill", fmt.Sprint(broker))
	return err
}

// Restart starts a broker that was killed and returns when it serves.
func (c *Cluster) Restart(broker int) error {
	_, err := c.run("restart", fmt.Sprint(broker))
	return err
}

func (c *Cluster) run(verb string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(c.script, append(append([]string{verb}, args...), c.dir)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("scripts/kafka %s: %w: %s", verb, err, stderr.String())
	}
	return stdout.String(), nil
}

// find looks for a file of the module from the test's directory upwards.
func find(name string) (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.Join(fmt.Errorf("%s is not in a directory above", name), err)
}

package distributed

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
	"testing"
)

// brokerCount is how many brokers scripts/kafka starts.
const brokerCount = 3

// cluster is a real Kafka: three brokers as processes of their own, shared by
// the tests of this package, each on a topic of its own.
type cluster struct {
	script, dir string
	brokers     []string
	held        io.Closer // the pipe whose end stops the brokers
	ended       chan error
}

var runningCluster *cluster // of this test binary, once one was started

// startCluster has the script hold the brokers: it ends them when the pipe to it
// breaks, at the end of this process, however that comes.
var startCluster = sync.OnceValues(func() (*cluster, error) {
	path, err := filepath.Abs("../../scripts/kafka")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "hold")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	held, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	dir, brokers, found := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || !found {
		return nil, errors.Join(errors.New(strings.TrimSpace(complaint.String())), err, cmd.Wait())
	}
	c := &cluster{script: path, dir: dir, brokers: strings.Split(brokers, ","), held: held, ended: make(chan error, 1)}
	go func() { c.ended <- cmd.Wait() }()
	runningCluster = c
	return c, nil
})

// kafka is the cluster, or the end of the test: starting one takes Java and
// half a minute, so it must be asked for.
func kafka(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv("WEIR_TEST_KAFKA") != "1" && !strings.Contains(os.Getenv("WEIR_REQUIRE"), "kafka") {
		t.Skip("three brokers take half a minute to start: make test-distributed runs this")
	}
	c, err := startCluster()
	if err != nil {
		absent(t, "kafka", err)
	}
	return c
}

// run calls the script for this cluster.
func (c *cluster) run(t *testing.T, verb ...string) {
	t.Helper()
	if out, err := exec.Command(c.script, append(verb, c.dir)...).CombinedOutput(); err != nil {
		t.Fatalf("scripts/kafka %s: %v: %s", verb, err, out)
	}
}

// kill ends a broker, 1 to 3, by SIGKILL; restart returns when it serves again.
func (c *cluster) kill(t *testing.T, broker int) { t.Helper(); c.run(t, "kill", fmt.Sprint(broker)) }
func (c *cluster) restart(t *testing.T, broker int) {
	t.Helper()
	c.run(t, "restart", fmt.Sprint(broker))
}

// killAll and restartAll take the whole cluster away and bring it back.
func (c *cluster) killAll(t *testing.T) {
	t.Helper()
	for n := range brokerCount {
		c.kill(t, n+1)
	}
}

func (c *cluster) restartAll(t *testing.T) { t.Helper(); c.run(t, "start") }

// stop ends the brokers.
func (c *cluster) stop() error {
	c.held.Close()
	return <-c.ended
}

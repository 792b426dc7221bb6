// Command chserver serves the ClickHouse engine over HTTP on a port of the
// loopback interface, for writing, without a password: a stand-in for a
// ClickHouse server where none can be had. It is the engine that weir embeds,
// so what it answers is ClickHouse's own.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"weir/internal/warehouse/engine"
)

// listenPatience is how long the port may still be an earlier process' own,
// whose engine outlives a kill by the statements it runs.
const listenPatience = 10 * time.Second

func main() {
	if len(os.Args) > 1 && os.Args[1] == engine.Verb {
		os.Exit(engine.Run(os.Args[2:]))
	}
	var o engine.Options
	flag.StringVar(&o.Dir, "dir", "", "the engine's directory; it must exist")
	flag.StringVar(&o.Library, "library", "", "libchdb.so")
	listen := flag.String("listen", "127.0.0.1:0", "where to serve")
	flag.Parse()
	if err := serve(o, *listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve runs the engine until SIGTERM; the line on stdout is its address, said
// once it answers.
func serve(o engine.Options, address string) (err error) {
	if o.Library, err = filepath.EvalSymlinks(o.Library); err == nil {
		o.Library, err = filepath.Abs(o.Library)
	}
	if err != nil {
		return err
	}
	o.Confine = engine.LandlockABI() >= 1
	far, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	writer, at, err := listener(address)
	if err != nil {
		return err
	}
	reader, _, err := listener("127.0.0.1:0") // nobody is told of it
	if err != nil {
		return err
	}
	cmd := engine.Command(o, far, writer, reader)
	cmd.Stderr = os.Stderr
	said, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	for _, f := range []*os.File{far, writer, reader} { // the engine's alone now
		f.Close()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stop
		lifeline.Close()
	}()
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if lines.Text() == engine.ReadyLine {
			fmt.Println(at)
		}
	}
	return cmd.Wait()
}

// listener opens a port as a file to hand over.
func listener(address string) (file *os.File, at net.Addr, err error) {
	for deadline := time.Now().Add(listenPatience); ; time.Sleep(50 * time.Millisecond) {
		l, err := net.Listen("tcp", address)
		if err == nil {
			defer l.Close()
			file, err = l.(*net.TCPListener).File()
			return file, l.Addr(), err
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return nil, nil, err
		}
	}
}

// Command floor is a bare reverse proxy on fasthttp: what any proxy costs that reads a request,
// calls the upstream and passes the answer on, streams included. The bench divides by it.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// connectionsMax is above every concurrency the bench uses: the floor never queues.
	connectionsMax = 4096
	// bodyBytesMax is the limit of the proxy that is measured against this one.
	bodyBytesMax = 64 << 20
	// idleTimeout keeps connections over the pauses between two rounds.
	idleTimeout = time.Minute
)

// newProxy returns a server that passes everything on to upstream (host:port) as it is.
func newProxy(upstream string) *fasthttp.Server {
	client := &fasthttp.HostClient{Addr: upstream, MaxConns: connectionsMax, MaxIdleConnDuration: idleTimeout,
		StreamResponseBody: true, DisablePathNormalizing: true}
	return &fasthttp.Server{
		MaxRequestBodySize: bodyBytesMax,
		IdleTimeout:        idleTimeout,
		Handler: func(ctx *fasthttp.RequestCtx) {
			ctx.Request.Header.Del("Connection")
			if err := client.Do(&ctx.Request, &ctx.Response); err != nil {
				ctx.Error("the upstream did not answer", fasthttp.StatusBadGateway)
				return
			}
			ctx.Response.Header.Del("Connection")
		},
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to serve on; port 0 = any")
	upstream := flag.String("upstream", "", "host:port to pass requests to")
	flag.Parse()
	if *upstream == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("cannot listen: %v", err)
	}
	ready := map[string]string{"msg": "ready", "addr": l.Addr().String()}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		log.Fatalf("cannot say that the floor is ready: %v", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	log.Fatalf("cannot serve: %v", newProxy(*upstream).Serve(l))
}

package notify_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/internal/ledger"
	"weir/internal/notify"
)

func TestCheckURL(t *testing.T) {
	f := func(url string, private bool, want string) {
		t.Helper()
		if got := notify.CheckURL(url, private); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
	for _, private := range []bool{false, true} {
		f("https://platform.example/weir?token=x", private, "")
		f("https://platform.example:8443", private, "")
		f("https://1.1.1.1/", private, "")
		for _, none := range []string{"", "platform.example", "/weir", "https:", "https://", "https://:443/", "https:platform.example", "https://a b/", "https://h:x/"} {
			f(none, private, "no URL")
		}
		f("ftp://platform.example/", private, "must begin with https://")
		f("https://me:secret@platform.example/", private, "neither user")
		f("https://platform.example/#a", private, "nor fragment")
		f("https://platform.example/"+strings.Repeat("a", 2048), private, "too long")
	}
	f("http://platform.example/", false, "must begin with https://")
	f("http://platform.example/", true, "")
	for _, host := range []string{"127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1:8443", "[::ffff:10.0.0.1]"} {
		f("https://"+host+"/", false, "not a public one")
		f("https://"+host+"/", true, "")
	}
}

// TestPrivateAddresses: no delivery reaches the operator's own network, named
// by address or by a name that resolves to one.
func TestPrivateAddresses(t *testing.T) {
	r := onFile(t)
	p := r.receiver(nil)
	_, port, err := net.SplitHostPort(p.Listener.Addr().String())
	r.must(err)
	hosts := []string{"127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "[fd00:ec2::254]"}
	for _, host := range hosts {
		r.add(host, "http://"+host+":"+port+"/")
	}
	r.emit(ledger.EventCredited, "evt_1")
	r.must(r.over(r.db, false).Step(t.Context()))
	for _, host := range hosts {
		r.expect(host, "evt_1", ledger.DeliveryPending, 1, 0, "its address is not a public one")
	}
	if len(p.all()) != 0 {
		t.Error("a private receiver was reached")
	}
	c, err := net.Dial("tcp", "localhost:"+port)
	r.must(err) // so the name does lead there
	c.Close()
}

// TestMain names a proxy that nobody serves, before anything asks for one.
func TestMain(m *testing.M) {
	os.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	m.Run()
}

// TestNoProxy: a proxy in the environment could reach the operator's network,
// and is not used.
func TestNoProxy(t *testing.T) {
	r := onFile(t)
	r.add("named", "http://platform.invalid")
	r.emit(ledger.EventCredited, "evt_1")
	r.must(r.notifier().Step(t.Context()))
	r.expect("named", "evt_1", ledger.DeliveryPending, 1, 0, "its name cannot be resolved")
}

// TestRedirects are failures, and not followed.
func TestRedirects(t *testing.T) {
	r := onFile(t)
	thief := r.receiver(nil)
	codes := []int{301, 302, 303, 307, 308}
	for _, code := range codes {
		door := httptest.NewServer(http.RedirectHandler(thief.URL, code))
		defer door.Close()
		r.add(strconv.Itoa(code), door.URL)
	}
	r.emit(ledger.EventCredited, "evt_1")
	r.must(r.notifier().Step(t.Context()))
	for _, code := range codes {
		r.expect(strconv.Itoa(code), "evt_1", ledger.DeliveryPending, 1, code, "it answered "+strconv.Itoa(code))
	}
	if len(thief.all()) != 0 {
		t.Error("a redirect was followed")
	}
}

// listen is a receiver below HTTP.
func (r *rig) listen(serve func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	r.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestBadReceivers: whatever a receiver does ends within the timeout, a 2xx
// alone is success, and what the receiver sent is kept nowhere.
func TestBadReceivers(t *testing.T) {
	r := onFile(t)
	const timeout = 400 * time.Millisecond
	stop := make(chan struct{})
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, text)
			<-stop
		}
	}
	flood := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, text)
			for {
				if _, err := c.Write([]byte(strings.Repeat("x", 1<<16))); err != nil {
					return
				}
			}
		}
	}
	tls := httptest.NewTLSServer(status(200))
	defer tls.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	cases := []struct {
		id, url, state string
		status         int
		why            string
	}{
		{"silent", r.listen(say("")), ledger.DeliveryPending, 0, "did not answer within"},
		{"slow headers", r.listen(say("HTTP/1.1 200 OK\r\nX: ")), ledger.DeliveryPending, 0, "did not answer within"},
		{"slow body", r.listen(say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")), ledger.DeliveryDone, 200, ""},
		{"huge body", r.listen(flood("HTTP/1.1 200 OK\r\n\r\n")), ledger.DeliveryDone, 200, ""},
		{"huge header", r.listen(flood("HTTP/1.1 200 OK\r\nX: ")), ledger.DeliveryPending, 0, "broke the connection off, or gave no HTTP answer"},
		{"large header", r.listen(say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 20000) + "\r\nContent-Length: 0\r\n\r\n")), ledger.DeliveryDone, 200, ""},
		{"echo", r.listen(func(c net.Conn) { io.Copy(c, c) }), ledger.DeliveryPending, 0, "broke the connection off, or gave no HTTP answer"},
		{"closes", r.listen(func(net.Conn) {}), ledger.DeliveryPending, 0, "broke the connection off, or gave no HTTP answer"},
		{"closed", closed.URL, ledger.DeliveryPending, 0, "cannot be reached: connect: connection refused"},
		{"unknown certificate", tls.URL, ledger.DeliveryPending, 0, "certificate cannot be verified"},
		{"no certificate", strings.Replace(r.listen(say("HTTP/1.1 200 OK\r\n\r\n")), "http", "https", 1), ledger.DeliveryPending, 0, "gave no HTTP answer"},
		{"informational", r.listen(say("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")), ledger.DeliveryPending, 404, "it answered 404"},
	}
	for _, c := range cases {
		r.add(c.id, c.url)
	}
	r.emit(ledger.EventCredited, "evt_1")
	n := r.notifier()
	n.SetTimeout(timeout)
	r.must(n.Step(t.Context()))
	close(stop)
	for _, c := range cases {
		r.expect(c.id, "evt_1", c.state, 1, c.status, c.why)
	}
}

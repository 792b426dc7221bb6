package notify_test

import (
	"bufio"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
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

// endings says how a delivery to each receiver ends.
type endings []struct {
	id, url, state string
	status         int
	why            string
}

// judge sends an event to all and compares. What a receiver sent is kept
// nowhere, as at the end of every test.
func (r *rig) judge(n *notify.Notifier, want endings) {
	r.Helper()
	for _, w := range want {
		r.add(w.id, w.url)
	}
	r.emit(ledger.EventCredited, "evt_1")
	r.must(n.Step(r.Context()))
	for _, w := range want {
		r.expect(w.id, "evt_1", w.state, 1, w.status, w.why)
	}
}

// TestHangingReceivers: a delivery ends when its time is over; what counts is
// the status, if it came.
func TestHangingReceivers(t *testing.T) {
	r := onFile(t)
	stop := make(chan struct{})
	defer close(stop)
	hang := func(text string) string {
		return r.listen(func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, text)
			<-stop
		})
	}
	n := r.notifier()
	n.SetTimeout(2 * time.Second)
	r.judge(n, endings{
		{"silent", hang(""), ledger.DeliveryPending, 0, "did not answer within"},
		{"slow headers", hang("HTTP/1.1 200 OK\r\nX: "), ledger.DeliveryPending, 0, "did not answer within"},
		{"slow body", hang("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"), ledger.DeliveryDone, 200, ""},
	})
}

// TestBadReceivers: a 2xx alone is success, and no receiver makes weir read
// more than it wants.
func TestBadReceivers(t *testing.T) {
	r := onFile(t)
	say := func(text string) string {
		return r.listen(func(c net.Conn) {
			if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil { // what is left unread resets the connection
				io.Copy(io.Discard, req.Body)
			}
			io.WriteString(c, text)
		})
	}
	var flooded atomic.Int64 // bytes
	flood := func(text string) string {
		return r.listen(func(c net.Conn) {
			c.Read(make([]byte, 4096))
			n, err := io.WriteString(c, text)
			for err == nil {
				flooded.Add(int64(n))
				n, err = c.Write(make([]byte, 1<<16))
			}
		})
	}
	stranger := httptest.NewUnstartedServer(status(200))
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0) // where it tells that its certificate was refused
	stranger.StartTLS()
	defer stranger.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	const none, broken = ledger.DeliveryPending, "broke the connection off, or gave no HTTP answer"
	r.judge(r.notifier(), endings{
		{"huge body", flood("HTTP/1.1 200 OK\r\n\r\n"), ledger.DeliveryDone, 200, ""},
		{"huge header", flood("HTTP/1.1 200 OK\r\nX: "), none, 0, broken},
		{"large header", say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 20000) + "\r\nContent-Length: 0\r\n\r\n"), ledger.DeliveryDone, 200, ""},
		{"echo", r.listen(func(c net.Conn) { io.Copy(c, c) }), none, 0, broken},
		{"closes", say(""), none, 0, broken},
		{"closed", closed.URL, none, 0, "cannot be reached: connect: connection refused"},
		{"stranger", stranger.URL, none, 0, "certificate cannot be verified"},
		{"no certificate", strings.Replace(say("HTTP/1.1 200 OK\r\n\r\n"), "http", "https", 1), none, 0, "gave no HTTP answer"},
		{"early hints", say("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), none, 404, "it answered 404"},
	})
	if n := flooded.Load(); n > 32<<20 { // what the system buffers on both sides, four times over
		t.Errorf("%d bytes were taken of endless answers", n)
	}
}

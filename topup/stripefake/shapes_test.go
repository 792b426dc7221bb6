package stripefake

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

// structs are stripe-go's types by the name that objects carry.
var structs = map[string]reflect.Type{}

func init() {
	for _, v := range []any{stripe.Customer{}, stripe.PaymentMethod{}, stripe.PaymentIntent{}, stripe.SetupIntent{}, stripe.Charge{}, stripe.Refund{}, stripe.Dispute{},
		stripe.BalanceTransaction{}, stripe.Event{}, stripe.Product{}, stripe.Price{}, stripe.Plan{}, stripe.Subscription{}, stripe.Invoice{}} {
		t := reflect.TypeOf(v)
		structs[snake(t.Name())] = t
	}
	structs["checkout.session"] = reflect.TypeOf(stripe.CheckoutSession{})
	structs["radar.early_fraud_warning"] = reflect.TypeOf(stripe.RadarEarlyFraudWarning{})
	structs["subscription_item"] = reflect.TypeOf(stripe.SubscriptionItem{})
	structs["line_item"] = reflect.TypeOf(stripe.InvoiceLineItem{})
	structs["item"] = reflect.TypeOf(stripe.LineItem{})
}

func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// checkShapes compares every answer with stripe-go's structs and, where it is
// to be had, with stripe-mock's answer to the same request.
func (f *fixture) checkShapes() {
	mock, _ := stripeMock()
	for _, x := range f.exchanges {
		var got any
		if err := json.Unmarshal(x.answer, &got); x.status == 0 || len(x.answer) == 0 {
			continue // the answer was lost on purpose
		} else if err != nil {
			f.t.Errorf("%s %s: answer is not JSON: %v", x.method, x.target, err)
			continue
		}
		at := fmt.Sprintf("%s %s %d", x.method, x.target, x.status)
		if x.status != http.StatusOK {
			checkError(f.t, at, got)
			continue
		}
		for _, missing := range unread(got) {
			f.once("stripe-go reads "+missing+", which is not there", at)
		}
		if mock != "" {
			f.compareWithMock(mock, at, x, got)
		}
	}
}

// once reports a fault of the shapes at its first place only.
func (f *fixture) once(fault, at string) {
	if !f.told[fault] {
		f.told[fault] = true
		f.t.Errorf("%s: %s", at, fault)
	}
}

func (f *fixture) compareWithMock(mock, at string, x exchange, got any) {
	status, answer := ask(f.t, mock, x)
	if status != http.StatusOK {
		f.t.Errorf("%s: stripe-mock refuses the request %s: %s", at, x.form, answer)
		return
	}
	var want any
	if err := json.Unmarshal(answer, &want); err != nil {
		f.t.Errorf("%s: stripe-mock's answer: %v", at, err)
		return
	}
	for _, d := range differences(got, want, "") {
		f.once(d, at)
	}
}

// ask sends the request to stripe-mock.
func ask(t *testing.T, mock string, x exchange) (int, []byte) {
	r, err := http.NewRequest(x.method, mock+x.target, bytes.NewReader(x.form))
	ok(t, err)
	r.Header = x.header.Clone()
	r.Header.Del("Accept-Encoding")
	resp, err := http.DefaultClient.Do(r)
	ok(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ok(t, err)
	return resp.StatusCode, body
}

// unread lists the fields that stripe-go would read of v and does not find.
func unread(v any) (out []string) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			out = append(out, unread(x)...)
		}
	case map[string]any:
		kind, _ := v["object"].(string)
		if t, known := structs[kind]; known {
			out = unreadOf(t, v, kind)
		}
		for _, x := range v {
			out = append(out, unread(x)...)
		}
	}
	return out
}

// unreadOf compares v with the struct t, and what is inside it that is no object
// of its own.
func unreadOf(t reflect.Type, v map[string]any, at string) (out []string) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		x, there := v[name]
		if !there && name != "" && name != "-" && !variants[at] && !isMethodDetail(at, name) && !excepted(fieldExceptions, at+"."+name) {
			out = append(out, at+"."+name)
		}
		inner := t.Field(i).Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if h, isHash := x.(map[string]any); isHash && h["object"] == nil && inner.Kind() == reflect.Struct && at != "event" {
			out = append(out, unreadOf(inner, h, at+"."+name)...)
		}
	}
	return out
}

// isMethodDetail says that the field holds the details of one kind of payment
// method: only the kind in use is shown.
func isMethodDetail(kind, name string) bool {
	if kind != "payment_method" {
		return false
	}
	f, _ := structs[kind].FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, strings.ReplaceAll(name, "_", "")) })
	return f.Type != nil && f.Type.Kind() == reflect.Pointer && name != "customer" && name != "billing_details"
}

// differences lists what the fake has and stripe-mock has not, or in another
// JSON type.
func differences(got, want any, at string) (out []string) {
	if got == nil || want == nil {
		return nil
	}
	if reflect.TypeOf(got) != reflect.TypeOf(want) {
		return []string{fmt.Sprintf("%s is %T, at stripe-mock %T", at, got, want)}
	}
	switch got := got.(type) {
	case []any:
		if want := want.([]any); len(want) > 0 {
			for _, g := range got {
				out = append(out, differences(g, want[0], at+"[]")...)
			}
		}
	case map[string]any:
		want := want.(map[string]any)
		kind := at
		if k, named := got["object"].(string); named {
			kind = k
			if k != want["object"] {
				return []string{fmt.Sprintf("%s is a %v, at stripe-mock a %v", at, k, want["object"])}
			}
		}
		for name, g := range got {
			path := kind + "." + name
			if freeForm[name] || kind == "event" && name == "data" {
				continue
			}
			w, there := want[name]
			if !there && !excepted(mockExceptions, path) {
				out = append(out, fmt.Sprintf("%s is not at stripe-mock", path))
			}
			out = append(out, differences(g, w, path)...)
		}
	}
	return out
}

// freeForm are hashes whose keys are the client's or the situation's.
var freeForm = map[string]bool{"metadata": true, "previous_attributes": true, "use_stripe_sdk": true}

// checkError asserts that an error has Stripe's shape: what stripe-go reads.
func checkError(t *testing.T, at string, got any) {
	body, _ := got.(map[string]any)
	inner, _ := body["error"].(map[string]any)
	if len(body) != 1 || inner == nil {
		t.Errorf("%s: not an error of Stripe: %v", at, got)
		return
	}
	e := reflect.TypeOf(stripe.Error{})
	known := map[string]bool{}
	for i := range e.NumField() {
		name, _, _ := strings.Cut(e.Field(i).Tag.Get("json"), ",")
		known[name] = true
	}
	for name := range inner {
		if !known[name] {
			t.Errorf("%s: error.%s is unknown to stripe-go", at, name)
		}
	}
	for _, name := range []string{"type", "message"} {
		if s, _ := inner[name].(string); s == "" {
			t.Errorf("%s: error.%s is missing", at, name)
		}
	}
}

const stripeMockVersion = "v0.203.0"

var mockProcess *exec.Cmd

// stripeMock starts stripe-mock once and returns its address.
var stripeMock = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "weir-test", "stripe-mock-"+stripeMockVersion)
	binary := filepath.Join(bin, "stripe-mock")
	if _, err := os.Stat(binary); err != nil {
		install := exec.Command("go", "install", "github.com/stripe/stripe-mock@"+stripeMockVersion)
		install.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=")
		if out, err := install.CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot install stripe-mock: %w: %s", err, out)
		}
	}
	addresses := make([]string, 2)
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		addresses[i] = l.Addr().String()
		defer l.Close()
		if err := l.Close(); err != nil {
			return "", err
		}
	}
	mockProcess = exec.Command(binary, "-http-addr", addresses[0], "-https-addr", addresses[1])
	if err := mockProcess.Start(); err != nil {
		return "", fmt.Errorf("cannot start stripe-mock: %w", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addresses[0])
		if err == nil {
			return "http://" + addresses[0], c.Close()
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("cannot reach stripe-mock: %w", err)
		}
	}
})

// driven are the patterns of the endpoints that some test got an answer of.
var driven sync.Map

func TestMain(m *testing.M) {
	code := m.Run()
	if whole := flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""; whole && code == 0 {
		code = leftOver()
	}
	if mockProcess != nil {
		_ = mockProcess.Process.Kill()
		_ = mockProcess.Wait()
	}
	os.Exit(code)
}

// leftOver tells of endpoints that no test drove and exceptions that nothing
// needed, after a run of all tests.
func leftOver() (code int) {
	for _, e := range endpoints() {
		if _, ok := driven.Load(e.pattern); !ok {
			fmt.Println("FAIL: no test gets an answer of", e.pattern)
			code = 1
		}
	}
	tables := []map[string]string{fieldExceptions}
	if mockProcess != nil {
		tables = append(tables, mockExceptions)
	}
	for _, table := range tables {
		for at := range table {
			if _, ok := needed.Load(at); !ok {
				fmt.Println("FAIL: no test needs the exception of", at)
				code = 1
			}
		}
	}
	return code
}

// needed are the exceptions that were made.
var needed sync.Map

func excepted(table map[string]string, at string) bool {
	if table[at] == "" {
		return false
	}
	needed.Store(at, true)
	return true
}

// TestStripeMockIsThere says whether the comparison with stripe-mock, which ends
// every other test, took place.
func TestStripeMockIsThere(t *testing.T) {
	if _, err := stripeMock(); err != nil && strings.Contains(os.Getenv("WEIR_REQUIRE"), "stripe-mock") {
		t.Fatal(err)
	} else if err != nil {
		t.Skip(err)
	}
}

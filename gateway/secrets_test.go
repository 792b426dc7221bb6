package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/app"
	"weir/internal/config"
	"weir/internal/warehouse"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == warehouse.ChildVerb {
		os.Exit(warehouse.RunChild(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// The canaries: strings that are nowhere else. None may be found in what weir
// keeps, logs or tells others; those of tags must be, so that it is known that
// searching finds.
const (
	providerKey   = "sk-provider-CAN8Qx1aZr"
	adminToken    = "admin-token-CAN8Qx2bYs"
	promptText    = "CAN8Qx3cXt prompt"
	answerText    = "CAN8Qx4dWu completion"
	providerError = "CAN8Qx5eVv provider error"
	headerText    = "CAN8Qx6fUw header"
	rawAnswer     = "CAN8Qx7gTx raw"
	tagText       = "TAG8Qx8hSy"
	canary        = "CAN8Qx"
)

// passwordFile is there to hold the password of those who read by SQL, as
// config.TokenFile is to hold the token.
const passwordFile = "clickhouse-password"

// TestSecretsStayPut runs the whole of weir, lets requests succeed, fail and
// break in many ways, and then searches everything that it leaves behind.
func TestSecretsStayPut(t *testing.T) {
	w := startWhole(t)
	w.control("POST", "/customers", `{"id":"acme"}`)
	w.control("POST", "/customers/acme/credits", `{"amount":"10.00","reason":"test","kind":"paid"}`)
	customer := w.key("/customers/acme/keys")
	operator := w.key("/operator-keys")
	secrets := []string{canary, customer, operator, secretPart(customer), secretPart(operator)}

	for _, how := range []string{"", "error", "panic", "raw", "raw-header", "raw-trailer", "raw-error", "half", "error-event", "coding", "redirect", "no-usage", "garbage", "model", "meter"} {
		for _, stream := range []string{"false", "true"} {
			body := fmt.Sprintf(`{"model":"gpt-4o-mini","max_tokens":50,"stream":%s,"user":"%s","messages":[{"role":"user","content":"%s [%s]"}]}`, stream, promptText, promptText, how)
			w.chat(body, "Authorization: Bearer "+customer)
			w.chat(body, "X-Api-Key: "+operator, "X-Weir-Customer: acme")
		}
	}
	refusals := w.refusals(customer, operator)
	for _, text := range refusals {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("a refusal has %q in it: %s", s, text)
			}
		}
	}
	w.settled()
	if w.library {
		password, err := os.ReadFile(filepath.Join(w.dir, passwordFile))
		must(t, err)
		secrets = append(secrets, strings.TrimSpace(string(password)))
	}
	w.search("what others may read", w.told(), secrets)
	w.stop()
	w.search("the log", w.log.text(), secrets)
	tags := w.searchFiles(secrets)
	for _, dir := range []string{"spool", "log", "clickhouse"} {
		if !tags[dir] && (dir != "clickhouse" || w.library) {
			t.Errorf("not even a tag was found in %s: %v", dir, tags)
		}
	}
}

// secretPart is a key without what may be shown of it.
func secretPart(key string) string { return key[len(key)-20:] }

// whole is weir in this process, all of it.
type whole struct {
	t       *testing.T
	dir     string
	at      app.Addresses
	log     *logBuffer
	library bool
	stop    func()
	changes int
}

// logBuffer keeps everything that is logged.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func startWhole(t *testing.T) *whole {
	t.Helper()
	w := &whole{t: t, dir: filepath.Join(t.TempDir(), "data"), log: &logBuffer{}}
	up := httptest.NewServer(http.HandlerFunc(misbehave))
	t.Cleanup(up.Close)
	warehouse := "{url: none}"
	if libraries, _ := filepath.Glob("../node_modules/@chdb/*/libchdb.so"); len(libraries) > 0 {
		library, err := filepath.Abs(libraries[0])
		must(t, err)
		w.library, warehouse = true, fmt.Sprintf("{library: %q}", library)
	} else if strings.Contains(os.Getenv("WEIR_REQUIRE"), "chdb") {
		t.Fatal("the embedded engine's library is required and not there")
	}
	file := filepath.Join(filepath.Dir(w.dir), "weir.yaml")
	must(t, os.WriteFile(file, []byte(fmt.Sprintf(`data_dir: %q
listen: {data: "127.0.0.1:0", control: "127.0.0.1:0", clickhouse: "127.0.0.1:0"}
clickhouse: %s
admin: {token: %q}
providers:
  openai: {kind: openai, base_url: %q, api_key: %q, allow_private: true}
`, w.dir, warehouse, adminToken, up.URL, providerKey)), 0o600))
	cfg, err := config.Load(nil, nil, file)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan app.Addresses, 1), make(chan error, 1)
	go func() {
		log := slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		ended <- app.New(cfg, config.RoleAll, log).Run(ctx, func(a app.Addresses) { ready <- a })
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("weir did not stop in order: %v", err)
		}
	})
	t.Cleanup(w.stop)
	select {
	case w.at = <-ready:
	case err := <-ended:
		t.Fatalf("weir did not start: %v", err)
	}
	return w
}

// misbehave is a provider that puts canaries wherever one can.
func misbehave(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil || req.Header.Get("Authorization") != "Bearer "+providerKey {
		panic(http.ErrAbortHandler)
	}
	_, how, _ := bytes.Cut(body, []byte(" ["))
	how, _, _ = bytes.Cut(how, []byte("]"))
	stream := bytes.Contains(body, []byte(`"stream":true`))
	h := w.Header()
	h.Set("X-Request-Id", headerText)
	h.Set("Set-Cookie", headerText)
	h.Set("Content-Type", "application/json")
	model, usage := `"model":"gpt-4o-mini"`, `"usage":{"prompt_tokens":20,"completion_tokens":5}`
	switch string(how) {
	case "error":
		h.Set("X-Error", providerError)
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":{"message":"%s: %s for %s"}}`, providerError, promptText, providerKey)
		return
	case "redirect":
		h.Set("Location", "http://127.0.0.1:1/"+headerText)
		w.WriteHeader(http.StatusFound)
		return
	case "panic":
		panic(http.ErrAbortHandler)
	case "raw":
		hijack(w, rawAnswer+"\r\n\r\n")
	case "raw-header":
		hijack(w, "HTTP/1.1 200 OK\r\n"+rawAnswer+"\r\n\r\n")
	case "raw-trailer":
		hijack(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"+rawAnswer+"\r\n\r\n")
	case "raw-error":
		hijack(w, "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"+rawAnswer+"\r\n\r\n")
	case "half":
		hijack(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"+`{"choices":[{"message":{"content":"`+answerText)
	case "coding":
		h.Set("Content-Encoding", headerText)
	case "garbage":
		_, _ = io.WriteString(w, rawAnswer)
		return
	case "no-usage":
		usage = `"usage":null`
	case "model":
		model = `"model":"gpt-4o-mini-2024-07-18"`
	case "meter":
		usage = `"usage":{"prompt_tokens":20,"completion_tokens":5,"more":{"` + rawAnswer + `":7},"text":"` + answerText + `"}`
	}
	if !stream {
		fmt.Fprintf(w, `{%s,"choices":[{"message":{"role":"assistant","content":%q}}],%s}`, model, answerText, usage)
		return
	}
	delta := fmt.Sprintf(`data: {"model":"gpt-4o-mini","choices":[{"delta":{"content":%q}}]}`+"\n\n", answerText)
	h.Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, delta+": "+rawAnswer+"\n\n"+delta)
	if string(how) == "error-event" {
		fmt.Fprintf(w, `data: {"error":{"message":%q}}`+"\n\n", providerError)
		return
	}
	fmt.Fprintf(w, "data: {%s,\"choices\":[],%s}\n\ndata: [DONE]\n\n", model, usage)
}

// hijack sends bytes that are no answer, and ends the connection.
func hijack(w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
	panic(http.ErrAbortHandler)
}

// chat sends a chat completion with canaries in its headers and returns what came back.
func (w *whole) chat(body string, headers ...string) string {
	return w.send("POST", "http://"+w.at.Data+"/openai/v1/chat/completions", body, append(headers, "X-Weir-Tag-team: "+tagText,
		"User-Agent: "+headerText, "Cookie: "+headerText, "X-Stainless-Os: "+headerText)...)
}

func (w *whole) send(method, url, body string, headers ...string) string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, strings.NewReader(body))
	must(w.t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	must(w.t, err)
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body) // broken off for some
	return fmt.Sprint(res.StatusCode, res.Header, string(text))
}

// refusals collects what weir itself answers to requests that are full of secrets.
func (w *whole) refusals(customer, operator string) (texts []string) {
	valid := fmt.Sprintf(`{"model":"gpt-4o-mini","max_tokens":50,"messages":[{"role":"user","content":"%s"}]}`, promptText)
	bearer := "Authorization: Bearer " + customer
	for _, c := range []struct {
		body    string
		headers []string
	}{
		{valid, []string{"Authorization: Bearer sk-weir-" + canary}},
		{valid, []string{bearer, "X-Api-Key: " + operator}},
		{valid, []string{"X-Api-Key: " + operator}},
		{valid, []string{bearer, "Content-Encoding: " + headerText}},
		{valid, []string{bearer, "X-Weir-Customer: " + headerText}},
		{promptText, []string{bearer}},
		{strings.Replace(valid, `"max_tokens":50`, `"max_tokens":"`+promptText+`"`, 1), []string{bearer}},
		{strings.Replace(valid, `"max_tokens":50`, `"max_tokens":0`, 1), []string{bearer}},
		{strings.Replace(valid, `"max_tokens":50`, `"service_tier":"`+promptText+`"`, 1), []string{bearer}},
		{valid + promptText, []string{bearer}},
		{strings.Replace(valid, "user", "user\\u0000", 1) + "]", []string{bearer}},
	} {
		text := w.chat(c.body, c.headers...)
		if text[0] != '4' {
			w.t.Errorf("not refused: %s", text)
		}
		texts = append(texts, text)
	}
	for _, raw := range []string{
		"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer " + customer + "\r\nAuthorization: Bearer " + customer + "\r\n\r\n",
		headerText + "\r\n\r\n", "GET /" + headerText + " HTTP/1.1\r\nHost: x\r\n\r\n", "GET /openai/v1/" + customer + "?key=" + customer + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: weir\r\nAuthorization " + customer + "\r\n\r\n",
		"GET /v1/generation?id=" + canary + "&key=" + customer + " HTTP/1.1\r\nHost: x\r\n\r\n"} {
		conn, err := net.Dial("tcp", w.at.Data)
		must(w.t, err)
		must(w.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.WriteString(conn, raw)
		must(w.t, err)
		must(w.t, conn.(*net.TCPConn).CloseWrite())
		text, err := io.ReadAll(conn)
		must(w.t, err)
		must(w.t, conn.Close())
		texts = append(texts, string(text))
	}
	return texts
}

// control asks the control plane, which must agree.
func (w *whole) control(method, path, body string) string {
	w.t.Helper()
	w.changes++
	text := w.send(method, "http://"+w.at.Control+"/api/v1"+path, body, "Authorization: Bearer "+adminToken, fmt.Sprintf("Idempotency-Key: %d", w.changes))
	if text[0] != '2' {
		w.t.Fatalf("%s %s: %s", method, path, text)
	}
	return text
}

func (w *whole) key(path string) string {
	w.t.Helper()
	text := w.control("POST", path, `{"name":"test"}`)
	var made struct{ Key string }
	must(w.t, json.Unmarshal([]byte(text[strings.Index(text, "]{")+1:]), &made))
	if made.Key == "" {
		w.t.Fatal(text)
	}
	return made.Key
}

// settled waits until everything is where it stays.
func (w *whole) settled() {
	if text := w.control("GET", "/tieout?wait=30s", ""); !strings.Contains(text, `"ok":true`) {
		w.t.Errorf("the books do not tie out: %s", text)
	}
}

// told is what others may read of weir: lists, reports, metrics, SQL, where it listens.
func (w *whole) told() string {
	var all strings.Builder
	for _, path := range []string{"/customers", "/customers/acme/keys", "/customers/acme/entries", "/events?limit=1000", "/rates/current",
		"/reports/usage?by=customer,model", "/reports/leakage?by=customer,model"} {
		if !w.library && (strings.HasPrefix(path, "/reports") || strings.HasPrefix(path, "/events")) {
			continue
		}
		all.WriteString(w.control("GET", path, ""))
	}
	all.WriteString(w.send("GET", "http://"+w.at.Control+"/metrics", ""))
	if w.library {
		password, err := os.ReadFile(filepath.Join(w.dir, passwordFile))
		must(w.t, err)
		rows := w.send("POST", "http://"+w.at.ClickHouse, "SELECT * FROM weir.usage_events FORMAT JSONEachRow", "X-Clickhouse-User: weir_reader", "X-Clickhouse-Key: "+strings.TrimSpace(string(password)))
		if !strings.Contains(rows, tagText) {
			w.t.Errorf("no rows: %s", rows)
		}
		all.WriteString(rows)
	}
	run, err := os.ReadFile(filepath.Join(w.dir, "run.json"))
	must(w.t, err)
	all.Write(run)
	return all.String()
}

func (w *whole) search(where, text string, secrets []string) {
	w.t.Helper()
	for _, s := range secrets {
		if at := strings.Index(text, s); at >= 0 {
			w.t.Errorf("%s: %s holds %q: …%q…", w.dir, where, s, text[max(0, at-200):min(len(text), at+100)])
		}
	}
}

// searchFiles reads every file of the data directory. It tells in which of its
// directories it found a tag.
func (w *whole) searchFiles(secrets []string) (tags map[string]bool) {
	tags = map[string]bool{}
	files := 0
	must(w.t, filepath.WalkDir(w.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(w.dir, path)
		if err != nil || name == config.TokenFile || name == passwordFile {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		w.search(name, string(text), secrets)
		if bytes.Contains(text, []byte(tagText)) {
			dir, _, _ := strings.Cut(name, "/")
			tags[dir] = true
		}
		return nil
	}))
	if files < 5 {
		w.t.Errorf("only %d files in %s", files, w.dir)
	}
	return tags
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weir/internal/config"
)

const (
	// answerMax bounds what is read of an answer: a page of 1,000 events is
	// below 2 MiB, a rate card below 8.
	answerMax = 16 << 20
	// answerTime bounds the wait for an answer that was not asked to wait.
	answerTime = time.Minute
)

// connection are the flags of every verb that speaks to a running weir.
var connection = []Flag{
	{"json", "", "print the API's answer as it is"},
	{"control", "ADDRESS", "the control plane's URL or host:port; else run.json of the data directory tells"},
	{"token", "TOKEN", "the admin token; else WEIR_ADMIN_TOKEN, the configuration or the data directory tells"},
	{"data_dir", "DIR", "the data directory; else WEIR_DATA_DIR or the configuration tells"},
	{"config", "FILE", "the configuration; ./" + config.DefaultFile + " if there is one"},
}

// client speaks to one control plane.
type client struct{ base, token string }

// connect finds the control plane and its token.
func (c *Call) connect() (client, error) {
	found := client{base: c.Flag("control"), token: cmp.Or(c.Flag("token"), getenv(c.Env, "WEIR_ADMIN_TOKEN"))}
	if found.base == "" || found.token == "" {
		if err := c.discover(&found); err != nil {
			return client{}, err
		}
	}
	if !strings.Contains(found.base, "://") {
		found.base = "http://" + found.base
	}
	if u, err := url.Parse(found.base); err != nil || u.Host == "" {
		return client{}, Usage(fmt.Errorf("--control: %q is neither a URL nor host:port", c.Flag("control")))
	}
	found.base = strings.TrimSuffix(found.base, "/")
	return found, nil
}

// discover fills in what was not said from the data directory. A directory
// that was named keeps its own token before the configuration's, which may
// belong to another.
func (c *Call) discover(found *client) error {
	named := cmp.Or(c.Flag("data_dir"), getenv(c.Env, "WEIR_DATA_DIR"))
	configured, token, err := config.Find(c.Env, c.Flag("config"))
	if err != nil {
		return Usage(err)
	}
	dir := cmp.Or(named, configured)
	if found.base == "" {
		if found.base, err = readRun(dir); err != nil {
			return err
		}
	}
	if found.token != "" {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(dir, config.TokenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the admin token: %w", err)
	}
	kept := strings.TrimSpace(string(text))
	if found.token = cmp.Or(token.Reveal(), kept); named != "" {
		found.token = cmp.Or(kept, token.Reveal())
	}
	if found.token == "" {
		return fmt.Errorf("no admin token: give --token or WEIR_ADMIN_TOKEN (there is no %s in %s)", config.TokenFile, dir)
	}
	return nil
}

func readRun(dir string) (control string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, config.RunFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no weir has run on %s: start one with weir serve, or name another with --control or --data_dir", dir)
	}
	if err != nil {
		return "", fmt.Errorf("cannot find the running weir: %w", err)
	}
	var run struct {
		Control string `json:"control"`
	}
	if err := json.Unmarshal(text, &run); err != nil {
		return "", fmt.Errorf("cannot read %s: %w", filepath.Join(dir, config.RunFile), err)
	}
	if run.Control == "" {
		return "", fmt.Errorf("the weir on %s has no control listener", dir)
	}
	return run.Control, nil
}

func getenv(env []string, name string) string {
	for _, pair := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

// request is one call of the API; body nil is none, []byte is sent as it is, else
// JSON.
type request struct {
	method, path string
	query        url.Values
	body         any
	once         string        // Idempotency-Key
	wait         time.Duration // that the answer may take besides
}

// answerError is a refusal of the control plane.
type answerError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Line    int    `json:"line"`
}

func (e *answerError) Error() string { return e.Message }

// do returns the body of a 2xx answer, *answerError for any other.
func (c client) do(ctx context.Context, r request) ([]byte, error) {
	body, ok := r.body.([]byte)
	if !ok && r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime+r.wait)
	defer cancel()
	address := c.base + "/api/v1" + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if r.once != "" {
		req.Header.Set("Idempotency-Key", r.once)
	}
	// A redirect would carry the token to wherever it points.
	direct := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := direct.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot reach weir at %s: %w", c.base, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	if err != nil {
		return nil, fmt.Errorf("cannot read weir's answer: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return answer, nil
	}
	var failed struct{ Error answerError }
	if json.Unmarshal(answer, &failed) != nil || failed.Error.Message == "" {
		return nil, fmt.Errorf("%s does not answer like weir: status %d", c.base, resp.StatusCode)
	}
	return nil, &failed.Error
}

// ask connects, sends one request, and prints the body if --json asks for it
// (printed); else it decodes the body into to, unless to is nil.
func (c *Call) ask(ctx context.Context, r request, to any) (printed bool, err error) {
	weir, err := c.connect()
	if err != nil {
		return false, err
	}
	body, err := weir.do(ctx, r)
	if err != nil {
		return false, err
	}
	if to != nil {
		if err := json.Unmarshal(body, to); err != nil {
			return false, fmt.Errorf("cannot read weir's answer: %w", err)
		}
	}
	if c.Flag("json") == "" {
		return false, nil
	}
	if len(body) > 0 {
		c.Printf("%s\n", bytes.TrimSpace(body))
	}
	return true, nil
}

// pages asks for a list, page after page, and hands its rows to add; with
// --json it prints one page as it is (printed).
func (c *Call) pages(ctx context.Context, path string, add func(row)) (printed bool, err error) {
	query := url.Values{}
	for _, f := range pageFlags {
		if text := c.Flag(f.Name); text != "" {
			query.Set(f.Name, text)
		}
	}
	for {
		var answer struct {
			Data []row
			Next string `json:"next_cursor"`
		}
		printed, err := c.ask(ctx, request{method: http.MethodGet, path: path, query: query}, &answer)
		if err != nil || printed {
			return printed, err
		}
		for _, r := range answer.Data {
			add(r)
		}
		if answer.Next == "" {
			return false, nil
		}
		query.Set("cursor", answer.Next)
	}
}

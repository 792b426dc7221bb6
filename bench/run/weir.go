package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// providerKey is what the stand-in asks for and weir must put in place of its customers'.
	providerKey = "sk-bench-provider"
	// customers share the load, so that neither one hot wallet nor a thousand cold ones is measured.
	customers = 8
	// credit in dollars is far more than a run costs.
	credit = "1000000"
	// tieOutWait is how long books may take to close after a round.
	tieOutWait = "30s"
)

// weir is a served weir with funded customers.
type weir struct {
	proc    *process
	binary  string
	dataDir string
	keys    string // of all customers, separated by commas
	counted int    // usage events in the books at the last tie-out
}

const weirConfig = `data_dir: %q
listen: {data: "127.0.0.1:0", control: "127.0.0.1:0", clickhouse: "127.0.0.1:0"}
providers:
  openai: {kind: openai, base_url: "http://%[2]s", api_key: %[3]q, allow_private: true}
  anthropic: {kind: anthropic, base_url: "http://%[2]s", api_key: %[3]q, allow_private: true}
`

func startWeir(ctx context.Context, dir, binary, upstream string) (*weir, error) {
	w := &weir{binary: binary, dataDir: filepath.Join(dir, "data")}
	path := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, weirConfig, w.dataDir, upstream, providerKey), 0o600); err != nil {
		return nil, fmt.Errorf("cannot write weir's configuration: %w", err)
	}
	var err error
	if w.proc, err = start(ctx, dir, binary, "serve", "--config", path); err != nil {
		return nil, err
	}
	var keys []string
	for i := range customers {
		id := fmt.Sprintf("bench-%d", i)
		for _, args := range [][]string{{"customer", "create", id}, {"wallet", "credit", id, credit, "--reason", "bench"}} {
			if _, err := w.cli(ctx, args...); err != nil {
				w.proc.stop()
				return nil, err
			}
		}
		key, err := w.cli(ctx, "key", "create", id)
		if err != nil {
			w.proc.stop()
			return nil, err
		}
		keys = append(keys, strings.TrimSpace(string(key)))
	}
	w.keys = strings.Join(keys, ",")
	return w, nil
}

// cli runs one of weir's verbs and returns its stdout.
func (w *weir) cli(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, w.binary, args...)
	cmd.Env = append(os.Environ(), "WEIR_DATA_DIR="+w.dataDir)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("cannot run weir %s: %w\n%s%s", strings.Join(args, " "), err, out, complaint.String())
	}
	return out, nil
}

// tieOut waits until the books are closed, and fails if they do not agree.
func (w *weir) tieOut(ctx context.Context) error {
	out, err := w.cli(ctx, "tieout", "--wait", tieOutWait, "--json")
	if err != nil {
		return err
	}
	var t struct {
		OK     bool `json:"ok"`
		Events struct {
			Count int `json:"count"`
		} `json:"events"`
		Pending struct {
			Spool  int `json:"spool"`
			Log    int `json:"log"`
			Append int `json:"append"`
		} `json:"pending"`
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return fmt.Errorf("cannot read the tie-out: %w", err)
	}
	if !t.OK || t.Pending.Spool+t.Pending.Log+t.Pending.Append != 0 {
		return fmt.Errorf("the books do not tie out:\n%s", out)
	}
	w.counted = t.Events.Count
	return nil
}

// sent is how many requests a whole run sent through weir; each round had to be answered whole.
func (w *weir) sent(c *config) int {
	return len(modes) * (warmupRequests + c.rounds*c.requests)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// result is one round. The members of the load client's summary come under its names.
type result struct {
	Proxy        string         `json:"proxy"` // floor, weir
	Mode         string         `json:"mode"`  // json, sse
	Round        int            `json:"round"`
	Complete     int            `json:"complete"`
	ByStatus     map[string]int `json:"by_status"`
	Errors       map[string]int `json:"errors"`
	PerSecond    float64        `json:"per_second"`
	P50ms        float64        `json:"p50_ms"`
	P99ms        float64        `json:"p99_ms"`
	CPUPer10k    float64        `json:"cpu_seconds_per_10000"` // of the tree, with draining
	DrainSeconds float64        `json:"drain_seconds"`
	PeakRSSMiB   int            `json:"peak_rss_mib"` // since the process started
}

// runLoad runs the load client and adds its summary to r.
func runLoad(ctx context.Context, path string, args []string, r *result) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("cannot run the load client: %w", err)
	}
	if err := json.Unmarshal(out, r); err != nil {
		return fmt.Errorf("cannot read the load client's summary: %w", err)
	}
	return nil
}

// median of one figure over the rounds of a proxy and a mode.
func median(results []result, proxy, mode string, figure func(*result) float64) float64 {
	var all []float64
	for i := range results {
		if results[i].Proxy == proxy && results[i].Mode == mode {
			all = append(all, figure(&results[i]))
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return (all[len(all)/2] + all[(len(all)-1)/2]) / 2
}

func cpuOf(r *result) float64 { return r.CPUPer10k }

// row is one line of the table: medians over the rounds.
type row struct {
	Proxy      string  `json:"proxy"`
	Mode       string  `json:"mode"`
	PerSecond  float64 `json:"per_second"`
	CPUPer10k  float64 `json:"cpu_seconds_per_10000"`
	TimesFloor float64 `json:"times_floor"` // CPU over that of the floor in the same mode
	P50ms      float64 `json:"p50_ms"`
	P99ms      float64 `json:"p99_ms"`
	PeakRSSMiB float64 `json:"peak_rss_mib"`
}

func rows(results []result) []row {
	var all []row
	for _, mode := range modes {
		for _, proxy := range []string{"floor", "weir"} {
			of := func(figure func(*result) float64) float64 { return median(results, proxy, mode, figure) }
			r := row{Proxy: proxy, Mode: mode, CPUPer10k: of(cpuOf),
				PerSecond:  of(func(r *result) float64 { return r.PerSecond }),
				P50ms:      of(func(r *result) float64 { return r.P50ms }),
				P99ms:      of(func(r *result) float64 { return r.P99ms }),
				PeakRSSMiB: of(func(r *result) float64 { return float64(r.PeakRSSMiB) }),
			}
			if floor := median(results, "floor", mode, cpuOf); floor > 0 {
				r.TimesFloor = r.CPUPer10k / floor
			}
			if r.PerSecond > 0 {
				all = append(all, r)
			}
		}
	}
	return all
}

// report prints the table and, if asked, writes all figures to a file named by the day.
func report(dir string, results []result) error {
	table := rows(results)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "mode\tproxy\treq/s\tCPU s/10k\t× floor\tp50 ms\tp99 ms\tpeak MiB\t")
	for _, r := range table {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.2f\t%.2f\t%.1f\t%.1f\t%.0f\t\n",
			r.Mode, r.Proxy, r.PerSecond, r.CPUPer10k, r.TimesFloor, r.P50ms, r.P99ms, r.PeakRSSMiB)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cannot print the table: %w", err)
	}
	if dir == "" {
		return nil
	}
	now := time.Now().UTC()
	text, err := json.MarshalIndent(map[string]any{"time": now, "machine": machine(), "medians": table, "rounds": results}, "", "  ")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, now.Format(time.DateOnly)+".json"), append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write the results: %w", err)
	}
	return nil
}

// machine says what the figures were measured on.
func machine() string {
	model := "unknown processor"
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s", model, runtime.NumCPU(), runtime.Version())
}

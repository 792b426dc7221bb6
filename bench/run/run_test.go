package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// script is a program that says it is ready, lets a child burn CPU, and then idles.
const script = `#!/bin/sh
echo '{"msg":"ready","addr":"here"}'
sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'
exec sleep 600
`

// A tree's CPU holds that of its children, while they live and after they ended.
func TestCPUOfTree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "burn")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := start(context.Background(), t.TempDir(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if p.ready.Addr != "here" {
		t.Errorf("ready line %+v", p.ready)
	}
	burning, last := false, time.Duration(0)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		members, err := p.tree()
		if err != nil {
			t.Fatal(err)
		}
		cpu, err := p.cpu()
		if err != nil {
			t.Fatal(err)
		}
		if cpu < last {
			t.Errorf("CPU fell from %v to %v", last, cpu)
		}
		last = cpu
		if len(members) == 2 && cpu >= 50*time.Millisecond {
			burning = true
		}
		if burning && len(members) == 1 {
			break
		}
	}
	own, err := readStat(p.cmd.Process.Pid)
	if err != nil || !burning || own.cpu != last || last < 50*time.Millisecond {
		t.Errorf("child seen %v, CPU %v, of the parent after it %v, %v", burning, last, own.cpu, err)
	}
	if mib, err := p.peakRSSMiB(); err != nil || mib < 1 || mib > 100 {
		t.Errorf("peak RSS %d MiB, %v", mib, err)
	}
}

func TestStartSaysWhatWentWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho no luck >&2; exit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := start(context.Background(), t.TempDir(), path); err == nil {
		t.Error("a program that ended without a ready line has started")
	}
}

func TestRows(t *testing.T) {
	var results []result
	for i, cpu := range []float64{3, 1, 2} {
		results = append(results,
			result{Proxy: "floor", Mode: "json", CPUPer10k: cpu, PerSecond: 100, Round: i},
			result{Proxy: "weir", Mode: "json", CPUPer10k: 2 * cpu, PerSecond: float64(10 * i), Round: i})
	}
	got := rows(results)
	if len(got) != 2 || got[0].CPUPer10k != 2 || got[1].CPUPer10k != 4 || got[1].TimesFloor != 2 || got[1].PerSecond != 10 {
		t.Errorf("%+v", got)
	}
	dir := t.TempDir()
	if err := report(dir, results); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "20*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil || !json.Valid(text) {
		t.Errorf("%v %s", err, text)
	}
}

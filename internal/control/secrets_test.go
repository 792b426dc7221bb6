package control

import (
	"os"
	"path/filepath"
	"testing"

	"weir/internal/config"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestToken(t *testing.T) {
	dir := t.TempDir()
	if got, err := Token(dir, "configured"); err != nil || got != "configured" {
		t.Errorf("%q, %v", got, err)
	}
	name := filepath.Join(dir, config.TokenFile)
	if _, err := os.Stat(name); err == nil {
		t.Error("a configured token makes a file")
	}
	first, err := Token(dir, "")
	if err != nil || len(first) < 26 {
		t.Fatalf("%q, %v", first, err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if read(t, name) != first+"\n" {
		t.Errorf("the file holds %q", read(t, name))
	}
	if again, err := Token(dir, ""); err != nil || again != first {
		t.Errorf("the second start has %q, %v", again, err)
	}
	if other, _ := Token(t.TempDir(), ""); other == first {
		t.Error("two installations have one token")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	os.WriteFile(name, nil, 0o600)
	if got, err := Token(dir, ""); err == nil {
		t.Errorf("an empty file gives %q", got)
	}
	if _, err := Token(filepath.Join(dir, "missing"), ""); err == nil {
		t.Error("a directory that is missing")
	}
}

func TestPepper(t *testing.T) {
	b := start(t)
	first, err := Pepper(t.Context(), b.db, "")
	again, err2 := Pepper(t.Context(), b.db, "")
	if err != nil || err2 != nil || len(first) != 32 || string(first) != string(again) {
		t.Errorf("%x, %x, %v, %v", first, again, err, err2)
	}
	if got, err := Pepper(t.Context(), b.db, "mine"); err != nil || string(got) != "mine" {
		t.Errorf("%q, %v", got, err)
	}
}

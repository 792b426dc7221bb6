package tidy

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func house(t *testing.T) *tree {
	t.Helper()
	h, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.files) < 50 {
		t.Fatalf("only %d files found", len(h.files))
	}
	return h
}

func report(t *testing.T, rule string, bad []string) {
	t.Helper()
	for _, b := range bad {
		t.Errorf("%s: %s", rule, b)
	}
}

func TestImportsGoDown(t *testing.T) { report(t, "imports go down only", house(t).badImports()) }

func TestNoFloatInMoney(t *testing.T) { report(t, "no floating point in money", house(t).floats()) }

func TestLength(t *testing.T) {
	report(t, "a function is a screen, a file a chapter", house(t).tooLong())
}

func TestExportedNamesAreDocumented(t *testing.T) {
	report(t, "say what an exported name is", house(t).undocumented())
}

func TestInterfaces(t *testing.T) {
	all, large := house(t).interfaces()
	report(t, "an interface asks for little", large)
	if len(all) > interfacesMax {
		t.Errorf("%d interfaces, the budget is %d:\n%s", len(all), interfacesMax, strings.Join(all, "\n"))
	}
}

func TestNames(t *testing.T) {
	for _, s := range house(t).files {
		file := strings.TrimSuffix(strings.TrimSuffix(path.Base(s.path), ".go"), "_test")
		if slices.Contains(emptyNames, path.Base(s.dir)) || slices.Contains(emptyNames, file) {
			t.Errorf("%s: name it for what it is to us", s.path)
		}
	}
}

// TestArchitectureNamesExist keeps the map true: every path in back quotes that
// looks like a file or folder of this repository is there.
func TestArchitectureNamesExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:[a-z_.]+/)+[A-Za-z0-9_.*-]*|[A-Za-z_]+\\.(?:go|sql|yaml|proto|md))`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 20 {
		t.Fatalf("only %d names found in ARCHITECTURE.md", len(named))
	}
	for _, n := range named {
		if found, err := filepath.Glob(filepath.Join(root, n[1])); err != nil || len(found) == 0 {
			t.Errorf("ARCHITECTURE.md names %s, which is not there", n[1])
		}
	}
}

// TestRulesBite holds the rules to planted faults: a rule that finds nothing
// where there is something is no rule.
func TestRulesBite(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("gateway/a.go", "package gateway\nimport _ \"weir/processor\"\nimport _ \"github.com/jackc/pgx/v5\"\nfunc Exported() {}\n")
	write("schemas/money/m.go", "package money\nvar x float64\nconst y = 1.5\n")
	write("nowhere/n.go", "package nowhere\nfunc long() {\n"+strings.Repeat("\n", functionLinesMax)+"}\ntype I interface { A(); B(); C(); D(); E() }\n")
	h, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, large := h.interfaces()
	for rule, found := range map[string][2]int{"imports": {len(h.badImports()), 3}, "floats": {len(h.floats()), 2}, "length": {len(h.tooLong()), 1},
		"documented": {len(h.undocumented()), 2}, "interfaces": {len(large), 1}} {
		if found[0] != found[1] {
			t.Errorf("%s: found %d of %d planted faults", rule, found[0], found[1])
		}
	}
}

// Package tidy holds the house rules as tests. It reads the sources itself:
// a test that asked `go list` would keep its cached answer.
package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const module = "weir/"

// source is one Go file of the module.
type source struct {
	path    string // below the root, with slashes
	dir     string
	isTest  bool
	lines   int
	file    *ast.File
	imports []string
}

// tree is the parsed module.
type tree struct {
	root  string
	fset  *token.FileSet
	files []*source
}

// load parses every Go file below root but for what npm or a run left there.
func load(root string) (*tree, error) {
	t := &tree{root: root, fset: token.NewFileSet()}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != root && (strings.HasPrefix(base, ".") || slices.Contains([]string{"node_modules", "bin", "lib", "weir-data"}, base)) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		return t.add(name)
	})
	return t, err
}

func (t *tree) add(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(t.fset, name, text, parser.ParseComments)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(t.root, name)
	if err != nil {
		return err
	}
	s := &source{path: filepath.ToSlash(rel), isTest: strings.HasSuffix(name, "_test.go"), lines: strings.Count(string(text), "\n"), file: file}
	s.dir = path.Dir(s.path)
	for _, i := range file.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		s.imports = append(s.imports, p)
	}
	t.files = append(t.files, s)
	return nil
}

// floors are the levels of the house from the ground up: a package imports
// only packages of lower floors, so rooms cannot know each other.
var floors = [][]string{
	{"schemas/money", "schemas/sql/ledger", "schemas/sql/warehouse", "internal/egress", "internal/strictjson", "topup/stripefake"},
	{"schemas/usage"},
	{"schemas/ratecard", "internal/apikey", "internal/config", "internal/standin", "internal/warehouse/engine"},
	{"internal/ledger", "internal/stream", "internal/warehouse"},
	{"internal/cards", "internal/ledger/ledgertest", "internal/stream/kafkatest", "internal/warehouse/warehousetest", "gateway/provider"},
	{"gateway/lease", "gateway/provider/anthropic", "gateway/provider/openai", "topup", "internal/notify"},
	{"gateway", "processor", "analytics", "internal/control"},
	{"internal/app", "internal/cli"},
	{"internal/demo"},
	{"cmd/weir", "bench/floor", "bench/load", "bench/run", "bench/standin", "internal/crash", "internal/tidy", "gateway/boundtest",
		"test/sdk", "test/sql", "test/kafka", "test/distributed", "test/distributed/chserver"},
}

// owners name the packages that may use an outside dependency; below them is
// allowed too.
var owners = map[string][]string{
	"github.com/jackc/pgx":                {"internal/ledger"},
	"github.com/cockroachdb/cockroach-go": {"internal/ledger"},
	"modernc.org/sqlite":                  {"internal/ledger"},
	"github.com/twmb/franz-go":            {"internal/stream"},
	"github.com/ClickHouse":               {"internal/warehouse"},
	"github.com/ebitengine/purego":        {"internal/warehouse"},
	"github.com/landlock-lsm":             {"internal/warehouse"},
	"github.com/valyala/fasthttp":         {"gateway", "bench/floor", "bench/load"},
	"github.com/stripe":                   {"topup"},
	"github.com/standard-webhooks":        {"internal/notify"},
	"go.yaml.in/yaml":                     {"schemas/ratecard", "internal/config", "internal/demo"},
}

// exactMoney are the packages in which no floating point may occur: prices,
// wallets, leases and their settlement.
var exactMoney = []string{"schemas/money", "schemas/usage", "schemas/ratecard", "internal/ledger", "gateway/lease"}

// words that name nothing: a package is named for what it is to us.
var emptyNames = []string{"utils", "util", "common", "types", "service", "services", "manager", "models", "helpers", "misc"}

const (
	// functionLinesMax keeps a function on one screen, fileLinesMax a file one
	// chapter, testLinesMax a test file readable.
	functionLinesMax = 70
	fileLinesMax     = 500
	testLinesMax     = 800
	// interfacesMax is the budget of interfaces in the whole module, each for a
	// place where two implementations exist or a fault must enter, and
	// methodsMax what one may ask for.
	interfacesMax = 12
	methodsMax    = 4
)

func (t *tree) at(n ast.Node) string {
	p := t.fset.Position(n.Pos())
	rel, err := filepath.Rel(t.root, p.Filename)
	if err != nil {
		rel = p.Filename
	}
	return fmt.Sprintf("%s:%d", filepath.ToSlash(rel), p.Line)
}

func floorOf(dir string) int {
	return slices.IndexFunc(floors, func(f []string) bool { return slices.Contains(f, dir) })
}

// imports tells which imports go up or sideways, and which dependencies are
// used by others than their owners.
func (t *tree) badImports() (bad []string) {
	for _, s := range t.files {
		here := floorOf(s.dir)
		if here < 0 {
			bad = append(bad, fmt.Sprintf("%s: package %s has no floor; give it one in internal/tidy", s.path, s.dir))
		}
		for _, p := range s.imports {
			if inside, ok := strings.CutPrefix(p, module); ok && !s.isTest && floorOf(inside) >= here && inside != s.dir {
				bad = append(bad, fmt.Sprintf("%s imports %s, which is not below it", s.path, inside))
			}
			for dep, allowed := range owners {
				if p != dep && !strings.HasPrefix(p, dep+"/") {
					continue
				}
				if !slices.ContainsFunc(allowed, func(o string) bool { return s.dir == o || strings.HasPrefix(s.dir, o+"/") }) && !s.isTest {
					bad = append(bad, fmt.Sprintf("%s imports %s, which belongs to %s", s.path, p, strings.Join(allowed, ", ")))
				}
			}
		}
	}
	return bad
}

// floats tells where a money package has floating point.
func (t *tree) floats() (bad []string) {
	for _, s := range t.files {
		if s.isTest || !slices.Contains(exactMoney, s.dir) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				if n.Name == "float32" || n.Name == "float64" || n.Name == "ParseFloat" {
					bad = append(bad, t.at(n)+": "+n.Name)
				}
			case *ast.BasicLit:
				if n.Kind == token.FLOAT {
					bad = append(bad, t.at(n)+": "+n.Value)
				}
			}
			return true
		})
	}
	return bad
}

// tooLong tells of functions and files past their limits.
func (t *tree) tooLong() (bad []string) {
	for _, s := range t.files {
		most := fileLinesMax
		if s.isTest {
			most = testLinesMax
		}
		if s.lines > most {
			bad = append(bad, fmt.Sprintf("%s has %d lines, at most %d", s.path, s.lines, most))
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.isTest {
				continue
			}
			if n := t.fset.Position(f.End()).Line - t.fset.Position(f.Pos()).Line + 1; n > functionLinesMax {
				bad = append(bad, fmt.Sprintf("%s: %s has %d lines, at most %d", t.at(f), f.Name.Name, n, functionLinesMax))
			}
		}
	}
	return bad
}

// undocumented tells of exported names without a comment.
func (t *tree) undocumented() (bad []string) {
	for _, s := range t.files {
		if s.isTest || s.file.Name.Name == "main" {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
					bad = append(bad, t.at(d)+": "+d.Name.Name)
				}
			case *ast.GenDecl:
				bad = append(bad, t.undocumentedSpecs(d)...)
			}
		}
	}
	return bad
}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	switch f.Name.Name { // what the standard interfaces document
	case "Error", "Unwrap", "String":
		return false
	}
	of := f.Recv.List[0].Type
	if p, ok := of.(*ast.StarExpr); ok {
		of = p.X
	}
	if g, ok := of.(*ast.IndexExpr); ok {
		of = g.X
	}
	id, ok := of.(*ast.Ident)
	return ok && id.IsExported()
}

func (t *tree) undocumentedSpecs(d *ast.GenDecl) (bad []string) {
	for _, spec := range d.Specs {
		var names []*ast.Ident
		var doc, tail *ast.CommentGroup
		switch s := spec.(type) {
		case *ast.TypeSpec:
			names, doc, tail = []*ast.Ident{s.Name}, s.Doc, s.Comment
		case *ast.ValueSpec:
			names, doc, tail = s.Names, s.Doc, s.Comment
		}
		for _, n := range names {
			if n.IsExported() && doc == nil && tail == nil && d.Doc == nil {
				bad = append(bad, t.at(n)+": "+n.Name)
			}
		}
	}
	return bad
}

// interfaces lists the interface types of the module, and those too large.
func (t *tree) interfaces() (all, large []string) {
	for _, s := range t.files {
		if s.isTest {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			i, ok := spec.Type.(*ast.InterfaceType)
			if !ok {
				return true
			}
			name := fmt.Sprintf("%s: %s", t.at(spec), spec.Name.Name)
			all = append(all, name)
			if i.Methods.NumFields() > methodsMax {
				large = append(large, name)
			}
			return true
		})
	}
	return all, large
}

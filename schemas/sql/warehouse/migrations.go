// Package warehousesql holds the warehouse's schema as numbered migrations.
//
// A migration that was ever released is never edited: a change is the next
// number. ClickHouse has no transactions for DDL, so that every statement must
// do no harm when it runs twice: IF NOT EXISTS, IF EXISTS. The names are
// unqualified; the connection's database is the one they are made in.
package warehousesql

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

//go:embed *.sql
var files embed.FS

// Migration is one step of the schema.
type Migration struct {
	Version    uint32   // counts from 1 without gaps
	Name       string   // the file's name
	Statements []string // to run one by one, in order
}

// Migrations returns all steps in order.
func Migrations() ([]Migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("cannot list the warehouse migrations: %w", err)
	}
	var all []Migration
	for i, name := range names {
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseUint(number, 10, 32)
		if err != nil || int(version) != i+1 {
			return nil, fmt.Errorf("warehouse migration %s is out of order: want number %d", name, i+1)
		}
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read warehouse migration %s: %w", name, err)
		}
		all = append(all, Migration{Version: uint32(version), Name: name, Statements: split(string(text))})
	}
	return all, nil
}

// split cuts a file at the semicolons that end a line. Comments go along with
// the statement that follows them.
func split(text string) []string {
	var statements []string
	for statement := range strings.SplitSeq(text, ";\n") {
		if statement = strings.TrimSpace(statement); statement != "" {
			statements = append(statements, statement)
		}
	}
	return statements
}

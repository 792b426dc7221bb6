// Package ledgersql holds the ledger's schema as numbered migrations, one text
// for SQLite, PostgreSQL and CockroachDB.
//
// A migration that has been released never changes: its checksum is stored by
// every ledger that ran it, and a ledger refuses a program whose text differs.
// What must change takes the next number.
package ledgersql

import "embed"

// Migrations holds the files NNNN_name.sql; they run in the order of their
// names. Statements end with a semicolon at the end of a line. A comment
// /*sqlite … */ or /*cockroachdb … */ is that engine's alone: it is uncovered there
// and stays a comment elsewhere.
//
//go:embed *.sql
var Migrations embed.FS

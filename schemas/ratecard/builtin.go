package ratecard

import (
	_ "embed"
	"sync"
)

//go:embed builtin.yaml
var builtinYAML []byte

// Builtin is the card file that comes with the program: the costs of current
// models, no rules.
func Builtin() *File { return builtin() }

var builtin = sync.OnceValue(func() *File {
	f, err := Parse("builtin.yaml", builtinYAML)
	if err != nil {
		panic("BUG: " + err.Error()) // a test parses it
	}
	return f
})

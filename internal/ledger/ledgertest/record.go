package ledgertest

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// statements are the texts that went through the proxies of this process.
var statements = struct {
	sync.Mutex
	texts map[string]bool
}{texts: map[string]bool{}}

// ownText begins the statements that are a test's own: they are no ledger's.
const ownText = "/* a test's */ "

// Statements are the texts of all statements that ledgers have sent through a
// Proxy, sorted, each list of rows or values cut to two.
func Statements() []string {
	statements.Lock()
	defer statements.Unlock()
	return slices.Sorted(maps.Keys(statements.texts))
}

var (
	space = regexp.MustCompile(`\s+`)
	rows  = regexp.MustCompile(`(\((?:(?:CAST\(\$\d+ AS [A-Z]+\)|\$\d+)(?:, )?)+\))(, \((?:(?:CAST\(\$\d+ AS [A-Z]+\)|\$\d+)(?:, )?)+\))+`)
	list  = regexp.MustCompile(`IN \(\$1(, \$\d+)*\)`)
)

func record(text string) {
	if strings.HasPrefix(text, ownText) {
		return
	}
	text = strings.TrimSpace(space.ReplaceAllString(text, " "))
	text = rows.ReplaceAllString(text, "$1, $1")
	text = list.ReplaceAllString(text, "IN ($$1, $$2)")
	statements.Lock()
	defer statements.Unlock()
	statements.texts[text] = true
}

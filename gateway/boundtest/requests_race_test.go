//go:build race

package boundtest

// requests are few: the race detector makes tokenizers ten times slower, and
// what is checked here does not depend on it.
const requests = 600

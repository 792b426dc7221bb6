package warehouse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrNoLibrary says that the embedded engine's library is not there and what
// to do about it.
var ErrNoLibrary = errors.New("libchdb.so, the library of the embedded ClickHouse engine, was not found: " +
	"run `npm ci` or `make build` in weir's source, name the file as clickhouse.library, or set clickhouse.url to a server or to none")

const libraryName = "libchdb.so"

// findLibrary returns the real path of the library: the configured one and no
// other if there is one, else the first found beside the executable, among
// npm's packages below the working directory, and on the system.
func findLibrary(configured string) (string, error) {
	candidates := []string{configured}
	if configured == "" {
		candidates = nil
		if exe, err := os.Executable(); err == nil {
			candidates = append(candidates, filepath.Join(filepath.Dir(exe), "lib", libraryName))
		}
		packaged, err := filepath.Glob(filepath.Join("node_modules", "@chdb", "*", libraryName))
		if err != nil {
			return "", fmt.Errorf("cannot search node_modules: %w", err)
		}
		candidates = append(candidates, packaged...)
		for _, dir := range []string{"/usr/local/lib", "/usr/lib", "/usr/lib64"} {
			candidates = append(candidates, filepath.Join(dir, libraryName))
		}
	}
	for _, candidate := range candidates {
		path, err := filepath.Abs(candidate)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err == nil {
			return path, nil
		}
		if configured != "" {
			return "", fmt.Errorf("%w (clickhouse.library is %s)", ErrNoLibrary, configured)
		}
	}
	return "", ErrNoLibrary
}

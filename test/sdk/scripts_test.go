package sdk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// What both languages call the exceptions, but for what the SDKs add to it.
var scriptErrors = errorNames{0: "InternalServerError", 400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError",
	404: "NotFoundError", 422: "UnprocessableEntityError", 429: "RateLimitError"}

var anthropicErrors = scriptErrors.with(errorNames{402: "PaymentRequiredError", 413: "ContentTooLargeError", 503: "ServiceUnavailableError", 529: "OverloadedError"})

func TestPythonOpenAI(t *testing.T) {
	check(t, &openaiProvider, python(t, "openai_sdk.py"), scriptErrors.with(errorNames{402: "APIStatusError", 413: "APIStatusError"}))
}

func TestPythonAnthropic(t *testing.T) {
	check(t, &anthropicProvider, python(t, "anthropic_sdk.py"), anthropicErrors)
}

func TestNodeOpenAI(t *testing.T) {
	check(t, &openaiProvider, node(t, "openai.mjs"), scriptErrors.with(errorNames{402: "APIError", 413: "APIError"}))
}

func TestNodeAnthropic(t *testing.T) {
	check(t, &anthropicProvider, node(t, "anthropic.mjs"), anthropicErrors)
}

// with returns the names with some replaced.
func (n errorNames) with(more errorNames) errorNames {
	all := errorNames{}
	for _, from := range []errorNames{n, more} {
		for status, name := range from {
			all[status] = name
		}
	}
	return all
}

// python returns a driver that runs a script with the pinned packages.
func python(t *testing.T, script string) driver {
	t.Helper()
	packages := need(t, "Python's SDKs", pythonPackages)
	dir := stage(t, "python", "driver.py", script)
	return func(ctx context.Context, p plan) ([]observation, error) {
		return runScript(exec.CommandContext(ctx, filepath.Join(packages, "bin", "python"), filepath.Join(dir, script)), p)
	}
}

// node returns a driver that runs a script beside the pinned packages: Node
// looks for them in folders above the script only.
func node(t *testing.T, script string) driver {
	t.Helper()
	packages := need(t, "Node's SDKs", nodePackages)
	dir := stage(t, "node", "driver.mjs", script)
	must(t, os.Symlink(filepath.Join(packages, "node_modules"), filepath.Join(dir, "node_modules")))
	return func(ctx context.Context, p plan) ([]observation, error) {
		return runScript(exec.CommandContext(ctx, "node", filepath.Join(dir, script)), p)
	}
}

// stage copies scripts to a folder of the test. That this process reads them
// also tells go test to forget its cached answer when one changes.
func stage(t *testing.T, from string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		must(t, copyFile(filepath.Join(from, name), filepath.Join(dir, name)))
	}
	return dir
}

// runScript gives a script the plan and reads its observations.
func runScript(cmd *exec.Cmd, p plan) ([]observation, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), &stderr
	// Nothing of the caller's environment may lead the SDKs elsewhere.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "NO_PROXY=*"}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, stderr.Bytes())
	}
	var observed []observation
	for line := range bytes.Lines(out) {
		var o observation
		if err := json.Unmarshal(line, &o); err != nil {
			return nil, fmt.Errorf("cannot read the driver's line %q: %w", line, err)
		}
		observed = append(observed, o)
	}
	return observed, nil
}

// need returns the folder of packages, or skips the test where they cannot be
// had, unless they are required.
func need(t *testing.T, what string, packages func() (string, error)) string {
	t.Helper()
	dir, err := packages()
	if err != nil && strings.Contains(os.Getenv("WEIR_REQUIRE"), "sdk") {
		t.Fatalf("%s are required and cannot be had: %v", what, err)
	}
	if err != nil {
		t.Skipf("%s cannot be had here: %v", what, err)
	}
	return dir
}

// pythonPackages and nodePackages install what the pinned lists name, once for
// each state of the list.
var pythonPackages = sync.OnceValues(func() (string, error) {
	return install("python", []string{"requirements.txt"}, func(dir string) [][]string {
		return [][]string{
			{"python3", "-m", "venv", dir},
			{filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet", "--retries", "2", "-r", filepath.Join(dir, "requirements.txt")},
		}
	})
})

var nodePackages = sync.OnceValues(func() (string, error) {
	return install("node", []string{"node/package.json", "node/package-lock.json"}, func(dir string) [][]string {
		return [][]string{{"npm", "ci", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries", "1"}}
	})
})

// saidMax is how much of a failed command's output is told: its end says why.
const saidMax = 300

// install runs commands in a folder of the user's cache that has copies of the
// lists and is named for their content. A mark says that it is complete; a lock
// keeps two test processes apart.
func install(language string, lists []string, commands func(dir string) [][]string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, name := range lists {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		sum.Write(text)
	}
	dir := filepath.Join(cache, "weir-test", fmt.Sprintf("sdk-%s-%s", language, hex.EncodeToString(sum.Sum(nil)[:6])))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close() // which unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	mark := filepath.Join(dir, "complete")
	if _, err := os.Stat(mark); err == nil {
		return dir, nil
	}
	for _, name := range lists {
		if err := copyFile(name, filepath.Join(dir, filepath.Base(name))); err != nil {
			return "", err
		}
	}
	for _, c := range commands(dir) {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			said := bytes.Join(bytes.Fields(out), []byte(" "))
			return "", fmt.Errorf("cannot run %s: %w: …%s", strings.Join(c[:2], " "), err, said[max(0, len(said)-saidMax):])
		}
	}
	return dir, os.WriteFile(mark, nil, 0o600)
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}

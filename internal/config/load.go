package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// DefaultFile is read from the working directory when no file is named.
const DefaultFile = "weir.yaml"

const envPrefix = "WEIR_"

// notConfiguration matches variables that begin like ours and are not: those
// of tests and benchmarks, and those that Kubernetes and Docker put into every
// container for a service that is called weir (WEIR_SERVICE_HOST,
// WEIR_PORT_8080_TCP, WEIR_GATEWAY_PORT), which would else stop the start.
var notConfiguration = regexp.MustCompile(
	`^WEIR_(TEST_.*|REQUIRE|BENCH.*|(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_\d+_(TCP|UDP)(_.*)?))$`)

// Load reads the file (file, else ./weir.yaml if there is one, else none), the
// environment (as os.Environ gives it) and the flags (--listen.data=X or
// --listen.data X), and checks the result. An error names the key and the
// place it was set.
func Load(args, env []string, file string) (Config, error) {
	l := loader{config: Default(), vars: variables(env), where: map[string]string{}}
	err := l.file(file)
	if err == nil {
		err = l.environment()
	}
	if err == nil {
		err = l.flags(args)
	}
	if err == nil {
		err = l.check()
	}
	if err != nil {
		return Config{}, err
	}
	return l.config, nil
}

// Find reads only what a client of a running process needs, where it keeps its
// files and its token. Variables that the server's shell has and this one lacks
// count as empty, and the values of other keys are not judged.
func Find(env []string, file string) (dataDir string, token Secret, err error) {
	l := loader{config: Default(), vars: variables(env), where: map[string]string{}, lenient: true}
	if err := l.file(file); err != nil {
		return "", Secret{}, err
	}
	if dir := l.vars["WEIR_DATA_DIR"]; dir != "" {
		l.config.DataDir = dir
	}
	if token := l.vars["WEIR_ADMIN_TOKEN"]; token != "" {
		l.config.Admin.Token = NewSecret(token)
	}
	return l.config.DataDir, l.config.Admin.Token, nil
}

// FindTopUpURL reads the page where customers can pay, as Find does, "" if none
// is configured.
func FindTopUpURL(env []string, file string) (string, error) {
	l := loader{config: Default(), vars: variables(env), where: map[string]string{}, lenient: true}
	if err := l.file(file); err != nil {
		return "", err
	}
	return cmp.Or(l.vars["WEIR_TOP_UP_URL"], l.config.TopUpURL), nil
}

type loader struct {
	config  Config
	vars    map[string]string // the environment
	where   map[string]string // path of a key → where it was last set
	lenient bool              // an unset variable is empty everywhere
}

func variables(env []string) map[string]string {
	vars := make(map[string]string, len(env))
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		vars[name] = value
	}
	return vars
}

// file applies the file and resolves the references in the defaults.
func (l *loader) file(name string) error {
	src, err := os.ReadFile(cmp.Or(name, DefaultFile))
	switch {
	case err != nil && name == "" && errors.Is(err, os.ErrNotExist):
		src = nil
	case err != nil:
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	name = cmp.Or(name, DefaultFile)
	var doc, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(src))
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one document (a line of --- begins another)", name)
	}
	d := decoder{source: name, lines: true, expand: l.expand, where: l.where}
	if len(doc.Content) > 0 {
		if err := d.value("", doc.Content[0], reflect.ValueOf(&l.config).Elem()); err != nil {
			return err
		}
	}
	for provider, p := range l.config.Providers { // those of the defaults
		if _, set := l.where["providers."+provider+".api_key"]; !set {
			text, err := l.expand("providers."+provider+".api_key", p.APIKey.Reveal())
			if err != nil {
				return err
			}
			p.APIKey = NewSecret(text)
			l.config.Providers[provider] = p
		}
	}
	return nil
}

// expand replaces ${NAME}. A variable that is not set is an empty text in a
// provider's key (a provider that is not used) and an error everywhere else:
// an empty ledger.url would quietly open other books.
func (l *loader) expand(path, text string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || !variableName.MatchString(name) {
			return "", errors.New("after ${ must come a variable's name and }")
		}
		value, set := l.vars[name]
		if !set && !l.lenient && !(strings.HasPrefix(path, "providers.") && strings.HasSuffix(path, ".api_key")) {
			return "", fmt.Errorf("the environment variable %s is not set", name)
		}
		out.WriteString(value)
		text = after
	}
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment applies the variables in the order of their names.
func (l *loader) environment() error {
	byName := map[string][]string{}
	for _, path := range leaves(reflect.TypeFor[Config]()) {
		byName[envName(path)] = path
	}
	names := make([]string, 0, len(l.vars))
	for name := range l.vars {
		if strings.HasPrefix(name, envPrefix) && !notConfiguration.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		path := byName[name]
		if path == nil {
			path = l.providerPath(name)
		}
		if path == nil {
			return fmt.Errorf("environment variable %s: there is no such configuration key", name)
		}
		if err := l.set("environment variable "+name, path, l.vars[name]); err != nil {
			return err
		}
	}
	return nil
}

func envName(path []string) string {
	return envPrefix + strings.NewReplacer(".", "_", "-", "_").Replace(strings.ToUpper(strings.Join(path, "_")))
}

// providerPath reads WEIR_PROVIDERS_<NAME>_<KEY>. A name that is configured
// already is meant; another makes a provider of the name in lower case.
func (l *loader) providerPath(env string) []string {
	rest, ok := strings.CutPrefix(env, envPrefix+"PROVIDERS_")
	if !ok {
		return nil
	}
	for _, key := range keysOf(reflect.TypeFor[Provider]()) {
		name, ok := strings.CutSuffix(rest, "_"+strings.ToUpper(key))
		if !ok || name == "" {
			continue
		}
		for configured := range l.config.Providers {
			if path := []string{"providers", configured, key}; envName(path) == env {
				return path
			}
		}
		return []string{"providers", strings.ToLower(name), key}
	}
	return nil
}

// flags applies --path=value, --path value, and --path alone for a switch.
func (l *loader) flags(args []string) error {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		body, ok := strings.CutPrefix(arg, "--")
		if !ok {
			return fmt.Errorf("unexpected argument %q", arg)
		}
		name, text, hasText := strings.Cut(body, "=")
		path := strings.Split(name, ".")
		kind := kindAt(reflect.TypeFor[Config](), path)
		switch {
		case kind == nil:
			return fmt.Errorf("unknown flag --%s", name)
		case hasText:
		case kind.Kind() == reflect.Bool && (len(args) == 0 || args[0] != "true" && args[0] != "false"):
			text = "true"
		case len(args) == 0:
			return fmt.Errorf("flag --%s: the value is missing", name)
		default:
			text, args = args[0], args[1:]
		}
		if err := l.set("flag --"+name, path, text); err != nil {
			return err
		}
	}
	return nil
}

// set applies one value by the path of its key.
func (l *loader) set(source string, path []string, text string) error {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
	for _, key := range slices.Backward(path) {
		n = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: key}, n}}
	}
	d := decoder{source: source, where: l.where}
	return d.value("", n, reflect.ValueOf(&l.config).Elem())
}

// leaves lists the paths of all keys that hold a value, but for those of
// providers, whose names are free.
func leaves(t reflect.Type) [][]string {
	var paths [][]string
	for i, key := range keysOf(t) {
		switch f := t.Field(i).Type; {
		case f.Kind() == reflect.Map:
		case isBranch(f):
			for _, rest := range leaves(f) {
				paths = append(paths, append([]string{key}, rest...))
			}
		default:
			paths = append(paths, []string{key})
		}
	}
	return paths
}

// kindAt is the type of the value at a path, nil if no value is there.
func kindAt(t reflect.Type, path []string) reflect.Type {
	switch {
	case t.Kind() == reflect.Map && len(path) > 1 && path[0] != "":
		return kindAt(t.Elem(), path[1:])
	case !isBranch(t):
		if len(path) > 0 || t.Kind() == reflect.Map {
			return nil
		}
		return t
	case len(path) == 0 || fieldOf(t, path[0]) < 0:
		return nil
	}
	return kindAt(t.Field(fieldOf(t, path[0])).Type, path[1:])
}

// isBranch tells a group of keys from a value such as Secret.
func isBranch(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.Field(0).Tag.Get("yaml") != ""
}

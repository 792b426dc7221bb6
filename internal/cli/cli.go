// Package cli is the command line: it finds the verb, reads its flags, and
// turns errors into exit codes. The verbs that speak to a running weir are
// here too, as thin clients of its control plane.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Exit codes of the program.
const (
	ExitFailure = 1
	ExitUsage   = 2 // of the command line or the configuration
	ExitBroken  = 3 // the tie-out
)

// ErrBroken is returned by a verb that found the books not to tie out.
var ErrBroken = errors.New("the tie-out is broken")

// Verb is one thing the program can do.
type Verb struct {
	Name  string // one or two words
	Args  string // its arguments, such as "ID AMOUNT"
	Does  string // one line of help
	Flags []Flag
	// Settings: any other flag is a configuration key, kept in Call.Settings.
	Settings bool
	Run      func(context.Context, *Call) error
}

// Flag is one --flag of a verb.
type Flag struct {
	Name  string
	Value string // what stands for its value in help; "" = a switch without one
	Does  string
}

// Call is a verb as it was called.
type Call struct {
	Args     []string // as many as the verb's
	Settings []string // configuration flags, for config.Load
	Env      []string // as os.Environ gives it
	Stdout   io.Writer
	Stderr   io.Writer
	flags    map[string]string
}

// Flag is the value of a flag, "" if it was not given; a switch is "true".
func (c *Call) Flag(name string) string { return c.flags[name] }

// Printf writes to standard output.
func (c *Call) Printf(format string, args ...any) { fmt.Fprintf(c.Stdout, format, args...) }

type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// Usage marks an error of the command line or the configuration: exit code 2.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// Main runs the verb that args name and returns the exit code. Errors are one
// sentence on call.Stderr; call carries what a verb is given beside its flags.
func Main(ctx context.Context, args []string, verbs []Verb, call Call) int {
	err := run(ctx, args, verbs, &call)
	if err == nil {
		return 0
	}
	fmt.Fprintf(call.Stderr, "weir: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	switch {
	case errors.As(err, new(usageError)):
		return ExitUsage
	case errors.Is(err, ErrBroken):
		return ExitBroken
	}
	return ExitFailure
}

func run(ctx context.Context, args []string, verbs []Verb, call *Call) error {
	if len(args) > 0 && (args[0] == "help" || isHelp(args[0])) {
		printVerbs(call.Stdout, verbs)
		return nil
	}
	verb, rest := find(args, verbs)
	if verb == nil {
		return unknownVerb(args, verbs)
	}
	if slices.ContainsFunc(rest, isHelp) {
		verb.help(call.Stdout)
		return nil
	}
	if err := verb.parse(rest, call); err != nil {
		return Usage(fmt.Errorf("%w; see weir %s --help", err, verb.Name))
	}
	return verb.Run(ctx, call)
}

func isHelp(arg string) bool { return arg == "--help" || arg == "-h" }

// find takes the longest name that args begin with.
func find(args []string, verbs []Verb) (*Verb, []string) {
	for words := min(2, len(args)); words > 0; words-- {
		name := strings.Join(args[:words], " ")
		for i := range verbs {
			if verbs[i].Name == name {
				return &verbs[i], args[words:]
			}
		}
	}
	return nil, nil
}

func unknownVerb(args []string, verbs []Verb) error {
	if len(args) == 0 {
		return Usage(errors.New("say what to do; weir --help lists it"))
	}
	var group []string
	for _, v := range verbs {
		if strings.HasPrefix(v.Name, args[0]+" ") {
			group = append(group, v.Name)
		}
	}
	if group != nil {
		return Usage(fmt.Errorf("%q needs one more word: %s", args[0], strings.Join(group, ", ")))
	}
	return Usage(fmt.Errorf("there is no verb %q; weir --help lists them", args[0]))
}

// parse sorts what follows the verb into flags, settings and arguments, which
// may stand in any order. After -- all are arguments.
func (v *Verb) parse(args []string, call *Call) error {
	call.flags = map[string]string{}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			call.Args = append(call.Args, args...)
			break
		}
		name, isFlag := strings.CutPrefix(arg, "--")
		if !isFlag { // with one dash too: ids of batches may begin so
			call.Args = append(call.Args, arg)
			continue
		}
		name, value, hasValue := strings.Cut(name, "=")
		i := slices.IndexFunc(v.Flags, func(f Flag) bool { return f.Name == name })
		switch {
		case i < 0 && v.Settings:
			call.Settings = append(call.Settings, arg)
			if !hasValue && len(args) > 0 && !strings.HasPrefix(args[0], "--") {
				call.Settings, args = append(call.Settings, args[0]), args[1:]
			}
			continue
		case i < 0:
			return fmt.Errorf("unknown flag --%s", name)
		case v.Flags[i].Value == "" && hasValue:
			return fmt.Errorf("flag --%s takes no value", name)
		case v.Flags[i].Value == "":
			value = "true"
		case !hasValue && len(args) == 0:
			return fmt.Errorf("flag --%s: the value is missing", name)
		case !hasValue:
			value, args = args[0], args[1:]
		}
		call.flags[name] = value
	}
	return v.checkArgs(call.Args)
}

func (v *Verb) checkArgs(args []string) error {
	least, most := 0, 0
	for _, name := range strings.Fields(v.Args) {
		if most++; !strings.HasPrefix(name, "[") {
			least++
		}
	}
	switch {
	case len(args) < least:
		return fmt.Errorf("%s needs %s", v.Name, v.Args)
	case len(args) > most:
		return fmt.Errorf("unexpected argument %q", args[most])
	}
	return nil
}

func (v *Verb) synopsis() string { return strings.TrimSpace(v.Name + " " + v.Args) }

func (v *Verb) help(w io.Writer) {
	fmt.Fprintf(w, "weir %s: %s\n", v.synopsis(), v.Does)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range v.Flags {
		fmt.Fprintf(table, "  %s\t%s\n", strings.TrimSpace("--"+f.Name+" "+f.Value), f.Does)
	}
	if v.Settings {
		fmt.Fprintf(table, "  --KEY VALUE\tany configuration key, such as --listen.data 127.0.0.1:8080\n")
	}
	table.Flush()
}

func printVerbs(w io.Writer, verbs []Verb) {
	fmt.Fprint(w, "weir meters, prices and bills AI traffic from prepaid wallets.\n\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range verbs {
		fmt.Fprintf(table, "  weir %s\t%s\n", v.synopsis(), v.Does)
	}
	table.Flush()
	fmt.Fprint(w, "\nweir VERB --help tells its flags. Exit codes: 1 failure, 2 usage or configuration, 3 tie-out broken.\n")
}

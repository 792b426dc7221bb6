package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// front answers ClickHouse's HTTP interface on one of the two sockets. Every
// request gets a session of its own (about a millisecond): no setting,
// database or temporary table of one is ever seen by another.
type front struct {
	lib      *library
	args     []string // of every session
	readOnly bool
	turns    chan struct{} // one token per running statement
	host     string
}

func newFront(lib *library, dir string, readOnly bool) *front {
	f := &front{lib: lib, readOnly: readOnly, args: []string{"--path=" + dir}}
	f.host, _ = os.Hostname() // only shown to clients
	if readOnly {
		f.turns = make(chan struct{}, maxReading)
	} else {
		f.turns = make(chan struct{}, maxWriting)
		f.args = append(f.args, writerArgs...)
	}
	return f
}

// ServeHTTP runs one statement.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/ping" || r.URL.Path == "/" && r.Method == http.MethodGet && r.URL.RawQuery == "":
		fmt.Fprintln(w, "Ok.")
		return
	case r.URL.Path != "/":
		http.Error(w, "There is no such address; statements go to /", http.StatusNotFound)
		return
	case r.Method != http.MethodPost && r.Method != http.MethodGet:
		http.Error(w, "Only GET and POST", http.StatusMethodNotAllowed)
		return
	}
	select { // before anything is read: a frame may claim to be large, and room is made for it
	case f.turns <- struct{}{}:
		defer func() { <-f.turns }()
	case <-r.Context().Done():
		return
	}
	q, err := readQuestion(r)
	if err != nil {
		refuse(w, err)
		return
	}
	a := newAnswer(w, q)
	a.end(f.answer(r.Context(), q, a))
}

// answer runs q in a fresh session and writes its result to a.
func (f *front) answer(ctx context.Context, q *question, a *answer) error {
	s, err := f.session(q)
	if err != nil {
		return err
	}
	defer s.close()
	if q.statement == hello {
		return f.answerHello(s, q, a)
	}
	if err := s.prepare(q); err != nil {
		return err
	}
	if f.readOnly {
		if err := s.mustOnlyRead(q); err != nil {
			return err
		}
	}
	// A statement cannot be cancelled through its own session, only be found
	// and killed by another one: by a comment in front of it.
	tag := "/*" + rand.Text() + "*/"
	stop := context.AfterFunc(ctx, func() { f.kill(tag) })
	defer stop()
	switch sql := tag + q.statement; {
	case q.data != nil:
		return s.insert(sql, q.format, func(write func([]byte) error) error { return feed(q.data, write) })
	case q.streams():
		return s.stream(sql, q.format, a.write)
	default:
		result, err := s.query(sql, q.format)
		if err != nil || len(result) == 0 {
			return err
		}
		return a.write(result)
	}
}

// session opens a session for q.
func (f *front) session(q *question) (*session, error) {
	if !f.readOnly {
		return f.lib.open(f.args)
	}
	limits, rest, err := chooseLimits(q.settings)
	if err != nil {
		return nil, err
	}
	q.settings = rest
	s, err := f.lib.open(slices.Concat(f.args, limits, readerArgs))
	if err != nil {
		return nil, fault(36, "BAD_ARGUMENTS", "a setting in the URL has a value that does not fit it")
	}
	s.callMax, s.giveUp = readerCallMax, giveUp
	return s, nil
}

// giveUp ends the process because a statement cannot be ended otherwise. It
// would keep its turn and a processor for hours; weir starts the engine again
// within a second, and what was being appended is appended again.
func giveUp() {
	fmt.Fprintf(os.Stderr, "a reader's statement does not end within %s; ending the engine\n", readerCallMax)
	os.Exit(1)
}

// prepare applies the database, the settings and the parameters. Unknown names
// and, in a read-only session, all settings fail here, with the engine's code.
func (s *session) prepare(q *question) error {
	var statements []string
	if q.database != "" {
		statements = append(statements, "USE `"+strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(q.database)+"`")
	}
	for _, sets := range [][]setting{q.settings, q.params} {
		var list []string
		for _, set := range sets {
			if !settingName.MatchString(set.name) {
				return fault(115, "UNKNOWN_SETTING", "Unknown setting %q", set.name)
			}
			list = append(list, set.name+" = "+quote(set.value))
		}
		if len(list) > 0 {
			statements = append(statements, "SET "+strings.Join(list, ", "))
		}
	}
	for _, sql := range statements {
		if _, err := s.query(sql, "Null"); err != nil {
			return err
		}
	}
	return nil
}

var settingName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)

// mustOnlyRead refuses what readonly=1 lets pass although it changes
// something: SYSTEM STOP MERGES, KILL QUERY, INTO OUTFILE (which may overwrite
// the engine's own files) and a second statement behind a semicolon; and
// DESCRIBE of a table function, which connects to servers and opens files to
// see what they hold. The judgement is the engine's own parser's, so no
// spelling escapes it. It also finds out which format the statement names.
func (s *session) mustOnlyRead(q *question) error {
	if q.data == nil {
		found, err := s.analyse(q.statement)
		switch {
		case err != nil:
			return err
		case found.class == classReading && found.statements == 1:
			return s.mustReadTables(q)
		case found.class == classUnparsed:
			// Formatting parses the text without running it and says what is wrong.
			if _, err := s.query("SELECT formatQuery("+quote(q.statement)+")", "Null"); err != nil {
				return err
			}
		}
	}
	return fault(164, "READONLY", "this interface only reads: one SELECT, SHOW, DESCRIBE, EXISTS or EXPLAIN, without INTO OUTFILE")
}

var (
	describes = regexp.MustCompile(`(?i)\bDESC(RIBE)?\b`)
	// What a statement is in the engine's own spelling: a description of a
	// function, and one that ends by naming its format.
	describesFunction = regexp.MustCompile("^DESCRIBE TABLE (?:[\\w.]+|`(?:[^`\\\\]|\\\\.)*`)\\(")
	endsWithFormat    = regexp.MustCompile(`\bFORMAT (\w+)(?: SETTINGS [^']*)?$`)
)

// mustReadTables looks at the statement as the engine spells it.
func (s *session) mustReadTables(q *question) error {
	if !describes.MatchString(q.statement) && !namesFormat.MatchString(q.statement) {
		return nil
	}
	spelled, err := s.query("SELECT formatQuerySingleLine("+quote(q.statement)+")", "TabSeparatedRaw")
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(spelled))
	if describesFunction.MatchString(text) {
		return fault(164, "READONLY", "this interface describes tables and queries, no table functions")
	}
	if m := endsWithFormat.FindStringSubmatch(text); m != nil {
		q.format = m[1]
	}
	return nil
}

// chooseLimits turns the URL settings that a reader may choose into arguments
// of his session, beside the limits themselves, and returns the other settings.
func chooseLimits(settings []setting) (args []string, rest []setting, err error) {
	chosen := make(map[string]string)
	for _, s := range settings {
		i := slices.IndexFunc(readerLimits, func(l readerLimit) bool { return l.name == s.name })
		switch {
		case i >= 0:
			most := readerLimits[i].most
			if n, err := strconv.ParseInt(s.value, 10, 64); err != nil || n < 1 || n > most { // 0 would mean no limit
				return nil, nil, fault(164, "READONLY", "%s must be from 1 to %d here", s.name, most)
			}
			chosen[s.name] = s.value
		case outputSetting.MatchString(s.name) && s.name != "output_format_schema": // which names a file to write
			args = append(args, "--"+s.name+"="+s.value)
		default:
			rest = append(rest, s)
		}
	}
	for _, l := range readerLimits {
		args = append(args, "--"+l.name+"="+cmp.Or(chosen[l.name], strconv.FormatInt(l.most, 10)))
	}
	return args, rest, nil
}

// outputSetting are the settings a reader may choose freely: how values look,
// and which part of a result is wanted.
var outputSetting = regexp.MustCompile(`^(output_format_[a-z0-9_]+|date_time_output_format|limit|offset)$`)

func (f *front) answerHello(s *session, q *question, a *answer) error {
	version, err := s.query("SELECT version()", "TabSeparatedRaw")
	if err != nil {
		return err
	}
	block, err := helloBlock(f.host, strings.TrimSpace(string(version)), q.revision)
	if err != nil {
		return fmt.Errorf("cannot encode the greeting: %w", err)
	}
	return a.write(block)
}

// kill ends the statement that carries tag. ASYNC, because a statement that
// failed stays listed until its session runs another one, and a synchronous
// KILL would wait for it. A failure is not reported: the client is gone, and
// the statement then ends by itself or by its limits.
func (f *front) kill(tag string) {
	s, err := f.lib.open(f.args)
	if err != nil {
		return
	}
	defer s.close()
	_, _ = s.query("KILL QUERY WHERE position(query, "+quote(tag)+") = 1 ASYNC", "Null")
}

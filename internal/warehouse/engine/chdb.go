package engine

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library holds the entry points of libchdb that are used. Only those that
// take lengths: a C string would end at the first zero byte of a statement.
// Handles are opaque engine memory; a result must be destroyed exactly once.
type library struct {
	setSignalHandlers func(enabled int32)
	connect           func(argc int32, argv unsafe.Pointer) unsafe.Pointer // → pointer to a connection, nil on failure
	closeConn         func(conn unsafe.Pointer)

	query         func(conn uintptr, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr) uintptr
	streamQuery   func(conn uintptr, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr) uintptr
	streamFetch   func(conn, result uintptr) uintptr
	streamCancel  func(conn, result uintptr)
	resultBuffer  func(result uintptr) unsafe.Pointer
	resultLength  func(result uintptr) uintptr
	resultError   func(result uintptr) string
	destroyResult func(result uintptr)
	classify      func(conn uintptr, sql unsafe.Pointer, sqlLen uintptr, database unsafe.Pointer, databaseLen uintptr, out *analysis) int32

	insert        func(conn uintptr, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr) uintptr
	insertError   func(stream uintptr) string
	insertAppend  func(stream uintptr, data unsafe.Pointer, length uintptr) int32
	insertDone    func(stream uintptr) uintptr
	destroyInsert func(stream uintptr)
}

// load opens libchdb at path and binds its entry points.
//
// The engine's own signal handlers are switched off before anything else: with
// them the first connection replaces Go's, and the next nil dereference in Go
// code would end the process instead of being a panic.
func load(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("cannot load the ClickHouse library: %w", err)
	}
	lib := &library{}
	for symbol, fn := range map[string]any{
		"chdb_set_signal_handlers_enabled": &lib.setSignalHandlers,
		"chdb_connect":                     &lib.connect,
		"chdb_close_conn":                  &lib.closeConn,
		"chdb_query_n":                     &lib.query,
		"chdb_stream_query_n":              &lib.streamQuery,
		"chdb_stream_fetch_result":         &lib.streamFetch,
		"chdb_stream_cancel_query":         &lib.streamCancel,
		"chdb_result_buffer":               &lib.resultBuffer,
		"chdb_result_length":               &lib.resultLength,
		"chdb_result_error":                &lib.resultError,
		"chdb_destroy_query_result":        &lib.destroyResult,
		"chdb_classify_query_n":            &lib.classify,
		"chdb_stream_insert_n":             &lib.insert,
		"chdb_stream_insert_error":         &lib.insertError,
		"chdb_stream_append":               &lib.insertAppend,
		"chdb_stream_done":                 &lib.insertDone,
		"chdb_destroy_insert_stream":       &lib.destroyInsert,
	} {
		address, err := purego.Dlsym(handle, symbol)
		if err != nil {
			return nil, fmt.Errorf("cannot use %s: it has no %s (wrong version): %w", path, symbol, err)
		}
		purego.RegisterFunc(fn, address)
	}
	lib.setSignalHandlers(0)
	return lib, nil
}

// session is one connection to the engine: one statement at a time, own
// settings, own current database. It is not safe for concurrent use.
type session struct {
	lib    *library
	handle unsafe.Pointer // what connect returned; closeConn takes it
	conn   uintptr        // the connection it points at; every other call takes it

	callMax time.Duration // how long one call that runs a statement may take
	giveUp  func()        // what happens after that; nil: calls may take any time
}

// watch begins to watch a call; what it returns ends that.
func (s *session) watch() (end func() bool) {
	if s.giveUp == nil {
		return func() bool { return false }
	}
	return time.AfterFunc(s.callMax, s.giveUp).Stop
}

// open makes a session. Each argument is "--name=value": the storage path (one
// per process), server settings (on the first session only) and settings that
// hold for this session alone. The engine gives no reason for a failure here,
// it writes it to standard error.
func (lib *library) open(args []string) (*session, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	argv := make([]unsafe.Pointer, 0, len(args)+2)
	for _, arg := range append([]string{"clickhouse"}, args...) {
		text := append([]byte(arg), 0)
		pin.Pin(&text[0])
		argv = append(argv, unsafe.Pointer(&text[0]))
	}
	argv = append(argv, nil)
	pin.Pin(&argv[0])
	handle := lib.connect(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	if handle == nil {
		return nil, errors.New("cannot connect to the ClickHouse engine: it refused the storage path or a setting")
	}
	return &session{lib: lib, handle: handle, conn: *(*uintptr)(handle)}, nil
}

func (s *session) close() { s.lib.closeConn(s.handle) }

// exception is an error the engine reported: the text it gave, which begins
// with "Code: N. DB::Exception:" (sometimes twice: the first code counts).
type exception string

func (e exception) Error() string { return string(e) }

// fault makes an exception that the engine did not report but would have.
func fault(code int, name, format string, args ...any) exception {
	return exception(fmt.Sprintf("Code: %d. DB::Exception: %s. (%s)", code, fmt.Sprintf(format, args...), name))
}

// call runs one of the entry points that take a statement and a format.
func call(fn func(uintptr, unsafe.Pointer, uintptr, unsafe.Pointer, uintptr) uintptr, conn uintptr, sql, format string) uintptr {
	defer runtime.KeepAlive(sql)
	defer runtime.KeepAlive(format)
	return fn(conn, unsafe.Pointer(unsafe.StringData(sql)), uintptr(len(sql)),
		unsafe.Pointer(unsafe.StringData(format)), uintptr(len(format)))
}

// take copies a result out of the engine's memory and destroys it.
func (s *session) take(result uintptr) ([]byte, error) {
	if result == 0 {
		return nil, errors.New("the ClickHouse engine gave no result")
	}
	defer s.lib.destroyResult(result)
	if text := s.lib.resultError(result); text != "" {
		return nil, exception(text)
	}
	n := s.lib.resultLength(result)
	if n == 0 {
		return nil, nil
	}
	data := make([]byte, n)
	copy(data, unsafe.Slice((*byte)(s.lib.resultBuffer(result)), n))
	return data, nil
}

// analysis is what the engine's own parser says about a text; its layout is
// that of the C structure.
type analysis struct {
	size       uint32 // of this structure, set by the caller
	statements uint32 // how many the text holds
	_          uint32 // flags
	class      uint32
}

// The classes that matter here. Reading covers SELECT, SHOW, DESCRIBE, EXISTS,
// EXPLAIN and CHECK, but nothing with INTO OUTFILE; unparsed also stands for
// statements this engine does not know how to class.
const (
	classReading  = 0
	classUnparsed = 4
)

// analyse parses sql without running it.
func (s *session) analyse(sql string) (analysis, error) {
	out := new(analysis)
	out.size = uint32(unsafe.Sizeof(*out))
	defer runtime.KeepAlive(sql)
	if s.lib.classify(s.conn, unsafe.Pointer(unsafe.StringData(sql)), uintptr(len(sql)), nil, 0, out) != 0 {
		return analysis{}, errors.New("the ClickHouse engine cannot classify the statement")
	}
	return *out, nil
}

// query runs any statement and returns its whole result, written in format
// unless the statement has a FORMAT clause of its own.
func (s *session) query(sql, format string) ([]byte, error) {
	defer s.watch()()
	return s.take(call(s.lib.query, s.conn, sql, format))
}

// stream runs a SELECT and hands its result to emit piece by piece. Every piece
// is a finished document of the format, so only formats whose documents can
// follow each other make sense here. An error of emit stops the statement.
func (s *session) stream(sql, format string, emit func([]byte) error) error {
	end := s.watch()
	result := call(s.lib.streamQuery, s.conn, sql, format)
	end()
	if result == 0 {
		return errors.New("the ClickHouse engine gave no result")
	}
	defer s.lib.destroyResult(result)
	if text := s.lib.resultError(result); text != "" {
		return exception(text)
	}
	for {
		end := s.watch()
		piece, err := s.take(s.lib.streamFetch(s.conn, result))
		end()
		if err == nil && len(piece) == 0 {
			return nil
		}
		if err == nil {
			err = emit(piece)
		}
		if err != nil {
			s.lib.streamCancel(s.conn, result)
			return err
		}
	}
}

// insert runs "INSERT INTO table (columns)", which must not have a FORMAT
// clause, over the data that feed hands to write. Data never travels inside
// the statement: the engine's parser would end binary data at two newlines.
// An error of feed cancels the insert, so that half a body is never stored.
func (s *session) insert(sql, format string, feed func(write func([]byte) error) error) error {
	stream := call(s.lib.insert, s.conn, sql, format)
	if stream == 0 {
		return errors.New("the ClickHouse engine opened no insert")
	}
	defer s.lib.destroyInsert(stream)
	if text := s.lib.insertError(stream); text != "" {
		return exception(text)
	}
	err := feed(func(data []byte) error {
		if len(data) == 0 {
			return nil
		}
		defer runtime.KeepAlive(data)
		if s.lib.insertAppend(stream, unsafe.Pointer(&data[0]), uintptr(len(data))) != 0 {
			return exception(s.lib.insertError(stream))
		}
		return nil
	})
	if err != nil {
		return err // destroying a stream that is not done cancels it
	}
	_, err = s.take(s.lib.insertDone(stream))
	return err
}

// quote writes s as a string literal of ClickHouse's SQL.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

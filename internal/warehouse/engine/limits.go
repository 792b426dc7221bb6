package engine

import "time"

// serverArgs sizes the engine for a machine it shares with the gateway; its
// defaults are those of a dedicated server (90 % of the memory, caches of
// gigabytes, dozens of threads).
var serverArgs = []string{
	"--max_server_memory_usage=1500000000", // bytes; a statement that would pass it fails
	"--mark_cache_size=134217728",
	"--index_mark_cache_size=16777216",
	"--primary_index_cache_size=134217728",
	"--uncompressed_cache_size=0",
	"--query_condition_cache_size=16777216",
	"--compiled_expression_cache_size=33554432",
	"--vector_similarity_index_cache_size=0",
	"--max_thread_pool_size=200", // threads of all statements and tasks together
	"--max_thread_pool_free_size=8",
	"--max_io_thread_pool_size=16",
	"--background_pool_size=2", // merges; two cores are the smallest machine
	"--background_schedule_pool_size=2",
	"--background_schedule_pool_initial_size=2",
	"--background_common_pool_size=1",
	"--background_move_pool_size=1",
	"--background_fetches_pool_size=1",
}

// writerArgs are the settings of a session that may write: what the client
// asks for is added to them. A block is stored when its insert is answered.
var writerArgs = []string{
	"--async_insert=0",
	"--max_threads=2",
	"--max_memory_usage=1000000000", // bytes a statement; below the server's, so that one cannot starve the rest
}

// readerArgs make a session one that only reads. The engine's default lets its
// functions look into the process itself.
var readerArgs = []string{"--readonly=1", "--allow_ddl=0", "--allow_introspection_functions=0"}

// readerLimits bound a session that may only read. readonly=1 forbids changing
// any setting, so neither a statement nor a URL can lift them; a URL may lower
// them, which happens before the session becomes read-only.
var readerLimits = []readerLimit{
	{"max_execution_time", 90},        // seconds: Grafana waits 60, and its client asks the server for 5 more
	{"max_memory_usage", 300_000_000}, // bytes: maxReading of them leave the writer its part of the server's
	{"max_result_rows", 1_000_000},    // more is an export
	{"max_result_bytes", 256 << 20},   // results in whole-document formats are held in memory
	{"max_threads", 2},                // the smallest machine has as many cores
}

type readerLimit struct {
	name string
	most int64
}

// readerCallMax is how long one call of a reader may stay inside the library:
// the longest max_execution_time and some seconds. The engine looks at that
// limit between blocks of rows only, so that a costly function over one block
// runs for hours, deaf to KILL.
const readerCallMax = 100 * time.Second

const (
	// maxStatementBytes bounds a statement's text; the engine itself refuses
	// more than 256 KiB unless told otherwise.
	maxStatementBytes = 1 << 20
	// maxWriting and maxReading bound the statements that run at once on each
	// side; more wait for their turn as long as their client does.
	maxWriting = 8
	maxReading = 4
	// frameBytes is the most that one compressed frame of an answer holds.
	frameBytes = 1 << 20
	// insertPieceBytes is how much of an insert's body is handed over at once.
	insertPieceBytes = 256 << 10
)

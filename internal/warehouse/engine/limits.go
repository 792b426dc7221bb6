package engine

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

// readerLimits bound a session that may only read. readonly=1 forbids changing
// any setting, so neither a statement nor a URL can lift them; a URL may lower
// them, which happens before the session becomes read-only.
var readerLimits = []readerLimit{
	{"max_execution_time", 60},        // seconds: a report that takes longer should be a rollup
	{"max_memory_usage", 300_000_000}, // bytes: maxReading of them leave the writer its part of the server's
	{"max_result_rows", 1_000_000},    // more is an export
	{"max_result_bytes", 256 << 20},   // results in whole-document formats are held in memory
	{"max_threads", 2},                // the smallest machine has as many cores
}

type readerLimit struct {
	name string
	most int64
}

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

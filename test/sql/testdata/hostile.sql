-- What a reader of the SQL interface may try, one a line: the statement, then " -- " and what it is after. A line that
-- begins with "?" has URL parameters before its first blank. "ok" marks what may be answered, because it does no harm;
-- everything else must be refused with a code of ClickHouse's. In braces is what the test puts in: {canary} a secret
-- file outside of the engine's directory, {outside} its directory, {engine} the engine's own directory, {data} weir's
-- data directory, {pid} weir's process, {port} a server of the test's that nobody may reach, {(}…{)} deep nesting.

-- Files
SELECT file('{canary}') -- a file outside
SELECT file('{data}/clickhouse-password') -- the reader's password, beside the engine's directory
SELECT file('{engine}/../clickhouse-password') -- the same, by a detour
SELECT file('/etc/passwd') -- a file of the system
SELECT file('/proc/{pid}/environ') -- weir's environment, which holds provider keys
SELECT file('/proc/self/environ') -- ok: the engine's environment is empty
SELECT file('/proc/self/root/etc/passwd') -- the root directory, through the engine's own entry
SELECT file('/proc/self/cwd/../clickhouse-password') -- the parent of the working directory
SELECT length(file('/proc/self/mem')) -- ok: nothing to read at the beginning of memory
SELECT file('/usr/local/etc/weir.yaml') -- a configuration file among programs
SELECT file('/dev/sda') -- a disk
SELECT file(concat('{can', 'ary}')) -- a path put together at run time
SELECT file(unhex('2F6574632F706173737764')) -- an encoded path
SELECT * FROM file('{canary}', 'LineAsString') -- a file as a table
SELECT * FROM file('/proc/*/environ', 'RawBLOB') -- every environment
SELECT * FROM fileCluster('default', '{canary}', 'LineAsString') -- a file, on a cluster
SELECT * FROM (SELECT * FROM file('{canary}', 'LineAsString')) -- hidden in a subquery
WITH x AS (SELECT * FROM file('{canary}', 'LineAsString')) SELECT * FROM x -- hidden in a WITH
SELECT 1 IN (SELECT * FROM file('{canary}', 'LineAsString')) -- hidden in a set
SELECT * FROM view(SELECT * FROM file('{canary}', 'LineAsString')) -- hidden in a view
DESCRIBE file('{canary}', 'CSV') -- the structure of a file, which quotes it
DESC/**/`file`('{canary}', 'CSV') -- the same in another spelling
EXPLAIN SELECT * FROM file('{canary}', 'CSV') -- the structure, by EXPLAIN
EXPLAIN QUERY TREE SELECT * FROM file('{canary}', 'CSV') -- the structure, by another EXPLAIN
SELECT 1 INTO OUTFILE '{outside}/new' -- writing a file
SELECT 1 INTO OUTFILE '{canary}' TRUNCATE -- overwriting a file
SELECT 1 INTO/**/OUTFILE '{engine}/status' TRUNCATE -- overwriting a file of the engine's own
EXPLAIN SELECT 1 INTO OUTFILE '{engine}/new' -- writing, by EXPLAIN
SELECT 1 FORMAT Protobuf SETTINGS output_format_schema = '{engine}/new' -- writing a schema
?output_format_schema={engine}/new SELECT 1 FORMAT Protobuf -- writing a schema, by the URL
INSERT INTO FUNCTION file('{outside}/new', 'TSV', 'a Int8') VALUES (1) -- writing through a function
SELECT * FROM executable('id', 'TSV', 'a String') -- running a program
SELECT * FROM executable('../../usr/bin/id', TabSeparated, 'a String', (SELECT 1)) -- running a program of the system
SELECT catboostEvaluate('{canary}', 1) -- loading a model
SELECT * FROM sqlite('{data}/ledger.db', 'wallet') -- the ledger
SELECT * FROM fuzzQuery('SELECT 1', 500, 8956) LIMIT 1 -- ok: makes texts of statements, runs none

-- The network
SELECT * FROM url('http://127.0.0.1:{port}/', 'LineAsString') -- a web server
DESCRIBE url('http://127.0.0.1:{port}/', 'CSV') -- a web server, to see what it has
DESCRIBE TABLE url('http://127.0.0.1:{port}/', 'CSV') SETTINGS http_max_tries = 1 -- the same with a setting
DESCRIBE (SELECT * FROM url('http://127.0.0.1:{port}/', 'CSV')) -- the same in a subquery
DESCRIBE remote('127.0.0.1:{port}', system.one) -- another ClickHouse
DESCRIBE mysql('127.0.0.1:{port}', 'a', 'b', 'c', 'd') -- a MySQL server
DESCRIBE mysql('localhost', 'a', 'b', 'c', 'd') -- a MySQL server, by its socket
DESCRIBE postgresql('127.0.0.1:{port}', 'a', 'b', 'c', 'd') -- the ledger's server
DESCRIBE s3('http://127.0.0.1:{port}/bucket/key', 'CSV') -- an object store
SELECT * FROM urlCluster('default', 'http://127.0.0.1:{port}/', 'LineAsString') -- a web server, on a cluster
SELECT * FROM remote('127.0.0.1:{port}', system.one) -- another ClickHouse
SELECT * FROM remoteSecure('127.0.0.1:{port}', system.one) -- with encryption
SELECT * FROM cluster('default', system.one) -- a cluster
SELECT * FROM s3('http://127.0.0.1:{port}/b/k', 'CSV', 'a String') -- an object store
SELECT * FROM gcs('http://127.0.0.1:{port}/b/k', 'CSV', 'a String') -- another
SELECT * FROM azureBlobStorage('http://127.0.0.1:{port}/', 'c', 'b') -- another
SELECT * FROM hdfs('hdfs://127.0.0.1:{port}/x', 'CSV', 'a String') -- Hadoop
SELECT * FROM iceberg('http://127.0.0.1:{port}/b/k') -- a data lake
SELECT * FROM deltaLake('http://127.0.0.1:{port}/b/k') -- another
SELECT * FROM mysql('127.0.0.1:{port}', 'a', 'b', 'c', 'd') -- MySQL
SELECT * FROM postgresql('127.0.0.1:{port}', 'a', 'b', 'c', 'd') -- PostgreSQL
SELECT * FROM mongodb('127.0.0.1:{port}', 'a', 'b', 'c', 'd', 'e String') -- MongoDB
SELECT * FROM redis('127.0.0.1:{port}', 'a', 'a String') -- Redis
SELECT * FROM odbc('DSN=x', 'a', 'b') -- ODBC
SELECT * FROM jdbc('jdbc:x', 'a', 'b') -- JDBC
SELECT * FROM ytsaurus('http://127.0.0.1:{port}', 'a', 'b', 'c String') -- YTsaurus
SELECT * FROM arrowFlight('127.0.0.1:{port}', 'a') -- Arrow Flight
SELECT * FROM dictionary('x') -- a dictionary
SELECT dictGet('x', 'y', 1) -- a dictionary's value
SELECT reverseDNSQuery('127.0.0.1') -- the name service
SELECT * FROM generateSerialID('x') -- Keeper
SELECT generateSerialID('x') -- Keeper, by a function
SELECT * FROM system.zookeeper WHERE path = '/' -- Keeper, by a table

-- Changes
CREATE TABLE weir.x (a Int8) ENGINE = Memory -- a table
CREATE TEMPORARY TABLE x (a Int8) -- a temporary table
CREATE OR REPLACE TABLE weir.usage_events (a Int8) ENGINE = Memory -- instead of the events
CREATE VIEW weir.x AS SELECT 1 -- a view
CREATE DATABASE x ENGINE = MySQL('127.0.0.1:{port}', 'a', 'b', 'c') -- a database elsewhere
CREATE DICTIONARY weir.x (a UInt64) PRIMARY KEY a SOURCE(HTTP(URL 'http://127.0.0.1:{port}/' FORMAT 'TSV')) LAYOUT(FLAT()) LIFETIME(1) -- a dictionary
CREATE NAMED COLLECTION x AS a = 1 -- a named collection
CREATE FUNCTION f AS (x) -> x -- a function
CREATE USER x -- a user
CREATE ROW POLICY p ON weir.usage_events USING 1 TO ALL -- a policy
GRANT ALL ON *.* TO weir_reader -- rights
SET ROLE ALL -- a role
ATTACH TABLE weir.x FROM '{canary}' (a Int8) ENGINE = File(TSV) -- a table from a file
DETACH TABLE weir.usage_events -- the events away
DROP TABLE weir.usage_events -- the events away for good
DROP DATABASE weir -- everything away
TRUNCATE TABLE weir.usage_events -- the rows away
UNDROP TABLE weir.usage_events -- a table back
RENAME TABLE weir.usage_events TO weir.x -- another name
EXCHANGE TABLES weir.usage_events AND weir.usage_hourly -- names exchanged
ALTER TABLE weir.usage_events DELETE WHERE 1 -- rows away by a mutation
ALTER TABLE weir.usage_events UPDATE price = 0 WHERE 1 -- prices away
ALTER TABLE weir.usage_events MODIFY TTL event_time + INTERVAL 1 SECOND -- rows away by age
ALTER TABLE weir.usage_events FREEZE -- a copy on disk
ALTER TABLE weir.usage_events ATTACH PARTITION 202611 FROM weir.usage_events -- rows twice
DELETE FROM weir.usage_events WHERE 1 -- rows away
UPDATE weir.usage_events SET price = 0 WHERE 1 -- prices away
INSERT INTO weir.usage_events (event_id) VALUES ('x') -- a row
INSERT INTO weir.usage_events SELECT * FROM weir.usage_events -- rows twice
?query=INSERT+INTO+weir.usage_events+(event_id)+FORMAT+TSV x -- a row, with the data in the body
OPTIMIZE TABLE weir.usage_events FINAL -- a costly merge
MOVE USER x TO y -- other statements
BACKUP DATABASE weir TO File('{engine}/copy') -- a copy
RESTORE DATABASE weir FROM File('{engine}/copy') -- a copy back
BACKUP TABLE weir.usage_events TO S3('http://127.0.0.1:{port}/b', 'a', 'b') -- a copy elsewhere

-- The engine itself
SYSTEM SHUTDOWN -- its end
SYSTEM KILL -- its sudden end
SYSTEM STOP MERGES -- a slow end
SYSTEM FLUSH LOGS -- its logs
SYSTEM RELOAD CONFIG -- its configuration
SYSTEM DROP MARK CACHE -- its caches
SYSTEM START LISTEN HTTP -- a port without a password
SYSTEM ENABLE FAILPOINT x -- a fault
KILL QUERY WHERE 1 -- everybody's statements
KILL QUERY WHERE query_id = 'q' SYNC -- one statement
KILL MUTATION WHERE 1 -- mutations
?query_id=victim&replace_running_query=1 SELECT 1 -- another's statement replaced
CHECK TABLE weir.usage_events -- ok: reads the table
USE system -- another database for whoever comes next
SELECT 1; SYSTEM STOP MERGES -- a second statement
SELECT 1;;SELECT 2 -- two statements
SELECT 1 PARALLEL WITH SELECT 2 -- two statements side by side
SELECT * FROM eval('SYSTEM STOP MERGES') -- a statement in a text
EXECUTE AS default SELECT 1 -- as another user
BEGIN TRANSACTION -- a transaction

-- Limits
SET readonly = 0 -- the way to everything
SET max_execution_time = 0 -- no limit of time
SELECT 1 SETTINGS readonly = 0 -- in the statement
SELECT 1 SETTINGS readonly = 2 -- nearly the same
SELECT 1 SETTINGS max_execution_time = 0 -- no limit of time
SELECT 1 SETTINGS max_memory_usage = 0 -- no limit of memory
SELECT 1 SETTINGS max_result_rows = 0, result_overflow_mode = 'break' -- no limit of rows
SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0) SETTINGS readonly = 0 -- in a subquery
SELECT 1 SETTINGS allow_introspection_functions = 1 -- the engine's insides
SELECT 1 SETTINGS allow_ddl = 1 -- changes
SELECT 1 SETTINGS max_parser_depth = 0 -- no limit of depth
SELECT 1 SETTINGS additional_table_filters = {'weir.usage_events': '1'} -- other rows
SELECT 1 SETTINGS format_schema = '{canary}', format_schema_source = 'file' -- a file as a schema
?readonly=0 SELECT 1 -- by the URL
?readonly=2 SELECT 1 -- by the URL, nearly
?READONLY=0 SELECT 1 -- by the URL, in capitals
?max_execution_time=0 SELECT 1 -- no limit of time
?max_execution_time=1000 SELECT 1 -- more time
?max_execution_time=-1 SELECT 1 -- a limit of time that wraps
?max_execution_time=18446744073709551616 SELECT 1 -- a limit of time beyond every number
?max_memory_usage=99999999999 SELECT 1 -- more memory
?max_result_rows=0 SELECT 1 -- no limit of rows
?max_result_bytes=0 SELECT 1 -- no limit of bytes
?max_threads=64 SELECT 1 -- more threads
?timeout_overflow_mode=break SELECT 1 -- another end
?max_memory_usage_for_user=1 SELECT 1 -- a limit by another name
?profile=default SELECT throwIf(getSetting('readonly') != 1) -- ok: a profile of settings, which sets none
?profile=readonly SELECT 1 -- a profile that there is not
?allow_introspection_functions=1 SELECT 1 -- the engine's insides
?param_x=1&readonly%3D0%2Cx=1 SELECT 1 -- a name with an equals sign
?date_time_output_format=iso%27+--readonly%3D0 SELECT 1 -- a value with an argument
?log_comment=x SELECT 1 -- a setting that does no harm, and yet
?output_format_nosuch=1 SELECT 1 -- ok: an unknown name of a harmless kind is passed over
?database=system%60%3BDROP+DATABASE+weir%3B SELECT 1 -- a database's name that breaks out
?param_x=%27)%3B+DROP+TABLE+weir.usage_events SELECT {x:String} -- ok: a value that would break out
?default_format=../../x SELECT 1 -- a format that is a path
?max_execution_time=1 SELECT sum(cityHash64(number)) FROM numbers(1000000000000000000) -- endless
?max_execution_time=1 SELECT count() FROM system.numbers -- endless
?max_execution_time=1 SELECT count() FROM zeros_mt(1000000000000000000) -- endless, on all cores
?max_execution_time=1 WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r -- endless recursion
?max_execution_time=1 SELECT count() FROM numbers(1000000) a, numbers(1000000) b -- a product
SELECT * FROM numbers(1000001) FORMAT Null -- too many rows
SELECT repeat('x', 1000000) FROM numbers(1000) -- too many bytes
SELECT groupArray(number) FROM numbers(1000000000) -- too much memory
SELECT arrayJoin(range(1000000000)) -- too much memory at once
SELECT repeat('x', 10000000000) -- a gigantic value
SELECT toFixedString('x', 4294967295) -- a gigantic type
SELECT sleep(1000) -- a long sleep
SELECT sleepEachRow(3) FROM numbers(1000) -- a longer one
SELECT {(}1{)} -- deep nesting
SELECT {[}{]} -- deep arrays
SELECT {not}1 -- a long chain of NOT
SELECT {plus}1 -- a long sum
SELECT CAST(1 AS {type(}UInt8{)}) -- a deep type
SELECT * FROM {from(}system.one{)} -- deep subqueries
SELECT JSONExtractRaw(repeat('[', 1000000)) -- ok: deep JSON
SELECT match('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '(a*)*b') -- ok: a costly pattern
SELECT CAST(unhex('ffffffffffffffff') AS AggregateFunction(groupArray, String)) -- a state that lies about its size

-- Secrets
SELECT * FROM system.processes -- ok: statements that run, no passwords
SELECT * FROM system.settings -- ok: settings
SELECT * FROM system.server_settings -- ok: settings
SELECT * FROM system.build_options -- ok: how it was built
SELECT * FROM system.environment -- no such table
SELECT * FROM system.users -- users and how they prove themselves
SELECT * FROM system.named_collections -- ok: there are none
SELECT * FROM system.disks -- ok: where the data lies
SELECT * FROM system.tables -- ok: tables
SELECT * FROM system.dictionaries -- ok: there are none
SELECT * FROM system.stack_trace -- threads, whose names lie under /proc
SELECT * FROM system.errors -- ok: what failed before
SELECT * FROM system.backups -- ok: there are none
SELECT * FROM system.certificates -- ok: there are none
SELECT * FROM system.query_log -- what was asked before
SELECT * FROM system.session_log -- who was there
SELECT * FROM merge('system', '^(macros|user_directories)$') -- ok: where users would be kept
SHOW USERS -- users
SHOW ACCESS -- rights
SHOW GRANTS -- ok: rights of the engine's only user
SHOW CREATE USER default -- how he proves himself
SHOW CREATE TABLE weir.usage_events -- ok: a table
SHOW PROCESSLIST -- ok: statements that run
SELECT currentUser(), hostName(), getMacro('x') -- a macro
SELECT demangle(addressToSymbol(toUInt64(1))) -- the engine's insides
SELECT addressToLine(toUInt64(1)) -- its source
SELECT getSetting('password') -- a setting that is none
SELECT getServerPort('tcp_port') -- a port that is closed

-- Spellings
/*x*/ DROP /**/ TABLE weir.usage_events -- comments between
/* SELECT */ TRUNCATE weir.usage_events -- a comment that looks like a statement
-SELECT 1 INTO OUTFILE '{engine}/new' -- not the first word
(SELECT 1) INTO OUTFILE '{engine}/new' -- in parentheses
SELECT 1 UNION ALL SELECT 1 INTO OUTFILE '{engine}/new' -- at the end of a union
ｄｒｏｐ TABLE weir.usage_events -- wide letters
DROP TABLE weir.usage_events -- no-break blanks
WITH 1 AS x INSERT INTO weir.usage_events (event_id) SELECT 'x' -- an insert behind a WITH
FROM weir.usage_events INSERT INTO weir.usage_events SELECT * -- an insert behind a FROM
EXPLAIN INSERT INTO weir.usage_events (event_id) SELECT 'x' -- an insert, explained
EXPLAIN PIPELINE CREATE TABLE weir.x ENGINE = Memory AS SELECT 1 -- a table, explained
SELECT 'x' -- ok: a plain text

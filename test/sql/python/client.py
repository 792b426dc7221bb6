"""What clickhouse-connect, unmodified, sees of the SQL interface.

Arguments: host, port, password. Every observation is one line of standard
output: its name, a colon and its value; the caller knows what they must be.
"""
import sys

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

host, port, password = sys.argv[1:4]


def connect(**options):
    return clickhouse_connect.get_client(
        host=host, port=int(port), username="weir_reader", password=password, database="weir", **options
    )


def say(name, value):
    print(f"{name}:{value}", flush=True)


def refused(name, ask):
    """Says with which of ClickHouse's codes a call fails."""
    try:
        ask()
        say(name, "was answered")
    except ClickHouseError as error:
        text = str(error)
        code = text.split("Code: ", 1)
        say(name, code[1].split(".", 1)[0] if len(code) == 2 else type(error).__name__ + " " + text)


for compress in (False, True, "lz4", "zstd", "gzip"):
    client = connect(compress=compress)
    result = client.query("SELECT count(), sum(cost), sum(price), max(event_time) FROM usage_events")
    say(f"sums {compress}", " ".join(str(v) for v in result.result_rows[0]))
    rows = client.query("SELECT number, toString(number) FROM numbers(200000)").result_rows
    say(f"rows {compress}", f"{len(rows)} {rows[-1]}")
    client.close()

client = connect()
say("version", client.server_version.split(".")[0])
say("command", client.command("SELECT currentDatabase()"))
say(
    "parameters",
    client.query(
        "SELECT {s:String}, {n:Nullable(Int64)}, {l:Array(String)}, {d:DateTime}",
        parameters={"s": "a'\\\t", "n": None, "l": ["x", "y'"], "d": "2026-11-24 01:02:03"},
    ).result_rows[0],
)
say("map", client.query("SELECT tags FROM usage_events LIMIT 1").result_rows[0][0])
say("null", client.query("SELECT margin_percent FROM margin_by_customer WHERE customer = 'free'").result_rows[0][0])
say("empty", client.query("SELECT * FROM usage_events WHERE 0").result_rows)
say("json", client.raw_query("SELECT 1 AS a", fmt="JSONEachRow").decode().strip())
with client.query_row_block_stream("SELECT number FROM numbers(100000)") as stream:
    say("stream", sum(len(block) for block in stream))
refused("unknown table", lambda: client.query("SELECT * FROM nosuch"))
refused("late", lambda: client.query("SELECT throwIf(number = 900000) FROM numbers(1000000)"))
refused("insert", lambda: connect(compress=False).insert("usage_events", [["x"]], column_names=["event_id"]))
refused("command that writes", lambda: client.command("TRUNCATE TABLE usage_events"))
refused("wrong password", lambda: clickhouse_connect.get_client(host=host, port=int(port), username="weir_reader", password="x"))
say("ping", client.ping())

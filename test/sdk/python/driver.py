"""Runs the calls of a plan and prints what the SDK made of each, one JSON line per call."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

# Calls that are retried wait: together they wait once.
THREADS = 8
# Calls at once where that is the case's point.
PARALLEL = 32


def run(connect, hows):
    plan = json.load(sys.stdin)

    def observe(call):
        client, async_client = connect(plan["base_url"], call["key"])
        try:
            seen = hows[call["how"]](async_client if call["how"] == "parallel" else client, call["request"])
        except Exception as error:
            seen = failure(error)
        return json.dumps({"case": call["case"], "seen": seen})

    with ThreadPoolExecutor(THREADS) as threads:
        for line in threads.map(observe, plan["calls"]):
            print(line, flush=True)


def failure(error):
    """What a program can learn from an exception of the SDK."""
    body = getattr(error, "body", None) or {}
    inner = body.get("error", body) if isinstance(body, dict) else {}
    return {
        "error": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "code": inner.get("code"),
        "type": getattr(error, "type", None),
        "message": str(error),
        "request_id": getattr(error, "request_id", None) is not None,
    }


def broken(error):
    """The end of a stream that failed after it had begun."""
    return {"failed": True, **failure(error)}


def numbered(request, n):
    """The n-th of parallel requests: it asks for n tokens."""
    message = dict(request["messages"][0])
    message["content"] = message["content"].replace("out=40", f"out={n}")
    return {**request, "messages": [message], "stream": n % 2 == 0}

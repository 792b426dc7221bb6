"""Anthropic's SDK for Python."""

import asyncio
import json

import anthropic

from driver import PARALLEL, broken, numbered, run

# A feature that changes no price.
BETA = "interleaved-thinking-2025-05-14"


def connect(base_url, key):
    options = {"base_url": base_url, "api_key": key}
    return anthropic.Anthropic(**options), anthropic.AsyncAnthropic(**options)


def answer(message):
    texts = [block.text for block in message.content if block.type == "text"]
    calls = [f"{block.name} {json.dumps(block.input, separators=(',', ':'))}" for block in message.content if block.type == "tool_use"]
    return {"call": calls[0] if calls else None, "text": "".join(texts), "stop": message.stop_reason, "model": message.model,
            "in": message.usage.input_tokens, "out": message.usage.output_tokens}


def create(client, request):
    return answer(client.messages.create(**request))


def headers(client, request):
    raw = client.messages.with_raw_response.create(**request)
    return {**answer(raw.parse()), "price": raw.headers.get("x-weir-price")}


class Events:
    """What a program would keep of a stream."""

    def __init__(self):
        self.text, self.stop, self.input, self.output, self.kinds = "", None, None, None, []
        self.call = ""

    def add(self, event):
        if event.type not in self.kinds[-1:]:
            self.kinds.append(event.type)
        if event.type == "message_start":
            self.input = event.message.usage.input_tokens
        elif event.type == "content_block_start" and event.content_block.type == "tool_use":
            self.call = event.content_block.name + " "
        elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            self.call += event.delta.partial_json
        elif event.type == "content_block_delta":
            self.text += event.delta.text
        elif event.type == "message_delta":
            self.stop, self.output = event.delta.stop_reason, event.usage.output_tokens

    def seen(self):
        return {"call": self.call or None, "text": self.text, "stop": self.stop, "in": self.input, "out": self.output, "events": self.kinds}


def stream(client, request):
    kept = Events()
    events = client.messages.create(**request)
    try:
        for event in events:
            kept.add(event)
    except Exception as error:
        return {**kept.seen(), **broken(error)}
    return kept.seen()


def helper(client, request):
    with client.messages.stream(**request) as events:
        for _ in events:
            pass
        return answer(events.get_final_message())


def parallel(client, request):
    async def one(n):
        ask = numbered(request, n)
        if not ask["stream"]:
            return (await client.messages.create(**ask)).usage.output_tokens
        kept = Events()
        async for event in await client.messages.create(**ask):
            kept.add(event)
        return kept.output

    async def every():
        async with client:
            return await asyncio.gather(*(one(n + 1) for n in range(PARALLEL)))

    return {"out": asyncio.run(every())}


def beta(client, request):
    message = client.beta.messages.create(**request, betas=[BETA])
    seen = answer(message)
    del seen["model"]
    return seen


def models(client, _):
    return {"ids": [model.id for model in client.models.list()]}


def unmetered(client, _):
    return {"ids": [batch.id for batch in client.messages.batches.list()]}


def retrieve(client, request):
    return {"id": client.models.retrieve(request["model"]).id}


def count(client, request):
    return {"in": client.messages.count_tokens(model=request["model"], messages=request["messages"]).input_tokens}


def bearer(client, request):
    return create(anthropic.Anthropic(base_url=client.base_url, auth_token=client.api_key), request)


if __name__ == "__main__":
    run(connect, {"create": create, "headers": headers, "stream": stream, "helper": helper, "parallel": parallel,
                  "beta": beta, "models": models, "unmetered": unmetered,
                  "retrieve": retrieve, "count": count, "bearer": bearer})

"""OpenAI's SDK for Python."""

import asyncio

import openai

from driver import PARALLEL, broken, numbered, run


def connect(base_url, key):
    options = {"base_url": base_url, "api_key": key}
    return openai.OpenAI(**options), openai.AsyncOpenAI(**options)


def answer(completion):
    choice = completion.choices[0]
    calls = [f"{call.function.name} {call.function.arguments}" for call in choice.message.tool_calls or []]
    seen = {"call": calls[0] if calls else None, "text": choice.message.content, "stop": choice.finish_reason, "model": completion.model}
    return {**seen, **usage(completion.usage)}


def usage(counts):
    return {"in": counts.prompt_tokens, "out": counts.completion_tokens} if counts else {"in": None, "out": None}


def create(client, request):
    return answer(client.chat.completions.create(**request))


def headers(client, request):
    raw = client.chat.completions.with_raw_response.create(**request)
    return {**answer(raw.parse()), "price": raw.headers.get("x-weir-price")}


class Chunks:
    """What a program would keep of a stream."""

    def __init__(self):
        self.text, self.stop, self.usage, self.empty, self.count = "", None, None, 0, 0
        self.call = ""

    def add(self, chunk):
        self.count += 1
        self.usage = chunk.usage or self.usage
        self.empty += not chunk.choices
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                if part.function.name:
                    self.call = part.function.name + " "
                self.call += part.function.arguments or ""
            self.stop = choice.finish_reason or self.stop

    def seen(self):
        return {"call": self.call or None, "text": self.text, "stop": self.stop, "empty": self.empty, "chunks": self.count, **usage(self.usage)}


def stream(client, request):
    chunks = Chunks()
    events = client.chat.completions.create(**request)
    try:
        for chunk in events:
            chunks.add(chunk)
    except Exception as error:
        return {**chunks.seen(), **broken(error)}
    return chunks.seen()


def helper(client, request):
    with client.chat.completions.stream(**request) as events:
        for _ in events:
            pass
        return answer(events.get_final_completion())


def parallel(client, request):
    async def one(n):
        ask = numbered(request, n)
        if not ask["stream"]:
            return (await client.chat.completions.create(**ask)).usage.completion_tokens
        chunks = Chunks()
        async for chunk in await client.chat.completions.create(**ask, stream_options={"include_usage": True}):
            chunks.add(chunk)
        return chunks.usage.completion_tokens

    async def every():
        async with client:
            return await asyncio.gather(*(one(n + 1) for n in range(PARALLEL)))

    return {"out": asyncio.run(every())}


def embed(client, request):
    vectors = client.embeddings.create(**request)
    first = vectors.data[0].embedding
    return {"vectors": len(vectors.data), "dimensions": len(first), "first": f"{first[0]:.6f}", "in": vectors.usage.prompt_tokens}


def models(client, _):
    return {"ids": [model.id for model in client.models.list()]}


def unmetered(client, _):
    return {"ids": [file.id for file in client.files.list()]}


def retrieve(client, request):
    return {"id": client.models.retrieve(request["model"]).id}


if __name__ == "__main__":
    run(connect, {"create": create, "headers": headers, "stream": stream, "helper": helper, "parallel": parallel,
                  "embed": embed, "models": models, "unmetered": unmetered, "retrieve": retrieve})

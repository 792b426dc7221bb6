// OpenAI's SDK for TypeScript and JavaScript.

import OpenAI from 'openai';
import { keep, parallel, run } from './driver.mjs';

const connect = (baseURL, apiKey) => new OpenAI({ baseURL, apiKey });

const usage = (counts) => ({ in: counts?.prompt_tokens ?? null, out: counts?.completion_tokens ?? null });

function answer(completion) {
  const choice = completion.choices[0];
  const call = choice.message.tool_calls?.[0]?.function;
  return { call: call ? `${call.name} ${call.arguments}` : null, text: choice.message.content, stop: choice.finish_reason, model: completion.model, ...usage(completion.usage) };
}

async function chunks(events) {
  const seen = { call: null, text: '', stop: null, empty: 0, chunks: 0, ...usage(null) };
  const end = await keep(events, (chunk) => {
    seen.chunks++;
    if (chunk.usage) Object.assign(seen, usage(chunk.usage));
    if (chunk.choices.length === 0) seen.empty++;
    for (const choice of chunk.choices) {
      seen.text += choice.delta.content ?? '';
      for (const part of choice.delta.tool_calls ?? []) {
        if (part.function.name) seen.call = `${part.function.name} `;
        seen.call += part.function.arguments ?? '';
      }
      seen.stop = choice.finish_reason ?? seen.stop;
    }
  });
  return { ...seen, ...end };
}

await run(connect, {
  create: async (client, request) => answer(await client.chat.completions.create(request)),
  headers: async (client, request) => {
    const { data, response } = await client.chat.completions.create(request).withResponse();
    return { ...answer(data), price: response.headers.get('x-weir-price') };
  },
  stream: async (client, request) => chunks(await client.chat.completions.create(request)),
  helper: async (client, request) => answer(await client.chat.completions.stream(request).finalChatCompletion()),
  parallel: (client, request) => parallel(request, async (ask) => {
    if (!ask.stream) return (await client.chat.completions.create(ask)).usage.completion_tokens;
    return (await chunks(await client.chat.completions.create({ ...ask, stream_options: { include_usage: true } }))).out;
  }),
  embed: async (client, request) => {
    const vectors = await client.embeddings.create(request);
    const first = vectors.data[0].embedding;
    return { vectors: vectors.data.length, dimensions: first.length, first: first[0].toFixed(6), in: vectors.usage.prompt_tokens };
  },
  models: async (client) => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids };
  },
  retrieve: async (client, request) => ({ id: (await client.models.retrieve(request.model)).id }),
  unmetered: async (client) => ({ ids: (await client.files.list()).data }),
});

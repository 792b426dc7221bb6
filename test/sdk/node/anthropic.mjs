// Anthropic's SDK for TypeScript and JavaScript.

import Anthropic from '@anthropic-ai/sdk';
import { keep, parallel, run } from './driver.mjs';

// A feature that changes no price.
const BETA = 'interleaved-thinking-2025-05-14';

const connect = (baseURL, apiKey) => new Anthropic({ baseURL, apiKey });

function answer(message) {
  const call = message.content.find((block) => block.type === 'tool_use');
  return {
    call: call ? `${call.name} ${JSON.stringify(call.input)}` : null,
    text: message.content.map((block) => block.text ?? '').join(''), stop: message.stop_reason, model: message.model,
    in: message.usage.input_tokens, out: message.usage.output_tokens,
  };
}

async function events(stream) {
  const seen = { call: null, text: '', stop: null, in: null, out: null, events: [] };
  const end = await keep(stream, (event) => {
    if (seen.events.at(-1) !== event.type) seen.events.push(event.type);
    switch (event.type) {
      case 'message_start':
        seen.in = event.message.usage.input_tokens;
        break;
      case 'content_block_start':
        if (event.content_block.type === 'tool_use') seen.call = `${event.content_block.name} `;
        break;
      case 'content_block_delta':
        if (event.delta.type === 'input_json_delta') seen.call += event.delta.partial_json;
        else seen.text += event.delta.text;
        break;
      case 'message_delta':
        seen.stop = event.delta.stop_reason;
        seen.out = event.usage.output_tokens;
    }
  });
  return { ...seen, ...end };
}

await run(connect, {
  create: async (client, request) => answer(await client.messages.create(request)),
  headers: async (client, request) => {
    const { data, response } = await client.messages.create(request).withResponse();
    return { ...answer(data), price: response.headers.get('x-weir-price') };
  },
  stream: async (client, request) => events(await client.messages.create(request)),
  helper: async (client, request) => answer(await client.messages.stream(request).finalMessage()),
  parallel: (client, request) => parallel(request, async (ask) => {
    const given = await client.messages.create(ask);
    return ask.stream ? (await events(given)).out : given.usage.output_tokens;
  }),
  beta: async (client, request) => {
    const { model, ...seen } = answer(await client.beta.messages.create({ ...request, betas: [BETA] }));
    return seen;
  },
  models: async (client) => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids };
  },
  retrieve: async (client, request) => ({ id: (await client.models.retrieve(request.model)).id }),
  count: async (client, { model, messages }) => ({ in: (await client.messages.countTokens({ model, messages })).input_tokens }),
  bearer: async ({ baseURL, apiKey }, request) => answer(await new Anthropic({ baseURL, apiKey: null, authToken: apiKey }).messages.create(request)),
  unmetered: async (client) => ({ ids: (await client.messages.batches.list()).data }),
});

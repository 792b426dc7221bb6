// Runs the calls of a plan and prints what the SDK made of each, one JSON line per call.

const PARALLEL = 32;

export async function run(connect, hows) {
  let text = '';
  for await (const piece of process.stdin) text += piece;
  const plan = JSON.parse(text);
  await Promise.all(plan.calls.map(async (call) => {
    const client = connect(plan.base_url, call.key);
    const seen = await hows[call.how](client, call.request).catch(failure);
    console.log(JSON.stringify({ case: call.case, seen }));
  }));
}

// failure is what a program can learn from an exception of the SDK.
export function failure(error) {
  const body = error.error?.error ?? error.error ?? {};
  return {
    error: error.constructor.name,
    status: error.status ?? null,
    code: body.code ?? null,
    type: error.type ?? null,
    message: error.message,
    request_id: error.requestID != null,
  };
}

// keep lets a program take what it wants of a stream, and tells how it failed if it did.
export async function keep(events, add) {
  try {
    for await (const event of events) add(event);
  } catch (error) {
    return { failed: true, ...failure(error) };
  }
  return {};
}

// parallel makes the calls at once; the n-th asks for n tokens, and every other one is a stream.
export async function parallel(request, one) {
  const numbers = Array.from({ length: PARALLEL }, (_, i) => i + 1);
  const out = await Promise.all(numbers.map((n) => {
    const content = request.messages[0].content.replace('out=40', `out=${n}`);
    return one({ ...request, messages: [{ role: 'user', content }], stream: n % 2 === 0 });
  }));
  return { out };
}

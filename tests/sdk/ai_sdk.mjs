// Checks a node with the AI SDK and its client of Anthropic's API: streams with tools, whose results the SDK sends back.
//
// Environment: ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY (every scope), and OUTLIVE_NODE_MODULES, the folder that holds the
// packages. The last line is `N passed, M failed`.

import { attempt, check, end, loadModule } from "./checks.mjs";

const { createAnthropic } = await loadModule("@ai-sdk/anthropic");
const { jsonSchema, stepCountIs, streamText, tool } = await loadModule("ai");

const TEXT = "All is well é🙂";
const anthropic = createAnthropic({ baseURL: `${process.env.ANTHROPIC_BASE_URL}/v1` });
const string = (name) =>
  jsonSchema({ type: "object", properties: { [name]: { type: "string" } }, required: [name] });

/** Streams an answer, with at most two rounds of tools. */
async function stream(model, prompt, executed) {
  const execute = (name) => (input) => {
    executed.push([name, input]);
    return `result of ${name}`;
  };
  const errors = [];
  const result = streamText({
    model: anthropic(model),
    prompt,
    maxOutputTokens: 1000,
    maxRetries: 0,
    onError: ({ error }) => errors.push(String(error)),
    stopWhen: stepCountIs(3),
    tools: {
      weather: tool({ description: "the weather", inputSchema: string("city"), execute: execute("weather") }),
      clock: tool({ description: "the time", inputSchema: string("zone"), execute: execute("clock") }),
    },
  });
  let text = "";
  for await (const piece of result.textStream) text += piece;
  return { text, errors, reason: errors.length ? "" : await result.finishReason };
}

// A vendor of each format; `agent` follows the script in the prompt.
for (const vendor of ["anthropic", "openai", "deepseek"]) {
  await attempt(vendor, async () => {
    const executed = [];
    const answer = await stream(`agent-${vendor}`, "How are you?", executed);
    check(`${vendor}: streamed text with tools offered`, answer, { text: TEXT, errors: [], reason: "stop" });
    const script = 'call weather {"city": "Zürich"}\ncall clock {"zone": "CET"}\nthen\ncall weather {"city": "Genève"}';
    const loop = await stream(`agent-${vendor}`, script, executed);
    const calls = [["weather", { city: "Zürich" }], ["clock", { zone: "CET" }], ["weather", { city: "Genève" }]];
    check(`${vendor}: executed calls of two rounds`, executed, calls);
    const results = "result of weather\nresult of clock\nresult of weather";
    check(`${vendor}: answer with the results`, loop, { text: results, errors: [], reason: "stop" });
  });
}
await attempt("failover", async () => {
  const answer = await stream("via-overloaded-529-streamed", "How are you?", []);
  check("a first candidate that is overloaded", answer, { text: TEXT, errors: [], reason: "stop" });
});

end();

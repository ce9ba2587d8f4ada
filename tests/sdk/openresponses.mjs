// What the acceptance tests of Open Responses (https://www.openresponses.org) ask of an API over HTTP.
//
// Environment: OPENAI_BASE_URL, OPENAI_API_KEY. The last line is `N passed, M failed`.

import { attempt, check, end } from "./checks.mjs";
import { TEXT, faultless, is, said, user, whole, wrong } from "./openresponses_shapes.mjs";

const base = process.env.OPENAI_BASE_URL;
const headers = { authorization: `Bearer ${process.env.OPENAI_API_KEY}`, "content-type": "application/json" };

const IMAGE = "data:image/png;base64,iVBORw0KGgo=";
const PDF = "data:application/pdf;base64,JVBERi0=";
const WEATHER = {
  type: "function",
  name: "weather",
  description: "The weather in a city",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

const post = (body) => fetch(`${base}/responses`, { method: "POST", headers, body: JSON.stringify(body) });

/** Asks, and expects a faultless response. */
async function create(what, body, expected = {}) {
  const answer = await post({ model: "plain", ...body });
  check(`${what}: HTTP`, [answer.status, answer.headers.get("content-type")], [200, "application/json"]);
  const response = whole(what, await answer.json());
  const { status = "completed", output = ["message"] } = expected;
  check(`${what}: status`, response.status, status);
  check(`${what}: output`, response.output.map((item) => item.type), output);
  return response;
}

/** Asks for a stream, and expects faultless events whose last one has the whole response. */
async function stream(what, body) {
  const answer = await post({ model: "plain", stream: true, ...body });
  check(`${what}: HTTP`, [answer.status, answer.headers.get("content-type")?.split(";")[0]], [200, "text/event-stream"]);
  const blocks = (await answer.text()).split("\n\n").filter((block) => block && !block.startsWith(":"));
  const events = blocks.map((block) => {
    const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? [];
    const event = JSON.parse(data);
    check(`${what}: an event's name`, name, event.type);
    return event;
  });
  return faultless(what, events);
}

const assistant = (content, more) => ({ type: "message", role: "assistant", content, ...more });

async function basic() {
  const response = await create("basic", { input: [user("How are you?")] });
  check("basic: text", said(response), TEXT);
  check("basic: when", response.completed_at >= response.created_at, true);
  check("basic, as a string", said(await create("a string", { input: "How are you?" })), TEXT);
}

async function phases() {
  const input = [assistant("Let me see.", { phase: "commentary" }), assistant("Four.", { phase: "final_answer" }), user("Again?")];
  for (const store of [true, false]) {
    await create(`phases, store ${store}`, { input, store });
  }
}

async function streaming() {
  const { kinds, response, events } = await stream("streaming", { input: [user("How are you?")] });
  const deltas = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta);
  check("streaming: text", [deltas.join(""), said(response), deltas.length > 1], [TEXT, TEXT, true]);
  const once = kinds.filter((kind, at) => kind !== kinds[at - 1]);
  check("streaming: order", once, [
    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "response.output_item.done", "response.completed",
  ]);
}

async function system() {
  const input = [{ type: "message", role: "system", content: "Speak like a pirate." }, user("Hello.")];
  await create("a system message", { input });
  await create("a developer's message", { input: [{ ...input[0], role: "developer" }, input[1]] });
  const response = await create("instructions", { instructions: "Speak like a pirate.", input: "Hello." });
  check("instructions: said again", response.instructions, "Speak like a pirate.");
}

async function tools() {
  const asked = { model: "only-tools", input: [user("The weather in Zürich?")], tools: [WEATHER] };
  const response = await create("tools", asked, { output: ["function_call", "function_call"] });
  check("tools: the first call", [response.output[0].name, JSON.parse(response.output[0].arguments)], ["weather", { city: "Zürich" }]);
  check("tools: said again", response.tools, [{ ...WEATHER, strict: null }]);
  for (const store of [true, false]) {
    const what = `tools, streamed, store ${store}`;
    const { kinds, events } = await stream(what, { ...asked, model: "only-tools-streamed", store });
    check(`${what}: pieces`, kinds.filter((kind) => kind.endsWith("arguments.done")).length, 2);
    const done = events.filter((event) => event.type === "response.function_call_arguments.done");
    for (const { item_id, arguments: text } of done) {
      const pieces = events.filter((event) => event.type === "response.function_call_arguments.delta" && event.item_id === item_id);
      check(`${what}: pieces of a call`, pieces.map((event) => event.delta).join(""), text);
    }
  }
  const outputs = response.output.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "sunny" }));
  const input = [...asked.input, ...response.output, ...outputs];
  check("tools, there and back", said(await create("there and back", { input, tools: [WEATHER] })), TEXT);
  const next = { previous_response_id: response.id, input: outputs, tools: [WEATHER] };
  check("tools, kept", said(await create("kept", next)), TEXT);
  const choice = { type: "function", name: "weather" };
  check("tools: the choice, said again", (await create("a choice", { input: "?", tools: [WEATHER], tool_choice: choice })).tool_choice, choice);
}

async function media() {
  const text = { type: "input_text", text: "What is this?" };
  const image = await create("an image", { input: [user([text, { type: "input_image", image_url: IMAGE }])] });
  check("an image: seen", said(image), "I see an image.");
  await create("a file", { input: [user([text, { type: "input_file", filename: "a.pdf", file_data: PDF }])] });
}

async function turns() {
  const input = [user("My name is Alice."), assistant("Hello Alice!"), user("What is my name?")];
  await create("turns", { input });
  await create("turns, not kept", { input, store: false });
  const first = await create("a first turn", { input: "Remember: papaya." });
  const second = await create("a second turn", { input: "What was it?", previous_response_id: first.id });
  check("a second turn: after which", second.previous_response_id, first.id);
}

async function compaction() {
  const compact = (body) => fetch(`${base}/responses/compact`, { method: "POST", headers, body: JSON.stringify(body) });
  const input = [user("We launch on Tuesday."), assistant("Understood.")];
  const answer = await compact({ model: "plain", prompt_cache_key: "compact", input });
  const body = await answer.json();
  const fields = { id: is.string, object: is.oneOf("response.compaction"), output: is.array, created_at: is.count, usage: is.object };
  check("compaction", [answer.status, wrong(body, fields)], [200, []]);
  check("compaction: items", body.output.map((item) => item.type), ["message", "compaction"]);
  const goes_on = [...body.output, user("When?")];
  await create("after compaction", { input: goes_on });
  check("compaction without a model", (await compact({ input })).status, 400);
}

async function refused() {
  const cases = {
    "no such previous response": [400, { input: "?", previous_response_id: "resp_openresponses_missing" }],
    "an output of no call": [400, { input: [{ type: "function_call_output", call_id: "missing", output: "?" }] }],
    "no input": [400, {}],
    "no such model": [404, { model: "nope", input: "?" }],
  };
  for (const [what, [status, body]] of Object.entries(cases)) {
    for (const stream of [false, true]) {
      const answer = await post({ model: "plain", stream, ...body });
      const { error } = await answer.json();
      check(`${what}, stream ${stream}`, [answer.status, error.type], [status, "invalid_request_error"]);
      check(`${what}: fields`, wrong(error, { message: is.string, code: is.text, param: is.text }), []);
    }
  }
}

for (const part of [basic, phases, streaming, system, tools, media, turns, compaction, refused]) {
  await attempt(part.name, part);
}

end();

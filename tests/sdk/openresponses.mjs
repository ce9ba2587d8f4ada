// Checks what the acceptance tests of Open Responses (https://www.openresponses.org) demand of an API over HTTP.
//
// Environment: OPENAI_BASE_URL, OPENAI_API_KEY. The last line is `N passed, M failed`.

import { attempt, check, end } from "./checks.mjs";
import { TEXT, checkEvents, is, textOf, user, checkResponse, wrongFields } from "./openresponses_shapes.mjs";

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

/** Sends a request and checks the response: status, items and all fields. */
async function create(title, body, expected = {}) {
  const answer = await post({ model: "plain", ...body });
  check(
    `${title}: HTTP status and content type`,
    [answer.status, answer.headers.get("content-type")],
    [200, "application/json"],
  );
  const response = checkResponse(title, await answer.json());
  const { status = "completed", output = ["message"] } = expected;
  check(`${title}: status`, response.status, status);
  check(`${title}: types of the items`, response.output.map((item) => item.type), output);
  return response;
}

/** Sends a request for a stream and checks all events, whose last one has the whole response. */
async function stream(title, body) {
  const answer = await post({ model: "plain", stream: true, ...body });
  check(`${title}: HTTP status and content type`, [answer.status, answer.headers.get("content-type")?.split(";")[0]], [200, "text/event-stream"]);
  const blocks = (await answer.text()).split("\n\n").filter((block) => block && !block.startsWith(":"));
  const events = blocks.map((block) => {
    const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? [];
    const event = JSON.parse(data);
    check(`${title}: name of an event`, name, event.type);
    return event;
  });
  return checkEvents(title, events);
}

const assistant = (content, more) => ({ type: "message", role: "assistant", content, ...more });

async function basic() {
  const response = await create("basic", { input: [user("How are you?")] });
  check("basic: text of the response", textOf(response), TEXT);
  check("basic: completed_at is not before created_at", response.completed_at >= response.created_at, true);
  check("basic: text of the response to a string", textOf(await create("a string", { input: "How are you?" })), TEXT);
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
  check(
    "streaming: text of the deltas and of the response, and several deltas",
    [deltas.join(""), textOf(response), deltas.length > 1],
    [TEXT, TEXT, true],
  );
  const once = kinds.filter((kind, at) => kind !== kinds[at - 1]);
  check("streaming: order of the types of events", once, [
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
  check("instructions: field of the response", response.instructions, "Speak like a pirate.");
}

async function tools() {
  const request = { model: "only-tools", input: [user("The weather in Zürich?")], tools: [WEATHER] };
  const response = await create("tools", request, { output: ["function_call", "function_call"] });
  check("tools: name and arguments of the first call", [response.output[0].name, JSON.parse(response.output[0].arguments)], ["weather", { city: "Zürich" }]);
  check("tools: field of the response", response.tools, [{ ...WEATHER, strict: null }]);
  for (const store of [true, false]) {
    const title = `tools, streamed, store ${store}`;
    const { kinds, events } = await stream(title, { ...request, model: "only-tools-streamed", store });
    check(
      `${title}: number of calls whose arguments are done`,
      kinds.filter((kind) => kind.endsWith("arguments.done")).length,
      2,
    );
    const done = events.filter((event) => event.type === "response.function_call_arguments.done");
    for (const { item_id, arguments: text } of done) {
      const pieces = events.filter((event) => event.type === "response.function_call_arguments.delta" && event.item_id === item_id);
      check(`${title}: deltas of a call's arguments`, pieces.map((event) => event.delta).join(""), text);
    }
  }
  const outputs = response.output.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "sunny" }));
  const input = [...request.input, ...response.output, ...outputs];
  check(
    "tools: text of the response with results as input",
    textOf(await create("results as input", { input, tools: [WEATHER] })),
    TEXT,
  );
  const next = { previous_response_id: response.id, input: outputs, tools: [WEATHER] };
  check("tools: text of the response that continues the calls", textOf(await create("continued calls", next)), TEXT);
  const choice = { type: "function", name: "weather" };
  check("tools: tool_choice of the response", (await create("a choice", { input: "?", tools: [WEATHER], tool_choice: choice })).tool_choice, choice);
}

async function media() {
  const text = { type: "input_text", text: "What is this?" };
  const image = await create("an image", { input: [user([text, { type: "input_image", image_url: IMAGE }])] });
  check("an image: text of the response", textOf(image), "I see an image.");
  await create("a file", { input: [user([text, { type: "input_file", filename: "a.pdf", file_data: PDF }])] });
}

async function turns() {
  const input = [user("My name is Alice."), assistant("Hello Alice!"), user("What is my name?")];
  await create("turns", { input });
  await create("turns, not stored", { input, store: false });
  const first = await create("a first turn", { input: "Remember: papaya." });
  const second = await create("a second turn", { input: "What was it?", previous_response_id: first.id });
  check("a second turn: previous_response_id", second.previous_response_id, first.id);
}

async function compaction() {
  const compact = (body) => fetch(`${base}/responses/compact`, { method: "POST", headers, body: JSON.stringify(body) });
  const input = [user("We launch on Tuesday."), assistant("Understood.")];
  const answer = await compact({ model: "plain", prompt_cache_key: "compact", input });
  const body = await answer.json();
  const fields = { id: is.string, object: is.oneOf("response.compaction"), output: is.array, created_at: is.count, usage: is.object };
  check("compaction: status and wrong fields", [answer.status, wrongFields(body, fields)], [200, []]);
  check("compaction: types of the items", body.output.map((item) => item.type), ["message", "compaction"]);
  const input_after = [...body.output, user("When?")];
  await create("after compaction", { input: input_after });
  check("compaction without a model: status", (await compact({ input })).status, 400);
}

async function refusedRequests() {
  const cases = {
    "unknown previous response": [400, { input: "?", previous_response_id: "resp_openresponses_missing" }],
    "a result without a call": [400, { input: [{ type: "function_call_output", call_id: "missing", output: "?" }] }],
    "no input": [400, {}],
    "unknown model": [404, { model: "nope", input: "?" }],
  };
  for (const [title, [status, body]] of Object.entries(cases)) {
    for (const stream of [false, true]) {
      const answer = await post({ model: "plain", stream, ...body });
      const { error } = await answer.json();
      check(
        `${title}, stream ${stream}: status and error type`,
        [answer.status, error.type],
        [status, "invalid_request_error"],
      );
      check(
        `${title}: wrong fields of the error`,
        wrongFields(error, { message: is.string, code: is.text, param: is.text }),
        [],
      );
    }
  }
}

for (const part of [basic, phases, streaming, system, tools, media, turns, compaction, refusedRequests]) {
  await attempt(part.name, part);
}

end();

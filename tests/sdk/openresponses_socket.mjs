// Checks what the acceptance tests of Open Responses (https://www.openresponses.org) demand of an API over WebSockets, and
// two features of OpenAI's own WebSocket mode: lanes, and responses that only prepare others.
//
// Environment: OPENAI_BASE_URL, OPENAI_API_KEY, OUTLIVE_NODE_MODULES. The last line is `N passed, M failed`.

import { attempt, check, end, load } from "./checks.mjs";
import { TEXT, checkEvents, is, textOf, user, wrongFields } from "./openresponses_shapes.mjs";

const { WebSocket } = load("ws");
const base = process.env.OPENAI_BASE_URL;
const headers = { authorization: `Bearer ${process.env.OPENAI_API_KEY}` };

const IMAGE = { type: "input_image", image_url: "data:image/png;base64,iVBORw0KGgo=" };
const ERROR = { type: is.string, code: is.string, message: is.string, param: is.text };
const ENDS = ["response.completed", "response.incomplete", "response.failed", "error"];

/** A connection, with the events that have come and were not read yet. */
class Connection {
  #socket = new WebSocket(`${base.replace("http", "ws")}/responses`, { headers });
  #received = [];
  #waiting;

  constructor() {
    this.#socket.on("message", (data, binary) => this.#receive(binary ? "binary" : JSON.parse(data)));
    this.#socket.on("close", (code) => this.#receive({ type: "closed", code }));
    this.#socket.on("error", (error) => this.#receive({ type: "broken", error: String(error) }));
  }

  #receive(event) {
    this.#received.push(event);
    this.#waiting?.();
  }

  async open() {
    await new Promise((resolve, reject) => this.#socket.once("open", resolve).once("error", reject));
    return this;
  }

  send(body) {
    this.#socket.send(JSON.stringify({ type: "response.create", model: "plain", ...body }));
  }

  async next() {
    while (this.#received.length === 0) {
      await new Promise((resolve) => (this.#waiting = resolve));
    }
    return this.#received.shift();
  }

  /** Reads all events of one response. */
  async events() {
    const events = [];
    do {
      events.push(await this.next());
    } while (![...ENDS, "closed", "broken"].includes(events.at(-1).type));
    return events;
  }

  /** Sends a request and checks its events and its response. */
  async create(title, body, expected = {}) {
    this.send(body);
    const { response } = checkEvents(title, await this.events());
    const { status = "completed", text = TEXT } = expected;
    check(`${title}: status and text`, [response.status, textOf(response)], [status, text]);
    check(`${title}: previous_response_id`, response.previous_response_id, body.previous_response_id ?? null);
    return response;
  }

  /** Sends a request and checks that its only event is an error with this code. */
  async checkRefused(title, body, code, status = 400) {
    this.send(body);
    const [event, ...rest] = await this.events();
    check(`${title}: the error is the only event`, [event.type, rest], ["error", []]);
    check(`${title}: status and error code`, [event.status, event.error?.code], [status, code]);
    check(`${title}: wrong fields of the error`, wrongFields(event.error ?? {}, ERROR), []);
  }

  async close() {
    this.#socket.close();
    check("closed connection: last event", (await this.events()).at(-1).type, "closed");
  }
}

async function withConnection(run) {
  const connection = await new Connection().open();
  await run(connection);
  await connection.close();
}

async function singleResponse() {
  await withConnection((connection) => connection.create("single response", { input: [user("Count from 1 to 3.")] }));
}

async function sequential() {
  await withConnection(async (connection) => {
    for (const body of [{ input: "first", store: false }, { input: "second", store: false }, { input: "third" }]) {
      await connection.create(`sequential, ${body.input}`, body);
    }
    // A request that is sent before the one before it has ended waits for it.
    connection.send({ input: "fourth", model: "only-bytewise-streamed" });
    connection.send({ input: "fifth" });
    const fourth = checkEvents("sequential, fourth", await connection.events());
    const fifth = checkEvents("sequential, fifth", await connection.events());
    check(
      "sequential: models of two requests that were sent at once",
      [fourth.response.model, fifth.response.model],
      ["bytewise:only-bytewise-streamed", "good"],
    );
  });
}

async function continuation() {
  await withConnection(async (connection) => {
    const withImage = { store: false, input: [user([{ type: "input_text", text: "Look." }, IMAGE])] };
    const first = await connection.create("continued, first", withImage, { text: "I see an image." });
    const next = (previous_response_id) => ({ store: false, previous_response_id, input: "What was it?" });
    const second = await connection.create("continued, second", next(first.id), { text: "I see an image." });
    await connection.create("continued, third", next(second.id), { text: "I see an image." });
    await connection.checkRefused(
      "continuation of a response that is not the newest",
      next(first.id),
      "previous_response_not_found",
    );
    const tools = [{ type: "function", name: "weather", parameters: { type: "object" } }];
    connection.send({ store: false, model: "only-tools-streamed", input: "The weather?", tools });
    const { response } = checkEvents("calls", await connection.events());
    const outputs = response.output.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "sunny" }));
    await connection.create("results of the calls", { store: false, tools, previous_response_id: response.id, input: outputs });
  });
}

async function reconnected() {
  const made = {};
  await withConnection(async (connection) => {
    made.unstored = await connection.create("not stored", { store: false, input: "Remember: copper." });
    made.stored = await connection.create("stored", { input: "Remember: copper." });
  });
  await withConnection(async (connection) => {
    const next = (store, previous) => ({ store, previous_response_id: previous.id, input: "What was it?" });
    await connection.checkRefused(
      "not stored, continued over another connection without store",
      next(false, made.unstored),
      "previous_response_not_found",
    );
    await connection.checkRefused(
      "not stored, continued over another connection with store",
      next(true, made.unstored),
      "previous_response_not_found",
    );
    await connection.checkRefused(
      "stored, continued over another connection without store",
      next(false, made.stored),
      "previous_response_not_found",
    );
    await connection.create("stored, continued over another connection with store", next(true, made.stored));
    await connection.create(
      "new response over another connection",
      { store: false, input: [user("Remember: copper.")] },
    );
  });
}

async function missing() {
  await withConnection(async (connection) => {
    for (const store of [true, false]) {
      const body = { store, previous_response_id: "resp_openresponses_missing", input: "?" };
      await connection.checkRefused(`unknown previous response, store ${store}`, body, "previous_response_not_found");
    }
    await connection.checkRefused("unknown model", { model: "nope", store: false, input: "?" }, "model_not_found", 404);
  });
}

async function failedContinuation() {
  await withConnection(async (connection) => {
    const first = await connection.create("continued with a failure", { store: false, input: "Remember: ember." });
    const next = (input) => ({ store: false, previous_response_id: first.id, input });
    const orphan = [{ type: "function_call_output", call_id: "missing", output: "?" }];
    await connection.checkRefused("continuation with a result without a call", next(orphan), "invalid_value");
    await connection.checkRefused("continuation after a failed one", next("?"), "previous_response_not_found");
  });
}

async function compactedInput() {
  const input = [user("Remember: slate."), { type: "message", role: "assistant", content: "OK." }, user("Compress this.")];
  const options = { method: "POST", headers: { ...headers, "content-type": "application/json" } };
  const compact = (body) => fetch(`${base}/responses/compact`, { ...options, body: JSON.stringify(body) });
  const { output } = await (await compact({ model: "plain", input })).json();
  await withConnection((connection) => connection.create("compacted input", { store: false, tools: [], input: [...output, user("Go on.")] }));
}

async function lanes() {
  await withConnection(async (connection) => {
    const sent = [["a", "steady"], ["b", "plain"], ["a", "plain"]];
    sent.forEach(([stream_id, model]) => connection.send({ stream_id, model, store: false, input: "?" }));
    const events = { a: [], b: [] };
    const order = [];
    while (order.length < sent.length) {
      const { stream_id, ...event } = await connection.next();
      events[stream_id].push(event);
      if (ENDS.includes(event.type)) {
        order.push(`${stream_id} ${event.response.model}`);
        checkEvents(`lane ${stream_id}`, events[stream_id].splice(0));
      }
    }
    check("lanes: order in which the responses end", order, ["b good", "a steady", "a good"]);
    await connection.checkRefused("lane without a name", { stream_id: "", input: "?" }, "invalid_stream_id");
  });
}

async function preparedResponse() {
  await withConnection(async (connection) => {
    const withImage = { generate: false, input: [user([{ type: "input_text", text: "Look." }, IMAGE])] };
    const first = await connection.create("prepared response", withImage, { text: "" });
    await connection.create("response that continues a prepared one", { previous_response_id: first.id, input: "What is it?" }, { text: "I see an image." });
  });
}

for (const part of [
  singleResponse, sequential, continuation, reconnected, missing, failedContinuation, compactedInput, lanes,
  preparedResponse,
]) {
  await attempt(part.name, part);
}

end();

// What the acceptance tests of Open Responses (https://www.openresponses.org) ask of an API over WebSockets; and what OpenAI's
// own WebSocket mode has besides: lanes, and responses that only prepare others.
//
// Environment: OPENAI_BASE_URL, OPENAI_API_KEY, OUTLIVE_NODE_MODULES. The last line is `N passed, M failed`.

import { attempt, check, end, load } from "./checks.mjs";
import { TEXT, faultless, is, said, user, wrong } from "./openresponses_shapes.mjs";

const { WebSocket } = load("ws");
const base = process.env.OPENAI_BASE_URL;
const headers = { authorization: `Bearer ${process.env.OPENAI_API_KEY}` };

const IMAGE = { type: "input_image", image_url: "data:image/png;base64,iVBORw0KGgo=" };
const ERROR = { type: is.string, code: is.string, message: is.string, param: is.text };
const ENDS = ["response.completed", "response.incomplete", "response.failed", "error"];

/** One connection. */
class Connection {
  #socket = new WebSocket(`${base.replace("http", "ws")}/responses`, { headers });
  #heard = [];
  #waiting;

  constructor() {
    this.#socket.on("message", (data, binary) => this.#hear(binary ? "binary" : JSON.parse(data)));
    this.#socket.on("close", (code) => this.#hear({ type: "closed", code }));
    this.#socket.on("error", (error) => this.#hear({ type: "broken", error: String(error) }));
  }

  #hear(event) {
    this.#heard.push(event);
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
    while (this.#heard.length === 0) {
      await new Promise((resolve) => (this.#waiting = resolve));
    }
    return this.#heard.shift();
  }

  /** All events of one response. */
  async events() {
    const events = [];
    do {
      events.push(await this.next());
    } while (![...ENDS, "closed", "broken"].includes(events.at(-1).type));
    return events;
  }

  /** Asks, and expects a faultless response. */
  async create(what, body, expected = {}) {
    this.send(body);
    const { response } = faultless(what, await this.events());
    const { status = "completed", text = TEXT } = expected;
    check(`${what}: answer`, [response.status, said(response)], [status, text]);
    check(`${what}: after which`, response.previous_response_id, body.previous_response_id ?? null);
    return response;
  }

  /** Asks, and expects nothing but an error with this code. */
  async refused(what, body, code, status = 400) {
    this.send(body);
    const [event, ...rest] = await this.events();
    check(`${what}: one event`, [event.type, rest], ["error", []]);
    check(`${what}: error`, [event.status, event.error?.code], [status, code]);
    check(`${what}: fields`, wrong(event.error ?? {}, ERROR), []);
  }

  async close() {
    this.#socket.close();
    check("a connection that is closed says so", (await this.events()).at(-1).type, "closed");
  }
}

async function connected(run) {
  const connection = await new Connection().open();
  await run(connection);
  await connection.close();
}

async function one() {
  await connected((connection) => connection.create("a response", { input: [user("Count from 1 to 3.")] }));
}

async function sequential() {
  await connected(async (connection) => {
    for (const body of [{ input: "first", store: false }, { input: "second", store: false }, { input: "third" }]) {
      await connection.create(`in a row, ${body.input}`, body);
    }
    // Those that are sent before the others have ended wait for them.
    connection.send({ input: "fourth", model: "only-bytewise-streamed" });
    connection.send({ input: "fifth" });
    const [fourth, fifth] = [faultless("fourth", await connection.events()), faultless("fifth", await connection.events())];
    check("in order", [fourth.response.model, fifth.response.model], ["bytewise:only-bytewise-streamed", "good"]);
  });
}

async function continuation() {
  await connected(async (connection) => {
    const seen = { store: false, input: [user([{ type: "input_text", text: "Look." }, IMAGE])] };
    const first = await connection.create("continued, first", seen, { text: "I see an image." });
    const next = (previous_response_id) => ({ store: false, previous_response_id, input: "What was it?" });
    const second = await connection.create("continued, second", next(first.id), { text: "I see an image." });
    await connection.create("continued, third", next(second.id), { text: "I see an image." });
    await connection.refused("only the newest is known", next(first.id), "previous_response_not_found");
    const tools = [{ type: "function", name: "weather", parameters: { type: "object" } }];
    connection.send({ store: false, model: "only-tools-streamed", input: "The weather?", tools });
    const { response } = faultless("called", await connection.events());
    const outputs = response.output.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "sunny" }));
    await connection.create("tools, there and back", { store: false, tools, previous_response_id: response.id, input: outputs });
  });
}

async function reconnected() {
  const made = {};
  await connected(async (connection) => {
    made.lost = await connection.create("not kept", { store: false, input: "Remember: copper." });
    made.kept = await connection.create("kept", { input: "Remember: copper." });
  });
  await connected(async (connection) => {
    const next = (store, previous) => ({ store, previous_response_id: previous.id, input: "What was it?" });
    await connection.refused("what was not kept is lost", next(false, made.lost), "previous_response_not_found");
    await connection.refused("nor is it in a log", next(true, made.lost), "previous_response_not_found");
    await connection.refused("what was kept is not looked for", next(false, made.kept), "previous_response_not_found");
    await connection.create("what was kept is there", next(true, made.kept));
    await connection.create("begun anew", { store: false, input: [user("Remember: copper.")] });
  });
}

async function missing() {
  await connected(async (connection) => {
    for (const store of [true, false]) {
      const body = { store, previous_response_id: "resp_openresponses_missing", input: "?" };
      await connection.refused(`no such response, store ${store}`, body, "previous_response_not_found");
    }
    await connection.refused("no such model", { model: "nope", store: false, input: "?" }, "model_not_found", 404);
  });
}

async function evicted() {
  await connected(async (connection) => {
    const first = await connection.create("to be evicted", { store: false, input: "Remember: ember." });
    const next = (input) => ({ store: false, previous_response_id: first.id, input });
    const orphan = [{ type: "function_call_output", call_id: "missing", output: "?" }];
    await connection.refused("an output of no call", next(orphan), "invalid_value");
    await connection.refused("after a failure", next("?"), "previous_response_not_found");
  });
}

async function compacted() {
  const input = [user("Remember: slate."), { type: "message", role: "assistant", content: "OK." }, user("Compress this.")];
  const options = { method: "POST", headers: { ...headers, "content-type": "application/json" } };
  const compact = (body) => fetch(`${base}/responses/compact`, { ...options, body: JSON.stringify(body) });
  const { output } = await (await compact({ model: "plain", input })).json();
  await connected((connection) => connection.create("compacted", { store: false, tools: [], input: [...output, user("Go on.")] }));
}

async function lanes() {
  await connected(async (connection) => {
    const sent = [["a", "steady"], ["b", "plain"], ["a", "plain"]];
    sent.forEach(([stream_id, model]) => connection.send({ stream_id, model, store: false, input: "?" }));
    const events = { a: [], b: [] };
    const order = [];
    while (order.length < sent.length) {
      const { stream_id, ...event } = await connection.next();
      events[stream_id].push(event);
      if (ENDS.includes(event.type)) {
        order.push(`${stream_id} ${event.response.model}`);
        faultless(`lane ${stream_id}`, events[stream_id].splice(0));
      }
    }
    check("lanes", order, ["b good", "a steady", "a good"]);
    await connection.refused("a lane without a name", { stream_id: "", input: "?" }, "invalid_stream_id");
  });
}

async function prepared() {
  await connected(async (connection) => {
    const seen = { generate: false, input: [user([{ type: "input_text", text: "Look." }, IMAGE])] };
    const first = await connection.create("prepared", seen, { text: "" });
    await connection.create("goes on", { previous_response_id: first.id, input: "What is it?" }, { text: "I see an image." });
  });
}

for (const part of [one, sequential, continuation, reconnected, missing, evicted, compacted, lanes, prepared]) {
  await attempt(part.name, part);
}

end();

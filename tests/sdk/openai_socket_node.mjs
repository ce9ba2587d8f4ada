// Checks a node's WebSockets with OpenAI's official client for Node, unchanged.
//
// Environment: OPENAI_BASE_URL, OPENAI_API_KEY (every scope), OUTLIVE_NODE_MODULES.
// The last line is `N passed, M failed`.

import { attempt, check, end, load } from "./checks.mjs";

const OpenAI = load("openai");
const { ResponsesWS } = load("openai/resources/responses/ws");

const TEXT = "All is well é🙂";
const client = new OpenAI({ maxRetries: 0 });

/** Sends `body`. Returns the text of the deltas and the last event, or the error that the client reports. */
async function ask(socket, events, body) {
  let text = "";
  socket.send({ type: "response.create", model: "plain", ...body });
  for (;;) {
    const { value, done } = await events.next();
    if (done || value.type === "close") return { text, last: { type: "close" } };
    if (value.type === "error") return { text, last: value.error };
    if (value.type !== "message") continue;
    const event = value.message;
    text += event.type === "response.output_text.delta" ? event.delta : "";
    if (/^response\.(completed|incomplete|failed)$/.test(event.type)) return { text, last: event };
  }
}

async function responses() {
  const socket = new ResponsesWS(client);
  const events = socket.stream();
  const { text, last } = await ask(socket, events, { input: "How are you?", store: false });
  check("response: text and last event", [text, last.type], [TEXT, "response.completed"]);
  const next = { input: "Again?", store: false, previous_response_id: last.response.id };
  const again = await ask(socket, events, next);
  check(
    "continued response: text and previous_response_id",
    [again.text, again.last.response.previous_response_id],
    [TEXT, last.response.id],
  );
  const refused = await ask(socket, events, { ...next, previous_response_id: "resp_nope" });
  check(
    "continuation of an unknown response: error code",
    refused.last?.error?.error?.code,
    "previous_response_not_found",
  );
  const stored = await ask(socket, events, { input: "How are you?" });
  const { output_text } = await client.responses.retrieve(stored.last.response.id);
  check("stored response: text over the WebSocket and over HTTP", [stored.text, output_text], [TEXT, TEXT]);
  socket.close();
}

await attempt("responses", responses);

end();

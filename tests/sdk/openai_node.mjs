// Checks a node with OpenAI's official client for Node, unchanged.
//
// Environment: OPENAI_BASE_URL, OPENAI_API_KEY (every scope), OUTLIVE_INFERENCE_KEY (no admin scope), and
// OUTLIVE_NODE_MODULES, the folder that holds the package. The last line is `N passed, M failed`.

import { attempt, check, end, load, raises } from "./checks.mjs";

const OpenAI = load("openai");

const TEXT = "All is well é🙂";
const messages = [{ role: "user", content: "How are you?" }];

// No retries of the client: they would hide failures of the node.
const options = { maxRetries: 0, timeout: 120_000 };
const client = new OpenAI(options);

const chat = (model, more = {}, using = client) => using.chat.completions.create({ model, messages, ...more });

async function answer(model) {
  const completion = await chat(model);
  const [{ message, finish_reason: finish }] = completion.choices;
  check(`${model}: text and finish reason`, [message.content, finish], [TEXT, "stop"]);
  check(`${model}: total tokens`, completion.usage.total_tokens, 12);
}

async function stream(model) {
  let text = "";
  let tokens;
  const finish = [];
  for await (const chunk of await chat(model, { stream: true, stream_options: { include_usage: true } })) {
    tokens = chunk.usage?.total_tokens ?? tokens;
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? "";
      if (choice.finish_reason) finish.push(choice.finish_reason);
    }
  }
  check(`${model}, streamed: text, finish reasons and total tokens`, [text, finish, tokens], [TEXT, ["stop"], 12]);
}

async function tools() {
  const weather = { type: "function", function: { name: "weather", parameters: { type: "object" } } };
  const run = client.chat.completions.stream({ model: "only-tools-streamed", messages, tools: [weather] });
  const { message } = (await run.finalChatCompletion()).choices[0];
  const calls = message.tool_calls.map(({ function: call }) => [call.name, JSON.parse(call.arguments)]);
  check("calls of a streamed answer", calls, [["weather", { city: "Zürich" }], ["clock", { zone: "CET" }]]);
  const whole = (await chat("only-tools", { tools: [weather] })).choices[0].message;
  check("calls of an answer", whole.tool_calls.map((call) => call.function.name), ["weather", "clock"]);
}

const WEATHER = { city: "Zürich", degrees: 21 };
const properties = { city: { type: "string" }, degrees: { type: "integer" } };
const schema = { type: "object", properties, required: ["city", "degrees"], additionalProperties: false };

// The provider gives these answers only if the schema or the image reaches it.
async function structured(model) {
  const format = { type: "json_schema", json_schema: { name: "weather", strict: true, schema } };
  const completion = await client.chat.completions.parse({ model, messages, max_completion_tokens: 100, response_format: format });
  check(`${model}: answer with a schema`, JSON.parse(completion.choices[0].message.content), WEATHER);
  const text = { format: { type: "json_schema", name: "weather", strict: true, schema } };
  const response = await client.responses.parse({ model, input: messages, max_output_tokens: 100, text, store: false });
  check(`${model}: response with a schema`, JSON.parse(response.output_text), WEATHER);
}

async function image(model) {
  const picture = { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } };
  const content = [{ type: "text", text: "What is this?" }, picture];
  const completion = await client.chat.completions.create({
    model,
    max_completion_tokens: 100,
    messages: [{ role: "user", content }],
  });
  check(`${model}: answer to an image`, completion.choices[0].message.content, "I see an image.");
}

async function responses(model) {
  const run = client.responses.stream({ model, input: "How are you?", max_output_tokens: 100, store: false });
  const response = await run.finalResponse();
  check(
    `${model}: text and status of a streamed response`,
    [response.output_text, response.status],
    [TEXT, "completed"],
  );
}

async function headers() {
  const { response, request_id: id } = await chat("plain").withResponse();
  check("header x-outlive-provider", response.headers.get("x-outlive-provider"), "good");
  check("header x-request-id is set", Boolean(id), true);
}

async function brokenStream() {
  let text = "";
  const read = async () => {
    for await (const chunk of await chat("only-halfway-streamed", { stream: true })) {
      text += chunk.choices[0]?.delta.content ?? "";
    }
  };
  await raises("exception for a stream that breaks off", OpenAI.APIError, read, { code: "stream_interrupted" });
  check("text before a stream breaks off", text, "All is");
}

async function errors() {
  const unknown = { code: "model_not_found", param: "model", status: 404 };
  await raises("exception for an unknown model", OpenAI.NotFoundError, () => chat("nope"), unknown);
  const wrong = new OpenAI({ ...options, apiKey: "wrong" });
  const inference = new OpenAI({ ...options, apiKey: process.env.OUTLIVE_INFERENCE_KEY });
  const refused = { code: "invalid_api_key", status: 401 };
  await raises("exception for an unknown key", OpenAI.AuthenticationError, () => chat("plain", {}, wrong), refused);
  const scope = { code: "insufficient_scope", status: 403 };
  await raises("exception for a missing scope", OpenAI.PermissionDeniedError, () => inference.get("/status"), scope);
  const limited = { code: "rate_limit_exceeded", status: 429 };
  await raises("exception for a rate limit", OpenAI.RateLimitError, () => chat("only-limited"), limited);
  await raises(
    "exception for a rate limit of a stream",
    OpenAI.RateLimitError,
    () => chat("only-limited", { stream: true }),
    limited,
  );
  const empty = () => client.chat.completions.create({ model: "plain", messages: [] });
  await raises(
    "exception for a request without messages",
    OpenAI.BadRequestError,
    empty,
    { code: "invalid_value", param: "messages", status: 400 },
  );
  const caller = { code: "decimal_above_max_value", param: "temperature" };
  await raises("exception for an error of the caller", OpenAI.BadRequestError, () => chat("only-caller-error"), caller);
  await raises("exception if all candidates fail", OpenAI.InternalServerError, () => chat("only-broken"));
  const nothing = () => client.conversations.retrieve("conv_nope");
  await raises(
    "exception for an unknown conversation",
    OpenAI.NotFoundError,
    nothing,
    { code: "conversation_not_found" },
  );
}

async function models() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  check("models: the configured ones are listed", ["plain", "via-limited"].every((id) => ids.includes(id)), true);
  check("models: id of a single one", (await client.models.retrieve("plain")).id, "plain");
}

async function conversations() {
  const item = (i) => ({ type: "message", role: "user", content: `item ${i}` });
  const metadata = { topic: "é🙂" };
  const made = await client.conversations.create({ metadata, items: [item(0)] });
  check("conversation: object and metadata", [made.object, made.metadata], ["conversation", metadata]);
  const again = await client.conversations.retrieve(made.id);
  check("conversation: retrieved", JSON.stringify(again), JSON.stringify(made));
  for (const first of [1, 16]) {
    const items = Array.from({ length: 15 }, (_, i) => item(first + i));
    const added = await client.conversations.items.create(made.id, { items });
    check(
      "conversation: texts of added items",
      added.data.map(({ content }) => content[0].text),
      items.map(({ content }) => content),
    );
  }
  const texts = [];
  for await (const { content } of client.conversations.items.list(made.id, { order: "asc", limit: 10 })) {
    texts.push(content[0].text);
  }
  check("conversation: texts of all pages", texts, Array.from({ length: 31 }, (_, i) => `item ${i}`));
  const { data } = await client.conversations.items.list(made.id, { order: "asc", limit: 1 });
  const one = await client.conversations.items.retrieve(data[0].id, { conversation_id: made.id });
  check("conversation: single item", one, data[0]);
  const updated = await client.conversations.update(made.id, { metadata: { topic: "other" } });
  check("conversation: id and metadata after an update", [updated.id, updated.metadata], [made.id, { topic: "other" }]);
  const newest = await client.conversations.items.list(made.id, { limit: 2 });
  check(
    "conversation: texts in the default order",
    newest.data.map(({ content }) => content[0].text),
    ["item 30", "item 29"],
  );
}

for (const model of ["plain", "via-limited", "via-broken", "via-early"]) {
  await attempt(model, () => answer(model));
  await attempt(`${model}, streamed`, () => stream(model === "plain" ? model : `${model}-streamed`));
}
for (const model of ["plain", "openai-good", "anthropic-good"]) {
  for (const part of [structured, image, responses]) {
    await attempt(`${part.name}, ${model}`, () => part(model));
  }
}
for (const part of [tools, headers, brokenStream, errors, models, conversations]) {
  await attempt(part.name, part);
}

end();

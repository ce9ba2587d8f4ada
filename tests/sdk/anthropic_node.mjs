// Checks a node with Anthropic's official client for Node, unchanged.
//
// Environment: ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY (every scope), and OUTLIVE_NODE_MODULES, the folder that holds the
// package. The last line is `N passed, M failed`.

import { attempt, check, end, load, raises } from "./checks.mjs";

const Anthropic = load("@anthropic-ai/sdk");

const TEXT = "All is well é🙂";
const messages = [{ role: "user", content: "How are you?" }];
const tools = [{ name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }];

// No retries of the client: they would hide failures of the node.
const client = new Anthropic({ maxRetries: 0, timeout: 120_000 });

const ask = (model, more = {}) => client.messages.create({ model, max_tokens: 100, messages, ...more });
const calls = (message) =>
  message.content.filter((block) => block.type === "tool_use").map(({ name, input }) => [name, input]);
const CALLS = [["weather", { city: "Zürich" }], ["clock", { zone: "CET" }]];

for (const model of ["plain", "via-broken", "via-limited"]) {
  await attempt(model, async () => {
    const message = await ask(model);
    check(`${model}: text and stop reason`, [message.content[0].text, message.stop_reason], [TEXT, "end_turn"]);
    check(`${model}: tokens`, [message.usage.input_tokens, message.usage.output_tokens], [7, 5]);
  });
}
for (const model of ["plain", "via-early-streamed", "via-error-first-streamed"]) {
  await attempt(`${model}, streamed`, async () => {
    const stream = client.messages.stream({ model, max_tokens: 100, messages });
    let text = "";
    stream.on("text", (piece) => (text += piece));
    const message = await stream.finalMessage();
    check(
      `${model}, streamed: text of the events and of the message, and tokens`,
      [text, message.content[0].text, message.usage.output_tokens],
      [TEXT, TEXT, 5],
    );
  });
}
await attempt("tools", async () => check("calls of an answer", calls(await ask("only-tools", { tools })), CALLS));
await attempt("tools, streamed", async () => {
  const stream = client.messages.stream({ model: "only-tools-streamed", max_tokens: 100, messages, tools });
  check("calls of a streamed answer", calls(await stream.finalMessage()), CALLS);
});
// The provider gives these answers only if the schema or the image reaches it.
const properties = { city: { type: "string" }, degrees: { type: "integer" } };
const schema = { type: "object", properties, required: ["city", "degrees"], additionalProperties: false };
const picture = { type: "base64", media_type: "image/png", data: "iVBORw0KGgo=" };
for (const model of ["plain", "openai-good", "anthropic-good"]) {
  await attempt(`structured, ${model}`, async () => {
    const message = await ask(model, { output_config: { format: { type: "json_schema", schema } } });
    check(`${model}: answer with a schema`, JSON.parse(message.content[0].text), { city: "Zürich", degrees: 21 });
  });
  await attempt(`image, ${model}`, async () => {
    const content = [{ type: "image", source: picture }, { type: "text", text: "What is this?" }];
    const message = await ask(model, { messages: [{ role: "user", content }] });
    check(`${model}: answer to an image`, message.content[0].text, "I see an image.");
  });
}
await attempt("token count", async () => {
  const count = await client.messages.countTokens({ model: "plain", messages });
  check("token count is positive", count.input_tokens > 0, true);
});
await raises("exception for an unknown model", Anthropic.NotFoundError, () => ask("nothing"));
await raises(
  "exception for a field that no candidate supports",
  Anthropic.BadRequestError,
  () => ask("plain", { container: "container_1" }),
);
await raises("exception if all candidates are rate limited", Anthropic.RateLimitError, () => ask("all-limited"));
await raises("exception for a stream that breaks off", Anthropic.APIError, async () => {
  const stream = client.messages.stream({ model: "only-halfway-streamed", max_tokens: 100, messages });
  return (await stream.finalMessage()).content;
});

end();

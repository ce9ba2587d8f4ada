// Checks the fields of responses and events as the acceptance tests of Open Responses (https://www.openresponses.org) do,
// and its specification's rules for streams. Sends no requests.

import { check } from "./checks.mjs";

export const TEXT = "All is well é🙂";

export const user = (content) => ({ type: "message", role: "user", content });
export const textOf = (response) => response.output.flatMap((item) => item.content ?? []).map((part) => part.text).join("");

// Tests of a field's value.
export const is = {
  string: (value) => typeof value === "string",
  text: (value) => value === null || typeof value === "string",
  count: Number.isSafeInteger,
  counted: (value) => value === null || Number.isSafeInteger(value),
  number: Number.isFinite,
  boolean: (value) => typeof value === "boolean",
  array: Array.isArray,
  object: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  objectOrNot: (value) => value === null || is.object(value),
  oneOf: (...words) => (value) => words.includes(value),
};

// The fields that a response must have.
const RESPONSE = {
  id: is.string,
  object: is.oneOf("response"),
  created_at: is.count,
  completed_at: is.counted,
  status: is.oneOf("queued", "in_progress", "completed", "incomplete", "failed"),
  incomplete_details: is.objectOrNot,
  model: is.string,
  previous_response_id: is.text,
  instructions: is.text,
  output: is.array,
  error: is.objectOrNot,
  tools: is.array,
  tool_choice: (value) => is.oneOf("none", "auto", "required")(value) || is.object(value),
  truncation: is.oneOf("auto", "disabled"),
  parallel_tool_calls: is.boolean,
  text: (value) => is.string(value?.format?.type),
  top_p: is.number,
  presence_penalty: is.number,
  frequency_penalty: is.number,
  top_logprobs: is.count,
  temperature: is.number,
  reasoning: (value) => value === null || ("effort" in value && "summary" in value),
  usage: (value) => value === null || hasRightSum(value),
  max_output_tokens: is.counted,
  max_tool_calls: is.counted,
  store: is.boolean,
  background: is.boolean,
  service_tier: is.string,
  metadata: is.object,
  safety_identifier: is.text,
  prompt_cache_key: is.text,
};
const PLACE = { item_id: is.string, output_index: is.count };
const PART = { ...PLACE, content_index: is.count };
const WHOLE = { response: is.object };
const ITEM = { output_index: is.count, item: is.object };
const EVENTS = {
  "response.created": WHOLE,
  "response.in_progress": WHOLE,
  "response.completed": WHOLE,
  "response.incomplete": WHOLE,
  "response.failed": WHOLE,
  "response.output_item.added": ITEM,
  "response.output_item.done": ITEM,
  "response.content_part.added": { ...PART, part: is.object },
  "response.content_part.done": { ...PART, part: is.object },
  "response.output_text.delta": { ...PART, delta: is.string, logprobs: is.array },
  "response.output_text.done": { ...PART, text: is.string, logprobs: is.array },
  "response.function_call_arguments.delta": { ...PLACE, delta: is.string },
  "response.function_call_arguments.done": { ...PLACE, arguments: is.string },
};
const STATUS = is.oneOf("in_progress", "completed", "incomplete");
const ITEMS = {
  message: { id: is.string, status: STATUS, role: is.oneOf("assistant"), content: is.array },
  function_call: { id: is.string, status: STATUS, call_id: is.string, name: is.string, arguments: is.string },
};

function hasRightSum(usage) {
  const details = [usage.input_tokens_details?.cached_tokens, usage.output_tokens_details?.reasoning_tokens];
  return details.every(is.count) && usage.input_tokens + usage.output_tokens === usage.total_tokens;
}

/** The fields of `value` that are missing, or fail their test in `fields`. */
export function wrongFields(value, fields) {
  const names = Object.keys(fields).filter((name) => !(name in value) || !fields[name](value[name]));
  return names.map((name) => `${name}: ${JSON.stringify(value[name])}`);
}

/** Checks the fields of a response and of its items. */
export function checkResponse(title, response) {
  check(`${title}: wrong fields of the response`, wrongFields(response, RESPONSE), []);
  const items = response.output.map((item) => (ITEMS[item.type] ? wrongFields(item, ITEMS[item.type]) : [item.type]));
  check(`${title}: wrong fields of the items`, items.flat(), []);
  return response;
}

/** Checks the fields and the order of a stream's events, whose last one has the whole response. */
export function checkEvents(title, events) {
  for (const event of events) {
    const fields = EVENTS[event.type];
    check(
      `${title}: wrong fields of ${event.type}`,
      fields ? wrongFields(event, { sequence_number: is.count, ...fields }) : ["unknown"],
      [],
    );
  }
  check(`${title}: sequence numbers`, events.map((event) => event.sequence_number), [...events.keys()]);
  check(
    `${title}: types of the first two events`,
    events.slice(0, 2).map((event) => event.type),
    ["response.created", "response.in_progress"],
  );
  check(
    `${title}: status and items of the first event`,
    [events[0].response.status, events[0].response.output],
    ["in_progress", []],
  );
  const last = events.at(-1);
  check(`${title}: type of the last event`, last.type, `response.${last.response.status}`);
  checkResponse(`${title}, last event`, last.response);
  checkItems(title, events);
  return { events, kinds: events.map((event) => event.type), response: last.response };
}

/** Checks that an item is added before its events and done after them, and that the last event has all items. */
function checkItems(title, events) {
  const open = new Map();
  const done = [];
  for (const event of events) {
    if (event.type === "response.output_item.added") {
      check(`${title}: status of an added item`, event.item.status, "in_progress");
      open.set(event.item.id, event.output_index);
    } else if (event.type === "response.output_item.done") {
      check(`${title}: index at which a done item was added`, open.get(event.item.id), event.output_index);
      open.delete(event.item.id);
      done[event.output_index] = event.item;
    } else if (event.item_id !== undefined) {
      check(`${title}: index at which the item of ${event.type} is open`, open.get(event.item_id), event.output_index);
    }
  }
  check(`${title}: items that are not done`, [...open.keys()], []);
  check(`${title}: items of the last event`, events.at(-1).response.output, done);
}

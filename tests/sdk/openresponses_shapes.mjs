// What the acceptance tests of Open Responses (https://www.openresponses.org) demand of responses and events, and the rules of
// its specification for streams.

import { check } from "./checks.mjs";

export const TEXT = "All is well é🙂";

export const user = (content) => ({ type: "message", role: "user", content });
export const said = (response) => response.output.flatMap((item) => item.content ?? []).map((part) => part.text).join("");

// Every field of a response, with what it may be.
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
  usage: (value) => value === null || sums(value),
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

function sums(usage) {
  const details = [usage.input_tokens_details?.cached_tokens, usage.output_tokens_details?.reasoning_tokens];
  return details.every(is.count) && usage.input_tokens + usage.output_tokens === usage.total_tokens;
}

/** The fields of `value` that are not as `fields` says. */
export function wrong(value, fields) {
  const names = Object.keys(fields).filter((name) => !(name in value) || !fields[name](value[name]));
  return names.map((name) => `${name}: ${JSON.stringify(value[name])}`);
}

/** Expects a faultless response. */
export function whole(what, response) {
  check(`${what}: fields`, wrong(response, RESPONSE), []);
  const items = response.output.map((item) => (ITEMS[item.type] ? wrong(item, ITEMS[item.type]) : [item.type]));
  check(`${what}: items`, items.flat(), []);
  return response;
}

/** Expects faultless events whose last one has the whole response. */
export function faultless(what, events) {
  for (const event of events) {
    const fields = EVENTS[event.type];
    check(`${what}: ${event.type}`, fields ? wrong(event, { sequence_number: is.count, ...fields }) : ["unknown"], []);
  }
  check(`${what}: numbers`, events.map((event) => event.sequence_number), [...events.keys()]);
  check(`${what}: begins`, events.slice(0, 2).map((event) => event.type), ["response.created", "response.in_progress"]);
  check(`${what}: begins with nothing`, [events[0].response.status, events[0].response.output], ["in_progress", []]);
  const last = events.at(-1);
  check(`${what}: ends`, last.type, `response.${last.response.status}`);
  whole(`${what}, at its end`, last.response);
  states(what, events);
  return { events, kinds: events.map((event) => event.type), response: last.response };
}

/** Each item is added before anything is said of it, and nothing is after it is done; the end repeats them. */
function states(what, events) {
  const open = new Map();
  const done = [];
  for (const event of events) {
    if (event.type === "response.output_item.added") {
      check(`${what}: a begun item`, event.item.status, "in_progress");
      open.set(event.item.id, event.output_index);
    } else if (event.type === "response.output_item.done") {
      check(`${what}: a done item was begun`, open.get(event.item.id), event.output_index);
      open.delete(event.item.id);
      done[event.output_index] = event.item;
    } else if (event.item_id !== undefined) {
      check(`${what}: ${event.type} of an open item`, open.get(event.item_id), event.output_index);
    }
  }
  check(`${what}: all items are done`, [...open.keys()], []);
  check(`${what}: the end repeats them`, events.at(-1).response.output, done);
}

// How the items of a conversation look: messages, thoughts, calls of tools, approvals.

import { badge, button, count, h, words } from "./dom.js";

/** An item on the page. It grows by pieces while it is being made, and is set when it is whole. */
export class ItemView {
  /** `decide(request, approve)` is called when its user answers a request for approval. */
  constructor(item, decide) {
    this.decide = decide;
    this.element = h("div", { class: "item" });
    this.set(item);
  }

  set(item) {
    const open = this.element.querySelector("details")?.open ?? false;
    this.item = item;
    this.piece = null;
    this.element.className = `item ${kind(item)}`;
    this.element.replaceChildren(...contents(item, this.decide));
    const details = this.element.querySelector("details");
    if (details) details.open = open;
  }

  /** Adds a piece of the text that is its main part. */
  add(text) {
    if (!this.piece) {
      this.piece = document.createTextNode("");
      const place = this.element.querySelector(".grows") ?? this.element;
      place.replaceChildren(this.piece);
    }
    this.piece.appendData(text);
  }

  /** Says what has become of a call. */
  mark(status) {
    this.set({ ...this.item, status, arguments: this.item.arguments || this.piece?.data || "" });
  }
}

/** The response that made an item, which its id tells; null if none did. */
export function maker(item) {
  const found = /^[a-z]+_([0-9a-f]{64})_\d+/.exec(item.id ?? "");
  return found ? `resp_${found[1]}` : null;
}

/** Whether an item is what somebody said to the agent. */
export function isInput(item) {
  return item.type === "mcp_approval_response" || (item.type ?? "message") === "message" && item.role !== "assistant";
}

/** The words of a message. */
export function textOf(item) {
  if (typeof item.content === "string") return item.content;
  return (item.content ?? []).map(partText).join("\n");
}

function partText(part) {
  if (part.type === "refusal") return part.refusal;
  if (part.type === "input_image") return "(an image)";
  if (part.type === "input_file") return `(the file ${part.filename ?? part.file_id ?? ""})`;
  return part.text ?? "";
}

function kind(item) {
  const type = item.type ?? "message";
  return type === "message" ? `message ${item.role}` : type.replaceAll("_", "-");
}

function contents(item, decide) {
  switch (item.type ?? "message") {
    case "message":
      return [h("span", { class: "who" }, item.role === "assistant" ? "Agent" : item.role === "user" ? "You" : item.role),
        h("div", { class: "text grows" }, ...formatted(textOf(item)))];
    case "reasoning": {
      const text = [...(item.summary ?? []), ...(item.content ?? [])].map((part) => part.text ?? "").join("\n\n");
      if (!text && item.status !== "in_progress" && item.encrypted_content) return [];
      return [h("details", {}, h("summary", {}, "Thoughts"), h("div", { class: "text grows" }, text))];
    }
    case "function_call":
    case "custom_tool_call":
      return [call(item, item.name, item.arguments ?? item.input, null)];
    case "function_call_output":
    case "custom_tool_call_output":
      return [h("details", { class: "call" }, h("summary", {}, "What the tool gave"), code(item.output))];
    case "mcp_call":
      return [call(item, item.name, item.arguments, item.output, item.server_label)];
    case "mcp_list_tools":
      return [h("p", { class: "aside" }, item.error
        ? `The tools of ${item.server_label} could not be listed: ${text(item.error)}`
        : `${count((item.tools ?? []).length, "tool")} of ${item.server_label}`)];
    case "mcp_approval_request":
      return [approval(item, decide)];
    case "mcp_approval_response":
      return [h("p", { class: "aside" }, item.approve ? "You approved the call." : "You denied the call.",
        item.reason ? ` ${item.reason}` : "")];
    default:
      return [h("details", { class: "call" }, h("summary", {}, words(item.type)), code(item))];
  }
}

function call(item, name, input, output, server) {
  const [mood, state] = callState(item);
  return h("details", { class: "call" },
    h("summary", {}, h("span", { class: "tool" }, name ?? "tool"),
      server ? h("span", { class: "muted" }, ` of ${server}`) : null, badge(state, mood)),
    h("h4", {}, "Asked with"), h("pre", { class: "grows", tabindex: "0" }, pretty(input)),
    item.error ? [h("h4", {}, "Went wrong"), h("pre", { tabindex: "0" }, why(item.error))] : null,
    output ? [h("h4", {}, "Gave"), h("pre", { tabindex: "0" }, pretty(output))] : null);
}

/** Why a call failed: what the tool said, if it said it in words. */
function why(error) {
  const words = Array.isArray(error.content) ? error.content.map((part) => part.text ?? "").join("\n") : "";
  return words || pretty(error);
}

function callState(item) {
  if (item.error || item.status === "failed") return ["bad", "failed"];
  if (["in_progress", "calling"].includes(item.status)) return ["fair", "running"];
  if (item.status === "incomplete") return ["bad", "not finished"];
  if (item.type === "mcp_call") return ["good", "done"];
  return ["still", "called"];
}

function approval(item, decide) {
  const actions = h("div", { class: "actions" });
  const answer = (approve) => {
    actions.replaceChildren(badge(approve ? "approved" : "denied", approve ? "good" : "bad"));
    decide(item, approve);
  };
  if (item.answered === undefined) {
    actions.append(button("Approve", () => answer(true), { class: "primary", "aria-label": `Approve ${item.name}` }),
      button("Deny", () => answer(false), { "aria-label": `Deny ${item.name}` }));
  } else {
    actions.append(badge(item.answered ? "approved" : "denied", item.answered ? "good" : "bad"));
  }
  return h("section", { class: "approval", "aria-label": `Approval of ${item.name}` },
    h("p", {}, "The agent wants to use ", h("strong", {}, item.name),
      item.server_label ? ` of ${item.server_label}` : "", " and asks for your approval."),
    h("pre", { tabindex: "0" }, pretty(item.arguments)), actions);
}

function code(value) {
  return h("pre", { tabindex: "0" }, pretty(value));
}

/** JSON on many lines; other text as it is. */
function pretty(value) {
  if (value === null || value === undefined) return "";
  try {
    return JSON.stringify(typeof value === "string" ? JSON.parse(value) : value, null, 2);
  } catch {
    return text(value);
  }
}

function text(value) {
  return typeof value === "string" ? value : value?.message ?? JSON.stringify(value);
}

/** Text with its blocks of code, its code in a line and its strong words; all else stays as it was written. */
function formatted(text) {
  return text.split(/^```[^\n]*\n([\s\S]*?)^```[ \t]*$/m).map((part, at) => {
    if (at % 2) return h("pre", { tabindex: "0" }, h("code", {}, part.replace(/\n$/, "")));
    const paragraphs = part.trim().split(/\n{2,}/).filter(Boolean);
    return paragraphs.map((paragraph) => h("p", {}, ...inline(paragraph)));
  }).flat();
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (/^`.+`$/.test(part)) return h("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return h("strong", {}, part.slice(2, -2));
    return part;
  });
}

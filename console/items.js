// Draws the items of a conversation: messages, reasoning, tool calls, approvals. Sends nothing.

import { badge, button, count, h, spaced } from "./dom.js";

/** The labels of authors of messages; other roles are shown by their name. */
const AUTHORS = { assistant: "Agent", user: "You" };

/** An item on the page. `append` adds streamed text to it, `set` draws it anew when it is complete. */
export class ItemView {
  /** `onDecision(request, approve)` is called when the user answers an approval request. */
  constructor(item, onDecision) {
    this.onDecision = onDecision;
    this.element = h("div", { class: "item" });
    this.set(item);
  }

  set(item) {
    const open = this.element.querySelector("details")?.open ?? false;
    this.item = item;
    this.streamed = null;
    this.element.className = `item ${classOf(item)}`;
    this.element.replaceChildren(...contents(item, this.onDecision));
    const details = this.element.querySelector("details");
    if (details) details.open = open;
  }

  /** Adds streamed text to the main part of the item. */
  append(text) {
    if (!this.streamed) {
      this.streamed = document.createTextNode("");
      const main = this.element.querySelector(".streamed") ?? this.element;
      main.replaceChildren(this.streamed);
    }
    this.streamed.appendData(text);
  }

  /** Sets the status of a call. */
  setStatus(status) {
    this.set({ ...this.item, status, arguments: this.item.arguments || this.streamed?.data || "" });
  }
}

/** The id of the response that an item belongs to, which is part of the item's id; null for input. */
export function responseIdOf(item) {
  const match = /^[a-z]+_([0-9a-f]{64})_\d+/.exec(item.id ?? "");
  return match ? `resp_${match[1]}` : null;
}

/** Whether an item is input to the agent. */
export function isInput(item) {
  return item.type === "mcp_approval_response" || (item.type ?? "message") === "message" && item.role !== "assistant";
}

/** The text of a message. */
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

function classOf(item) {
  const type = item.type ?? "message";
  return type === "message" ? `message ${item.role}` : type.replaceAll("_", "-");
}

function contents(item, onDecision) {
  switch (item.type ?? "message") {
    case "message":
      return [h("span", { class: "author" }, AUTHORS[item.role] ?? item.role),
        h("div", { class: "text streamed" }, ...formatted(textOf(item)))];
    case "reasoning": {
      const text = [...(item.summary ?? []), ...(item.content ?? [])].map((part) => part.text ?? "").join("\n\n");
      if (!text && item.status !== "in_progress" && item.encrypted_content) return [];
      return [h("details", {}, h("summary", {}, "Reasoning"), h("div", { class: "text streamed" }, text))];
    }
    case "function_call":
    case "custom_tool_call":
      return [toolCall(item, item.name, item.arguments ?? item.input, null)];
    case "function_call_output":
    case "custom_tool_call_output":
      return [h("details", { class: "call" }, h("summary", {}, "Tool output"), jsonBlock(item.output))];
    case "mcp_call":
      return [toolCall(item, item.name, item.arguments, item.output, item.server_label)];
    case "mcp_list_tools":
      return [h("p", { class: "aside" }, item.error
        ? `The tools of ${item.server_label} could not be listed: ${asText(item.error)}`
        : `${count((item.tools ?? []).length, "tool")} from ${item.server_label}`)];
    case "mcp_approval_request":
      return [approval(item, onDecision)];
    case "mcp_approval_response":
      return [h("p", { class: "aside" }, item.approve ? "You approved the call." : "You denied the call.",
        item.reason ? ` ${item.reason}` : "")];
    default:
      return [h("details", { class: "call" }, h("summary", {}, spaced(item.type)), jsonBlock(item))];
  }
}

function toolCall(item, name, input, output, server) {
  const [tone, state] = callState(item);
  return h("details", { class: "call" },
    h("summary", {}, h("span", { class: "tool" }, name ?? "tool"),
      server ? h("span", { class: "muted" }, ` from ${server}`) : null, badge(state, tone)),
    h("h4", {}, "Arguments"), h("pre", { class: "streamed", tabindex: "0" }, pretty(input)),
    item.error ? [h("h4", {}, "Error"), h("pre", { tabindex: "0" }, errorText(item.error))] : null,
    output ? [h("h4", {}, "Output"), h("pre", { tabindex: "0" }, pretty(output))] : null);
}

/** The error of a call: the text of the tool, or JSON if it sent none. */
function errorText(error) {
  const text = Array.isArray(error.content) ? error.content.map((part) => part.text ?? "").join("\n") : "";
  return text || pretty(error);
}

function callState(item) {
  if (item.error || item.status === "failed") return ["bad", "failed"];
  if (["in_progress", "calling"].includes(item.status)) return ["fair", "running"];
  if (item.status === "incomplete") return ["bad", "incomplete"];
  if (item.type === "mcp_call") return ["good", "done"];
  return ["neutral", "called"];
}

function approval(item, onDecision) {
  const actions = h("div", { class: "actions" });
  const answer = (approve) => {
    actions.replaceChildren(badge(approve ? "approved" : "denied", approve ? "good" : "bad"));
    onDecision(item, approve);
  };
  if (item.answered === undefined) {
    actions.append(button("Approve", () => answer(true), { class: "primary", "aria-label": `Approve ${item.name}` }),
      button("Deny", () => answer(false), { "aria-label": `Deny ${item.name}` }));
  } else {
    actions.append(badge(item.answered ? "approved" : "denied", item.answered ? "good" : "bad"));
  }
  return h("section", { class: "approval", "aria-label": `Approval of ${item.name}` },
    h("p", {}, "The agent asks for your approval to call ", h("strong", {}, item.name),
      item.server_label ? ` from ${item.server_label}` : "", "."),
    h("pre", { tabindex: "0" }, pretty(item.arguments)), actions);
}

function jsonBlock(value) {
  return h("pre", { tabindex: "0" }, pretty(value));
}

/** JSON, indented; other text unchanged. */
function pretty(value) {
  if (value === null || value === undefined) return "";
  try {
    return JSON.stringify(typeof value === "string" ? JSON.parse(value) : value, null, 2);
  } catch {
    return asText(value);
  }
}

function asText(value) {
  return typeof value === "string" ? value : value?.message ?? JSON.stringify(value);
}

/** Text with code blocks, inline code and bold; all other markup stays as it was written. */
function formatted(text) {
  return text.split(/^```[^\n]*\n([\s\S]*?)^```[ \t]*$/m).map((part, index) => {
    if (index % 2) return h("pre", { tabindex: "0" }, h("code", {}, part.replace(/\n$/, "")));
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

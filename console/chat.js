// One session: its history, its open turn, and the form for new messages. The list of sessions is in sessions.js.

import { call, newIdempotencyKey } from "./api.js";
import { asyncButton, badge, confirm, count, dollars, h, notify, problem, relativeTime, spaced } from "./dom.js";
import { isInput, ItemView, responseIdOf, textOf } from "./items.js";
import { follow } from "./turn.js";

/** Items in one page of the history. */
const PAGE_ITEMS = 60;

/** Turns in one page of the history of a session without a conversation. */
const PAGE_TURNS = 10;

/** Characters of the first message that become the title of its session. */
const TITLE_CHARS = 60;

/** Distance from the end of the log, in pixels, at which the reader counts as being there: fractions and a border. */
const END_PX = 8;

/** A session on the page, until `signal`. `onChange(session)` is called when it was created or has a new turn. */
export class Chat {
  constructor(session, { models, signal, onChange, onDeleted }) {
    Object.assign(this, { session, signal, onChange });
    this.shownIds = new Set();
    /** Approval requests without a decision, and decisions that are not sent yet. */
    this.requests = new Map();
    this.decisions = new Map();
    this.turn = null;
    /** The turns of the history by the id of their response, so that one that two pages share is shown once. */
    this.turnViews = new Map();
    /** Whether the reader is at the end of the log, which then follows new text. */
    this.isAtEnd = true;

    this.title = h("h1", { tabindex: "-1" }, titleOf(session));
    this.facts = h("p", { class: "muted" }, ...factsOf(session));
    this.earlier = h("div", { class: "earlier" });
    this.log = h("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: "0" }, this.earlier);
    // Read when the reader scrolls, not when text arrives: new text alone moves the end away from the reader.
    this.log.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.log;
      this.isAtEnd = scrollHeight - scrollTop - clientHeight < END_PX;
    }, { passive: true });
    this.state = h("p", { class: "state", role: "status" });
    this.input = h("textarea", { rows: "1", placeholder: "Write to the agent", id: "message", enterkeyhint: "send" });
    this.model = h("select", { "aria-label": "Model" }, h("option", { value: "" }, "Default model"),
      ...models.map((name) => h("option", { value: name }, name)));
    this.submit = h("button", { type: "submit", class: "primary" }, "Send");
    this.cancel = asyncButton("Cancel", () => this.cancelTurn(), { class: "danger", hidden: true });
    const form = h("form", { class: "composer", onsubmit: (event) => this.submitMessage(event) },
      h("div", { class: "sheet" }, h("label", { for: "message", class: "hidden" }, "Message"), this.input,
        h("div", { class: "actions" }, this.model,
          h("small", { class: "hint" }, "Enter sends, Shift + Enter starts a new line"),
          this.cancel, this.submit)));
    this.input.addEventListener("keydown", (event) => this.handleKey(event, form));
    this.input.addEventListener("input", () => this.fitInput());
    this.delete = asyncButton("Delete", () => this.deleteSession(onDeleted), { class: "quiet", hidden: !session });
    this.element = h("section", { class: "chat", "aria-label": "Session" },
      h("header", { class: "chat-head" }, h("a", { class: "back", href: "#/sessions" }, "All sessions"),
        h("div", {}, this.title, this.facts), this.delete),
      this.log, this.state, form);
    if (!session) {
      this.log.append(h("p", { class: "empty" },
        "What should the agent do? It keeps working when you leave this page, and you can come back later."));
    }
  }

  /** Shows the history, and follows a turn that is still open. */
  async load() {
    if (!this.session) return;
    const { conversation, last_response: last } = this.session;
    this.showState("Loading…");
    try {
      if (conversation) await this.loadItems(null);
      else if (last) await this.loadTurns(last);
      this.showState("");
    } catch (error) {
      this.showState("");
      if (error.status === 404) {
        const owner = this.session.owner;
        error.advice = owner ? `Only the key “${owner}”, which owns the session, can read it.` : error.advice;
      }
      this.log.append(problem(error, () => this.reload()));
      return;
    }
    this.scrollToEnd(true);
    await this.resume();
  }

  reload() {
    this.log.replaceChildren(this.earlier);
    this.shownIds.clear();
    this.turnViews.clear();
    return this.load();
  }

  /** Loads a page of a conversation, the newest first. */
  async loadItems(after) {
    const query = `limit=${PAGE_ITEMS}&order=desc${after ? `&after=${after}` : ""}`;
    const list = await call("GET", `/v1/conversations/${this.session.conversation}/items?${query}`);
    this.prepend(list.data.toReversed());
    this.offerEarlier(list.has_more ? () => this.loadItems(list.last_id) : null);
  }

  /** Loads a page of turns that ends with the response `id`; each response names the one that it continues. */
  async loadTurns(id) {
    const items = [];
    for (let turns = 0; id && turns < PAGE_TURNS; turns += 1) {
      const response = await call("GET", `/v1/responses/${id}`);
      const { data } = await call("GET", `/v1/responses/${id}/input_items?order=asc&limit=100`);
      items.unshift(...data, ...response.output);
      id = response.previous_response_id;
    }
    this.prepend(items);
    this.offerEarlier(id ? () => this.loadTurns(id) : null);
  }

  offerEarlier(load) {
    this.earlier.replaceChildren(...(load ? [asyncButton("Show earlier messages", load)] : []));
  }

  /** Adds older items before all that are shown. */
  prepend(items) {
    const answers = items.filter((item) => item.type === "mcp_approval_response");
    const approvals = new Map(answers.map((item) => [item.approval_request_id, item.approve]));
    const views = [];
    /** The items of a turn of which later items are shown already. */
    const rest = [];
    let turn = null;
    for (const item of items.filter((item) => !this.shownIds.has(item.id))) {
      this.shownIds.add(item.id);
      const responseId = responseIdOf(item);
      const decided = approvals.has(item.id) ? { ...item, answered: approvals.get(item.id) } : item;
      if (isInput(item) || !responseId) {
        turn = null;
        views.push(this.view(decided).element);
      } else if (this.turnViews.has(responseId) && turn?.id !== responseId) {
        rest.push(decided);
      } else {
        if (turn?.id !== responseId) {
          turn = new TurnView(responseId, (item) => this.view(item));
          this.turnViews.set(responseId, turn);
          views.push(turn.element);
        }
        turn.show(decided);
      }
    }
    if (rest.length) this.turnViews.get(responseIdOf(rest[0])).prepend(rest);
    // Scrolled by the height of what was added, so that the text in view stays where it is.
    const fromEnd = this.log.scrollHeight - this.log.scrollTop;
    this.earlier.after(...views);
    this.log.scrollTop = this.log.scrollHeight - fromEnd;
    loadUsage(this.log, this.signal, () => this.scrollToEnd());
  }

  view(item) {
    if (item.type === "mcp_approval_request" && item.answered === undefined) this.requests.set(item.id, item);
    return new ItemView(item, (request, approve) => this.decide(request, approve));
  }

  /** Follows the turn that is still open, if there is one. */
  async resume() {
    const open = await this.findOpen();
    if (!open || this.turn || this.signal.aborted) return;
    try {
      const { data } = await call("GET", `/v1/responses/${open.id}/input_items?order=asc&limit=100`);
      this.prepend(data);
    } catch (error) {
      // A turn of another key can't be followed.
      if (error.status === 404) return;
    }
    await this.followTurn({ id: open.id });
  }

  /** The response that is still open, if there is one. */
  async findOpen() {
    const isOpen = ({ status }) => ["queued", "in_progress"].includes(status);
    try {
      const { responses } = await call("GET", `/v1/sessions/${this.session.id}`);
      return (responses ?? []).find(isOpen);
    } catch {
      // A key that can't read sessions can still read its last response.
    }
    const { last_response: last } = this.session;
    const response = last && await call("GET", `/v1/responses/${last}`).catch(() => null);
    return response && isOpen(response) ? response : null;
  }

  handleKey(event, form) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
    if (event.key === "Escape") this.input.blur();
  }

  fitInput() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight + 2}px`;
  }

  submitMessage(event) {
    event.preventDefault();
    const text = this.input.value.trim();
    if (!text) return;
    if (this.turn) {
      this.showState("The agent is still answering. Wait, or cancel the turn.");
      return;
    }
    this.input.value = "";
    this.fitInput();
    const items = [{ type: "message", role: "user", content: text }];
    this.sendItems(items).catch(notify);
  }

  /** Keeps a decision until all requests have one, then sends all together. */
  decide(request, approve) {
    this.decisions.set(request.id, approve);
    this.requests.delete(request.id);
    if (this.requests.size > 0) {
      this.showState(`${count(this.requests.size, "more approval request")} to decide.`);
      return;
    }
    const items = [...this.decisions]
      .map(([id, approve]) => ({ type: "mcp_approval_response", approval_request_id: id, approve }));
    this.decisions.clear();
    this.sendItems(items).catch(notify);
    this.input.focus();
  }

  /** Sends items as a new turn and follows it. */
  async sendItems(items) {
    this.log.querySelector(".empty")?.remove();
    for (const item of items) this.log.append(new ItemView(item).element);
    const body = { input: items, background: true, stream: true, store: true };
    if (this.model.value) body.model = this.model.value;
    await this.followTurn({ body, idempotencyKey: newIdempotencyKey() }, () => this.setSession(body, items));
  }

  /** Sets the session of a request, and creates one if there is none. */
  async setSession(body, items) {
    if (!this.session) {
      const title = textOf(items[0]).replace(/\s+/g, " ").slice(0, TITLE_CHARS);
      // Kept for a second try, which must not create a second conversation.
      this.conversationKey ??= newIdempotencyKey();
      const { id, metadata, created_at } =
        await call("POST", "/v1/conversations", { metadata: { title } }, { idempotencyKey: this.conversationKey });
      const session = { id: id.replace(/^conv_/, "sess_"), conversation: id, metadata, created_at,
        last_active_at: created_at, open_turns: 1, turns: 0 };
      this.show(session);
      this.delete.hidden = false;
      this.onChange(session);
    }
    if (this.session.conversation) body.conversation = this.session.conversation;
    else if (this.session.last_response) body.previous_response_id = this.session.last_response;
  }

  /** Follows a turn to its end: an open one by its `id`, or a new one by its `body`. `prepare` completes the body. */
  async followTurn(request, prepare = async () => {}) {
    // The stream starts with the turn's first item, so its items from the history would be shown twice.
    if (request.id) this.log.querySelectorAll(`[data-response="${request.id}"]`).forEach((turn) => turn.remove());
    const turn = new TurnView(request.id ?? null, (item) => this.view(item));
    this.turn = turn;
    turn.setBusy(true);
    this.log.append(turn.element);
    this.scrollToEnd(true);
    this.showState("Sent. Waiting for the agent.");
    this.cancel.hidden = false;
    this.submit.hidden = true;
    const onEvent = (event) => {
      if (event.type === "response.output_text.delta") this.showState("The agent is answering.");
      turn.apply(event);
      // With its id, a retry follows this turn instead of sending the request again.
      if (!request.id && turn.id) {
        request.id = turn.id;
        const turns = (this.session.turns ?? 0) + 1;
        this.show({ ...this.session, last_response: turn.id, open_turns: 1, turns });
        this.onChange(this.session);
      }
      this.scrollToEnd();
    };
    const onPause = (pause) => this.showState(pause > 0
      ? `The connection broke. The agent keeps working; reconnecting in ${Math.ceil(pause / 1000)} s.`
      : "The connection is back.");
    try {
      await prepare();
      await follow(request, { onEvent, onPause, signal: this.signal });
      this.showState(turn.outcome());
    } catch (error) {
      this.showState("");
      turn.element.append(problem(error, () => {
        turn.element.remove();
        this.followTurn(request, prepare).catch(notify);
      }));
    } finally {
      this.turn = null;
      this.cancel.hidden = true;
      this.submit.hidden = false;
      turn.setBusy(false);
    }
    // The user has left the session, so nothing of it is drawn any more.
    if (this.signal.aborted) return;
    this.scrollToEnd();
    if (turn.id) this.session = { ...this.session, open_turns: 0 };
    turn.views.forEach((view) => this.shownIds.add(view.item.id));
    loadUsage(this.log, this.signal, () => this.scrollToEnd());
    this.onChange(this.session);
  }

  /** Shows what is known of the session now. */
  show(session) {
    this.session = session;
    this.title.textContent = titleOf(session);
    this.facts.replaceChildren(...factsOf(session));
  }

  async cancelTurn() {
    this.showState("Cancelling…");
    // The node may hold the first event, and with it the id, until the model answers.
    for (let tries = 0; !this.turn?.id && tries < 40; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const id = this.turn?.id;
    if (!id) return;
    await call("POST", `/v1/responses/${id}/cancel`);
  }

  async deleteSession(onDeleted) {
    const question = "All of its messages are deleted permanently, on every node.";
    if (!await confirm("Delete this session?", question, "Delete")) return;
    await call("DELETE", `/v1/sessions/${this.session.id}`);
    onDeleted(this.session);
  }

  /** Scrolls to the newest text, unless the user has scrolled up to read. */
  scrollToEnd(always = false) {
    if (always) this.isAtEnd = true;
    if (this.isAtEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  showState(text) {
    if (this.state.textContent !== text) this.state.textContent = text;
  }
}

/** The title of a session. */
export function titleOf(session) {
  if (!session) return "New session";
  return session.metadata?.title || session.metadata?.name || `Session ${session.id.slice(5, 13)}`;
}

function factsOf(session) {
  if (!session) return ["Nothing is stored until you send a message."];
  const owner = session.owner ? `owned by ${session.owner}` : null;
  const turns = session.turns ? count(session.turns, "turn") : null;
  const facts = [owner, turns].filter(Boolean).flatMap((fact) => [fact, " · "]);
  return [...facts, "started ", relativeTime(session.created_at)];
}

/** A turn on the page: the items of its response, and its usage. */
class TurnView {
  constructor(id, view) {
    Object.assign(this, { id, view, status: null });
    this.views = new Map();
    this.items = h("div", {});
    this.footer = h("footer", { class: "usage" });
    this.element = h("section", { class: "turn", "aria-label": "Answer" }, this.items, this.footer);
    if (id) this.element.dataset.response = id;
  }

  setBusy(busy) {
    this.element.setAttribute("aria-busy", String(busy));
  }

  /** Shows an item after the others. */
  show(item, index = this.views.size) {
    const view = this.view(item);
    this.views.get(index)?.element.remove();
    this.views.set(index, view);
    this.items.append(view.element);
    return view;
  }

  /** Shows earlier items before the others. */
  prepend(items) {
    this.items.prepend(...items.map((item) => this.view(item).element));
  }

  /** Applies an event of the stream. Types that it does not know change nothing. */
  apply(event) {
    if (event.response?.id && !this.id) {
      this.id = event.response.id;
      this.element.dataset.response = this.id;
    }
    const view = this.views.get(event.output_index);
    switch (event.type) {
      case "response.output_item.added":
        this.dropIncomplete();
        this.show(event.item, event.output_index);
        break;
      case "response.output_item.done":
        if (view) view.set(event.item);
        else this.show(event.item, event.output_index);
        break;
      case "response.output_text.delta":
      case "response.refusal.delta":
      case "response.reasoning_text.delta":
      case "response.reasoning_summary_text.delta":
      case "response.function_call_arguments.delta":
      case "response.mcp_call_arguments.delta":
        view?.append(event.delta);
        break;
      case "response.mcp_call.in_progress":
      case "response.mcp_call.completed":
      case "response.mcp_call.failed":
        view?.setStatus(event.type.split(".").at(-1));
        break;
      case "response.completed":
      case "response.incomplete":
      case "response.failed":
        this.end(event.response);
        break;
      case "error":
        this.end({ status: "failed", error: event.error ?? event });
        break;
    }
  }

  /** Removes an item that broke off and could not be continued, because the next candidate starts it anew. */
  dropIncomplete() {
    for (const [index, { item, element }] of this.views) {
      if (item.status !== "incomplete" || item.type === "mcp_call") continue;
      element.remove();
      this.views.delete(index);
    }
  }

  /** Ends the turn with its complete response, which replaces the streamed items. */
  end(response) {
    if (response.output) {
      const known = new Map([...this.views.values()].map((view) => [view.item.id, view]));
      this.views.clear();
      for (const [index, item] of response.output.entries()) {
        const view = known.get(item.id) ?? this.view(item);
        view.set(item);
        this.views.set(index, view);
      }
      this.items.replaceChildren(...[...this.views.values()].map((view) => view.element));
    }
    this.status = response.status;
    this.element.dataset.hasUsage = "yes";
    showUsage(this.footer, response);
  }

  outcome() {
    const texts = { completed: "The answer is complete.", cancelled: "Cancelled.", failed: "The turn failed." };
    return texts[this.status] ?? "The answer is incomplete.";
  }
}

/** Loads the usage of each shown turn that has none yet. */
async function loadUsage(log, signal, onShown) {
  for (const turn of log.querySelectorAll(".turn[data-response]:not([data-has-usage])")) {
    if (signal.aborted) return;
    turn.dataset.hasUsage = "yes";
    try {
      showUsage(turn.querySelector("footer"), await call("GET", `/v1/responses/${turn.dataset.response}`));
      onShown();
    } catch {
      // The response was deleted or belongs to another key. Its items stay on the page.
    }
  }
}

function showUsage(footer, response) {
  const { usage, status, error } = response;
  const parts = [];
  if (status !== "completed") parts.push(badge(status, status === "failed" ? "bad" : "fair"));
  if (error) parts.push(h("span", { class: "error" }, error.message ?? "The cause is unknown."));
  const reason = response.incomplete_details?.reason;
  if (reason) parts.push(`reason: ${spaced(reason)}`);
  if (response.model) parts.push(response.model);
  if (usage) {
    const cached = usage.input_tokens_details?.cached_tokens;
    const input = `${count(usage.input_tokens, "token")} in${cached ? ` (${cached} cached)` : ""}`;
    parts.push(`${input}, ${usage.output_tokens} out`);
  }
  const cost = costOf(response);
  if (cost) parts.push(cost);
  footer.replaceChildren(...parts.map((part) => (typeof part === "string" ? h("span", {}, part) : part)));
}

/** The cost of a response as the node states it; null if it is unknown. */
function costOf(response) {
  const cost = response["x-outlive"]?.cost_usd;
  return cost === undefined || cost === null ? null : dollars(cost);
}

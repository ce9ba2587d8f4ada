// One session: what was said, what is being said, and a place to say more.

import { call, idempotency } from "./api.js";
import { action, badge, button, confirm, count, dollars, h, moment, problem, tell } from "./dom.js";
import { isInput, ItemView, maker, textOf } from "./items.js";
import { follow } from "./turn.js";

/** Items of one page of the past. */
const PAGE = 60;

/** Turns that are walked back where a session is no conversation. */
const WALK = 10;

/** Characters of a message that name its session. */
const TITLE_CHARS = 60;

/** A session on the page. `signal` ends it; `onGrown(session)` is called when it was made or has grown. */
export class Chat {
  constructor(session, { models, signal, onGrown, onDeleted }) {
    Object.assign(this, { session, signal, onGrown });
    this.shown = new Set();
    this.requests = new Map();
    this.decisions = new Map();
    this.turn = null;

    this.title = h("h1", { tabindex: "-1" }, titleOf(session));
    this.facts = h("p", { class: "muted" }, ...factsOf(session));
    this.earlier = h("div", { class: "earlier" });
    this.log = h("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: "0" }, this.earlier);
    this.state = h("p", { class: "state", role: "status" });
    this.input = h("textarea", { rows: "1", placeholder: "Write to the agent", id: "message", enterkeyhint: "send" });
    this.model = h("select", { "aria-label": "Model" }, h("option", { value: "" }, "The agent's model"),
      ...models.map((name) => h("option", { value: name }, name)));
    this.submit = h("button", { type: "submit", class: "primary" }, "Send");
    this.cancel = action("Cancel", () => this.stop(), { class: "danger", hidden: true });
    const form = h("form", { class: "composer", onsubmit: (event) => this.write(event) },
      h("div", { class: "sheet" }, h("label", { for: "message", class: "hidden" }, "Message"), this.input,
        h("div", { class: "actions" }, this.model, h("small", { class: "hint" }, "Enter sends, Shift + Enter begins a line"),
          this.cancel, this.submit)));
    this.input.addEventListener("keydown", (event) => this.press(event, form));
    this.input.addEventListener("input", () => this.fit());
    this.delete = action("Delete", () => this.remove(onDeleted), { class: "quiet", hidden: !session });
    this.element = h("section", { class: "chat", "aria-label": "Session" },
      h("header", { class: "chat-head" }, h("a", { class: "back", href: "#/sessions" }, "All sessions"),
        h("div", {}, this.title, this.facts), this.delete),
      this.log, this.state, form);
    if (!session) this.log.append(h("p", { class: "empty" }, "What shall the agent do? It goes on with its work when you leave, and you can come back to it."));
  }

  /** Shows what was said so far, and goes on with what is being said. */
  async load() {
    if (!this.session) return;
    const { conversation, last_response: last } = this.session;
    this.say("Loading…");
    try {
      if (conversation) await this.page(null);
      else if (last) await this.walk(last);
      this.say("");
    } catch (error) {
      this.say("");
      if (error.status === 404) {
        const owner = this.session.owner;
        error.advice = owner ? `Only its owner, the key “${owner}”, may read it here.` : error.advice;
      }
      this.log.append(problem(error, () => this.reload()));
      return;
    }
    this.log.scrollTop = this.log.scrollHeight;
    await this.resume();
  }

  reload() {
    this.log.replaceChildren(this.earlier);
    this.shown.clear();
    return this.load();
  }

  /** A page of a conversation, the newest first. */
  async page(after) {
    const query = `limit=${PAGE}&order=desc${after ? `&after=${after}` : ""}`;
    const list = await call("GET", `/v1/conversations/${this.session.conversation}/items?${query}`);
    this.history(list.data.toReversed());
    this.more(list.has_more ? () => this.page(list.last_id) : null);
  }

  /** The turns before `id`, each of which names the one before it. */
  async walk(id) {
    const items = [];
    for (let turns = 0; id && turns < WALK; turns += 1) {
      const response = await call("GET", `/v1/responses/${id}`);
      const { data } = await call("GET", `/v1/responses/${id}/input_items?order=asc&limit=100`);
      items.unshift(...data, ...response.output);
      id = response.previous_response_id;
    }
    this.history(items);
    this.more(id ? () => this.walk(id) : null);
  }

  more(load) {
    this.earlier.replaceChildren(...(load ? [action("Show what was before", load)] : []));
  }

  /** Shows items that are older than all that are shown. */
  history(items) {
    const answers = items.filter((item) => item.type === "mcp_approval_response");
    const answered = new Map(answers.map((item) => [item.approval_request_id, item.approve]));
    const views = [];
    let turn = null;
    for (const item of items.filter((item) => !this.shown.has(item.id))) {
      this.shown.add(item.id);
      const by = maker(item);
      const whole = answered.has(item.id) ? { ...item, answered: answered.get(item.id) } : item;
      if (isInput(item) || !by) {
        turn = null;
        views.push(this.view(whole).element);
      } else {
        if (turn?.id !== by) {
          turn = new TurnView(by, (item) => this.view(item));
          views.push(turn.element);
        }
        turn.show(whole);
      }
    }
    const before = this.log.scrollHeight - this.log.scrollTop;
    this.earlier.after(...views);
    this.log.scrollTop = this.log.scrollHeight - before;
    account(this.log, this.signal);
  }

  view(item) {
    if (item.type === "mcp_approval_request" && item.answered === undefined) this.requests.set(item.id, item);
    return new ItemView(item, (request, approve) => this.decide(request, approve));
  }

  /** Takes up a turn that is not over. */
  async resume() {
    const open = await this.open();
    if (!open || this.turn || this.signal.aborted) return;
    try {
      const { data } = await call("GET", `/v1/responses/${open.id}/input_items?order=asc&limit=100`);
      this.history(data);
    } catch (error) {
      // The turn of another key can't be followed.
      if (error.status === 404) return;
    }
    await this.run({ id: open.id });
  }

  /** The turn that is not over, if there is one. */
  async open() {
    const goesOn = ({ status }) => ["queued", "in_progress"].includes(status);
    try {
      const { responses } = await call("GET", `/v1/sessions/${this.session.id}`);
      return (responses ?? []).find(goesOn);
    } catch {
      // Without the right to look, only what this tab began is known.
    }
    const { last_response: last } = this.session;
    const response = last && await call("GET", `/v1/responses/${last}`).catch(() => null);
    return response && goesOn(response) ? response : null;
  }

  press(event, form) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
    if (event.key === "Escape") this.input.blur();
  }

  fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight + 2}px`;
  }

  write(event) {
    event.preventDefault();
    const text = this.input.value.trim();
    if (!text) return;
    if (this.turn) {
      this.say("The agent is still answering. Wait for it, or cancel.");
      return;
    }
    this.input.value = "";
    this.fit();
    const items = [{ type: "message", role: "user", content: text }];
    this.begin(items).catch(tell);
  }

  /** Keeps a decision; when nothing is left to decide, all go to the agent together. */
  decide(request, approve) {
    this.decisions.set(request.id, approve);
    this.requests.delete(request.id);
    if (this.requests.size > 0) {
      this.say(`${count(this.requests.size, "more request")} to decide.`);
      return;
    }
    const items = [...this.decisions].map(([id, approve]) => ({ type: "mcp_approval_response", approval_request_id: id, approve }));
    this.decisions.clear();
    this.begin(items).catch(tell);
    this.input.focus();
  }

  /** Sends items, and shows what comes of them. */
  async begin(items) {
    this.log.querySelector(".empty")?.remove();
    for (const item of items) this.log.append(new ItemView(item).element);
    const body = { input: items, background: true, stream: true, store: true };
    if (this.model.value) body.model = this.model.value;
    await this.run({ body, idempotency: idempotency() }, () => this.place(body, items));
  }

  /** Says in which session a request belongs, and makes one if there is none. */
  async place(body, items) {
    if (!this.session) {
      const title = textOf(items[0]).replace(/\s+/g, " ").slice(0, TITLE_CHARS);
      this.made ??= idempotency();
      const made = await call("POST", "/v1/conversations", { metadata: { title } }, { idempotency: this.made });
      const session = { id: made.id.replace(/^conv_/, "sess_"), conversation: made.id, metadata: made.metadata,
        created_at: made.created_at, last_active_at: made.created_at, open_turns: 1 };
      this.session = session;
      this.title.textContent = titleOf(session);
      this.facts.replaceChildren(...factsOf(session));
      this.delete.hidden = false;
      this.onGrown(session);
    }
    if (this.session.conversation) body.conversation = this.session.conversation;
    else if (this.session.last_response) body.previous_response_id = this.session.last_response;
  }

  /** Follows a turn to its end. */
  async run(asked, prepare = async () => {}) {
    // What is known of it already is in its stream again.
    if (asked.id) this.log.querySelectorAll(`[data-response="${asked.id}"]`).forEach((turn) => turn.remove());
    const turn = new TurnView(asked.id ?? null, (item) => this.view(item));
    this.turn = turn;
    turn.busy(true);
    this.log.append(turn.element);
    this.reveal(true);
    this.say("Sent; waiting for the agent.");
    this.cancel.hidden = false;
    this.submit.hidden = true;
    const onEvent = (event) => {
      if (event.type === "response.output_text.delta") this.say("The agent is answering.");
      turn.take(event);
      if (!asked.id && turn.id) {
        asked.id = turn.id;
        this.session = { ...this.session, last_response: turn.id, open_turns: 1 };
        this.onGrown(this.session);
      }
      this.reveal();
    };
    const onWait = (pause) => this.say(pause > 0
      ? `The connection broke. The agent goes on; trying again in ${Math.ceil(pause / 1000)} s.`
      : "The connection is back.");
    try {
      await prepare();
      await follow(asked, { onEvent, onWait, signal: this.signal });
      this.say(turn.outcome());
    } catch (error) {
      this.say("");
      turn.element.append(problem(error, () => {
        turn.element.remove();
        this.run(asked, prepare).catch(tell);
      }));
    } finally {
      this.turn = null;
      this.cancel.hidden = true;
      this.submit.hidden = false;
      turn.busy(false);
    }
    if (this.signal.aborted) return;
    this.reveal();
    if (turn.id) this.session = { ...this.session, open_turns: 0 };
    turn.views.forEach((view) => this.shown.add(view.item.id));
    account(this.log, this.signal);
    this.onGrown(this.session);
  }

  async stop() {
    const id = this.turn?.id;
    if (!id) return;
    this.say("Cancelling…");
    await call("POST", `/v1/responses/${id}/cancel`);
  }

  async remove(onDeleted) {
    const sure = await confirm("Delete this session?", "All that was said in it is deleted for good, on every node.", "Delete");
    if (!sure) return;
    await call("DELETE", `/v1/sessions/${this.session.id}`);
    onDeleted(this.session);
  }

  /** Keeps the newest in sight, unless its user reads what was before. */
  reveal(always = false) {
    const { scrollHeight, scrollTop, clientHeight } = this.log;
    if (always || scrollHeight - scrollTop - clientHeight < 160) this.log.scrollTop = scrollHeight;
  }

  say(words) {
    if (this.state.textContent !== words) this.state.textContent = words;
  }
}

/** What a session is called. */
export function titleOf(session) {
  if (!session) return "New session";
  return session.metadata?.title || session.metadata?.name || `Session ${session.id.slice(5, 13)}`;
}

function factsOf(session) {
  if (!session) return ["Nothing is kept until you send something."];
  const facts = [session.owner ? `of ${session.owner}` : null, session.turns ? count(session.turns, "turn") : null];
  return [...facts.filter(Boolean).flatMap((fact) => [fact, " · "]), "begun ", moment(session.created_at)];
}

/** A turn on the page: what the agent made, and what that took. */
class TurnView {
  constructor(id, view) {
    Object.assign(this, { id, view, status: null });
    this.views = new Map();
    this.items = h("div", {});
    this.footer = h("footer", { class: "took" });
    this.element = h("section", { class: "turn", "aria-label": "Answer" }, this.items, this.footer);
    if (id) this.element.dataset.response = id;
  }

  busy(busy) {
    this.element.setAttribute("aria-busy", String(busy));
  }

  /** Shows an item after the others. */
  show(item, place = this.views.size) {
    const view = this.view(item);
    this.views.get(place)?.element.remove();
    this.views.set(place, view);
    this.items.append(view.element);
    return view;
  }

  /** Takes an event of the stream in. */
  take(event) {
    if (event.response?.id && !this.id) {
      this.id = event.response.id;
      this.element.dataset.response = this.id;
    }
    const view = this.views.get(event.output_index);
    switch (event.type) {
      case "response.output_item.added":
        this.dropTakenBack();
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
        view?.add(event.delta);
        break;
      case "response.mcp_call.in_progress":
      case "response.mcp_call.completed":
      case "response.mcp_call.failed":
        view?.mark(event.type.split(".").at(-1));
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

  /** What was broken off and could not be continued is said anew: it must not stand there twice. */
  dropTakenBack() {
    for (const [place, { item, element }] of this.views) {
      if (item.status !== "incomplete" || item.type === "mcp_call") continue;
      element.remove();
      this.views.delete(place);
    }
  }

  /** The whole answer, which counts more than the pieces it came in. */
  end(response) {
    if (response.output) {
      const known = new Map([...this.views.values()].map((view) => [view.item.id, view]));
      this.views.clear();
      for (const [place, item] of response.output.entries()) {
        const view = known.get(item.id) ?? this.view(item);
        view.set(item);
        this.views.set(place, view);
      }
      this.items.replaceChildren(...[...this.views.values()].map((view) => view.element));
    }
    this.status = response.status;
    this.element.dataset.accounted = "yes";
    took(this.footer, response);
  }

  outcome() {
    const words = { completed: "The answer is complete.", cancelled: "Cancelled.", failed: "The turn failed." };
    return words[this.status] ?? "The answer is not complete.";
  }
}

/** Writes under each turn that is shown what it took. */
async function account(log, signal) {
  for (const turn of log.querySelectorAll(".turn[data-response]:not([data-accounted])")) {
    if (signal.aborted) return;
    turn.dataset.accounted = "yes";
    try {
      took(turn.querySelector("footer"), await call("GET", `/v1/responses/${turn.dataset.response}`));
    } catch {
      // It was deleted, or is another key's: what it said stays.
    }
  }
}

async function took(footer, response) {
  const { usage, status, error } = response;
  const parts = [];
  if (status !== "completed") parts.push(badge(status === "incomplete" ? "cut short" : status, status === "failed" ? "bad" : "fair"));
  if (error) parts.push(h("span", { class: "error" }, error.message ?? "It is not known why."));
  const reason = response.incomplete_details?.reason;
  if (reason) parts.push(`because of ${reason.replaceAll("_", " ")}`);
  if (response.model) parts.push(response.model);
  if (usage) {
    const cached = usage.input_tokens_details?.cached_tokens;
    parts.push(`${count(usage.input_tokens, "token")} in${cached ? ` (${cached} cached)` : ""}, ${usage.output_tokens} out`);
  }
  const cost = costOf(response);
  if (cost) parts.push(cost);
  footer.replaceChildren(...parts.map((part) => (typeof part === "string" ? h("span", {}, part) : part)));
}

/** What a response cost, as the node says; null where it does not know. */
function costOf(response) {
  const cost = response["x-outlive"]?.cost_usd;
  return cost === undefined || cost === null ? null : dollars(cost);
}

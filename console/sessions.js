// The part “Sessions”: the list, and one session beside it.

import { call } from "./api.js";
import { action, badge, count, h, moment, problem, tell } from "./dom.js";
import { Chat, titleOf } from "./chat.js";

/** The most that the API gives at once. */
const PAGE = 100;

/** Pages that are loaded unasked: the API gives sessions in no order of time, so the newest may be on any. */
const PAGES = 10;

const BEGUN = "outlive.sessions";

/** Sessions that this tab began, for keys that may not list all. */
const begun = {
  list: () => JSON.parse(sessionStorage.getItem(BEGUN) ?? "[]"),
  put: (session) => {
    const others = begun.list().filter(({ id }) => id !== session.id);
    sessionStorage.setItem(BEGUN, JSON.stringify([session, ...others].slice(0, PAGE)));
  },
  remove: ({ id }) => {
    sessionStorage.setItem(BEGUN, JSON.stringify(begun.list().filter((session) => session.id !== id)));
  },
};

/** Shows the part in `main`; gives what opens a session in it. */
export function sessions(main, signal) {
  const known = new Map();
  let models = [];
  let next = null;
  let mayList = true;
  let open = null;
  let closing = new AbortController();
  signal.addEventListener("abort", () => closing.abort());

  const list = h("ul", { class: "rows" });
  const note = h("div", {});
  const more = action("More", () => loadOn(), { hidden: true });
  const pane = h("div", { class: "pane" });
  const split = h("div", { class: "split" },
    h("section", { class: "side", "aria-label": "Sessions" },
      action("Skip the list", () => pane.querySelector("#message")?.focus(), { class: "skip" }),
      h("header", {}, h("h2", {}, "Sessions"), h("a", { class: "button primary", href: "#/sessions/new" }, "New session")),
      note, list, more),
    pane);
  main.replaceChildren(split);

  async function load(after) {
    try {
      const query = `limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ""}`;
      const page = await call("GET", `/v1/sessions?${query}`, undefined, { signal });
      for (const session of page.data) known.set(session.id, session);
      next = page.has_more ? page.next : null;
      note.replaceChildren();
    } catch (error) {
      if (signal.aborted) return;
      mayList = false;
      for (const session of begun.list()) known.set(session.id, session);
      note.replaceChildren(error.isAbsent
        ? h("p", { class: "note" }, error.status === 403
          ? "This key may not list sessions: that needs the scope “admin”. What you begin in this tab stands here."
          : "This node does not list sessions. What you begin in this tab stands here.")
        : problem(error, () => load(after)));
    }
    draw();
  }

  async function loadOn() {
    more.hidden = true;
    for (let page = 0; next && page < PAGES && !signal.aborted; page += 1) {
      const after = next;
      await load(after);
      // It could not be loaded; what went wrong is said above the list.
      if (next === after) return;
    }
    more.hidden = !next;
  }

  function draw() {
    const newest = [...known.values()].sort((a, b) => (b.last_active_at ?? 0) - (a.last_active_at ?? 0));
    list.replaceChildren(...newest.map((session) => h("li", {},
      h("a", { href: `#/sessions/${session.id}`, "aria-current": session.id === open ? "page" : null },
        h("span", { class: "title" }, titleOf(session)),
        h("span", { class: "muted" }, moment(session.last_active_at), session.turns ? ` · ${count(session.turns, "turn")}` : null,
          session.owner ? ` · ${session.owner}` : null),
        session.open_turns > 0 ? badge("at work", "fair") : null))));
    if (!newest.length && !note.childElementCount) list.replaceChildren(h("li", { class: "empty" }, "There are no sessions yet."));
  }

  function onGrown(session) {
    begun.put({ ...session, last_active_at: Date.now() / 1000 });
    known.set(session.id, { ...known.get(session.id), ...session, last_active_at: Date.now() / 1000 });
    if (open !== session.id) {
      open = session.id;
      history.replaceState(null, "", `#/sessions/${session.id}`);
    }
    draw();
    if (mayList && !session.open_turns) {
      call("GET", `/v1/sessions/${session.id}`, undefined, { signal })
        .then((fresh) => { known.set(fresh.id, fresh); draw(); })
        .catch(() => {});
    }
  }

  function onDeleted(session) {
    begun.remove(session);
    known.delete(session.id);
    tell("The session is deleted.");
    location.hash = "#/sessions";
  }

  async function find(id) {
    if (known.has(id)) return known.get(id);
    try {
      const session = await call("GET", `/v1/sessions/${id}`, undefined, { signal });
      known.set(id, session);
      draw();
      return session;
    } catch (error) {
      if (!error.isAbsent) throw error;
      return { id, conversation: id.replace(/^sess_/, "conv_"), metadata: {} };
    }
  }

  /** Opens the session `id`; a new one for `new`, or for nothing. */
  async function show(id, byUser) {
    if (id && id === open) return;
    closing.abort();
    closing = new AbortController();
    open = id && id !== "new" ? id : null;
    split.classList.toggle("opened", Boolean(id));
    await loaded;
    draw();
    const here = closing.signal;
    let session = null;
    try {
      session = open ? await find(id) : null;
    } catch (error) {
      if (!here.aborted) pane.replaceChildren(h("div", { class: "page" }, problem(error, () => { open = null; return show(id, byUser); })));
      return;
    }
    if (here.aborted) return;
    const chat = new Chat(session, { models, signal: here, onGrown, onDeleted });
    pane.replaceChildren(chat.element);
    // On a phone the focus would open the keyboard over what is to be read.
    if (byUser) (matchMedia("(min-width: 700px)").matches ? chat.input : chat.title).focus({ preventScroll: true });
    await chat.load();
  }

  const loaded = Promise.all([
    load(null),
    call("GET", "/v1/models", undefined, { signal }).then(({ data }) => { models = data.map(({ id }) => id); }).catch(() => {}),
  ]);
  loaded.then(loadOn);
  return show;
}

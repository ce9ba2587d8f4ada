// The page “Sessions”: the list of sessions, and the selected one beside it. chat.js draws that one.

import { call } from "./api.js";
import { asyncButton, badge, count, h, notify, problem, relativeTime } from "./dom.js";
import { Chat, titleOf } from "./chat.js";

/** Most sessions in one page of the API. */
const PAGE_SIZE = 100;

/** Pages that load by themselves: the API does not order sessions by time, so the newest may be on any page. */
const MAX_AUTO_PAGES = 10;

const STORAGE_KEY = "outlive.sessions";

/** Sessions that were started in this tab, for keys that can't list sessions. */
const tabSessions = {
  list: () => JSON.parse(sessionStorage.getItem(STORAGE_KEY) ?? "[]"),
  put: (session) => {
    const others = tabSessions.list().filter(({ id }) => id !== session.id);
    sessionStorage.setItem(STORAGE_KEY, JSON.stringify([session, ...others].slice(0, PAGE_SIZE)));
  },
  remove: ({ id }) => {
    sessionStorage.setItem(STORAGE_KEY, JSON.stringify(tabSessions.list().filter((session) => session.id !== id)));
  },
};

/** Shows the page in `main` and returns a function that opens a session in it. */
export function sessions(main, signal) {
  const byId = new Map();
  let models = [];
  let nextPage = null;
  let canList = true;
  let openId = null;
  let chat = null;
  let sessionAbort = new AbortController();
  signal.addEventListener("abort", () => sessionAbort.abort());

  const list = h("ul", { class: "rows" });
  const note = h("div", {});
  const more = asyncButton("Load more", () => loadRest(), { hidden: true });
  const pane = h("div", { class: "pane" });
  const split = h("div", { class: "split" },
    h("section", { class: "side", "aria-label": "Sessions" },
      asyncButton("Skip the list", () => pane.querySelector("#message")?.focus(), { class: "skip" }),
      h("header", {}, h("h2", {}, "Sessions"),
        h("a", { class: "button primary", href: "#/sessions/new" }, "New session")),
      note, list, more),
    pane);
  main.replaceChildren(split);

  async function load(after) {
    try {
      const query = `limit=${PAGE_SIZE}${after ? `&after=${encodeURIComponent(after)}` : ""}`;
      const page = await call("GET", `/v1/sessions?${query}`, undefined, { signal });
      for (const session of page.data) byId.set(session.id, session);
      nextPage = page.has_more ? page.next : null;
      note.replaceChildren();
    } catch (error) {
      if (signal.aborted) return;
      canList = false;
      for (const session of tabSessions.list()) byId.set(session.id, session);
      note.replaceChildren(error.isAbsent
        ? h("p", { class: "note" }, error.status === 403
          ? "This key can't list sessions: it needs the scope “admin”. Here are those started in this tab."
          : "This node does not list sessions. Here are those started in this tab.")
        : problem(error, () => load(after)));
    }
    render();
  }

  /** Loads further pages, so that the newest sessions come first in the list. */
  async function loadRest() {
    more.hidden = true;
    for (let page = 0; nextPage && page < MAX_AUTO_PAGES && !signal.aborted; page += 1) {
      const after = nextPage;
      await load(after);
      // The page could not be loaded; the error is shown above the list.
      if (nextPage === after) return;
    }
    more.hidden = !nextPage;
  }

  function render() {
    const newest = [...byId.values()].sort((a, b) => (b.last_active_at ?? 0) - (a.last_active_at ?? 0));
    list.replaceChildren(...newest.map((session) => h("li", {},
      h("a", { href: `#/sessions/${session.id}`, "aria-current": session.id === openId ? "page" : null },
        h("span", { class: "title" }, titleOf(session)),
        h("span", { class: "muted" }, relativeTime(session.last_active_at),
          session.turns ? ` · ${count(session.turns, "turn")}` : null,
          session.owner ? ` · ${session.owner}` : null),
        session.open_turns > 0 ? badge("running", "fair") : null))));
    if (!newest.length && !note.childElementCount) {
      list.replaceChildren(h("li", { class: "empty" }, "There are no sessions yet."));
    }
  }

  function onChange(session) {
    tabSessions.put({ ...session, last_active_at: Date.now() / 1000 });
    byId.set(session.id, { ...byId.get(session.id), ...session, last_active_at: Date.now() / 1000 });
    if (openId !== session.id) {
      openId = session.id;
      history.replaceState(null, "", `#/sessions/${session.id}`);
    }
    render();
    if (canList && !session.open_turns) {
      call("GET", `/v1/sessions/${session.id}`, undefined, { signal })
        .then((current) => {
          byId.set(current.id, current);
          render();
          // A turn that began since then is counted by the chat itself.
          if (chat?.session?.id === current.id && !chat.turn) chat.show(current);
        })
        .catch(() => {});
    }
  }

  function onDeleted(session) {
    tabSessions.remove(session);
    byId.delete(session.id);
    notify("The session was deleted.");
    location.hash = "#/sessions";
  }

  async function find(id) {
    if (byId.has(id)) return byId.get(id);
    try {
      const session = await call("GET", `/v1/sessions/${id}`, undefined, { signal });
      byId.set(id, session);
      render();
      return session;
    } catch (error) {
      if (!error.isAbsent) throw error;
      return { id, conversation: id.replace(/^sess_/, "conv_"), metadata: {} };
    }
  }

  /** Opens the session `id`; a new one for `new` or no id. */
  async function show(id, byUser) {
    if (id && id === openId) return;
    sessionAbort.abort();
    sessionAbort = new AbortController();
    openId = id && id !== "new" ? id : null;
    split.classList.toggle("opened", Boolean(id));
    await loaded;
    render();
    const closed = sessionAbort.signal;
    let session = null;
    try {
      session = openId ? await find(id) : null;
    } catch (error) {
      const retry = () => { openId = null; return show(id, byUser); };
      if (!closed.aborted) pane.replaceChildren(h("div", { class: "page" }, problem(error, retry)));
      return;
    }
    if (closed.aborted) return;
    chat = new Chat(session, { models, signal: closed, onChange, onDeleted });
    pane.replaceChildren(chat.element);
    // On a phone the focus would open the keyboard over the text.
    if (byUser) (matchMedia("(min-width: 700px)").matches ? chat.input : chat.title).focus({ preventScroll: true });
    await chat.load();
  }

  const loaded = Promise.all([
    load(null),
    // Without the list, the default model can still be used.
    call("GET", "/v1/models", undefined, { signal })
      .then(({ data }) => { models = data.map(({ id }) => id); })
      .catch(() => {}),
  ]);
  loaded.then(loadRest);
  return show;
}

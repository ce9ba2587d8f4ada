// The start of the console: asks for the key, and shows the page that the address names. Each page is in its own file.

import { call, key } from "./api.js";
import { button, dialog, field, h, problem } from "./dom.js";
import { schedules } from "./schedules.js";
import { sessions } from "./sessions.js";
import { status } from "./status.js";

const main = document.getElementById("main");
const TITLES = { sessions: "Sessions", schedules: "Schedules", providers: "Providers" };

/** The name of the page that is shown; `pageAbort` ends its requests and timers. */
let page = null;
let pageAbort = new AbortController();

/** Opens a session in the page “Sessions”; null on other pages. */
let showSession = null;

/** Shows the page that the address names, and there the session that it names. */
async function route(byUser) {
  const [, segment = "sessions", id] = location.hash.split("/");
  const name = segment in TITLES ? segment : "sessions";
  if (name !== page) {
    pageAbort.abort();
    pageAbort = new AbortController();
    page = name;
    showSession = null;
    document.title = `${TITLES[name]} · Outlive`;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (name === "sessions") showSession = sessions(main, pageAbort.signal);
    if (name === "schedules") schedules(main, pageAbort.signal);
    if (name === "providers") status(main, pageAbort.signal);
    if (byUser) main.querySelector("h1")?.focus();
  }
  if (name === "sessions") await showSession(id, byUser);
}

/** Opens the dialog for the key, with the error of the last one. */
function askKey(error) {
  const input = h("input", {
    type: "password", autocomplete: "current-password", value: key.get(), spellcheck: "false",
  });
  const form = dialog("Your key",
    h("p", {}, "The node needs a key from its configuration. This tab keeps the key until you close it."),
    error ? problem(error) : null,
    h("form", {
      onsubmit: (event) => {
        event.preventDefault();
        key.set(input.value.trim());
        form.close();
        start();
      },
    }, field("Key", input), h("div", { class: "actions" }, button("Close", () => form.close()),
      h("button", { type: "submit", class: "primary" }, "Use this key"))));
}

/** Checks the key with the cheapest request, then shows the page; asks for a key if the node denies it. */
async function start() {
  page = null;
  pageAbort.abort();
  try {
    await call("GET", "/v1/models");
  } catch (error) {
    if (error.status === 401) {
      main.replaceChildren(h("div", { class: "page" },
        problem(error), button("Enter a key", () => askKey(), { class: "primary" })));
      askKey(key.get() ? error : null);
      return;
    }
    // A key with the scope “admin” alone can't list models, but can read some pages.
    if (error.status !== 403) {
      main.replaceChildren(h("div", { class: "page" }, problem(error, start)));
      return;
    }
  }
  await route(false);
}

document.getElementById("key").addEventListener("click", () => askKey());
document.querySelector(".skip").addEventListener("click", (event) => {
  // The link's target would replace the page that the address names.
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => route(true));
start();

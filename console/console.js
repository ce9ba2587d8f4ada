// The page: which part is shown, and the key.

import { call, key } from "./api.js";
import { button, dialog, field, h, problem } from "./dom.js";
import { schedules } from "./schedules.js";
import { sessions } from "./sessions.js";
import { status } from "./status.js";

const main = document.getElementById("main");
const TITLES = { sessions: "Sessions", schedules: "Schedules", providers: "Providers" };

let part = null;
let leaving = new AbortController();
let showSession = null;

/** Shows what the address names. */
async function route(byUser) {
  const [, name = "sessions", id] = location.hash.split("/");
  const wanted = name in TITLES ? name : "sessions";
  if (wanted !== part) {
    leaving.abort();
    leaving = new AbortController();
    part = wanted;
    showSession = null;
    document.title = `${TITLES[wanted]} · Outlive`;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#/${wanted}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (wanted === "sessions") showSession = sessions(main, leaving.signal);
    if (wanted === "schedules") schedules(main, leaving.signal);
    if (wanted === "providers") status(main, leaving.signal);
    if (byUser) main.querySelector("h1")?.focus();
  }
  if (wanted === "sessions") await showSession(id, byUser);
}

/** Asks for the key, which stays in this tab. */
function askKey(error) {
  const input = h("input", { type: "password", autocomplete: "current-password", value: key.get(), spellcheck: "false" });
  const asked = dialog("Your key",
    h("p", {}, "The node answers whoever has a key of its configuration. It is kept in this tab only, until you close it."),
    error ? problem(error) : null,
    h("form", {
      onsubmit: (event) => {
        event.preventDefault();
        key.set(input.value.trim());
        asked.close();
        start();
      },
    }, field("Key", input), h("div", { class: "actions" }, button("Close", () => asked.close()),
      h("button", { type: "submit", class: "primary" }, "Use this key"))));
}

/** Looks whether the node lets this page in, and shows it. */
async function start() {
  part = null;
  leaving.abort();
  try {
    await call("GET", "/v1/models");
  } catch (error) {
    if (error.status === 401) {
      main.replaceChildren(h("div", { class: "page" }, problem(error), button("Enter a key", () => askKey(), { class: "primary" })));
      askKey(key.get() ? error : null);
      return;
    }
    // A key for the status only may not list models, and yet see some of it.
    if (error.status !== 403) {
      main.replaceChildren(h("div", { class: "page" }, problem(error, start)));
      return;
    }
  }
  await route(false);
}

document.getElementById("key").addEventListener("click", () => askKey());
document.querySelector(".skip").addEventListener("click", (event) => {
  // The address names the part that is shown, so it must not change.
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => route(true));
start();

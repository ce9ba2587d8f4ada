// How elements are made, and how times and amounts are written.

/**
 * Makes an element. Attributes that begin with `on` are listeners; `null` and `false` are left out. Children are
 * elements or text, and text stays text whatever it holds.
 */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A button with words on it. */
export function button(words, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, words);
}

/** A button that can't be pressed again while what it began goes on; errors are told. */
export function action(words, run, attributes = {}) {
  const made = button(words, async () => {
    made.setAttribute("aria-disabled", "true");
    try {
      await run();
    } catch (error) {
      tell(error);
    } finally {
      made.removeAttribute("aria-disabled");
    }
  }, attributes);
  // Disabling it would take the focus away from whoever uses the keyboard.
  made.addEventListener("click", (event) => {
    if (made.hasAttribute("aria-disabled")) event.stopImmediatePropagation();
  }, { capture: true });
  return made;
}

/** A field with its label. */
export function field(label, input, hint) {
  return h("label", { class: "field" }, h("span", {}, label), input, hint ? h("small", {}, hint) : null);
}

/** A word about a state, in its colour: `good`, `fair`, `bad` or `still`. */
export function badge(words, mood = "still") {
  return h("span", { class: `badge ${mood}` }, words);
}

/** An error, in its own words and with what to do about it. */
export function problem(error, again) {
  return h("div", { class: "problem", role: "alert" },
    h("p", {}, error.message),
    error.advice ? h("p", { class: "advice" }, error.advice) : null,
    again ? action("Try again", again) : null);
}

/** How long a notice stays: long enough to read what was done, or what went wrong and what to do. */
const DONE_MS = 4000;
const ERROR_MS = 12_000;

/** Tells of an error, or of what was done, above everything else for a while. */
export function tell(what) {
  const isError = what instanceof Error;
  const words = isError ? [what.message, what.advice].filter(Boolean).join(" ") : what;
  const notice = h("p", { class: isError ? "notice bad" : "notice" }, h("span", {}, words));
  notice.append(button("Close", () => notice.remove(), { class: "quiet" }));
  document.getElementById("notices").replaceChildren(notice);
  setTimeout(() => notice.remove(), isError ? ERROR_MS : DONE_MS);
}

/** Opens a dialog around `content`; Escape closes it, and the focus goes back to where it was. */
export function dialog(title, ...content) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const made = h("dialog", { "aria-labelledby": "dialog-title" }, heading, ...content);
  made.addEventListener("close", () => made.remove());
  document.body.append(made);
  made.showModal();
  return made;
}

/** Asks before something that can't be undone. */
export function confirm(title, words, verb) {
  return new Promise((resolve) => {
    const made = dialog(title, h("p", {}, words), h("div", { class: "actions" },
      button("Keep it", () => made.close()),
      button(verb, () => made.close("yes"), { class: "danger" })));
    made.addEventListener("close", () => resolve(made.returnValue === "yes"));
  });
}

const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

/** A moment, given in seconds: how far away it is, and exactly when in its title. */
export function moment(seconds) {
  if (seconds === null || seconds === undefined) return h("span", {}, "never");
  const date = new Date(seconds * 1000);
  const away = Math.round(seconds - Date.now() / 1000);
  const [unit, size] = UNITS.find(([, size]) => Math.abs(away) >= size) ?? ["second", 1];
  const words = relative.format(Math.trunc(away / size), unit);
  return h("time", { datetime: date.toISOString(), title: exact.format(date) }, words);
}

/** A moment as a clock and a calendar show it. */
export function date(seconds) {
  const at = new Date(seconds * 1000);
  return h("time", { datetime: at.toISOString() }, exact.format(at));
}

/** A number with its noun: `count(1, "item")` is "1 item". */
export function count(number, noun) {
  return `${new Intl.NumberFormat().format(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** An amount of dollars, with as many digits as it takes to see it. */
export function dollars(amount) {
  const value = Number(amount);
  if (!value) return "$0";
  if (value < 0.00005) return "< $0.0001";
  return `$${value.toFixed(value < 0.1 ? 4 : 2)}`;
}

/** The words of a name that is written with underscores. */
export function words(name) {
  return String(name ?? "").replaceAll("_", " ");
}

// Makes elements, and writes times and amounts. Knows nothing of the API.

/**
 * Makes an element. Attributes that begin with `on` are listeners; `null` and `false` are left out. Children are
 * elements or text; text is never parsed as HTML.
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

/** A button with a text label. */
export function button(label, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, label);
}

/** A button that can't be pressed again while `run` is in progress. Errors of `run` become notices. */
export function asyncButton(label, run, attributes = {}) {
  const element = button(label, async () => {
    element.setAttribute("aria-disabled", "true");
    try {
      await run();
    } catch (error) {
      notify(error);
    } finally {
      element.removeAttribute("aria-disabled");
    }
  }, attributes);
  // Not `disabled`, which would take the focus away from keyboard users.
  element.addEventListener("click", (event) => {
    if (element.hasAttribute("aria-disabled")) event.stopImmediatePropagation();
  }, { capture: true });
  return element;
}

/** A field with its label. */
export function field(label, input, hint) {
  return h("label", { class: "field" }, h("span", {}, label), input, hint ? h("small", {}, hint) : null);
}

/** A short text about a state, in its colour: `good`, `fair`, `bad` or `neutral`. */
export function badge(label, tone = "neutral") {
  return h("span", { class: `badge ${tone}` }, label);
}

/** An error with its message, its advice, and a button that calls `retry`. */
export function problem(error, retry) {
  return h("div", { class: "problem", role: "alert" },
    h("p", {}, error.message),
    error.advice ? h("p", { class: "advice" }, error.advice) : null,
    retry ? asyncButton("Try again", retry) : null);
}

/** How long a notice stays: long enough to read what was done, or what failed and what to do about it. */
const DONE_MS = 4000;
const ERROR_MS = 12_000;

/** Shows an error, or a text about what was done, above the page for a while. */
export function notify(errorOrText) {
  const isError = errorOrText instanceof Error;
  const text = isError ? [errorOrText.message, errorOrText.advice].filter(Boolean).join(" ") : errorOrText;
  const notice = h("p", { class: isError ? "notice bad" : "notice" }, h("span", {}, text));
  notice.append(button("Close", () => notice.remove(), { class: "quiet" }));
  document.getElementById("notices").replaceChildren(notice);
  setTimeout(() => notice.remove(), isError ? ERROR_MS : DONE_MS);
}

/** Opens a dialog around `content`. Escape closes it, and the browser returns the focus to where it was. */
export function dialog(title, ...content) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const element = h("dialog", { "aria-labelledby": "dialog-title" }, heading, ...content);
  element.addEventListener("close", () => element.remove());
  document.body.append(element);
  element.showModal();
  return element;
}

/** Asks before something that can't be undone. */
export function confirm(title, question, verb) {
  return new Promise((resolve) => {
    const element = dialog(title, h("p", {}, question), h("div", { class: "actions" },
      button("Keep it", () => element.close()),
      button(verb, () => element.close("yes"), { class: "danger" })));
    element.addEventListener("close", () => resolve(element.returnValue === "yes"));
  });
}

const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

/** A time in seconds since 1970, as the distance from now; the exact time is in its title. */
export function relativeTime(seconds) {
  if (seconds === null || seconds === undefined) return h("span", {}, "never");
  const date = new Date(seconds * 1000);
  const secondsAway = Math.round(seconds - Date.now() / 1000);
  const [unit, size] = UNITS.find(([, size]) => Math.abs(secondsAway) >= size) ?? ["second", 1];
  const text = relative.format(Math.trunc(secondsAway / size), unit);
  return h("time", { datetime: date.toISOString(), title: exact.format(date) }, text);
}

/** A time in seconds since 1970, as date and time of day. */
export function dateTime(seconds) {
  const date = new Date(seconds * 1000);
  return h("time", { datetime: date.toISOString() }, exact.format(date));
}

/** A number with its noun: `count(1, "item")` is "1 item". */
export function count(number, noun) {
  return `${new Intl.NumberFormat().format(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** An amount of dollars, with more digits for small amounts. */
export function dollars(amount) {
  const value = Number(amount);
  if (!value) return "$0";
  if (value < 0.00005) return "< $0.0001";
  return `$${value.toFixed(value < 0.1 ? 4 : 2)}`;
}

/** A name with spaces instead of underscores. */
export function spaced(name) {
  return String(name ?? "").replaceAll("_", " ");
}

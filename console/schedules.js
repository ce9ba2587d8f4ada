// The page “Schedules”: when the agent starts on its own, and how each fire ended. The node decides what is due.

import { call, newIdempotencyKey } from "./api.js";
import {
  asyncButton, badge, button, confirm, dateTime, dialog, field, h, notify, problem, relativeTime, spaced,
} from "./dom.js";

/** How often the fires are polled while one of them is running. */
const POLL_MS = 2000;

/** Polls before giving up, ten minutes: a turn takes no longer unless the configuration allows it. */
const MAX_POLLS = 300;

const MISSED = [["skip", "Skip them"], ["once", "Run once"], ["all", "Run each of them"]];

/** Shows the page in `main`. */
export async function schedules(main, signal) {
  const list = h("div", { class: "cards" });
  const add = button("New schedule", () => openForm(reload), { class: "primary" });
  const page = h("div", { class: "page" },
    h("header", { class: "page-head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Schedules"),
      h("p", { class: "muted" }, "The agent starts on its own at these times, in the session of each schedule.")),
    add), list);
  main.replaceChildren(page);
  /** The ids of the schedules whose fires are shown. */
  const expanded = new Set();

  async function reload() {
    try {
      const { data } = await call("GET", "/v1/schedules", undefined, { signal });
      const focus = focusedControl(list);
      list.replaceChildren(...data.map((schedule) => card(schedule, { reload, signal, expanded })));
      if (!data.length) list.append(h("p", { class: "empty" }, "There are no schedules yet."));
      if (focus) (findControl(list, focus) ?? page.querySelector("h1")).focus({ preventScroll: true });
    } catch (error) {
      if (signal.aborted) return;
      add.hidden = error.isAbsent;
      list.replaceChildren(error.isAbsent && error.status === 404
        ? h("p", { class: "note" }, "This node has no schedules.")
        : problem(error, () => reload()));
    }
  }
  await reload();
}

/** The focused control of the cards, so that the focus survives drawing them anew; null if the focus is elsewhere. */
function focusedControl(list) {
  const card = document.activeElement?.closest(".card");
  return card && list.contains(card)
    ? { id: card.dataset.id, index: [...card.querySelectorAll("button, a")].indexOf(document.activeElement) }
    : null;
}

function findControl(list, { id, index }) {
  const card = [...list.children].find((card) => card.dataset.id === id);
  return card?.querySelectorAll("button, a")[index];
}

function card(schedule, { reload, signal, expanded }) {
  const path = `/v1/schedules/${schedule.id}`;
  const { name, paused, next_fire_at: next, last_fire: last } = schedule;
  const fires = h("div", { class: "fires", hidden: true });
  const toggle = button("Fires", () => {
    const isOpen = fires.hidden;
    fires.hidden = !isOpen;
    toggle.setAttribute("aria-expanded", String(isOpen));
    expanded[isOpen ? "add" : "delete"](schedule.id);
    if (isOpen) pollFires(fires, path, signal, (fire) => lastFire.replaceChildren(...fireSummary(fire)));
  }, { "aria-expanded": "false", "aria-label": `Fires of ${name}` });
  const lastFire = h("dd", {}, ...fireSummary(last));
  const state = paused ? badge("paused", "fair") : next ? badge("active", "good") : badge("ended");
  const source = schedule.source && schedule.source !== "api" ? badge(`by ${spaced(schedule.source)}`) : null;
  const post = (verb) => async () => {
    await call("POST", `${path}/${verb}`, {}, { idempotencyKey: newIdempotencyKey() });
    if (verb === "run") expanded.add(schedule.id);
    await reload();
  };
  const remove = async () => {
    const question = "It will not fire again. Its session is kept.";
    if (!await confirm(`Delete “${name}”?`, question, "Delete")) return;
    await call("DELETE", path);
    await reload();
  };
  const facts = [
    ["When", h("dd", {}, rule(schedule))],
    ["Next", h("dd", {}, next && !paused ? [dateTime(next), " (", relativeTime(next), ")"] : "none")],
    ["Last", lastFire],
  ];
  const element = h("article", { class: "card", "aria-label": name, "data-id": schedule.id },
    h("header", {}, h("h2", {}, name), state, source),
    h("p", { class: "prompt" }, schedule.prompt),
    h("dl", {}, ...facts.map(([term, value]) => h("div", {}, h("dt", {}, term), value))),
    h("div", { class: "actions" },
      asyncButton("Run now", post("run"), { class: "primary", "aria-label": `Run now: ${name}` }),
      paused
        ? asyncButton("Resume", post("resume"), { "aria-label": `Resume ${name}` })
        : asyncButton("Pause", post("pause"), { "aria-label": `Pause ${name}` }),
      toggle,
      schedule.session ? h("a", {
        class: "button", href: `#/sessions/${schedule.session}`, "aria-label": `Session of ${name}`,
      }, "Session") : null,
      // One of agent.toml can be removed only there.
      schedule.source === "config" ? null
        : asyncButton("Delete", remove, { class: "quiet", "aria-label": `Delete ${name}` })),
    fires);
  // Deferred until the card is on the page, because fires are polled only there.
  if (expanded.has(schedule.id)) queueMicrotask(() => toggle.click());
  return element;
}

function rule({ cron, at, every, time_zone: zone }) {
  const text = cron ? h("code", {}, cron) : at ? ["once, ", dateTime(Date.parse(at) / 1000)] : `every ${every}`;
  return [text, zone && cron ? ` · ${zone}` : ""].flat();
}

function fireSummary(fire) {
  return fire ? [statusBadge(fire), " ", relativeTime(fire.nominal_at)] : ["never"];
}

function statusBadge({ status }) {
  const tones = { completed: "good", failed: "bad", running: "fair" };
  return badge(status, tones[status]);
}

/** Shows the fires in `container`, and polls them until all have ended or they are hidden. */
async function pollFires(container, path, signal, onLast) {
  const isShown = () => !signal.aborted && container.isConnected && !container.hidden;
  for (let polls = 0; polls < MAX_POLLS && isShown(); polls += 1) {
    let data;
    try {
      ({ data } = await call("GET", `${path}/fires`, undefined, { signal }));
    } catch (error) {
      const retry = () => pollFires(container, path, signal, onLast);
      if (!signal.aborted) container.replaceChildren(problem(error, retry));
      return;
    }
    const fires = [...data].sort((a, b) => b.nominal_at - a.nominal_at);
    if (fires.length) onLast(fires[0]);
    const rows = fires.map((fire) => h("li", {},
      statusBadge(fire), h("span", {}, dateTime(fire.nominal_at)),
      fire.reason ? h("span", { class: "muted" }, fire.reason) : null,
      // The session of a response has its id from the first half of the response's id.
      fire.response ? h("a", { href: `#/sessions/sess_${fire.response.slice(5, 37)}` }, "Show result") : null));
    container.replaceChildren(rows.length ? h("ul", {}, ...rows) : h("p", { class: "muted" }, "It has not fired yet."));
    // An empty list is polled too, so that the first fire appears.
    if (rows.length && !data.some(({ status }) => status === "running")) return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function openForm(reload) {
  const zones = Intl.supportedValuesOf?.("timeZone") ?? [];
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const name = h("input", { name: "name", required: true, maxlength: "64", autocomplete: "off" });
  const prompt = h("textarea", { name: "prompt", required: true, rows: "3" });
  const kinds = [["cron", "By a cron rule"], ["every", "At an interval"], ["at", "Once"]];
  const kind = h("select", { name: "kind" }, ...kinds.map(([value, label]) => h("option", { value }, label)));
  const cron = h("input", { name: "cron", value: "0 7 * * *", autocomplete: "off", spellcheck: "false" });
  const every = h("input", { name: "every", value: "1h", autocomplete: "off" });
  const at = h("input", { name: "at", type: "datetime-local" });
  const inputs = { cron, every, at };
  const fields = {
    cron: field("Rule", cron, "Minute, hour, day, month, weekday"),
    every: field("Interval", every, "For example 15m, 1h or 24h"),
    at: field("At", at),
  };
  const timeZone = h("input", { name: "time_zone", list: "zones", value: zone, autocomplete: "off" });
  const zoneField = field("Time zone", timeZone);
  const missed = h("select", { name: "missed" },
    ...MISSED.map(([value, label]) => h("option", { value, selected: value === "once" }, label)));
  const showFields = () => {
    for (const [key, label] of Object.entries(fields)) {
      label.hidden = key !== kind.value;
      inputs[key].required = key === kind.value;
    }
    zoneField.hidden = kind.value === "every";
  };
  kind.addEventListener("change", showFields);
  showFields();
  const model = h("input", { name: "model", autocomplete: "off" });
  const maxRuns = h("input", { name: "max_runs_per_day", type: "number", min: "1" });
  const maxUsd = h("input", { name: "max_usd_per_day", inputmode: "decimal", autocomplete: "off" });
  const errors = h("div", {});
  // One key for the form, so that a second try after a broken connection does not create a second schedule.
  const formKey = newIdempotencyKey();
  const submit = h("button", { type: "submit", class: "primary" }, "Create");

  function terms() {
    const body = { name: name.value.trim(), prompt: prompt.value.trim(), missed: missed.value };
    if (!zoneField.hidden && timeZone.value.trim()) body.time_zone = timeZone.value.trim();
    const value = inputs[kind.value].value.trim();
    // A datetime-local input leaves out the seconds, which the API requires.
    body[kind.value] = kind.value === "at" && value.length === 16 ? `${value}:00` : value;
    if (model.value.trim()) body.model = model.value.trim();
    if (maxRuns.value) body.max_runs_per_day = Number(maxRuns.value);
    if (maxUsd.value.trim()) body.max_usd_per_day = maxUsd.value.trim();
    return body;
  }

  async function create(event) {
    event.preventDefault();
    submit.setAttribute("aria-disabled", "true");
    const body = terms();
    try {
      await call("POST", "/v1/schedules", body, { idempotencyKey: `${formKey}${checksum(body)}` });
      element.close();
      await reload();
      notify(`The schedule “${body.name}” was created.`);
    } catch (error) {
      errors.replaceChildren(problem(error));
    } finally {
      submit.removeAttribute("aria-disabled");
    }
  }

  const element = dialog("New schedule", h("form", { onsubmit: create },
    field("Name", name), field("Prompt", prompt),
    h("div", { class: "pair" }, field("When", kind), ...Object.values(fields)),
    h("div", { class: "pair" }, zoneField, field("Missed runs", missed)),
    h("datalist", { id: "zones" }, ...zones.map((value) => h("option", { value }))),
    h("details", {}, h("summary", {}, "More options"), field("Model", model, "The default model if empty"),
      field("Maximum runs per day", maxRuns), field("Maximum dollars per day", maxUsd)),
    errors,
    h("div", { class: "actions" }, button("Close", () => element.close()), submit)));
}

/** Part of the idempotency key: a corrected form is another request than the one that was refused. */
function checksum(value) {
  let sum = 0;
  for (const character of JSON.stringify(value)) sum = (Math.imul(sum, 31) + character.codePointAt(0)) >>> 0;
  return sum.toString(16);
}

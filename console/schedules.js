// The part “Schedules”: when the agent begins by itself, and what came of it.

import { call, idempotency } from "./api.js";
import { action, badge, button, confirm, date, dialog, field, h, moment, problem, tell, words } from "./dom.js";

/** How often fires that are not over are looked at. */
const LOOK_MS = 2000;

/** How long they are looked at: a turn takes ten minutes at most, unless the configuration says more. */
const LOOKS = 300;

const MISSED = [["skip", "is skipped"], ["once", "is made up for once"], ["all", "is made up for each time"]];

/** Shows the part in `main`. */
export async function schedules(main, signal) {
  const list = h("div", { class: "cards" });
  const add = button("New schedule", () => form(reload), { class: "primary" });
  const page = h("div", { class: "page" },
    h("header", { class: "page-head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Schedules"),
      h("p", { class: "muted" }, "The agent begins by itself, each time in the schedule's own session.")), add), list);
  main.replaceChildren(page);
  /** The schedules whose fires are shown. */
  const opened = new Set();

  async function reload() {
    try {
      const { data } = await call("GET", "/v1/schedules", undefined, { signal });
      const focused = place(list);
      list.replaceChildren(...data.map((schedule) => card(schedule, { reload, signal, opened })));
      if (!data.length) list.append(h("p", { class: "empty" }, "There are no schedules yet."));
      if (focused) (find(list, focused) ?? page.querySelector("h1")).focus({ preventScroll: true });
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

/** Where the focus is among the cards, which are drawn anew; null if it is elsewhere. */
function place(list) {
  const card = document.activeElement?.closest(".card");
  return card && list.contains(card)
    ? { id: card.dataset.id, at: [...card.querySelectorAll("button, a")].indexOf(document.activeElement) }
    : null;
}

function find(list, { id, at }) {
  const card = [...list.children].find((card) => card.dataset.id === id);
  return card?.querySelectorAll("button, a")[at];
}

function card(schedule, { reload, signal, opened }) {
  const path = `/v1/schedules/${schedule.id}`;
  const { name, paused, next_fire_at: next, last_fire: last } = schedule;
  const fires = h("div", { class: "fires", hidden: true });
  const toggle = button("Fires", () => {
    const open = fires.hidden;
    fires.hidden = !open;
    toggle.setAttribute("aria-expanded", String(open));
    opened[open ? "add" : "delete"](schedule.id);
    if (open) showFires(fires, path, signal, (fire) => lastly.replaceChildren(...told(fire)));
  }, { "aria-expanded": "false", "aria-label": `Fires of ${name}` });
  const lastly = h("dd", {}, ...told(last));
  const state = paused ? badge("paused", "fair") : next ? badge("active", "good") : badge("over");
  const does = (verb) => async () => {
    await call("POST", `${path}/${verb}`, {}, { idempotency: idempotency() });
    if (verb === "run") opened.add(schedule.id);
    await reload();
  };
  const made = h("article", { class: "card", "aria-label": name, "data-id": schedule.id },
    h("header", {}, h("h2", {}, name), state, schedule.source && schedule.source !== "api" ? badge(`by ${words(schedule.source)}`) : null),
    h("p", { class: "prompt" }, schedule.prompt),
    h("dl", {},
      h("div", {}, h("dt", {}, "When"), h("dd", {}, rule(schedule))),
      h("div", {}, h("dt", {}, "Next"), h("dd", {}, next && !paused ? [date(next), " (", moment(next), ")"] : "not planned")),
      h("div", {}, h("dt", {}, "Last"), lastly)),
    h("div", { class: "actions" },
      action("Run now", does("run"), { class: "primary", "aria-label": `Run now: ${name}` }),
      paused ? action("Resume", does("resume"), { "aria-label": `Resume ${name}` }) : action("Pause", does("pause"), { "aria-label": `Pause ${name}` }),
      toggle,
      schedule.session ? h("a", { class: "button", href: `#/sessions/${schedule.session}`, "aria-label": `Session of ${name}` }, "Session") : null,
      action("Delete", async () => {
        if (!await confirm(`Delete “${name}”?`, "It fires no more. What it has done so far is kept.", "Delete")) return;
        await call("DELETE", path);
        await reload();
      }, { class: "quiet", "aria-label": `Delete ${name}` })),
    fires);
  // Fires are looked at only while they stand on the page.
  if (opened.has(schedule.id)) queueMicrotask(() => toggle.click());
  return made;
}

function rule({ cron, at, every, time_zone: zone }) {
  const words = cron ? h("code", {}, cron) : at ? ["once, ", date(Date.parse(at) / 1000)] : `every ${every}`;
  return [words, zone && cron ? ` · ${zone}` : ""].flat();
}

function told(fire) {
  return fire ? [outcome(fire), " ", moment(fire.nominal_at)] : ["never yet"];
}

function outcome({ status }) {
  const moods = { completed: "good", failed: "bad", running: "fair" };
  return badge(status, moods[status]);
}

/** Shows the fires, and looks again until all are over. */
async function showFires(place, path, signal, onLast) {
  const error = (error) => place.replaceChildren(problem(error, () => showFires(place, path, signal, onLast)));
  for (let look = 0; look < LOOKS && !signal.aborted && place.isConnected && !place.hidden; look += 1) {
    let data;
    try {
      ({ data } = await call("GET", `${path}/fires`, undefined, { signal }));
    } catch (why) {
      if (!signal.aborted) error(why);
      return;
    }
    const fires = [...data].sort((a, b) => b.nominal_at - a.nominal_at);
    if (fires.length) onLast(fires[0]);
    const rows = fires.map((fire) => h("li", {},
      outcome(fire), h("span", {}, date(fire.nominal_at)),
      fire.reason ? h("span", { class: "muted" }, fire.reason) : null,
      fire.response ? h("a", { href: `#/sessions/sess_${fire.response.slice(5, 37)}` }, "What it did") : null));
    place.replaceChildren(rows.length ? h("ul", {}, ...rows) : h("p", { class: "muted" }, "It has not fired yet."));
    if (rows.length && !data.some(({ status }) => status === "running")) return;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

function form(reload) {
  const zones = Intl.supportedValuesOf?.("timeZone") ?? [];
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const name = h("input", { name: "name", required: true, maxlength: "64", autocomplete: "off" });
  const prompt = h("textarea", { name: "prompt", required: true, rows: "3" });
  const kind = h("select", { name: "kind" }, ...[["cron", "By a cron rule"], ["every", "Every so often"], ["at", "Once"]]
    .map(([value, label]) => h("option", { value }, label)));
  const values = {
    cron: [h("input", { name: "cron", value: "0 7 * * *", autocomplete: "off", spellcheck: "false" }), "Rule", "Minute, hour, day, month, weekday"],
    every: [h("input", { name: "every", value: "1h", autocomplete: "off" }), "How often", "For example 15m, 1h or 24h"],
    at: [h("input", { name: "at", type: "datetime-local" }), "At", null],
  };
  const fields = Object.fromEntries(Object.entries(values).map(([key, [input, label, hint]]) => [key, field(label, input, hint)]));
  const timeZone = h("input", { name: "time_zone", list: "zones", value: zone, autocomplete: "off" });
  const zoneField = field("Time zone", timeZone);
  const missed = h("select", { name: "missed" }, ...MISSED.map(([value, label]) => h("option", { value, selected: value === "once" }, label)));
  const choose = () => {
    for (const [key, label] of Object.entries(fields)) {
      label.hidden = key !== kind.value;
      values[key][0].required = key === kind.value;
    }
    zoneField.hidden = kind.value === "every";
  };
  kind.addEventListener("change", choose);
  choose();
  const more = {
    model: h("input", { name: "model", autocomplete: "off" }),
    max_runs_per_day: h("input", { name: "max_runs_per_day", type: "number", min: "1" }),
    max_usd_per_day: h("input", { name: "max_usd_per_day", inputmode: "decimal", autocomplete: "off" }),
  };
  const errors = h("div", {});
  // A second try after a broken connection must not make a second schedule.
  const once = idempotency();
  const submit = h("button", { type: "submit", class: "primary" }, "Create");
  const made = dialog("New schedule", h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      submit.setAttribute("aria-disabled", "true");
      const body = { name: name.value.trim(), prompt: prompt.value.trim(), missed: missed.value };
      if (!zoneField.hidden && timeZone.value.trim()) body.time_zone = timeZone.value.trim();
      const value = values[kind.value][0].value.trim();
      body[kind.value] = kind.value === "at" && value.length === 16 ? `${value}:00` : value;
      if (more.model.value.trim()) body.model = more.model.value.trim();
      if (more.max_runs_per_day.value) body.max_runs_per_day = Number(more.max_runs_per_day.value);
      if (more.max_usd_per_day.value.trim()) body.max_usd_per_day = more.max_usd_per_day.value.trim();
      try {
        await call("POST", "/v1/schedules", body, { idempotency: `${once}${await digest(body)}` });
        made.close();
        await reload();
        tell(`“${body.name}” is planned.`);
      } catch (error) {
        errors.replaceChildren(problem(error));
      } finally {
        submit.removeAttribute("aria-disabled");
      }
    },
  },
  field("Name", name), field("What the agent is told", prompt),
  h("div", { class: "pair" }, field("When", kind), ...Object.values(fields)),
  h("div", { class: "pair" }, zoneField, field("A time that is missed", missed)),
  h("datalist", { id: "zones" }, ...zones.map((value) => h("option", { value }))),
  h("details", {}, h("summary", {}, "More"), field("Model", more.model, "Without one, the agent's own"),
    field("Most runs a day", more.max_runs_per_day), field("Most dollars a day", more.max_usd_per_day)),
  errors,
  h("div", { class: "actions" }, button("Close", () => made.close()), submit)));
}

/** A short name of a value: a corrected form is another request than the one that was refused. */
async function digest(value) {
  let sum = 0;
  for (const character of JSON.stringify(value)) sum = (Math.imul(sum, 31) + character.codePointAt(0)) >>> 0;
  return sum.toString(16);
}

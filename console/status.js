// The part “Providers”: who may answer, how each is, and what it costs.

import { call } from "./api.js";
import { badge, count, dollars, h, moment, problem, words } from "./dom.js";

/** How often the page looks again while it is seen. */
const LOOK_MS = 5000;

const BREAKERS = {
  closed: ["good", "well"],
  half_open: ["fair", "being tried"],
  open: ["bad", "left out"],
};

/** Shows the part in `main`, and keeps it fresh. */
export async function status(main, signal) {
  const body = h("div", {});
  main.replaceChildren(h("div", { class: "page" },
    h("header", { class: "page-head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Providers"),
      h("p", { class: "muted" }, "What this instance of the node has seen, looked at every five seconds."))), body));
  let seen = "";
  while (!signal.aborted) {
    try {
      const status = await call("GET", "/v1/status", undefined, { signal });
      const { now: _, ...steady } = status;
      // What has not changed is left alone, or it could not be read in peace; times go on.
      const text = JSON.stringify(steady) + Math.floor(status.now / 30);
      if (text !== seen) body.replaceChildren(...draw(status));
      seen = text;
    } catch (error) {
      if (signal.aborted) return;
      seen = "";
      if (error.status === 403) {
        body.replaceChildren(h("p", { class: "note" }, "This key may not see how the node is: that needs the scope “admin”."));
        return;
      }
      body.replaceChildren(problem(error));
      if (error.status === 401) return;
    }
    do await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    while (document.hidden && !signal.aborted);
  }
}

function draw(status) {
  const spend = new Map();
  for (const { provider, model, cost_usd: cost, calls } of status.spend ?? []) {
    const sum = spend.get(`${provider}/${model}`) ?? { cost: 0, calls: 0 };
    spend.set(`${provider}/${model}`, { cost: sum.cost + Number(cost), calls: sum.calls + calls });
  }
  const facts = [
    ["Node", status.node], ["Agent", status.agent], ["Version", status.version],
    ["Last tick", status.last_tick ? moment(status.last_tick) : "not yet"],
    ["State", status.draining ? badge("about to stop", "fair") : badge("serving", "good")],
  ];
  return [
    h("dl", { class: "facts" }, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    (status.budgets ?? []).length
      ? h("section", {}, h("h2", {}, "Budgets"), h("div", { class: "cards" }, ...status.budgets.map(budget)))
      : null,
    ...(status.models ?? []).map((model) => h("section", {}, h("h2", {}, h("span", { class: "muted" }, "Model "), model.name),
      h("ul", { class: "candidates" }, ...model.candidates.map((it) => candidate(it, spend.get(it.candidate)))))),
    (status.spend ?? []).length ? spent(status.spend) : null,
  ].filter(Boolean);
}

function budget(it) {
  const limit = Number(it.limit_usd);
  const used = Number(it.spent_usd) + Number(it.reserved_usd);
  const percent = limit > 0 ? Math.min(100, (used / limit) * 100) : 100;
  const bar = h("progress", { max: "100", value: String(percent), "aria-label": `Budget of ${it.budget}`, class: percent > 90 ? "bad" : percent > 70 ? "fair" : null });
  return h("article", { class: "card" }, h("header", {}, h("h3", {}, it.budget === "node" ? "all callers" : it.budget)),
    bar,
    h("p", {}, `${dollars(it.spent_usd)} of ${dollars(it.limit_usd)} spent`,
      Number(it.reserved_usd) > 0 ? `, ${dollars(it.reserved_usd)} held for calls that go on` : ""),
    h("p", { class: "muted" }, "begins anew ", moment(it.resets_at)));
}

function candidate(it, spent) {
  const [mood, state] = it.state === "closed" && it.last_failure_at > (it.last_success_at ?? 0)
    ? ["fair", "failed lately"]
    : BREAKERS[it.state] ?? ["still", words(it.state)];
  const { price } = it;
  const facts = [
    ["Breaker", `${words(it.state)}`],
    it.latency_ms ? ["First content", `${it.latency_ms} ms`] : null,
    it.in_flight ? ["At work", count(it.in_flight, "call")] : null,
    price ? ["Price", `${money(price.input)} in, ${money(price.output)} out, a million tokens`] : ["Price", "not known"],
    spent ? ["Spent", `${dollars(spent.cost)} in ${count(spent.calls, "call")}`] : null,
    it.remaining?.requests !== null && it.remaining?.requests !== undefined ? ["Left", count(it.remaining.requests, "request")] : null,
  ].filter(Boolean);
  return h("li", { class: "candidate" },
    h("header", {}, h("h3", {}, it.candidate), badge(state, mood), it.parked_until ? badge("parked", "fair") : null),
    h("p", { class: "why" }, ...why(it)),
    h("dl", {}, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
}

/** Why a candidate is in its state. */
function why(it) {
  const failure = it.last_failure ? [`last failure: ${words(it.last_failure)}, `, moment(it.last_failure_at)] : null;
  const errors = it.error_percent ? `${it.error_percent} % of its recent calls failed; ` : "";
  if (it.parked_until) return ["Comes last until it may be asked again, ", moment(it.parked_until), "; ", ...(failure ?? ["no failure"]), "."];
  if (it.state === "open") return [errors, ...(failure ?? []), it.next_probe ? "; tried again " : "", it.next_probe ? moment(it.next_probe) : "", "."];
  if (it.state === "half_open") return ["One call at a time tries whether it is back; ", errors, ...(failure ?? []), "."];
  if (failure) return [errors, ...failure, it.last_success_at ? "; last success " : "", it.last_success_at ? moment(it.last_success_at) : "", "."];
  return it.last_success_at ? ["Last success ", moment(it.last_success_at), "."] : ["Nobody has asked it yet."];
}

function money(amount) {
  return `$${Number(amount)}`;
}

function spent(rows) {
  const columns = ["Key", "Model", "Calls", "Tokens in", "Tokens out", "Cost"];
  const number = new Intl.NumberFormat();
  return h("section", {}, h("h2", {}, "Spent since this instance began"),
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Spent since this instance began" }, h("table", {},
      h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {},
        ...[row.key || "this machine", `${row.provider}/${row.model}`, number.format(row.calls), number.format(row.input_tokens),
          number.format(row.output_tokens), dollars(row.cost_usd)].map((value) => h("td", {}, value))))))));
}

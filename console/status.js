// The page “Providers”: the health and price of each candidate, budgets, and what was spent. It changes nothing.

import { call } from "./api.js";
import { badge, count, dollars, h, problem, relativeTime, spaced } from "./dom.js";

/** How often the page is refreshed while it is visible. */
const REFRESH_MS = 5000;

/** The tone of the badge for each word that the node has for a candidate's health. */
const TONES = {
  healthy: "good", degraded: "fair", rate_limited: "fair", probing: "fair", down: "bad", untried: "neutral",
};

/** Shows the page in `main` and refreshes it. */
export async function status(main, signal) {
  const body = h("div", {});
  main.replaceChildren(h("div", { class: "page" },
    h("header", { class: "page-head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Providers"),
      h("p", { class: "muted" }, "Measured by this instance of the node, refreshed every five seconds."))), body));
  let rendered = "";
  while (!signal.aborted) {
    try {
      const status = await call("GET", "/v1/status", undefined, { signal });
      const { now: _, ...steady } = status;
      // Drawn only if something changed, so that a selection or the focus survives; twice a minute for relative times.
      const text = JSON.stringify(steady) + Math.floor(status.now / 30);
      if (text !== rendered) body.replaceChildren(...render(status));
      rendered = text;
    } catch (error) {
      if (signal.aborted) return;
      rendered = "";
      if (error.status === 403) {
        const text = "This key can't read the status of the node: it needs the scope “admin”.";
        body.replaceChildren(h("p", { class: "note" }, text));
        return;
      }
      body.replaceChildren(problem(error));
      if (error.status === 401) return;
    }
    do await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    while (document.hidden && !signal.aborted);
  }
}

function render(status) {
  const spend = new Map();
  for (const { provider, model, cost_usd: cost, calls } of status.spend ?? []) {
    const sum = spend.get(`${provider}/${model}`) ?? { cost: 0, calls: 0 };
    spend.set(`${provider}/${model}`, { cost: sum.cost + Number(cost), calls: sum.calls + calls });
  }
  const facts = [
    ["Node", status.node], ["Agent", status.agent], ["Version", status.version],
    ["Last tick", status.last_tick ? relativeTime(status.last_tick) : "none yet"],
    ["State", status.draining ? badge("draining", "fair") : badge("serving", "good")],
  ];
  return [
    h("dl", { class: "facts" }, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    (status.budgets ?? []).length
      ? h("section", {}, h("h2", {}, "Budgets"), h("div", { class: "cards" }, ...status.budgets.map(budgetCard)))
      : null,
    ...(status.models ?? []).map((model) => h("section", {},
      h("h2", {}, h("span", { class: "muted" }, "Model "), model.name),
      h("ul", { class: "candidates" }, ...model.candidates.map((it) => candidateCard(it, spend.get(it.candidate)))))),
    (status.spend ?? []).length ? spendTable(status.spend) : null,
  ].filter(Boolean);
}

function budgetCard(budget) {
  const limit = Number(budget.limit_usd);
  const used = Number(budget.spent_usd) + Number(budget.reserved_usd);
  const percent = limit > 0 ? Math.min(100, (used / limit) * 100) : 100;
  const bar = h("progress", {
    max: "100", value: String(percent), "aria-label": `Budget of ${budget.budget}`,
    class: percent > 90 ? "bad" : percent > 70 ? "fair" : null,
  });
  return h("article", { class: "card" },
    h("header", {}, h("h3", {}, budget.budget === "node" ? "all callers" : budget.budget)),
    bar,
    h("p", {}, `${dollars(budget.spent_usd)} of ${dollars(budget.limit_usd)} spent`,
      Number(budget.reserved_usd) > 0 ? `, ${dollars(budget.reserved_usd)} reserved for calls in flight` : ""),
    h("p", { class: "muted" }, "resets ", relativeTime(budget.resets_at)));
}

function candidateCard(candidate, spend) {
  const { price, remaining } = candidate;
  const facts = [
    ["Breaker", spaced(candidate.state)],
    candidate.latency_ms ? ["First content", `${candidate.latency_ms} ms`] : null,
    candidate.in_flight ? ["In flight", count(candidate.in_flight, "call")] : null,
    price
      ? ["Price", `${rate(price.input)} in, ${rate(price.output)} out, per million tokens`]
      : ["Price", "unknown"],
    spend ? ["Spent", `${dollars(spend.cost)} in ${count(spend.calls, "call")}`] : null,
    Number.isFinite(remaining?.requests) ? ["Rate limit", `${count(remaining.requests, "request")} left`] : null,
  ].filter(Boolean);
  return h("li", { class: "candidate" },
    h("header", {}, h("h3", {}, candidate.candidate), badge(spaced(candidate.health), TONES[candidate.health] ?? "neutral"),
      candidate.parked_until ? badge("parked", "fair") : null),
    h("p", { class: "reason" }, ...reason(candidate)),
    h("dl", {}, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
}

/** A sentence that gives the reason for the state of a candidate. */
function reason(candidate) {
  const { state, parked_until: parkedUntil, next_probe: nextProbe, last_success_at: lastSuccess } = candidate;
  const cause = candidate.last_failure_cause ?? spaced(candidate.last_failure);
  const text = candidate.last_failure_text ? ` (“${candidate.last_failure_text}”)` : "";
  const failure = candidate.last_failure
    ? [`last failure: ${cause}${text}, `, relativeTime(candidate.last_failure_at)]
    : null;
  const errors = candidate.error_percent ? `${candidate.error_percent} % of recent calls failed; ` : "";
  if (parkedUntil) {
    return ["Tried last; its parking ends ", relativeTime(parkedUntil), "; ", ...(failure ?? ["no failure"]), "."];
  }
  if (state === "open") {
    return [errors, ...(failure ?? []), ...(nextProbe ? ["; next probe ", relativeTime(nextProbe)] : []), "."];
  }
  if (state === "half_open") {
    return ["One call at a time probes whether it has recovered; ", errors, ...(failure ?? []), "."];
  }
  if (failure) {
    return [errors, ...failure, ...(lastSuccess ? ["; last success ", relativeTime(lastSuccess)] : []), "."];
  }
  return lastSuccess ? ["Last success ", relativeTime(lastSuccess), "."] : ["No calls yet."];
}

function rate(amount) {
  return `$${Number(amount)}`;
}

function spendTable(rows) {
  const title = "Spent since this instance started";
  const columns = ["Key", "Model", "Calls", "Tokens in", "Tokens out", "Cost"];
  const number = new Intl.NumberFormat();
  const cells = (row) => [row.key || "(no key)", `${row.provider}/${row.model}`, number.format(row.calls),
    number.format(row.input_tokens), number.format(row.output_tokens), dollars(row.cost_usd)];
  return h("section", {}, h("h2", {}, title),
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": title }, h("table", {},
      h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...cells(row).map((cell) => h("td", {}, cell))))))));
}

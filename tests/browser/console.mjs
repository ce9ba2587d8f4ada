// Tests the console of a running node in a real browser, by keyboard and mouse, on two screen sizes. Starts no node.
//
// Environment: BASE_URL, KEY (every scope; empty for a node without keys), OUTLIVE_CHROMIUM (the browser's program),
// OUTLIVE_NODE_MODULES (the folder of playwright-core and axe-core), OUTLIVE_ARTIFACTS (the folder of screenshots).
// The last line is `N passed, M failed`.

import { mkdirSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";

import { attempt, check, end, load } from "../sdk/checks.mjs";

const { chromium } = load("playwright-core");
const axe = load("axe-core");

const { BASE_URL, KEY = "" } = process.env;
const { OUTLIVE_CHROMIUM = "/usr/bin/chromium", OUTLIVE_ARTIFACTS = "target/artifacts" } = process.env;
const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 360, height: 740 };

/** Long enough for a turn on a loaded machine. */
const WAIT = { timeout: Number(process.env.WAIT ?? 60_000) };

const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** A TCP proxy to the node, whose connections can be cut for a while, as if the node had died. */
const connections = { sockets: new Set(), areCut: false };
const { hostname, port } = new URL(BASE_URL);
const proxy = createServer((client) => {
  const node = connect(Number(port), hostname);
  for (const socket of [client, node]) {
    connections.sockets.add(socket);
    socket.on("error", () => {}).on("close", () => [client, node].forEach((end) => end.destroy()));
  }
  if (connections.areCut) client.destroy();
  else client.pipe(node).pipe(client);
});
await new Promise((done) => proxy.listen(0, "127.0.0.1", done));
const CONSOLE = `http://127.0.0.1:${proxy.address().port}/console`;

function cutConnections(areCut) {
  connections.areCut = areCut;
  if (areCut) connections.sockets.forEach((socket) => socket.destroy());
  connections.sockets.clear();
}

mkdirSync(OUTLIVE_ARTIFACTS, { recursive: true });
const browser = await chromium.launch({ executablePath: OUTLIVE_CHROMIUM, args: ["--no-proxy-server"] });
const context = await browser.newContext({ viewport: DESKTOP, colorScheme: "light", reducedMotion: "reduce" });
const page = await context.newPage();
page.setDefaultTimeout(WAIT.timeout);
const browserErrors = [];
page.on("pageerror", (error) => browserErrors.push(String(error)));
page.on("console", (message) => {
  // Cut connections and refused requests are part of the tests.
  const isOfRequest = message.text().startsWith("Failed to load resource");
  if (message.type() === "error" && !isOfRequest) browserErrors.push(message.text());
});

const shot = (name) => page.screenshot({ path: join(OUTLIVE_ARTIFACTS, `console-${name}.png`) });
const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
const visible = (selector, ...more) => page.locator(selector, ...more).first().waitFor(WAIT);
const answer = page.locator(".turn").last().locator(".message.assistant .text");

const AUTHORIZATION = KEY ? { authorization: `Bearer ${KEY}` } : {};

async function callApi(method, path, body) {
  const headers = { "content-type": "application/json", ...AUTHORIZATION };
  const response = await fetch(`${BASE_URL}${path}`, { method, headers, body: body && JSON.stringify(body) });
  return response.json();
}

/** Presses Tab until the element with this id or text has the focus; false if none gets it. */
async function tabTo(name) {
  for (let presses = 0; presses < 40; presses += 1) {
    if ((await focused()) === name) return true;
    await page.keyboard.press("Tab");
  }
  return false;
}

async function openPage(name) {
  await page.locator("nav a", { hasText: name }).click();
  await visible({ Sessions: ".rows li", Schedules: "h1:text('Schedules')", Providers: "h1:text('Providers')" }[name]);
  await visible({ Sessions: ".rows li", Schedules: ".card, .empty, .note", Providers: ".candidate, .note" }[name]);
}

async function headers() {
  const response = await fetch(`${BASE_URL}/console`);
  const names = ["content-security-policy", "x-content-type-options", "referrer-policy", "cache-control"];
  check("headers", names.map((name) => response.headers.get(name)), [POLICY, "nosniff", "no-referrer", "no-cache"]);
  const etag = response.headers.get("etag");
  const again = await fetch(`${BASE_URL}/console`, { headers: { "if-none-match": etag } });
  check("the same version again", [again.status, await again.text()], [304, ""]);
  await page.goto(new URL("/", CONSOLE).href);
  check("the root leads a browser to the console", new URL(page.url()).pathname, "/console");
}

async function start() {
  await page.goto(CONSOLE);
  if (KEY) {
    await page.getByLabel("Key", { exact: true }).waitFor(WAIT);
    await page.keyboard.type(KEY);
    await page.keyboard.press("Enter");
  }
  await visible(".composer");
  check("the title", await page.title(), "Sessions · Outlive");
}

/** The session that `message` started, for `remove`. */
let sessionId;

/** A message by keyboard alone, and an answer whose connection breaks in the middle. */
async function message() {
  await page.reload();
  await visible(".composer");
  check("the first Tab stop skips the header", await tabTo("Skip to the content"), true);
  check("Tab reaches the button that skips the list", await tabTo("Skip the list"), true);
  await page.keyboard.press("Enter");
  check("which focuses the message", await focused(), "message");
  const { data } = await callApi("GET", "/v1/models");
  // This model of the conformance suite streams slowly.
  if (data.some(({ id }) => id === "steady")) await page.getByLabel("Model").selectOption("steady");
  await page.evaluate(() => {
    globalThis.observed = [];
    const observe = () => observed.push(document.querySelector(".message.assistant .text")?.textContent ?? "");
    new MutationObserver(observe)
      .observe(document.querySelector(".log"), { childList: true, subtree: true, characterData: true });
  });
  await page.locator("#message").focus();
  await page.keyboard.type("How are you?");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("And the weather?");
  await page.keyboard.press("Enter");
  await page.locator('.turn[aria-busy="true"] .message.assistant .text').filter({ hasText: /\S/ }).waitFor(WAIT);
  check("Cancel is visible during the stream", await page.getByRole("button", { name: "Cancel" }).isVisible(), true);
  cutConnections(true);
  await visible(".state", { hasText: "The connection broke" });
  cutConnections(false);
  await visible('.turn[aria-busy="false"]');
  const id = await page.locator(".turn").last().getAttribute("data-response");
  const response = await callApi("GET", `/v1/responses/${id}`);
  const text = response.output.flatMap(({ content }) => content ?? []).map(({ text }) => text).join("");
  const observed = await page.evaluate(() => globalThis.observed);
  check("no text is shown twice", observed.filter((piece) => !text.startsWith(piece)), []);
  check("the answer", [await answer.innerText(), response.status], [text, "completed"]);
  const question = await page.locator(".message.user .text").innerText();
  check("the message of the user", question, "How are you?\nAnd the weather?");
  check("the usage", /token/.test(await page.locator(".usage").last().innerText()), true);
  await visible('.chat-head .muted:has-text("1 turn")');
  sessionId = new URL(page.url()).hash.split("/").at(-1);
  const current = page.locator('.rows a[aria-current="page"]');
  check("the session is in the list", await current.locator(".title").innerText(), "How are you? And the weather?");
  await page.reload();
  await visible('.turn .usage:has-text("token")');
  check("the answer, after a reload", await page.locator(".message.assistant .text").allInnerTexts(), [text]);
  await shot("desktop-session");
}

/** Text that arrives moves the page only while the reader is at its end. */
async function follow() {
  const { data } = await callApi("GET", "/v1/models");
  if (!data.some(({ id }) => id === "steady")) return;
  await page.setViewportSize({ ...DESKTOP, height: 420 });
  await page.getByLabel("Model").selectOption("steady");
  await page.locator("#message").fill("Go on for long");
  await page.keyboard.press("Enter");
  const text = page.locator('.turn[aria-busy="true"] .message.assistant .text');
  await text.filter({ hasText: /\S/ }).waitFor(WAIT);
  const log = page.locator(".log");
  const fromEnd = () => log.evaluate((it) => Math.round(it.scrollHeight - it.scrollTop - it.clientHeight));
  const more = async () => {
    const { length } = await text.innerText();
    await page.waitForFunction(([selector, length]) => document.querySelector(selector).innerText.length > length,
      ['.turn[aria-busy="true"] .message.assistant .text', length], WAIT);
  };
  check("the end is in view", await fromEnd() < 8, true);
  await log.evaluate((it) => { it.scrollTop -= 60; });
  const top = await log.evaluate((it) => it.scrollTop);
  await more();
  check("a reader who has scrolled up stays there", [top > 0, await log.evaluate((it) => it.scrollTop)], [true, top]);
  await log.evaluate((it) => { it.scrollTop = it.scrollHeight; });
  await more();
  check("a reader at the end follows", await fromEnd() < 8, true);
  await visible('.turn[aria-busy="false"]');
  await visible('.chat-head .muted:has-text("2 turns")');
  await page.setViewportSize(DESKTOP);
}

async function cancel() {
  const { data } = await callApi("GET", "/v1/models");
  if (!data.some(({ id }) => id === "steady")) return;
  await page.getByLabel("Model").selectOption("steady");
  await page.locator("#message").fill("Go on for long");
  await page.keyboard.press("Enter");
  await page.locator('.turn[aria-busy="true"] .message.assistant').waitFor(WAIT);
  await page.getByRole("button", { name: "Cancel" }).click();
  await visible('.turn .usage .badge:has-text("cancelled")');
  check("a cancelled turn", await page.locator(".turn").last().getAttribute("aria-busy"), "false");
}

async function remove() {
  const id = sessionId;
  await page.goto(`${CONSOLE}#/sessions/${id}`);
  await page.reload();
  await visible(".turn");
  await page.getByRole("button", { name: "Delete" }).click();
  await page.keyboard.press("Escape");
  check("Escape keeps the session", await page.locator(`.rows a[href="#/sessions/${id}"]`).count(), 1);
  await page.getByRole("button", { name: "Delete" }).click();
  await page.locator("dialog").getByRole("button", { name: "Delete" }).click();
  await page.locator(`.rows a[href="#/sessions/${id}"]`).waitFor({ ...WAIT, state: "detached" });
  const { status } = await fetch(`${BASE_URL}/v1/sessions/${id}`, { headers: AUTHORIZATION });
  check("a deleted session", status, 404);
}

/** Every kind of item, as the API returns them. Made up, because this test does not cover what a node returns. */
const ITEMS = [
  {
    type: "message", id: "msg_1", role: "user",
    content: [{ type: "input_text", text: "Pay the <b>invoice</b> <img src=x onerror=alert(1)>" }],
  },
  { type: "mcp_list_tools", id: `mcpl_${"a".repeat(64)}_0`, server_label: "bank", tools: [{}, {}, {}] },
  {
    type: "reasoning", id: `rs_${"a".repeat(64)}_1`, summary: [],
    content: [{ type: "reasoning_text", text: "First I look at the balance." }],
  },
  {
    type: "mcp_call", id: `mcp_${"a".repeat(64)}_2`, server_label: "bank", name: "balance",
    arguments: '{"account":"main"}', output: '{"usd":"120.00"}', status: "completed", error: null,
  },
  {
    type: "mcp_call", id: `mcp_${"a".repeat(64)}_3`, server_label: "bank", name: "rate",
    arguments: "{}", output: null, status: "failed", error: "the server did not answer",
  },
  {
    type: "message", id: `msg_${"a".repeat(64)}_4`, role: "assistant",
    content: [{
      type: "output_text",
      text: "The balance is **$120.00**, so it can be paid:\n\n```\npay(40.00, \"ACME\")\n```\n\n" +
        "I need your approval for `pay`.",
    }],
  },
  {
    type: "mcp_approval_request", id: `mcpr_${"a".repeat(64)}_5`, server_label: "bank", name: "pay",
    arguments: '{"usd":"40.00","to":"ACME"}',
  },
];

async function approval() {
  const id = `sess_${"0".repeat(32)}`;
  const session = {
    id, conversation: `conv_${"0".repeat(32)}`, owner: "me", created_at: 1, last_active_at: 1, turns: 1, open_turns: 0,
    metadata: { title: "An invoice" },
  };
  const respond = (value) => (route) => route.fulfill({ json: value });
  let sent;
  await page.route(`**/v1/sessions/${id}`, respond({ ...session, responses: [] }));
  await page.route("**/v1/conversations/**", respond({ data: ITEMS.toReversed(), has_more: false }));
  await page.route("**/v1/responses/resp_a*", respond({
    id: `resp_${"a".repeat(64)}`, status: "completed", model: "demo", usage: { input_tokens: 1200, output_tokens: 85 },
    "x-outlive": { provider: "demo", model: "demo", cost_usd: "0.0042" },
  }));
  await page.route("**/v1/responses", (route) => {
    sent = route.request().postDataJSON();
    const response = { id: `resp_${"b".repeat(64)}`, status: "completed", output: [] };
    const done = { type: "response.completed", sequence_number: 0, response };
    return route.fulfill({ contentType: "text/event-stream", body: `data: ${JSON.stringify(done)}\n\n` });
  });
  await page.goto(`${CONSOLE}#/sessions/${id}`);
  await visible(".approval");
  const user = page.locator(".message.user .text");
  check("HTML in a message stays text", await user.innerText(), ITEMS[0].content[0].text);
  check("states of calls", await page.locator(".call summary .badge").allInnerTexts(), ["done", "failed"]);
  await visible(".usage:has-text('$0.0042')");
  await shot("desktop-approval");
  await page.locator("summary", { hasText: "balance" }).click();
  await shot("desktop-tools");
  await scan("a conversation with tools");
  await page.setViewportSize(PHONE);
  await fits("a conversation with tools");
  await shot("phone-tools");
  await page.setViewportSize(DESKTOP);
  await page.getByRole("button", { name: "Approve pay" }).press("Enter");
  await visible('.state:has-text("complete")');
  const approved = { type: "mcp_approval_response", approval_request_id: ITEMS[6].id, approve: true };
  check("an approval", [sent?.input, sent?.conversation], [[approved], session.conversation]);
  await page.unrouteAll();
}

/** A turn of which two pages of the history have items. */
async function pages() {
  const id = `sess_${"0".repeat(31)}1`;
  const session = { id, conversation: id.replace("sess", "conv"), created_at: 1, turns: 1, open_turns: 0, metadata: {} };
  const respond = (value) => (route) => route.fulfill({ json: value });
  await page.route(`**/v1/sessions/${id}`, respond({ ...session, responses: [] }));
  await page.route("**/v1/conversations/**", (route) => {
    const isSecond = new URL(route.request().url()).searchParams.has("after");
    const data = (isSecond ? ITEMS.slice(0, 3) : ITEMS.slice(3)).toReversed();
    return respond({ data, has_more: !isSecond, last_id: data.at(-1).id })(route);
  });
  const usage = { input_tokens: 1, output_tokens: 1 };
  await page.route("**/v1/responses/resp_a*", respond({ id: "x", status: "completed", model: "demo", usage }));
  await page.goto(`${CONSOLE}#/sessions/${id}`);
  await page.reload();
  await visible(".turn .usage:has-text('token')");
  await page.getByRole("button", { name: "Show earlier messages" }).click();
  await visible(".message.user");
  const shown = await page.locator(".log .item").evaluateAll((items) => items.map((item) => item.className));
  const expected = ["message user", "mcp-list-tools", "reasoning", "mcp-call", "mcp-call", "message assistant",
    "mcp-approval-request"];
  check("a turn on two pages: its items", shown, expected.map((name) => `item ${name}`));
  check("a turn on two pages: its footers", await page.locator(".log .usage").count(), 1);
  await page.unrouteAll();
}

/** A schedule of agent.toml has no button that the node would refuse. */
async function configured() {
  const schedule = (source) => ({
    id: `sched_${source}`, name: source, source, prompt: "Well?", every: "1h", paused: false, next_fire_at: 2e9,
  });
  await page.route("**/v1/schedules", (route) => route.fulfill({ json: { data: ["config", "api"].map(schedule) } }));
  await openPage("Sessions");
  await openPage("Schedules");
  await page.locator(".card").nth(1).waitFor(WAIT);
  check("schedules that can be deleted", await page.getByRole("button", { name: /^Delete/ }).allInnerTexts(), ["Delete"]);
  check("which ones", await page.getByRole("button", { name: "Delete api" }).count(), 1);
  await page.unrouteAll();
}

/** A key with few scopes, on a node without schedules: each page says what is missing. */
async function absent() {
  const deny = (status, code) => (route) => route.fulfill({ status, json: { error: { code, message: "no" } } });
  await page.route("**/v1/sessions?*", deny(403, "insufficient_scope"));
  await page.route("**/v1/schedules", deny(404, "unknown_route"));
  await page.route("**/v1/status", deny(403, "insufficient_scope"));
  await page.goto(`${CONSOLE}#/sessions`);
  await page.reload();
  await visible(".side .note");
  check("sessions can't be listed", /admin/.test(await page.locator(".side .note").innerText()), true);
  await openPage("Schedules");
  check("no schedules here", await page.locator(".page .note").innerText(), "This node has no schedules.");
  await openPage("Providers");
  check("the status can't be read", /admin/.test(await page.locator(".page .note").innerText()), true);
  await page.unrouteAll();
}

async function schedule() {
  const name = `digest ${Date.now()}`;
  await openPage("Schedules");
  await page.getByRole("button", { name: "New schedule" }).press("Enter");
  await page.keyboard.type(name);
  await page.keyboard.press("Tab");
  await page.keyboard.type("Write the morning digest.");
  await page.getByRole("textbox", { name: "Rule" }).fill("0 7 * * *");
  await page.getByLabel("Time zone").fill("Europe/Berlin");
  await shot("desktop-schedule-form");
  await scan("the form of a schedule");
  await page.getByRole("button", { name: "Create" }).press("Enter");
  const card = page.locator(".card", { hasText: name });
  await card.waitFor(WAIT);
  check("the next fire", /20\d\d/.test(await card.locator("dd").nth(1).innerText()), true);
  await page.getByRole("button", { name: `Run now: ${name}` }).press("Enter");
  await card.locator('.fires .badge:has-text("completed")').waitFor(WAIT);
  check("its fires", await card.locator(".fires li").count(), 1);
  await shot("desktop-schedules");
  await card.getByRole("button", { name: `Pause ${name}` }).press("Enter");
  await card.getByRole("button", { name: `Resume ${name}` }).waitFor(WAIT);
  check("the focus stays", await focused(), "Resume");
  check("paused", await card.locator("header .badge").first().innerText(), "paused");
  await card.getByRole("button", { name: `Resume ${name}` }).press("Enter");
  await card.getByRole("button", { name: `Pause ${name}` }).waitFor(WAIT);
  await card.getByRole("link", { name: "Show result" }).press("Enter");
  await answer.filter({ hasText: /\S/ }).waitFor(WAIT);
  check("the result of a fire", (await answer.innerText()).length > 0, true);
  await openPage("Schedules");
  await page.getByRole("button", { name: `Delete ${name}` }).press("Enter");
  await page.locator("dialog").getByRole("button", { name: "Delete" }).press("Enter");
  await card.waitFor({ ...WAIT, state: "detached" });
  check("deleted", await card.count(), 0);
}

async function providers() {
  await openPage("Providers");
  const states = await page.locator(".candidate > header .badge:first-of-type").allInnerTexts();
  const words = ["healthy", "degraded", "rate limited", "probing", "down", "untried"];
  check("health of candidates", [states.length > 0, states.every((word) => words.includes(word))], [true, true]);
  await shot("desktop-providers");
}

/** Checks that nothing is wider than the screen, and that every control is large enough for a finger. */
async function fits(label) {
  const [tooWide, tooSmall] = await page.evaluate(() => {
    const containers = [document.documentElement, ...document.querySelectorAll("main, .log, .side, .page, dialog")];
    const controls = [...document.querySelectorAll("button, a, input, select, textarea, summary")]
      .filter((element) => element.checkVisibility() && !element.classList.contains("skip"));
    return [
      containers.filter((element) => element.scrollWidth > element.clientWidth + 1)
        .map((element) => element.className || element.tagName),
      controls.filter((element) => element.getBoundingClientRect().height < 43.5)
        .map((element) => element.outerHTML.slice(0, 80)),
    ];
  });
  check(`${label}, 360 wide`, tooWide, []);
  check(`${label}, large enough for a finger`, tooSmall, []);
}

/** Checks the accessibility in both colour schemes. */
async function scan(label) {
  for (const colorScheme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe.source);
    const violations = await page.evaluate(async () => (await globalThis.axe.run()).violations
      .filter(({ impact }) => ["serious", "critical"].includes(impact))
      .map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).join(", ")}`));
    check(`${label}, ${colorScheme}: accessible`, violations, []);
  }
}

/** Checks each page, a new session and the form of a schedule on both sizes. */
async function layout() {
  for (const name of ["Sessions", "Schedules", "Providers"]) {
    await page.setViewportSize(DESKTOP);
    await openPage(name);
    await scan(name);
    await page.emulateMedia({ colorScheme: "dark" });
    await shot(`desktop-${name.toLowerCase()}-dark`);
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize(PHONE);
    await fits(name);
    await shot(`phone-${name.toLowerCase()}`);
    if (name === "Schedules") {
      await page.getByRole("button", { name: "New schedule" }).click();
      await fits("the form of a schedule");
      await shot("phone-schedule-form");
      await page.keyboard.press("Escape");
      await page.locator("dialog").waitFor({ ...WAIT, state: "detached" });
    }
    if (name === "Sessions") {
      await page.getByRole("link", { name: "New session" }).click();
      await visible(".composer");
      await fits("a new session");
      await shot("phone-new-session");
      await page.getByRole("link", { name: "All sessions" }).click();
    }
  }
  await page.setViewportSize(DESKTOP);
}

const STEPS = [headers, start, message, follow, cancel, schedule, configured, providers, layout, approval, pages, absent,
  remove];
for (const step of STEPS) {
  await attempt(step.name, step);
  // A step that failed may have left a dialog open.
  while (await page.locator("dialog").count()) await page.keyboard.press("Escape");
}
check("errors in the browser", browserErrors, []);
await browser.close();
end();

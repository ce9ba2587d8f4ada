// The console in a real browser, met as its user meets it.
//
// Environment: BASE_URL, KEY (every scope; empty for a node without keys), OUTLIVE_CHROMIUM (the browser's program),
// OUTLIVE_NODE_MODULES (the folder that holds playwright-core and axe-core), OUTLIVE_ARTIFACTS (where pictures go).
// The last line is `N passed, M failed`.

import { mkdirSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";

import { attempt, check, end, load } from "../sdk/checks.mjs";

const { chromium } = load("playwright-core");
const axe = load("axe-core");

const { BASE_URL, KEY = "", OUTLIVE_CHROMIUM = "/usr/bin/chromium", OUTLIVE_ARTIFACTS = "target/artifacts" } = process.env;
const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 360, height: 740 };

/** Long enough for a turn on a loaded machine. */
const WAIT = { timeout: Number(process.env.WAIT ?? 60_000) };

const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** A way to the node that can be cut for a while, as when the node dies. */
const line = { sockets: new Set(), isCut: false };
const { hostname, port } = new URL(BASE_URL);
const relay = createServer((client) => {
  const node = connect(Number(port), hostname);
  for (const socket of [client, node]) {
    line.sockets.add(socket);
    socket.on("error", () => {}).on("close", () => [client, node].forEach((it) => it.destroy()));
  }
  if (line.isCut) client.destroy();
  else client.pipe(node).pipe(client);
});
await new Promise((done) => relay.listen(0, "127.0.0.1", done));
const CONSOLE = `http://127.0.0.1:${relay.address().port}/console`;

function cut(isCut) {
  line.isCut = isCut;
  if (isCut) line.sockets.forEach((socket) => socket.destroy());
  line.sockets.clear();
}

mkdirSync(OUTLIVE_ARTIFACTS, { recursive: true });
const browser = await chromium.launch({ executablePath: OUTLIVE_CHROMIUM, args: ["--no-proxy-server"] });
const context = await browser.newContext({ viewport: DESKTOP, colorScheme: "light", reducedMotion: "reduce" });
const page = await context.newPage();
page.setDefaultTimeout(WAIT.timeout);
const complaints = [];
page.on("pageerror", (error) => complaints.push(String(error)));
page.on("console", (message) => {
  const ofRequest = message.text().startsWith("Failed to load resource");
  if (message.type() === "error" && !ofRequest) complaints.push(message.text());
});

const shot = (name) => page.screenshot({ path: join(OUTLIVE_ARTIFACTS, `console-${name}.png`) });
const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
const settled = (selector, ...more) => page.locator(selector, ...more).first().waitFor(WAIT);
const answer = page.locator(".turn").last().locator(".message.assistant .text");

async function ask(method, path, body) {
  const headers = { "content-type": "application/json", ...(KEY && { authorization: `Bearer ${KEY}` }) };
  const response = await fetch(`${BASE_URL}${path}`, { method, headers, body: body && JSON.stringify(body) });
  return response.json();
}

/** Goes on with Tab until what has the focus is `wanted`. */
async function tabTo(wanted) {
  for (let presses = 0; presses < 40; presses += 1) {
    if ((await focused()) === wanted) return true;
    await page.keyboard.press("Tab");
  }
  return false;
}

async function part(name) {
  await page.locator("nav a", { hasText: name }).click();
  await settled({ Sessions: ".rows li", Schedules: "h1:text('Schedules')", Providers: "h1:text('Providers')" }[name]);
  await settled({ Sessions: ".rows li", Schedules: ".card, .empty, .note", Providers: ".candidate, .note" }[name]);
}

async function headers() {
  const response = await fetch(`${BASE_URL}/console`);
  const names = ["content-security-policy", "x-content-type-options", "referrer-policy", "cache-control"];
  check("headers", names.map((name) => response.headers.get(name)), [POLICY, "nosniff", "no-referrer", "no-cache"]);
  const etag = response.headers.get("etag");
  const again = await fetch(`${BASE_URL}/console`, { headers: { "if-none-match": etag } });
  check("the same version again", [again.status, await again.text()], [304, ""]);
}

async function start() {
  await page.goto(CONSOLE);
  if (KEY) {
    await page.getByLabel("Key", { exact: true }).waitFor(WAIT);
    await page.keyboard.type(KEY);
    await page.keyboard.press("Enter");
  }
  await settled(".composer");
  check("the title", await page.title(), "Sessions · Outlive");
}

/** The session that a message made. */
let made;

/** A message by keyboard alone, and an answer whose connection breaks in the middle. */
async function message() {
  await page.reload();
  await settled(".composer");
  check("Tab begins with the way over the header", await tabTo("Skip to the content"), true);
  check("Tab leads to the way over the list", await tabTo("Skip the list"), true);
  await page.keyboard.press("Enter");
  check("which leads to the message", await focused(), "message");
  const { data } = await ask("GET", "/v1/models");
  // This model of the conformance suite takes its time.
  if (data.some(({ id }) => id === "steady")) await page.getByLabel("Model").selectOption("steady");
  await page.evaluate(() => {
    globalThis.seen = [];
    const look = () => seen.push(document.querySelector(".message.assistant .text")?.textContent ?? "");
    new MutationObserver(look).observe(document.querySelector(".log"), { childList: true, subtree: true, characterData: true });
  });
  await page.locator("#message").focus();
  await page.keyboard.type("How are you?");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("And the weather?");
  await page.keyboard.press("Enter");
  await page.locator('.turn[aria-busy="true"] .message.assistant .text').filter({ hasText: /\S/ }).waitFor(WAIT);
  check("while it is streamed", await page.getByRole("button", { name: "Cancel" }).isVisible(), true);
  cut(true);
  await settled(".state", { hasText: "The connection broke" });
  cut(false);
  await settled('.turn[aria-busy="false"]');
  const id = await page.locator(".turn").last().getAttribute("data-response");
  const response = await ask("GET", `/v1/responses/${id}`);
  const text = response.output.flatMap(({ content }) => content ?? []).map(({ text }) => text).join("");
  const seen = await page.evaluate(() => globalThis.seen);
  check("no word comes twice", seen.filter((piece) => !text.startsWith(piece)), []);
  check("the answer", [await answer.innerText(), response.status], [text, "completed"]);
  check("what was asked", await page.locator(".message.user .text").innerText(), "How are you?\nAnd the weather?");
  check("what it took", /token/.test(await page.locator(".took").last().innerText()), true);
  made = new URL(page.url()).hash.split("/").at(-1);
  const current = page.locator('.rows a[aria-current="page"]');
  check("the session is in the list", await current.locator(".title").innerText(), "How are you? And the weather?");
  await page.reload();
  await settled('.turn .took:has-text("token")');
  check("the answer, loaded anew", await page.locator(".message.assistant .text").allInnerTexts(), [text]);
  await shot("desktop-session");
}

async function cancel() {
  const { data } = await ask("GET", "/v1/models");
  if (!data.some(({ id }) => id === "steady")) return;
  await page.getByLabel("Model").selectOption("steady");
  await page.locator("#message").fill("Go on for long");
  await page.keyboard.press("Enter");
  await page.locator('.turn[aria-busy="true"] .message.assistant').waitFor(WAIT);
  await page.getByRole("button", { name: "Cancel" }).click();
  await settled('.turn .took .badge:has-text("cancelled")');
  check("a cancelled turn", await page.locator(".turn").last().getAttribute("aria-busy"), "false");
}

async function remove() {
  const id = made;
  await page.goto(`${CONSOLE}#/sessions/${id}`);
  await page.reload();
  await settled(".turn");
  await page.getByRole("button", { name: "Delete" }).click();
  await page.keyboard.press("Escape");
  check("Escape keeps the session", await page.locator(`.rows a[href="#/sessions/${id}"]`).count(), 1);
  await page.getByRole("button", { name: "Delete" }).click();
  await page.locator("dialog").getByRole("button", { name: "Delete" }).click();
  await page.locator(`.rows a[href="#/sessions/${id}"]`).waitFor({ ...WAIT, state: "detached" });
  const { status } = await fetch(`${BASE_URL}/v1/sessions/${id}`, { headers: KEY ? { authorization: `Bearer ${KEY}` } : {} });
  check("a deleted session", status, 404);
}

/** A conversation with everything in it, as the API would tell it: what a node says of tools is not up to this test. */
const STORY = [
  { type: "message", id: "msg_1", role: "user", content: [{ type: "input_text", text: "Pay the <b>invoice</b> <img src=x onerror=alert(1)>" }] },
  { type: "mcp_list_tools", id: `mcpl_${"a".repeat(64)}_0`, server_label: "bank", tools: [{}, {}, {}] },
  { type: "reasoning", id: `rs_${"a".repeat(64)}_1`, summary: [], content: [{ type: "reasoning_text", text: "First I look at the balance." }] },
  { type: "mcp_call", id: `mcp_${"a".repeat(64)}_2`, server_label: "bank", name: "balance", arguments: '{"account":"main"}', output: '{"usd":"120.00"}', status: "completed", error: null },
  { type: "mcp_call", id: `mcp_${"a".repeat(64)}_3`, server_label: "bank", name: "rate", arguments: "{}", output: null, status: "failed", error: "the server did not answer" },
  { type: "message", id: `msg_${"a".repeat(64)}_4`, role: "assistant", content: [{ type: "output_text", text: "The balance is **$120.00**, so it can be paid:\n\n```\npay(40.00, \"ACME\")\n```\n\nI need your approval for `pay`." }] },
  { type: "mcp_approval_request", id: `mcpr_${"a".repeat(64)}_5`, server_label: "bank", name: "pay", arguments: '{"usd":"40.00","to":"ACME"}' },
];

async function approval() {
  const id = `sess_${"0".repeat(32)}`;
  const session = { id, conversation: `conv_${"0".repeat(32)}`, owner: "me", created_at: 1, last_active_at: 1, turns: 1, open_turns: 0, metadata: { title: "An invoice" } };
  const json = (value) => (route) => route.fulfill({ json: value });
  let sent;
  await page.route(`**/v1/sessions/${id}`, json({ ...session, responses: [] }));
  await page.route("**/v1/conversations/**", json({ data: STORY.toReversed(), has_more: false }));
  await page.route("**/v1/responses/resp_a*", json({ id: `resp_${"a".repeat(64)}`, status: "completed", model: "demo", usage: { input_tokens: 1200, output_tokens: 85 }, "x-outlive": { provider: "demo", model: "demo", cost_usd: "0.0042" } }));
  await page.route("**/v1/responses", (route) => {
    sent = route.request().postDataJSON();
    const done = { type: "response.completed", sequence_number: 0, response: { id: `resp_${"b".repeat(64)}`, status: "completed", output: [] } };
    return route.fulfill({ contentType: "text/event-stream", body: `data: ${JSON.stringify(done)}\n\n` });
  });
  await page.goto(`${CONSOLE}#/sessions/${id}`);
  await settled(".approval");
  const user = page.locator(".message.user .text");
  check("text stays text", await user.innerText(), STORY[0].content[0].text);
  check("states of calls", await page.locator(".call summary .badge").allInnerTexts(), ["done", "failed"]);
  await settled(".took:has-text('$0.0042')");
  await shot("desktop-approval");
  await page.locator("summary", { hasText: "balance" }).click();
  await shot("desktop-tools");
  await scan("a conversation with tools");
  await page.setViewportSize(PHONE);
  await fits("a conversation with tools");
  await shot("phone-tools");
  await page.setViewportSize(DESKTOP);
  await page.getByRole("button", { name: "Approve pay" }).press("Enter");
  await settled('.state:has-text("complete")');
  const approved = { type: "mcp_approval_response", approval_request_id: STORY[6].id, approve: true };
  check("an approval", [sent?.input, sent?.conversation], [[approved], session.conversation]);
  await page.unrouteAll();
}

/** A key that may do little sees what it may, and is told about the rest. */
async function absent() {
  const refuse = (status, code) => (route) => route.fulfill({ status, json: { error: { code, message: "no" } } });
  await page.route("**/v1/sessions?*", refuse(403, "insufficient_scope"));
  await page.route("**/v1/schedules", refuse(404, "unknown_route"));
  await page.route("**/v1/status", refuse(403, "insufficient_scope"));
  await page.goto(`${CONSOLE}#/sessions`);
  await page.reload();
  await settled(".side .note");
  check("sessions may not be listed", /admin/.test(await page.locator(".side .note").innerText()), true);
  await part("Schedules");
  check("no schedules here", await page.locator(".page .note").innerText(), "This node has no schedules.");
  await part("Providers");
  check("the status may not be seen", /admin/.test(await page.locator(".page .note").innerText()), true);
  await page.unrouteAll();
}

async function schedule() {
  const name = `digest ${Date.now()}`;
  await part("Schedules");
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
  await card.getByRole("link", { name: "What it did" }).press("Enter");
  await answer.filter({ hasText: /\S/ }).waitFor(WAIT);
  check("what it did", (await answer.innerText()).length > 0, true);
  await part("Schedules");
  await page.getByRole("button", { name: `Delete ${name}` }).press("Enter");
  await page.locator("dialog").getByRole("button", { name: "Delete" }).press("Enter");
  await card.waitFor({ ...WAIT, state: "detached" });
  check("deleted", await card.count(), 0);
}

async function providers() {
  await part("Providers");
  const states = await page.locator(".candidate > header .badge:first-of-type").allInnerTexts();
  const known = states.every((state) => ["well", "failed lately", "being tried", "left out"].includes(state));
  check("states of breakers", [states.length > 0, known], [true, true]);
  await shot("desktop-providers");
}

/** Nothing is wider than the screen, and all that can be pressed is large enough for a finger. */
async function fits(what) {
  const [wide, small] = await page.evaluate(() => {
    const places = [document.documentElement, ...document.querySelectorAll("main, .log, .side, .page, dialog")];
    const shown = [...document.querySelectorAll("button, a, input, select, textarea, summary")].filter((it) => it.checkVisibility());
    return [
      places.filter((it) => it.scrollWidth > it.clientWidth + 1).map((it) => it.className || it.tagName),
      shown.filter((it) => it.getBoundingClientRect().height < 43.5 && !it.classList.contains("skip")).map((it) => it.outerHTML.slice(0, 80)),
    ];
  });
  check(`${what}, 360 wide`, wide, []);
  check(`${what}, large enough for a finger`, small, []);
}

async function scan(what) {
  for (const colorScheme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe.source);
    const violations = await page.evaluate(async () => (await globalThis.axe.run()).violations
      .filter(({ impact }) => ["serious", "critical"].includes(impact))
      .map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).join(", ")}`));
    check(`${what}, ${colorScheme}: accessible`, violations, []);
  }
}

async function looks() {
  for (const name of ["Sessions", "Schedules", "Providers"]) {
    await page.setViewportSize(DESKTOP);
    await part(name);
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
      await settled(".composer");
      await fits("a new session");
      await shot("phone-new-session");
      await page.getByRole("link", { name: "All sessions" }).click();
    }
  }
  await page.setViewportSize(DESKTOP);
}

for (const step of [headers, start, message, cancel, schedule, providers, looks, approval, absent, remove]) {
  await attempt(step.name, step);
  // A step that failed may have left a dialog open.
  while (await page.locator("dialog").count()) await page.keyboard.press("Escape");
}
check("complaints of the browser", complaints, []);
await browser.close();
end();

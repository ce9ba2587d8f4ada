// Requests to the node. The key is kept for this tab only, and goes nowhere but to the node that served the page.

const KEY = "outlive.key";

/** The key that its user typed; empty if there is none. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What went wrong, and what to do about it. */
export class ApiError extends Error {
  constructor(status, code, message, advice) {
    super(message);
    Object.assign(this, { status, code, advice });
  }

  /** Whether the same request may well work in a moment. */
  get passes() {
    return [0, 408, 502, 503, 504].includes(this.status);
  }

  /** Whether the node does not have what was asked for, or does not give it to this key. */
  get isAbsent() {
    return this.status === 403 || (this.status === 404 && this.code === "unknown_route");
  }
}

/** The node can't be reached. */
export function unreachable() {
  return new ApiError(0, "unreachable", "The node does not answer.", "See whether it runs and this device is online.");
}

/** Sends a request; gives the response if all is well. */
export async function send(method, path, body, { signal, idempotency } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (idempotency) headers["idempotency-key"] = idempotency;
  const request = { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...request, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  throw await failure(response);
}

/** Sends a request; gives what the answer's JSON says. */
export async function call(method, path, body, options) {
  const response = await send(method, path, body, options);
  const text = await response.text();
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError(0, "torn", "The node's answer was cut off.", "Try again.");
  }
}

/** A name that makes a request the same one when it is sent again. */
export function idempotency() {
  // `crypto.randomUUID` is there only on pages that came over TLS or from this machine.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The events of a stream, as their data. Ends when the connection does. */
export async function* events(body, onSign) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onSign();
      text += decoder.decode(value, { stream: true });
      const whole = text.split(/\r?\n\r?\n/);
      text = whole.pop();
      for (const event of whole) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function failure(response) {
  const { status } = response;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // A proxy's page says nothing that helps.
  }
  const wait = Number(response.headers.get("retry-after"));
  const message = sentence(error.message ?? `The node answered with status ${status}.`);
  return new ApiError(status, error.code ?? "", message, advice(status, wait));
}

function advice(status, wait) {
  if (status === 401) return "Enter a key of this node with the button “Key”.";
  if (status === 403) return "Use a key that has this scope, or ask who runs the node.";
  if (status === 404) return "It may have been deleted, or belong to another key.";
  if (status === 409) return "Load it anew, then try again.";
  if (wait > 0) return `Try again in ${wait} s.`;
  if (status >= 500) return "Try again; if it stays so, look at the part “Providers”.";
  return "";
}

/** The node's messages begin small and end without a stop. */
function sentence(text) {
  const trimmed = text.trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

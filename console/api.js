// Sends requests to the node and turns its errors into sentences. The key stays in this tab and is sent only to the
// node that served the page.

const KEY = "outlive.key";

/** The key that the user entered; empty if there is none. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** A failed request: the message, and advice on what to do. A `status` of 0 means that no complete response came. */
export class ApiError extends Error {
  constructor(status, code, message, advice) {
    super(message);
    Object.assign(this, { status, code, advice });
  }

  /** Whether the same request may succeed in a moment. */
  get isRetryable() {
    return [0, 408, 502, 503, 504].includes(this.status);
  }

  /** Whether the node lacks this route, or denies it to this key. */
  get isAbsent() {
    return this.status === 403 || (this.status === 404 && this.code === "unknown_route");
  }
}

/** The error of a request that got no response. */
export function unreachable() {
  const advice = "Check that it is running and that this device is online.";
  return new ApiError(0, "unreachable", "The node does not respond.", advice);
}

/** Sends a request and returns the response if its status is a success. */
export async function send(method, path, body, { signal, idempotencyKey } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (idempotencyKey) headers["idempotency-key"] = idempotencyKey;
  const request = { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...request, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  throw await errorOf(response);
}

/** Sends a request and returns the JSON of the response. */
export async function call(method, path, body, options) {
  const response = await send(method, path, body, options);
  const text = await response.text();
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError(0, "truncated", "The node's response was cut off.", "Try again.");
  }
}

/** A new `Idempotency-Key`, by which the node recognises a request that is sent again. */
export function newIdempotencyKey() {
  // `crypto.randomUUID` exists only on pages that came over TLS or from this machine.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The data of each event of a stream, until the connection ends. */
export async function* events(body, onChunk) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onChunk();
      text += decoder.decode(value, { stream: true });
      const complete = text.split(/\r?\n\r?\n/);
      text = complete.pop();
      for (const event of complete) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function errorOf(response) {
  const { status } = response;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // The HTML page of a proxy has no message worth showing.
  }
  const retryAfter = Number(response.headers.get("retry-after"));
  const message = toSentence(error.message ?? `The node answered with status ${status}.`);
  return new ApiError(status, error.code ?? "", message, adviceFor(status, retryAfter));
}

function adviceFor(status, retryAfter) {
  if (status === 401) return "Enter a key of this node with the button “Key”.";
  if (status === 403) return "Use a key that has this scope, or ask the operator of the node for one.";
  if (status === 404) return "It may have been deleted, or it may belong to another key.";
  if (status === 409) return "Reload it, then try again.";
  if (retryAfter > 0) return `Try again in ${retryAfter} s.`;
  if (status >= 500) return "Try again. If it fails again, look at the page “Providers”.";
  return "";
}

/** The node's messages begin in lower case and end without a full stop. */
function toSentence(text) {
  const trimmed = text.trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

// Follows a response to its end, over as many connections as that takes. Draws nothing.

import { ApiError, events, send, unreachable } from "./api.js";

/** Connections without a single new event before giving up: about two minutes in all. */
const MAX_TRIES = 15;

/** The pause before the second connection; it doubles up to the longest one. */
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 10_000;

/** A stream that is silent for this long is dead: the node sends a keep-alive every 15 s. */
const MAX_SILENCE_MS = 45_000;

const TERMINAL_EVENTS = ["response.completed", "response.incomplete", "response.failed", "error"];

/**
 * Follows a new response, given by the `body` and `idempotencyKey` of its request, or an existing one, given by its
 * `id`. `onEvent` gets each event once, however often the connection breaks. `onPause` gets the pause before the next
 * connection in milliseconds, and 0 when the stream continues.
 */
export async function follow({ id, body, idempotencyKey }, { onEvent, onPause, signal }) {
  let lastSequence = -1;
  let tries = 0;
  for (;;) {
    const connection = new AbortController();
    const stop = () => connection.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, MAX_SILENCE_MS);
    const restartSilence = () => {
      clearTimeout(silence);
      silence = setTimeout(stop, MAX_SILENCE_MS);
    };
    try {
      // Until the first event tells the id, the request is sent again: its key makes the node attach it to the same
      // turn.
      const after = lastSequence < 0 ? "" : `&starting_after=${lastSequence}`;
      const response = id
        ? await send("GET", `/v1/responses/${id}?stream=true${after}`, undefined, { signal: connection.signal })
        : await send("POST", "/v1/responses", body, { signal: connection.signal, idempotencyKey });
      for await (const event of events(response.body, restartSilence)) {
        // A repeated request is answered from the first event on.
        if (!(event.sequence_number > lastSequence)) continue;
        lastSequence = event.sequence_number;
        id ??= event.response?.id;
        if (tries > 0) onPause(0);
        tries = 0;
        onEvent(event);
        if (TERMINAL_EVENTS.includes(event.type)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && !error.isRetryable) throw error;
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", stop);
      stop();
    }
    if (++tries > MAX_TRIES) throw unreachable();
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** (tries - 1), MAX_PAUSE_MS) * (0.75 + Math.random() / 2);
    onPause(pause);
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (signal.aborted) return;
  }
}

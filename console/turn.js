// Following a response to its end, over as many connections as that takes.

import { ApiError, events, send, unreachable } from "./api.js";

/** How often a connection is tried again without a single new event: about two minutes in all. */
const TRIES = 15;

/** The first pause before another try, and the longest. */
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

/** A stream that is silent for so long is dead: the node gives a sign of life every 15 s. */
const SILENCE_MS = 45_000;

const ENDS = ["response.completed", "response.incomplete", "response.failed", "error"];

/**
 * Follows a response: a new one, given by its request's `body` and `idempotency` key, or one that is there, by its
 * `id`. Each event is handed to `onEvent` once, however often the connection breaks; `onWait` is told the pause before
 * the next try, and 0 when the stream goes on.
 */
export async function follow({ id, body, idempotency }, { onEvent, onWait, signal }) {
  let last = -1;
  let tries = 0;
  for (;;) {
    const connection = new AbortController();
    const stop = () => connection.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, SILENCE_MS);
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE_MS);
    };
    try {
      const after = last < 0 ? "" : `&starting_after=${last}`;
      const response = id
        ? await send("GET", `/v1/responses/${id}?stream=true${after}`, undefined, { signal: connection.signal })
        : await send("POST", "/v1/responses", body, { signal: connection.signal, idempotency });
      for await (const event of events(response.body, alive)) {
        // A request that is sent again is answered from the beginning.
        if (!(event.sequence_number > last)) continue;
        last = event.sequence_number;
        id ??= event.response?.id;
        if (tries > 0) onWait(0);
        tries = 0;
        onEvent(event);
        if (ENDS.includes(event.type)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && !error.passes) throw error;
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", stop);
      stop();
    }
    if (++tries > TRIES) throw unreachable();
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** (tries - 1), LONGEST_PAUSE_MS) * (0.75 + Math.random() / 2);
    onWait(pause);
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (signal.aborted) return;
  }
}

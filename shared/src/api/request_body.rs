//! Reads a request's body into memory, within bounds of size, time and parts. Does not parse it.

use std::{future::poll_fn, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, select_biased};
use http::{header, request};
use http_body::Body;

use super::ApiError;
use crate::{json, node::Node, platform::Platform, wire::Pace};

/// Largest body of a request. Anthropic's own bound is 32 MB, the largest of the vendors'; Lambda's is 6 MB and comes
/// first there.
pub(super) const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Longest wait for the next piece of a body, so that a stalled client does not hold memory.
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// Longest time for a whole body, so that a client that sends a byte now and then does not hold memory for ever. The
/// largest body in this time is about a megabit a second.
const MAX_TIME: Duration = Duration::from_secs(300);

/// Reads the whole body. Refuses it if it is too large, too slow, breaks off, or has more than [`json::MAX_PARTS`]
/// parts.
pub(super) async fn read<P, B>(node: &Node<P>, head: &request::Parts, mut body: B) -> Result<Bytes, ApiError>
where
    P: Platform,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let announced_bytes =
        head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced_bytes.is_some_and(|length: u64| length > MAX_BYTES as u64) {
        return Err(ApiError::too_large(MAX_BYTES));
    }
    let most_bytes = announced_bytes.and_then(|length| length.try_into().ok()).unwrap_or(MAX_BYTES);
    let deadline = node.platform().now() + MAX_TIME;
    let mut whole = Bytes::new();
    let mut joined = Vec::new();
    loop {
        let frame = match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never() {
            // A piece that has already arrived needs no timer.
            Some(frame) => frame,
            None => {
                let mut next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).fuse();
                let timeout = deadline.since(node.platform().now()).min(MAX_PAUSE);
                let mut timer = Box::pin(node.platform().sleep(timeout).fuse());
                select_biased! {
                    frame = next => frame,
                    () = timer => return Err(ApiError::body_too_slow()),
                }
            }
        };
        let chunk = match frame {
            None => break,
            Some(Err(error)) => return Err(ApiError::incomplete_body(&error.to_string())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) => chunk,
                // Trailers are ignored.
                Err(_) => continue,
            },
        };
        if whole.len() + joined.len() + chunk.len() > MAX_BYTES {
            return Err(ApiError::too_large(MAX_BYTES));
        }
        // Most bodies arrive in one piece, which is not copied.
        if whole.is_empty() && joined.is_empty() {
            whole = chunk;
        } else {
            reserve(&mut joined, whole.len() + chunk.len(), most_bytes);
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&chunk);
        }
    }
    let whole = if joined.is_empty() { whole } else { joined.into() };
    let has_too_many_parts = node.in_pieces(async {
        // Reading the last pieces of a large body took its own time.
        Pace::default().advance(whole.len()).await;
        json::has_too_many_parts(&whole)
    });
    if has_too_many_parts.await { Err(ApiError::too_many_parts()) } else { Ok(whole) }
}

/// Makes room for `more` bytes. The room is doubled, up to `most_bytes`; it is not all made at once, since an announced
/// length costs the client nothing.
fn reserve(joined: &mut Vec<u8>, more: usize, most_bytes: usize) {
    let needed = joined.len() + more;
    if needed > joined.capacity() {
        let room = (2 * joined.capacity()).min(most_bytes).max(needed);
        joined.reserve_exact(room - joined.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_for_what_has_arrived_and_not_beyond_what_is_announced() {
        let (mut joined, mut most_room) = (Vec::new(), 0.0_f64);
        for _ in 0..1000 {
            reserve(&mut joined, 1000, 1_000_000);
            joined.extend_from_slice(&[0; 1000]);
            most_room = most_room.max(joined.capacity() as f64 / joined.len() as f64);
        }
        assert!(most_room <= 2.0, "{most_room}");
        assert_eq!(joined.capacity(), 1_000_000);
    }
}

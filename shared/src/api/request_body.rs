use std::{future::poll_fn, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, select_biased};
use http::{header, request};
use http_body::Body;

use super::ApiError;
use crate::{json, node::Node, platform::Platform};

/// Largest body of a request. Anthropic's own bound is 32 MB, the largest of the vendors'; Lambda's is 6 MB and comes
/// first there.
pub(super) const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Longest wait for the next piece of a body: whoever sends slower holds memory for nothing.
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// Longest time for a whole body, so that sending a byte now and then holds nothing for ever. The largest body in this time
/// is a megabit a second.
const MAX_TIME: Duration = Duration::from_secs(300);

/// Reads the whole body.
pub(super) async fn read<P, B>(node: &Node<P>, head: &request::Parts, mut body: B) -> Result<Bytes, ApiError>
where
    P: Platform,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let announced =
        head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > MAX_BYTES as u64) {
        return Err(ApiError::too_large(MAX_BYTES));
    }
    let end = node.platform().now() + MAX_TIME;
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    loop {
        let frame = match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never() {
            Some(frame) => frame,
            None => {
                let mut next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).fuse();
                let patience = end.since(node.platform().now()).min(MAX_PAUSE);
                let mut pause = Box::pin(node.platform().sleep(patience).fuse());
                select_biased! {
                    frame = next => frame,
                    () = pause => return Err(ApiError::body_too_slow()),
                }
            }
        };
        let chunk = match frame {
            None => break,
            Some(Err(error)) => return Err(ApiError::body_broke(&error.to_string())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) => chunk,
                Err(_) => continue,
            },
        };
        if whole.len() + joined.len() + chunk.len() > MAX_BYTES {
            return Err(ApiError::too_large(MAX_BYTES));
        }
        // The usual body comes in one piece and is not copied.
        if whole.is_empty() && joined.is_empty() {
            whole = chunk;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&chunk);
        }
    }
    let whole = if joined.is_empty() { whole } else { joined.freeze() };
    if json::too_many(&whole) { Err(ApiError::too_many_parts()) } else { Ok(whole) }
}

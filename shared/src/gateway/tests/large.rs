//! Checks that a large request is sent without a copy, and lets others run while it is translated.

use std::{future::poll_fn, ops::Range};

use futures_util::FutureExt;

use super::*;

/// A provider that can't be reached, and where the largest slice of each request to it begins.
#[derive(Clone, Default)]
struct UnreachableHttp(Rc<RefCell<Vec<usize>>>);

impl Http for UnreachableHttp {
    type Body = ScriptedBody;

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<ScriptedBody>, HttpError> {
        let mut body = request.into_body();
        let slices: Vec<Bytes> =
            std::iter::from_fn(|| block_on(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))))
                .map(|frame| frame.unwrap().into_data().unwrap())
                .collect();
        let largest = slices.iter().max_by_key(|slice| slice.len()).unwrap();
        self.0.borrow_mut().push(largest.as_ptr().addr());
        Err(HttpError::Connect("unreachable".into()))
    }
}

/// Sends a chat request to a provider of `kind`. Returns how often the node paused, where the body was and where its
/// largest slices were that the provider got.
fn send(kind: &str, messages: &Value) -> (usize, Range<usize>, Vec<usize>) {
    let http = UnreachableHttp::default();
    let platform = TestPlatform::with_http(MemoryStore::default(), http.clone());
    let node = Node::new(platform, config(kind));
    let body = Bytes::from(json!({"model": "default", "max_tokens": 9, "messages": messages}).to_string());
    let start = body.as_ptr().addr();
    let range = start..start + body.len();
    let request = Request::post("/v1/chat/completions").header("host", "localhost");
    let request = request.body(Body::from(body)).unwrap();
    let mut answer = Box::pin(node.handle(request, Arrival { loopback: true, log: None }));
    let mut pauses = 0;
    while answer.as_mut().now_or_never().is_none() {
        pauses += 1;
    }
    (pauses, range, http.0.take())
}

#[test]
fn a_large_request_is_sent_without_a_copy() {
    let image = format!("data:image/png;base64,{}", "iVBO".repeat(50_000));
    let parts = json!([{"type": "image_url", "image_url": {"url": image}}]);
    let (_, body, sent) = send("compatible", &json!([{"role": "user", "content": parts}]));
    assert!(sent.len() > 1, "each candidate gets it: {sent:?}");
    assert!(sent.iter().all(|start| body.contains(start)), "{sent:?} in {body:?}");
}

#[test]
fn a_long_conversation_lets_others_run() {
    let long: Vec<Value> = (0..20_000).map(|at| json!({"role": "user", "content": at.to_string()})).collect();
    let pauses = |messages: &[Value]| send("anthropic", &messages.into()).0;
    let (short, long) = (pauses(&long[..10]), pauses(&long));
    assert!(long > short + 50, "{short} pauses for 10 messages, {long} for 20,000");
}

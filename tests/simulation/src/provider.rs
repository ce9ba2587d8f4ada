//! Answers a request as the provider that its host names: in OpenAI's format, with the fault that is planned for now.

mod answer_writer;
mod body;

use std::{collections::VecDeque, future::pending, pin::Pin, rc::Rc, time::Duration};

use http::{HeaderValue, Request, Response, header};
use http_body::Body as _;
use outlive::{body::Body, platform::HttpError};
use serde_json::{Value, json};

pub(crate) use self::body::AnswerBody;
use self::{answer_writer::AnswerWriter, body::BodyEnd};
use crate::{
    fault_plan::ProviderFault,
    invariants::{answered, bounded::Call, fires},
    machine::Clock,
    model,
    world::{OUTSIDE, World},
};

/// The pieces of a whole answer to `content`.
pub(crate) fn answer_words(provider: &str, content: &str) -> Vec<String> {
    vec!["All ".into(), "is ".into(), "well: ".into(), "é🙂 ".into(), format!("{content} "), provider.into()]
}

/// Answers one request of the node.
pub(crate) async fn answer(
    world: &Rc<World>,
    clock: &Rc<Clock>,
    mut request: Request<Body>,
    connect: Duration,
) -> Result<Response<AnswerBody>, HttpError> {
    let host = request.uri().host().unwrap_or_default().to_owned();
    let name = host.trim_end_matches(".test").to_owned();
    // The priced provider has the faults of the first one.
    let number = match name.as_str() {
        PRICED => 0,
        name => name.trim_start_matches('p').parse::<usize>().unwrap_or(usize::MAX),
    };
    let frame = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
    let body = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    let request_body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let content = last_user_text(&request_body);
    answered(world, &request_body);
    if content == fires::PROMPT && world.faults_are_on() && world.model_random.borrow_mut().chance(30) {
        // A crash drops the task that makes this call, so another task must cause it.
        let crashing = Rc::clone(world);
        world.executor.spawn(OUTSIDE, async move { crashing.crash() });
        return pending().await;
    }
    let messages = request_body.get("messages").and_then(Value::as_array).map_or(0, Vec::len);
    let round = model::call_rounds(&request_body);
    let call = Call::begin(world, &name, content, messages, round, partial_answer(&request_body).is_some());
    let calls = model::requested_calls(world, &request_body, content);
    let pause = world.network_random.borrow_mut().range(1..200);
    world.executor.sleep(Duration::from_millis(pause)).await;
    // The fault is that of the moment of the answer, so it is looked up after the pause.
    let fault = match name.as_str() {
        THINKER => Some(ProviderFault::Thinks),
        _ => world.plan.fault(number, world.elapsed()),
    };
    world.trace(format_args!("{name} asked, {fault:?}"));
    let pieces = match partial_answer(&request_body) {
        Some(partial) => continuation(world, &answer_words(&name, content).concat(), partial),
        // Half of the answers with calls have no text.
        None if !calls.is_empty() && pause.is_multiple_of(2) => Vec::new(),
        None => answer_words(&name, content),
    };
    let stream = request_body.get("stream") == Some(&Value::Bool(true));
    let limit = request_body.get("max_tokens").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let mut tokens = (body.len() as u64 / 4, pieces.len() as u64);
    if name == PRICED && limit < u64::MAX && world.network_random.borrow_mut().chance(OVERRUN_PERCENT) {
        world.count("calls that cost more than their worst case");
        tokens.1 = limit.saturating_add(world.network_random.borrow_mut().range(1..20));
    }
    // A fault of these comes before the provider has generated anything, so it bills nothing.
    let is_billed = !matches!(
        fault,
        Some(
            ProviderFault::Refused
                | ProviderFault::BlackHole
                | ProviderFault::Limited(_)
                | ProviderFault::Status(_)
                | ProviderFault::HtmlError
                | ProviderFault::EmptyBody
        )
    );
    let mut bill = None;
    if is_billed && name == PRICED {
        // The provider bills the call even if its answer is lost on the way.
        match world.budget.borrow_mut().begin(tokens, limit) {
            Ok(number) => bill = Some(Bill { world: Rc::clone(world), number }),
            Err(why) => world.violation(why),
        }
    }
    let writer = AnswerWriter {
        world,
        clock,
        call,
        bill,
        pieces: VecDeque::new(),
        end: BodyEnd::Clean,
        head: None,
        tokens,
        is_whole: false,
    };
    match fault {
        Some(ProviderFault::Refused) => Err(HttpError::Connect("refused".into())),
        Some(ProviderFault::BlackHole) if pause < 100 => {
            world.executor.sleep(connect).await;
            Err(HttpError::ConnectTimeout)
        }
        Some(ProviderFault::BlackHole) => pending().await,
        Some(ProviderFault::Limited(retry_after)) => {
            let error =
                json!({"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}});
            let mut response = writer.whole(429, "application/json", &error.to_string());
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Ok(response)
        }
        Some(ProviderFault::Status(status)) => {
            let error = json!({"error": {"message": "the key sk-canary-secret is rejected", "type": "x", "code": "y"}});
            Ok(writer.whole(status, "application/json", &error.to_string()))
        }
        Some(ProviderFault::HtmlError) => Ok(writer.whole(200, "text/html", "<html>oops</html>")),
        Some(ProviderFault::EmptyBody) => Ok(writer.whole(200, "application/json", "")),
        fault if stream => Ok(writer.stream(&pieces, &calls, fault)),
        fault => Ok(writer.json(&pieces.concat(), fault)),
    }
}

/// The newest text of the user that is no interruption notice.
fn last_user_text(request_body: &Value) -> &str {
    let messages =
        request_body.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let users = messages.iter().rev().filter(|message| message.get("role") == Some(&"user".into()));
    // Texts of earlier turns that got no answer stand before it in the same message.
    let mut texts = users.filter_map(|message| {
        let content = message.get("content")?;
        content.as_str().or_else(|| content.as_array()?.last()?.get("text")?.as_str())
    });
    texts.find(|text| !text.starts_with(INTERRUPTION_NOTICE)).unwrap_or_default()
}

/// How the node begins the message that asks a model to continue an answer.
const INTERRUPTION_NOTICE: &str = "Your previous response was interrupted";

/// Percent of the priced provider's calls that are billed above the limit of the request.
const OVERRUN_PERCENT: u64 = 25;

/// A billed call, in flight until this is dropped.
pub(super) struct Bill {
    world: Rc<World>,
    number: u64,
}

impl Bill {
    /// The call ends. `is_known`: the node received all of its answer.
    fn end(self, is_known: bool) {
        let now = self.world.executor.now();
        self.world.budget.borrow_mut().end(self.number, is_known, now);
    }
}

/// The name of the provider that has a price and a budget.
pub(crate) const PRICED: &str = "paid";

/// The name of the provider whose model thinks before it answers, and never fails.
pub(crate) const THINKER: &str = "thinker";

/// The partial answer, if the request asks for its continuation.
fn partial_answer(request_body: &Value) -> Option<&str> {
    let messages = request_body.get("messages")?.as_array()?;
    let [.., partial, notice] = messages.as_slice() else { return None };
    is_interruption_notice(notice).then(|| partial.get("content")?.as_str())?
}

/// Whether the node wrote this message to have an interrupted answer continued.
pub(crate) fn is_interruption_notice(message: &Value) -> bool {
    message.get("content").and_then(Value::as_str).is_some_and(|text| text.starts_with(INTERRUPTION_NOTICE))
}

/// A model continues `partial` with what comes next, with the last word repeated, or from the beginning.
fn continuation(world: &World, whole: &str, partial: &str) -> Vec<String> {
    let manner = world.network_random.borrow_mut().range(0..3);
    // The last word is the provider's name: the partial answer of another provider has no continuation here.
    let Some(next) = whole.strip_prefix(partial) else { return vec![String::new()] };
    let last = partial.trim_end().rsplit(' ').next().unwrap_or_default();
    let text = match manner {
        0 => next.to_owned(),
        1 if last.chars().filter(|c| c.is_alphabetic()).count() > 1 && !partial.ends_with(' ') => {
            format!("{last}{next}")
        }
        1 => next.to_owned(),
        _ => whole.to_owned(),
    };
    text.split_inclusive(' ').map(str::to_owned).collect()
}

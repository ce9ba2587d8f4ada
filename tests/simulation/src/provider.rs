//! Providers that answer in OpenAI's format, as well or as badly as the schedule says.

mod body;
mod script;

use std::{collections::VecDeque, future::pending, pin::Pin, rc::Rc, time::Duration};

use http::{HeaderValue, Request, Response, header};
use http_body::Body as _;
use outlive::{body::Body, platform::HttpError};
use serde_json::{Value, json};

pub(crate) use self::body::Answer;
use self::{body::End, script::Script};
use crate::{
    invariants::{answered, bounded::Call, fires},
    machine::Clock,
    model,
    schedule::ProviderFault,
    world::{OUTSIDE, World},
};

/// What a provider that is well answers to `content`.
pub(crate) fn words(provider: &str, content: &str) -> Vec<String> {
    vec!["All ".into(), "is ".into(), "well: ".into(), "é🙂 ".into(), format!("{content} "), provider.into()]
}

pub(crate) async fn answer(
    world: &Rc<World>,
    clock: &Rc<Clock>,
    mut request: Request<Body>,
    connect: Duration,
) -> Result<Response<Answer>, HttpError> {
    let host = request.uri().host().unwrap_or_default().to_owned();
    let name = host.trim_end_matches(".test").to_owned();
    // The one that is paid for fails as the first does.
    let number = match name.as_str() {
        PAID => 0,
        name => name.trim_start_matches('p').parse::<usize>().unwrap_or(usize::MAX),
    };
    let frame = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
    let body = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let content = question(&asked);
    answered(world, &asked);
    if content == fires::PROMPT && world.is_faulty() && world.words.borrow_mut().chance(30) {
        // Who asks can't end itself.
        let dying = Rc::clone(world);
        world.executor.spawn(OUTSIDE, async move { dying.crash() });
        return pending().await;
    }
    let messages = asked.get("messages").and_then(Value::as_array).map_or(0, Vec::len);
    let round = model::round(&asked);
    let call = Call::begin(world, &name, content, messages, round, interrupted(&asked).is_some());
    let wanted = model::wanted(world, &asked, content);
    let pause = world.network.borrow_mut().range(1..200);
    world.executor.sleep(Duration::from_millis(pause)).await;
    let fault = world.schedule.fault(number, world.elapsed());
    world.note(format_args!("{name} asked, {fault:?}"));
    let words = match interrupted(&asked) {
        Some(begun) => rest(world, &words(&name, content).concat(), begun),
        // Some call without a word.
        None if !wanted.is_empty() && pause.is_multiple_of(2) => Vec::new(),
        None => words(&name, content),
    };
    let stream = asked.get("stream") == Some(&Value::Bool(true));
    let tokens = (body.len() as u64 / 4, words.len() as u64);
    let script = Script { world, clock, call, pieces: VecDeque::new(), end: End::Clean, tokens };
    let works = !matches!(
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
    if works && name == PAID {
        // Whatever becomes of the answer, it is billed.
        world.budget.borrow_mut().billed(tokens).unwrap_or_else(|why| world.violation(why));
    }
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
            let mut response = script.whole(429, "application/json", &error.to_string());
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Ok(response)
        }
        Some(ProviderFault::Status(status)) => {
            let error = json!({"error": {"message": "canary-secret", "type": "x", "code": "y"}});
            Ok(script.whole(status, "application/json", &error.to_string()))
        }
        Some(ProviderFault::HtmlError) => Ok(script.whole(200, "text/html", "<html>oops</html>")),
        Some(ProviderFault::EmptyBody) => Ok(script.whole(200, "application/json", "")),
        fault if stream => Ok(script.stream(&words, &wanted, fault)),
        fault => Ok(script.json(&words.concat(), fault)),
    }
}

/// What the client asked last.
fn question(asked: &Value) -> &str {
    let messages = asked.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let users = messages.iter().rev().filter(|message| message.get("role") == Some(&"user".into()));
    // What was asked and not answered comes before it in the same message.
    let mut texts = users.filter_map(|message| {
        let content = message.get("content")?;
        content.as_str().or_else(|| content.as_array()?.last()?.get("text")?.as_str())
    });
    texts.find(|text| !text.starts_with(TOLD)).unwrap_or_default()
}

/// How a request begins that is to go on with an answer.
const TOLD: &str = "Your previous response was interrupted";

/// The provider that costs money.
pub(crate) const PAID: &str = "paid";

/// What was already said, if the request is to go on with it.
fn interrupted(asked: &Value) -> Option<&str> {
    let messages = asked.get("messages")?.as_array()?;
    let [.., begun, told] = messages.as_slice() else { return None };
    is_told(told).then(|| begun.get("content")?.as_str())?
}

/// Whether a message says nothing but that the answer was interrupted.
pub(crate) fn is_told(message: &Value) -> bool {
    message.get("content").and_then(Value::as_str).is_some_and(|text| text.starts_with(TOLD))
}

/// How a model goes on: with what comes next, with its last word again, or from the beginning.
fn rest(world: &World, whole: &str, begun: &str) -> Vec<String> {
    let manner = world.network.borrow_mut().range(0..3);
    // The last word is the provider's name, and so another's here.
    let Some(next) = whole.strip_prefix(begun) else { return vec![String::new()] };
    let last = begun.trim_end().rsplit(' ').next().unwrap_or_default();
    let text = match manner {
        0 => next.to_owned(),
        1 if last.chars().filter(|c| c.is_alphabetic()).count() > 1 && !begun.ends_with(' ') => {
            format!("{last}{next}")
        }
        1 => next.to_owned(),
        _ => whole.to_owned(),
    };
    text.split_inclusive(' ').map(str::to_owned).collect()
}

//! Opens turns without tools, and follows any turn's stream over as many connections as it takes. Some are cancelled.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{PartialResponse, ResponseEnd, send},
    model,
    world::World,
};

/// A turn that a client opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) content: String,
    /// The events that its client has read, by number.
    pub(crate) events: BTreeMap<u64, String>,
    pub(crate) ended: bool,
}

impl Turn {
    /// Adds the whole events of a part of the stream. `Err` if they do not follow those before.
    fn take(&mut self, received: &PartialResponse) -> Result<(), String> {
        let text = String::from_utf8_lossy(&received.body);
        for event in text.split_inclusive("\n\n").filter(|event| event.ends_with("\n\n")) {
            let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
            let value: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
            let number =
                value.get("sequence_number").and_then(Value::as_u64).ok_or("an event without number")?;
            if self.ended {
                return Err(format!("event {number} after the terminal event"));
            }
            if number != self.events.len() as u64 {
                return Err(format!("event {number} after {} events", self.events.len()));
            }
            if let Some(id) = value.pointer("/response/id").and_then(Value::as_str) {
                id.clone_into(&mut self.id);
            }
            self.ended = is_terminal(&value);
            self.events.insert(number, data.to_owned());
        }
        Ok(())
    }
}

/// Whether an event ends its stream.
pub(crate) fn is_terminal(event: &Value) -> bool {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    matches!(kind, "response.completed" | "response.incomplete" | "response.failed")
}

/// A turn that a client asks for.
#[derive(Clone, Debug)]
pub(crate) struct TurnRequest {
    /// The client's name for it, which is its idempotency key.
    pub(crate) name: String,
    pub(crate) content: String,
    pub(crate) body: Value,
    pub(crate) in_background: bool,
    /// Whether the client cancels it, if it runs in the background.
    pub(crate) is_cancelled: bool,
}

/// What a client knows of its turn in the end.
pub(crate) enum FollowOutcome {
    /// The turn was opened, and followed to its end or until the last attempt.
    Opened(Turn),
    /// It was refused, because the approval that it decides was decided before.
    Refused,
    /// The client does not know whether it was opened.
    Unknown,
}

/// Opens a turn without tools and follows it to its end.
pub(crate) async fn run(world: &Rc<World>, name: &str, previous: &mut Option<String>) {
    let (in_background, continues, is_cancelled, model) = {
        let mut choices = world.client_random.borrow_mut();
        (
            choices.chance(60),
            choices.chance(60),
            choices.chance(10),
            choices.pick(&["all", "all", "faulty"], "all"),
        )
    };
    let content = model::content(name, &[]);
    let previous_id = previous.clone().filter(|_| continues);
    let body = json!({
        "model": model, "input": content, "background": in_background, "stream": true, "tools": [],
        "previous_response_id": previous_id, "max_output_tokens": 200,
    });
    let request = TurnRequest { name: name.to_owned(), content, body, in_background, is_cancelled };
    if let FollowOutcome::Opened(turn) = follow(world, &request).await
        && turn.ended
    {
        *previous = Some(turn.id);
    }
}

/// Opens a turn and follows it to its end, over as many connections as it takes.
pub(crate) async fn follow(world: &Rc<World>, request: &TurnRequest) -> FollowOutcome {
    let mut turn = Turn { content: request.content.clone(), ..Turn::default() };
    for attempt in 0..200 {
        if attempt > 0 {
            world.count(if request.body.get("tools").is_some() {
                "resumed streams of turns without tools"
            } else {
                "resumed streams of turns with tools"
            });
            // The pause grows, so that a long turn needs few attempts.
            world.executor.sleep(Duration::from_millis(700 * attempt.min(6))).await;
        }
        let disconnect_after = {
            let mut choices = world.client_random.borrow_mut();
            (world.faults_are_on() && choices.chance(40))
                .then(|| Duration::from_millis(choices.range(0..3_000)))
        };
        // Until a response names the turn, the same request is sent again: its key makes it the same turn.
        let received = if turn.id.is_empty() {
            world.calls.borrow_mut().request_sent();
            send(
                world,
                Method::POST,
                "/v1/responses",
                Some(&request.name),
                request.body.to_string(),
                disconnect_after,
            )
            .await
        } else {
            let after = turn.events.len().checked_sub(1).map(|last| format!("&starting_after={last}"));
            let path = format!("/v1/responses/{}?stream=true{}", turn.id, after.unwrap_or_default());
            send(world, Method::GET, &path, None, String::new(), disconnect_after).await
        };
        match take_response(world, request, &mut turn, &received) {
            NextStep::Continue => {}
            NextStep::Refused => return FollowOutcome::Refused,
            NextStep::GiveUp => return FollowOutcome::Unknown,
        }
        if turn.ended {
            break;
        }
        // The cancel is repeated after each part of the stream, since its response may have been lost.
        if request.is_cancelled && !turn.id.is_empty() && request.in_background {
            let path = format!("/v1/responses/{}/cancel", turn.id);
            let received = send(world, Method::POST, &path, None, String::new(), None).await;
            if received.head.is_some_and(|head| head.status == 200) {
                world.count("cancelled turns");
            }
        }
    }
    world.trace(format_args!("turn {}: {} events, over: {}", request.name, turn.events.len(), turn.ended));
    if turn.id.is_empty() {
        return FollowOutcome::Unknown;
    }
    // A turn that has not ended is checked, too: it must have ended by the end of the run.
    world.turns.borrow_mut().push(turn.clone());
    FollowOutcome::Opened(turn)
}

/// What a client does after one response.
enum NextStep {
    /// It follows the stream further, or sends the request again.
    Continue,
    /// The turn was refused.
    Refused,
    /// It stops: the response is a violation.
    GiveUp,
}

/// Adds one response to the turn, which is a part of the stream or an error.
fn take_response(
    world: &World,
    request: &TurnRequest,
    turn: &mut Turn,
    received: &PartialResponse,
) -> NextStep {
    let (before, text) = (turn.events.len(), String::from_utf8_lossy(&received.body));
    let wrong = |why: &str| {
        world.violation(format_args!("{}: {why}; before {before}; {text}", request.content));
        NextStep::GiveUp
    };
    let status = received.head.as_ref().map(|head| head.status.as_u16());
    match status {
        Some(200) => match turn.take(received) {
            Err(why) => wrong(&why),
            Ok(()) if received.end == ResponseEnd::Clean && !turn.ended => {
                wrong("a clean end without a terminal event")
            }
            Ok(()) => NextStep::Continue,
        },
        None | Some(503) => NextStep::Continue,
        Some(status) => {
            // A client that disconnected may have a part of the error only.
            let error: Value = serde_json::from_slice(&received.body).unwrap_or_default();
            let field = |name: &str| error.pointer("/error").and_then(|error| error.get(name)?.as_str());
            if status == 400 && field("code") == Some("conversation_locked") {
                world.count("turns refused while another one of their conversation was open");
                return NextStep::Continue;
            }
            if status == 400 && field("param").is_some_and(|param| param.ends_with("approval_request_id")) {
                return NextStep::Refused;
            }
            if status == 400 && received.end != ResponseEnd::Clean {
                return NextStep::Continue;
            }
            wrong(&status.to_string())
        }
    }
}

/// The stream of a turn after the event `after`, or all of it; `None` if it can't be read now.
pub(crate) async fn read_stream(world: &Rc<World>, id: &str, after: Option<u64>) -> Option<Vec<Value>> {
    let point = after.map(|after| format!("&starting_after={after}")).unwrap_or_default();
    let path = format!("/v1/responses/{id}?stream=true{point}");
    let received = send(world, Method::GET, &path, None, String::new(), Some(Duration::from_secs(30))).await;
    if received.head.as_ref()?.status != 200 || received.end != ResponseEnd::Clean {
        return None;
    }
    let first = after.map_or(0, |after| after + 1);
    let mut turn = Turn { events: (0..first).map(|n| (n, String::new())).collect(), ..Turn::default() };
    turn.take(&received).ok()?;
    turn.events.range(first..).map(|(_, data)| serde_json::from_str(data).ok()).collect()
}

//! Clients of responses: they open turns, follow their streams in pieces, and sometimes change their minds.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{End, Seen, send},
    model,
    world::World,
};

/// A turn that a client opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) content: String,
    /// The events that its client has seen, by number.
    pub(crate) events: BTreeMap<u64, String>,
    pub(crate) over: bool,
}

impl Turn {
    /// Takes in the whole events of what came of a stream.
    fn take(&mut self, seen: &Seen) -> Result<(), String> {
        let text = String::from_utf8_lossy(&seen.body);
        for event in text.split_inclusive("\n\n").filter(|event| event.ends_with("\n\n")) {
            let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
            let value: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
            let number =
                value.get("sequence_number").and_then(Value::as_u64).ok_or("an event without number")?;
            if self.over {
                return Err(format!("event {number} after the last"));
            }
            if number != self.events.len() as u64 {
                return Err(format!("event {number} after {} events", self.events.len()));
            }
            if let Some(id) = value.pointer("/response/id").and_then(Value::as_str) {
                id.clone_into(&mut self.id);
            }
            self.over = is_last(&value);
            self.events.insert(number, data.to_owned());
        }
        Ok(())
    }
}

pub(crate) fn is_last(event: &Value) -> bool {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    matches!(kind, "response.completed" | "response.incomplete" | "response.failed")
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// What it calls it: its idempotency key.
    pub(crate) name: String,
    pub(crate) content: String,
    pub(crate) body: Value,
    pub(crate) background: bool,
    /// Whether it changes its mind.
    pub(crate) cancels: bool,
}

/// What came of it.
pub(crate) enum Followed {
    /// The turn was opened, and followed as far as its client's patience reached.
    Opened(Turn),
    /// It was refused, since the word that it brings on an approval is not wanted.
    Refused,
    /// Nobody knows.
    Lost,
}

/// Opens a turn without tools and follows it to its end.
pub(crate) async fn run(world: &Rc<World>, name: &str, previous: &mut Option<String>) {
    let (background, continues, cancels, model) = {
        let mut choices = world.choices.borrow_mut();
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
        "model": model, "input": content, "background": background, "stream": true, "tools": [],
        "previous_response_id": previous_id, "max_output_tokens": 200,
    });
    let ask = Ask { name: name.to_owned(), content, body, background, cancels };
    if let Followed::Opened(turn) = follow(world, &ask).await
        && turn.over
    {
        *previous = Some(turn.id);
    }
}

/// Opens a turn and follows it to its end, in as many pieces as it takes.
pub(crate) async fn follow(world: &Rc<World>, ask: &Ask) -> Followed {
    let mut turn = Turn { content: ask.content.clone(), ..Turn::default() };
    for attempt in 0..200 {
        if attempt > 0 {
            world.saw(if ask.body.get("tools").is_some() {
                "streams that were taken up"
            } else {
                "streams of turns with tools that were taken up"
            });
            // Whoever waits for long looks less often.
            world.executor.sleep(Duration::from_millis(700 * attempt.min(6))).await;
        }
        let leave = {
            let mut choices = world.choices.borrow_mut();
            (world.is_faulty() && choices.chance(40)).then(|| Duration::from_millis(choices.range(0..3_000)))
        };
        let seen = if turn.id.is_empty() {
            world.calls.borrow_mut().asked();
            send(world, Method::POST, "/v1/responses", Some(&ask.name), ask.body.to_string(), leave).await
        } else {
            let after = turn.events.len().checked_sub(1).map(|last| format!("&starting_after={last}"));
            let path = format!("/v1/responses/{}?stream=true{}", turn.id, after.unwrap_or_default());
            send(world, Method::GET, &path, None, String::new(), leave).await
        };
        match piece(world, ask, &mut turn, &seen) {
            Piece::Taken => {}
            Piece::Refused => return Followed::Refused,
            Piece::Wrong => return Followed::Lost,
        }
        if turn.over {
            break;
        }
        if ask.cancels && !turn.id.is_empty() && ask.background {
            let path = format!("/v1/responses/{}/cancel", turn.id);
            let seen = send(world, Method::POST, &path, None, String::new(), None).await;
            if seen.head.is_some_and(|head| head.status == 200) {
                world.saw("turns that were cancelled");
            }
        }
    }
    world.note(format_args!("turn {}: {} events, over: {}", ask.name, turn.events.len(), turn.over));
    if turn.id.is_empty() {
        return Followed::Lost;
    }
    world.turns.borrow_mut().push(turn.clone());
    Followed::Opened(turn)
}

/// What a client does after one answer.
enum Piece {
    /// It goes on.
    Taken,
    Refused,
    Wrong,
}

/// Takes in one piece of a stream, or what came instead.
fn piece(world: &World, ask: &Ask, turn: &mut Turn, seen: &Seen) -> Piece {
    let (before, text) = (turn.events.len(), String::from_utf8_lossy(&seen.body));
    let wrong = |why: &str| {
        world.violation(format_args!("{}: {why}; before {before}; {text}", ask.content));
        Piece::Wrong
    };
    let status = seen.head.as_ref().map(|head| head.status.as_u16());
    match status {
        Some(200) => match turn.take(seen) {
            Err(why) => wrong(&why),
            Ok(()) if seen.end == End::Clean && !turn.over => wrong("a clean end without a last event"),
            Ok(()) => Piece::Taken,
        },
        None | Some(503) => Piece::Taken,
        Some(status) => {
            // A piece that a client did not wait for.
            let error: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            let field = |name: &str| error.pointer("/error").and_then(|error| error.get(name)?.as_str());
            if status == 400 && field("code") == Some("conversation_locked") {
                world.saw("turns that waited for another one of their conversation");
                return Piece::Taken;
            }
            if status == 400 && field("param").is_some_and(|param| param.ends_with("approval_request_id")) {
                return Piece::Refused;
            }
            if status == 400 && seen.end != End::Clean {
                return Piece::Taken;
            }
            wrong(&status.to_string())
        }
    }
}

/// The stream of a turn after the event `after`, or all of it; `None` if it can't be had now.
pub(crate) async fn stream(world: &Rc<World>, id: &str, after: Option<u64>) -> Option<Vec<Value>> {
    let point = after.map(|after| format!("&starting_after={after}")).unwrap_or_default();
    let path = format!("/v1/responses/{id}?stream=true{point}");
    let seen = send(world, Method::GET, &path, None, String::new(), Some(Duration::from_secs(30))).await;
    if seen.head.as_ref()?.status != 200 || seen.end != End::Clean {
        return None;
    }
    let first = after.map_or(0, |after| after + 1);
    let mut turn = Turn { events: (0..first).map(|n| (n, String::new())).collect(), ..Turn::default() };
    turn.take(&seen).ok()?;
    turn.events.range(first..).map(|(_, data)| serde_json::from_str(data).ok()).collect()
}

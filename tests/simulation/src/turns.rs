//! Clients of responses: they open turns, follow their streams in pieces, and sometimes change their minds.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{End, Seen, send},
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

/// Opens a turn and follows it to its end.
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
    let content = format!("turn {name}");
    let previous_id = previous.clone().filter(|_| continues);
    let body = json!({
        "model": model, "input": content, "background": background, "stream": true,
        "previous_response_id": previous_id, "max_output_tokens": 200,
    });
    let mut turn = Turn { content, ..Turn::default() };
    for attempt in 0..200 {
        if attempt > 0 {
            world.saw("streams that were taken up");
            world.executor.sleep(Duration::from_millis(700)).await;
        }
        let leave = {
            let mut choices = world.choices.borrow_mut();
            (world.is_faulty() && choices.chance(40)).then(|| Duration::from_millis(choices.range(0..3_000)))
        };
        let before = turn.events.len();
        let seen = if turn.id.is_empty() {
            world.calls.borrow_mut().asked();
            send(world, Method::POST, "/v1/responses", Some(name), body.to_string(), leave).await
        } else {
            let after = turn.events.len().checked_sub(1).map(|last| format!("&starting_after={last}"));
            let path = format!("/v1/responses/{}?stream=true{}", turn.id, after.unwrap_or_default());
            send(world, Method::GET, &path, None, String::new(), leave).await
        };
        let status = seen.head.as_ref().map(|head| head.status.as_u16());
        match status {
            Some(200) => {
                if let Err(why) = turn.take(&seen) {
                    let text = String::from_utf8_lossy(&seen.body);
                    return world.violation(format_args!("{}: {why}; before {before}; {text}", turn.content));
                }
            }
            None | Some(503) => {}
            Some(status) => {
                let text = String::from_utf8_lossy(&seen.body);
                return world.violation(format_args!("{}: {status} {text}", turn.content));
            }
        }
        if turn.over {
            break;
        }
        if seen.end == End::Clean && status == Some(200) {
            return world.violation(format_args!("{}: a clean end without a last event", turn.content));
        }
        if cancels && !turn.id.is_empty() && background {
            let path = format!("/v1/responses/{}/cancel", turn.id);
            let seen = send(world, Method::POST, &path, None, String::new(), None).await;
            if seen.head.is_some_and(|head| head.status == 200) {
                world.saw("turns that were cancelled");
            }
        }
    }
    world.note(format_args!("turn {name}: {} events, over: {}", turn.events.len(), turn.over));
    if turn.over {
        *previous = Some(turn.id.clone());
    }
    if !turn.id.is_empty() {
        world.turns.borrow_mut().push(turn);
    }
}

/// The whole stream of a turn; `None` if it can't be had now.
pub(crate) async fn whole(world: &Rc<World>, id: &str) -> Option<Vec<Value>> {
    let path = format!("/v1/responses/{id}?stream=true");
    let seen = send(world, Method::GET, &path, None, String::new(), Some(Duration::from_secs(30))).await;
    if seen.head.as_ref()?.status != 200 || seen.end != End::Clean {
        return None;
    }
    let mut turn = Turn::default();
    turn.take(&seen).ok()?;
    turn.events.values().map(|data| serde_json::from_str(data).ok()).collect()
}

//! Checks that each turn ends with one outcome, and that its stream is the same wherever it is resumed.

use std::{collections::BTreeMap, rc::Rc};

use outlive::entry::Kind;
use serde_json::Value;

use crate::{
    provider::{PRICED, answer_words},
    turns::{is_terminal, read_stream},
    world::World,
};

/// Checks each turn, once everything works again. Returns the items of all turns.
pub(crate) async fn turns(world: &Rc<World>) -> Vec<Value> {
    outcomes(world);
    let (turns, mut items) = (world.turns.borrow().clone(), Vec::new());
    for turn in turns {
        let Some(events) = read_stream(world, &turn.id, None).await else {
            world.violation(format_args!("{}: the stream can't be read", turn.content));
            continue;
        };
        let bad = |why: &str| world.violation(format_args!("{}: {why}; {events:?}", turn.content));
        // First what the client has read, event by event, then a resumed stream, then the text.
        for (number, data) in &turn.events {
            let at = usize::try_from(*number).unwrap_or(usize::MAX);
            let read = serde_json::from_str::<Value>(data).ok();
            if read.as_ref() != events.get(at) {
                bad(&format!("event {number} has changed since its client read it: {data}"));
            }
        }
        let Some(last) = events.last().filter(|event| is_terminal(event)) else {
            bad("the stream has no terminal event");
            continue;
        };
        let point = world.check_random.borrow_mut().range(0..events.len() as u64);
        if point + 1 < events.len() as u64 {
            let rest = read_stream(world, &turn.id, Some(point)).await;
            let after = usize::try_from(point).ok().and_then(|point| events.get(point + 1..));
            if rest.as_deref() != after {
                bad(&format!("resumed after event {point} it is {rest:?}"));
            }
        }
        let output = last.pointer("/response/output").and_then(Value::as_array);
        let output = output.map(Vec::as_slice).unwrap_or_default();
        if let Err(why) = check_output(world, &turn.content, &events, last, output) {
            bad(&why);
        }
        items.extend_from_slice(output);
    }
    items
}

/// Whether a turn shows what its providers sent, and has the status that fits.
fn check_output(
    world: &World,
    content: &str,
    events: &[Value],
    last: &Value,
    output: &[Value],
) -> Result<(), String> {
    let is = |item: &Value, kind: &str| item.get("type") == Some(&kind.into());
    let messages = output.iter().filter(|item| is(item, "message"));
    let texts: Vec<&str> =
        messages.filter_map(|item| item.pointer("/content/0/text").and_then(Value::as_str)).collect();
    let names = (0..world.plan.providers.len()).map(|n| format!("p{n}")).chain([PRICED.to_owned()]);
    let expected: Vec<String> = names.map(|name| answer_words(&name, content).concat()).collect();
    let whole = |text: &&str| expected.iter().any(|whole| whole == text);
    let (end, before) = texts.split_last().map_or((None, &[][..]), |(end, before)| (Some(end), before));
    if !before.iter().all(whole) {
        return Err("a message before the last one is not whole".into());
    }
    if end.is_some_and(|end| !expected.iter().any(|whole| whole.starts_with(end))) {
        return Err("the last message is not a beginning of what the provider sent".into());
    }
    // Text first, then the status: a turn of any status must show only what was sent.
    match last.pointer("/response/status").and_then(Value::as_str).unwrap_or_default() {
        "completed" => {
            world.count("completed turns");
            let waits = output.iter().any(|item| is(item, "mcp_approval_request"));
            let ends = output.last().is_some_and(|item| is(item, "message"));
            if !end.is_none_or(whole) || !waits && !ends {
                return Err("it is completed and not whole".into());
            }
        }
        "failed" => world.count("failed turns"),
        "cancelled" => {}
        other => return Err(format!("an unknown status {other:?}")),
    }
    for item in output.iter().filter(|item| is(item, "message")) {
        let text = item.pointer("/content/0/text").and_then(Value::as_str).unwrap_or_default();
        if deltas(events, item.get("id")) != text {
            return Err(format!("the deltas do not make up the text {text:?}"));
        }
    }
    Ok(())
}

/// The text deltas of the item `id` since it was added last: a retracted item is added again.
fn deltas(events: &[Value], id: Option<&Value>) -> String {
    let begins = |event: &Value| {
        event.get("type") == Some(&"response.output_item.added".into()) && event.pointer("/item/id") == id
    };
    let begun = events.iter().rposition(begins).unwrap_or_default();
    let own = events.iter().skip(begun).filter(|event| {
        event.get("type") == Some(&"response.output_text.delta".into()) && event.get("item_id") == id
    });
    own.filter_map(|event| event.get("delta").and_then(Value::as_str)).collect()
}

/// Whether no turn is open.
pub(crate) fn no_turn_is_open(world: &World) -> bool {
    let entries = world.store.entries();
    let count = |kind: Kind| entries.iter().filter(|entry| entry.header().kind == kind).count();
    count(Kind::TURN_OPENED) == count(Kind::TURN_CLOSED)
}

/// Each turn was opened once and closed once.
fn outcomes(world: &Rc<World>) {
    let mut ends: BTreeMap<[u8; 16], (u64, u64)> = BTreeMap::new();
    for entry in world.store.entries() {
        let turn = ends.entry(entry.header().cause);
        match entry.header().kind {
            Kind::TURN_OPENED => turn.or_default().0 += 1,
            Kind::TURN_CLOSED => turn.or_default().1 += 1,
            Kind::TURN_RUN => {
                turn.or_default();
                world.count("runs of a turn after its first");
            }
            _ => {}
        }
    }
    for (turn, (opened, closed)) in ends {
        if (opened, closed) != (1, 1) {
            world.violation(format_args!(
                "turn {turn:02x?} was opened {opened} times and closed {closed} times"
            ));
        }
    }
}

//! A turn has one outcome, its stream is the same wherever it is taken up, and every turn ends.

use std::{collections::BTreeMap, rc::Rc};

use outlive::session::entry::Kind;
use serde_json::Value;

use crate::{
    provider::{PAID, words},
    turns::{is_last, whole},
    world::World,
};

/// Looks at every turn, once everything works again.
pub(crate) async fn turns(world: &Rc<World>) {
    outcomes(world);
    let turns = world.turns.borrow().clone();
    for turn in turns {
        let Some(events) = whole(world, &turn.id).await else {
            world.violation(format_args!("{}: the stream can't be read", turn.content));
            continue;
        };
        let bad = |why: &str| world.violation(format_args!("{}: {why}; {events:?}", turn.content));
        for (number, data) in &turn.events {
            let at = usize::try_from(*number).unwrap_or(usize::MAX);
            let same = serde_json::from_str::<Value>(data).ok();
            if same.as_ref() != events.get(at) {
                bad(&format!("event {number} was another one: {data}"));
            }
        }
        let Some(last) = events.last().filter(|event| is_last(event)) else {
            bad("it did not end");
            continue;
        };
        let status = last.pointer("/response/status").and_then(Value::as_str).unwrap_or_default();
        let text =
            last.pointer("/response/output/0/content/0/text").and_then(Value::as_str).unwrap_or_default();
        let names = (0..world.schedule.providers.len()).map(|n| format!("p{n}")).chain([PAID.to_owned()]);
        let expected: Vec<String> = names.map(|name| words(&name, &turn.content).concat()).collect();
        match status {
            "completed" => {
                world.saw("turns that were completed");
                if !expected.iter().any(|whole| whole == text) {
                    bad("it claims to be whole and is not");
                }
            }
            "failed" => world.saw("turns that failed"),
            "cancelled" => {}
            other => bad(&format!("an unknown status {other:?}")),
        }
        if !expected.iter().any(|whole| whole.starts_with(text)) {
            bad("the text is not what the provider said");
        }
        let deltas =
            events.iter().filter(|event| event.get("type") == Some(&"response.output_text.delta".into()));
        let said: String = deltas.filter_map(|event| event.get("delta").and_then(Value::as_str)).collect();
        let taken_back =
            events.iter().any(|event| event.pointer("/item/status") == Some(&"incomplete".into()));
        if said != text && !taken_back {
            bad("the deltas are not the text");
        }
    }
}

/// Every turn that was opened is closed, and only once.
fn outcomes(world: &Rc<World>) {
    let mut ends: BTreeMap<[u8; 16], (u64, u64)> = BTreeMap::new();
    for entry in world.store.entries() {
        let turn = ends.entry(entry.header().cause);
        match entry.header().kind {
            Kind::TURN_OPENED => turn.or_default().0 += 1,
            Kind::TURN_CLOSED => turn.or_default().1 += 1,
            Kind::TURN_RUN => {
                turn.or_default();
                world.saw("runs after the first");
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

//! While one candidate works, requests work.

use crate::{client::End, invariants::Outcome, provider::PAID, world::World};

/// `asked` is when the request was sent, in milliseconds from the start.
pub(crate) fn available(world: &World, content: &str, model: &str, asked: u64, outcome: &Outcome) {
    if outcome.end != End::Clean {
        return;
    }
    let steady = format!("p{}", world.steady());
    let by_steady = outcome.provider.as_deref() == Some(steady.as_str());
    if model == "all" {
        if !outcome.is_whole() {
            world.violation(format_args!(
                "client {content}: a candidate works and the request failed; {outcome}"
            ));
        }
        if outcome.is_whole() && by_steady {
            world.saw("failovers");
        }
    } else if model == "faulty" {
        world.saw(if outcome.is_whole() {
            "answers of those that may fail"
        } else {
            "errors of those that may fail"
        });
    } else if model == PAID {
        world.saw(match outcome.status {
            Some(200) if outcome.is_whole() => "answers that were paid",
            Some(429) => "requests beyond the budget",
            _ => "paid requests that failed",
        });
    } else if outcome.is_whole() {
        world.saw("answers of the only candidate");
    } else {
        world.saw("errors of the only candidate");
        if world.schedule.is_well(0, asked, world.elapsed()) {
            world.violation(format_args!(
                "client {content}: the candidate works and the request failed; {outcome}"
            ));
        }
    }
}

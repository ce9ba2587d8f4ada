//! Checks that a request works while one of its candidates does.

use crate::{
    client::ResponseEnd,
    invariants::ChatOutcome,
    provider::{PRICED, THINKER},
    world::World,
};

/// Checks the outcome of a request that was sent at `sent_at`, in milliseconds from the start.
pub(crate) fn available(world: &World, content: &str, model: &str, sent_at: u64, outcome: &ChatOutcome) {
    if outcome.end != ResponseEnd::Clean {
        return;
    }
    let reliable = format!("p{}", world.reliable_provider());
    let is_by_reliable = outcome.provider.as_deref() == Some(reliable.as_str());
    if model == "all" {
        if !outcome.is_whole() {
            world.violation(format_args!(
                "client {content}: the request failed although one candidate works; {outcome}"
            ));
        }
        if outcome.is_whole() && is_by_reliable {
            world.count("failovers");
        }
    } else if model == THINKER {
        world.count("requests to a model that thinks");
        if !outcome.is_whole() {
            world.violation(format_args!(
                "client {content}: the request failed although its model only thinks; {outcome}"
            ));
        }
    } else if model == "faulty" {
        world.count(if outcome.is_whole() {
            "requests answered by unreliable candidates"
        } else {
            "requests failed by unreliable candidates"
        });
    } else if model == PRICED {
        world.count(match outcome.status {
            Some(200) if outcome.is_whole() => "requests answered by the priced provider",
            Some(429) => "requests refused by the budget",
            _ => "requests failed by the priced provider",
        });
    } else if outcome.is_whole() {
        world.count("requests answered by the only candidate");
    } else {
        world.count("requests failed by the only candidate");
        if world.plan.works_throughout(0, sent_at, world.elapsed()) {
            world.violation(format_args!(
                "client {content}: the request failed although its only candidate works; {outcome}"
            ));
        }
    }
}

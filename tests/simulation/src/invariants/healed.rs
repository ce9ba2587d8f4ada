//! Checks that after all faults everything works, and every acknowledged item is there.

use std::rc::Rc;

use outlive::{
    entry::{self, Entry, Seq},
    model::Candidate,
    platform::Platform as _,
    routing::breaker::BreakerState,
};

use crate::{client, world::World};

/// Sends requests of both kinds, reads the shared conversation, and verifies every chain.
pub(crate) async fn healed(world: &Rc<World>) {
    for model in ["all", "alone"] {
        for stream in [false, true] {
            let outcome = client::chat(world, model, &format!("{model} healed-{stream}"), stream, None).await;
            if !outcome.is_whole() {
                world.violation(format_args!("{model} does not work although nothing fails; {outcome}"));
            }
        }
    }
    let acknowledged = world.acknowledged.borrow().clone();
    if let Some(id) = acknowledged.id() {
        let Some(texts) = client::read_items(world, &id).await else {
            return world.violation(format_args!("{id} can't be read although nothing fails"));
        };
        acknowledged.check(&texts).unwrap_or_else(|why| world.violation(why));
        acknowledged.check_origin(&texts).unwrap_or_else(|why| world.violation(why));
    }
    chains(world);
}

/// The breaker of a provider that has worked for long enough is closed, also without requests: the node's probes do it.
pub(crate) fn breakers_closed(world: &World) {
    let Some((node, _)) = world.node() else { return };
    for provider in 0..world.plan.providers.len() {
        let candidate = Candidate { provider: format!("p{provider}"), model: "m".to_owned() };
        let state = node.candidate_health(&candidate).breaker.state(node.platform().now());
        if state != BreakerState::Closed {
            world.violation(format_args!(
                "the breaker of {candidate} is {} although nothing fails",
                state.name()
            ));
        }
    }
}

/// Every chain is whole: no sequence number is left out, and each entry has the hash of the one before.
fn chains(world: &World) {
    let entries = world.store.entries();
    let same =
        |a: &Entry, b: &Entry| (a.header().log, &a.header().origin) == (b.header().log, &b.header().origin);
    for chain in entries.chunk_by(same) {
        let Some(first) = chain.first().map(Entry::header) else { continue };
        if let Err(error) = entry::verify(first.log, &first.origin, Seq::FIRST, chain) {
            world.violation(format_args!("the chain of {} in {}: {error}", first.origin, first.log));
        }
    }
}

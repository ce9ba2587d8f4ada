//! What a node knows of a session is the fold of its log, in whatever order the chains are mixed.

use std::collections::BTreeMap;

use outlive::{
    entry::{Entry, LogId, Origin},
    log::{Fold as _, View},
    session::conversation::Conversation,
    testing::views,
};

use crate::world::World;

/// Folds every log anew of which the node keeps a fold.
pub(crate) fn folded(world: &World) {
    let Some((node, _)) = world.node() else { return };
    let entries = world.store.entries();
    for (log, view) in views(&node) {
        world.saw("folds that were made anew");
        let anew = fold(world, log, &view, &entries);
        if anew.as_ref() != Ok(&view.fold) {
            world.violation(format_args!("{log}: the fold is {:?}, anew it is {anew:?}", view.fold));
        }
    }
}

/// The fold of what `view` has seen of `log`, its chains mixed by chance.
fn fold(
    world: &World,
    log: LogId,
    view: &View<Conversation>,
    entries: &[Entry],
) -> Result<Conversation, String> {
    let mut chains: BTreeMap<Origin, Vec<&Entry>> = BTreeMap::new();
    for head in view.heads() {
        let seen = entries.iter().filter(|entry| {
            let header = entry.header();
            header.log == log && header.origin == head.origin && header.seq <= head.seq
        });
        chains.insert(head.origin.clone(), seen.rev().collect());
    }
    if chains.len() > 1 {
        world.saw("folds of several chains");
    }
    let mut fold = Conversation::default();
    loop {
        chains.retain(|_, chain| !chain.is_empty());
        let count = chains.len() as u64;
        if count == 0 {
            return Ok(fold);
        }
        let chosen = usize::try_from(world.order.borrow_mut().range(0..count)).unwrap_or_default();
        let next = chains.values_mut().nth(chosen).and_then(Vec::pop);
        if let Some(entry) = next {
            fold.apply(entry).map_err(|error| error.to_string())?;
        }
    }
}

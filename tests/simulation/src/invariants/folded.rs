//! Checks that the node's cached fold of a session equals the fold of its log, in any order of its chains.

use std::collections::BTreeMap;

use outlive::{
    entry::{Entry, LogId, Origin},
    log::{Fold as _, View},
    session::Session,
    testing::views,
};

use crate::world::World;

/// Folds each log again that the node has a fold of.
pub(crate) fn folded(world: &World) {
    let Some((node, _)) = world.node() else { return };
    let entries = world.store.entries();
    for (log, view) in views(&node) {
        world.count("folds recomputed from the log");
        let again = fold(world, log, &view, &entries);
        if again.as_ref() != Ok(&view.fold) {
            world.violation(format_args!(
                "{log}: the node's fold is {:?}, the fold of the log is {again:?}",
                view.fold
            ));
        }
    }
}

/// The fold of the entries of `log` up to the heads of `view`, with its chains mixed in a random order.
fn fold(world: &World, log: LogId, view: &View<Session>, entries: &[Entry]) -> Result<Session, String> {
    let mut chains: BTreeMap<Origin, Vec<&Entry>> = BTreeMap::new();
    for head in view.heads() {
        let known = entries.iter().filter(|entry| {
            let header = entry.header();
            header.log == log && header.origin == head.origin && header.seq <= head.seq
        });
        chains.insert(head.origin.clone(), known.rev().collect());
    }
    if chains.len() > 1 {
        world.count("folds of several chains");
    }
    let mut fold = Session::default();
    loop {
        chains.retain(|_, chain| !chain.is_empty());
        let count = chains.len() as u64;
        if count == 0 {
            return Ok(fold);
        }
        let chosen = usize::try_from(world.check_random.borrow_mut().range(0..count)).unwrap_or_default();
        let next = chains.values_mut().nth(chosen).and_then(Vec::pop);
        if let Some(entry) = next {
            fold.apply(entry).map_err(|error| error.to_string())?;
        }
    }
}

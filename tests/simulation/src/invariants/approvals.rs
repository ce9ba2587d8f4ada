//! A call that needs an approval runs at most once, over all words that are given on it, and never if the word was no.

use std::collections::BTreeMap;

use crate::world::World;

/// The requests for an approval that clients have seen, and the words that they gave.
#[derive(Debug, Default)]
pub(crate) struct Approvals(BTreeMap<String, Request>);

#[derive(Debug, Default)]
struct Request {
    /// What is to be done.
    business: String,
    words: Vec<Word>,
}

#[derive(Debug)]
struct Word {
    turn: String,
    yes: bool,
    /// `None`: its client never learned.
    taken: Option<bool>,
}

impl Approvals {
    /// A client gives its word on `request` with the turn `turn`.
    pub(crate) fn say(&mut self, request: &str, business: &str, turn: &str, yes: bool) {
        let known = self.0.entry(request.to_owned()).or_default();
        business.clone_into(&mut known.business);
        known.words.push(Word { turn: turn.to_owned(), yes, taken: None });
    }

    /// The client learns whether the word that came with `turn` was taken. `Err` if it was refused for no reason.
    pub(crate) fn learn(&mut self, request: &str, turn: &str, taken: bool) -> Result<(), String> {
        let Some(known) = self.0.get_mut(request) else { return Ok(()) };
        let alone = known.words.len() == 1;
        if let Some(word) = known.words.iter_mut().find(|word| word.turn == turn) {
            word.taken = Some(taken);
        }
        if taken || !alone { Ok(()) } else { Err(format!("the only word on {request} was refused")) }
    }
}

/// Looks at all requests, once everything has happened.
pub(crate) fn approvals(world: &World) {
    let effects = world.effects.borrow();
    for (id, request) in &world.approvals.borrow().0 {
        let count = effects.count("guarded", &request.business);
        let bad = |why: &str| world.violation(format_args!("{id}: {why}, {count} effects, {request:?}"));
        let taken =
            |yes: bool| request.words.iter().filter(move |word| word.taken == Some(true) && word.yes == yes);
        let known = request.words.iter().all(|word| word.taken.is_some());
        if taken(true).count() + taken(false).count() > 1 {
            bad("more than one word was taken");
        }
        if taken(false).count() > 0 || known && taken(true).count() == 0 {
            world.saw("calls that were denied");
            if count > 0 {
                bad("it was denied and made");
            }
        }
        if taken(true).count() > 0 && count > 0 {
            world.saw("calls that were approved and made");
        }
        if request.words.iter().any(|word| word.taken == Some(false)) {
            world.saw("second words that were refused");
        }
    }
}

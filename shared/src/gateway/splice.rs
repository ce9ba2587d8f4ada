//! Joins the rest of an answer to its beginning.

/// Looks at the beginning of a continuation for what was already said.
///
/// A model that is told to go on sometimes takes up the last word again, or begins from the start. What can't be a
/// repetition any more is handed on; what may still be one is held, at most as much as was said.
#[derive(Debug)]
pub(super) struct Splice {
    sent: String,
    held: String,
    done: bool,
}

/// A repetition must have letters to be one: `1, 1` and `((` are told apart from a model that repeats itself.
const LEAST_LETTERS: usize = 2;

/// How far back a repetition can begin, if it is not the whole answer. Longer ones are found as a new beginning.
const FARTHEST_BYTES: usize = 400;

impl Splice {
    /// After `sent`, by a model that was told to go on.
    pub(super) fn after_instruction(sent: String) -> Self {
        Self { done: sent.is_empty(), sent, held: String::new() }
    }

    /// By a model that writes on from what it is given, which was all of the answer but the white space at its end.
    pub(super) fn after_prefill(sent: &str) -> Self {
        let space = sent.get(sent.trim_end().len()..).unwrap_or_default();
        Self { done: space.is_empty(), sent: space.to_owned(), held: String::new() }
    }

    /// Takes the next piece of the continuation; gives what is new of it.
    pub(super) fn push(&mut self, text: &str) -> String {
        if self.done {
            return text.to_owned();
        }
        self.held.push_str(text);
        if self.may_go_on() { String::new() } else { self.finish() }
    }

    /// The continuation has ended: gives what is new of what was held.
    pub(super) fn finish(&mut self) -> String {
        self.done = true;
        let mut held = std::mem::take(&mut self.held);
        held.split_off(self.repeated(&held))
    }

    /// Whether all that is held may be the beginning of a longer repetition.
    fn may_go_on(&self) -> bool {
        let held = self.held.as_str();
        let again = held.len() < self.sent.len() && self.sent.starts_with(held);
        again || self.tails().any(|tail| tail.len() > held.len() && tail.starts_with(held))
    }

    /// How many bytes of `held` were already said.
    fn repeated(&self, held: &str) -> usize {
        if held.starts_with(&self.sent) {
            return self.sent.len();
        }
        self.tails().find(|tail| held.starts_with(tail)).map_or(0, str::len)
    }

    /// Ends of what was sent that can be repetitions, the longest first: they begin where a word does.
    fn tails(&self) -> impl Iterator<Item = &str> {
        let far = self.sent.len().saturating_sub(FARTHEST_BYTES);
        let starts = self.sent.char_indices().map(|(at, _)| at).filter(move |at| *at >= far);
        let tails = starts.filter_map(|at| {
            let (before, tail) = self.sent.split_at_checked(at)?;
            let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            let within_word = inside(before.chars().next_back()) && inside(tail.chars().next());
            let letters = tail.chars().filter(|c| c.is_alphabetic()).count();
            (!within_word && letters >= LEAST_LETTERS).then_some(tail)
        });
        // White space alone counts where nothing else was kept.
        let space = Some(self.sent.as_str()).filter(|sent| sent.trim().is_empty() && !sent.is_empty());
        tails.chain(space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the pieces, the answer is the same.
    fn check(sent: &str, rest: &str, expected: &str) {
        let whole = |mut splice: Splice, pieces: &mut dyn Iterator<Item = String>| {
            let joined: String = pieces.map(|piece| splice.push(&piece)).collect();
            joined + &splice.finish()
        };
        let told = || Splice::after_instruction(sent.to_owned());
        assert_eq!(whole(told(), &mut std::iter::once(rest.to_owned())), expected, "{rest:?} after {sent:?}");
        let mut single = rest.chars().map(String::from);
        assert_eq!(whole(told(), &mut single), expected, "{rest:?} after {sent:?}, by characters");
    }

    #[test]
    fn what_was_said_is_not_said_again() {
        check("All is", " well", " well");
        check("All is", " is well", " well");
        check("All is", "is well", " well");
        check("All is wel", "well, é🙂", "l, é🙂");
        check("All is", "All is well", " well");
        check("All is well", "All is lost", "All is lost");
        check("ha", "t", "t");
        check("1, 2, 1", "1 more", "1 more");
        check("", "All", "All");
        check("é🙂 ö", "ö", "ö");
        check("and so on", "", "");
    }

    #[test]
    fn space_before_a_continuation_is_not_doubled() {
        let join = |sent, rest: &str| {
            let mut splice = Splice::after_prefill(sent);
            splice.push(rest) + &splice.finish()
        };
        assert_eq!(join("All is ", " well"), "well");
        assert_eq!(join("All is ", "well"), "well");
        assert_eq!(join("All is", " well"), " well");
    }
}

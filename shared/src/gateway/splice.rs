//! Joins a continuation to an interrupted answer, and removes what the model repeats. Works on text alone.

/// Removes text from the beginning of a continuation that the client has already received.
///
/// A model that is asked to continue sometimes repeats the last words, or starts over. Text that may still be such a
/// repetition is held back, at most as much as was sent.
#[derive(Debug)]
pub(super) struct Splice {
    /// What the client has received.
    sent: String,
    /// The beginning of the continuation, while it may still be a repetition.
    held: String,
    /// Whether repetitions are ruled out, so that all further text passes.
    done: bool,
}

/// Fewest letters of a repetition: text such as `1, 1` or `((` repeats itself legitimately.
const MIN_LETTERS: usize = 2;

/// How far back a repetition may start, unless the model starts over. Bounds the comparisons for
/// each piece.
const MAX_REPEATED_BYTES: usize = 400;

impl Splice {
    /// For a model that was instructed to continue after `sent`.
    pub(super) fn after_instruction(sent: String) -> Self {
        Self { done: sent.is_empty(), sent, held: String::new() }
    }

    /// For a model that got `sent` as a prefill. Only the white space at its end can be repeated: the prefill lacked
    /// it.
    pub(super) fn after_prefill(sent: &str) -> Self {
        let space = sent.get(sent.trim_end().len()..).unwrap_or_default();
        Self { done: space.is_empty(), sent: space.to_owned(), held: String::new() }
    }

    /// Takes the next piece of the continuation and returns the text to send.
    pub(super) fn push(&mut self, text: &str) -> String {
        if self.done {
            return text.to_owned();
        }
        self.held.push_str(text);
        if self.may_be_repetition() { String::new() } else { self.finish() }
    }

    /// Ends the search and returns what is new in the text held back.
    pub(super) fn finish(&mut self) -> String {
        self.done = true;
        let mut held = std::mem::take(&mut self.held);
        held.split_off(self.repeated_bytes(&held))
    }

    /// Whether the whole text held back may be the beginning of a longer repetition.
    fn may_be_repetition(&self) -> bool {
        let held = self.held.as_str();
        let starts_over = held.len() < self.sent.len() && self.sent.starts_with(held);
        starts_over || self.tails().any(|tail| tail.len() > held.len() && tail.starts_with(held))
    }

    /// How many bytes at the beginning of `held` repeat what was sent.
    fn repeated_bytes(&self, held: &str) -> usize {
        if held.starts_with(&self.sent) {
            return self.sent.len();
        }
        self.tails().find(|tail| held.starts_with(tail)).map_or(0, str::len)
    }

    /// The ends of `sent` that a model may repeat, longest first. Each starts at a word.
    fn tails(&self) -> impl Iterator<Item = &str> {
        let earliest = self.sent.len().saturating_sub(MAX_REPEATED_BYTES);
        let starts = self.sent.char_indices().map(|(at, _)| at).filter(move |at| *at >= earliest);
        let tails = starts.filter_map(|at| {
            let (before, tail) = self.sent.split_at_checked(at)?;
            let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            let within_word = is_word(before.chars().next_back()) && is_word(tail.chars().next());
            let letters = tail.chars().filter(|c| c.is_alphabetic()).count();
            (!within_word && letters >= MIN_LETTERS).then_some(tail)
        });
        // After a prefill, `sent` is white space alone, which has no letters.
        let space = Some(self.sent.as_str()).filter(|sent| sent.trim().is_empty() && !sent.is_empty());
        tails.chain(space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joins `rest` to `sent`, in one piece and by characters.
    fn check(sent: &str, rest: &str, expected: &str) {
        let join = |mut splice: Splice, pieces: &mut dyn Iterator<Item = String>| {
            let joined: String = pieces.map(|piece| splice.push(&piece)).collect();
            joined + &splice.finish()
        };
        let splice = || Splice::after_instruction(sent.to_owned());
        assert_eq!(
            join(splice(), &mut std::iter::once(rest.to_owned())),
            expected,
            "{rest:?} after {sent:?}"
        );
        let mut single = rest.chars().map(String::from);
        assert_eq!(join(splice(), &mut single), expected, "{rest:?} after {sent:?}, by characters");
    }

    #[test]
    fn removes_repeated_text() {
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
    fn does_not_double_the_space_before_a_continuation() {
        let join = |sent, rest: &str| {
            let mut splice = Splice::after_prefill(sent);
            splice.push(rest) + &splice.finish()
        };
        assert_eq!(join("All is ", " well"), "well");
        assert_eq!(join("All is ", "well"), "well");
        assert_eq!(join("All is", " well"), " well");
    }
}

use std::io::{IsTerminal, Write, stderr, stdin, stdout};

/// What the user sees: answers on stdout, everything else on stderr, so that a pipe gets the answers only.
pub(super) struct Terminal {
    /// Whether somebody types.
    pub(super) asks: bool,
    /// Whether answers are seen, and not piped elsewhere.
    shows: bool,
    colours: bool,
    /// Whether stdout is at the beginning of a line.
    fresh: bool,
}

impl Terminal {
    pub(super) fn new() -> Self {
        // <https://no-color.org>
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            asks: stdin().is_terminal() && stderr().is_terminal(),
            shows: stdout().is_terminal(),
            colours: stderr().is_terminal() && !no_colour,
            fresh: true,
        }
    }

    /// More of an answer.
    pub(super) fn text(&mut self, text: &str) {
        // A model must not steer the terminal.
        let text = if self.shows { printable(text) } else { text.to_owned() };
        if let Some(last) = text.chars().next_back() {
            self.fresh = last == '\n';
        }
        // Who does not want the answer any more need not get it.
        let mut out = stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Ends the line of an answer.
    pub(super) fn end_line(&mut self) {
        if !self.fresh {
            self.text("\n");
        }
    }

    /// A line that is no answer.
    pub(super) fn note(&mut self, note: &str) {
        if note.is_empty() {
            return;
        }
        if self.shows {
            self.end_line();
        }
        let note = printable(note);
        let line = if self.colours { format!("\x1b[2m{note}\x1b[0m\n") } else { format!("{note}\n") };
        let _ = stderr().lock().write_all(line.as_bytes());
    }

    /// Says that it is the user's turn.
    pub(super) fn prompt(&self, prompt: &str) {
        if self.asks {
            let _ = stderr().lock().write_all(prompt.as_bytes());
        }
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control() || matches!(char, '\n' | '\t')).collect()
}

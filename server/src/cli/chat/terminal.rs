//! Writes to the user's terminal: answers to stdout, everything else to stderr, so that a pipe gets the answers only.

use std::io::{IsTerminal, Write, stderr, stdin, stdout};

use outlive_server::log::has_colours;

/// The terminal, or what replaces it in a pipe.
pub(super) struct Terminal {
    /// Whether a user can type answers to prompts.
    pub(super) is_interactive: bool,
    stdout_is_terminal: bool,
    has_colours: bool,
    /// Whether stdout is at the beginning of a line.
    at_line_start: bool,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self {
            is_interactive: stdin().is_terminal() && stderr().is_terminal(),
            stdout_is_terminal: stdout().is_terminal(),
            has_colours: has_colours(&stderr()),
            at_line_start: true,
        }
    }

    /// Writes a piece of an answer.
    pub(super) fn write_answer(&mut self, text: &str) {
        // Control characters from a model must not reach the terminal; a pipe gets the answer as it is.
        let text = if self.stdout_is_terminal { printable(text) } else { text.to_owned() };
        if let Some(last) = text.chars().next_back() {
            self.at_line_start = last == '\n';
        }
        // Write errors are ignored: the reader of the pipe has closed it.
        let mut out = stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Ends the current line of an answer, if there is one.
    pub(super) fn end_line(&mut self) {
        if !self.at_line_start {
            self.write_answer("\n");
        }
    }

    /// Writes a line about the answer; an empty note is skipped.
    pub(super) fn note(&mut self, note: &str) {
        if note.is_empty() {
            return;
        }
        // Only on a terminal do answer and note share a screen; in a pipe the line break would change the answer.
        if self.stdout_is_terminal {
            self.end_line();
        }
        let note = printable(note);
        let line = if self.has_colours { format!("\x1b[2m{note}\x1b[0m\n") } else { format!("{note}\n") };
        let _ = stderr().lock().write_all(line.as_bytes());
    }

    /// Shows a prompt for the user's next line.
    pub(super) fn prompt(&self, prompt: &str) {
        if self.is_interactive {
            let _ = stderr().lock().write_all(prompt.as_bytes());
        }
    }
}

/// `text` without control characters, except line breaks and tabs.
fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control() || matches!(char, '\n' | '\t')).collect()
}

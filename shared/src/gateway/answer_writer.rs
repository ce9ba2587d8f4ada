use std::{cell::RefCell, rc::Rc};

use super::{attempt::Meter, delta_sink::DeltaSink, splice::Splice};
use crate::{
    usage::Usage,
    wire::{Delta, Transcript, Writer},
};

/// What was said, and how more of it is written.
pub(super) struct AnswerWriter {
    /// `None`: the client speaks the provider's format, and gets the provider's events.
    pub(super) writer: Option<Writer>,
    /// Who gets the deltas instead of a client.
    pub(super) tap: Option<DeltaSink>,
    pub(super) transcript: Transcript,
    /// Where the rest of a broken answer is joined to it.
    pub(super) splice: Option<Splice>,
    /// What the attempts before this one used.
    pub(super) before: Usage,
    /// Counts what this attempt costs.
    pub(super) meter: Rc<RefCell<Meter>>,
}

impl AnswerWriter {
    /// Takes one more piece in, and writes it.
    pub(super) fn take(&mut self, delta: Delta<'_>, out: &mut Vec<u8>) {
        self.meter.borrow_mut().count(&delta);
        let Some(splice) = &mut self.splice else { return self.add(&delta, out) };
        match delta {
            // They belong to an answer that the client knows nothing of; thoughts are not thought twice.
            Delta::Start { .. } | Delta::Reasoning(_) | Delta::Signature(_) | Delta::Redacted(_) => {}
            Delta::Text(text) => {
                let new = splice.push(&text);
                self.add_text(new, out);
            }
            Delta::Usage(usage) => {
                let mut all = self.before;
                all += usage;
                self.add(&Delta::Usage(all), out);
            }
            Delta::Refusal(_) | Delta::Call { .. } | Delta::Arguments { .. } | Delta::Stop(_) => {
                let held = splice.finish();
                self.add_text(held, out);
                self.add(&delta, out);
            }
        }
    }

    fn add_text(&mut self, text: String, out: &mut Vec<u8>) {
        if !text.is_empty() {
            self.add(&Delta::Text(text.into()), out);
        }
    }

    fn add(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        self.transcript.apply(delta);
        if let Some(tap) = &self.tap {
            tap.push(delta);
        }
        if let Some(writer) = &mut self.writer {
            writer.write(delta, out);
        }
    }
}

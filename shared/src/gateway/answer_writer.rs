//! Applies an answer's deltas: counts them, keeps them as a transcript, and writes them in the client's format. Reads
//! no stream; that is `relay.rs`.

use std::{cell::RefCell, rc::Rc};

use super::{attempt::Meter, delta_sink::DeltaSink, splice::Splice};
use crate::{
    usage::Usage,
    wire::{Delta, Stop, Transcript, Writer},
};

/// The answer so far, and what each further delta goes to.
pub(super) struct AnswerWriter {
    /// Writes the client's format; `None` if the provider's events are passed on unchanged or a delta sink is used.
    pub(super) writer: Option<Writer>,
    /// Receives the deltas instead of a client.
    pub(super) delta_sink: Option<DeltaSink>,
    /// The answer of all attempts so far.
    pub(super) transcript: Transcript,
    /// Joins a continuation to the answer; `None` during the first attempt.
    pub(super) splice: Option<Splice>,
    /// The usage of the earlier attempts, which the client's usage includes.
    pub(super) earlier_usage: Usage,
    /// Counts the usage of this attempt.
    pub(super) meter: Rc<RefCell<Meter>>,
}

impl AnswerWriter {
    /// Applies one delta, and appends what the client gets of it to `out`.
    pub(super) fn apply(&mut self, delta: Delta<'_>, out: &mut Vec<u8>) {
        self.meter.borrow_mut().count(&delta);
        let Some(splice) = &mut self.splice else { return self.add(&delta, out) };
        match delta {
            // The client has already received the start of the answer, and a continuation's new thoughts would not fit
            // it.
            Delta::Start { .. } | Delta::Reasoning(_) | Delta::Signature(_) | Delta::Redacted(_) => {}
            Delta::Text(text) => {
                let unrepeated = splice.push(&text);
                self.add_text(unrepeated, out);
            }
            Delta::Usage(usage) => {
                let mut total = self.earlier_usage;
                total += usage;
                self.add(&Delta::Usage(total), out);
            }
            Delta::Refusal(_) | Delta::Call { .. } | Delta::Arguments { .. } | Delta::Stop(_) => {
                let held = splice.finish();
                self.add_text(held, out);
                self.add(&delta, out);
            }
        }
    }

    /// Ends an answer that the provider broke off at the client's limit. The meter does not count this end, since the
    /// provider did not send it.
    pub(super) fn stop_at_limit(&mut self, out: &mut Vec<u8>) {
        let held = self.splice.as_mut().map(Splice::finish).unwrap_or_default();
        self.add_text(held, out);
        self.add_reported_usage(out);
        self.add(&Delta::Stop(Stop::Length), out);
    }

    /// Writes the usage of an answer whose provider reports none: clients compute from it what is left of a context.
    pub(super) fn complete_usage(&mut self, out: &mut Vec<u8>) {
        if self.writer.is_some() && self.transcript.usage.is_none() {
            self.add_reported_usage(out);
        }
    }

    fn add_reported_usage(&mut self, out: &mut Vec<u8>) {
        let mut usage = self.earlier_usage;
        usage += self.meter.borrow().reported_usage();
        self.add(&Delta::Usage(usage), out);
    }

    fn add_text(&mut self, text: String, out: &mut Vec<u8>) {
        if !text.is_empty() {
            self.add(&Delta::Text(text.into()), out);
        }
    }

    fn add(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        self.transcript.apply(delta);
        if let Some(delta_sink) = &self.delta_sink {
            delta_sink.push(delta);
        }
        if let Some(writer) = &mut self.writer {
            writer.write(delta, out);
        }
    }
}

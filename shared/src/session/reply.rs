use serde_json::{Value, json};

use super::{
    entry::{Entry, Kind, LogId},
    log::FoldError,
    turn::{self, Closed, Opened, Outcome, ResponseId, TurnError},
};
use crate::wire::{Frame, Transcript, responses::Writer};

/// A turn as its client sees it: the response, and the events that lead to it. A function of the turn's entries, so that
/// whoever reads them sees the same events with the same numbers.
#[derive(Debug)]
pub struct Reply {
    id: ResponseId,
    after: Option<u64>,
    state: Option<State>,
}

#[derive(Debug)]
struct State {
    opened: Opened,
    writer: Writer,
    running: bool,
    closed: Option<Closed>,
}

impl Reply {
    /// Of a turn of which nothing is known yet. Events up to the number `after` are not written.
    pub fn new(id: ResponseId, after: Option<u64>) -> Self {
        Self { id, after, state: None }
    }

    /// Takes one more entry of the turn in, and writes the events that it brings.
    pub fn apply(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), FoldError> {
        if entry.is_erased() {
            return Ok(());
        }
        let at = entry.header().hlc.timestamp().unix_seconds();
        match (entry.header().kind, &mut self.state) {
            (Kind::TURN_OPENED, state @ None) => {
                let opened = Opened::read(entry)?;
                let frame = Frame {
                    id: self.id.to_string(),
                    created: at,
                    model: opened.model.clone(),
                    request: Some(echo(&opened, self.id.log)),
                    ..Frame::default()
                };
                let mut writer = Writer::new(frame).after_event(self.after);
                writer.begin(if opened.background { "queued" } else { "in_progress" }, out);
                let running = opened.runs;
                if running {
                    writer.progress(out);
                }
                *state = Some(State { opened, writer, running, closed: None });
            }
            (Kind::TURN_RUN, Some(state)) if !state.running => {
                state.running = true;
                state.writer.progress(out);
            }
            (Kind::DELTAS, Some(state)) if state.closed.is_none() => {
                let (again, deltas) = turn::said(entry)?;
                if again {
                    state.writer.take_back(0, out);
                }
                deltas.iter().for_each(|delta| state.writer.write(delta, out));
            }
            (Kind::TURN_CLOSED, Some(state)) if state.closed.is_none() => {
                let closed = Closed::read(entry)?;
                state.writer.frame_mut().completed = Some(at);
                state.close(&closed, out);
                state.closed = Some(closed);
            }
            _ => {}
        }
        Ok(())
    }

    /// The response as it is now; `None` while nothing is known of it.
    pub fn response(&self) -> Option<Value> {
        let State { opened, writer, running, closed } = self.state.as_ref()?;
        let error = closed.as_ref().and_then(|closed| closed.error.as_ref()).map(error_object);
        let status = match closed {
            Some(closed) => closed.outcome.name(),
            None if !running && opened.background => "queued",
            None => "in_progress",
        };
        Some(writer.response(status, error))
    }

    /// What was asked.
    pub fn opened(&self) -> Option<&Opened> {
        self.state.as_ref().map(|state| &state.opened)
    }

    /// How it ended, if it has.
    pub fn closed(&self) -> Option<&Closed> {
        self.state.as_ref()?.closed.as_ref()
    }

    /// What was said so far.
    pub fn answer(&self) -> Option<&Transcript> {
        self.state.as_ref().map(|state| state.writer.answer())
    }

    /// How many events there have been.
    pub fn events(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.writer.events())
    }
}

impl State {
    fn close(&mut self, closed: &Closed, out: &mut Vec<u8>) {
        let (answer, writer) = (closed.answer(), &mut self.writer);
        let begun = writer.answer().clone();
        // What a dead run said may have been said anew since.
        let mut rest = answer.beyond(&begun);
        let mut joined = begun;
        rest.iter().for_each(|delta| joined.apply(delta));
        if joined.blocks != answer.blocks {
            writer.take_back(0, out);
            rest = answer.beyond(&Transcript::default());
        }
        rest.iter().for_each(|delta| writer.write(delta, out));
        match closed.outcome {
            Outcome::Completed | Outcome::Incomplete => writer.finish(None, out),
            Outcome::Failed => writer.end("failed", closed.error.as_ref().map(error_object), out),
            Outcome::Cancelled => writer.end("cancelled", None, out),
        }
    }
}

/// What the response says again of the request.
fn echo(opened: &Opened, log: LogId) -> Value {
    let mut echo = opened.request.clone();
    let previous = opened.previous().map(|turn| ResponseId { log, turn }.to_string());
    let conversation = opened.in_conversation.then(|| json!({"id": format!("conv_{log}")}));
    for (name, value) in [
        ("store", opened.store.into()),
        ("background", opened.background.into()),
        ("previous_response_id", previous.into()),
        ("conversation", conversation.into()),
    ] {
        echo.insert(name.into(), value);
    }
    Value::Object(echo)
}

/// The vendor's clients know few codes.
fn error_object(error: &TurnError) -> Value {
    let code = match error.status {
        429 => "rate_limit_exceeded",
        400..500 => "invalid_prompt",
        _ => "server_error",
    };
    json!({"code": code, "message": error.message})
}

//! Folds the entries of one turn into its response and event stream in the Responses API's format. Knows nothing of
//! HTTP.

use serde_json::{Value, json};

use super::{
    progress::TurnProgress,
    step::{CallEnded, CallsStarted, StepEnded, ToolsListed},
    turn::{self, AnsweredBy, Deltas, ResponseId, TurnClosed, TurnError, TurnOpened, TurnOutcome},
};
use crate::{
    entry::{Entry, Kind, LogId},
    log::FoldError,
    money::NanoUsd,
    wire::{Frame, Transcript, responses::Writer},
};

/// A turn as its client sees it: the response, and the events that lead to it. Both are a function of the turn's
/// entries, so every node writes the same events with the same numbers.
#[derive(Debug)]
pub struct ResponseFold {
    id: ResponseId,
    /// Events up to this number are skipped.
    after: Option<u64>,
    /// `None` until the turn is opened.
    state: Option<OpenedResponse>,
}

#[derive(Debug)]
struct OpenedResponse {
    progress: TurnProgress,
    writer: Writer,
    /// Whether its first run has started.
    running: bool,
}

impl ResponseFold {
    /// The empty fold of the turn `id`. Events up to the number `after` are not written.
    pub fn new(id: ResponseId, after: Option<u64>) -> Self {
        Self { id, after, state: None }
    }

    /// Applies one more entry of the turn and appends its events to `out`.
    pub fn apply(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), FoldError> {
        if entry.is_erased() {
            return Ok(());
        }
        let (header, at) = (entry.header(), entry.header().hlc.timestamp().unix_seconds());
        let Some(state) = &mut self.state else {
            if header.kind == Kind::TURN_OPENED {
                self.open(entry, at, out)?;
            }
            return Ok(());
        };
        // The final event was written: nothing may follow it.
        if state.progress.closed().is_some() {
            return Ok(());
        }
        let writer = &mut state.writer;
        match header.kind {
            Kind::TURN_RUN if !state.running => {
                state.running = true;
                writer.write_in_progress(out);
            }
            Kind::DELTAS => {
                let Deltas { again, deltas, .. } = turn::read(entry)?;
                if again {
                    writer.discard(out);
                }
                deltas.iter().for_each(|delta| writer.write(delta, out));
            }
            Kind::TOOLS_LISTED => {
                let listed: ToolsListed = turn::read(entry)?;
                writer.set_tools(listed.served());
                listed.lists.into_iter().for_each(|list| writer.write_item("mcp_list_tools", list, out));
            }
            Kind::STEP_ENDED => {
                catch_up(writer, &turn::read(entry)?, out);
                writer.begin_step(out);
            }
            Kind::CALLS_STARTED => {
                let started: CallsStarted = turn::read(entry)?;
                for call in started.approved {
                    writer.begin_call(&call.item, &call.arguments, call.served(None), out);
                }
            }
            Kind::CALL_ENDED => {
                let ended: CallEnded = turn::read(entry)?;
                let (call, result) = (&ended.call, Some(ended.result()));
                writer.end_call(&call.item, &call.arguments, call.served(result), out);
            }
            Kind::TURN_CLOSED => {
                let closed = TurnClosed::read(entry)?;
                // The frame is part of the final event, so it is complete before that is written.
                writer.frame_mut().completed = Some(at);
                writer.frame_mut().mark = about(&state.progress, &closed);
                catch_up(writer, &closed.last, out);
                match closed.outcome {
                    TurnOutcome::Completed | TurnOutcome::Incomplete => writer.finish(None, out),
                    TurnOutcome::Failed => writer.end("failed", closed.error.as_ref().map(error_object), out),
                    TurnOutcome::Cancelled => writer.end("cancelled", None, out),
                }
            }
            _ => {}
        }
        // Last, since the arms above read the progress before this entry.
        state.progress.apply(entry)
    }

    fn open(&mut self, entry: &Entry, at: u64, out: &mut Vec<u8>) -> Result<(), FoldError> {
        let opened = TurnOpened::read(entry)?;
        let frame = Frame {
            id: self.id.to_string(),
            created: at,
            model: opened.model.clone(),
            request: Some(echo(&opened, self.id.log)),
            ..Frame::default()
        };
        let mut writer = Writer::new(frame).after_event(self.after);
        writer.begin(if opened.background { "queued" } else { "in_progress" }, out);
        if opened.runs {
            writer.write_in_progress(out);
        }
        let mut progress = TurnProgress::default();
        progress.apply(entry)?;
        self.state = Some(OpenedResponse { progress, writer, running: opened.runs });
        Ok(())
    }

    /// The response as it is now; `None` until the turn is opened.
    pub fn response(&self) -> Option<Value> {
        let OpenedResponse { progress, writer, running } = self.state.as_ref()?;
        let closed = progress.closed();
        let error = closed.and_then(|closed| closed.error.as_ref()).map(error_object);
        let status = match closed {
            Some(closed) => closed.outcome.name(),
            None if !running && progress.opened().is_some_and(|opened| opened.background) => "queued",
            None => "in_progress",
        };
        Some(writer.response(status, error))
    }

    /// The turn's request, once it is opened.
    pub fn opened(&self) -> Option<&TurnOpened> {
        self.progress()?.opened()
    }

    /// How the turn ended, once it is closed.
    pub fn closed(&self) -> Option<&TurnClosed> {
        self.progress()?.closed()
    }

    /// The turn's progress, once it is opened.
    pub fn progress(&self) -> Option<&TurnProgress> {
        self.state.as_ref().map(|state| &state.progress)
    }

    /// The candidate that answers, once the log has it.
    pub fn answered_by(&self) -> Option<&AnsweredBy> {
        self.progress()?.answered_by()
    }

    /// How many events have been produced, skipped ones included.
    pub fn events(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.writer.event_count())
    }
}

/// The candidate of the last answer, and the cost of the whole turn as far as prices are known.
fn about(progress: &TurnProgress, closed: &TurnClosed) -> Option<Value> {
    let all = progress.steps().iter().chain([&closed.last]);
    let cost = all.clone().filter_map(StepEnded::cost).reduce(NanoUsd::saturating_add);
    let candidate = all.filter_map(|step| step.candidate.as_deref()).next_back()?;
    let (provider, model) = candidate.split_once('/')?;
    Some(json!({"provider": provider, "model": model, "cost_usd": cost.map(|cost| cost.to_string())}))
}

/// Writes the part of `step` that its deltas have not shown yet.
fn catch_up(writer: &mut Writer, step: &StepEnded, out: &mut Vec<u8>) {
    let (answer, shown) = (step.answer(), writer.transcript());
    let mut rest = answer.deltas_after(&shown);
    // The deltas may be of a dead run whose answer a later run did not continue: then the whole answer is written.
    let mut joined = shown;
    rest.iter().for_each(|delta| joined.apply(delta));
    if joined.blocks != answer.blocks {
        writer.discard(out);
        rest = answer.deltas_after(&Transcript::default());
    }
    rest.iter().for_each(|delta| writer.write(delta, out));
}

/// The request's fields that the response repeats.
fn echo(opened: &TurnOpened, log: LogId) -> Value {
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

/// A turn's error in the Responses API's format, whose clients know only these codes.
fn error_object(error: &TurnError) -> Value {
    let code = match error.status {
        429 => "rate_limit_exceeded",
        400..500 => "invalid_prompt",
        _ => "server_error",
    };
    json!({"code": code, "message": error.message})
}

//! Follows one turn of the agent from its request to its end, over broken connections and restarted nodes. `screen.rs`
//! decides what of its events is shown.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::signal::unix::Signal;

use super::{
    screen::{Screen, ScreenOutput},
    terminal::Terminal,
};
use crate::cli::{
    client::{ApiRequest, Client, EventStream, RequestError},
    retry::RetryPolicy,
};

/// One turn.
///
/// Until its id is known, the request is repeated under the same `Idempotency-Key`, which opens the turn only once.
/// After that, any node can continue the stream from a sequence number.
pub(super) struct Turn<'a> {
    client: &'a Client,
    body: Bytes,
    idempotency_key: String,
    response_id: Option<String>,
    /// Sequence number of the next event.
    next_event: u64,
    screen: Screen,
    /// Whether the user has read that the connection broke: one note is enough.
    reconnect_noted: bool,
}

/// Longest wait for the id of a turn that the user cancels: a little more than a node may hold it.
const ID_TIMEOUT: Duration = Duration::from_secs(4);

/// How a turn ended for the user.
pub(super) enum TurnEnd {
    /// The turn ended with this response.
    Response(Value),
    /// The turn can't be followed any further, for this reason.
    Failed(String),
    /// The user interrupted it a second time.
    Quit,
}

/// How one stream of events ended.
enum StreamEnd {
    /// With the turn's last event, which holds this response.
    Response(Value),
    /// Early, but after at least one new event.
    Progress,
    /// Early, without a new event.
    NoProgress(RequestError),
}

impl<'a> Turn<'a> {
    pub(super) fn new(client: &'a Client, body: Bytes, idempotency_key: String) -> Self {
        Self {
            client,
            body,
            idempotency_key,
            response_id: None,
            next_event: 0,
            screen: Screen::default(),
            reconnect_noted: false,
        }
    }

    /// Shows the answer as it arrives. The first interrupt cancels the turn, the second one leaves it.
    pub(super) async fn run(mut self, terminal: &mut Terminal, interrupts: &mut Signal) -> TurnEnd {
        let end = tokio::select! {
            end = self.follow(terminal) => Some(end),
            _ = interrupts.recv() => None,
        };
        if let Some(end) = end {
            return end;
        }
        terminal.note("cancelling; press Ctrl-C again to quit");
        if self.response_id.is_none() {
            // A node may hold the first event, and with it the id, until the model answers.
            tokio::select! {
                end = self.follow(terminal) => return end,
                _ = interrupts.recv() => return TurnEnd::Quit,
                () = tokio::time::sleep(ID_TIMEOUT) => {}
            }
        }
        let Some(id) = &self.response_id else {
            return TurnEnd::Failed("interrupted before a node confirmed the message".into());
        };
        let cancel = ApiRequest::post(format!("/v1/responses/{id}/cancel"), Bytes::new());
        let end = async {
            if let Err(error) = self.client.send_with_retries(&cancel).await {
                // Not an error of the turn, which may have ended before.
                terminal.note(&error.to_string());
            }
            // The cancelled turn still has a last event, which says how it ended.
            self.follow(terminal).await
        };
        tokio::select! {
            end = end => end,
            _ = interrupts.recv() => TurnEnd::Quit,
        }
    }

    /// Follows the turn to its end, with retries. Cancel-safe: a later call continues where this one was dropped.
    async fn follow(&mut self, terminal: &mut Terminal) -> TurnEnd {
        let mut retries = RetryPolicy::new(self.client.node_count());
        loop {
            match self.follow_stream(terminal).await {
                StreamEnd::Response(response) => return TurnEnd::Response(response),
                StreamEnd::Progress => retries = RetryPolicy::new(self.client.node_count()),
                StreamEnd::NoProgress(error) => {
                    let Some(delay) = retries.delay_after(&error, self.client.ever_answered()) else {
                        return TurnEnd::Failed(error.to_string());
                    };
                    if self.client.ever_answered() && !std::mem::replace(&mut self.reconnect_noted, true) {
                        terminal.note("the connection broke; reconnecting");
                    }
                    self.client.switch_node();
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Follows the turn until one stream of events ends.
    async fn follow_stream(&mut self, terminal: &mut Terminal) -> StreamEnd {
        let request = match &self.response_id {
            None => ApiRequest::post("/v1/responses", self.body.clone())
                .with_idempotency_key(self.idempotency_key.clone()),
            Some(id) => {
                let after = self.next_event.checked_sub(1).map(|last| format!("&starting_after={last}"));
                ApiRequest::get(format!("/v1/responses/{id}?stream=true{}", after.unwrap_or_default()))
            }
        };
        let mut events = match self.client.send(&request).await {
            Ok(response) => EventStream::new(response),
            Err(error) => return StreamEnd::NoProgress(error),
        };
        let first_event = self.next_event;
        while let Some(event) = events.next().await {
            let Some(number) = event.get("sequence_number").and_then(Value::as_u64) else { continue };
            // Already shown.
            if number < self.next_event {
                continue;
            }
            // After a gap, the next stream asks for the missing events.
            if number > self.next_event {
                break;
            }
            // Counted before it is shown: nothing awaits in between, so each event is shown once.
            self.next_event += 1;
            let id = event.pointer("/response/id").and_then(Value::as_str);
            self.response_id = self.response_id.take().or(id.map(str::to_owned));
            for output in self.screen.apply(&event) {
                match output {
                    ScreenOutput::Text(text) => terminal.write_answer(&text),
                    ScreenOutput::Note(note) => terminal.note(&note),
                }
            }
            if matches!(
                event.get("type").and_then(Value::as_str),
                Some("response.completed" | "response.incomplete" | "response.failed")
            ) {
                return StreamEnd::Response(event.get("response").cloned().unwrap_or_default());
            }
        }
        if self.next_event > first_event {
            StreamEnd::Progress
        } else {
            StreamEnd::NoProgress(self.client.truncated_stream())
        }
    }
}

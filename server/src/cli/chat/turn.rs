use bytes::Bytes;
use serde_json::Value;
use tokio::signal::unix::Signal;

use super::{
    screen::{Screen, Show},
    terminal::Terminal,
};
use crate::cli::{
    client::{Call, CallError, Client, Events},
    patience::Patience,
};

/// One request to the agent, until its end, whatever breaks on the way.
///
/// The turn is opened under one `Idempotency-Key`, so it can be asked for again while its name is not known; from then on its
/// events are numbered, and whoever knows the turn gives the rest of them.
pub(super) struct Turn<'a> {
    client: &'a Client,
    body: Bytes,
    key: String,
    /// The response's id.
    id: Option<String>,
    /// The number of the event that comes next.
    next: u64,
    screen: Screen,
}

/// How a turn was left.
pub(super) enum End {
    /// This is the response.
    Whole(Value),
    /// It can't be gone on with, for this reason.
    Failed(String),
    /// The user wants to end.
    Quit,
}

/// Why no more events came.
enum Break {
    /// This is the response.
    End(Value),
    /// The stream broke, and had brought something.
    Moved,
    /// Nothing came.
    Stuck(CallError),
}

impl<'a> Turn<'a> {
    pub(super) fn new(client: &'a Client, body: Bytes, key: String) -> Self {
        Self { client, body, key, id: None, next: 0, screen: Screen::default() }
    }

    /// Shows the answer as it comes. The first interrupt cancels the turn, the second one leaves it.
    pub(super) async fn run(mut self, terminal: &mut Terminal, interrupts: &mut Signal) -> End {
        let mut told = false;
        let end = tokio::select! {
            end = self.end(terminal, &mut told) => end,
            _ = interrupts.recv() => None,
        };
        if let Some(end) = end {
            return end;
        }
        let Some(id) = &self.id else { return End::Failed("left before the agent had heard of it".into()) };
        terminal.note("cancelling; interrupt once more to end");
        let cancel = Call::post(format!("/v1/responses/{id}/cancel"), Bytes::new());
        let end = async {
            if let Err(error) = self.client.ask(&cancel).await {
                // It may have ended meanwhile.
                terminal.note(&error.to_string());
            }
            self.end(terminal, &mut told).await
        };
        tokio::select! {
            end = end => end.unwrap_or(End::Quit),
            _ = interrupts.recv() => End::Quit,
        }
    }

    /// Follows the turn over all breaks. Dropping it loses nothing: it can be called again.
    async fn end(&mut self, terminal: &mut Terminal, told: &mut bool) -> Option<End> {
        let mut patience = Patience::new(self.client.nodes());
        loop {
            match self.follow(terminal).await {
                Break::End(response) => return Some(End::Whole(response)),
                Break::Moved => patience = Patience::new(self.client.nodes()),
                Break::Stuck(error) => {
                    let Some(pause) = patience.after(&error, self.client.has_met()) else {
                        return Some(End::Failed(error.to_string()));
                    };
                    if self.client.has_met() && !std::mem::replace(told, true) {
                        terminal.note("the connection broke; taking it up again");
                    }
                    self.client.turn_away();
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Follows the turn as long as one stream of events lasts.
    async fn follow(&mut self, terminal: &mut Terminal) -> Break {
        let call = match &self.id {
            None => Call::post("/v1/responses", self.body.clone()).once(self.key.clone()),
            Some(id) => {
                let after = self.next.checked_sub(1).map(|last| format!("&starting_after={last}"));
                Call::get(format!("/v1/responses/{id}?stream=true{}", after.unwrap_or_default()))
            }
        };
        let mut events = match self.client.send(&call).await {
            Ok(response) => Events::new(response),
            Err(error) => return Break::Stuck(error),
        };
        let start = self.next;
        while let Some(event) = events.next().await {
            let Some(number) = event.get("sequence_number").and_then(Value::as_u64) else { continue };
            if number < self.next {
                continue;
            }
            if number > self.next {
                // What is missing is asked for.
                break;
            }
            self.next += 1;
            let id = event.pointer("/response/id").and_then(Value::as_str);
            self.id = self.id.take().or(id.map(str::to_owned));
            for show in self.screen.apply(&event) {
                match show {
                    Show::Text(text) => terminal.text(&text),
                    Show::Note(note) => terminal.note(&note),
                }
            }
            if matches!(
                event.get("type").and_then(Value::as_str),
                Some("response.completed" | "response.incomplete" | "response.failed")
            ) {
                return Break::End(event.get("response").cloned().unwrap_or_default());
            }
        }
        if self.next > start { Break::Moved } else { Break::Stuck(self.client.broke()) }
    }
}

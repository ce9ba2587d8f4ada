//! Runs `outlive chat`: sends messages to the agent, shows its answers, and asks for approvals. `turn.rs` follows one
//! answer over broken connections.

mod screen;
mod terminal;
mod turn;

use std::{io::BufRead, ops::ControlFlow, thread};

use clap::Args;
use outlive::hex::hex;
use outlive_server::listen;
use serde_json::{Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use super::{
    NodeOptions,
    client::{ApiRequest, Client},
};
use terminal::Terminal;
use turn::{Turn, TurnEnd};

/// Talk to the agent. Without MESSAGE, each line of standard input is a message.
#[derive(Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    nodes: NodeOptions,
    /// The model to ask. Default: the model of the agent's configuration.
    #[arg(long)]
    model: Option<String>,
    /// The conversation to continue. Default: a new conversation.
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
    /// Instructions for the model, sent with every message.
    #[arg(long, value_name = "TEXT")]
    instructions: Option<String>,
    /// The message to send.
    message: Option<String>,
}

const HELP: &str = "/conversation shows the conversation's id, /quit ends the chat; \
                    Ctrl-C cancels an answer, and ends the chat between answers";

/// The state of a running chat.
struct ChatLoop {
    client: Client,
    model: Option<String>,
    instructions: Option<String>,
    /// `None` until the first message creates one.
    conversation: Option<String>,
    terminal: Terminal,
    input_lines: UnboundedReceiver<String>,
    interrupts: Signal,
}

impl Chat {
    pub(crate) fn run(self) -> Result<(), String> {
        let chat = async {
            let mut chat = ChatLoop {
                client: self.nodes.client()?,
                model: self.model,
                instructions: self.instructions,
                conversation: self.conversation,
                terminal: Terminal::new(),
                input_lines: read_stdin(),
                interrupts: signal(SignalKind::interrupt()).map_err(|error| error.to_string())?,
            };
            let result = match &self.message {
                Some(message) => chat.send_message(message).await.map(drop),
                None => chat.run().await,
            };
            // Also after an error: the id is what the user needs to continue.
            chat.terminal.end_line();
            if let Some(conversation) = &chat.conversation {
                chat.terminal.note(&format!("conversation {conversation}"));
            }
            result
        };
        listen::block_on(chat).map_err(|error| error.to_string())?
    }
}

/// Reads lines of standard input on a thread of its own, because a blocking read can't be cancelled.
fn read_stdin() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl ChatLoop {
    /// Sends each line as a message. An error ends the chat unless a user is at the terminal to decide what to do.
    async fn run(&mut self) -> Result<(), String> {
        if self.terminal.is_interactive {
            self.terminal.note(HELP);
        }
        while let Some(line) = self.read_line("> ").await {
            match line.trim() {
                "" => {}
                "/quit" => break,
                "/help" => self.terminal.note(HELP),
                "/conversation" => {
                    let id = self.conversation.as_deref().unwrap_or("none yet: the first message creates it");
                    self.terminal.note(id);
                }
                message => match self.send_message(message).await {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => break,
                    Err(error) if self.terminal.is_interactive => {
                        self.terminal.note(&format!("outlive: {error}"));
                    }
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// The next line of input; `None` at its end or after an interrupt.
    async fn read_line(&mut self, prompt: &str) -> Option<String> {
        self.terminal.prompt(prompt);
        let line = tokio::select! {
            line = self.input_lines.recv() => line,
            _ = self.interrupts.recv() => None,
        };
        if line.is_none() {
            self.terminal.prompt("\n");
        }
        line
    }

    /// Sends a message and shows the answer. As long as an answer asks for approvals, the user's decisions are sent as
    /// the next message. `Break` if the user has quit.
    async fn send_message(&mut self, message: &str) -> Result<ControlFlow<()>, String> {
        let mut input = json!(message);
        loop {
            if self.conversation.is_none() {
                let created = tokio::select! {
                    created = create_conversation(&self.client) => created?,
                    _ = self.interrupts.recv() => return Ok(ControlFlow::Break(())),
                };
                self.conversation = Some(created);
            }
            let body = self.request_body(input);
            let turn = Turn::new(&self.client, body.to_string().into(), idempotency_key()?);
            let response = match turn.run(&mut self.terminal, &mut self.interrupts).await {
                TurnEnd::Response(response) => response,
                TurnEnd::Failed(reason) => {
                    self.terminal.end_line();
                    return Err(reason);
                }
                TurnEnd::Quit => return Ok(ControlFlow::Break(())),
            };
            self.terminal.end_line();
            // Before the status is checked: a response that failed may have been billed too.
            self.terminal.note(&screen::usage_line(&response));
            self.check_status(&response)?;
            let decisions = self.ask_for_approvals(&response).await;
            if decisions.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            input = decisions.into();
        }
    }

    /// The body of `POST /v1/responses`. In the background, so that the turn goes on if the connection breaks.
    fn request_body(&self, input: Value) -> Value {
        let mut body = json!({
            "conversation": self.conversation, "input": input, "stream": true, "background": true, "store": true,
        });
        let fields = [("model", &self.model), ("instructions", &self.instructions)];
        if let Some(body) = body.as_object_mut() {
            for (name, value) in fields {
                body.extend(value.as_ref().map(|value| (name.to_owned(), value.as_str().into())));
            }
        }
        body
    }

    /// Reports a response that did not complete. An incomplete answer is a note, a failed one is an error.
    fn check_status(&mut self, response: &Value) -> Result<(), String> {
        let text = |path: &str| response.pointer(path).and_then(Value::as_str);
        match text("/status") {
            Some("failed") => Err(text("/error/message").unwrap_or("the response failed").to_owned()),
            Some("cancelled") if self.terminal.is_interactive => {
                self.terminal.note("cancelled");
                Ok(())
            }
            Some("cancelled") => Err("cancelled".into()),
            Some("incomplete") => {
                let reason = text("/incomplete_details/reason").unwrap_or("unknown");
                self.terminal.note(&format!("the answer is incomplete: {reason}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks the user about each call that needs an approval. Empty if no call does, or if there is no user to ask.
    async fn ask_for_approvals(&mut self, response: &Value) -> Vec<Value> {
        let output = response.get("output").and_then(Value::as_array).into_iter().flatten();
        let requests = output.filter(|item| item.get("type") == Some(&json!("mcp_approval_request")));
        let mut decisions = Vec::new();
        for item in requests {
            if !self.terminal.is_interactive {
                self.terminal.note("a call needs an approval, which can only be given at a terminal");
                return Vec::new();
            }
            let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
            self.terminal.note(&format!("{} {}", text("name"), text("arguments")));
            let line = self.read_line("approve this call? y/N ").await.unwrap_or_default();
            let approve = matches!(line.trim(), "y" | "Y" | "yes");
            decisions.push(json!({
                "type": "mcp_approval_response", "approval_request_id": text("id"), "approve": approve,
            }));
        }
        decisions
    }
}

/// Creates a conversation and returns its id.
async fn create_conversation(client: &Client) -> Result<String, String> {
    let request = ApiRequest::post("/v1/conversations", "{}").with_idempotency_key(idempotency_key()?);
    let created = client.send_with_retries(&request).await.map_err(|error| error.to_string())?;
    let id = created.get("id").and_then(Value::as_str).map(str::to_owned);
    id.ok_or_else(|| "the node created a conversation without an id".into())
}

/// A random `Idempotency-Key`.
fn idempotency_key() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(hex(&bytes))
}

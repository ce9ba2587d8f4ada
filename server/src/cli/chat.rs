//! `outlive chat`: talks to the agent, and does not mind if a node dies meanwhile.

mod screen;
mod terminal;
mod turn;

use std::{io::BufRead, thread};

use clap::Args;
use outlive::hex::hex;
use outlive_server::listen;
use serde_json::{Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use super::{
    Nodes,
    client::{Call, Client},
};
use terminal::Terminal;
use turn::{End, Turn};

/// Talk to the agent. Without a message, each line of the input is one.
#[derive(Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    nodes: Nodes,
    /// The model to ask; the agent's own without it.
    #[arg(long)]
    model: Option<String>,
    /// The conversation to go on with; a new one without it.
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
    /// What the model is told beforehand.
    #[arg(long, value_name = "TEXT")]
    instructions: Option<String>,
    /// What to say.
    message: Option<String>,
}

const HELP: &str =
    "/conversation says its id, /quit ends; Ctrl-C cancels an answer, and ends where there is none";

/// A talk that goes on.
struct Talk {
    client: Client,
    model: Option<String>,
    instructions: Option<String>,
    conversation: Option<String>,
    terminal: Terminal,
    lines: UnboundedReceiver<String>,
    interrupts: Signal,
}

/// What comes after a message.
enum Next {
    Go,
    Quit,
}

impl Chat {
    pub(crate) fn run(self) -> Result<(), String> {
        let talk = async {
            let mut talk = Talk {
                client: self.nodes.client()?,
                model: self.model,
                instructions: self.instructions,
                conversation: self.conversation,
                terminal: Terminal::new(),
                lines: lines(),
                interrupts: signal(SignalKind::interrupt()).map_err(|error| error.to_string())?,
            };
            let result = match &self.message {
                Some(message) => talk.say(message).await.map(drop),
                None => talk.lines().await,
            };
            talk.terminal.end_line();
            if let Some(conversation) = &talk.conversation {
                talk.terminal.note(&format!("conversation {conversation}"));
            }
            result
        };
        listen::block_on(talk).map_err(|error| error.to_string())?
    }
}

/// The lines of the input, read by a thread of its own: reading can't be interrupted.
fn lines() -> UnboundedReceiver<String> {
    let (send, receive) = unbounded_channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

impl Talk {
    /// Takes each line for a message. Where nobody can see the failure of one and choose, it ends with that.
    async fn lines(&mut self) -> Result<(), String> {
        if self.terminal.asks {
            self.terminal.note(HELP);
        }
        while let Some(line) = self.line("> ").await {
            match line.trim() {
                "" => {}
                "/quit" => break,
                "/help" => self.terminal.note(HELP),
                "/conversation" => {
                    let id =
                        self.conversation.as_deref().unwrap_or("none yet: it begins with the first message");
                    self.terminal.note(id);
                }
                message => match self.say(message).await {
                    Ok(Next::Go) => {}
                    Ok(Next::Quit) => break,
                    Err(error) if self.terminal.asks => self.terminal.note(&format!("outlive: {error}")),
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// The next line; `None` at the end, or at an interrupt.
    async fn line(&mut self, prompt: &str) -> Option<String> {
        self.terminal.prompt(prompt);
        let line = tokio::select! {
            line = self.lines.recv() => line,
            _ = self.interrupts.recv() => None,
        };
        if line.is_none() {
            self.terminal.prompt("\n");
        }
        line
    }

    /// Says one thing, and what the answer asks about.
    async fn say(&mut self, message: &str) -> Result<Next, String> {
        let mut input = json!(message);
        loop {
            if self.conversation.is_none() {
                let made = tokio::select! {
                    made = conversation(&self.client) => made?,
                    _ = self.interrupts.recv() => return Ok(Next::Quit),
                };
                self.conversation = Some(made);
            }
            let body = self.request(input);
            let turn = Turn::new(&self.client, body.to_string().into(), key()?);
            let response = match turn.run(&mut self.terminal, &mut self.interrupts).await {
                End::Whole(response) => response,
                End::Failed(why) => {
                    self.terminal.end_line();
                    return Err(why);
                }
                End::Quit => return Ok(Next::Quit),
            };
            self.terminal.end_line();
            self.terminal.note(&screen::bill(&response));
            self.judge(&response)?;
            let answers = self.approve(&response).await;
            if answers.is_empty() {
                return Ok(Next::Go);
            }
            input = answers.into();
        }
    }

    /// The body of the request.
    fn request(&self, input: Value) -> Value {
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

    /// Says how a response ended that did not end well.
    fn judge(&mut self, response: &Value) -> Result<(), String> {
        let text = |path: &str| response.pointer(path).and_then(Value::as_str);
        match text("/status") {
            Some("failed") => Err(text("/error/message").unwrap_or("the response failed").to_owned()),
            Some("cancelled") if self.terminal.asks => {
                self.terminal.note("cancelled");
                Ok(())
            }
            Some("cancelled") => Err("cancelled".into()),
            Some("incomplete") => {
                let reason = text("/incomplete_details/reason").unwrap_or("unknown");
                self.terminal.note(&format!("the answer is not whole: {reason}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks about the calls that wait for it, and gives the answers.
    async fn approve(&mut self, response: &Value) -> Vec<Value> {
        let output = response.get("output").and_then(Value::as_array).into_iter().flatten();
        let waiting = output.filter(|item| item.get("type") == Some(&json!("mcp_approval_request")));
        let mut answers = Vec::new();
        for item in waiting {
            if !self.terminal.asks {
                self.terminal.note("a call waits for an approval, and nobody is here to give it");
                return Vec::new();
            }
            let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
            self.terminal.note(&format!("{} {}", text("name"), text("arguments")));
            let line = self.line("may it do that? y/N ").await.unwrap_or_default();
            let approve = matches!(line.trim(), "y" | "Y" | "yes");
            answers.push(json!({
                "type": "mcp_approval_response", "approval_request_id": text("id"), "approve": approve,
            }));
        }
        answers
    }
}

/// Makes a conversation.
async fn conversation(client: &Client) -> Result<String, String> {
    let call = Call::post("/v1/conversations", "{}").once(key()?);
    let made = client.ask(&call).await.map_err(|error| error.to_string())?;
    let id = made.get("id").and_then(Value::as_str).map(str::to_owned);
    id.ok_or_else(|| "the node's answer is no conversation".into())
}

/// A key under which a request takes effect once.
fn key() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(hex(&bytes))
}

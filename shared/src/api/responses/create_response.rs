//! Reads a request for a response, checks it against the session, and makes the entry that opens its turn. Appends
//! nothing and calls no model.

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::super::{ApiError, caller::Caller, conversations};
use crate::{
    config::Config,
    entry::LogId,
    hex::hex,
    json::IsPresent,
    session::{
        self, Item, Session,
        step::approval_turn,
        turn::{ResponseId, TurnId, TurnOpened},
    },
    wire::{
        RequestError,
        raw::{parse_object, parse_text},
    },
};

/// A request for a response. The fields that say how it runs and where it is stored are already parsed.
pub(super) struct CreateResponse {
    /// All fields, also the parsed ones.
    fields: Map<String, Value>,
    pub(super) stream: bool,
    background: bool,
    store: bool,
    conversation: Option<LogId>,
    /// The response that it continues.
    previous: Option<ResponseId>,
}

/// Most items of one request: enough for the whole history of a client that stores its own, and still one entry.
const MAX_ITEMS: usize = 10_000;

/// The fields that decide whether a request reads or writes a log.
#[derive(Deserialize)]
struct StorageFields {
    #[serde(default)]
    store: Option<Value>,
    #[serde(default)]
    conversation: IsPresent,
    #[serde(default)]
    previous_response_id: IsPresent,
}

/// Whether the request reads or writes a log. Only the fields that decide it are parsed, since a stateless request is
/// passed on as it is.
pub(super) fn is_stateful(body: &[u8]) -> Result<bool, ApiError> {
    let StorageFields { store, conversation, previous_response_id } = parse_object(parse_text(body)?)?;
    Ok(store != Some(Value::Bool(false)) || conversation.0 || previous_response_id.0)
}

impl CreateResponse {
    /// Parses the fields that need no configuration and no session to be checked.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        // Only the fields that decide where and how the turn runs; the prompt is checked when it is built.
        let fields: Map<String, Value> = parse_object(parse_text(body)?)?;
        let boolean = |name: &str, default: bool| match fields.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(ApiError::value(name, format!("{}; allowed: true, false", excerpt(other)))),
        };
        let (stream, background) = (boolean("stream", false)?, boolean("background", false)?);
        let store = boolean("store", true)?;
        let conversation = match fields.get("conversation") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let id = value.as_str().or_else(|| value.get("id")?.as_str());
                let id = id.ok_or_else(|| {
                    let why =
                        format!("{}; allowed: a conversation's id, or an object with its id", excerpt(value));
                    ApiError::value("conversation", why)
                })?;
                Some(conversations::require_id(id)?)
            }
        };
        let previous = match fields.get("previous_response_id") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let id = value.as_str().unwrap_or_default();
                Some(ResponseId::parse(id).ok_or_else(|| ApiError::unknown_previous(id))?)
            }
        };
        if conversation.is_some() && previous.is_some() {
            let why = "'conversation' is set, too; allowed: one of the two";
            return Err(ApiError::value("previous_response_id", why));
        }
        if background && !store {
            return Err(ApiError::value(
                "background",
                "true while 'store' is false; allowed: true only if 'store' is true",
            ));
        }
        if fields.get("prompt").is_some_and(|prompt| !prompt.is_null()) {
            return Err(ApiError::value("prompt", "this node stores no prompts; allowed: 'instructions'"));
        }
        Ok(Self { fields, stream, background, store, conversation, previous })
    }

    /// The log of the conversation or response that the request continues; `None` if it continues none.
    pub(super) fn log(&self) -> Option<LogId> {
        self.conversation.or(self.previous.map(|previous| previous.log))
    }

    /// Refuses a request that names no model and so would run with the agent's.
    pub(super) fn require_model(&self) -> Result<(), ApiError> {
        let named = self.fields.get("model").is_some_and(|model| !model.is_null());
        if named { Ok(()) } else { Err(RequestError::Missing("model".into()).into()) }
    }

    /// The body of the entry that opens the turn. Refuses fields that are wrong whatever the session holds.
    pub(super) fn to_turn(
        &self,
        config: &Config,
        caller: &Caller,
        turn: TurnId,
    ) -> Result<TurnOpened, ApiError> {
        // These have fields of their own in the entry, or concern only this connection.
        let others =
            ["model", "input", "stream", "store", "background", "conversation", "previous_response_id"];
        let is_kept =
            |(name, value): &(&String, &Value)| !others.contains(&name.as_str()) && !value.is_null();
        // Chosen before they are copied, since the input may be most of the request.
        let fields = self.fields.iter().filter(is_kept);
        let mut request: Map<String, Value> =
            fields.map(|(name, value)| (name.clone(), value.clone())).collect();
        let model = match self.fields.get("model") {
            None | Some(Value::Null) => config.agent.model.clone(),
            Some(Value::String(model)) => model.clone(),
            Some(other) => {
                return Err(ApiError::value("model", format!("{}; allowed: a string", excerpt(other))));
            }
        };
        if let Some(truncation) = request.get("truncation")
            && !matches!(truncation.as_str(), Some("auto" | "disabled"))
        {
            return Err(ApiError::value(
                "truncation",
                format!("{}; allowed: auto, disabled", excerpt(truncation)),
            ));
        }
        if let Some(metadata) = request.get("metadata") {
            let raw = RawValue::from_string(metadata.to_string()).ok();
            conversations::metadata(raw.as_deref())?;
        }
        if !request.contains_key("instructions") && !config.agent.instructions.is_empty() {
            request.insert("instructions".into(), config.agent.instructions.as_str().into());
        }
        Ok(TurnOpened {
            owner: caller.name.clone(),
            model,
            request,
            previous: self.previous.map(|previous| hex(&previous.turn)),
            in_conversation: self.conversation.is_some(),
            background: self.background,
            store: self.store,
            runs: !self.background,
            input: self.input(turn)?,
        })
    }

    fn input(&self, turn: TurnId) -> Result<Vec<Value>, ApiError> {
        let items = match self.fields.get("input") {
            None | Some(Value::Null) if self.log().is_some() => Vec::new(),
            None | Some(Value::Null) => return Err(RequestError::Missing("input".into()).into()),
            Some(Value::String(text)) => {
                let message = serde_json::json!({"type": "message", "role": "user", "content": text});
                vec![item(&message, "input")?]
            }
            Some(Value::Array(items)) if items.len() > MAX_ITEMS => {
                let why = format!("{} items; allowed: at most {MAX_ITEMS}", items.len());
                return Err(ApiError::value("input", why));
            }
            Some(Value::Array(items)) => {
                let numbered = items.iter().enumerate();
                numbered.map(|(at, value)| item(value, &format!("input[{at}]"))).collect::<Result<_, _>>()?
            }
            Some(other) => return Err(wrong_input(other)),
        };
        Ok(session::items_with_ids(turn, &items)?)
    }

    /// Whether `fold` holds every turn that the request refers to, so that no older part of the log must be read.
    pub(super) fn is_covered_by(&self, fold: &Session) -> bool {
        let previous = self.previous.is_none_or(|previous| fold.turns().find(&previous.turn).is_some());
        let items = self.fields.get("input").and_then(Value::as_array).into_iter().flatten();
        let requests = items.filter_map(|item| item.get("approval_request_id")?.as_str());
        let mut turns = requests.filter_map(approval_turn).map(|approval| approval.turn);
        previous && turns.all(|turn| fold.turns().find(&turn).is_some())
    }

    /// Checks that the session exists, that the caller may see it, and that the turn may be opened now.
    pub(super) fn check(
        &self,
        fold: &Session,
        caller: &Caller,
        log: LogId,
        turn: TurnId,
    ) -> Result<(), ApiError> {
        // A repeated request: its turn was checked when it was opened.
        if fold.turns().find(&turn).is_some() {
            return Ok(());
        }
        if self.conversation.is_some() {
            conversations::require_visible(fold, caller, log)?;
            self.check_approvals(fold, &turn)?;
            let busy = fold.turns().open().any(|(_, open)| open.in_conversation);
            return if busy { Err(ApiError::conversation_locked()) } else { Ok(()) };
        }
        let Some(id) = self.previous else {
            return if fold.is_deleted() {
                Err(ApiError::deleted())
            } else {
                self.check_approvals(fold, &turn)
            };
        };
        let previous = fold.turns().find(&id.turn);
        let previous = previous.filter(|previous| previous.visible && previous.owner == caller.name);
        let previous = previous.ok_or_else(|| ApiError::unknown_previous(&id.to_string()))?;
        if previous.outcome.is_none() {
            let why = "it has not ended yet; allowed: a response that has";
            return Err(ApiError::value("previous_response_id", why));
        }
        self.check_approvals(fold, &turn)
    }

    /// Checks that each approval response refers to a request of this session that has no response yet.
    fn check_approvals(&self, fold: &Session, turn: &TurnId) -> Result<(), ApiError> {
        let items = self.fields.get("input").and_then(Value::as_array).into_iter().flatten();
        let approvals = items.enumerate().filter_map(|(at, item)| {
            let is_response = item.get("type")? == "mcp_approval_response";
            is_response.then(|| Some((at, item.get("approval_request_id")?.as_str()?)))?
        });
        for (at, request) in approvals {
            let why = match fold.turns().may_approve(request, turn) {
                Some(true) => continue,
                Some(false) => "it has been answered before",
                None => "there is no such request in this session",
            };
            let param = format!("input[{at}].approval_request_id");
            return Err(ApiError::value(&param, format!("{:?}: {why}", excerpt(&request.into()))));
        }
        Ok(())
    }
}

/// The error for an input that is neither a string nor an array.
pub(in crate::api) fn wrong_input(input: &Value) -> ApiError {
    ApiError::value("input", format!("{}; allowed: a string, or an array of items", excerpt(input)))
}

fn item(value: &Value, param: &str) -> Result<Item, ApiError> {
    let raw = RawValue::from_string(value.to_string());
    let raw = raw.map_err(|error| ApiError::value(param, error))?;
    Ok(Item::parse(&raw, param)?)
}

/// The beginning of a value, for an error message.
fn excerpt(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}

//! Remembers what a candidate's server has refused, so that later calls are made as it takes them. Decides from an error's
//! status and text alone; the gateway repeats the call.

use std::collections::BTreeSet;

use http::StatusCode;

use crate::wire::{
    Format,
    chat::Dialect,
    error_body::ErrorBody,
    hint::Hint,
    prompt::{Effort, Efforts},
};

/// What a candidate's server has refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// It has no `/responses`.
    pub lacks_responses: bool,
    /// It takes functions only by `/responses`.
    pub needs_responses: bool,
    /// It takes no messages with the role `developer`.
    pub lacks_developer: bool,
    /// It has OpenAI's newer name for the limit of the answer only.
    pub needs_new_limit: bool,
    /// Efforts that its model does not take.
    pub refused_efforts: Efforts,
    /// Fields that it does not know, by their paths in its own format.
    pub refused: BTreeSet<String>,
}

/// Fields beside hints without which a request means the same, or nearly so: the node adds some of them itself, and
/// servers that don't know the others decide alone.
const REMOVABLE: [&str; 12] = [
    "stream_options",
    "store",
    "parallel_tool_calls",
    "user",
    "temperature",
    "top_p",
    "reasoning_effort",
    "reasoning",
    "reasoning.effort",
    "thinking",
    "strict",
    "output_config",
];

/// Most fields of one candidate that are remembered: more than any server refuses of those that may be left out.
const MAX_REFUSED: usize = 16;

impl Quirks {
    /// A dialect without what the server refuses.
    pub(super) fn fit(&self, dialect: Dialect) -> Dialect {
        Dialect {
            limit: if self.needs_new_limit { Dialect::OPENAI.limit } else { dialect.limit },
            developer: dialect.developer && !self.lacks_developer,
            efforts: dialect.efforts.without(self.refused_efforts),
            ..dialect
        }
    }

    /// Learns from the refusal of a call in `format`, for which the node chose this effort. Returns whether it taught
    /// something new, so that the call may succeed if it is made again.
    ///
    /// Learns only from texts that call a field unknown, and of values only what the node chose: a wrong value of the
    /// caller's is its own mistake, and must not change the requests of others.
    pub fn learn(&mut self, format: Format, status: StatusCode, body: &[u8], effort: Option<Effort>) -> bool {
        let error = ErrorBody::read(body).unwrap_or_default();
        match (format, status.as_u16()) {
            // A model that is missing is reported with an error object.
            (Format::Responses, 404) if error.code.is_none() => {
                !std::mem::replace(&mut self.lacks_responses, true)
            }
            (Format::Responses, 405 | 501) => !std::mem::replace(&mut self.lacks_responses, true),
            // By its beginning too, since what follows may repeat what a caller has written.
            (Format::Chat, 400)
                if error.message.starts_with("Function tools") && error.message.contains("/v1/responses") =>
            {
                !std::mem::replace(&mut self.needs_responses, true)
            }
            (Format::Chat, 400 | 422) if error.message.contains("'max_completion_tokens' instead") => {
                !std::mem::replace(&mut self.needs_new_limit, true)
            }
            // With its quotes, since a message may quote the conversation.
            (Format::Chat, 400 | 422)
                if !self.lacks_developer
                    && ["'developer'", "`developer`", "\"developer\""]
                        .iter()
                        .any(|it| error.message.contains(it)) =>
            {
                self.lacks_developer = true;
                true
            }
            (_, 400 | 422) => self.learn_field(&error, body) || self.learn_effort(&error, effort),
            _ => false,
        }
    }

    /// Learns that the model does not take an effort.
    fn learn_effort(&mut self, error: &ErrorBody, effort: Option<Effort>) -> bool {
        const FIELDS: [&str; 2] = ["reasoning_effort", "reasoning.effort"];
        let is_named = FIELDS
            .iter()
            .any(|field| error.param.as_deref() == Some(*field) || error.message.contains(field));
        let known = self.refused_efforts;
        self.refused_efforts = effort.filter(|_| is_named).map_or(known, |effort| known.with(effort));
        self.refused_efforts != known
    }

    /// Learns which field is unknown.
    fn learn_field(&mut self, error: &ErrorBody, body: &[u8]) -> bool {
        let text = String::from_utf8_lossy(body).to_ascii_lowercase();
        let is_unknown = matches!(error.code.as_deref(), Some("unsupported_parameter" | "unknown_parameter"))
            || UNKNOWN_FIELD.iter().any(|phrase| text.contains(phrase));
        if !is_unknown || self.refused.len() >= MAX_REFUSED {
            return false;
        }
        // The place in the request, where the server says it: a field in an object that may be left out is the caller's.
        if let Some(path) = error.param.clone().or_else(|| location(&text)) {
            return is_removable(&path) && self.refused.insert(path);
        }
        let field = named_field(&error.message).filter(|field| is_removable(field));
        field.is_some_and(|field| self.refused.insert(field.to_owned()))
    }
}

/// Phrases by which servers call a field unknown, in lower case.
const UNKNOWN_FIELD: [&str; 11] = [
    "unsupported parameter",
    "unknown parameter",
    "unknown field",
    "unknown name",
    "unrecognized request argument",
    "unrecognized field",
    "unexpected keyword argument",
    "extra inputs are not permitted",
    "extra fields not permitted",
    "additional properties are not allowed",
    "only the default (1) value is supported",
];

/// The field that a message is about: the first text in quotes, or else what stands before or behind the first colon.
///
/// Taken whole, and looked for nowhere else: a message may repeat names that a caller has written, and these must not
/// change the requests of others.
fn named_field(message: &str) -> Option<&str> {
    const QUOTES: [char; 3] = ['\'', '"', '`'];
    if let Some((_, quoted)) = message.split_once(QUOTES) {
        return quoted.split(QUOTES).next();
    }
    let (before, after) = message.split_once(':')?;
    let behind = after.split_whitespace().next();
    if before.contains(' ') { behind } else { Some(before) }
}

/// The path that FastAPI writes as `('body', 'stream_options', 'x')`, where a server has put it into a text.
fn location(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("'loc': (")?;
    let (steps, _) = rest.split_once(')')?;
    let steps = steps.split(',').map(|step| step.trim_matches([' ', '\'']));
    let steps: Vec<&str> = steps.filter(|step| !step.is_empty() && *step != "body").collect();
    Some(steps.join("."))
}

fn is_removable(field: &str) -> bool {
    REMOVABLE.contains(&field) || Hint::at(field).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_teaches_what_may_be_left_out_and_nothing_else() {
        let check = |format, status: u16, body: &'static str, expected: Option<&str>| {
            let mut quirks = Quirks::default();
            let learned = quirks.learn(format, StatusCode::from_u16(status).unwrap(), body.as_bytes(), None);
            let refused: Vec<&str> = quirks.refused.iter().map(String::as_str).collect();
            let what = match (&quirks, refused.as_slice()) {
                (Quirks { lacks_responses: true, .. }, _) => Some("lacks"),
                (Quirks { needs_responses: true, .. }, _) => Some("needs"),
                (Quirks { lacks_developer: true, .. }, _) => Some("developer"),
                (Quirks { needs_new_limit: true, .. }, _) => Some("limit"),
                (_, [field]) => Some(*field),
                _ => None,
            };
            assert_eq!((learned, what), (expected.is_some(), expected), "{body}");
            // The same refusal teaches nothing a second time.
            assert!(!quirks.learn(format, StatusCode::from_u16(status).unwrap(), body.as_bytes(), None));
        };
        let astra = r#"{"error":{"message":"Function tools with reasoning_effort are not supported for gpt-6-astra in /v1/chat/completions. To use function tools, use /v1/responses"}}"#;
        check(Format::Chat, 400, astra, Some("needs"));
        check(Format::Responses, 404, "<html>", Some("lacks"));
        check(Format::Responses, 405, "", Some("lacks"));
        check(Format::Responses, 404, r#"{"error":{"code":"model_not_found","message":"x"}}"#, None);
        check(
            Format::Chat,
            400,
            r#"{"error":{"message":"Unrecognized request argument supplied: reasoning_effort"}}"#,
            Some("reasoning_effort"),
        );
        check(
            Format::Responses,
            400,
            r#"{"error":{"message":"Unsupported parameter: 'temperature' is not supported with this model.","param":"temperature","code":null}}"#,
            Some("temperature"),
        );
        check(
            Format::Messages,
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"context_management: Extra inputs are not permitted"}}"#,
            Some("context_management"),
        );
        check(
            Format::Chat,
            422,
            r#"{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'verbosity'), 'msg': 'Extra inputs are not permitted'}]","code":400}"#,
            Some("verbosity"),
        );
        check(
            Format::Chat,
            400,
            r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens","code":"unsupported_parameter"}}"#,
            Some("limit"),
        );
        check(
            Format::Chat,
            400,
            r#"{"error":{"message":"messages[0].role: unknown variant `developer`, expected one of `system`, `user`"}}"#,
            Some("developer"),
        );
        for echo in [
            r#"{"error":{"message":"Unknown parameter: 'stream_options.x stream_options'."}}"#,
            r#"{"error":{"message":"Unknown parameter: 'stream_options.x' stream_options ''."}}"#,
            r#"{"error":{"message":"Unrecognized request argument supplied: reasoning.x reasoning"}}"#,
            r#"{"error":{"message":"output_config.x output_config: Extra inputs are not permitted"}}"#,
            r#"{"error":{"message":"Invalid key in 'logit_bias': use /v1/responses"}}"#,
        ] {
            check(Format::Chat, 400, echo, None);
        }
        // A key that only one caller had in an object.
        check(
            Format::Chat,
            422,
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options","bogus"],"msg":"Extra inputs are not permitted"}]}"#,
            None,
        );
        check(
            Format::Chat,
            400,
            r#"{"message":"[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options', 'bogus'), 'msg': 'Extra inputs are not permitted'}]","code":400}"#,
            None,
        );
        check(
            Format::Chat,
            422,
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
            Some("stream_options"),
        );
        // A wrong value, and a field that is needed.
        check(Format::Chat, 400, r#"{"error":{"message":"Invalid type for 'seed'","param":"seed"}}"#, None);
        check(
            Format::Chat,
            400,
            r#"{"error":{"message":"Unknown parameter: 'messages'","param":"messages"}}"#,
            None,
        );
    }

    #[test]
    fn an_effort_is_refused_only_if_the_node_chose_it() {
        let body = br#"{"error":{"message":"Unsupported value: 'none' is not supported with the 'x' model. Supported values are: 'low'.","param":"reasoning.effort","code":"unsupported_value"}}"#;
        let check = |effort, expected: bool| {
            let mut quirks = Quirks::default();
            let mut learn = || quirks.learn(Format::Responses, StatusCode::BAD_REQUEST, body, effort);
            assert_eq!((learn(), learn()), (expected, false));
            quirks.fit(Dialect::OPENAI).efforts.fit(Effort::Off)
        };
        assert_eq!(check(None, false), Some(Effort::Off));
        assert_eq!(check(Some(Effort::Off), true), Some(Effort::Minimal));
    }
}

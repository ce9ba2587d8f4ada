//! Lists the routes of the API, their methods, and the scopes that they need. Calls none.

use super::{console, schedules::Action};
use crate::{config::Scope, wire::Format};

/// A resource of the API, with the ids in its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Inference(Format),
    Responses,
    InputTokens,
    Compact,
    Response(&'a str),
    Cancel(&'a str),
    InputItems(&'a str),
    Models,
    Model(&'a str),
    Conversations,
    Conversation(&'a str),
    Items(&'a str),
    Item(&'a str, &'a str),
    Sessions,
    Session(&'a str),
    Entries(&'a str),
    Schedules,
    Schedule(&'a str),
    ScheduleAction(&'a str, Action),
    Fires(&'a str),
    Index,
    Health,
    Ready,
    Status,
    Metrics,
    Console(console::File),
}

impl<'a> Route<'a> {
    /// The resource at `path`, if there is one. Ids are not checked here.
    pub(super) fn find(path: &'a str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::Inference(Format::Chat),
            "/v1/responses" => Self::Responses,
            "/v1/responses/input_tokens" => Self::InputTokens,
            "/v1/responses/compact" => Self::Compact,
            "/v1/messages" => Self::Inference(Format::Messages),
            "/v1/messages/count_tokens" => Self::Inference(Format::TokenCount),
            "/v1/embeddings" => Self::Inference(Format::Embeddings),
            "/v1/models" => Self::Models,
            "/v1/conversations" => Self::Conversations,
            "/v1/sessions" => Self::Sessions,
            "/v1/schedules" => Self::Schedules,
            "/" => Self::Index,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/v1/status" => Self::Status,
            "/metrics" => Self::Metrics,
            // An id may hold any characters but a slash, so paths with ids are split only after all fixed paths.
            _ => {
                if let Some(file) = console::find(path) {
                    return Some(Self::Console(file));
                }
                if let Some(name) = path.strip_prefix("/v1/models/") {
                    return Some(Self::Model(name)).filter(|_| !name.is_empty());
                }
                if let Some(rest) = path.strip_prefix("/v1/responses/") {
                    return Some(match rest.split_once('/') {
                        None if !rest.is_empty() => Self::Response(rest),
                        Some((id, "cancel")) => Self::Cancel(id),
                        Some((id, "input_items")) => Self::InputItems(id),
                        _ => return None,
                    });
                }
                if let Some(rest) = path.strip_prefix("/v1/sessions/") {
                    return Some(match rest.split_once('/') {
                        None if !rest.is_empty() => Self::Session(rest),
                        Some((id, "entries")) => Self::Entries(id),
                        _ => return None,
                    });
                }
                if let Some(rest) = path.strip_prefix("/v1/schedules/") {
                    return Some(match rest.split_once('/') {
                        None if !rest.is_empty() => Self::Schedule(rest),
                        Some((id, "fires")) => Self::Fires(id),
                        Some((id, action)) => Self::ScheduleAction(id, Action::parse(action)?),
                        None => return None,
                    });
                }
                let rest = path.strip_prefix("/v1/conversations/")?;
                match rest.split_once('/') {
                    None if !rest.is_empty() => Self::Conversation(rest),
                    Some((id, "items")) => Self::Items(id),
                    Some((id, rest)) => {
                        Self::Item(id, rest.strip_prefix("items/").filter(|item| !item.is_empty())?)
                    }
                    None => return None,
                }
            }
        })
    }

    /// The methods, as the `allow` header lists them. HEAD is GET without the body.
    pub(super) fn methods(self) -> &'static str {
        match self {
            Self::Inference(_)
            | Self::Responses
            | Self::InputTokens
            | Self::Compact
            | Self::Cancel(_)
            | Self::ScheduleAction(..)
            | Self::Conversations => "POST",
            Self::Response(_) | Self::Schedule(_) => "GET, HEAD, DELETE",
            Self::Conversation(_) => "GET, HEAD, POST, DELETE",
            Self::Items(_) | Self::Entries(_) | Self::Schedules => "GET, HEAD, POST",
            Self::Item(..) | Self::Session(_) => "GET, HEAD, DELETE",
            Self::Models
            | Self::Model(_)
            | Self::InputItems(_)
            | Self::Sessions
            | Self::Fires(_)
            | Self::Index
            | Self::Health
            | Self::Ready
            | Self::Status
            | Self::Metrics
            | Self::Console(_) => "GET, HEAD",
        }
    }

    /// The scope that a caller needs; `None` if no key is needed.
    pub(super) fn scope(self) -> Option<Scope> {
        match self {
            Self::Inference(_)
            | Self::Responses
            | Self::InputTokens
            | Self::Compact
            | Self::Response(_)
            | Self::Cancel(_)
            | Self::InputItems(_)
            | Self::Models
            | Self::Model(_)
            | Self::Conversations
            | Self::Conversation(_)
            | Self::Items(_)
            | Self::Item(..)
            | Self::Schedules
            | Self::Schedule(_)
            | Self::ScheduleAction(..)
            | Self::Fires(_) => Some(Scope::Inference),
            Self::Sessions | Self::Session(_) | Self::Entries(_) | Self::Status | Self::Metrics => {
                Some(Scope::Admin)
            }
            // The page holds no secret; its own requests carry the user's key.
            Self::Index | Self::Health | Self::Ready | Self::Console(_) => None,
        }
    }
}

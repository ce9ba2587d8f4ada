//! Refuses requests that the vendor would refuse for their fields. `agent.rs` checks the conversation.

use serde_json::Value;

use super::Format;
use crate::upstream::Record;

/// The fields of each API, from the vendors' own SDKs; OpenAI's agent also sends `client_metadata`.
const CHAT: &str = "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens \
    messages metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key \
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop \
    store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options";
const RESPONSES: &str = "background background_options client_metadata context_management conversation include input \
    instructions max_output_tokens max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt \
    prompt_cache_key prompt_cache_options prompt_cache_retention reasoning safety_identifier service_tier store stream \
    stream_options temperature text tool_choice tools top_logprobs top_p truncation user";
const MESSAGES: &str = "cache_control container inference_geo max_tokens messages metadata model output_config service_tier \
    speed stop_sequences stream system thinking tool_choice tools";

/// The fields of Anthropic's API that need a beta header, and the beginning of its value.
const BETA: [(&str, &str); 2] =
    [("context_management", "context-management-"), ("mcp_servers", "mcp-client-")];

/// The error for the first field that the vendor does not know. `tag` is that of the model: DeepSeek has a field of its
/// own.
pub(super) fn unknown_field(format: Format, tag: &str, record: &Record, body: &Value) -> Option<String> {
    let known = match format {
        Format::Chat => CHAT,
        Format::Messages => MESSAGES,
        Format::Responses => RESPONSES,
    };
    let beta = record.header("anthropic-beta").unwrap_or_default();
    let has_header = |field: &str| BETA.iter().any(|(name, value)| *name == field && beta.contains(value));
    let is_known = |field: &str| {
        known.split_whitespace().any(|name| name == field)
            || (format == Format::Messages && has_header(field))
            || (format == Format::Chat && tag.starts_with("deepseek") && field == "thinking")
    };
    let field = body.as_object()?.keys().find(|field| !is_known(field))?;
    Some(match format {
        Format::Chat => format!("Unrecognized request argument supplied: {field}"),
        Format::Messages => format!("{field}: Extra inputs are not permitted"),
        Format::Responses => format!("Unknown parameter: '{field}'."),
    })
}

/// The error for the first tool that the vendor does not take.
pub(super) fn unknown_tool(format: Format, body: &Value) -> Option<String> {
    let tools = body["tools"].as_array().into_iter().flatten();
    let (types, most): (&[&str], usize) = match format {
        Format::Chat => (&["function"], 64),
        Format::Messages => (&["custom"], 128),
        Format::Responses => (&["function", "custom", "namespace", "tool_search", "web_search"], 64),
    };
    tools.enumerate().find_map(|(at, tool)| {
        // Anthropic's functions need no type.
        let kind = tool["type"].as_str().or((format == Format::Messages).then_some("custom"));
        if !kind.is_some_and(|kind| types.contains(&kind)) {
            return Some(format!("Invalid value: '{}' in 'tools[{at}].type'.", kind.unwrap_or_default()));
        }
        let name = tool.get("function").unwrap_or(tool)["name"].as_str().unwrap_or_default();
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let named = !["tool_search", "web_search"].contains(&kind.unwrap_or_default());
        (named && (name.is_empty() || name.len() > most || !name.bytes().all(is_valid))).then(|| {
            format!("Invalid 'tools[{at}].name': '{name}' does not match '^[a-zA-Z0-9_-]{{1,{most}}}$'.")
        })
    })
}

//! Finds a tool among those that a request offers, and writes the input of its calls. Knows no answer.

use serde_json::{Value, json};

/// A tool that a request offers.
pub(super) struct Tool {
    pub(super) name: String,
    /// The group that it is part of, in the Responses API.
    pub(super) namespace: Option<String>,
    input: Input,
}

/// The form of a tool's input.
enum Input {
    /// A JSON object.
    Json,
    /// A JSON object whose only property is a text.
    Property(String),
    /// A free text, in the Responses API.
    Text,
}

impl Tool {
    /// The tool that a script calls `name`. A gateway may have written its group before its name, with `__` between.
    pub(super) fn find(body: &Value, name: &str) -> Option<Self> {
        let tools = offered(body);
        let named = |matches: &dyn Fn(&str) -> bool| {
            tools
                .iter()
                .find_map(|(namespace, tool)| Self::read(*namespace, tool).filter(|tool| matches(&tool.name)))
        };
        named(&|known| known == name).or_else(|| named(&|known| known.ends_with(&format!("__{name}"))))
    }

    /// Whether its input is a free text.
    pub(super) fn is_custom(&self) -> bool {
        matches!(self.input, Input::Text)
    }

    /// The input of a call, from a script's JSON: an object, or a text for a tool that takes a text.
    pub(super) fn input(&self, scripted: &str) -> String {
        let text: Option<String> = serde_json::from_str(scripted).ok();
        match (&self.input, text) {
            (Input::Text, Some(text)) => text,
            (Input::Property(key), Some(text)) => json!({key: text}).to_string(),
            _ => scripted.to_owned(),
        }
    }

    fn read(namespace: Option<&str>, tool: &Value) -> Option<Self> {
        let function = tool.get("function").unwrap_or(tool);
        let schema = function.get("parameters").unwrap_or(&function["input_schema"]);
        let input = if tool["type"] == "custom" && tool.get("input_schema").is_none() {
            Input::Text
        } else {
            let properties = schema["properties"].as_object();
            let only = properties
                .filter(|properties| properties.len() == 1)
                .and_then(|properties| properties.iter().next());
            match only {
                Some((name, schema)) if schema["type"] == "string" => Input::Property(name.clone()),
                _ => Input::Json,
            }
        };
        let name = function["name"].as_str()?.to_owned();
        Some(Self { name, namespace: namespace.map(str::to_owned), input })
    }
}

/// All tools with their groups: those of the request, and in the Responses API also those that its input adds.
fn offered(body: &Value) -> Vec<(Option<&str>, &Value)> {
    let items = body["input"].as_array().into_iter().flatten();
    let added = items.filter(|item| item["type"] == "additional_tools").map(|item| &item["tools"]);
    let lists = std::iter::once(&body["tools"]).chain(added);
    let tools = lists.flat_map(|list| list.as_array().into_iter().flatten());
    tools
        .flat_map(|tool| match tool["type"].as_str() {
            Some("namespace") => {
                let members = tool["tools"].as_array().into_iter().flatten();
                members.map(|member| (tool["name"].as_str(), member)).collect()
            }
            _ => vec![(None, tool)],
        })
        .collect()
}

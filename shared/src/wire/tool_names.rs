//! Fits names of functions and ids of calls to what a vendor accepts, and finds the client's name again in an answer.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use sha2::{Digest, Sha256};

use super::{
    delta::{Delta, Stop},
    prompt::{Prompt, Tool},
};
use crate::hex::hex;

/// The names that a vendor got for a request's functions, where they differ from the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolNames {
    /// The client's names by the vendor's.
    client: BTreeMap<String, String>,
    /// The number of the call of [`ToolNames::ANSWER`], once the answer has one.
    answer_call: Option<usize>,
    /// Whether the answer calls one of the client's functions.
    calls_client: bool,
    /// The ids of the answer's calls.
    call_ids: BTreeSet<String>,
}

/// Hexadecimal digits of the digest that ends a fitted name.
const DIGEST_DIGITS: usize = 8;

impl ToolNames {
    /// The function whose arguments are the answer, where a model can't be held to a format otherwise.
    pub const ANSWER: &str = "outlive_answer";

    /// Fits the names of all functions and calls of a prompt to names of at most `max_name` characters, and the ids of
    /// its calls to ids of at most `max_id`, each of another call.
    ///
    /// Fails if two functions would get one name, with the reason.
    pub(super) fn fit<'a>(
        prompt: Cow<'a, Prompt>,
        max_name: usize,
        max_id: usize,
    ) -> Result<(Cow<'a, Prompt>, Self), String> {
        let is_fitting = |prompt: &Prompt| {
            let mut ids = BTreeSet::new();
            let calls_fit = prompt.calls().all(|(id, name)| {
                let name_fits = |name| matches!(fit(name, max_name), Cow::Borrowed(_)) && ids.insert(id);
                matches!(fit(id, max_id), Cow::Borrowed(_)) && name.is_none_or(name_fits)
            });
            calls_fit && prompt.tools.iter().all(|tool| matches!(fit(&tool.name, max_name), Cow::Borrowed(_)))
        };
        if is_fitting(&prompt) {
            return Ok((prompt, Self::default()));
        }
        let mut prompt = prompt.into_owned();
        let mut names = BTreeMap::new();
        for Tool { name, .. } in &mut prompt.tools {
            let fitted = fit(name, max_name).into_owned();
            let client = std::mem::replace(name, fitted.clone());
            if let Some(other) = names.insert(fitted, client.clone()) {
                return Err(format!("it has no two names for the functions {other:?} and {client:?}"));
            }
        }
        names.retain(|vendor, client| vendor != client);
        prompt.fit_calls(|name| *name = fit(name, max_name).into_owned(), &mut CallIds::new(max_id));
        Ok((Cow::Owned(prompt), Self { client: names, ..Self::default() }))
    }

    /// Puts the client's names into a delta of the answer. Arguments of [`ToolNames::ANSWER`] become the answer's text.
    /// `None` if nothing of the delta is left.
    pub fn restore<'a>(&mut self, delta: Delta<'a>) -> Option<Delta<'a>> {
        match (delta, self.answer_call) {
            (Delta::Call { index, name, .. }, None) if name == Self::ANSWER => {
                self.answer_call = Some(index);
                None
            }
            (Delta::Arguments { index, json }, Some(answer)) if index == answer => Some(Delta::Text(json)),
            (Delta::Call { index, id, name }, answer) => {
                self.calls_client = true;
                let id = self.unique(id);
                let name = self.client.get(name.as_ref()).map_or(name, |name| name.clone().into());
                Some(Delta::Call { index: without(index, answer), id, name })
            }
            (Delta::Arguments { index, json }, answer) => {
                Some(Delta::Arguments { index: without(index, answer), json })
            }
            // The model stopped for its answer.
            (Delta::Stop(Stop::ToolCalls), Some(_)) if !self.calls_client => Some(Delta::Stop(Stop::End)),
            (delta, _) => Some(delta),
        }
    }

    /// The id of one more call of the answer: another one if an earlier call has it, as some servers do.
    fn unique<'a>(&mut self, id: Cow<'a, str>) -> Cow<'a, str> {
        let mut unique = id.clone();
        while !self.call_ids.insert(unique.clone().into_owned()) {
            unique = format!("{id}_{}", self.call_ids.len()).into();
        }
        unique
    }
}

/// Gives each call of a conversation an id of its own, and each output that of its call.
pub(super) struct CallIds {
    max: usize,
    round: usize,
    used: BTreeSet<String>,
    /// The calls by the client's ids.
    calls: BTreeMap<String, CallsOfId>,
}

/// The calls of one id of the client's.
#[derive(Default)]
struct CallsOfId {
    count: usize,
    /// The round of the last one.
    round: usize,
    /// The ids of that round's calls without an output; the last one stays.
    waiting: VecDeque<String>,
}

impl CallIds {
    fn new(max: usize) -> Self {
        Self { max, round: 0, used: BTreeSet::new(), calls: BTreeMap::new() }
    }

    /// Begins another round: outputs belong to the calls of their own.
    pub(super) fn begin_round(&mut self) {
        self.round += 1;
    }

    /// Fits the id of the next call.
    pub(super) fn fit_call(&mut self, id: &mut String) {
        let calls = self.calls.entry(id.clone()).or_default();
        if calls.round != self.round {
            (calls.round, calls.waiting) = (self.round, VecDeque::new());
        }
        let fitted = loop {
            let fitted = match calls.count {
                0 => fit(id, self.max).into_owned(),
                // The digest of another text.
                count => fit(&format!("{id}#{count}"), self.max).into_owned(),
            };
            calls.count += 1;
            if self.used.insert(fitted.clone()) {
                break fitted;
            }
        };
        calls.waiting.push_back(fitted.clone());
        *id = fitted;
    }

    /// Fits the id of the next output: calls of one id get their outputs in their own order.
    pub(super) fn fit_output(&mut self, id: &mut String) {
        let waiting = self.calls.get_mut(id).map(|calls| &mut calls.waiting);
        let next = waiting.and_then(|waiting| match waiting.len() {
            0 | 1 => waiting.front().cloned(),
            _ => waiting.pop_front(),
        });
        *id = next.unwrap_or_else(|| fit(id, self.max).into_owned());
    }
}

/// The number of a call, not counting the one that is the answer.
fn without(index: usize, answer: Option<usize>) -> usize {
    index - usize::from(answer.is_some_and(|answer| answer < index))
}

/// The name itself if it has at most `max` characters, all of them letters, digits, `_` or `-`; otherwise one that
/// begins like it and ends with its digest.
fn fit(name: &str, max: usize) -> Cow<'_, str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.len() <= max && name.bytes().all(is_allowed) {
        return name.into();
    }
    let digest = hex(&Sha256::digest(name.as_bytes()));
    let digest = digest.get(..DIGEST_DIGITS).unwrap_or_default();
    let kept = name.chars().map(|char| if u8::try_from(char).is_ok_and(is_allowed) { char } else { '_' });
    let kept: String = kept.take(max.saturating_sub(DIGEST_DIGITS + 1)).collect();
    format!("{kept}_{digest}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::prompt::{Part, Role, ToolCall};

    #[test]
    fn names_fit_and_stay_distinct() {
        assert_eq!(fit("look", 64), "look");
        let long = format!("mcp__{}", "x".repeat(80));
        let fitted = fit(&long, 64);
        assert_eq!(fitted.len(), 64);
        assert_ne!(fitted, fit(&format!("{long}y"), 64));
        assert!(fit("functions.f:0", 64).starts_with("functions_f_0_"));
        assert_eq!(fit("", 64).len(), 9);
    }

    #[test]
    fn two_functions_with_one_fitted_name_are_refused() {
        let tool = |name: &str| Tool { name: name.into(), ..Tool::default() };
        let fitted = fit("a.b", 64).into_owned();
        let prompt = Prompt { tools: vec![tool("a.b"), tool(&fitted)], ..Prompt::default() };
        assert!(ToolNames::fit(Cow::Owned(prompt), 64, 64).is_err());
        let prompt = Prompt { tools: vec![tool("a.b"), tool("c")], ..Prompt::default() };
        let (prompt, mut names) = ToolNames::fit(Cow::Owned(prompt), 64, 64).unwrap();
        let mut client_name = |name: &str| {
            let call = Delta::Call { index: 0, id: "i".into(), name: name.to_owned().into() };
            match names.restore(call) {
                Some(Delta::Call { name, .. }) => name.into_owned(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(client_name(&prompt.tools[0].name), "a.b");
        assert_eq!(client_name("c"), "c");
    }

    #[test]
    fn calls_of_one_id_get_ids_of_their_own() {
        // Upper case: calls; lower case: outputs; `|`: another message of the user's.
        for (ids, expected) in [
            ("AaBb", "0011"),
            ("AaAa", "0011"),
            ("AAaa", "0101"),
            ("AAaaa", "01011"),
            ("A|Aa", "011"),
            ("AB|AabBb", "0122133"),
        ] {
            let mut prompt = Prompt::default();
            for id in ids.chars() {
                let lower = id.to_ascii_lowercase().to_string();
                match id {
                    '|' => prompt.push_part(Role::User, "?".to_owned().into()),
                    'a'..='z' => {
                        let output = Part::Output { id: lower, parts: Vec::new(), failed: false };
                        prompt.push_part(Role::User, output);
                    }
                    _ => {
                        let call = ToolCall { id: lower, name: "f".into(), arguments: "{}".into() };
                        prompt.push_part(Role::Assistant, Part::Call(call));
                    }
                }
            }
            let (prompt, _) = ToolNames::fit(Cow::Owned(prompt), 64, 64).unwrap();
            let mut known = Vec::new();
            let order = prompt.calls().map(|(id, name)| {
                if name.is_some() {
                    known.push(id);
                }
                known.iter().position(|known| *known == id).unwrap().to_string()
            });
            assert_eq!(order.collect::<String>(), expected, "{ids}");
        }
    }

    #[test]
    fn calls_of_one_id_in_an_answer_get_ids_of_their_own() {
        let mut names = ToolNames::default();
        let ids = ["c", "", "c", "", "c_2", "c"].into_iter().enumerate().map(|(index, id)| {
            match names.restore(Delta::Call { index, id: id.into(), name: "f".into() }) {
                Some(Delta::Call { id, .. }) => id.into_owned(),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(ids.collect::<Vec<_>>(), ["c", "", "c_2", "_3", "c_2_4", "c_5"]);
    }

    #[test]
    fn the_arguments_of_the_answers_function_are_its_text() {
        let call = |index, name: &'static str| Delta::Call { index, id: "i".into(), name: name.into() };
        let mut names = ToolNames::default();
        let only = [call(0, ToolNames::ANSWER), Delta::Stop(Stop::ToolCalls)];
        let restored: Vec<_> = only.into_iter().filter_map(|delta| names.restore(delta)).collect();
        assert_eq!(restored, [Delta::Stop(Stop::End)]);
        let mut names = ToolNames::default();
        let json = |index, json: &'static str| Delta::Arguments { index, json: json.into() };
        let deltas = [
            call(0, ToolNames::ANSWER),
            json(0, "{\"a\":"),
            call(1, "f"),
            json(1, "{}"),
            json(0, "1}"),
            Delta::Stop(Stop::ToolCalls),
        ];
        let restored: Vec<_> = deltas.into_iter().filter_map(|delta| names.restore(delta)).collect();
        let expected = [
            Delta::Text("{\"a\":".into()),
            call(0, "f"),
            json(0, "{}"),
            Delta::Text("1}".into()),
            Delta::Stop(Stop::ToolCalls),
        ];
        assert_eq!(restored, expected);
    }
}

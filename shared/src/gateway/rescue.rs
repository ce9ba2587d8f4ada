//! How an answer that broke off is asked for again.

use super::splice::Splice;
use crate::{
    provider::Vendor,
    usage::BYTES_PER_TOKEN,
    wire::{
        Block, Format, Prompt, Request, Transcript,
        prompt::{Message, Part, Role},
    },
};

/// What to ask for the rest of an answer, and how to join it.
pub(super) struct Continuation {
    pub(super) prompt: Prompt,
    pub(super) splice: Splice,
}

/// How to go on with `answer` at a provider of this vendor; `None` where going on could repeat or lose something.
pub(super) fn plan(
    request: &Request,
    answer: &Transcript,
    vendor: &Vendor,
    model: &str,
) -> Option<Continuation> {
    let mut prompt = request.prompt().ok()?.clone();
    // A call that was shown may be made; a refusal has no rest.
    let sayable = |block: &Block| matches!(block, Block::Text(_) | Block::Reasoning(_));
    if !prompt.untranslatable.is_empty() || answer.is_too_long() || !answer.blocks.iter().all(sayable) {
        return None;
    }
    // Anthropic's clients send thoughts back, and half a thought is refused for ever.
    let half = |block: &Block| matches!(block, Block::Reasoning(thought) if thought.signature.is_none() && thought.redacted.is_none());
    if request.format == Format::Messages && answer.blocks.last().is_some_and(half) {
        return None;
    }
    let text = answer.text();
    if text.is_empty() {
        return Some(Continuation { prompt, splice: Splice::after_instruction(String::new()) });
    }
    let writes_on = (vendor.continues)(model, &prompt);
    // A model that must write a document writes a whole one, unless it is given the beginning.
    if prompt.format.is_some() && !writes_on {
        return None;
    }
    prompt.max_output = prompt.max_output.map(|max| {
        let said = (answer.bytes() as u64) / BYTES_PER_TOKEN;
        max.saturating_sub(said).max(LEAST_REST)
    });
    let begun =
        |text: &str| Message { role: Role::Assistant, parts: vec![Part::Text(text.to_owned().into())] };
    if writes_on {
        // The vendors refuse white space at the end.
        prompt.messages.push(begun(text.trim_end()));
        return Some(Continuation { splice: Splice::after_prefill(&text), prompt });
    }
    prompt.messages.push(begun(&text));
    let start = text.char_indices().rev().nth(QUOTED_CHARS).map_or(0, |(at, _)| at);
    let tail = text.get(start..).unwrap_or_default();
    let told = format!(
        "Your previous response was interrupted and ended with [{tail}]. Continue from where you left off. \
         Write only what comes next, and repeat nothing."
    );
    prompt.messages.push(Message { role: Role::User, parts: vec![Part::Text(told.into())] });
    Some(Continuation { splice: Splice::after_instruction(text), prompt })
}

/// How much of the answer's end is quoted: enough to be found, and little to pay for.
const QUOTED_CHARS: usize = 200;

/// Tokens that are left for the rest at least: the estimate of what was used is a rough one.
const LEAST_REST: u64 = 64;

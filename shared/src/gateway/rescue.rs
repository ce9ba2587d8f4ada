//! Decides whether, and plans how, another call continues an interrupted answer. Pure; `relay.rs` and `gateway.rs` make the
//! call.

use super::splice::Splice;
use crate::{
    model::{Model, Rescue},
    provider::Vendor,
    usage::BYTES_PER_TOKEN,
    wire::{
        Block, Format, Prompt, Request, Transcript,
        prompt::{Message, Part, Role},
    },
};

/// The prompt that asks for the rest of an answer, and the splice that joins the rest to the beginning.
pub(super) struct Continuation {
    pub(super) prompt: Prompt,
    pub(super) splice: Splice,
}

/// Whether an answer that was continued `rescues` times before may be continued once more: each candidate may break off
/// once, and one of them once more.
pub(super) fn is_allowed(model: &Model, rescues: usize) -> bool {
    model.rescue == Rescue::Continue && rescues <= model.candidates.len()
}

/// How a model of this vendor is asked to continue `answer`; `None` if that could repeat or lose something.
pub(super) fn plan(
    request: &Request,
    answer: &Transcript,
    vendor: &Vendor,
    model: &str,
) -> Option<Continuation> {
    let mut prompt = request.prompt().ok()?.clone();
    // The client may already have executed a tool call that it was shown, and a refusal has no rest.
    let can_continue = |block: &Block| matches!(block, Block::Text(_) | Block::Reasoning(_));
    if !prompt.untranslatable.is_empty() || answer.is_too_long() || !answer.blocks.iter().all(can_continue) {
        return None;
    }
    // Anthropic's clients send thoughts back with every later request, and the API refuses a thought without its
    // signature.
    let is_unsigned = |block: &Block| match block {
        Block::Reasoning(thought) => thought.signature.is_none() && thought.redacted.is_none(),
        _ => false,
    };
    if request.format == Format::Messages && answer.blocks.last().is_some_and(is_unsigned) {
        return None;
    }
    let text = answer.text();
    if text.is_empty() {
        return Some(Continuation { prompt, splice: Splice::after_instruction(String::new()) });
    }
    let supports_prefill = (vendor.takes_prefill)(model, &prompt);
    // With a response format, a model without prefill writes a whole new document instead of the rest.
    if prompt.format.is_some() && !supports_prefill {
        return None;
    }
    prompt.max_output = prompt.max_output.map(|max| {
        let used = (answer.bytes() as u64) / BYTES_PER_TOKEN;
        max.saturating_sub(used).max(MIN_REST_TOKENS)
    });
    let assistant =
        |text: &str| Message { role: Role::Assistant, parts: vec![Part::Text(text.to_owned().into())] };
    if supports_prefill {
        // The vendors refuse white space at the end of a prefill.
        prompt.messages.push(assistant(text.trim_end()));
        return Some(Continuation { splice: Splice::after_prefill(&text), prompt });
    }
    prompt.messages.push(assistant(&text));
    let start = text.char_indices().rev().nth(QUOTED_CHARS).map_or(0, |(at, _)| at);
    let tail = text.get(start..).unwrap_or_default();
    let instruction = format!(
        "Your previous response was interrupted and ended with [{tail}]. Continue from where you left off. \
         Write only what comes next, and repeat nothing."
    );
    prompt.messages.push(Message { role: Role::User, parts: vec![Part::Text(instruction.into())] });
    Some(Continuation { splice: Splice::after_instruction(text), prompt })
}

/// Characters of the answer's end that are quoted: enough for the model to find the place, and cheap.
const QUOTED_CHARS: usize = 200;

/// Fewest tokens for the rest, since the tokens used so far are a rough estimate.
const MIN_REST_TOKENS: u64 = 64;

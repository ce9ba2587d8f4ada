//! Translates recorded streams of every vendor to every client format: the answer stays the same, in any chunking.

mod requests;

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Block, Decoder, Format, Frame, Signal, Stop, Transcript, Writer,
    prompt::{Reasoning, ToolCall},
    sse::{self, SseEvent},
};
use crate::{money::NanoUsd, usage::Usage};

/// Name, format and bytes of each stream: from the vendors' documentation, and as aimock 1.43 sent them.
pub(crate) const STREAMS: [(&str, Format, &str); 17] = [
    ("openai_text", Format::Chat, include_str!("fixtures/openai_text.sse")),
    ("openai_tools", Format::Chat, include_str!("fixtures/openai_tools.sse")),
    ("azure_text", Format::Chat, include_str!("fixtures/azure_text.sse")),
    ("deepseek_reasoning", Format::Chat, include_str!("fixtures/deepseek_reasoning.sse")),
    ("compatible_text", Format::Chat, include_str!("fixtures/compatible_text.sse")),
    ("mistral_thinking", Format::Chat, include_str!("fixtures/mistral_thinking.sse")),
    ("openrouter_reasoning", Format::Chat, include_str!("fixtures/openrouter_reasoning.sse")),
    ("vllm_reasoning", Format::Chat, include_str!("fixtures/vllm_reasoning.sse")),
    ("interleaved_tools", Format::Chat, include_str!("fixtures/interleaved_tools.sse")),
    ("anthropic_text", Format::Messages, include_str!("fixtures/anthropic_text.sse")),
    ("anthropic_tools", Format::Messages, include_str!("fixtures/anthropic_tools.sse")),
    ("responses_text", Format::Responses, include_str!("fixtures/responses_text.sse")),
    ("responses_tools", Format::Responses, include_str!("fixtures/responses_tools.sse")),
    ("openai_tools_aimock", Format::Chat, include_str!("fixtures/openai_tools_aimock.sse")),
    ("anthropic_text_aimock", Format::Messages, include_str!("fixtures/anthropic_text_aimock.sse")),
    ("responses_text_aimock", Format::Responses, include_str!("fixtures/responses_text_aimock.sse")),
    ("responses_tools_aimock", Format::Responses, include_str!("fixtures/responses_tools_aimock.sse")),
];

pub(crate) const CLIENTS: [Format; 3] = [Format::Chat, Format::Responses, Format::Messages];

/// The transcript of a stream, and the stream that is written from it in the format `to`.
fn translate<'a>(from: Format, to: Format, chunks: impl Iterator<Item = &'a [u8]>) -> (Transcript, String) {
    let (mut events, mut decoder) = (sse::SseDecoder::default(), Decoder::new(from));
    let frame = Frame { id: "id".into(), wants_usage: true, ..Frame::default() };
    let (mut writer, mut transcript) = (Writer::new(to, frame).unwrap(), Transcript::default());
    let mut out = Vec::new();
    let mut decode = |event: SseEvent| {
        let SseEvent::Data { data, .. } = event else { return };
        let signal = decoder.decode(&data, &mut |delta| {
            transcript.apply(&delta);
            writer.write(&delta, &mut out);
        });
        assert!(!matches!(signal, Signal::Error(_)), "{signal:?}");
    };
    for chunk in chunks {
        events.push(Bytes::copy_from_slice(chunk));
        while let Some(event) = events.event().unwrap() {
            decode(event);
        }
    }
    events.finish().unwrap().map(decode);
    assert!(decoder.is_complete());
    writer.finish(None, &mut out);
    (transcript, String::from_utf8(out).unwrap())
}

fn whole(stream: &str) -> std::iter::Once<&[u8]> {
    std::iter::once(stream.as_bytes())
}

const TEXT: &str = "All is well é🙂, \"quoted\"\n.";

fn usage() -> Usage {
    Usage { input: 12, cache_read: 8, output: 9, reasoning: 3, ..Usage::default() }
}

fn call(id: &str, name: &str, arguments: &str) -> Block {
    Block::Call(ToolCall { id: id.into(), name: name.into(), arguments: arguments.into() })
}

fn reasoning(signature: Option<&str>) -> Block {
    Block::Reasoning(Reasoning {
        text: "Hm, é so.".into(),
        signature: signature.map(Into::into),
        redacted: None,
        by: None,
    })
}

#[test]
fn streams_decode_to_their_transcripts() {
    let weather = "{\"city\": \"Zürich\"}";
    let text = |text: &str| Block::Text(text.into());
    let anthropic = Usage { cache_write: 2, cache_write_1h: 3, reasoning: 0, ..usage() };
    let with_cost = Usage { cost: Some(NanoUsd(100_000_000)), ..usage() };
    for (name, expected, stop, usage) in [
        ("openai_text", vec![text(TEXT)], Stop::End, Some(usage())),
        (
            "openai_tools",
            vec![call("call_a", "weather", weather), call("call_b", "now", "")],
            Stop::ToolCalls,
            Some(usage()),
        ),
        ("azure_text", vec![text("All is well.")], Stop::End, Some(usage())),
        ("deepseek_reasoning", vec![reasoning(None), text("All is well.")], Stop::End, Some(usage())),
        ("compatible_text", vec![text("All is well.")], Stop::Length, None),
        (
            "mistral_thinking",
            vec![
                reasoning(None),
                text("All is well."),
                call("a1B2c3D4e", "weather", weather),
                call("f5G6h7I8j", "now", "{}"),
            ],
            Stop::ToolCalls,
            Some(usage()),
        ),
        ("openrouter_reasoning", vec![reasoning(None), text("All is well.")], Stop::End, Some(with_cost)),
        ("vllm_reasoning", vec![reasoning(None), text("All is well.")], Stop::End, Some(usage())),
        (
            "interleaved_tools",
            vec![
                call("call_a", "weather", weather),
                call("call_b", "now", "{\"zone\": \"UTC\"}"),
                text("One moment."),
                call("call_c", "rain", "{}"),
            ],
            Stop::ToolCalls,
            Some(usage()),
        ),
        ("anthropic_text", vec![text(TEXT)], Stop::End, Some(anthropic)),
        (
            "anthropic_tools",
            vec![
                reasoning(Some("EqQB")),
                text("Let me look."),
                call("toolu_a", "weather", weather),
                call("toolu_b", "now", "{}"),
            ],
            Stop::ToolCalls,
            Some(anthropic),
        ),
        ("responses_text", vec![text(TEXT)], Stop::End, Some(usage())),
        (
            "responses_tools",
            vec![call("call_a", "weather", weather), call("call_b", "now", "{}")],
            Stop::ToolCalls,
            Some(usage()),
        ),
    ] {
        let (_, format, stream) = STREAMS.iter().find(|(known, ..)| *known == name).unwrap();
        let (decoded, _) = translate(*format, Format::Chat, whole(stream));
        assert_eq!((decoded.blocks, decoded.stop, decoded.usage), (expected, Some(stop), usage), "{name}");
    }
}

#[test]
fn chunking_does_not_change_the_written_stream() {
    for (name, from, stream) in STREAMS {
        for to in CLIENTS {
            let expected = translate(from, to, whole(stream));
            assert_eq!(translate(from, to, stream.as_bytes().chunks(1)), expected, "{name} to {to:?}");
            for cut in (1..stream.len()).step_by(7) {
                let (a, b) = stream.as_bytes().split_at(cut);
                assert_eq!(
                    translate(from, to, [a, b].into_iter()),
                    expected,
                    "{name} to {to:?} cut at {cut}"
                );
            }
        }
    }
}

#[test]
fn written_streams_decode_to_the_same_answer() {
    for (name, from, stream) in STREAMS {
        for to in CLIENTS {
            let (original, written) = translate(from, to, whole(stream));
            let (decoded, _) = translate(to, to, whole(&written));
            assert_eq!(decoded.blocks, expressible(&original, to), "{name} to {to:?}: {written}");
            assert_eq!(decoded.stop, original.stop, "{name} to {to:?}");
            let counts =
                |transcript: &Transcript| transcript.usage.map(|usage| (usage.total_input(), usage.output));
            // Anthropic's clients treat 0 input tokens as an error, so at least 1 is written.
            let expected = match (to, counts(&original)) {
                (Format::Messages, None | Some((0, 0))) => Some((1, 0)),
                (_, expected) => expected,
            };
            assert_eq!(counts(&decoded), expected, "{name} to {to:?}");
        }
    }
}

/// The blocks of an answer as a format can express them: only Anthropic's has signatures, and empty arguments become an
/// empty object.
fn expressible(answer: &Transcript, to: Format) -> Vec<Block> {
    let blocks = answer.blocks.iter().cloned().map(|block| match block {
        Block::Reasoning(mut reasoning) if to != Format::Messages => {
            reasoning.signature = None;
            Block::Reasoning(reasoning)
        }
        Block::Call(mut call) if call.arguments.is_empty() => {
            call.arguments = "{}".into();
            Block::Call(call)
        }
        block => block,
    });
    blocks.collect()
}

#[test]
fn messages_have_the_events_that_clients_expect() {
    let (_, written) = translate(Format::Chat, Format::Messages, whole(STREAMS[1].2));
    let kinds: Vec<&str> = written.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(
        kinds,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert!(written.contains(r#""stop_reason":"tool_use""#), "{written}");
    assert!(!written.contains(r#""input_tokens":0"#), "0 input tokens are an error for clients: {written}");
}

#[test]
fn response_events_are_numbered_and_every_item_is_closed() {
    for (name, from, stream) in STREAMS {
        let (_, written) = translate(from, Format::Responses, whole(stream));
        let events: Vec<serde_json::Value> = written
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        let numbers: Vec<u64> =
            events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>(), "{name}");
        // Items may be open together, so they may close in another order.
        let of = |kind: &str| {
            let found = events.iter().filter(|event| event["type"] == kind);
            let items = found.map(|event| (event["output_index"].as_u64(), event["item"]["id"].to_string()));
            items.collect::<BTreeSet<_>>()
        };
        assert_eq!(of("response.output_item.added"), of("response.output_item.done"), "{name}");
        let last = &events[events.len() - 1];
        assert_eq!(
            last["response"]["output"].as_array().unwrap().len(),
            of("response.output_item.done").len()
        );
    }
}

#[test]
fn answers_that_are_not_streamed_decode_to_the_same_answer() {
    for (name, from, stream) in STREAMS {
        let (original, _) = translate(from, Format::Chat, whole(stream));
        for to in CLIENTS {
            let written = super::writer::whole(to, &Frame::default(), &original).to_string();
            let mut decoded = Transcript::default();
            super::decoder::decode_whole(to, &Bytes::from(written), &mut |delta| decoded.apply(&delta))
                .unwrap();
            // Arguments are compared as JSON, and missing ones count as an empty object.
            let normalised = |mut blocks: Vec<Block>| {
                for block in &mut blocks {
                    if let Block::Call(call) = block
                        && let Ok(json) = serde_json::from_str::<serde_json::Value>(&call.arguments)
                    {
                        call.arguments = json.to_string();
                    } else if let Block::Call(call) = block {
                        call.arguments = "{}".into();
                    }
                }
                // A chat completion has one field for each kind of text, so it loses their order.
                blocks.sort_by_key(|block| match block {
                    Block::Reasoning(_) => 0,
                    Block::Text(_) | Block::Refusal(_) => 1,
                    Block::Call(_) => 2,
                });
                blocks
            };
            assert_eq!(
                normalised(decoded.blocks),
                normalised(expressible(&original, to)),
                "{name} to {to:?}"
            );
            assert_eq!(decoded.stop, original.stop, "{name} to {to:?}");
        }
    }
}

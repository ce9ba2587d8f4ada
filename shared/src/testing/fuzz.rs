//! Defines the fuzz targets: each takes any bytes and must neither panic nor violate its assertions.
//!
//! `fuzz/` runs them under libFuzzer; a test here replays the corpus and every fixture.

use bytes::Bytes;

use crate::{
    Config,
    wire::{
        Block, Decoder, Format, Frame, Request, Transcript, Writer,
        decoder::decode_whole,
        sse::{self, SseEvent},
    },
};

/// A function that accepts any bytes.
type Target = fn(&[u8]);

/// The targets, by their names.
const TARGETS: [(&str, Target); 7] = [
    ("sse", sse),
    ("chat", |bytes| stream(Format::Chat, bytes)),
    ("messages", |bytes| stream(Format::Messages, bytes)),
    ("responses", |bytes| stream(Format::Responses, bytes)),
    ("answers", answers),
    ("requests", requests),
    ("config", config),
];

/// Runs the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(bytes);
    }
}

/// Event streams: any chunking gives the same events, and a `plain` event is what encoding writes.
pub fn sse(bytes: &[u8]) {
    let events = |size: usize| {
        let (mut decoder, mut events) = (sse::SseDecoder::default(), Vec::new());
        for chunk in bytes.chunks(size.max(1)) {
            decoder.push(Bytes::copy_from_slice(chunk));
            loop {
                match decoder.event() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(_) => return None,
                }
            }
        }
        events.extend(decoder.finish().ok()?);
        Some(events)
    };
    let (whole, single) = (events(bytes.len()), events(1));
    let data = |events: &Option<Vec<SseEvent>>| {
        let data = events.iter().flatten().map(|event| match event {
            SseEvent::Data { name, data, .. } => Some((name.clone(), data.clone())),
            SseEvent::Comment => None,
        });
        data.collect::<Vec<_>>()
    };
    assert_eq!(data(&whole), data(&single), "chunking changes the data");
    for event in whole.iter().flatten() {
        if let SseEvent::Data { name, data, plain: Some(plain) } = event {
            assert_eq!(*plain, sse::encode(name.as_deref(), data), "a plain event differs from its encoding");
        }
    }
}

/// A stream in one format, written in all of them: reading the result gives the same text.
pub fn stream(format: Format, bytes: &[u8]) {
    for to in [Format::Chat, Format::Responses, Format::Messages] {
        let (mut events, mut decoder) = (sse::SseDecoder::default(), Decoder::new(format));
        let Some(mut writer) = Writer::new(to, Frame::default()) else { return };
        let (mut sent, mut out) = (Transcript::default(), Vec::new());
        events.push(Bytes::copy_from_slice(bytes));
        while let Ok(Some(event)) = events.event() {
            let SseEvent::Data { data, .. } = event else { continue };
            decoder.decode(&data, &mut |delta| {
                sent.apply(&delta);
                writer.write(&delta, &mut out);
            });
        }
        writer.finish(None, &mut out);
        let (mut events, mut again) = (sse::SseDecoder::default(), Decoder::new(to));
        events.push(out.into());
        let mut received = Transcript::default();
        while let Ok(Some(event)) = events.event() {
            if let SseEvent::Data { data, .. } = event {
                again.decode(&data, &mut |delta| received.apply(&delta));
            }
        }
        assert_eq!(text(&received), text(&sent), "{format:?} to {to:?} changes the text");
    }
}

/// All text and refusals of an answer: Anthropic's format does not tell them apart.
fn text(transcript: &Transcript) -> String {
    let texts = transcript.blocks.iter().filter_map(|block| match block {
        Block::Text(text) | Block::Refusal(text) => Some(text.as_str()),
        Block::Reasoning(_) | Block::Call(_) => None,
    });
    texts.collect()
}

/// Answers that are not streamed, in every format.
pub fn answers(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    for format in [Format::Chat, Format::Responses, Format::Messages, Format::Embeddings, Format::TokenCount]
    {
        let mut transcript = Transcript::default();
        let _ = decode_whole(format, &body, &mut |delta| transcript.apply(&delta));
    }
}

/// Requests in every format: one that is accepted is still JSON with the model replaced when it is encoded.
pub fn requests(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    for format in [Format::Chat, Format::Responses, Format::Messages, Format::Embeddings, Format::TokenCount]
    {
        let Ok(request) = Request::parse(format, body.clone()) else { continue };
        let _ = request.prompt();
        for cap in [None, Some(7)] {
            let body = request
                .encode("m", "max_tokens", cap, &Default::default(), None)
                .0
                .build()
                .into_bytes()
                .unwrap_or_default();
            let body: Result<serde_json::Value, _> = serde_json::from_slice(&body);
            // Bodies are passed on byte for byte, so one may hold what serde cannot parse, such as 1e400.
            if let Ok(body) = body {
                assert_eq!(body.get("model"), Some(&"m".into()));
            }
        }
    }
}

/// Configuration files.
pub fn config(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Config::parse(text, "fuzz", |_| Some("secret".into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::STREAMS;

    #[test]
    fn the_corpus_and_all_fixtures_pass() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");
        let mut replayed = 0;
        for (name, target) in TARGETS {
            for (.., stream) in STREAMS {
                target(stream.as_bytes());
            }
            let Ok(files) = std::fs::read_dir(format!("{corpus}/{name}")) else { continue };
            for file in files {
                target(&std::fs::read(file.unwrap().path()).unwrap());
                replayed += 1;
            }
        }
        assert!(replayed > 0, "no corpus under {corpus}");
    }
}

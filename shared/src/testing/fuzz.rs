//! What fuzzers drive: each takes any bytes and must neither panic nor contradict itself.
//!
//! `fuzz/` calls these under libFuzzer; a test replays the corpus and every fixture.

use bytes::Bytes;

use crate::{
    Config,
    wire::{
        Block, Decoder, Format, Frame, Request, Transcript, Writer,
        decoder::decode_whole,
        sse::{self, SseEvent},
    },
};

/// Something that any bytes can be given to.
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

/// Event streams: any chunking gives the same events, and what is plain is what encoding gives.
pub fn sse(bytes: &[u8]) {
    let events = |size: usize| {
        let (mut decoder, mut seen) = (sse::SseDecoder::default(), Vec::new());
        for chunk in bytes.chunks(size.max(1)) {
            decoder.push(Bytes::copy_from_slice(chunk));
            loop {
                match decoder.event() {
                    Ok(Some(event)) => seen.push(event),
                    Ok(None) => break,
                    Err(_) => return None,
                }
            }
        }
        seen.extend(decoder.finish().ok()?);
        Some(seen)
    };
    let (whole, single) = (events(bytes.len()), events(1));
    let said = |events: &Option<Vec<SseEvent>>| {
        let data = events.iter().flatten().map(|event| match event {
            SseEvent::Data { name, data, .. } => Some((name.clone(), data.clone())),
            SseEvent::Comment => None,
        });
        data.collect::<Vec<_>>()
    };
    assert_eq!(said(&whole), said(&single), "chunks change what is said");
    for event in whole.iter().flatten() {
        if let SseEvent::Data { name, data, plain: Some(plain) } = event {
            assert_eq!(*plain, sse::encode(name.as_deref(), data), "plain is what it would be written as");
        }
    }
}

/// A stream in one format, written in all of them: what is written can be read.
pub fn stream(format: Format, bytes: &[u8]) {
    for to in [Format::Chat, Format::Responses, Format::Messages] {
        let (mut events, mut decoder) = (sse::SseDecoder::default(), Decoder::new(format));
        let Some(mut writer) = Writer::new(to, Frame::default()) else { return };
        let (mut said, mut out) = (Transcript::default(), Vec::new());
        events.push(Bytes::copy_from_slice(bytes));
        while let Ok(Some(event)) = events.event() {
            let SseEvent::Data { data, .. } = event else { continue };
            decoder.decode(&data, &mut |delta| {
                said.apply(&delta);
                writer.write(&delta, &mut out);
            });
        }
        writer.finish(None, &mut out);
        let (mut events, mut again) = (sse::SseDecoder::default(), Decoder::new(to));
        events.push(out.into());
        let mut heard = Transcript::default();
        while let Ok(Some(event)) = events.event() {
            if let SseEvent::Data { data, .. } = event {
                again.decode(&data, &mut |delta| heard.apply(&delta));
            }
        }
        assert_eq!(words(&heard), words(&said), "{format:?} to {to:?} loses words");
    }
}

/// All that was said; Anthropic has no words of its own for declining.
fn words(transcript: &Transcript) -> String {
    let words = transcript.blocks.iter().filter_map(|block| match block {
        Block::Text(text) | Block::Refusal(text) => Some(text.as_str()),
        Block::Reasoning(_) | Block::Call(_) => None,
    });
    words.collect()
}

/// Whole answers in every format.
pub fn answers(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    for format in [Format::Chat, Format::Responses, Format::Messages, Format::Embeddings, Format::TokenCount]
    {
        let mut said = Transcript::default();
        let _ = decode_whole(format, &body, &mut |delta| said.apply(&delta));
    }
}

/// Requests in every format: one that is understood stays JSON on its way.
pub fn requests(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    for format in [Format::Chat, Format::Responses, Format::Messages, Format::Embeddings, Format::TokenCount]
    {
        let Ok(request) = Request::parse(format, body.clone()) else { continue };
        let _ = request.prompt();
        for cap in [None, Some(7)] {
            let sent = request.encode("m", "max_tokens", cap);
            let sent: Result<serde_json::Value, _> = serde_json::from_slice(&sent);
            // What serde can't hold, such as 1e400, a provider may.
            if let Ok(sent) = sent {
                assert_eq!(sent.get("model"), Some(&"m".into()));
            }
        }
    }
}

/// Configurations.
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
    fn the_corpus_holds() {
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

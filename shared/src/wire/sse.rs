//! Decodes server-sent events as their bytes arrive (WHATWG HTML, section 9.2.6), and encodes them. Does not read the
//! data.
//!
//! Lines end in LF, CR or CRLF, in any mixture, and chunks may split them anywhere. An event that lies in one chunk is
//! returned as a slice of it, without a copy.

use bytes::{Bytes, BytesMut};

/// Largest event: no vendor's events come near it, and an endless line must not fill the memory.
pub const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// One event or comment of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SseEvent {
    /// The data of an event, its lines joined with LF.
    Data {
        /// The event's name, if it has one.
        name: Option<Bytes>,
        /// The data.
        data: Bytes,
        /// The bytes of the event, if they are what [`encode`] writes: a line `event: …` if it has a name, one line
        /// `data: …` and a blank one, each ended by LF. They can be passed on unchanged.
        plain: Option<Bytes>,
    },
    /// A comment, which keeps the connection alive.
    Comment,
}

/// Why a stream cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event has more than [`MAX_EVENT_BYTES`].
    #[error("an event is longer than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    /// The data or the name of an event is not UTF-8.
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// Decodes events from pushed chunks.
///
/// All offsets count from the first byte of the current event.
#[derive(Debug, Default)]
pub struct SseDecoder {
    /// The chunk that is being decoded, while `rest` is empty.
    chunk: Bytes,
    /// Undecoded bytes of earlier chunks and all bytes after them, once an event spans chunks.
    rest: BytesMut,
    /// Offset of the first byte that was not scanned for a line end.
    scanned: usize,
    /// Offset of the start of the current line.
    line: usize,
    /// Start and end of the values of this event's data lines.
    data: Vec<(usize, usize)>,
    /// Start and end of this event's name.
    name: Option<(usize, usize)>,
    /// This event has other fields or comments, so it is not plain.
    has_other: bool,
    /// The last line ended in CR; an LF that follows belongs to it.
    after_cr: bool,
    /// The first line is past, so there is no byte order mark to skip.
    past_first_line: bool,
    /// Start and end of this event's id.
    id: Option<(usize, usize)>,
    /// Where to resume, after the events so far.
    resume: ResumePoint,
}

/// How to resume a stream that was disconnected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumePoint {
    /// The id of the last event that had one.
    pub id: Option<Bytes>,
    /// How many milliseconds to wait before, if the stream says so.
    pub retry: Option<u64>,
}

impl SseDecoder {
    /// Adds the next chunk of the stream.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() && self.rest.is_empty() {
            self.chunk = chunk;
        } else {
            self.keep();
            self.rest.extend_from_slice(&chunk);
        }
    }

    /// The next complete event; `None` until more chunks are pushed.
    pub fn event(&mut self) -> Result<Option<SseEvent>, SseError> {
        loop {
            // An LF after a CR ends the same line, even if it came in a later chunk.
            if self.after_cr
                && let Some(byte) = self.bytes().get(self.scanned).copied()
            {
                self.after_cr = false;
                if byte == b'\n' {
                    self.scanned += 1;
                    self.line = self.scanned;
                    // Between events the LF is dropped at once, so that the next event can be a slice of its chunk.
                    if self.data.is_empty() && self.name.is_none() && !self.has_other {
                        self.take(self.scanned);
                    }
                    continue;
                }
            }
            let bytes = self.bytes();
            let tail = bytes.get(self.scanned..).unwrap_or_default();
            let Some(at) = memchr::memchr2(b'\n', b'\r', tail) else {
                self.scanned = bytes.len();
                if self.scanned > MAX_EVENT_BYTES {
                    return Err(SseError::TooLong);
                }
                self.keep();
                return Ok(None);
            };
            let end = self.scanned + at;
            self.after_cr = bytes.get(end) == Some(&b'\r');
            let (start, after) = (self.line, end + 1);
            (self.scanned, self.line) = (after, after);
            if start == end {
                if let Some(event) = self.dispatch(after)? {
                    return Ok(Some(event));
                }
            } else if self.field(start, end) {
                return Ok(Some(SseEvent::Comment));
            }
            if self.scanned > MAX_EVENT_BYTES {
                return Err(SseError::TooLong);
            }
        }
    }

    /// The last event of a stream that ended without a blank line. The standard drops it, but vendors end their streams
    /// like that.
    pub fn finish(&mut self) -> Result<Option<SseEvent>, SseError> {
        let end = self.bytes().len();
        if self.line < end {
            self.field(self.line, end);
        }
        self.dispatch(end)
    }

    /// How to resume the stream after the events so far.
    pub fn resume(&self) -> &ResumePoint {
        &self.resume
    }

    /// Reads one line; returns whether it is a comment.
    fn field(&mut self, start: usize, end: usize) -> bool {
        let line = self.bytes().get(start..end).unwrap_or_default();
        let bom = if self.past_first_line { None } else { line.strip_prefix(b"\xef\xbb\xbf") };
        let (line, start) = bom.map_or((line, start), |line| (line, start + 3));
        let value = |field: &[u8]| {
            let skip = match line.strip_prefix(field)? {
                [] => 0,
                [b':', b' ', ..] => 2,
                [b':', ..] => 1,
                _ => return None,
            };
            Some((start + field.len() + skip, end))
        };
        let comment = line.first() == Some(&b':');
        let (data, name) = (value(b"data"), value(b"event"));
        let (id, retry) = (value(b"id"), value(b"retry"));
        self.past_first_line = true;
        match (data, name) {
            (Some(range), _) => self.data.push(range),
            (None, Some(range)) => self.name = Some(range),
            (None, None) => self.has_other = true,
        }
        self.id = id.or(self.id);
        if let Some((start, end)) = retry {
            let digits = self.bytes().get(start..end).and_then(|value| std::str::from_utf8(value).ok());
            self.resume.retry = digits.and_then(|digits| digits.parse().ok()).or(self.resume.retry);
        }
        comment
    }

    /// Ends the event at `end` and takes its bytes out of the buffer. `None` if it has no data.
    fn dispatch(&mut self, end: usize) -> Result<Option<SseEvent>, SseError> {
        let ranges = std::mem::take(&mut self.data);
        let has_other = std::mem::replace(&mut self.has_other, false);
        let name = self.name.take();
        let id = self.id.take();
        let raw = self.take(end);
        if let Some(id) = id.and_then(|(start, end)| raw.get(start..end)) {
            // The standard ignores an id with a NUL.
            self.resume.id = (!id.contains(&0)).then(|| Bytes::copy_from_slice(id)).or(self.resume.id.take());
        }
        let data = match ranges.as_slice() {
            [] => return Ok(None),
            [(start, end)] => raw.slice(*start..*end),
            many => {
                let lines: Vec<&[u8]> =
                    many.iter().filter_map(|(start, end)| raw.get(*start..*end)).collect();
                lines.join(&b'\n').into()
            }
        };
        if std::str::from_utf8(&data).is_err() {
            return Err(SseError::NotUtf8);
        }
        let name = name.map(|(start, end)| raw.slice(start..end));
        if name.as_ref().is_some_and(|name| std::str::from_utf8(name).is_err()) {
            return Err(SseError::NotUtf8);
        }
        // Plain means `raw` is the name line, if any, the data line and a blank line, without optional or other bytes.
        let name_bytes = name.as_ref().map_or(0, |name| NAME_PREFIX.len() + name.len() + 1);
        let begins_with_name = name.is_none() || raw.starts_with(NAME_PREFIX);
        let plain = !has_other
            && begins_with_name
            && raw.len() == name_bytes + data.len() + DATA_PREFIX.len() + 2
            && raw.get(name_bytes..).is_some_and(|rest| rest.starts_with(DATA_PREFIX))
            && raw.get(name_bytes.saturating_sub(1)).is_none_or(|byte| name_bytes == 0 || *byte == b'\n')
            && raw.ends_with(b"\n\n");
        Ok(Some(SseEvent::Data { name, data, plain: plain.then_some(raw) }))
    }

    fn bytes(&self) -> &[u8] {
        if self.rest.is_empty() { &self.chunk } else { &self.rest }
    }

    /// Splits off the first `end` bytes.
    fn take(&mut self, end: usize) -> Bytes {
        self.scanned = 0;
        self.line = 0;
        if self.rest.is_empty() { self.chunk.split_to(end) } else { self.rest.split_to(end).freeze() }
    }

    /// Moves the rest of the chunk to `rest`, before another chunk comes.
    fn keep(&mut self) {
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&std::mem::take(&mut self.chunk));
        }
    }
}

const DATA_PREFIX: &[u8] = b"data: ";
const NAME_PREFIX: &[u8] = b"event: ";

/// Encodes an event with `data`, one data line for each of its lines.
pub fn encode(name: Option<&[u8]>, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(DATA_PREFIX.len() + data.len() + 2);
    if let Some(name) = name {
        out.extend_from_slice(NAME_PREFIX);
        out.extend_from_slice(name);
        out.extend_from_slice(b"\n");
    }
    for line in data.split(|byte| *byte == b'\n') {
        out.extend_from_slice(DATA_PREFIX);
        out.extend_from_slice(line);
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of all events; comments are `:`.
    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<String>, SseError> {
        let (mut decoder, mut events) = (SseDecoder::default(), Vec::new());
        let text = |event| match event {
            SseEvent::Comment => ":".to_owned(),
            SseEvent::Data { name, data, plain } => {
                if let Some(plain) = plain {
                    assert_eq!(plain, encode(name.as_deref(), &data));
                }
                String::from_utf8(data.to_vec()).unwrap()
            }
        };
        for chunk in chunks {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(event) = decoder.event()? {
                events.push(text(event));
            }
        }
        events.extend(decoder.finish()?.map(text));
        Ok(events)
    }

    fn check(stream: &str, expected: &[&str]) {
        assert_eq!(decode([stream.as_bytes()]).unwrap(), expected, "{stream:?} in one piece");
        assert_eq!(decode(stream.as_bytes().chunks(1)).unwrap(), expected, "{stream:?} byte by byte");
        for cut in 1..stream.len() {
            let (a, b) = stream.as_bytes().split_at(cut);
            assert_eq!(decode([a, b]).unwrap(), expected, "{stream:?} cut at {cut}");
        }
    }

    #[test]
    fn line_endings_mix_and_chunks_split_anywhere() {
        check("data: a\n\ndata: b\n\n", &["a", "b"]);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]);
        check("data: a\r\rdata: b\r\r", &["a", "b"]);
        check("data: a\n\r\ndata: b\r\n\n", &["a", "b"]);
        check("data: é🙂\n\n", &["é🙂"]);
    }

    #[test]
    fn corner_cases_follow_the_standard() {
        check("\u{feff}data: a\n\n", &["a"]);
        check("data: a\ndata: b\n\n", &["a\nb"]);
        check("data\n\n", &[""]);
        check("data:  a\n\n", &[" a"]);
        check("data:a\n\n", &["a"]);
        check("event: x\nid: 1\nretry: 5\ndata: a\nfoo\n\n", &["a"]);
        check("event: x\n\n", &[]);
        check("database: x\n\n", &[]);
        check(": keep-alive\n\n: again\ndata: a\n\n", &[":", ":", "a"]);
        check("\n\n\n", &[]);
        check("data: cut off", &["cut off"]);
    }

    #[test]
    fn ids_and_retries_are_kept() {
        let mut decoder = SseDecoder::default();
        for byte in b"id: 1\nretry: 20\ndata:\n\nid: 2\nretry: no\n\nid: 3\ndata: a" {
            decoder.push(Bytes::copy_from_slice(&[*byte]));
            decoder.event().unwrap();
        }
        // The third event is not complete.
        assert_eq!(decoder.resume(), &ResumePoint { id: Some("2".into()), retry: Some(20) });
    }

    #[test]
    fn endless_lines_and_invalid_utf8_are_errors() {
        let mut decoder = SseDecoder::default();
        let result = std::iter::repeat_with(|| {
            decoder.push(Bytes::from_static(&[b'x'; 65536]));
            decoder.event()
        });
        assert_eq!(result.take(100).find(Result::is_err), Some(Err(SseError::TooLong)));
        assert_eq!(decode([b"data: \xff\n\n".as_slice()]), Err(SseError::NotUtf8));
    }

    #[test]
    fn an_event_in_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"data: {}\n\ndata: [DONE]\n\n");
        let mut decoder = SseDecoder::default();
        decoder.push(chunk.clone());
        let Ok(Some(SseEvent::Data { plain: Some(plain), .. })) = decoder.event() else { panic!() };
        assert_eq!(plain.as_ptr(), chunk.as_ptr());
        let chunk = Bytes::from_static(b"event: ping\ndata: {}\n\n");
        decoder = SseDecoder::default();
        decoder.push(chunk.clone());
        let Ok(Some(SseEvent::Data { name: Some(name), plain: Some(plain), .. })) = decoder.event() else {
            panic!()
        };
        assert_eq!((name.as_ref(), plain.as_ptr()), (b"ping".as_slice(), chunk.as_ptr()));
    }

    proptest! {
        #[test]
        fn chunking_does_not_change_the_events(
            lines in prop::collection::vec("(data: ?[a-zé🙂]{0,4}|event: ?[a-z]{0,3}|:[a-z]{0,2}|id: 1|)(\n|\r|\r\n)", 0..12),
            cuts in prop::collection::vec(0_usize..200, 0..12),
        ) {
            let stream = lines.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
            prop_assert_eq!(decode(chunks), decode([stream.as_slice()]));
        }
    }
}

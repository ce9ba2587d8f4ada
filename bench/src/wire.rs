//! The little of HTTP/1.1 that both ends of the bench need: heads, lengths and chunks.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A keep-alive connection and what has been read from it but not used yet.
pub(crate) struct Wire {
    /// The connection itself, for writing.
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
}

/// What the bench reads from a head.
pub(crate) struct Head {
    /// The first line, as in `HTTP/1.1 200 OK`.
    pub(crate) first_line: String,
    /// The length of the body in bytes; `None` when it comes in chunks.
    pub(crate) length: Option<usize>,
    /// What is asked of AWS, as in `DynamoDB_20120810.Query`.
    pub(crate) target: Option<String>,
}

impl Wire {
    /// Takes over a connection; small writes leave at once.
    pub(crate) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024), used: 0 })
    }

    /// Reads a head; `None` when the peer closed between two messages.
    pub(crate) async fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some(end) = position(self.rest(), b"\r\n\r\n") {
                let text = String::from_utf8_lossy(self.rest().get(..end).unwrap_or_default()).into_owned();
                self.used += end + 4;
                return parse(&text).map(Some);
            }
            if !self.fill().await? {
                return if self.rest().is_empty() { Ok(None) } else { Err(cut()) };
            }
        }
    }

    /// Waits until a byte of the body is there.
    pub(crate) async fn first_byte(&mut self) -> Result<()> {
        while self.rest().is_empty() {
            if !self.fill().await? {
                return Err(cut());
            }
        }
        Ok(())
    }

    /// Reads `length` bytes and says which of the `needles` they hold.
    pub(crate) async fn body<const N: usize>(
        &mut self,
        length: usize,
        needles: [&[u8]; N],
    ) -> Result<[bool; N]> {
        self.need(length).await?;
        let body = self.rest().get(..length).unwrap_or_default();
        let found = needles.map(|needle| position(body, needle).is_some());
        self.used += length;
        Ok(found)
    }

    /// Reads chunks up to the empty one and returns how many bytes they held.
    pub(crate) async fn chunks(&mut self) -> Result<usize> {
        let mut total = 0;
        self.each_chunk(|chunk| total += chunk.len()).await?;
        Ok(total)
    }

    /// Reads all of a body.
    pub(crate) async fn whole(&mut self, head: &Head) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        match head.length {
            Some(length) => {
                self.need(length).await?;
                whole.extend_from_slice(self.rest().get(..length).unwrap_or_default());
                self.used += length;
            }
            None => self.each_chunk(|chunk| whole.extend_from_slice(chunk)).await?,
        }
        Ok(whole)
    }

    /// Sends a request and reads its answer, which must be a 200.
    pub(crate) async fn ask(&mut self, request: &str) -> Result<Vec<u8>> {
        self.stream.write_all(request.as_bytes()).await?;
        let head = self.head().await?.ok_or_else(cut)?;
        let body = self.whole(&head).await?;
        if !head.first_line.starts_with("HTTP/1.1 200") {
            let said = String::from_utf8_lossy(&body);
            return Err(Error::other(format!("it answers {}: {said}", head.first_line)));
        }
        Ok(body)
    }

    async fn each_chunk(&mut self, mut take: impl FnMut(&[u8])) -> Result<()> {
        loop {
            let end = loop {
                if let Some(end) = position(self.rest(), b"\r\n") {
                    break end;
                }
                if !self.fill().await? {
                    return Err(cut());
                }
            };
            let size = self.rest().get(..end).and_then(|line| std::str::from_utf8(line).ok());
            let size = size.and_then(|line| usize::from_str_radix(line.trim(), 16).ok());
            let size = size.ok_or_else(|| Error::new(ErrorKind::InvalidData, "a chunk without a size"))?;
            self.used += end + 2;
            self.need(size + 2).await?;
            take(self.rest().get(..size).unwrap_or_default());
            self.used += size + 2;
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn need(&mut self, length: usize) -> Result<()> {
        while self.rest().len() < length {
            if !self.fill().await? {
                return Err(cut());
            }
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<bool> {
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        }
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }
}

fn parse(text: &str) -> Result<Head> {
    let mut lines = text.split("\r\n");
    let first_line = lines.next().unwrap_or_default().to_owned();
    let (mut length, mut target) = (Some(0), None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            let value = value.trim().parse().map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
            length = Some(value);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            length = None;
        } else if name.eq_ignore_ascii_case("x-amz-target") {
            target = Some(value.trim().to_owned());
        }
    }
    Ok(Head { first_line, length, target })
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn cut() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "the connection closed inside a message")
}

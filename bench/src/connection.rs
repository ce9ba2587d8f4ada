//! Reads HTTP/1.1 messages off a keep-alive connection: heads, lengths and chunks. Knows no TLS, no redirects and no
//! compression, since both ends are the bench's own.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A keep-alive connection with the bytes that were received but not consumed yet.
pub(crate) struct Connection {
    /// The connection itself, for writing.
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    /// How many bytes of the buffer are consumed.
    consumed: usize,
}

/// The parts of a message's head that the bench reads.
pub(crate) struct MessageHead {
    /// The first line, as in `HTTP/1.1 200 OK`.
    pub(crate) first_line: String,
    /// Length of the body in bytes; `None` if it is chunked.
    pub(crate) body_bytes: Option<usize>,
    /// The operation of an AWS request, as in `DynamoDB_20120810.Query`.
    pub(crate) aws_target: Option<String>,
}

impl Connection {
    /// Takes over a connection and turns Nagle's algorithm off.
    pub(crate) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024), consumed: 0 })
    }

    /// Reads a head; `None` if the peer closed the connection between two messages.
    pub(crate) async fn read_head(&mut self) -> Result<Option<MessageHead>> {
        loop {
            if let Some(end) = find(self.unread(), b"\r\n\r\n") {
                let text = String::from_utf8_lossy(self.unread().get(..end).unwrap_or_default()).into_owned();
                self.consumed += end + 4;
                return parse_head(&text).map(Some);
            }
            if !self.fill().await? {
                return if self.unread().is_empty() { Ok(None) } else { Err(closed_early()) };
            }
        }
    }

    /// Waits until an unconsumed byte is in the buffer.
    pub(crate) async fn wait_for_byte(&mut self) -> Result<()> {
        while self.unread().is_empty() {
            if !self.fill().await? {
                return Err(closed_early());
            }
        }
        Ok(())
    }

    /// Consumes `length` bytes and returns for each of the `needles` whether they contain it.
    pub(crate) async fn scan_body<const N: usize>(
        &mut self,
        length: usize,
        needles: [&[u8]; N],
    ) -> Result<[bool; N]> {
        self.fill_to(length).await?;
        let body = self.unread().get(..length).unwrap_or_default();
        let found = needles.map(|needle| find(body, needle).is_some());
        self.consumed += length;
        Ok(found)
    }

    /// Consumes chunks up to the empty one and returns the one before it, with which a stream ends.
    pub(crate) async fn last_chunk(&mut self) -> Result<Vec<u8>> {
        let mut last = Vec::with_capacity(1024);
        self.each_chunk(|chunk| {
            if !chunk.is_empty() {
                last.clear();
                last.extend_from_slice(chunk);
            }
        })
        .await?;
        Ok(last)
    }

    /// Reads the whole body.
    pub(crate) async fn read_body(&mut self, head: &MessageHead) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        match head.body_bytes {
            Some(length) => {
                self.fill_to(length).await?;
                whole.extend_from_slice(self.unread().get(..length).unwrap_or_default());
                self.consumed += length;
            }
            None => self.each_chunk(|chunk| whole.extend_from_slice(chunk)).await?,
        }
        Ok(whole)
    }

    /// Sends a request and reads the response's body; any status but 200 is an error.
    pub(crate) async fn round_trip(&mut self, request: &str) -> Result<Vec<u8>> {
        self.stream.write_all(request.as_bytes()).await?;
        let head = self.read_head().await?.ok_or_else(closed_early)?;
        let body = self.read_body(&head).await?;
        if !head.first_line.starts_with("HTTP/1.1 200") {
            let body = String::from_utf8_lossy(&body);
            return Err(Error::other(format!("unexpected response {}: {body}", head.first_line)));
        }
        Ok(body)
    }

    /// Calls `chunk` with each chunk's bytes, up to and including the empty one that ends the body.
    async fn each_chunk(&mut self, mut chunk: impl FnMut(&[u8])) -> Result<()> {
        loop {
            let end = loop {
                if let Some(end) = find(self.unread(), b"\r\n") {
                    break end;
                }
                if !self.fill().await? {
                    return Err(closed_early());
                }
            };
            let size = self.unread().get(..end).and_then(|line| std::str::from_utf8(line).ok());
            let size = size.and_then(|line| usize::from_str_radix(line.trim(), 16).ok());
            let size = size.ok_or_else(|| Error::new(ErrorKind::InvalidData, "a chunk has no size"))?;
            self.consumed += end + 2;
            self.fill_to(size + 2).await?;
            chunk(self.unread().get(..size).unwrap_or_default());
            self.consumed += size + 2;
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Receives until `length` unconsumed bytes are in the buffer.
    async fn fill_to(&mut self, length: usize) -> Result<()> {
        while self.unread().len() < length {
            if !self.fill().await? {
                return Err(closed_early());
            }
        }
        Ok(())
    }

    /// Receives once; false if the peer has closed the connection.
    async fn fill(&mut self) -> Result<bool> {
        if self.consumed == self.buffer.len() {
            self.buffer.clear();
            self.consumed = 0;
        }
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// The bytes that were received but not consumed.
    fn unread(&self) -> &[u8] {
        self.buffer.get(self.consumed..).unwrap_or_default()
    }
}

fn parse_head(text: &str) -> Result<MessageHead> {
    let mut lines = text.split("\r\n");
    let first_line = lines.next().unwrap_or_default().to_owned();
    let (mut body_bytes, mut aws_target) = (Some(0), None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            let value = value.trim().parse().map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
            body_bytes = Some(value);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            body_bytes = None;
        } else if name.eq_ignore_ascii_case("x-amz-target") {
            aws_target = Some(value.trim().to_owned());
        }
    }
    Ok(MessageHead { first_line, body_bytes, aws_target })
}

/// Where the needle is.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn closed_early() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "the connection closed inside a message")
}

//! Reads requests of HTTP/1.1 from a connection. Does not answer them.

use std::io;

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::Record;

/// More than the head of any request of a gateway.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Reads the next request of a connection; `None` at its end. `buffer` keeps the bytes after the request.
pub(super) async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Record>> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head: Vec<u8> = buffer.drain(..end + 4).take(end).collect();
    let mut record = parse(&String::from_utf8_lossy(&head));
    let chunked = record.header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
    record.body = if chunked {
        read_chunks(stream, buffer).await?
    } else {
        let length = record.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        take(stream, buffer, length).await?
    };
    Ok(Some(record))
}

fn parse(head: &str) -> Record {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(':'));
    Record {
        method: word(),
        path: word(),
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect(),
        ..Record::default()
    }
}

async fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = find(buffer, b"\r\n") {
                break at;
            }
            if stream.read_buf(buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let line: Vec<u8> = buffer.drain(..end + 2).take(end).collect();
        let line = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(io::Error::other)?;
        // Each chunk ends with CR LF, also the last one, since no client here sends trailers.
        let mut chunk = take(stream, buffer, size + 2).await?;
        chunk.truncate(size);
        if size == 0 {
            return Ok(body);
        }
        body.append(&mut chunk);
    }
}

/// The next `length` bytes.
async fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

//! The constant upstream: the same answer to every request, so that what remains is the node's own cost.

use std::io::Result;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::wire::Wire;

/// How many pieces of content the streamed answer has.
pub(crate) const CHUNKS: usize = 32;

/// Serves until standard input closes.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready http://{}", listener.local_addr()?);
    crate::end_with_parent();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            // A client that goes away ends its own connection only.
            let _ = answer(stream).await;
        });
    }
}

async fn answer(stream: TcpStream) -> Result<()> {
    let json = json();
    let pieces = pieces();
    let mut wire = Wire::new(stream)?;
    while let Some(head) = wire.head().await? {
        let [streamed, slow] =
            wire.body(head.length.unwrap_or(0), [b"\"stream\":true", b"\"model\":\"slow\""]).await?;
        if !streamed {
            wire.stream.write_all(json.as_bytes()).await?;
            continue;
        }
        // A slow model has begun, and thinks until the client leaves.
        for piece in pieces.iter().take(if slow { 1 } else { pieces.len() }) {
            wire.stream.write_all(piece.as_bytes()).await?;
        }
        if slow {
            return wire.first_byte().await;
        }
    }
    Ok(())
}

fn json() -> String {
    let body = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"constant","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is always the same."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15}}"#;
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Each piece is written on its own, as a model does; the head goes with the first.
fn pieces() -> Vec<String> {
    let event = |delta: &str, reason: &str| {
        let data = format!(
            r#"data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"constant","choices":[{{"index":0,"delta":{delta},"finish_reason":{reason}}}]}}"#
        );
        format!("{:x}\r\n{data}\n\n\r\n", data.len() + 2)
    };
    let mut pieces = vec![event(r#"{"role":"assistant","content":"word "}"#, "null"); 1];
    pieces.extend((2..CHUNKS).map(|_| event(r#"{"content":"word "}"#, "null")));
    pieces.push(event("{}", r#""stop""#) + "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    if let Some(first) = pieces.first_mut() {
        first.insert_str(
            0,
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        );
    }
    pieces
}

//! Serves the constant upstream: every request gets the same response, so that differences are the node's own cost.
//! Reads of a request only whether it streams and names the model `slow`.

use std::io::Result;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::connection::Connection;

/// Chunks of the streamed response.
pub(crate) const CHUNKS: usize = 32;

/// The text of the response that is not streamed.
pub(crate) const ANSWER: &str = "The answer is always the same.";

/// Serves until standard input closes.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready http://{}", listener.local_addr()?);
    crate::exit_with_parent();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            // An error ends this connection only: the client has disconnected.
            let _ = handle_connection(stream).await;
        });
    }
}

async fn handle_connection(stream: TcpStream) -> Result<()> {
    let json = json_response();
    let chunks = sse_chunks();
    let mut connection = Connection::new(stream)?;
    while let Some(head) = connection.read_head().await? {
        let [streamed, slow] = connection
            .scan_body(head.body_bytes.unwrap_or(0), [b"\"stream\":true", b"\"model\":\"slow\""])
            .await?;
        if !streamed {
            connection.stream.write_all(json.as_bytes()).await?;
            continue;
        }
        // A slow model sends its first chunk and then nothing until the client disconnects.
        for chunk in chunks.iter().take(if slow { 1 } else { chunks.len() }) {
            connection.stream.write_all(chunk.as_bytes()).await?;
        }
        if slow {
            return connection.wait_for_byte().await;
        }
    }
    Ok(())
}

fn json_response() -> String {
    let body = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"constant","choices":[{{"index":0,"message":{{"role":"assistant","content":"{ANSWER}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15}}}}"#
    );
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The streamed response, one string for each write, as a model sends it; the first one starts with the head.
fn sse_chunks() -> Vec<String> {
    let event = |delta: &str, reason: &str| {
        let data = format!(
            r#"data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"constant","choices":[{{"index":0,"delta":{delta},"finish_reason":{reason}}}]}}"#
        );
        format!("{:x}\r\n{data}\n\n\r\n", data.len() + 2)
    };
    let mut chunks = vec![event(r#"{"role":"assistant","content":"word "}"#, "null"); 1];
    chunks.extend((2..CHUNKS).map(|_| event(r#"{"content":"word "}"#, "null")));
    chunks.push(event("{}", r#""stop""#) + "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    if let Some(first) = chunks.first_mut() {
        first.insert_str(
            0,
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        );
    }
    chunks
}

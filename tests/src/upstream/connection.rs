//! Answers the requests of one connection, one after the other, and records them. `answer.rs` plans the answers.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Behaviour, Record, Shared, agent,
    answer::{self, Answer, AnswerStart, AnswerStep, Format, Question},
    request,
};

/// Answers one connection, request after request.
pub(super) async fn serve(mut stream: TcpStream, shared: Shared) {
    let mut buffer = Vec::new();
    // A client that disconnects is recorded and is no error.
    while let Ok(Some(mut record)) = request::read(&mut stream, &mut buffer).await {
        let answer = answer_to(&record, &shared);
        record.refusal.clone_from(&answer.refusal);
        let number = shared.records.add(record);
        match send(&mut stream, &mut buffer, answer).await {
            Ok(AnswerEnd::Whole) => {}
            Ok(AnswerEnd::Reset) => return,
            Ok(AnswerEnd::ClientDisconnected) | Err(_) => return shared.records.set_disconnected(number),
        }
    }
}

/// The answer to a count of tokens.
const TOKENS: &str = r#"{"input_tokens":7}"#;

/// The answer to a request for embeddings.
const EMBEDDINGS: &str = r#"{"object":"list","model":"embed","data":[{"object":"embedding","index":0,"embedding":[0.25,-0.5]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;

/// The types of parts with an image. Whole JSON is compared, since the tools of an agent may name them in a text.
const IMAGE_TYPES: [&str; 3] = ["image_url", "input_image", "image"];

/// How an answer ended.
enum AnswerEnd {
    Whole,
    Reset,
    ClientDisconnected,
}

/// Finds the format by the path and the behaviour by the model.
fn answer_to(record: &Record, shared: &Shared) -> Answer {
    let Record { method, path, body, .. } = record;
    let mut question: Question = serde_json::from_slice(body).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    // Azure's older API has the model in the path, as the name of a deployment.
    let deployment = path.strip_prefix("/v1/openai/deployments/").and_then(|rest| rest.split('/').next());
    let name = deployment.unwrap_or(&question.model).to_owned();
    let format = match path.rsplit_once("/v1").map_or(path, |(_, rest)| rest) {
        "/messages" => Some(Format::Messages),
        "/responses" => Some(Format::Responses),
        rest if rest.ends_with("/chat/completions") => Some(Format::Chat),
        _ => None,
    };
    match format.filter(|_| *method == "POST") {
        Some(format) if name.split(':').next() == Some("agent") || name.starts_with("claude-") => {
            agent::answer(format, &name, record)
        }
        Some(format) => {
            question.format = format;
            question.schema = contains(body, "json_schema");
            question.effort = contains(body, "reasoning_effort");
            question.image = IMAGE_TYPES.iter().any(|kind| contains(body, &format!("\"type\":\"{kind}\"")));
            let behaviour = Behaviour::named(&name).unwrap_or(Behaviour::Gone);
            answer::to(behaviour, &question, shared.redirect_target)
        }
        None if *method == "POST" && path.ends_with("/messages/count_tokens") => answer::json(TOKENS),
        None if *method == "POST" && path.ends_with("/embeddings") => answer::json(EMBEDDINGS),
        None => answer::to(Behaviour::Gone, &Question::default(), shared.redirect_target),
    }
}

async fn send(stream: &mut TcpStream, buffer: &mut Vec<u8>, answer: Answer) -> io::Result<AnswerEnd> {
    let head = head(&answer);
    match answer.start {
        AnswerStart::Head => stream.write_all(head.as_bytes()).await?,
        AnswerStart::HalfHead => stream.write_all(&head.as_bytes()[..head.len() / 2]).await?,
        AnswerStart::Nothing => {}
    }
    for step in answer.steps {
        match step {
            AnswerStep::Send(bytes) if bytes.is_empty() => {}
            AnswerStep::Send(bytes) if answer.length.is_some() => stream.write_all(&bytes).await?,
            AnswerStep::Send(bytes) => {
                let size = format!("{:x}\r\n", bytes.len());
                stream.write_all(&[size.as_bytes(), &bytes, b"\r\n"].concat()).await?;
            }
            AnswerStep::Wait(pause) => {
                if wait(stream, buffer, pause).await? {
                    return Ok(AnswerEnd::ClientDisconnected);
                }
            }
            AnswerStep::Reset => {
                stream.set_zero_linger()?;
                return Ok(AnswerEnd::Reset);
            }
        }
    }
    if answer.length.is_none() {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(AnswerEnd::Whole)
}

/// Waits for `pause`. True: the client disconnected meanwhile.
async fn wait(stream: &mut TcpStream, buffer: &mut Vec<u8>, pause: Duration) -> io::Result<bool> {
    let until = Instant::now() + pause;
    while let Ok(read) = timeout_at(until, stream.read_buf(buffer)).await {
        if read? == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn head(answer: &Answer) -> String {
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    let mut line = |name: &str, value: &str| head += &format!("{name}: {value}\r\n");
    line("date", "Tue, 14 Nov 2023 22:13:20 GMT");
    for (name, value) in &answer.headers {
        line(name, value);
    }
    match answer.length {
        Some(length) => line("content-length", &length.to_string()),
        None => line("transfer-encoding", "chunked"),
    }
    for (name, value) in OPENAI_HEADERS {
        line(name, value);
    }
    head + "\r\n"
}

/// Headers of OpenAI's own answers. A gateway must not pass them on as its own.
const OPENAI_HEADERS: [(&str, &str); 10] = [
    ("x-request-id", "req_upstream"),
    ("openai-organization", "org-upstream"),
    ("openai-processing-ms", "12"),
    ("openai-version", "2020-10-01"),
    ("x-ratelimit-limit-requests", "10000"),
    ("x-ratelimit-limit-tokens", "200000"),
    ("x-ratelimit-remaining-requests", "9999"),
    ("x-ratelimit-remaining-tokens", "199985"),
    ("x-ratelimit-reset-requests", "6m0s"),
    ("x-ratelimit-reset-tokens", "12ms"),
];

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Behaviour, Shared, agent,
    answer::{self, Answer, Format, Question, Start, Step},
    request,
};

/// Answers one connection, request after request.
pub(super) async fn serve(mut stream: TcpStream, shared: Shared) {
    let mut buffer = Vec::new();
    // A gateway that leaves breaks the connection; that is recorded and needs no words.
    while let Ok(Some(mut record)) = request::read(&mut stream, &mut buffer).await {
        let answer = answer_to(&record.method, &record.path, &record.body, &shared);
        record.refused.clone_from(&answer.refusal);
        let number = shared.records.add(record);
        match send(&mut stream, &mut buffer, answer).await {
            Ok(End::Whole) => {}
            Ok(End::Reset) => return,
            Ok(End::Left) | Err(_) => return shared.records.left(number),
        }
    }
}

/// A count of tokens.
const TOKENS: &str = r#"{"input_tokens":7}"#;

/// One vector.
const EMBEDDINGS: &str = r#"{"object":"list","model":"embed","data":[{"object":"embedding","index":0,"embedding":[0.25,-0.5]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;

/// How an answer ended.
enum End {
    Whole,
    Reset,
    Left,
}

fn answer_to(method: &str, path: &str, body: &[u8], shared: &Shared) -> Answer {
    let mut question: Question = serde_json::from_slice(body).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    // Azure's older addresses name the deployment in the path.
    let deployment = path.strip_prefix("/v1/openai/deployments/").and_then(|rest| rest.split('/').next());
    let name = deployment.unwrap_or(&question.model).to_owned();
    let format = match path.rsplit_once("/v1").map_or(path, |(_, rest)| rest) {
        "/messages" => Some(Format::Messages),
        "/responses" => Some(Format::Responses),
        rest if rest.ends_with("/chat/completions") => Some(Format::Chat),
        _ => None,
    };
    match format.filter(|_| method == "POST") {
        Some(format) if name.split(':').next() == Some("agent") => agent::answer(format, &name, body),
        Some(format) => {
            question.format = format;
            question.schema = holds(body, "json_schema");
            question.effort = holds(body, "reasoning_effort");
            question.image =
                ["image_url", "input_image", "\"type\":\"image\""].iter().any(|text| holds(body, text));
            let behaviour = Behaviour::named(&name).unwrap_or(Behaviour::Gone);
            answer::to(behaviour, &question, shared.elsewhere)
        }
        None if method == "POST" && path.ends_with("/messages/count_tokens") => answer::json(TOKENS),
        None if method == "POST" && path.ends_with("/embeddings") => answer::json(EMBEDDINGS),
        None => answer::to(Behaviour::Gone, &Question::default(), shared.elsewhere),
    }
}

async fn send(stream: &mut TcpStream, buffer: &mut Vec<u8>, answer: Answer) -> io::Result<End> {
    let head = head(&answer);
    match answer.start {
        Start::Head => stream.write_all(head.as_bytes()).await?,
        Start::HalfHead => stream.write_all(&head.as_bytes()[..head.len() / 2]).await?,
        Start::Nothing => {}
    }
    for step in answer.steps {
        match step {
            Step::Send(bytes) if bytes.is_empty() => {}
            Step::Send(bytes) if answer.length.is_some() => stream.write_all(&bytes).await?,
            Step::Send(bytes) => {
                let size = format!("{:x}\r\n", bytes.len());
                stream.write_all(&[size.as_bytes(), &bytes, b"\r\n"].concat()).await?;
            }
            Step::Wait(pause) => {
                if wait(stream, buffer, pause).await? {
                    return Ok(End::Left);
                }
            }
            Step::Reset => {
                stream.set_zero_linger()?;
                return Ok(End::Reset);
            }
        }
    }
    if answer.length.is_none() {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(End::Whole)
}

/// Waits for `pause`, or until the client has left: then it is true.
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

/// What OpenAI's own answers carry. None of it may reach a caller as if it were the gateway's.
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

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

//! Checks each kind of provider in each format: the client's answer, and the request that the provider gets.

use serde_json::json;

use crate::{
    client::Request,
    formats::{Format, ParsedAnswer, calls, parse_answer},
    suite::{CANARY, Suite},
};

/// The kinds of providers besides `compatible`, by their names in the configuration.
pub(crate) const KINDS: [&str; 5] = ["openai", "azure", "azure-old", "anthropic", "deepseek"];

/// The behaviours of a single candidate, and those of a first candidate that fails.
pub(crate) const SINGLE: [&str; 3] = ["good", "tools", "refusal"];
pub(crate) const FAILING: [&str; 7] =
    ["limited", "overloaded-529", "broken", "early", "error-first", "halfway", "torn-middle"];

/// The model with one candidate.
pub(crate) fn single_candidate(kind: &str, behaviour: &str) -> String {
    format!("{kind}-{behaviour}")
}

/// The model with a failing candidate, and then a working one.
pub(crate) fn with_second_candidate(kind: &str, behaviour: &str) -> String {
    format!("via-{kind}-{behaviour}")
}

pub(crate) fn run(suite: &Suite) {
    let mut cases = Vec::new();
    for kind in KINDS {
        for format in [Format::Chat, Format::Messages, Format::Responses] {
            for stream in [false, true] {
                cases.extend(
                    SINGLE.map(|behaviour| {
                        (kind, format, stream, single_candidate(kind, behaviour), behaviour)
                    }),
                );
                cases.extend(
                    FAILING.map(|behaviour| {
                        (kind, format, stream, with_second_candidate(kind, behaviour), "good")
                    }),
                );
            }
        }
    }
    suite.each(&cases, |(kind, format, stream, model, behaviour)| {
        let answer = format.ask(suite, &format.question(model, *stream));
        let case = format!("{format:?} to {model}, stream {stream}");
        suite.checks.equal(&format!("{case}: status"), answer.status, 200);
        let mut parsed = parse_answer(*format, *stream, &answer);
        // A candidate that has failed often is tried last, and then there is nothing to rescue.
        let is_rescued =
            *behaviour == "good" && model.starts_with("via-") && answer.header("x-outlive-provider") == *kind;
        if is_rescued {
            // The tokens of the broken answer count, too.
            let (input, output) = parsed.tokens;
            suite.checks.that(
                &format!("{case}: tokens of both answers"),
                input >= 7 && output >= 5,
                "both",
                parsed.tokens,
            );
            parsed.tokens = (7, 5);
        }
        suite.checks.equal(
            &format!("{case}: the stream has the mark of a rescue"),
            answer.text().contains("\"x-outlive\":"),
            is_rescued,
        );
        suite.checks.equal(
            &format!("{case}: content of the answer"),
            parsed,
            expected(kind, *format, behaviour),
        );
    });
    upstream_requests(suite);
    other_routes(suite);
}

fn expected(kind: &str, format: Format, behaviour: &str) -> ParsedAnswer {
    let [end, called, refused] = match format {
        Format::Chat => ["stop", "tool_calls", "content_filter"],
        Format::Messages => ["end_turn", "tool_use", "refusal"],
        Format::Responses => ["completed", "completed", "incomplete"],
    };
    let good = ParsedAnswer::good(end);
    let refusal = "I can't do that.".to_owned();
    match behaviour {
        "tools" => ParsedAnswer { text: String::new(), calls: calls(), stop: called.into(), ..good },
        // Anthropic has the refusal as text and as the stop reason.
        "refusal" if kind == "anthropic" => ParsedAnswer { text: refusal, stop: refused.into(), ..good },
        "refusal" if format == Format::Messages => ParsedAnswer { text: refusal, ..good },
        "refusal" => ParsedAnswer { text: String::new(), refusal, ..good },
        _ => good,
    }
}

/// Checks the path and the key of the calls of each kind.
fn upstream_requests(suite: &Suite) {
    for (kind, path, header, value) in [
        ("openai", "/v1/chat/completions", "authorization", format!("Bearer {CANARY}")),
        ("azure", "/v1/openai/v1/chat/completions", "api-key", CANARY.to_owned()),
        (
            "azure-old",
            "/v1/openai/deployments/good:azure-old-good/chat/completions?api-version=2024-10-21",
            "api-key",
            CANARY.to_owned(),
        ),
        ("anthropic", "/v1/messages", "x-api-key", CANARY.to_owned()),
        ("deepseek", "/v1/chat/completions", "authorization", format!("Bearer {CANARY}")),
    ] {
        let records =
            suite.upstream.records().mentioning(&format!("\"good:{}\"", single_candidate(kind, "good")));
        let called = records.iter().find(|record| record.path == path);
        suite.checks.that(
            &format!("{kind}: path of the call"),
            called.is_some(),
            path,
            records.first().map(|r| &r.path),
        );
        let Some(record) = called else { continue };
        suite.checks.equal(&format!("{kind}: key of the call"), record.header(header), Some(value.as_str()));
        let keys = ["authorization", "api-key", "x-api-key"];
        let shown = keys.iter().filter(|name| record.header(name).is_some()).count();
        suite.checks.equal(&format!("{kind}: number of headers with a key"), shown, 1);
        let callers = record.headers.iter().any(|(_, value)| value.contains("key-of-"));
        suite.checks.equal(&format!("{kind}: the call contains a caller's key"), callers, false);
    }
}

fn other_routes(suite: &Suite) {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let body = Format::Chat.question(&single_candidate("openai", "good"), false);
    let request = Request::post("/v1/chat/completions", body.to_string());
    suite.ask(request.with("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01")));
    let records = suite.upstream.records().mentioning("\"good:openai-good\"");
    let passed_on = records.iter().any(|record| {
        record
            .header("traceparent")
            .is_some_and(|text| text.contains(trace) && !text.contains("00f067aa0ba902b7"))
    });
    suite.checks.equal("the trace id reaches the provider with a new span id", passed_on, true);
    let body = json!({"model": single_candidate("anthropic", "good"), "messages": [{"role": "user", "content": "hi"}]});
    let counted = suite.ask(Request::post("/v1/messages/count_tokens", body.to_string()));
    suite.checks.equal("token count of the vendor", counted.json(), json!({"input_tokens": 7}));
    let body = json!({"model": single_candidate("openai", "good"), "input": "hi"});
    let vectors = suite.ask(Request::post("/v1/embeddings", body.to_string()));
    suite.checks.equal(
        "embedding of the provider",
        vectors.json()["data"][0]["embedding"].clone(),
        json!([0.25, -0.5]),
    );
    let body = json!({"model": single_candidate("anthropic", "good"), "input": "hi"});
    let none = suite.ask(Request::post("/v1/embeddings", body.to_string()));
    suite.checks.equal(
        "error for embeddings of a vendor without them",
        (none.status, none.error().1),
        (400, "unsupported_parameter".into()),
    );
}

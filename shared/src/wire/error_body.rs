//! Reads the errors of providers, in every dialect, and decides what they mean.
//!
//! The same rules hold for an answer with an error's status, for an error in an answer of status 200, and for one within
//! a stream. Headers are read in `provider`; what follows from a class is decided in `routing`.

use std::time::Duration;

use serde_json::Value;

use crate::error::{ErrorClass, ProviderDetail, ProviderError};

/// What a provider says of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    kind: Option<String>,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<String>,
    /// Codes in other places: Anthropic's `details`, Azure's `innererror`, OpenRouter's `metadata`, Google's `status`.
    more_codes: Vec<String>,
    /// Whether OpenRouter's moderation refuses the input.
    is_moderated: bool,
    /// How long the provider asks to wait.
    pub(crate) retry_after: Option<Duration>,
}

impl ErrorBody {
    /// Reads the body of an error; `None` if it is not one of an API: HTML, or JSON without a message and a code.
    ///
    /// The dialects: `{"error": {…}}` (OpenAI, Anthropic), `{"error": "…"}` (Ollama), the fields without `error` (SGLang,
    /// Mistral, older vLLM), `{"detail": …}` (FastAPI), a list around any of them (Google, Cloudflare's `errors`).
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        Self::of(&serde_json::from_slice(body).ok()?)
    }

    fn of(body: &Value) -> Option<Self> {
        let body = body.get(0).unwrap_or(body);
        let errors = || body.get("errors").and_then(|errors| errors.get(0));
        let error = body.get("error").filter(|error| !error.is_null()).or_else(errors).unwrap_or(body);
        let metadata = error.get("metadata").unwrap_or(&Value::Null);
        let details = error.get("details").unwrap_or(&Value::Null);
        let more_codes = [
            text(error, "status"),
            text(error, "raw_status_code"),
            text(error, "error_type"),
            text(body, "error_type"),
            text(details, "error_code"),
            error.get("innererror").and_then(|inner| text(inner, "code")),
            text(metadata, "error_type"),
            text(metadata, "reason"),
            text(metadata, "limit_source"),
        ];
        let mut read = Self {
            message: message(error).unwrap_or_default(),
            // An event of Responses has its own type beside the error's fields.
            kind: text(error, "type").filter(|kind| kind != "error"),
            param: text(error, "param").or_else(|| location(error)),
            code: text(error, "code"),
            more_codes: more_codes.into_iter().flatten().collect(),
            is_moderated: ["flagged_input", "reasons"].iter().any(|field| metadata.get(field).is_some()),
            retry_after: metadata
                .get("retry_after_seconds")
                .and_then(Value::as_f64)
                .or_else(|| retry_delay(details))
                .and_then(wait),
        };
        // OpenRouter passes on what the vendor behind it said, as text.
        let raw = metadata.get("raw").and_then(Value::as_str);
        if let Some(inner) = raw.and_then(|raw| Self::read(raw.as_bytes())) {
            read.more_codes.extend([inner.code, inner.kind].into_iter().flatten());
            read.more_codes.extend(inner.more_codes);
            (read.message, read.param) = (inner.message, read.param.or(inner.param));
        }
        let has_codes = read.code.is_some() || read.kind.is_some() || !read.more_codes.is_empty();
        (has_codes || !read.message.is_empty()).then_some(read)
    }

    /// The error for an error object that was sent instead of an answer, or within one.
    pub(super) fn in_band(json: &[u8]) -> ProviderError {
        let body = Self::read(json);
        let class = class(None, body.as_ref());
        let error = ProviderError::new(class, "the provider sent an error instead of an answer");
        match body {
            Some(body) => ProviderError { retry_after: body.retry_after, ..body.explain(error) },
            None => error,
        }
    }

    /// Adds the provider's own text to `error`, if the caller caused it: other texts may hold keys or account data.
    pub(crate) fn explain(self, error: ProviderError) -> ProviderError {
        use ErrorClass::{Caller, ContentPolicy, ContextLength, Incapable};
        let show = matches!(error.class, Caller | ContentPolicy | ContextLength | Incapable);
        let is_word = |code: &String| code.parse::<f64>().is_err();
        let detail = ProviderDetail {
            // Long messages quote the request.
            message: self.message.chars().take(2000).collect(),
            code: self.code.into_iter().chain(self.more_codes).find(is_word),
            kind: self.kind,
            param: self.param,
        };
        ProviderError { detail: show.then(|| Box::new(detail)), ..error }
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        let own = self.code.iter().chain(&self.kind).chain(&self.more_codes);
        own.into_iter().any(|code| codes.iter().any(|known| code.eq_ignore_ascii_case(known)))
    }

    /// Whether something else than the model is missing: an item or a file that the request names. The model must not be
    /// parked for that.
    fn names_object(&self) -> bool {
        let message = self.message.to_lowercase();
        self.param.as_ref().is_some_and(|param| param != "model")
            || message.contains(" with id '")
            || ["no such file", "file "].iter().any(|beginning| message.starts_with(beginning))
    }

    /// The status that a server names as a code: OpenRouter, vLLM, Google, Mistral.
    fn status(&self) -> Option<u16> {
        let mut codes = self.code.iter().chain(&self.more_codes);
        codes.find_map(|code| code.parse().ok().filter(|status| (400..600).contains(status)))
    }
}

/// The class of an error with this status and body. What the body says counts more than the status, which says too
/// little: a 429 may be about speed, money or this request alone, and a 400 about any of them.
///
/// `status` is `None` within an answer of status 200. `body` is `None` if it is no API's: then the answer is a proxy's.
pub(crate) fn class(status: Option<u16>, body: Option<&ErrorBody>) -> ErrorClass {
    if let Some(body) = body {
        let message = body.message.to_lowercase();
        let applies = |rule: &&Rule| {
            body.has_code(rule.codes)
                || rule.beginnings.iter().any(|text| message.starts_with(text))
                || rule.endings.iter().any(|text| message.ends_with(text))
                || rule.phrases.iter().any(|text| message.contains(text))
        };
        if let Some(rule) = RULES.iter().find(applies) {
            return rule.class;
        }
        if body.is_moderated {
            return ErrorClass::ContentPolicy;
        }
    }
    let not_found = || body?.has_code(&NOT_FOUND_CODES).then_some(404);
    let Some(status) = status.or_else(|| body?.status()).or_else(not_found) else {
        let is_of_caller = body.is_some_and(|body| body.has_code(&CALLER_CODES));
        return if is_of_caller { ErrorClass::Caller } else { ErrorClass::Server };
    };
    match status {
        401 => ErrorClass::Auth,
        // Without an API's body it is a firewall's, which judges what the caller has written.
        403 => body.map_or(ErrorClass::Server, |_| ErrorClass::Auth),
        402 => ErrorClass::Quota,
        408 => ErrorClass::Timeout,
        // Bounds differ between vendors, so another candidate may succeed.
        413 => ErrorClass::ContextLength,
        429 => ErrorClass::RateLimited,
        // 498 is Groq's, 529 is Anthropic's.
        498 | 503 | 529 => ErrorClass::Overloaded,
        404 | 410 => match body {
            None => ErrorClass::Server,
            Some(body) if body.names_object() => ErrorClass::Caller,
            Some(_) => ErrorClass::ModelNotFound,
        },
        400 if body.is_some() => ErrorClass::Caller,
        // A proxy sends none of these, so they are the API's own even without a body that can be read.
        409 | 415 | 422 => ErrorClass::Caller,
        _ => ErrorClass::Server,
    }
}

/// Which codes and messages have a class, whatever the status is.
struct Rule {
    class: ErrorClass,
    /// Codes and types, exact.
    codes: &'static [&'static str],
    /// Beginnings of messages, in lower case.
    beginnings: &'static [&'static str],
    /// Endings of messages, in lower case.
    endings: &'static [&'static str],
    /// Parts of messages, in lower case. A message may quote the request, so no class that parks a candidate has any: no
    /// caller can park a candidate for others by what it writes.
    phrases: &'static [&'static str],
}

impl Rule {
    const fn of(class: ErrorClass, codes: &'static [&'static str]) -> Self {
        Self { class, codes, beginnings: &[], endings: &[], phrases: &[] }
    }
}

/// The first rule that applies decides.
const RULES: [Rule; 12] = [
    // A thread that has expired, or that another request continues
    // (<https://platform.claude.com/docs/en/build-with-claude/message-threads>).
    Rule::of(
        ErrorClass::Caller,
        &[
            "thread_not_found",
            "thread_already_continued",
            "thread_continue_in_flight",
            "thread_unsupported_request",
        ],
    ),
    // OpenRouter reserves the most that each request can cost; the money is free again when others have ended.
    Rule::of(ErrorClass::RateLimited, &["in_flight_budget_exhausted", "openrouter_in_flight_budget"]),
    Rule {
        beginnings: &[
            "your credit balance is too low",
            "you have reached your specified",
            "insufficient balance",
            "key limit exceeded",
        ],
        ..Rule::of(
            ErrorClass::Quota,
            &[
                "insufficient_quota",
                "credit_balance_exhausted",
                "organization_spend_limit_exceeded",
                "project_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
                "enforced_spend_limit_reached",
                "billing_hard_limit_reached",
                "billing_not_active",
                "billing_error",
                "payment_required",
                "insufficient_credits",
                "openrouter_key_limit",
                "openrouter_credits",
                "exceeded_current_quota_error",
                "arrearage",
            ],
        )
    },
    Rule {
        // OpenAI's 429 for a request that is larger than the limit of a whole minute.
        beginnings: &["request too large for"],
        phrases: &[
            "prompt is too long",
            "exceed context limit",
            "maximum context length",
            "model's context length",
            "maximum prompt length",
            "maximum number of tokens allowed",
            "range of input length should be",
            "prompt exceeds max length",
            "input is too long",
            "available context size",
            "context window",
            // LM Studio.
            "is loaded with context length of only",
            // Together, from text-generation-inference.
            "`inputs` tokens + `max_new_tokens` must be",
            "image exceeds ",
            // Older vLLM, if the prompt leaves no room for an answer.
            "must be at least 1, got -",
        ],
        ..Rule::of(
            ErrorClass::ContextLength,
            &[
                "context_length_exceeded",
                "exceed_context_size_error",
                "request_too_large",
                "payload_too_large",
                "string_too_long",
                "token_limit_exceeded",
                "image_too_large",
                "image_file_too_large",
            ],
        )
    },
    Rule {
        // DeepSeek's.
        beginnings: &["content exists risk"],
        ..Rule::of(
            ErrorClass::ContentPolicy,
            &[
                "content_filter",
                "content_policy_violation",
                "image_content_policy_violation",
                "responsibleaipolicyviolation",
                "data_inspection_failed",
                "datainspectionfailed",
                "refusal",
            ],
        )
    },
    // Thoughts are bound to their account, model and conversation
    // (<https://platform.claude.com/docs/build-with-claude/preserved-thinking>).
    Rule {
        phrases: &["`signature` in `thinking` block"],
        ..Rule::of(ErrorClass::BoundThoughts, &["invalid_encrypted_content"])
    },
    Rule {
        beginnings: &["model not exist", "invalid model:"],
        endings: &["is not a valid model id"],
        ..Rule::of(
            ErrorClass::ModelNotFound,
            &[
                "model_not_found",
                "model_decommissioned",
                "model_not_available",
                "invalid_model",
                "modelnotfound",
                "deploymentnotfound",
            ],
        )
    },
    Rule {
        beginnings: &[
            "this organization has been disabled",
            "incorrect api key",
            // Google's, under 400 (<https://ai.google.dev/gemini-api/docs/troubleshooting>).
            "api key not valid",
            "api key expired",
            "user location is not supported",
        ],
        ..Rule::of(
            ErrorClass::Auth,
            &[
                "authentication_error",
                "invalid_authentication_error",
                "permission_error",
                "invalid_api_key",
                "account_deactivated",
                "unsupported_country_region_territory",
                "authentication",
                "permission_denied",
            ],
        )
    },
    Rule {
        // Mistral's, which is about its own capacity under 429, too.
        beginnings: &["service tier capacity exceeded"],
        ..Rule::of(
            ErrorClass::Overloaded,
            &[
                "server_is_overloaded",
                "slow_down",
                "overloaded_error",
                "engine_overloaded_error",
                "provider_overloaded",
                "capacity_exceeded",
                "service_tier_capacity_exceeded",
            ],
        )
    },
    Rule::of(
        ErrorClass::RateLimited,
        &[
            "rate_limit_exceeded",
            "rate_limit_error",
            "rate_limit_reached_error",
            "rate_limited",
            "too_many_requests",
            "resource_exhausted",
        ],
    ),
    Rule::of(ErrorClass::Timeout, &["timeout_error", "timeout"]),
    Rule {
        // OpenAI streams some models only for organizations that it knows.
        beginnings: &["your organization must be verified"],
        // Ollama; OpenAI.
        endings: &["does not support tools", "is not supported with this model."],
        phrases: &[
            // vLLM.
            "is not a multimodal model",
            "--enable-auto-tool-choice",
            "does not support assistant message prefill",
            // OpenAI's limit of a model's answer.
            "completion tokens, whereas you provided",
        ],
        ..Rule::of(ErrorClass::Incapable, &["unsupported_parameter", "unsupported_value"])
    },
];

/// Codes and types of errors that the caller caused, for errors without a status.
const CALLER_CODES: [&str; 9] = [
    "invalid_request_error",
    "invalid_request",
    "invalid_prompt",
    "invalid_image",
    "invalid_image_format",
    "bad_request_error",
    "badrequesterror",
    "unprocessable",
    "unprocessableentityerror",
];

/// Types of errors with the status 404, for errors without a status.
const NOT_FOUND_CODES: [&str; 3] = ["not_found_error", "not_found", "notfounderror"];

/// A field that holds text or a number, as text.
fn text(value: &Value, field: &str) -> Option<String> {
    match value.get(field)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The message of an error: itself, its `message`, or FastAPI's `detail`, which Mistral puts into the message.
fn message(error: &Value) -> Option<String> {
    if let Some(text) = error.as_str() {
        return Some(text.to_owned());
    }
    let plain = || text(error, "message").or_else(|| text(error, "detail"));
    plain().or_else(|| {
        let problem = problem(error)?;
        let why = text(problem, "msg")?;
        Some(location(error).map_or(why.clone(), |field| format!("{field}: {why}")))
    })
}

/// The pause in Google's details, in seconds: `{"@type": "…RetryInfo", "retryDelay": "39s"}`
/// (<https://cloud.google.com/apis/design/errors#error_details>).
fn retry_delay(details: &Value) -> Option<f64> {
    let delay = details.as_array()?.iter().find_map(|detail| detail.get("retryDelay")?.as_str())?;
    delay.strip_suffix('s')?.parse().ok()
}

/// The field that FastAPI's first problem is about: `["body", "messages", 0]` is `messages.0`.
fn location(error: &Value) -> Option<String> {
    let steps = problem(error)?.get("loc")?.as_array()?.iter().filter(|step| *step != "body");
    let steps: Vec<String> =
        steps.map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned)).collect();
    (!steps.is_empty()).then(|| steps.join("."))
}

fn problem(error: &Value) -> Option<&Value> {
    let detail = error.get("detail").or_else(|| error.get("message")?.get("detail"))?;
    detail.get(0)
}

/// A pause, if it is one: at most an hour, so that one odd answer can't exclude a provider for ever.
pub(crate) fn wait(seconds: f64) -> Option<Duration> {
    const MAX_SECONDS: f64 = 3600.0;
    (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(MAX_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, expected: ErrorClass) {
        let read = ErrorBody::read(body.as_bytes());
        assert_eq!(class((status != 200).then_some(status), read.as_ref()), expected, "{status} {body}");
    }

    #[test]
    fn statuses_decide_where_the_body_says_nothing() {
        use ErrorClass::*;
        for (status, without, with) in [
            (400, Server, Caller),
            (401, Auth, Auth),
            (402, Quota, Quota),
            (403, Server, Auth),
            (404, Server, ModelNotFound),
            (405, Server, Server),
            (408, Timeout, Timeout),
            (410, Server, ModelNotFound),
            (413, ContextLength, ContextLength),
            (422, Caller, Caller),
            (429, RateLimited, RateLimited),
            (307, Server, Server),
            (500, Server, Server),
            (503, Overloaded, Overloaded),
            (504, Server, Server),
            (520, Server, Server),
            (529, Overloaded, Overloaded),
        ] {
            check(status, "<html>", without);
            check(status, r#"{"error":{"message":"no"}}"#, with);
        }
        check(404, r#"{"error":{"message":"no item 'rs_1'","param":"input"}}"#, Caller);
        check(404, r#"{"error":{"message":"no model","param":"model"}}"#, ModelNotFound);
        check(404, r#"{"error":{"message":"Item with id 'rs_1' not found.","param":null}}"#, Caller);
        check(404, r#"{"error":{"type":"not_found_error","message":"File not found: file_1"}}"#, Caller);
    }

    #[test]
    fn openai_is_read_by_codes() {
        use ErrorClass::*;
        check(429, r#"{"error":{"code":"rate_limit_exceeded"}}"#, RateLimited);
        check(429, r#"{"error":{"type":"insufficient_quota","code":"x"}}"#, Quota);
        check(429, r#"{"error":{"type":"requests","code":"slow_down"}}"#, Overloaded);
        check(400, r#"{"error":{"code":"context_length_exceeded"}}"#, ContextLength);
        check(400, r#"{"error":{"code":"content_filter"}}"#, ContentPolicy);
        check(400, r#"{"error":{"code":"image_too_large"}}"#, ContextLength);
        check(400, r#"{"error":{"code":"invalid_encrypted_content"}}"#, BoundThoughts);
        check(
            400,
            r#"{"error":{"code":null,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            ContentPolicy,
        );
        check(
            429,
            r#"{"error":{"message":"Request too large for gpt-4o on tokens per min (TPM): Limit 30000","type":"tokens","code":"rate_limit_exceeded"}}"#,
            ContextLength,
        );
        check(
            429,
            r#"{"error":{"message":"Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000","type":"tokens","code":"rate_limit_exceeded"}}"#,
            RateLimited,
        );
    }

    #[test]
    fn anthropic_is_read_by_types_and_messages() {
        use ErrorClass::*;
        let expired = r#"{"error":{"type":"not_found_error","details":{"error_code":"thread_not_found"}}}"#;
        check(404, expired, Caller);
        let invalid = |message: &str, expected| {
            check(
                400,
                &format!(r#"{{"error":{{"type":"invalid_request_error","message":"{message}"}}}}"#),
                expected,
            );
        };
        invalid("max_tokens: …", Caller);
        invalid("You have reached your specified API usage limits. …", Quota);
        invalid("You have reached your specified workspace API usage limits. …", Quota);
        invalid("Your credit balance is too low to access the Anthropic API.", Quota);
        invalid("This organization has been disabled.", Auth);
        invalid("prompt is too long: 210000 tokens > 200000 maximum", ContextLength);
        invalid("input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000", ContextLength);
        invalid("messages.0.content.1.image.source.base64: image exceeds 5 MB maximum", ContextLength);
        invalid("messages.1: Invalid `signature` in `thinking` block", BoundThoughts);
        // A message that quotes the request must not park the account.
        invalid("unexpected value 'Your credit balance is too low'", Caller);
        check(
            429,
            r#"{"error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
            Quota,
        );
        check(
            404,
            r#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#,
            ModelNotFound,
        );
        check(504, r#"{"error":{"type":"timeout_error"}}"#, Timeout);
    }

    #[test]
    fn compatible_servers_are_read_in_their_own_words() {
        use ErrorClass::*;
        // SGLang, Mistral, older vLLM: without `error`.
        let flat = |message: &str, more: &str, expected| {
            check(400, &format!(r#"{{"object":"error","message":"{message}"{more}}}"#), expected);
        };
        flat(
            "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
            "",
            ContextLength,
        );
        flat(
            "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
            "",
            ContextLength,
        );
        flat(
            "max_tokens must be at least 1, got -186.",
            r#","type":"BadRequestError","code":400"#,
            ContextLength,
        );
        flat("Invalid model: x", r#","type":"invalid_model","code":"1500""#, ModelNotFound);
        flat("Unknown field", r#","type":"BadRequestError","param":null,"code":400"#, Caller);
        check(
            400,
            r#"{"message":"Service tier capacity exceeded for this model.","type":"invalid_request_error"}"#,
            Overloaded,
        );
        // DeepSeek, Groq, OpenRouter: models that are gone, content, money.
        check(
            400,
            r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error"}}"#,
            ModelNotFound,
        );
        check(
            400,
            r#"{"error":{"message":"The model `x` has been decommissioned","code":"model_decommissioned"}}"#,
            ModelNotFound,
        );
        check(400, r#"{"error":{"message":"a/b is not a valid model ID","code":400}}"#, ModelNotFound);
        check(
            400,
            r#"{"error":{"message":"Content Exists Risk","type":"invalid_request_error"}}"#,
            ContentPolicy,
        );
        check(402, r#"{"error":{"message":"Insufficient Balance"}}"#, Quota);
        check(
            402,
            r#"{"error":{"message":"wait","code":402,"metadata":{"reason":"in_flight_budget_exhausted"}}}"#,
            RateLimited,
        );
        check(
            403,
            r#"{"error":{"message":"flagged","code":403,"metadata":{"reasons":["x"],"flagged_input":"y"}}}"#,
            ContentPolicy,
        );
        check(
            403,
            r#"{"error":{"message":"no","code":403,"metadata":{"error_type":"content_policy_violation"}}}"#,
            ContentPolicy,
        );
        check(403, r#"{"error":{"message":"Key limit exceeded (total limit).","code":403}}"#, Quota);
        check(403, r#"{"error":{"message":"no","code":403}}"#, Auth);
        check(
            400,
            r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"prompt is too long: 9 > 8\"}}"}}}"#,
            ContextLength,
        );
        // FastAPI, Ollama, Google, Cloudflare.
        check(422, r#"{"detail":"no"}"#, Caller);
        check(422, r#"{"detail":[{"loc":["body","messages"],"msg":"Field required"}]}"#, Caller);
        check(404, r#"{"error":"model 'x' not found"}"#, ModelNotFound);
        check(
            400,
            r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT"}}]"#,
            Auth,
        );
        check(429, r#"{"errors":[{"code":3040,"message":"Capacity temporarily exceeded"}]}"#, RateLimited);
    }

    #[test]
    fn what_one_candidate_lacks_is_not_the_callers_fault() {
        use ErrorClass::*;
        for (message, more, expected) in [
            ("registry.ollama.ai/library/gemma:latest does not support tools", "", Incapable),
            ("x is not a multimodal model", "", Incapable),
            ("'auto' tool choice requires --enable-auto-tool-choice and --tool-call-parser", "", Incapable),
            ("This model does not support assistant message prefill. The conversation must", "", Incapable),
            ("Your organization must be verified to stream this model. Please go", "", Incapable),
            ("Unsupported parameter: 'stop' is not supported with this model.", "", Incapable),
            ("Unsupported value: 'none'", r#","code":"unsupported_value""#, Incapable),
            (
                "max_tokens is too large: 64000. This model supports at most 16384 completion tokens, whereas you provided 64000.",
                r#","code":"invalid_value""#,
                Incapable,
            ),
            ("However, the model is loaded with context length of only 4096 tokens", "", ContextLength),
            ("`inputs` tokens + `max_new_tokens` must be <= 8193.", "", ContextLength),
            ("API key expired. Please renew the API key.", "", Auth),
            ("User location is not supported for the API use.", "", Auth),
            ("Invalid 'user': string too long.", r#","code":"string_above_max_length""#, Caller),
            ("Unknown parameter: 'x'.", r#","code":"unknown_parameter""#, Caller),
        ] {
            check(400, &format!(r#"{{"error":{{"message":"{message}"{more}}}}}"#), expected);
        }
    }

    #[test]
    fn errors_without_a_status_follow_the_same_rules() {
        use ErrorClass::*;
        check(200, r#"{"error":{"code":429}}"#, RateLimited);
        check(200, r#"{"error":{"code":"503"}}"#, Overloaded);
        check(200, r#"{"error":{"type":"overloaded_error"}}"#, Overloaded);
        check(200, r#"{"error":{"code":"content_filter"}}"#, ContentPolicy);
        check(200, r#"{"error":{"code":502,"message":"Provider disconnected"}}"#, Server);
        check(
            200,
            r#"{"error":{"type":"invalid_request_error","message":"prompt is too long"}}"#,
            ContextLength,
        );
        check(200, r#"{"error":{"type":"invalid_request_error"}}"#, Caller);
        check(200, r#"{"error":{"type":"not_found_error","message":"model: x"}}"#, ModelNotFound);
        check(200, r#"{"type":"error","code":"rate_limit_exceeded","message":"slow"}"#, RateLimited);
        check(200, r#"{"error":"oops"}"#, Server);
        check(200, r#"{"object":"error","message":"no","code":"1300","raw_status_code":429}"#, RateLimited);
        check(200, "null", Server);
    }

    #[test]
    fn only_errors_that_the_caller_caused_show_the_providers_text() {
        let explain = |body: &str, class| {
            ErrorBody::read(body.as_bytes()).unwrap().explain(ProviderError::new(class, "x")).detail
        };
        let body = r#"{"error":{"message":"no 'x'","type":"invalid_request_error","param":"x","code":null}}"#;
        let detail = explain(body, ErrorClass::Caller).unwrap();
        assert_eq!((detail.message.as_str(), detail.param.as_deref()), ("no 'x'", Some("x")));
        assert_eq!(explain(r#"{"error":{"message":"bad key: sk-abc"}}"#, ErrorClass::Auth), None);
        let problems =
            r#"{"message":{"detail":[{"loc":["body","messages",0],"msg":"Extra inputs"}]},"code":400}"#;
        let detail = explain(problems, ErrorClass::Caller).unwrap();
        assert_eq!(detail.message, "messages.0: Extra inputs");
        assert_eq!((detail.param.as_deref(), detail.code), (Some("messages.0"), None));
    }
}

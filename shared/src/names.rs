//! Names the metrics and the span attributes of telemetry. Collects and exports nothing.
//!
//! OpenTelemetry's GenAI conventions are followed where they define a name. They are still in development
//! (<https://github.com/open-telemetry/semantic-conventions-genai>), so a change to them is made here.

/// Names of metrics.
pub mod metric {
    /// Counter: requests that have ended, by format, model and outcome.
    pub const REQUESTS: &str = "outlive_requests_total";
    /// Histogram: time from a request to the end of its answer.
    pub const DURATION: &str = "gen_ai_client_operation_duration_seconds";
    /// Histogram: time from a request to its first content, failed attempts included.
    pub const FIRST_CHUNK: &str = "gen_ai_client_operation_time_to_first_chunk_seconds";
    /// Histogram: the node's share of the time to first content, without the answering provider's share.
    pub const ADDED_LATENCY: &str = "outlive_added_latency_seconds";
    /// Histogram: upstream calls of one request.
    pub const ATTEMPTS: &str = "outlive_attempts";
    /// Counter: upstream calls that have ended, by candidate and outcome.
    pub const CALLS: &str = "outlive_calls_total";
    /// Counter: continuations of interrupted answers.
    pub const RESCUES: &str = "outlive_rescues_total";
    /// Counter: tokens, by key, provider, model and kind.
    pub const TOKENS: &str = "gen_ai_client_inference_usage_tokens_total";
    /// Counter: money spent, by key, provider and model.
    pub const COST: &str = "outlive_cost_usd_total";
    /// Counter: appends to sessions, each of which is a durable write.
    pub const APPENDS: &str = "outlive_appends_total";
    /// Counter: entries in these appends.
    pub const APPEND_ENTRIES: &str = "outlive_append_entries_total";
    /// Gauge: a candidate's breaker: 0 closed, 1 half-open, 2 open.
    pub const BREAKER: &str = "outlive_breaker_state";
    /// Gauge: upstream calls in flight, by candidate.
    pub const IN_FLIGHT: &str = "outlive_in_flight";
    /// Gauge: money of a budget, by kind: limit, granted, spent, reserved.
    pub const BUDGET: &str = "outlive_budget_usd";
}

/// Names of span attributes.
pub mod attribute {
    /// The operation: the name of the wire format.
    pub const OPERATION: &str = "gen_ai.operation.name";
    /// The requested model: the client's name of it for a request, the provider's for a call.
    pub const MODEL: &str = "gen_ai.request.model";
    /// The called provider's name in the configuration.
    pub const PROVIDER: &str = "gen_ai.provider.name";
    /// Tokens of the input.
    pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    /// Tokens of the output.
    pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    /// Seconds to the first content.
    pub const FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";
    /// The class of the error, or `cancelled`.
    pub const ERROR: &str = "error.type";
    /// The HTTP status of an error.
    pub const STATUS: &str = "http.response.status_code";
    /// The request's id.
    pub const REQUEST: &str = "outlive.request.id";
    /// The name of the caller's key.
    pub const KEY: &str = "outlive.key";
    /// How the request ended.
    pub const OUTCOME: &str = "outlive.outcome";
    /// How often an interrupted answer was continued.
    pub const RESCUES: &str = "outlive.rescues";
    /// Cost in US dollars.
    pub const COST: &str = "outlive.cost_usd";
}

//! Every name that telemetry uses. Those of OpenTelemetry's GenAI conventions are taken where they have one; they are still
//! in development (<https://github.com/open-telemetry/semantic-conventions-genai>), so they stand in this file alone.

/// Metrics.
pub mod metric {
    /// Requests that have ended, by format, model and status.
    pub const REQUESTS: &str = "outlive_requests_total";
    /// From a request to the end of its answer.
    pub const DURATION: &str = "gen_ai_client_operation_duration_seconds";
    /// From a request to its first content, whoever failed before it.
    pub const FIRST_CHUNK: &str = "gen_ai_client_operation_time_to_first_chunk_seconds";
    /// What the node added: the time to the first content less what the answering provider took for it.
    pub const ADDED: &str = "outlive_added_latency_seconds";
    /// Calls of providers for one request.
    pub const ATTEMPTS: &str = "outlive_attempts";
    /// Calls that have ended, by candidate and what came of them.
    pub const CALLS: &str = "outlive_calls_total";
    /// Answers that broke off and were taken up again.
    pub const RESCUES: &str = "outlive_rescues_total";
    /// Tokens, by who answered and of which kind.
    pub const TOKENS: &str = "gen_ai_client_inference_usage_tokens_total";
    /// Money spent, by who asked and who answered.
    pub const COST: &str = "outlive_cost_usd_total";
    /// Appends to sessions: each is a durable write.
    pub const APPENDS: &str = "outlive_appends_total";
    /// Entries that they brought.
    pub const APPEND_ENTRIES: &str = "outlive_append_entries_total";
    /// 0 closed, 1 half-open, 2 open.
    pub const BREAKER: &str = "outlive_breaker_state";
    /// Calls under way.
    pub const IN_FLIGHT: &str = "outlive_in_flight";
    /// Money of a budget, by what it is: the limit, granted, spent, reserved.
    pub const BUDGET: &str = "outlive_budget_usd";
}

/// Attributes of spans, and labels of metrics.
pub mod attribute {
    /// What was asked for, by wire format.
    pub const OPERATION: &str = "gen_ai.operation.name";
    /// The model that was asked.
    pub const MODEL: &str = "gen_ai.request.model";
    /// The provider that was called, as the configuration names it.
    pub const PROVIDER: &str = "gen_ai.provider.name";
    /// Tokens of the input.
    pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    /// Tokens of the output.
    pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    /// Until the first content, in seconds.
    pub const FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";
    /// Why it failed.
    pub const ERROR: &str = "error.type";
    /// The status of an error.
    pub const STATUS: &str = "http.response.status_code";
    /// The request's id.
    pub const REQUEST: &str = "outlive.request.id";
    /// Whose key it came with.
    pub const KEY: &str = "outlive.key";
    /// How it ended.
    pub const OUTCOME: &str = "outlive.outcome";
    /// How often an answer that broke off was taken up again.
    pub const RESCUES: &str = "outlive.rescues";
    /// What it cost, in dollars.
    pub const COST: &str = "outlive.cost_usd";
}

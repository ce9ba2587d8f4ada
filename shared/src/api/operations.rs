//! Serves what operators and clients read about the node: health, readiness, models, status and metrics. Changes
//! nothing.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, LOCATION, VARY},
};
use serde_json::{Value, json};

use super::{ApiError, Style, ok};
use crate::{
    body::Body,
    config::Config,
    ledger::SpendKey,
    metrics::MetricsPage,
    model::Candidate,
    money::NanoUsd,
    names::metric,
    node::Node,
    platform::{Platform, Store},
    routing::health::{CandidateHealth, Health},
    time::Timestamp,
};

/// `GET /`: what this is and where to go on. A browser is led to the console. The same for every caller.
pub(super) fn index(request_headers: &HeaderMap) -> Response<Body> {
    let accept = request_headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut response = ok(&json!({
        "name": "outlive",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "A gateway over model providers, and sessions of an agent that outlive their process.",
        "console": "/console",
        "authorization": "authorization: Bearer KEY, or x-api-key: KEY; no key on a node without a [[key]]",
        "endpoints": {
            "openai": ["/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/conversations", "/v1/models"],
            "anthropic": ["/v1/messages", "/v1/messages/count_tokens"],
            "agent": ["/v1/sessions", "/v1/schedules"],
            "operations": ["/healthz", "/readyz", "/v1/status", "/metrics"],
        },
    }));
    // Only browsers name HTML; other clients accept anything.
    if accept.to_ascii_lowercase().contains("text/html") {
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(LOCATION, HeaderValue::from_static("/console"));
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// `GET /healthz`: the process is alive.
pub(super) fn health() -> Response<Body> {
    ok(&json!({"status": "ok"}))
}

/// `GET /readyz`: the node can serve. It has a store that answers and a provider, and is not about to stop.
pub(super) async fn ready<P: Platform>(node: &Node<P>) -> Response<Body> {
    let store = node.platform().store().heads(node.log()).await.is_ok();
    let providers = node.config().providers.len();
    let draining = node.is_draining();
    let ready = store && providers > 0 && !draining;
    let body = json!({"ready": ready, "store": store, "providers": providers, "draining": draining});
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    super::json(status, body.to_string())
}

/// `GET /v1/models`
pub(super) fn models<P: Platform>(node: &Node<P>, style: Style) -> Response<Body> {
    let names = node.config().model_names();
    let data: Vec<Value> = names.iter().map(|name| model_object(name, style)).collect();
    ok(&match style {
        Style::OpenAi => json!({"object": "list", "data": data}),
        Style::Anthropic => json!({
            "data": data,
            "has_more": false,
            "first_id": names.first(),
            "last_id": names.last(),
        }),
    })
}

/// `GET /v1/models/{name}`: also of a name that only a wildcard accepts, which the list may not have.
pub(super) fn model<P: Platform>(
    node: &Node<P>,
    name: &str,
    style: Style,
) -> Result<Response<Body>, ApiError> {
    if node.config().model(name).is_none() {
        return Err(ApiError::unknown_model(node.config(), name));
    }
    Ok(ok(&model_object(name, style)))
}

/// A model in the vendor's shape. Its time of creation is 0, since it is only a name in the configuration.
fn model_object(name: &str, style: Style) -> Value {
    match style {
        Style::OpenAi => json!({"id": name, "object": "model", "created": 0, "owned_by": "outlive"}),
        Style::Anthropic => {
            json!({"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"})
        }
    }
}

/// `GET /v1/status`: the state of the node, its candidates and its budgets. Health and spend are those of this
/// instance.
pub(super) async fn status<P: Platform>(node: &Node<P>) -> Result<Response<Body>, ApiError> {
    let last_tick = node.last_tick().await?;
    let (config, now, health) = (node.config(), node.platform().now(), node.health().borrow());
    let providers: Vec<Value> = config
        .providers
        .iter()
        .map(|provider| {
            let base_url = provider.base_url.as_ref().map(ToString::to_string);
            json!({"name": provider.name, "kind": provider.vendor.kind, "base_url": base_url})
        })
        .collect();
    let models: Vec<Value> = config
        .models
        .iter()
        .map(|model| {
            // Of a wildcard, also the names that clients have requested lately.
            let is_of_model = |named: &&Candidate| model.candidates.contains(&config.listed(named));
            let candidates: Vec<Value> = model
                .candidates
                .iter()
                .chain(health.named().filter(is_of_model))
                .map(|candidate| candidate_status(config, &health, candidate, now))
                .collect();
            json!({"name": model.name, "aliases": model.aliases, "candidates": candidates})
        })
        .collect();
    Ok(ok(&json!({
        "node": config.node,
        "agent": config.agent.name,
        "version": env!("CARGO_PKG_VERSION"),
        "now": now.unix_seconds(),
        "last_tick": last_tick.map(|at| at.unix_seconds()),
        "draining": node.is_draining(),
        "providers": providers,
        "models": models,
        "budgets": budgets(node, now),
        "spend": spend(node),
    })))
}

/// `GET /metrics`: the counters of this instance, in the text format of Prometheus.
pub(super) fn metrics<P: Platform>(node: &Node<P>) -> Response<Body> {
    let (config, now, mut page) = (node.config(), node.platform().now(), MetricsPage::default());
    node.metrics().borrow().write(&mut page);
    let ledger = node.ledger().borrow();
    let candidate_labels = |payee: &SpendKey| {
        vec![("gen_ai_provider_name", payee.provider.clone()), ("gen_ai_response_model", payee.model.clone())]
    };
    // One loop for each metric, since the format requires the samples of a metric to stand together.
    for (payee, spend) in ledger.spend() {
        let usage = &spend.usage;
        // Kinds that do not overlap, so that their sum is the total.
        let kinds = [
            ("input", usage.input),
            ("cache_read", usage.cache_read),
            ("cache_write", usage.cache_write.saturating_add(usage.cache_write_1h)),
            ("output", usage.output.saturating_sub(usage.reasoning)),
            ("reasoning", usage.reasoning),
        ];
        for (kind, count) in kinds {
            let labels = [("key", payee.key.clone())].into_iter().chain(candidate_labels(payee));
            let labels: Vec<_> = labels.chain([("gen_ai_token_type", kind.to_owned())]).collect();
            page.sample(metric::TOKENS, "counter", &labels, count);
        }
    }
    for (payee, spend) in ledger.spend() {
        let labels: Vec<_> =
            [("key", payee.key.clone())].into_iter().chain(candidate_labels(payee)).collect();
        page.sample(metric::COST, "counter", &labels, spend.cost);
    }
    let health = node.health().borrow();
    // Not those that clients name by wildcards, since there must be few series.
    let listed = config.models.iter().flat_map(|model| &model.candidates);
    let candidates: BTreeSet<&Candidate> = listed.filter(|candidate| !candidate.is_wildcard()).collect();
    for (metric, value) in [
        (
            metric::BREAKER,
            (|seen, now| seen.breaker.state(now) as u64) as fn(&CandidateHealth, Timestamp) -> u64,
        ),
        (metric::IN_FLIGHT, |seen, _| seen.in_flight.into()),
    ] {
        for candidate in &candidates {
            let labels = [("candidate", candidate.to_string())];
            page.sample(metric, "gauge", &labels, value(&health.candidate(candidate), now));
        }
    }
    for (scope, budget) in config.budgets() {
        let (allowance, start) = (ledger.allowance(&scope), budget.per.around(now).0);
        let kinds = [
            ("limit", budget.limit),
            ("granted", ledger.granted(&scope, start)),
            ("spent", allowance.spent()),
            ("reserved", allowance.reserved()),
        ];
        for (kind, amount) in kinds {
            let labels = [("budget", scope.to_string()), ("kind", kind.to_owned())];
            page.sample(metric::BUDGET, "gauge", &labels, amount);
        }
    }
    let mut response = Response::new(Body::from(Bytes::from(page.into_text())));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// The limits of the budgets, and what this instance has been granted and has spent of them.
fn budgets<P: Platform>(node: &Node<P>, now: Timestamp) -> Vec<Value> {
    let ledger = node.ledger().borrow();
    let budgets = node.config().budgets().map(|(scope, budget)| {
        let ((start, end), allowance) = (budget.per.around(now), ledger.allowance(&scope));
        json!({
            "budget": scope.to_string(),
            "limit_usd": budget.limit.to_string(),
            "granted_usd": ledger.granted(&scope, start).to_string(),
            "spent_usd": allowance.spent().to_string(),
            "reserved_usd": allowance.reserved().to_string(),
            "free_usd": allowance.free().to_string(),
            "debt_usd": allowance.debt().to_string(),
            "resets_at": end.unix_seconds(),
        })
    });
    budgets.collect()
}

/// What this instance has spent since it started, by key, provider and model.
fn spend<P: Platform>(node: &Node<P>) -> Vec<Value> {
    let ledger = node.ledger().borrow();
    let spend = ledger.spend().iter().map(|(payee, spend)| {
        let usage = &spend.usage;
        json!({
            "key": payee.key,
            "provider": payee.provider,
            "model": payee.model,
            "calls": spend.calls,
            "input_tokens": usage.total_input(),
            "cached_input_tokens": usage.cache_read,
            "output_tokens": usage.output,
            "reasoning_tokens": usage.reasoning,
            "cost_usd": spend.cost.to_string(),
        })
    });
    spend.collect()
}

/// The health of a candidate, and what it follows from.
fn candidate_status(config: &Config, health: &Health, candidate: &Candidate, now: Timestamp) -> Value {
    let (health_now, facts) = (health.candidate(candidate), config.facts(candidate));
    let seconds = |at: Option<Timestamp>| at.map(Timestamp::unix_seconds);
    let price = facts.price.map(|price| {
        // In dollars for a million tokens, as vendors publish prices; a rate is in nano-dollars for a thousand.
        let dollars = |rate: u64| NanoUsd(rate.saturating_mul(1000)).to_string();
        let rates = price.rates;
        json!({
            "input": dollars(rates.input),
            "cached_input": dollars(rates.cache_read),
            "output": dollars(rates.output),
        })
    });
    json!({
        "candidate": candidate.to_string(),
        "health": health_now.condition(now).name(),
        "state": health_now.breaker.state(now).name(),
        "next_probe": seconds(health_now.breaker.open_until()),
        "parked_until": seconds(health_now.parked_until(now)),
        "last_failure": health_now.last_failure.map(|(class, _)| class.name()),
        "last_failure_cause": health_now.last_failure_cause,
        // The whole status needs the scope admin, so it may have the provider's own text.
        "last_failure_text": health_now.last_failure_text,
        "last_failure_at": seconds(health_now.last_failure.map(|(_, at)| at)),
        "last_success_at": seconds(health_now.last_success),
        "error_percent": health_now.breaker.error_percent(),
        "latency_ms": health_now.latency_millis,
        "in_flight": health_now.in_flight,
        "remaining": {"requests": health_now.limits.requests, "tokens": health_now.limits.tokens},
        "context_tokens": facts.context_tokens,
        "price": price,
    })
}

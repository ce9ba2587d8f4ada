//! Follows one upstream call: reserves its worst case, meters its answer, and reports its end to the ledger, the
//! health of the candidates, the metrics and the recorder. Sends nothing itself; that is `dispatch.rs`.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use http::StatusCode;

use super::{
    Recorder,
    reservation::{self, Reservation, ReservationError},
};
use crate::{
    error::{ErrorClass, ProviderError},
    ledger::{Budgets, OVERHEAD_TOKENS, SpendKey, WorstCase},
    model::Candidate,
    money::NanoUsd,
    names::metric,
    node::Node,
    platform::Platform,
    price::Rates,
    provider::CallSize,
    record::AttemptRecord,
    routing::{breaker::Probe, rate_limit::RateLimit},
    time::Timestamp,
    usage::{BYTES_PER_TOKEN, Usage, UsageSource, estimate_tokens},
    wire::{Delta, Extras, Request},
};

/// One call of a candidate, from its start to the end of its answer.
///
/// It is counted and settled when it is dropped, so also if the client disconnects or a hedge wins.
pub(super) struct Attempt<P: Platform> {
    node: Node<P>,
    pub(super) candidate: Candidate,
    /// The index of the provider's key that is used.
    pub(super) key: usize,
    /// The number of the call as a probe: it decides if the candidate's breaker closes.
    probe: Option<Probe>,
    started_at: Timestamp,
    /// The money reserved for the call; `None` before [`Attempt::reserve`] has succeeded.
    pub(super) reservation: Option<Reservation>,
    /// `None` if the price is unknown.
    worst: Option<WorstCase>,
    pub(super) meter: Rc<RefCell<Meter>>,
    /// The fields of the client's request that the call leaves out.
    pub(super) dropped: Vec<String>,
    /// The call's span id: 16 hexadecimal digits.
    pub(super) span: String,
    /// Records the call; `None` for the node's own probes.
    recorder: Option<Recorder<P>>,
    end: Cell<AttemptEnd>,
    /// Why it failed.
    error: RefCell<Option<ProviderError>>,
}

/// How a call ended, as far as it is known.
#[derive(Clone, Copy, Debug)]
struct AttemptEnd {
    outcome: &'static str,
    status: Option<u16>,
    /// Whether the request was sent to the provider.
    was_sent: bool,
    /// Whether the provider may go on writing: the client or a deadline ended the call, not the provider.
    may_go_on: bool,
}

/// Counts what a call uses, for its bill.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Whether the call was sent, and the provider did not refuse it: any other call costs nothing.
    is_billed: bool,
    usage: Option<Usage>,
    /// Whether the answer has ended, so that `usage` is final.
    ended: bool,
    /// Bytes of the answer so far.
    answer_bytes: u64,
    /// Bytes of the request as it is sent.
    sent_bytes: usize,
}

impl Meter {
    /// Counts one delta of the provider's answer.
    pub(super) fn count(&mut self, delta: &Delta<'_>) {
        match delta {
            Delta::Usage(usage) => self.usage = Some(*usage),
            Delta::Stop(_) => self.ended = true,
            other => self.answer_bytes = self.answer_bytes.saturating_add(other.bytes() as u64),
        }
    }

    /// Notes that the answer is whole, so that its usage is final.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Sets whether the call may cost something: from when it is sent, until the provider refuses it.
    pub(super) fn set_billed(&mut self, is_billed: bool) {
        self.is_billed = is_billed;
    }

    /// The usage for the client: the provider's numbers, or else estimates from the lengths of the texts.
    pub(super) fn reported_usage(&self) -> Usage {
        let mut usage = self.usage.unwrap_or_default();
        if usage.total_input() == 0 {
            usage.input = estimate_tokens(self.sent_bytes);
        }
        usage.output = usage.output.max(self.answer_bytes.div_ceil(BYTES_PER_TOKEN));
        usage
    }

    /// The usage for the budgets, and where it is known from. `may_go_on` is
    /// [`AttemptEnd::may_go_on`].
    ///
    /// - The answer ended: the provider's numbers; without them, an estimate from the texts.
    /// - The provider broke it off: what came, counted as an upper bound.
    /// - The client left, or a deadline ended the call: the provider may write on to the limit, so all of the worst
    ///   case.
    fn billed_usage(&self, worst: Option<&WorstCase>, may_go_on: bool) -> (Usage, UsageSource) {
        if !self.is_billed {
            return (Usage::default(), UsageSource::Provider);
        }
        let reported = self.usage.filter(|usage| usage.total() > 0 || self.answer_bytes == 0);
        let answered = match (self.ended, reported) {
            (true, Some(usage)) => return (usage, UsageSource::Provider),
            (true, None) => {
                let mut usage = self.reported_usage();
                // Only the text of the first choice is counted.
                let (choices, most) = worst.map_or((1, u64::MAX), |worst| (worst.choices, worst.output));
                usage.output = usage.output.saturating_mul(choices).min(most);
                return (usage, UsageSource::Estimated);
            }
            (false, reported) => reported.unwrap_or_default(),
        };
        let (worst_input, worst_output) = worst.map_or((0, 0), |worst| (worst.input, worst.output));
        let input = if answered.total_input() > 0 { answered.input } else { worst_input };
        // A token has at least one byte. An estimate is no reason to owe more than the worst case.
        let most = if worst.is_some() { worst_output } else { u64::MAX };
        let written = self.answer_bytes.saturating_add(TOKENS_AFTER_BREAK).min(most);
        let output = answered.output.max(if may_go_on { written.max(worst_output) } else { written });
        (Usage { input, output, ..answered }, UsageSource::Estimated)
    }
}

/// Tokens that a provider may have written and billed beyond what arrived before the connection broke.
const TOKENS_AFTER_BREAK: u64 = 64;

impl<P: Platform> Attempt<P> {
    /// Counts the call as in flight and chooses the provider's key.
    pub(super) fn begin(node: &Node<P>, candidate: &Candidate, recorder: Option<&Recorder<P>>) -> Self {
        let now = node.platform().now();
        let keys = node.config().provider_keys(&candidate.provider).len();
        let mut health = node.health().borrow_mut();
        let key = health.pick_key(&candidate.provider, keys, now);
        let probe = health.begin(candidate, now);
        drop(health);
        Self {
            node: node.clone(),
            candidate: candidate.clone(),
            key,
            probe,
            started_at: now,
            reservation: None,
            worst: None,
            meter: Rc::default(),
            dropped: Vec::new(),
            span: node.random_span_id(),
            recorder: recorder.cloned(),
            // Stays if the client disconnects or a hedge wins, since the attempt is then dropped without a result.
            end: Cell::new(AttemptEnd {
                outcome: "cancelled",
                status: None,
                was_sent: true,
                may_go_on: true,
            }),
            error: RefCell::default(),
        }
    }

    /// The model's own limit of the answer, if the client's is above it: it means the same, but vendors refuse it.
    pub(super) fn lowered_limit(&self, request: &Request) -> Option<u64> {
        let most = self.node.config().facts(&self.candidate).output_tokens;
        most.filter(|most| request.max_output > Some(*most))
    }

    /// The budgets that have to pay for the call.
    pub(super) fn budgets(&self, caller: &str) -> Budgets {
        self.node.config().budgets_for(caller, &self.candidate.provider)
    }

    /// Gives back what is reserved for a call that was refused, before another one is made in its place.
    pub(super) fn release(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(Usage::default(), NanoUsd(0));
        }
        *self.meter.borrow_mut() = Meter::default();
    }

    /// The rates at which budgets reserve the call; `None` if the price is unknown.
    pub(super) fn max_price(&self) -> Option<Rates> {
        Some(self.node.config().facts(&self.candidate).price?.highest())
    }

    /// Reserves the worst case of a call of `size`, which sends `request`, in each of `budgets`. Returns the limit of each choice's tokens
    /// with which the call must be sent instead, if the budgets pay for less than the call may use.
    ///
    /// Fails if a budget has too little left, can't be reached, or would need a price that is unknown.
    pub(super) async fn reserve(
        &mut self,
        caller: &str,
        budgets: &Budgets,
        request: &Request,
        size: CallSize,
    ) -> Result<Option<u64>, ProviderError> {
        self.meter.borrow_mut().sent_bytes = size.bytes;
        let facts = self.node.config().facts(&self.candidate);
        let limit =
            if request.format.has_limit() { size.max_output.or(facts.output_tokens) } else { Some(0) };
        let output = limit.unwrap_or(DEFAULT_OUTPUT_TOKENS);
        let Candidate { provider, model } = self.candidate.clone();
        let spend_key = SpendKey { key: caller.to_owned(), provider, model };
        // A token has at least one byte.
        let mut input = (size.bytes as u64).saturating_add(OVERHEAD_TOKENS);
        // Extras are looked for only under a budget, since that means parsing the whole request.
        if let Some((budget, _)) = budgets.first() {
            let extras = self.node.in_pieces(request.find_extras()).await;
            let Extras { images, image_bytes, documents, unpriced, .. } = extras;
            if let Some(field) = unpriced {
                let message = format!(
                    "the budget of the {budget} needs the price of what '{field}' uses, which is unknown; \
                     allowed: a request without '{field}'"
                );
                return Err(ProviderError::unsupported_field(field, message));
            }
            let pages = if *documents { facts.context_tokens.unwrap_or(DEFAULT_CONTEXT_TOKENS) } else { 0 };
            let tokens =
                images.iter().map(|image| self.image_tokens(image.pixels)).fold(0, u64::saturating_add);
            input = input.saturating_sub(*image_bytes as u64).saturating_add(tokens).saturating_add(pages);
        }
        let worst = facts.price.map(|price| WorstCase {
            price,
            input,
            output: output.saturating_mul(request.choices),
            choices: request.choices,
        });
        let reserved = reservation::reserve(&self.node, spend_key, budgets, worst).await;
        let (reservation, worst, mut cap) = reserved.map_err(|error| self.reservation_error(error))?;
        // The worst case holds only if the answer is bounded, so an unbounded one gets a cap under a budget.
        if reservation.is_bound() && limit.is_none() {
            cap = Some(cap.unwrap_or(output));
        }
        (self.reservation, self.worst) = (Some(reservation), worst);
        Ok(cap)
    }

    /// Upper bound of the tokens of an image.
    fn image_tokens(&self, pixels: Option<(u32, u32)>) -> u64 {
        let provider = self.node.config().provider(&self.candidate.provider);
        provider.map_or(0, |provider| (provider.vendor.image_tokens)(&self.candidate.model, pixels))
    }

    fn reservation_error(&self, error: ReservationError) -> ProviderError {
        match error {
            ReservationError::Exhausted(exhausted) => {
                let retry_after = exhausted.retry_after();
                ProviderError { retry_after, ..ProviderError::new(ErrorClass::Budget, exhausted.to_string()) }
            }
            ReservationError::Unpriced(budget) => ProviderError::new(
                ErrorClass::Unsupported,
                format!(
                    "the budget of the {budget} needs the price of {}, which is unknown; allowed: a [[price]] for it",
                    self.candidate
                ),
            ),
            ReservationError::Unavailable => {
                let message = "the log of a budget can't be reached, and without it no more money is granted";
                let status = Some(StatusCode::SERVICE_UNAVAILABLE);
                ProviderError { status, ..ProviderError::new(ErrorClass::Budget, message) }
            }
        }
    }

    /// Reports the first content and the time to it.
    pub(super) fn record_first_content(&self) {
        let (age, now) = (self.age(), self.node.platform().now());
        self.node.health().borrow_mut().record_first_content(&self.candidate, age, self.probe, now);
    }

    /// Reports the provider's rate limits.
    pub(super) fn record_limits(&self, limits: RateLimit) {
        self.node.health().borrow_mut().record_limits(&self.candidate, limits, self.node.platform().now());
    }

    /// Reports that the answer is whole.
    pub(super) fn record_success(&self) {
        self.end.set(AttemptEnd { outcome: "ok", status: None, was_sent: true, may_go_on: false });
        let now = self.node.platform().now();
        self.node.health().borrow_mut().record_success(&self.candidate, now);
    }

    /// Reports the error. Returns whether the candidate should be tried again with another key of the provider.
    pub(super) fn record_failure(&self, error: &ProviderError) -> bool {
        self.end.set(AttemptEnd {
            outcome: error.class.name(),
            status: error.status.map(|status| status.as_u16()),
            was_sent: !error.class.is_local(),
            may_go_on: error.class == ErrorClass::Timeout,
        });
        *self.error.borrow_mut() = Some(error.clone());
        let (now, chance) = (self.node.platform().now(), self.node.random_u32());
        let provider = &self.candidate.provider;
        let keys = self.node.config().provider_keys(provider).len();
        let mut health = self.node.health().borrow_mut();
        if keys > 1 && error.class.is_key_specific() {
            health.pause_key(provider, self.key, error, now);
            if health.has_key(provider, keys, now) {
                // Only the key failed, so the candidate's health stays as it is.
                return true;
            }
        }
        // A probe whose stream breaks after its first content has failed after all.
        health.record_failure(&self.candidate, error, self.probe.is_some(), now, chance);
        false
    }

    /// The usage to bill if the call ends now, where it is known from, and what it costs.
    fn bill(&self) -> (Usage, UsageSource, NanoUsd) {
        let may_go_on = self.end.get().may_go_on;
        let (usage, source) = self.meter.borrow().billed_usage(self.worst.as_ref(), may_go_on);
        let by_price = self.worst.map(|worst| worst.price.cost(&usage, self.started_at)).unwrap_or_default();
        let provider = self.node.config().provider(&self.candidate.provider);
        let reported = usage.cost.filter(|_| provider.is_some_and(|provider| provider.vendor.reports_cost));
        let cost = match (reported, source) {
            (None, _) => by_price,
            (Some(reported), UsageSource::Provider) => reported,
            // The answer did not end, so it may have cost more since.
            (Some(reported), UsageSource::Estimated) => reported.max(by_price),
        };
        (usage, source, cost)
    }

    /// How long ago the call started.
    pub(super) fn age(&self) -> Duration {
        self.node.platform().now().since(self.started_at)
    }
}

/// Most tokens of output if neither the request nor the model's facts bound it.
const DEFAULT_OUTPUT_TOKENS: u64 = 32_768;

/// Most tokens of documents if the model's context size is unknown.
const DEFAULT_CONTEXT_TOKENS: u64 = 1_000_000;

impl<P: Platform> Drop for Attempt<P> {
    fn drop(&mut self) {
        let (usage, usage_source, cost) = self.bill();
        if let Some(reservation) = self.reservation.take() {
            self.node.limiter().borrow_mut().count_tokens(reservation.key(), usage.total());
            reservation.settle(usage, cost);
        }
        self.node.health().borrow_mut().end(&self.candidate, self.probe);
        let AttemptEnd { outcome, status, was_sent, .. } = self.end.get();
        // Clients may name candidates as they like, but there must be few series.
        let candidate = self.node.config().listed(&self.candidate).to_string();
        let labels =
            [("candidate", &*candidate), ("outcome", outcome), ("usage_source", usage_source.name())];
        self.node.metrics().borrow_mut().count(metric::CALLS, &labels);
        if let Some(recorder) = self.recorder.take() {
            let error = self.error.take();
            recorder.record_attempt(AttemptRecord {
                candidate: self.candidate.clone(),
                span: std::mem::take(&mut self.span),
                was_sent,
                outcome,
                status,
                cause: error.as_ref().map(ProviderError::cause),
                text: error.and_then(|error| error.text).filter(|_| self.node.config().log_content),
                started_at: self.started_at,
                duration: self.age(),
                usage,
                usage_source,
                cost,
                dropped: std::mem::take(&mut self.dropped),
            });
        }
    }
}

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use super::{
    Recorder,
    reservation::{self, Reservation, ReservationError},
};
use crate::{
    error::{ErrorClass, ProviderError},
    ledger::{SpendKey, WorstCase},
    model::Candidate,
    money::NanoUsd,
    names::metric,
    node::Node,
    platform::Platform,
    record::AttemptRecord,
    routing::rate_limit::RateLimit,
    time::Timestamp,
    usage::{BYTES_PER_TOKEN, Usage, estimate},
    wire::{Delta, Extras, Request},
};

/// One call of a candidate, from its beginning to the end of its answer. However that comes about, it is counted.
pub(super) struct Attempt<P: Platform> {
    node: Node<P>,
    pub(super) candidate: Candidate,
    /// Which of the provider's keys is used.
    pub(super) key: usize,
    probe: bool,
    began: Timestamp,
    /// What is set aside for it; `None` until it is known that the call will be made.
    pub(super) reservation: Option<Reservation>,
    worst: Option<WorstCase>,
    pub(super) meter: Rc<RefCell<Meter>>,
    /// Its id within a trace.
    pub(super) span: String,
    /// Where it is written down; probes are not.
    journal: Option<Recorder<P>>,
    ending: Cell<AttemptEnd>,
}

/// How a call ended, as far as is known.
#[derive(Clone, Copy, Debug)]
struct AttemptEnd {
    outcome: &'static str,
    status: Option<u16>,
    /// Whether anything was sent.
    made: bool,
}

/// What came of a call so far, as far as money goes.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// The call was refused before anything was done for it, and that costs nothing.
    refused: bool,
    usage: Option<Usage>,
    /// Whether `usage` is the last word.
    ended: bool,
    /// Bytes of the answer.
    bytes: u64,
}

impl Meter {
    /// Takes in what the provider says.
    pub(super) fn count(&mut self, delta: &Delta<'_>) {
        match delta {
            Delta::Usage(usage) => self.usage = Some(*usage),
            Delta::Stop(_) => self.ended = true,
            other => self.bytes = self.bytes.saturating_add(other.bytes() as u64),
        }
    }

    /// The call was not made, or was refused.
    pub(super) fn mark_unbilled(&mut self) {
        self.refused = true;
    }

    /// What was used, for the client: what the provider says, or else as far as can be told from the texts.
    pub(super) fn reported_usage(&self, request_bytes: usize) -> Usage {
        let mut usage = self.usage.unwrap_or_default();
        if usage.total_input() == 0 {
            usage.input = estimate(request_bytes);
        }
        usage.output = usage.output.max(self.bytes.div_ceil(BYTES_PER_TOKEN));
        usage
    }

    /// What was used, for the budgets: what the provider says, or else the most that it can have been.
    fn billed_usage(&self, worst: Option<&WorstCase>) -> Usage {
        if self.refused {
            return Usage::default();
        }
        if let (true, Some(said)) = (self.ended, self.usage) {
            return said;
        }
        let said = self.usage.unwrap_or_default();
        let input = if said.total_input() > 0 { said.input } else { worst.map_or(0, |worst| worst.input) };
        // No token is shorter than a byte, and some are on their way when nobody listens any more.
        Usage { input, output: said.output.max(self.bytes.saturating_add(UNHEARD)), ..said }
    }
}

/// Tokens that a provider may write before it notices that nobody listens.
const UNHEARD: u64 = 64;

impl<P: Platform> Attempt<P> {
    pub(super) fn begin(node: &Node<P>, candidate: &Candidate, journal: Option<&Recorder<P>>) -> Self {
        let now = node.platform().now();
        let keys = node.config().provider(&candidate.provider).map_or(0, |provider| provider.keys.len());
        let mut health = node.health().borrow_mut();
        let key = health.key(&candidate.provider, keys, now);
        let probe = health.begin(candidate);
        drop(health);
        Self {
            node: node.clone(),
            candidate: candidate.clone(),
            key,
            probe,
            began: now,
            reservation: None,
            worst: None,
            meter: Rc::default(),
            span: node.random_span_id(),
            journal: journal.cloned(),
            // Nothing else is said if the client leaves, or another call is quicker.
            ending: Cell::new(AttemptEnd { outcome: "cancelled", status: None, made: true }),
        }
    }

    /// Sets aside what the call can cost at most: the request, and `more` bytes that are sent with it. Without a price a
    /// budget can't be kept.
    pub(super) async fn reserve(
        &mut self,
        caller: &str,
        request: &Request,
        more: usize,
    ) -> Result<(), ProviderError> {
        let Candidate { provider, model } = self.candidate.clone();
        let facts = self.node.config().facts(&self.candidate);
        let asked = request.max_output;
        // A limit above the model's own says no more than that one, but vendors refuse it.
        let excess = facts.output_tokens.filter(|most| asked > Some(*most));
        let output = excess.or(asked).or(facts.output_tokens).unwrap_or(MOST_OUTPUT);
        let payee = SpendKey { key: caller.to_owned(), provider, model };
        // No token is shorter than a byte; the vendor adds some of its own.
        let mut input = (request.bytes().saturating_add(more) as u64).saturating_add(ADDED);
        if let Some(budget) = reservation::binding(&self.node, &payee) {
            let Extras { images, documents, unpriced } = *request.extras();
            if let Some(field) = unpriced {
                let why = format!(
                    "the budget of the {budget} needs the price of what '{field}' asks for, which is not known; \
                     allowed: a request without it"
                );
                return Err(ProviderError::new(ErrorClass::Unsupported, why));
            }
            let pages = if documents { facts.context_tokens.unwrap_or(WINDOW) } else { 0 };
            input = input.saturating_add(images.saturating_mul(IMAGE)).saturating_add(pages);
        }
        let worst = facts.price.map(|price| WorstCase {
            price,
            input,
            output: output.saturating_mul(request.choices),
            choices: request.choices,
        });
        self.worst = worst;
        match reservation::reserve(&self.node, payee, worst).await {
            Ok(mut reservation) => {
                // What the vendor bounds by itself needs no bound of ours.
                if reservation.is_bound() && request.max_output.or(facts.output_tokens).is_none() {
                    reservation.cap = Some(reservation.cap.unwrap_or(MOST_OUTPUT));
                }
                reservation.cap = reservation.cap.or(excess);
                self.reservation = Some(reservation);
                Ok(())
            }
            Err(ReservationError::Exhausted(exhausted)) => {
                let message = format!("the budget of the {} has nothing left for it", exhausted.budget);
                let retry_after = Some(exhausted.resets_in);
                Err(ProviderError { retry_after, ..ProviderError::new(ErrorClass::Budget, message) })
            }
            Err(ReservationError::Unpriced(budget)) => Err(ProviderError::new(
                ErrorClass::Unsupported,
                format!(
                    "the budget of the {budget} needs the price of {}, which is not known; allowed: a [[price]] for it",
                    self.candidate
                ),
            )),
            Err(ReservationError::Unavailable) => {
                let message =
                    "the log of a budget does not answer, and nothing is spent that it did not grant";
                Err(ProviderError::new(ErrorClass::Budget, message))
            }
        }
    }

    /// The first content is there.
    pub(super) fn record_first_content(&self) {
        self.node.health().borrow_mut().record_first_content(&self.candidate, self.age());
    }

    /// What the provider says about its limits.
    pub(super) fn record_limits(&self, limits: RateLimit) {
        self.node.health().borrow_mut().record_limits(&self.candidate, limits, self.node.platform().now());
    }

    pub(super) fn record_success(&self) {
        self.ending.set(AttemptEnd { outcome: "ok", status: None, made: true });
        let now = self.node.platform().now();
        self.node.health().borrow_mut().record_success(&self.candidate, self.probe, now);
    }

    /// Says whether another key of the provider may do better.
    pub(super) fn record_failure(&self, error: &ProviderError) -> bool {
        self.ending.set(AttemptEnd {
            outcome: error.class.name(),
            status: error.status.map(|status| status.as_u16()),
            made: !error.class.is_local(),
        });
        let (now, chance) = (self.node.platform().now(), self.node.random_u32());
        let provider = &self.candidate.provider;
        let keys = self.node.config().provider(provider).map_or(0, |provider| provider.keys.len());
        let mut health = self.node.health().borrow_mut();
        if keys > 1 && error.class.is_key_specific() {
            health.rest_key(provider, self.key, error, now);
            if health.has_key(provider, keys, now) {
                return true;
            }
        }
        health.record_failure(&self.candidate, error, self.probe, now, chance);
        false
    }

    /// What the call has cost so far.
    fn cost(&self) -> (Usage, NanoUsd) {
        let usage = self.meter.borrow().billed_usage(self.worst.as_ref());
        (usage, self.worst.map(|worst| worst.price.cost(&usage, self.began)).unwrap_or_default())
    }

    /// How long ago it began.
    pub(super) fn age(&self) -> Duration {
        self.node.platform().now().since(self.began)
    }
}

/// Tokens of an answer that nothing else bounds.
const MOST_OUTPUT: u64 = 32_768;

/// Tokens that a vendor adds to a request: what tools and formats are explained with.
const ADDED: u64 = 1_000;

/// Tokens of an image: 10,000 patches are the most that a vendor takes
/// (<https://platform.openai.com/docs/guides/images-vision>).
const IMAGE: u64 = 10_000;

/// Tokens of documents, where the model's window is not known.
const WINDOW: u64 = 1_000_000;

impl<P: Platform> Drop for Attempt<P> {
    fn drop(&mut self) {
        let (usage, cost) = self.cost();
        if let Some(reservation) = self.reservation.take() {
            self.node.limiter().borrow_mut().count_tokens(reservation.key(), usage.total());
            reservation.settle(usage, cost);
        }
        self.node.health().borrow_mut().end(&self.candidate, self.probe);
        let AttemptEnd { outcome, status, made } = self.ending.get();
        let labels = vec![("candidate", self.candidate.to_string()), ("outcome", outcome.to_owned())];
        self.node.metrics().borrow_mut().count(metric::CALLS, labels);
        if let Some(journal) = self.journal.take() {
            let (candidate, span) = (self.candidate.clone(), std::mem::take(&mut self.span));
            let (began, took) = (self.began, self.age());
            journal.record_attempt(AttemptRecord {
                candidate,
                span,
                was_sent: made,
                outcome,
                status,
                started_at: began,
                duration: took,
                usage,
                cost,
            });
        }
    }
}

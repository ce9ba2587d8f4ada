//! Checks what requests may use: one call without content at a time while a breaker is not closed, a bounded number of calls for each
//! request and for all together, and a bounded time.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use outlive::{
    model::Candidate,
    routing::breaker::{BreakerState, LONGEST_PROBE},
};

use crate::{client::ResponseEnd, invariants::ChatOutcome, world::World};

/// Calls that a request of a model may make before its first content: as configured, or by default.
pub(crate) const ATTEMPTS: [(&str, u32); 2] = [("all", 16), ("", 3)];

/// How long a request may take, as configured.
pub(crate) const TOTAL: Duration = Duration::from_secs(60);

/// Tolerance on top of it: calls of the store have no deadline.
const SLACK: Duration = Duration::from_secs(1);

/// The calls that the providers got since the node's last start.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Requests that clients have sent.
    requests: u64,
    /// Calls of each request without rescues.
    calls_by_request: BTreeMap<String, u32>,
    /// Calls beyond the first of each request, to providers whose last answer was a failure.
    retries: u64,
    /// Calls without content that began while the breaker was not closed: their numbers, and when they began.
    probes: BTreeMap<String, Vec<(u64, u64)>>,
    /// Calls so far.
    calls: u64,
    started_at: u64,
}

impl Calls {
    /// Forgets all calls: the node has started.
    pub(crate) fn restart(&mut self, now: u64) {
        *self = Self { started_at: now, ..Self::default() };
    }

    /// A client has sent a request.
    pub(crate) fn request_sent(&mut self) {
        self.requests += 1;
    }
}

/// A call in flight.
pub(crate) struct Call {
    world: Rc<World>,
    /// The provider that it probes, and its number.
    probe: Option<(String, u64)>,
    /// The start of the node that made it.
    generation: u32,
}

impl Call {
    /// The provider `name` is called for the request `content`, whose prompt has `messages` messages and `round`
    /// answers with calls. `is_rescue`: the call continues an answer that broke.
    pub(crate) fn begin(
        world: &Rc<World>,
        name: &str,
        content: &str,
        messages: usize,
        round: usize,
        is_rescue: bool,
    ) -> Self {
        let generation = world.generation();
        let mut call = Self { world: Rc::clone(world), probe: None, generation };
        let Some((node, _)) = world.node() else { return call };
        let candidate_state =
            node.candidate_health(&Candidate { provider: name.to_owned(), model: "m".to_owned() });
        let now = outlive::platform::Platform::now(node.platform());
        let mut calls = world.calls.borrow_mut();
        if candidate_state.breaker.state(now) != BreakerState::Closed {
            world.count("probes through a breaker that was not closed");
            calls.calls += 1;
            let (number, begun_at) = (calls.calls, world.elapsed());
            let probes = calls.probes.entry(name.to_owned()).or_default();
            probes.push((number, begun_at));
            // A slow probe holds others off for a while only.
            let holds = |(_, at): &&(u64, u64)| Duration::from_millis(begun_at - at) < LONGEST_PROBE;
            let holding = probes.iter().filter(holds).count();
            if holding > 1 {
                world.violation(format_args!("{name} is probed by {holding} calls at once"));
            }
            call.probe = Some((name.to_owned(), number));
        }
        // The limit of probes holds for every call; the other limits do not count rescues and the node's own probes.
        if is_rescue || content == PROBE {
            return call;
        }
        let made = calls.calls_by_request.entry(format!("{content} {messages}")).or_default();
        *made += 1;
        let attempts = *made;
        if round > 0 && attempts == 1 {
            calls.request_sent();
        }
        if attempts > 1 && candidate_state.is_suspect() {
            calls.retries += 1;
            world.count("retries");
            // The node's retry budget: its initial balance, a fifth of the requests, and one retry in two seconds.
            let two_seconds = world.elapsed().saturating_sub(calls.started_at) / 2_000;
            let most = 30 + calls.requests / 5 + two_seconds + 1;
            if calls.retries > most {
                world.violation(format_args!(
                    "{} retries for {} requests are more than the retry budget has",
                    calls.retries, calls.requests
                ));
            }
        }
        let model = content.split_once(' ').map_or("", |(model, _)| model);
        let most = ATTEMPTS.iter().find(|(name, _)| [model, ""].contains(name)).map_or(0, |(_, most)| *most);
        // Each run of a turn is a request, and a turn may have several runs.
        if attempts > most && model != TURN {
            world.violation(format_args!("request {content} makes {attempts} calls, more than configured"));
        }
        call
    }

    /// The node has got the first content, with which a probe ends.
    pub(crate) fn has_content(&mut self) {
        if self.generation == self.world.generation()
            && let Some((name, number)) = self.probe.take()
            && let Some(probes) = self.world.calls.borrow_mut().probes.get_mut(&name)
        {
            probes.retain(|(other, _)| *other != number);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.has_content();
    }
}

/// The text of the node's own probes.
const PROBE: &str = "Say ok.";

/// Checks the time of a request that was sent at `sent_at` and has ended.
pub(crate) fn in_time(world: &World, content: &str, sent_at: u64, outcome: &ChatOutcome) {
    let took = Duration::from_millis(world.elapsed() - sent_at);
    if outcome.end == ResponseEnd::Clean && took > TOTAL + SLACK {
        world.violation(format_args!("client {content}: it took {took:?}, more than the total timeout"));
    }
}

/// The first word of the input of turns.
const TURN: &str = "turn";

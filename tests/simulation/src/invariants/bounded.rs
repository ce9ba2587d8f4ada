//! What a request may take: a provider whose breaker is not closed gets one call at a time, a request makes few calls, all
//! requests together make few more than one each, and each ends in time.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use outlive::{model::Candidate, routing::breaker::State};

use crate::{client::End, invariants::Outcome, world::World};

/// Calls that a request of a model may make before its first content, as the configuration says or leaves.
pub(crate) const ATTEMPTS: [(&str, u32); 2] = [("all", 16), ("", 3)];

/// How long a request may take altogether, as the configuration says.
pub(crate) const TOTAL: Duration = Duration::from_secs(60);

/// What is allowed beyond it: the store has no clock.
const SLACK: Duration = Duration::from_secs(1);

/// What the providers have seen of one start of the node.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Requests that clients have sent.
    requests: u64,
    /// Calls of each request, those that take a broken answer up left out.
    made: BTreeMap<String, u32>,
    /// Calls beyond the first of each request, to providers whose last answer was a failure.
    extra: u64,
    /// Calls under way that began while the breaker was not closed.
    probes: BTreeMap<String, u32>,
    began: u64,
}

impl Calls {
    /// The node has started.
    pub(crate) fn restart(&mut self, now: u64) {
        *self = Self { began: now, ..Self::default() };
    }

    /// A client sends a request.
    pub(crate) fn asked(&mut self) {
        self.requests += 1;
    }
}

/// A call under way.
pub(crate) struct Call {
    world: Rc<World>,
    probed: Option<String>,
    /// Which start of the node made it.
    generation: u32,
}

impl Call {
    /// The provider `name` is called for the request `content`, which has so many messages, after `round` answers with
    /// calls.
    pub(crate) fn begin(
        world: &Rc<World>,
        name: &str,
        content: &str,
        messages: usize,
        round: usize,
        takes_up: bool,
    ) -> Self {
        let generation = world.generation();
        let mut call = Self { world: Rc::clone(world), probed: None, generation };
        let Some((node, _)) = world.node() else { return call };
        let seen = node.seen(&Candidate { provider: name.to_owned(), model: "m".to_owned() });
        let now = outlive::platform::Platform::now(node.platform());
        let mut calls = world.calls.borrow_mut();
        if seen.breaker.state(now) != State::Closed {
            world.saw("calls past a breaker");
            let probes = calls.probes.entry(name.to_owned()).or_default();
            *probes += 1;
            if *probes > 1 {
                world.violation(format_args!("{name} is probed by {probes} calls at once"));
            }
            call.probed = Some(name.to_owned());
        }
        // The node's own probes are nobody's requests.
        if takes_up || content == PROBE {
            return call;
        }
        let made = calls.made.entry(format!("{content} {messages}")).or_default();
        *made += 1;
        let attempts = *made;
        if round > 0 && attempts == 1 {
            calls.asked();
        }
        if attempts > 1 && seen.is_suspect() {
            calls.extra += 1;
            world.saw("retries");
            // The budget's own bound: what is saved up at first, a fifth of the requests, one in two seconds.
            let elapsed = world.elapsed().saturating_sub(calls.began) / 2_000;
            let most = 30 + calls.requests / 5 + elapsed + 1;
            if calls.extra > most {
                world.violation(format_args!("{} retries for {} requests", calls.extra, calls.requests));
            }
        }
        let model = content.split_once(' ').map_or("", |(model, _)| model);
        let most = ATTEMPTS.iter().find(|(name, _)| [model, ""].contains(name)).map_or(0, |(_, most)| *most);
        // A turn may be run more than once, and each run is a request.
        if attempts > most && model != TURN {
            world.violation(format_args!("request {content} makes {attempts} calls"));
        }
        call
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.generation == self.world.generation()
            && let Some(name) = &self.probed
            && let Some(probes) = self.world.calls.borrow_mut().probes.get_mut(name)
        {
            *probes = probes.saturating_sub(1);
        }
    }
}

/// What the node's own probes say.
const PROBE: &str = "Say ok.";

/// A request that was sent at `asked` has ended.
pub(crate) fn in_time(world: &World, content: &str, asked: u64, outcome: &Outcome) {
    let took = Duration::from_millis(world.elapsed() - asked);
    if outcome.end == End::Clean && took > TOTAL + SLACK {
        world.violation(format_args!("client {content}: it took {took:?}"));
    }
}

/// The first word of what turns ask.
const TURN: &str = "turn";

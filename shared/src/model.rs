//! A model as clients ask for it: its candidates, and how an attempt at one is bounded.

use std::{fmt, time::Duration};

/// `[[model]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name that clients ask for.
    pub name: String,
    /// Who can answer, best first; at least one.
    pub candidates: Vec<Candidate>,
    /// Who of those that are well is asked first.
    pub prefer: Prefer,
    /// What becomes of an answer that breaks off after the client saw some of it.
    pub rescue: Rescue,
    /// Whether a slow candidate is overtaken by the next before its first content.
    pub hedge: bool,
    /// Most calls of providers for one request, before its first content.
    pub attempts: u32,
    /// Its clocks.
    pub timeouts: Timeouts,
}

/// Most calls for one request, unless the configuration says otherwise: who fails three times is answered.
const ATTEMPTS: u32 = 3;

impl Model {
    /// A model of which nothing else is said.
    pub fn new(name: &str, candidates: Vec<Candidate>, timeouts: Timeouts) -> Self {
        let (prefer, rescue) = (Prefer::default(), Rescue::default());
        Self { name: name.into(), candidates, prefer, rescue, hedge: false, attempts: ATTEMPTS, timeouts }
    }
}

/// Who of the candidates that are well is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// As they are listed.
    #[default]
    Order,
    /// The cheapest.
    Cost,
    /// The quickest to its first content.
    Latency,
}

impl Prefer {
    pub(crate) const NAMES: [(&'static str, Self); 3] =
        [("order", Self::Order), ("cost", Self::Cost), ("latency", Self::Latency)];

    /// The word that the configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Cost => "cost",
            Self::Latency => "latency",
        }
    }
}

/// What becomes of an answer that breaks off after the client saw some of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rescue {
    /// It is continued, by the same candidate or another, and marked.
    #[default]
    Continue,
    /// It ends in an error.
    Error,
}

impl Rescue {
    pub(crate) const NAMES: [(&'static str, Self); 2] =
        [("continue", Self::Continue), ("error", Self::Error)];
}

/// One model at one provider, written `provider/model`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The provider's name in this configuration.
    pub provider: String,
    /// The model's name at the provider. It may hold slashes.
    pub model: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// `[timeouts]`: the four clocks of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// From sending a streamed request to its first content. Keep-alives do not count.
    pub first_token: Duration,
    /// Between two pieces of content. Keep-alives do not count.
    pub idle: Duration,
    /// For the whole request, all attempts together.
    pub total: Duration,
}

impl Default for Timeouts {
    /// Healthy streams have gaps below 250 ms and keep-alives every 30 s at most, and models that think may take half
    /// a minute to begin; 10 minutes is how long OpenAI's own SDKs wait.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }
}

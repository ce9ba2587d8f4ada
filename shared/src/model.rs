//! Defines a model as clients request it: its candidates, their order, and its timeouts. Decides nothing.

use std::{fmt, time::Duration};

/// `[[model]]`: a model that clients can request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name in requests.
    pub name: String,
    /// The candidates in the operator's order, at least one.
    pub candidates: Vec<Candidate>,
    /// The order in which ready candidates are tried.
    pub prefer: Prefer,
    /// How an answer that breaks off after its first content ends.
    pub rescue: Rescue,
    /// Whether a second candidate is called while the first is slow to its first content.
    pub hedge: bool,
    /// The most calls of providers for one request, before its first content.
    pub attempts: u32,
    /// Its timeouts.
    pub timeouts: Timeouts,
}

/// The default of [`Model::attempts`]: after three failures the client gets the error.
const ATTEMPTS: u32 = 3;

impl Model {
    /// A model with defaults for everything else.
    pub fn new(name: &str, candidates: Vec<Candidate>, timeouts: Timeouts) -> Self {
        let (prefer, rescue) = (Prefer::default(), Rescue::default());
        Self { name: name.into(), candidates, prefer, rescue, hedge: false, attempts: ATTEMPTS, timeouts }
    }
}

/// The order in which ready candidates are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// The operator's order.
    #[default]
    Order,
    /// The cheapest first.
    Cost,
    /// The shortest time to the first content first.
    Latency,
}

impl Prefer {
    pub(crate) const NAMES: [(&'static str, Self); 3] =
        [("order", Self::Order), ("cost", Self::Cost), ("latency", Self::Latency)];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Cost => "cost",
            Self::Latency => "latency",
        }
    }
}

/// How an answer that breaks off after its first content ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rescue {
    /// The same candidate or another continues it; the answer is marked.
    #[default]
    Continue,
    /// It ends with an error.
    Error,
}

impl Rescue {
    pub(crate) const NAMES: [(&'static str, Self); 2] =
        [("continue", Self::Continue), ("error", Self::Error)];
}

/// A model at a provider, written `provider/model`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The provider's name in the configuration.
    pub provider: String,
    /// The model's name at the provider, which may hold slashes.
    pub model: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// `[timeouts]`: the four timeouts of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection is established.
    pub connect: Duration,
    /// From sending a streamed request to its first content. Keep-alives do not count.
    pub first_token: Duration,
    /// Between two pieces of content. Keep-alives do not count.
    pub idle: Duration,
    /// For the whole request, all attempts together.
    pub total: Duration,
}

impl Default for Timeouts {
    /// Healthy streams pause for less than 250 ms and send keep-alives at least every 30 s; models that think may take
    /// half a minute to their first content. OpenAI's SDKs wait 10 minutes in all.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }
}

//! Defines a model as clients request it: its candidates, their order, and its timeouts. Decides nothing.

use std::{collections::BTreeMap, fmt, time::Duration};

/// `[[model]]`: a model that clients can request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name in requests. With a `*` at its end it is a wildcard: it stands for all names with this prefix.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The candidates in the operator's order, at least one.
    pub candidates: Vec<Candidate>,
    /// The weights of candidates; 1 for those that are not here.
    pub weights: BTreeMap<Candidate, u32>,
    /// The order in which ready candidates are tried.
    pub prefer: Prefer,
    /// How an answer that breaks off after its first content ends.
    pub rescue: Rescue,
    /// Whether a second candidate is called while the first is slow to its first content.
    pub hedge: bool,
    /// The most calls of providers for one request, before its first content.
    pub attempts: u32,
    /// Longest pause before a candidate that has worked gets a second try ahead of the other candidates.
    pub patience: Duration,
    /// Whether the candidates may think before they answer; `None` if request and model decide.
    pub thinks: Option<bool>,
    /// Its timeouts.
    pub timeouts: Timeouts,
    /// What may be left out of a request for it.
    pub translation: Translation,
}

/// What may be left out of a request where a candidate can't take all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Whether hints may be left out.
    pub hints: Hints,
    /// Types of vendors' own tools that may be left out, without their dates: `web_search`.
    pub drop_tools: Vec<String>,
}

impl Translation {
    /// Whether a vendor's own tool of this type may be left out. The type may end with a date, as Anthropic's do.
    pub fn drops(&self, kind: &str) -> bool {
        let undated = kind.trim_end_matches(|char: char| char.is_ascii_digit()).trim_end_matches('_');
        self.drop_tools.iter().any(|name| name == kind || name == undated)
    }
}

/// What happens to a hint: a field without which an answer is still an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hints {
    /// It is left out where a candidate does not take it, and named in the answer's headers.
    #[default]
    Drop,
    /// A candidate that does not take it is not called.
    Refuse,
}

impl Hints {
    pub(crate) const NAMES: [(&'static str, Self); 2] = [("drop", Self::Drop), ("refuse", Self::Refuse)];
}

/// The default of [`Model::attempts`]: after three failures the client gets the error.
const ATTEMPTS: u32 = 3;

/// The default of [`Model::patience`]: a prompt that another provider has not cached costs more time and money.
const PATIENCE: Duration = Duration::from_secs(2);

impl Model {
    /// A model with defaults for everything else.
    pub fn new(name: &str, candidates: Vec<Candidate>, timeouts: Timeouts) -> Self {
        let (prefer, rescue) = (Prefer::default(), Rescue::default());
        Self {
            name: name.into(),
            aliases: Vec::new(),
            candidates,
            weights: BTreeMap::new(),
            prefer,
            rescue,
            hedge: false,
            attempts: ATTEMPTS,
            patience: PATIENCE,
            thinks: None,
            timeouts,
            translation: Translation::default(),
        }
    }

    /// What the names that a wildcard stands for begin with; `None` if it is no wildcard.
    pub fn prefix(&self) -> Option<&str> {
        self.name.strip_suffix(WILDCARD)
    }

    /// The share of the requests that a candidate gets with [`Prefer::Weight`], relative to the others.
    pub fn weight(&self, candidate: &Candidate) -> u32 {
        self.weights.get(candidate).copied().unwrap_or(1)
    }

    /// This wildcard's model for a client that requests `name`.
    pub(crate) fn of_wildcard(&self, name: &str) -> Self {
        let candidates = self.candidates.iter().map(|candidate| candidate.of(name)).collect();
        let weights = self.weights.iter().map(|(candidate, weight)| (candidate.of(name), *weight)).collect();
        Self { candidates, weights, ..self.clone() }
    }

    /// This model with one candidate only, under another name.
    pub(crate) fn of_candidate(&self, name: &str, candidate: Candidate) -> Self {
        Self { name: name.into(), candidates: vec![candidate], ..self.clone() }
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
    /// At random, each as often as its weight says.
    Weight,
}

impl Prefer {
    pub(crate) const NAMES: [(&'static str, Self); 4] =
        [("order", Self::Order), ("cost", Self::Cost), ("latency", Self::Latency), ("weight", Self::Weight)];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Cost => "cost",
            Self::Latency => "latency",
            Self::Weight => "weight",
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

/// Stands, at the end of a model's name, for any rest, and at the end of a candidate for the name that the client
/// requests.
pub(crate) const WILDCARD: char = '*';

impl Candidate {
    /// Whether its model is named by the client.
    pub fn is_wildcard(&self) -> bool {
        self.model.ends_with(WILDCARD)
    }

    /// The candidate for a client that requests `name`.
    pub(crate) fn of(&self, name: &str) -> Self {
        match self.model.strip_suffix(WILDCARD) {
            Some(prefix) => Self { provider: self.provider.clone(), model: format!("{prefix}{name}") },
            None => self.clone(),
        }
    }

    /// The name for which this wildcard candidate is `other`; `None` if it never is.
    pub(crate) fn matched<'a>(&self, other: &'a Self) -> Option<&'a str> {
        let prefix = self.model.strip_suffix(WILDCARD).filter(|_| self.provider == other.provider)?;
        other.model.strip_prefix(prefix).filter(|rest| !rest.is_empty())
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// `[timeouts]`: the timeouts of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection is established.
    pub connect: Duration,
    /// From sending a streamed request to its first content. Keep-alives do not count, unless the model may think.
    pub first_token: Duration,
    /// How long a model that may think can take to its next content, while at least keep-alives arrive within
    /// `first_token`, or within `idle` after the first content. An answer that is not streamed may take as long in all.
    pub thinking: Duration,
    /// Between two events of an answer. Keep-alives do not count, unless the model may think.
    pub idle: Duration,
    /// For the whole request, all attempts together.
    pub total: Duration,
}

impl Default for Timeouts {
    /// Healthy streams pause for less than 250 ms and send keep-alives at least every 30 s; models that think hidden may
    /// take minutes to their first content. OpenAI's SDKs wait 10 minutes in all.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(30),
            thinking: Duration::from_secs(300),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }
}

//! A schedule: what is asked of the agent again and again, and what became of each time.
//!
//! ```text
//! SCHEDULE_SET ─► FIRE_CLAIMED + TURN_OPENED ─► … ─► TURN_CLOSED      a fire that ran
//!            └──► FIRE_ENDED                                         one that did not, and why
//! ```
//! A schedule is kept in the log of the session that it runs in, so that the claim of a fire and the opening of its turn
//! are one append: whoever comes second sees both. The fire's id follows from the schedule and the time it was due, and is
//! the id of its turn, so that two nodes that can't see each other begin the same turn.

mod directory;
mod plan;
mod request;

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    pairs, to_json,
    turn::{TurnOutcome, Turns},
    unreadable,
};
use crate::{
    cron::{Rule, RuleError, Times},
    entry::{Cause, Draft, Entry, Hash, Kind, LogId, Place, derive},
    hex::{hex, unhex},
    log::FoldError,
    money::NanoUsd,
    time::Timestamp,
};
pub use directory::{Directory, Listing};
pub use plan::{Planned, plan};
pub use request::ScheduleRequest;

/// The owner of what the configuration schedules: no key can have this name.
pub const AGENT: &str = "@agent";

/// The longest that a fire is put off by chance.
pub const MAX_JITTER: Duration = Duration::from_secs(60 * 60);

/// The most runs in a day that can be allowed, one a minute; and what is allowed unless somebody says otherwise, one in
/// five minutes: a rule that was meant otherwise must not cost a fortune.
pub const MAX_RUNS: u64 = 24 * 60;
const RUNS: u64 = MAX_RUNS / 5;

/// Fires that are kept of each schedule: those that can count for the runs of a day.
const KEPT: usize = MAX_RUNS as usize;

/// Schedules of one log: each is looked at whenever the log is.
pub const MAX_IN_LOG: usize = 64;

/// Largest prompt, in bytes: it is written down again at every fire.
const MAX_PROMPT: usize = 32 * 1024;

/// Longest name, in characters.
const MAX_NAME: usize = 64;

/// The name of a schedule, as clients know it: it says in which log the schedule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScheduleId {
    /// The log.
    pub log: LogId,
    /// The schedule.
    pub schedule: Cause,
}

impl ScheduleId {
    const PREFIX: &str = "sched_";

    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (log, schedule) = text.strip_prefix(Self::PREFIX)?.split_at_checked(32)?;
        Some(Self { log: LogId::parse(log)?, schedule: unhex(schedule)?.try_into().ok()? })
    }

    /// The schedule of this name in the configuration.
    pub fn of_config(name: &str) -> Self {
        let log = LogId::derive("schedule", &[AGENT.as_bytes(), name.as_bytes()]);
        Self { log, schedule: derive("schedule", &[&log.0, name.as_bytes()]) }
    }

    /// The name of the fire that is due at `nominal`.
    pub fn fire(schedule: &Cause, nominal: Timestamp) -> Cause {
        derive("fire", &[schedule, &nominal.0.to_be_bytes()])
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", Self::PREFIX, self.log, hex(&self.schedule))
    }
}

/// What somebody wants to be asked, and when.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// What people call it.
    pub name: String,
    /// When.
    pub rule: Rule,
    /// The time zone of the rule, by its IANA name.
    pub zone: String,
    /// What is asked.
    pub prompt: String,
    /// Who is asked; `None` for the agent's own model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What becomes of fires that could not begin in time.
    pub missed: MissedPolicy,
    /// The most by which a fire is put off, in milliseconds.
    #[serde(default)]
    pub jitter: u64,
    /// Most runs in 24 hours.
    pub max_runs_per_day: u64,
    /// What its runs may have cost in 24 hours for another to begin, in billionths of a dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_usd_per_day: Option<u64>,
}

/// What becomes of fires that could not begin in time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedPolicy {
    /// They are left out.
    Skip,
    /// One run stands for all of them.
    #[default]
    Once,
    /// Each is run, as far as they are not too many.
    All,
}

impl MissedPolicy {
    /// The words for it.
    pub const NAMES: [(&'static str, Self); 3] =
        [("skip", Self::Skip), ("once", Self::Once), ("all", Self::All)];

    /// The word for it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, missed)| *missed == self).map_or("", |(name, _)| name)
    }
}

impl Terms {
    /// Terms of which nothing else is said.
    pub fn new(name: &str, rule: Rule, prompt: &str) -> Self {
        Self {
            name: name.into(),
            rule,
            zone: "UTC".into(),
            prompt: prompt.into(),
            model: None,
            missed: MissedPolicy::default(),
            jitter: 0,
            max_runs_per_day: RUNS,
            max_usd_per_day: None,
        }
    }

    /// Whether they can be kept, as far as they say themselves. The configuration knows the rest: `Config::check_terms`.
    pub fn check(&self) -> Result<(), RuleError> {
        let wrong = |field, why: String| Err(RuleError::new(field, why));
        let length = self.name.chars().count();
        if !(1..=MAX_NAME).contains(&length) || self.name.chars().any(char::is_control) {
            return wrong("name", format!("{length} characters; allowed: 1 to {MAX_NAME} visible ones"));
        }
        if !(1..=MAX_PROMPT).contains(&self.prompt.len()) {
            return wrong("prompt", format!("{} bytes; allowed: 1 to {MAX_PROMPT}", self.prompt.len()));
        }
        self.rule.check(&self.zone)?;
        if self.jitter > MAX_JITTER.as_millis() as u64 {
            return wrong("jitter", format!("{} s; allowed: at most \"1h\"", self.jitter / 1000));
        }
        if !(1..=MAX_RUNS).contains(&self.max_runs_per_day) {
            return wrong("max_runs_per_day", format!("{}; allowed: 1 to {MAX_RUNS}", self.max_runs_per_day));
        }
        Ok(())
    }

    /// By which they are known again.
    pub fn digest(&self) -> Hash {
        Hash::of(&to_json(self))
    }
}

/// Who wanted a schedule.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleSource {
    /// The operator, in the configuration.
    Config,
    /// A caller.
    Api,
    /// The agent itself, in a turn.
    Agent,
}

impl ScheduleSource {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Api => "api",
            Self::Agent => "agent",
        }
    }
}

/// All that a schedule is: the body of a [`Kind::SCHEDULE_SET`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ScheduleDefinition {
    /// Whose it is; nobody else sees it.
    pub owner: String,
    /// Who wanted it.
    pub source: ScheduleSource,
    /// Whether it rests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Since when it is due, in milliseconds since the Unix epoch: nothing of before is made up for.
    pub since: u64,
    /// What is asked, and when.
    pub terms: Terms,
}

impl ScheduleDefinition {
    /// The entry that sets the schedule of this name.
    pub fn draft(&self, schedule: Cause) -> Draft {
        Draft { kind: Kind::SCHEDULE_SET, cause: schedule, body: to_json(self) }
    }

    /// When its next fire after the one at `after` is to begin, chance included; `None` if never, or while it rests.
    pub fn due_after(&self, schedule: &Cause, after: Timestamp) -> Option<Timestamp> {
        let nominal = self.times().filter(|_| !self.paused)?.next(after.max(Timestamp(self.since)))?;
        Some(self.begins(schedule, nominal))
    }

    fn times(&self) -> Option<Times> {
        self.terms.rule.times(&self.terms.zone, Timestamp(self.since)).ok()
    }

    /// When the fire that is due at `nominal` is to begin. Each fire has its own delay, the same on every node.
    fn begins(&self, schedule: &Cause, nominal: Timestamp) -> Timestamp {
        let [a, b, c, d, e, f, g, h, ..] = derive("jitter", &[&ScheduleId::fire(schedule, nominal)]);
        let chance = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        nominal + Duration::from_millis(chance % self.terms.jitter.saturating_add(1))
    }
}

/// The entry that ends a schedule.
pub fn draft_removed(schedule: Cause) -> Draft {
    Draft { kind: Kind::SCHEDULE_REMOVED, cause: schedule, body: bytes::Bytes::new() }
}

/// The body of a [`Kind::FIRE_CLAIMED`] or [`Kind::FIRE_ENDED`] entry.
#[derive(Deserialize, Serialize)]
struct FireClaimed {
    schedule: String,
    nominal: u64,
    /// Somebody asked for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    manual: bool,
    /// Why it never became a turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The entry that claims a fire, to be written together with its turn.
pub fn draft_claimed(schedule: &Cause, fire: Cause, nominal: Timestamp, manual: bool) -> Draft {
    let body = FireClaimed { schedule: hex(schedule), nominal: nominal.0, manual, reason: None };
    Draft { kind: Kind::FIRE_CLAIMED, cause: fire, body: to_json(&body) }
}

/// The entry that says why a fire never became a turn.
pub fn draft_skipped(
    schedule: &Cause,
    fire: Cause,
    nominal: Timestamp,
    manual: bool,
    reason: String,
) -> Draft {
    let body = FireClaimed { schedule: hex(schedule), nominal: nominal.0, manual, reason: Some(reason) };
    Draft { kind: Kind::FIRE_ENDED, cause: fire, body: to_json(&body) }
}

/// One time that a schedule was due.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Fire {
    /// Its name, and that of its turn.
    pub id: Cause,
    /// When it was due.
    pub nominal: Timestamp,
    /// When it was claimed, or left out.
    pub at: Timestamp,
    /// Why it never became a turn; `None` if it did.
    pub skipped: Option<String>,
    place: Place,
}

/// How a fire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FireStatus {
    /// Its turn goes on.
    Running,
    /// Its turn has said all it could.
    Completed,
    /// Its turn broke off.
    Failed,
    /// It never became a turn.
    Skipped,
}

impl FireStatus {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl Fire {
    /// How it is, and since when it is over.
    pub fn status(&self, turns: &Turns) -> (FireStatus, Option<Timestamp>) {
        if self.skipped.is_some() {
            return (FireStatus::Skipped, Some(self.at));
        }
        let turn = turns.find(&self.id);
        match turn.and_then(|turn| Some((turn.outcome?, turn.moved_at))) {
            None => (FireStatus::Running, None),
            Some((TurnOutcome::Completed | TurnOutcome::Incomplete, at)) => (FireStatus::Completed, Some(at)),
            Some((TurnOutcome::Failed | TurnOutcome::Cancelled, at)) => (FireStatus::Failed, Some(at)),
        }
    }
}

/// A schedule as its log has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Schedule {
    id: Cause,
    /// The first and the newest definition.
    first: Option<Place>,
    set: Option<(Place, ScheduleDefinition)>,
    removed: Option<Place>,
    /// The newest fires, by the time they were due.
    #[serde(with = "pairs")]
    fires: BTreeMap<(Timestamp, Cause), Fire>,
    /// Up to which time all that was due by its rule has been dealt with.
    dealt: Timestamp,
}

impl Schedule {
    fn new(id: Cause) -> Self {
        let (first, set, removed, fires) = (None, None, None, BTreeMap::new());
        Self { id, first, set, removed, fires, dealt: Timestamp::default() }
    }

    /// Its name in its log.
    pub fn id(&self) -> &Cause {
        &self.id
    }

    /// What it is; `None` if it was removed.
    pub fn definition(&self) -> Option<&ScheduleDefinition> {
        let (place, definition) = self.set.as_ref()?;
        self.removed.as_ref().is_none_or(|removed| removed < place).then_some(definition)
    }

    /// When it was first set.
    pub fn created_at(&self) -> Timestamp {
        self.first.as_ref().map_or_else(Timestamp::default, |(hlc, ..)| hlc.timestamp())
    }

    /// When its next fire is to begin.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.definition()?.due_after(&self.id, self.dealt)
    }

    /// Its newest fires, the newest first.
    pub fn fires(&self) -> impl Iterator<Item = &Fire> {
        self.fires.values().rev()
    }

    fn add(&mut self, fire: Fire, manual: bool) {
        if !manual {
            self.dealt = self.dealt.max(fire.nominal);
        }
        let key = (fire.nominal, fire.id);
        // A fire that ran somewhere has run; else the first word counts.
        let rank = |fire: &Fire| (fire.skipped.is_some(), fire.place.clone());
        let known = self.fires.get(&key).is_some_and(|known| rank(known) <= rank(&fire));
        if !known {
            self.fires.insert(key, fire);
        }
        while self.fires.len() > KEPT {
            // Those that ran count for the guard, so that refusals must not push them out.
            let skipped = self.fires.iter().find(|(_, fire)| fire.skipped.is_some());
            match skipped.map(|(key, _)| *key) {
                Some(key) => drop(self.fires.remove(&key)),
                None => drop(self.fires.pop_first()),
            }
        }
    }
}

/// All schedules of a log.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Schedules(#[serde(with = "pairs")] BTreeMap<Cause, Schedule>);

impl Schedules {
    /// The schedule of this name, if there ever was one.
    pub fn find(&self, id: &Cause) -> Option<&Schedule> {
        self.0.get(id).filter(|schedule| schedule.set.is_some())
    }

    /// Those that were not removed.
    pub fn live(&self) -> impl Iterator<Item = (&Schedule, &ScheduleDefinition)> {
        self.0.values().filter_map(|schedule| Some((schedule, schedule.definition()?)))
    }

    /// The one that the configuration wants, or wanted.
    pub fn configured(&self) -> Option<&Schedule> {
        self.0.values().find(|schedule| {
            schedule.set.as_ref().is_some_and(|(_, set)| set.source == ScheduleSource::Config)
        })
    }

    /// When the first fire of any of them but `other` is to begin.
    pub fn due_at(&self, other: Option<&Cause>) -> Option<Timestamp> {
        let these = self.0.values().filter(|schedule| Some(&schedule.id) != other);
        these.filter_map(Schedule::due_at).min()
    }

    /// How much memory they take, in items of a conversation.
    pub(super) fn weight(&self) -> usize {
        self.0.values().map(|schedule| 1 + schedule.fires.len()).sum()
    }

    /// Takes one more entry in.
    pub(super) fn apply(&mut self, entry: &Entry, place: Place) -> Result<(), FoldError> {
        let header = entry.header();
        match header.kind {
            Kind::SCHEDULE_SET => {
                let definition: ScheduleDefinition = read(entry)?;
                let schedule = self.of(header.cause);
                schedule.first =
                    Some(schedule.first.take().map_or(place.clone(), |first| first.min(place.clone())));
                if schedule.set.as_ref().is_none_or(|(last, _)| *last < place) {
                    schedule.set = Some((place, definition));
                }
            }
            Kind::SCHEDULE_REMOVED => {
                let schedule = self.of(header.cause);
                schedule.removed = schedule.removed.take().max(Some(place));
            }
            Kind::FIRE_CLAIMED | Kind::FIRE_ENDED => {
                let body: FireClaimed = read(entry)?;
                let id = unhex(&body.schedule).and_then(|id| id.try_into().ok());
                if let Some(id) = id {
                    let (nominal, at) = (Timestamp(body.nominal), header.hlc.timestamp());
                    let fire = Fire { id: header.cause, nominal, at, skipped: body.reason, place };
                    self.of(id).add(fire, body.manual);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn of(&mut self, id: Cause) -> &mut Schedule {
        self.0.entry(id).or_insert_with(|| Schedule::new(id))
    }
}

/// What a schedule's runs of the last day have cost, as far as they have ended. What nobody knows the price of cost too
/// much.
pub fn spent<'a>(turns: &Turns, fires: impl Iterator<Item = &'a Fire>) -> NanoUsd {
    fires
        .filter_map(|fire| turns.find(&fire.id))
        .map(|turn| turn.cost)
        .fold(NanoUsd(0), NanoUsd::saturating_add)
}

fn read<'a, T: Deserialize<'a>>(entry: &'a Entry) -> Result<T, FoldError> {
    serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))
}

#[cfg(test)]
mod tests;

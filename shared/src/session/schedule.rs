//! Folds the schedules of a log: their definitions, and the fires that ran or were skipped. What is due is planned in
//! `plan.rs`; the agent runs it.
//!
//! ```text
//! SCHEDULE_SET ─► FIRE_CLAIMED + TURN_OPENED ─► … ─► TURN_CLOSED      a fire that ran
//!            └──► FIRE_ENDED                                         a fire that was skipped, and why
//! ```
//! A schedule is stored in the log of the session that it runs in, so that the claim of a fire and the opening of its
//! turn are one append: a second node sees both or neither. The fire's id follows from the schedule and the time it was
//! due, and is the id of its turn, so that two nodes that can't see each other start the same turn.

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

/// The owner of the configuration's schedules: no key can have this name.
pub const AGENT: &str = "@agent";

/// Largest jitter: the random delay of a fire.
pub const MAX_JITTER: Duration = Duration::from_secs(60 * 60);

/// Largest value of `max_runs_per_day`: one run a minute.
pub const MAX_RUNS_PER_DAY: u64 = 24 * 60;

/// Default of `max_runs_per_day`, one run in five minutes: a mistaken rule must not cost a fortune.
const DEFAULT_RUNS: u64 = MAX_RUNS_PER_DAY / 5;

/// Fires that are kept of each schedule: as many as can count towards the runs of a day.
const MAX_FIRES_KEPT: usize = MAX_RUNS_PER_DAY as usize;

/// Most schedules of one log: each is checked on every wake of the log.
pub const MAX_SCHEDULES_PER_LOG: usize = 64;

/// Largest prompt, in bytes: every fire writes it into the log again.
const MAX_PROMPT: usize = 32 * 1024;

/// Longest name, in characters.
const MAX_NAME: usize = 64;

/// The id of a schedule as clients see it. It includes the log, so that the schedule is found without an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScheduleId {
    /// The log.
    pub log: LogId,
    /// The schedule.
    pub schedule: Cause,
}

impl ScheduleId {
    const PREFIX: &str = "sched_";

    /// Parses the output of `Display`; no other spelling is accepted.
    pub fn parse(text: &str) -> Option<Self> {
        let (log, schedule) = text.strip_prefix(Self::PREFIX)?.split_at_checked(32)?;
        Some(Self { log: LogId::parse(log)?, schedule: unhex(schedule)?.try_into().ok()? })
    }

    /// The id of the configuration's schedule `name`.
    pub fn of_config(name: &str) -> Self {
        let log = LogId::derive("schedule", &[AGENT.as_bytes(), name.as_bytes()]);
        Self { log, schedule: derive("schedule", &[&log.0, name.as_bytes()]) }
    }

    /// The id of the fire that is due at `nominal`, and of its turn.
    pub fn fire(schedule: &Cause, nominal: Timestamp) -> Cause {
        derive("fire", &[schedule, &nominal.0.to_be_bytes()])
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", Self::PREFIX, self.log, hex(&self.schedule))
    }
}

/// The terms of a schedule: when it fires, what it asks the model, and its limits.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// Its name, for people.
    pub name: String,
    /// The times when it is due.
    pub rule: Rule,
    /// The time zone of the rule, by its IANA name.
    pub zone: String,
    /// The message to the model.
    pub prompt: String,
    /// The requested model; `None` for the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What to do with fires that did not start in time.
    pub missed: MissedPolicy,
    /// Largest random delay of a fire, in milliseconds.
    #[serde(default)]
    pub jitter: u64,
    /// Most runs in 24 hours.
    pub max_runs_per_day: u64,
    /// A fire is skipped if the runs of the last 24 hours have cost this much, in billionths of a dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_usd_per_day: Option<u64>,
}

/// What to do with fires that did not start in time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedPolicy {
    /// They are skipped.
    Skip,
    /// One run stands for all of them.
    #[default]
    Once,
    /// Each is run, but only the newest ones if there are many.
    All,
}

impl MissedPolicy {
    /// The names in the API and the configuration.
    pub const NAMES: [(&'static str, Self); 3] =
        [("skip", Self::Skip), ("once", Self::Once), ("all", Self::All)];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, missed)| *missed == self).map_or("", |(name, _)| name)
    }
}

impl Terms {
    /// Terms with defaults for all other fields.
    pub fn new(name: &str, rule: Rule, prompt: &str) -> Self {
        Self {
            name: name.into(),
            rule,
            zone: "UTC".into(),
            prompt: prompt.into(),
            model: None,
            missed: MissedPolicy::default(),
            jitter: 0,
            max_runs_per_day: DEFAULT_RUNS,
            max_usd_per_day: None,
        }
    }

    /// Checks what the terms alone can show; `Config::check_terms` checks the rest.
    ///
    /// # Errors
    /// Names the invalid field and what is allowed.
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
        if !(1..=MAX_RUNS_PER_DAY).contains(&self.max_runs_per_day) {
            return wrong(
                "max_runs_per_day",
                format!("{}; allowed: 1 to {MAX_RUNS_PER_DAY}", self.max_runs_per_day),
            );
        }
        Ok(())
    }

    /// Their digest: equal terms have equal digests.
    pub fn digest(&self) -> Hash {
        Hash::of(&to_json(self))
    }
}

/// The source of a schedule: what set it.
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
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Api => "api",
            Self::Agent => "agent",
        }
    }
}

/// The definition of a schedule: the body of a [`Kind::SCHEDULE_SET`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ScheduleDefinition {
    /// The caller that it belongs to; it is invisible to every other caller.
    pub owner: String,
    /// What set it.
    pub source: ScheduleSource,
    /// Whether it is paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Times before this are never due, in milliseconds since the Unix epoch.
    pub since: u64,
    /// When it fires, and what it asks.
    pub terms: Terms,
}

impl ScheduleDefinition {
    /// The entry that sets the schedule with this id.
    pub fn draft(&self, schedule: Cause) -> Draft {
        Draft { kind: Kind::SCHEDULE_SET, cause: schedule, body: to_json(self) }
    }

    /// When its next fire after the one due at `after` starts, jitter included; `None` if never, or while it is paused.
    pub fn due_after(&self, schedule: &Cause, after: Timestamp) -> Option<Timestamp> {
        let nominal = self.times().filter(|_| !self.paused)?.next(after.max(Timestamp(self.since)))?;
        Some(self.begins(schedule, nominal))
    }

    fn times(&self) -> Option<Times> {
        self.terms.rule.times(&self.terms.zone, Timestamp(self.since)).ok()
    }

    /// When the fire that is due at `nominal` starts. Each fire has its own delay, the same on every node.
    fn begins(&self, schedule: &Cause, nominal: Timestamp) -> Timestamp {
        let [a, b, c, d, e, f, g, h, ..] = derive("jitter", &[&ScheduleId::fire(schedule, nominal)]);
        let digest = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        nominal + Duration::from_millis(digest % self.terms.jitter.saturating_add(1))
    }
}

/// The entry that removes a schedule.
pub fn draft_removed(schedule: Cause) -> Draft {
    Draft { kind: Kind::SCHEDULE_REMOVED, cause: schedule, body: bytes::Bytes::new() }
}

/// The body of a [`Kind::FIRE_CLAIMED`] or [`Kind::FIRE_ENDED`] entry.
#[derive(Deserialize, Serialize)]
struct FireClaimed {
    schedule: String,
    nominal: u64,
    /// Whether a client triggered it, outside of the rule.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    manual: bool,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The entry that claims a fire, appended together with the opening of its turn.
pub fn draft_claimed(schedule: &Cause, fire: Cause, nominal: Timestamp, manual: bool) -> Draft {
    let body = FireClaimed { schedule: hex(schedule), nominal: nominal.0, manual, reason: None };
    Draft { kind: Kind::FIRE_CLAIMED, cause: fire, body: to_json(&body) }
}

/// The entry that skips a fire, with the reason.
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
    /// Its id, and that of its turn.
    pub id: Cause,
    /// When it was due.
    pub nominal: Timestamp,
    /// When it was claimed or skipped.
    pub at: Timestamp,
    /// Why it was skipped; `None` if it ran.
    pub skipped: Option<String>,
    place: Place,
}

/// The status of a fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FireStatus {
    /// Its turn is open.
    Running,
    /// Its turn completed, or hit a limit of its answer.
    Completed,
    /// Its turn failed or was cancelled.
    Failed,
    /// It was skipped.
    Skipped,
}

impl FireStatus {
    /// Its name in the API.
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
    /// Its status, and when it ended.
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

/// A schedule with its definition and its newest fires.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Schedule {
    id: Cause,
    /// Where it was first set.
    first: Option<Place>,
    /// The newest definition, and where it was set.
    set: Option<(Place, ScheduleDefinition)>,
    removed: Option<Place>,
    /// The newest fires, by the time they were due.
    #[serde(with = "pairs")]
    fires: BTreeMap<(Timestamp, Cause), Fire>,
    /// The newest time due by its rule that was claimed or skipped; so were all before it.
    dealt: Timestamp,
}

impl Schedule {
    fn new(id: Cause) -> Self {
        let (first, set, removed, fires) = (None, None, None, BTreeMap::new());
        Self { id, first, set, removed, fires, dealt: Timestamp::default() }
    }

    /// Its id within its log.
    pub fn id(&self) -> &Cause {
        &self.id
    }

    /// Its newest definition; `None` if it was removed since.
    pub fn definition(&self) -> Option<&ScheduleDefinition> {
        let (place, definition) = self.set.as_ref()?;
        self.removed.as_ref().is_none_or(|removed| removed < place).then_some(definition)
    }

    /// When it was first set.
    pub fn created_at(&self) -> Timestamp {
        self.first.as_ref().map_or_else(Timestamp::default, |(hlc, ..)| hlc.timestamp())
    }

    /// When its next fire starts.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.definition()?.due_after(&self.id, self.dealt)
    }

    /// Its newest fires, newest first.
    pub fn fires(&self) -> impl Iterator<Item = &Fire> {
        self.fires.values().rev()
    }

    fn add(&mut self, fire: Fire, manual: bool) {
        if !manual {
            self.dealt = self.dealt.max(fire.nominal);
        }
        let key = (fire.nominal, fire.id);
        // A fire that ran on any node has run; else the first reason counts.
        let rank = |fire: &Fire| (fire.skipped.is_some(), fire.place.clone());
        let is_outranked = self.fires.get(&key).is_some_and(|known| rank(known) <= rank(&fire));
        if !is_outranked {
            self.fires.insert(key, fire);
        }
        while self.fires.len() > MAX_FIRES_KEPT {
            // Fires that ran count towards the daily limits, so skipped ones must not displace them.
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
    /// The schedule with this id, also if it was removed; `None` if it was never set.
    pub fn find(&self, id: &Cause) -> Option<&Schedule> {
        self.0.get(id).filter(|schedule| schedule.set.is_some())
    }

    /// The schedules that were not removed.
    pub fn live(&self) -> impl Iterator<Item = (&Schedule, &ScheduleDefinition)> {
        self.0.values().filter_map(|schedule| Some((schedule, schedule.definition()?)))
    }

    /// The schedule of the log that the configuration set, also if it was removed.
    pub fn configured(&self) -> Option<&Schedule> {
        self.0.values().find(|schedule| {
            schedule.set.as_ref().is_some_and(|(_, set)| set.source == ScheduleSource::Config)
        })
    }

    /// When the next fire of any schedule but `excluded` starts.
    pub fn due_at(&self, excluded: Option<&Cause>) -> Option<Timestamp> {
        let schedules = self.0.values().filter(|schedule| Some(&schedule.id) != excluded);
        schedules.filter_map(Schedule::due_at).min()
    }

    /// An estimate of their memory, in units of one item of a conversation.
    pub(super) fn weight(&self) -> usize {
        self.0.values().map(|schedule| 1 + schedule.fires.len()).sum()
    }

    /// Applies an entry about a schedule; entries of other kinds change nothing.
    pub(super) fn apply(&mut self, entry: &Entry, place: Place) -> Result<(), FoldError> {
        let header = entry.header();
        match header.kind {
            Kind::SCHEDULE_SET => {
                let definition: ScheduleDefinition = read(entry)?;
                let schedule = self.entry_mut(header.cause);
                schedule.first =
                    Some(schedule.first.take().map_or(place.clone(), |first| first.min(place.clone())));
                if schedule.set.as_ref().is_none_or(|(last, _)| *last < place) {
                    schedule.set = Some((place, definition));
                }
            }
            Kind::SCHEDULE_REMOVED => {
                let schedule = self.entry_mut(header.cause);
                schedule.removed = schedule.removed.take().max(Some(place));
            }
            Kind::FIRE_CLAIMED | Kind::FIRE_ENDED => {
                let body: FireClaimed = read(entry)?;
                let id = unhex(&body.schedule).and_then(|id| id.try_into().ok());
                if let Some(id) = id {
                    let (nominal, at) = (Timestamp(body.nominal), header.hlc.timestamp());
                    let fire = Fire { id: header.cause, nominal, at, skipped: body.reason, place };
                    self.entry_mut(id).add(fire, body.manual);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn entry_mut(&mut self, id: Cause) -> &mut Schedule {
        self.0.entry(id).or_insert_with(|| Schedule::new(id))
    }
}

/// What the runs of these fires have cost so far; `u64::MAX` if any price is unknown.
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

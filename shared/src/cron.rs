//! When something is due again and again. Pure: what time it is now is an argument.
//!
//! The dialect of cron expressions, the same on every platform whatever its own trigger understands:
//!
//! ```text
//! ┌─ minute        0-59
//! │ ┌─ hour        0-23
//! │ │ ┌─ day       1-31, L (the last), 15W (the weekday nearest to the 15th), LW (the last weekday)
//! │ │ │ ┌─ month   1-12, JAN-DEC
//! │ │ │ │ ┌─ weekday  0-7 (0 and 7 are Sunday), SUN-SAT, MON#2 (the second), 5L (the last Friday)
//! 0 7 * * MON-FRI
//! ```
//! `*` is every value, `a-b` a range, `a,b` a list, `*/n` and `a-b/n` each n-th. Where both day and weekday are set, one of
//! them is enough. There are no seconds and no names such as `@daily`.
//!
//! The expression is read on the wall clock of a time zone. If its hour and its minute are one number each, it is due once
//! a day whatever the clock does: a time that daylight saving skips is due at the first moment after the gap, and one that
//! comes twice is due the first time. Any other expression follows the clock: what is skipped is not due, and an hour that
//! comes twice is due twice.

use std::{fmt, time::Duration};

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// When something is due.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// As a cron expression says.
    Cron(String),
    /// Once, at this time in milliseconds since the Unix epoch.
    At(u64),
    /// Again after so many milliseconds, counted from the time at which it was set.
    Every(u64),
}

/// Why a rule can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for '{field}': {why}")]
pub struct RuleError {
    /// The field that is to blame.
    pub field: &'static str,
    /// What it is, and what is allowed.
    pub why: String,
}

impl RuleError {
    /// The field, what it is and what is allowed.
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

/// The shortest interval: the hosts' triggers come once a minute.
pub const SHORTEST: Duration = Duration::from_secs(60);

/// The longest interval: a year.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Longest expression: all values of all fields as lists are shorter.
const MAX_CRON: usize = 512;

/// A rule that is read, in its time zone.
pub struct Times(TimesKind);

enum TimesKind {
    Cron(Box<Cron>, TimeZone),
    At(Timestamp),
    Every(u64, Timestamp),
}

impl Rule {
    /// Reads the rule. `since` is when it was set: nothing is due before, and intervals are counted from there.
    pub fn times(&self, zone: &str, since: Timestamp) -> Result<Times, RuleError> {
        let zone = time_zone(zone)?;
        Ok(Times(match self {
            Self::Cron(text) => TimesKind::Cron(Box::new(cron(text)?), zone),
            Self::At(at) => TimesKind::At(Timestamp(*at)),
            Self::Every(millis) => TimesKind::Every(every(*millis)?, since),
        }))
    }

    /// Whether the rule can be followed, and is ever due.
    pub fn check(&self, zone: &str) -> Result<(), RuleError> {
        let times = self.times(zone, Timestamp::default())?;
        if let Self::At(at) = self
            && *at > LAST
        {
            let why = format!("{} s; allowed: until the end of the year 9999", at / 1000);
            return Err(RuleError::new("at", why));
        }
        // The calendar repeats itself, so what is due at all is due after any moment.
        if let (Self::Cron(text), None) = (self, times.next(Timestamp(SOME_DAY))) {
            let why = format!("{text:?} is never due: no such day exists; allowed: one that comes");
            return Err(RuleError::new("cron", why));
        }
        Ok(())
    }

    /// Reads a moment: RFC 3339 with an offset, or without one on the wall clock of `zone`.
    pub fn at(text: &str, zone: &str) -> Result<Self, RuleError> {
        let zone = time_zone(zone)?;
        let moment = text.parse::<jiff::Timestamp>().or_else(|_| {
            let local: jiff::civil::DateTime = text.parse()?;
            Ok::<_, jiff::Error>(local.to_zoned(zone)?.timestamp())
        });
        let millis = moment.ok().and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
        millis.map(Self::At).ok_or_else(|| {
            let text: String = text.chars().take(100).collect();
            let why = format!("{text:?}; allowed: a moment such as \"2027-01-31T07:00:00+01:00\"");
            RuleError::new("at", why)
        })
    }

    /// Reads an interval.
    pub fn every(text: &str) -> Result<Self, RuleError> {
        let millis = duration(text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let millis = millis.ok_or_else(|| not_an_interval(text))?;
        every(millis).map(Self::Every)
    }
}

/// The last moment that RFC 3339 can write, in milliseconds: hosts' timers take none that is much later.
const LAST: u64 = 253_402_300_799_999;

/// 1 January 2000.
const SOME_DAY: u64 = 946_684_800_000;

impl Times {
    /// The first moment after `after` at which it is due.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            TimesKind::Cron(cron, zone) => {
                let after = jiff::Timestamp::from_millisecond(i64::try_from(after.0).ok()?).ok()?;
                // Seconds are all that an expression knows, so a part of one belongs to the second that has begun.
                let next = cron.find_next_occurrence(&after.to_zoned(zone.clone()), false).ok()?;
                u64::try_from(next.timestamp().as_second()).ok()?.checked_mul(1000).map(Timestamp)
            }
            TimesKind::At(at) => Some(*at).filter(|at| *at > after),
            TimesKind::Every(millis, since) => {
                let done = after.0.saturating_sub(since.0) / millis;
                since.0.checked_add(done.checked_add(1)?.checked_mul(*millis)?).map(Timestamp)
            }
        }
    }
}

/// Reads a time such as `"90s"`, `"15m"`, `"2h"` or `"1d"`.
pub fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(*seconds).map(Duration::from_secs)
}

/// Writes what [`duration`] reads.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let whole = |(_, unit): &&(&str, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().rev().find(whole).unwrap_or(&("s", 1));
    format!("{}{name}", seconds / unit)
}

const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 60 * 60), ("d", 24 * 60 * 60)];

fn every(millis: u64) -> Result<u64, RuleError> {
    let duration = Duration::from_millis(millis);
    let fits = (SHORTEST..=LONGEST).contains(&duration);
    if fits { Ok(millis) } else { Err(not_an_interval(&duration_text(duration))) }
}

fn not_an_interval(text: &str) -> RuleError {
    let text: String = text.chars().take(100).collect();
    RuleError::new("every", format!("{text:?}; allowed: \"60s\" to \"366d\" in s, m, h or d"))
}

fn time_zone(name: &str) -> Result<TimeZone, RuleError> {
    TimeZone::get(name).map_err(|_| {
        let name: String = name.chars().take(100).collect();
        RuleError::new(
            "time_zone",
            format!("{name:?}; allowed: an IANA name such as \"Europe/Berlin\", or \"UTC\""),
        )
    })
}

/// What each field is called, and what stands in it.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day", "1-31, L, 15W, LW"),
    ("month", "1-12, JAN-DEC"),
    ("weekday", "0-7 (0 and 7 are Sunday), SUN-SAT, MON#2, 5L"),
];

fn cron(text: &str) -> Result<Cron, RuleError> {
    let shown: String = text.chars().take(100).collect();
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() || text.len() > MAX_CRON {
        let why =
            format!("{shown:?} has {} fields; allowed: five: minute hour day month weekday", fields.len());
        return Err(RuleError::new("cron", why));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    for ((at, field), (name, allowed)) in fields.iter().enumerate().zip(FIELDS) {
        let alone: Vec<&str> =
            (0..FIELDS.len()).map(|other| if other == at { *field } else { "*" }).collect();
        // The parser's own addition, by which a weekday restricts a day.
        let extended = field.contains(['+', '@']);
        if extended || parser.parse(&alone.join(" ")).is_err() {
            let why = format!("{field:?} is no {name} in {shown:?}; allowed: {allowed}, with * , - /");
            return Err(RuleError::new("cron", why));
        }
    }
    parser.parse(text).map_err(|error| RuleError::new("cron", format!("{shown:?}: {error}")))
}

impl fmt::Debug for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            TimesKind::Cron(cron, zone) => write!(f, "{} in {zone:?}", cron.pattern),
            TimesKind::At(at) => write!(f, "at {at}"),
            TimesKind::Every(millis, since) => write!(f, "every {millis} ms since {since}"),
        }
    }
}

#[cfg(test)]
mod tests;
